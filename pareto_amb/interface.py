"""What a Python program calls: `import pareto_amb` offers these functions.

Each returns an object that shows itself in a notebook. Nothing is printed unless asked for.
"""

import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pareto_amb.config import SearchConfig, check_minutes
from pareto_amb.config_file import apply_changes
from pareto_amb.data.image_set import ImageSet
from pareto_amb.data.stream import ImageSource
from pareto_amb.declared import Declared, Objective
from pareto_amb.diffusion.methods import METHODS, Method
from pareto_amb.errors import UserError
from pareto_amb.evaluation.image_sets import evaluate_image_sets as evaluate
from pareto_amb.results.recommendation_file import RecommendationFile, build_recommendation
from pareto_amb.results.run import Run
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.scanning import Scan, scan_images, source_of
from pareto_amb.search_spaces import load as load_space
from pareto_amb.search_spaces import titled, with_recipe
from pareto_amb.signals import continued_by
from pareto_amb.sweep_file import declare, parse_sweep

__all__ = ["evaluate", "load_run", "recommend", "scan", "sweep"]


_MAY_CHANGE = {"search.trials", "resources.gpus_per_trial"}
"""Keys that a resumed run may change, as on the command line."""


def load_run(path: str | Path, trust: bool = False) -> Run:
    """Read a run directory: its configuration, its results, what they recommend.

    Nothing but its files is read; the code of its own methods is not needed. A run that is to `trust` has the
    pictures in the storage that its sweep file names too. UserError names a file that is missing or cannot be
    used.
    """
    return Run.read(Path(path), trust)


def sweep(
    space: str | Path | Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    *,
    recipe: str | None = None,
    changes: Mapping[str, Any] | None = None,
    methods: Sequence[type[Method]] = (),
    objectives: Sequence[Objective] = (),
    resume: str | Path | None = None,
    address: str | None = None,
    minutes: float | None = None,
    trust_run: bool = False,
    retry_failed: bool = False,
    verbose: bool = False,
) -> Run:
    """Search for the noise level above which a model should see noisy images only; see `pareto-amb sweep`.

    `space` is the name of a search space that ships, a sweep file, or its content; `recipe` names one of its
    recipes, where it has some, and `changes` sets keys of it, such as {"search.trials": 8}. `output` is the
    run directory, by default runs/NAME-TIME; `resume` one to go on with. A program's own `methods` compete
    beside those that the space names, and its own `objectives` join FID and memorization. `address` names a
    running Ray cluster; after `minutes` trials stop, to be resumed. Of a run to resume, `trust_run` lets this
    process call the servers that its files name, and `retry_failed` tries its failed trials again. With
    `verbose`, progress is printed.

    Raises UserError where something handed in cannot be used, before anything is made.
    """
    from pareto_amb.running.start import start_sweep
    from pareto_amb.terminal import make_console

    declared = declare(methods, objectives)
    check_minutes(minutes, "sweep: minutes")
    fixed = output is not None or recipe is not None or not set(changes or {}) <= _MAY_CHANGE
    if resume is not None and fixed:
        free = ", ".join(sorted(_MAY_CHANGE))
        raise UserError(f"sweep: a resumed run keeps its output, recipe and keys, but for {free}")
    if resume is None and (trust_run or retry_failed):
        raise UserError("sweep: trust_run and retry_failed are for a run to resume")
    loaded, origin = _sweep_values(space, recipe, resume, declared)
    values = apply_changes(loaded, changes or {})
    if values.get("recipe") != loaded.get("recipe"):
        raise UserError("sweep: changes: a recipe is chosen with sweep(..., recipe=NAME)")
    if resume is None:
        values = titled(values, origin)
    values = _with_own(values, methods, objectives)
    config = parse_sweep(values, origin, declared).with_absolute_path()
    path = Path(resume or output or f"runs/{config.name}-{datetime.now():%Y%m%d-%H%M%S}")
    trusting = trust_run or "://" in (config.storage or "")
    again = _resuming_call(path, address, trusting, own=bool(methods or objectives))
    with continued_by(lambda: again if RunDirectory(path).sweep.is_file() else ""):
        outcome = start_sweep(
            config,
            path,
            declared,
            {**METHODS, **{method.name: method for method in methods}},
            resumed=resume is not None,
            address=address,
            minutes=minutes,
            trust_run=trust_run,
            retry_failed=retry_failed,
            console=make_console(quiet=not verbose),
        )
    if outcome.interrupted:
        warnings.warn(
            f"{outcome.interrupted} trials were interrupted, the last one by {outcome.why_interrupted}; "
            f"go on with: {again}",
            stacklevel=2,
        )
    if outcome.tracking_problem:
        warnings.warn(f"MLflow misses {outcome.tracking_problem}", stacklevel=2)
    return Run.read(path, trust=True)


