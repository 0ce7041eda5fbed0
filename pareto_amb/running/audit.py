"""An audit on Ray: many models on balanced halves of the images, each asked about all of them."""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray import tune
from rich.console import Console

from pareto_amb.audit.halves import FEWEST_IMAGES, balanced_halves
from pareto_amb.audit.report import Audit, Scores, audit_scores
from pareto_amb.credentials import storage_credentials
from pareto_amb.data import split
from pareto_amb.declared import BASELINE, Declared
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.environment import describe_environment
from pareto_amb.errors import UserError
from pareto_amb.evaluation.probes import probe_levels
from pareto_amb.needs import with_encoders
from pareto_amb.printable import printable, reason
from pareto_amb.redaction import redact_values
from pareto_amb.results.run_directory import RunDirectory, answers_name
from pareto_amb.results.table import ResultsTable, empty_row
from pareto_amb.running.assets import bare_training_sets, measure_references, training_pixels
from pareto_amb.running.audit_plan import AuditPlan, model_of
from pareto_amb.running.claim import Claim, claimed
from pareto_amb.running.cluster import check_address, gpus_per_trial, ray_cluster
from pareto_amb.running.confirm import GivenTrials
from pareto_amb.running.encoding import encoded
from pareto_amb.running.follower import Follower
from pareto_amb.running.halt import halting_in_order
from pareto_amb.running.heartbeats import heartbeats
from pareto_amb.running.materials import Materials, load_materials, take_images
from pareto_amb.running.pace import Slots
from pareto_amb.running.progress import SweepProgress
from pareto_amb.running.room import check_room, room_needed
from pareto_amb.running.stopping import put_up_sign, stopping_in_order
from pareto_amb.running.storage_check import check_storage
from pareto_amb.running.sweep import make_tuner
from pareto_amb.running.trust import check_storage_is_trusted, what_it_reads
from pareto_amb.storage import Storage, write_text
from pareto_amb.sweep_file import declare
from pareto_amb.trainables.audit_trainable import AuditAssets, AuditTrainable
from pareto_amb.trial import Trial
from pareto_amb.untrusted import read_arrays

N_LEVELS = 10
"""Noise levels at which every image is denoised."""

HELD_BACK = 0.1
"""This share of an image set is left out at least: it says how similar images are that no model saw."""

_MAX_ANSWERS = 2**30


@dataclass(frozen=True)
class AuditOutcome:
    """What an audit leaves: its audits where all models were trained, DDPM first, and the images audited.

    `problems` say why models are missing, where that is known.
    """

    audits: list[Audit]
    images: NDArray[np.uint8]
    unfinished: int
    problems: list[str]


@dataclass(frozen=True)
class AuditState:
    """An audit under way, as its table has it."""

    trials: Sequence[Trial]
    results: ResultsTable
    halving: None = None

    def end(self, trial: Trial, error: str, interrupted: bool) -> None:
        """Record that a training has ended without a result."""
        row = self.results.last_row(trial.id) or empty_row(trial, self.results.declared)
        status = "interrupted" if interrupted else "failed"
        self.results.record({**row, "status": status, "error": error})

    def show(self, trial_id: str) -> None:
        """Nowhere else."""

    def left(self) -> list[Trial]:
        """The trainings without a result; those that failed are tried again by a resumed audit."""
        return [trial for trial in self.trials if self.results.status(trial.id) != "complete"]

    def why(self, trial: Trial) -> str:
        """Why a training has no result, empty where it was not begun or is under way."""
        row = self.results.last_row(trial.id)
        return str(row["error"]) if row else ""


def start_audit(
    plan: AuditPlan,
    path: Path,
    *,
    resumed: bool = False,
    address: str | None = None,
    trust_run: bool = False,
    console: Console,
) -> AuditOutcome:
    """Run an audit in the directory `path`: a new one, or one that goes on where it was `resumed`.

    Raises UserError for whatever cannot be used, before anything is made, and a SweepHaltedError when the
    machines stopped it.
    """
    declared = declare().judged_by(plan.config.search.objectives)
    if resumed:
        check_storage_is_trusted(RunDirectory(path), plan.config.storage, trust_run)
        for line in what_it_reads(plan.config):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    check_address(address)
    with claimed(path, resumed) as claim:
        plan, materials = _load(plan, console, fetch=trust_run or not resumed)
        folder = Storage(claim.run.storage_uri(plan.config)).folder
        with ExitStack() as left_at_end, halting_in_order(claim, folder):
            return _run(claim, plan, materials, declared, address, left_at_end, console)