def _resuming_call(path: Path, address: str | None, trusting: bool, own: bool) -> str:
    """The call that goes on with a run; `own`: it takes methods or objectives of the program's own again."""
    on = "" if address is None else f", address={address!r}"
    trust = ", trust_run=True" if trusting else ""
    same = ", with the same methods and objectives" if own else ""
    return f"pareto_amb.sweep(resume={str(path)!r}{on}{trust}){same}"


def _sweep_values(
    space: str | Path | Mapping[str, Any] | None,
    recipe: str | None,
    resume: str | Path | None,
    declared: Declared,
) -> tuple[Mapping[str, Any], str]:
    """The content of a sweep file, its recipe applied, and what errors call it."""
    if (space is None) == (resume is None):
        raise UserError("sweep: give a search space, or the run directory to resume")
    if resume is not None:
        return RunDirectory(Path(resume)).config(declared).model_dump(mode="json"), str(resume)
    if isinstance(space, Mapping):
        return with_recipe(space, recipe, "sweep"), "sweep"
    return load_space(str(space), recipe), str(space)


def _with_own(
    values: dict[str, Any], methods: Sequence[type[Method]], objectives: Sequence[Objective]
) -> dict[str, Any]:
    """The sweep with a program's own methods and objectives named, where it does not name them itself."""
    search, default = values.get("search") or {}, SearchConfig()
    if not isinstance(search, Mapping):
        return values  # refused with its name when it is parsed
    search = dict(search)
    for key, usual, own in (
        ("methods", default.methods, [method.name for method in methods]),
        ("objectives", default.objectives, [objective.name for objective in objectives]),
    ):
        named = search.get(key, usual)
        if own and isinstance(named, (list, tuple)):
            search[key] = [*named, *(name for name in own if name not in named)]
    return {**values, "search": search}


def scan(
    images: str | ImageSource | ImageSet,
    train_sizes: Sequence[int] | None = None,
    *,
    resolution: int | None = None,
    channels: int | None = None,
    by_label: bool = False,
    encoder: str | None = None,
    pipeline: str | None = None,
) -> Scan:
    """Which noise levels are worth searching for an image set; see `pareto-amb scan`.

    `images` is a folder, a zip, the word digits or cifar10, or uint8 images as a tensor or an array.
    `resolution` and `channels` are those that the model will be trained with, for images on disk.
    Subpopulations are clusters of pixels, of an `encoder`'s features, or `by_label` the labels; `pipeline`, a
    folder or a name of the hub, compares the latents of its autoencoder in the place of pixels.

    Raises UserError for images that cannot be used.
    """
    source = source_of(images, resolution, channels)
    return scan_images(source, train_sizes, by_label=by_label, encoder=encoder, pipeline=pipeline)


def recommend(
    run: Run | str | Path,
    policy: str = "match-ddpm",
    max_memorization: float | None = None,
    *,
    budget: str = "any",
) -> RecommendationFile:
    """What to train with and where to stop, by a rule of your choice, for every train size of a run.

    `budget` is any, among all stopping points of all trainings, or full, among full trainings.

    Raises UserError for an unknown policy or budget, or where no train size can be served.
    """
    if isinstance(run, Run):
        return build_recommendation(run.directory, policy, max_memorization, run.results, budget)
    return build_recommendation(RunDirectory(Path(run)), policy, max_memorization, budget=budget)