def _load(plan: AuditPlan, console: Console, fetch: bool) -> tuple[AuditPlan, Materials]:
    """The images that are audited stand in the place of the training images of the one train size.

    They are twice the train size, so that a half of them is one, or as many as leave some out.
    """
    plan = replace(plan, config=with_encoders(plan.config))
    materials = load_materials(plan.config, console, fetch=fetch)
    (size,), total = plan.config.space.train_size, len(materials.image_set.images)
    half = min(size, int(total * (1 - HELD_BACK)) // 2)
    if 2 * half < FEWEST_IMAGES:
        raise UserError(
            f"{materials.image_set.name}: {total} images, of which halves of {half} can be made; an audit "
            f"needs halves of {FEWEST_IMAGES // 2} at least"
        )
    if half < size:
        console.print(
            f"note: {total:,} images are too few for halves of {size:,}: each model is trained on {half:,}",
            soft_wrap=True, highlight=False, markup=False,
        )  # fmt: skip
    config = plan.config
    part = split(materials.image_set, 2 * half, config.seed, config.data.conditional)
    space = config.space.model_copy(update={"train_size": (half,)})
    config = config.model_copy(update={"space": space})
    images = take_images(config, materials.image_set, {half: part}, console, fetch)
    return replace(plan, config=config), replace(materials, **vars(images))


def _run(
    claim: Claim,
    plan: AuditPlan,
    materials: Materials,
    declared: Declared,
    address: str | None,
    left_at_end: ExitStack,
    console: Console,
) -> AuditOutcome:
    run, config = claim.run, plan.config
    ((size, part),) = materials.splits.items()
    trials = plan.trials(size)
    _check(run, plan, materials, len(trials))
    cluster = None
    if materials.unencoded:
        materials, cluster = encoded(materials, config, run, address, left_at_end, console)
    with console.status("measuring the collapse level"):
        level = materials.collapse_levels(config)[size]
    levels = probe_levels(level, N_LEVELS)
    if not levels:
        raise UserError(f"{materials.image_set.name}: its images are all the same")
    halves = balanced_halves(plan.models, 2 * size, config.seed)
    if not run.results.exists() or AuditState(trials, ResultsTable(run.results, declared)).left():
        with nullcontext(cluster) if cluster else ray_cluster(address, run) as watch:
            slots = Slots(config, gpus_per_trial(config), shared=not watch.ours)
            with console.status("measuring the real images"):
                assets = _make_assets(run, plan, materials, declared, trials, halves, levels, slots.gpus)
            _write_plan(run, plan, materials)
            claim.keep()
            console.print(f"run directory: {run.path}", soft_wrap=True, highlight=False, markup=False)
            state = AuditState(trials, ResultsTable(run.results, declared))
            with stopping_in_order(assets.stop_sign, watch, console) as stopping:
                _train(run, state, assets, console, stopping, slots)
    claim.keep()
    state = AuditState(trials, ResultsTable(run.results, declared))
    images = materials.image_set.images[part.train].numpy()
    if left := state.left():
        return AuditOutcome([], images, len(left), [state.why(trial) for trial in left])
    with console.status("attacking"):
        audits = list(_audits(plan, materials, trials, halves, levels, run, declared))
    return AuditOutcome(audits, images, 0, [])


def _check(run: RunDirectory, plan: AuditPlan, materials: Materials, trainings: int) -> None:
    """Raise UserError for what cannot be begun, or gone on with."""
    before, found = run.read_environment(), materials.fingerprints()
    for part in ("data", "encoders", "training"):
        if before and before.get(part) != found[part]:
            raise UserError(f"{run.path}: the {part} changed since this audit began; start a new one instead")
    check_storage(run.storage_uri(plan.config))
    check_room(run, plan.config, room_needed(plan.config, METHODS, materials.text_model, trainings))


def _make_assets(
    run: RunDirectory,
    plan: AuditPlan,
    materials: Materials,
    declared: Declared,
    trials: Sequence[Trial],
    halves: NDArray[np.bool_],
    levels: tuple[float, ...],
    gpus: float,
) -> AuditAssets:
    config, storage = plan.config, run.storage_uri(plan.config)
    return AuditAssets(
        config=config,
        declared=declared,
        methods=METHODS,
        training_sets=bare_training_sets(materials),
        pixels=training_pixels(materials),
        encoded=materials.files,
        references=measure_references(config, materials, gpus),
        probes={},
        fid_encoder=materials.fid_encoder,
        similarity_encoder=materials.similarity_encoder,
        judge=None,
        text_model=materials.text_model,
        prompts={},
        storage_uri=storage,
        stop_sign=put_up_sign(),
        credentials=storage_credentials(storage),
        halves={trial.id: torch.from_numpy(halves[model_of(trial)]) for trial in trials},
        levels=levels,
    )


def _train(
    run: RunDirectory,
    state: AuditState,
    assets: AuditAssets,
    console: Console,
    stopping: tune.Callback,
    slots: Slots,
) -> None:
    left, total = state.left(), len(state.trials)
    with SweepProgress(
        console, state.results, total=total, finished=total - len(left), n_rungs=1, trainings=float(total)
    ) as progress:
        searcher = GivenTrials(left, list(assets.declared.objectives.values()))
        with state.results.settled(), heartbeats(assets.stop_sign, progress, run) as beating:
            callbacks = [Follower(state, None, progress), beating, stopping]
            make_tuner(assets, searcher, None, len(left), callbacks, slots, None, AuditTrainable).fit()


# --- files ----------------------------------------------------------------------------------------


def _write_plan(run: RunDirectory, plan: AuditPlan, materials: Materials) -> None:
    write_text(run.audit, plan.to_yaml())
    environment = redact_values({**describe_environment(), **materials.fingerprints()})
    write_text(run.environment, json.dumps(environment, indent=2))


def _audits(
    plan: AuditPlan,
    materials: Materials,
    trials: Sequence[Trial],
    halves: NDArray[np.bool_],
    levels: Sequence[float],
    run: RunDirectory,
    declared: Declared,
) -> Iterator[Audit]:
    """One audit for each method, from what its models have left."""
    ((size, part),) = materials.splits.items()
    storage = Storage(run.storage_uri(plan.config))
    image_set, index = materials.image_set, part.train.tolist()
    files = tuple(image_set.names[i] if image_set.names else "" for i in index)
    names = tuple(f"denoising error at {level:g}" for level in levels)
    for method in plan.methods:
        answers = [
            _read_answers(storage, trial, 2 * size, len(levels)) for trial in trials if trial.method == method
        ]
        errors = np.stack([found["errors"] for found in answers])
        copies = np.stack([found["copies"] for found in answers]) / plan.config.evaluation.n_samples
        values = np.log(np.maximum(errors, np.finfo(np.float64).tiny))
        images = tuple(f"image {i}" for i in index)
        yield audit_scores(
            _title(plan, method, declared), Scores(images, files, names, values, halves), copies
        )


def _title(plan: AuditPlan, method: str, declared: Declared) -> str:
    chosen = {} if method == BASELINE else plan.parameters
    words = declared.describe(method, declared.columns_of(method, chosen))
    label = declared.method(method).label
    return f"{label} ({words})" if words else label


def _read_answers(storage: Storage, trial: Trial, n: int, n_levels: int) -> dict[str, NDArray[Any]]:
    """What a model has left. UserError where that is missing or something else."""
    name = answers_name(trial.id)
    content = storage.read(name)
    if content is None:
        raise UserError(f"{name}: is missing; restore it, or begin a new audit")
    try:
        found = read_arrays(io.BytesIO(content), ("errors", "copies"), _MAX_ANSWERS)
        shapes = {key: array.shape for key, array in found.items()}
        if shapes != {"errors": (n, n_levels), "copies": (n,)} or not np.isfinite(found["errors"]).all():
            raise ValueError(f"it holds {shapes}")
    except ValueError as error:
        raise UserError(
            f"{name}: not what a model of this audit leaves ({printable(reason(error))}); begin a new audit"
        ) from error
    return found
