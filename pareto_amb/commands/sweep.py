"""`sweep`: the search itself, its dry run and its summary."""

import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pareto_amb.commands.mlflow import how_to_look
from pareto_amb.commands.options import Overrides, Recipe, complete_space
from pareto_amb.errors import ExitCode, UserError
from pareto_amb.printable import reason
from pareto_amb.signals import continued_by

if TYPE_CHECKING:
    from pareto_amb.config import SweepConfig
    from pareto_amb.declared import Declared
    from pareto_amb.running.sweep import SweepOutcome


def sweep(
    space: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE.yaml", help="A search space; see: spaces.", autocompletion=complete_space
        ),
    ] = None,
    recipe: Recipe = None,
    overrides: Overrides = None,
    trials: Annotated[
        int | None,
        typer.Option(help="Trials for each train size and method, baselines apart (search.trials)."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Of the sweep and its report. Default: that of the space, or of your images."),
    ] = None,
    time_budget: Annotated[
        float | None, typer.Option(metavar="MINUTES", help="Stop after so long; --resume goes on.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/NAME-TIME.")] = None,
    address: Annotated[str | None, typer.Option(help="Address of a running Ray cluster, e.g. auto.")] = None,
    gpus_per_trial: Annotated[
        float | None, typer.Option(help="GPUs per trial; 0.5 runs two on one GPU, 4 trains one on four.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN_DIR",
            help="Continue a run that was stopped or killed. --trials and --gpus-per-trial may change.",
        ),
    ] = None,
    trust_run: Annotated[
        bool,
        typer.Option(
            "--trust-run", help="With --resume: the run is your own; call the servers that its files name."
        ),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="With --resume: try the trials again that failed by themselves."),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show a page that follows the sweep, as: pareto-amb watch.")
    ] = False,
    notify: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="PARETO_AMB_NOTIFY",
            help="POST a line of JSON there at the first result, at failures and at the end.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved plan and its cost; start nothing.")
    ] = False,
) -> None:
    """Search for sigma_tn and where to stop: train many models beside plain DDPM, and recommend one.

    Each is measured at several stopping points; the best are trained again with fresh seeds. The run
    directory gets report.html and recommendation.yaml. Keys for --set: pareto-amb spaces NAME --explain.

    Exits with 0 when the trials are done or the time is up; 1 when no trial was fit to recommend, or a full
    disk, a lost worker or Ray interrupted trials; 2 for input that cannot be used, with nothing made; 130
    after Ctrl-C and 143 after SIGTERM, when the running trials have written checkpoints and --resume goes on
    from there. A second signal does not wait.
    """
    from pareto_amb.config import check_minutes
    from pareto_amb.credentials import check_url

    changes = list(overrides or [])
    if trials is not None:
        changes.append(f"search.trials={trials}")
    if gpus_per_trial is not None:
        changes.append(f"resources.gpus_per_trial={gpus_per_trial}")
    check_minutes(time_budget, "--time-budget")
    if notify is not None:
        check_url(notify)
    if resume is None and (trust_run or retry_failed):
        raise UserError("--trust-run and --retry-failed go with --resume RUN_DIR")
    if resume is not None and (space or recipe or overrides or output or name):
        raise UserError("--resume RUN_DIR takes its space, recipe, keys, name and output from the run itself")
    config, path = _resolve(space, recipe, resume, changes, output, name, dry_run)
    if dry_run:
        _print_plan(config, space)
        return
    options = {
        "resumed": resume is not None, "trust_run": trust_run, "retry_failed": retry_failed,
        "notify": notify, "watch": watch,
    }  # fmt: skip
    trusting = ["--trust-run"] if trust_run or "://" in (config.storage or "") else []
    with continued_by(lambda: _resume_command(path, address, trusting)):
        outcome = _run(config, path, address, time_budget, **options)
    _print_summary(outcome, _resume_command(path, address, trusting), trusting)
    if outcome.interrupted or (outcome.recommendation is None and not outcome.unfinished):
        sys.exit(ExitCode.FAILED)


def _resolve(
    space: str | None,
    recipe: str | None,
    resume: Path | None,
    changes: list[str],
    output: Path | None,
    name: str | None,
    dry_run: bool,
) -> "tuple[SweepConfig, Path]":
    """The configuration and run directory that the arguments of `sweep` stand for.

    What is not there is refused before anything that takes seconds to import; a dry run reports what the
    space itself names.
    """
    from pareto_amb import search_spaces
    from pareto_amb.config import SweepConfig
    from pareto_amb.config_file import apply_overrides, parse
    from pareto_amb.needs import data_problem, refuse_missing

    if resume is not None:
        from pareto_amb.results.run_directory import RunDirectory
        from pareto_amb.sweep_file import parse_sweep, without_secrets

        values = RunDirectory(resume).config().model_dump(mode="json")
        return without_secrets(parse_sweep(apply_overrides(values, changes), str(resume))), resume
    if space is None:
        raise UserError("name a search space (see: pareto-amb spaces), a sweep file, or --resume RUN_DIR")
    loaded = search_spaces.load(space, recipe)
    values = search_spaces.titled(apply_overrides(loaded, changes), space, name)
    if values.get("recipe") != loaded.get("recipe"):
        raise UserError("--set recipe: a recipe is chosen with --recipe NAME")
    form = parse(SweepConfig, values, space)
    if not dry_run:
        refuse_missing(form)
    elif form.data.path and not form.data.origin and (problem := data_problem(form.data)):
        raise UserError(problem)  # a path that was named by hand
    from pareto_amb.sweep_file import parse_sweep, without_secrets

    config = without_secrets(parse_sweep(values, space)).with_absolute_path()
    return config, output or Path("runs") / f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"


def _resume_command(path: Path, address: str | None, trusting: list[str]) -> str:
    """What goes on with a run, empty where there is none."""
    if not (path / "sweep.yaml").is_file():
        return ""
    on = [] if address is None else ["--address", address]
    return shlex.join(["pareto-amb", "sweep", "--resume", str(path), *on, *trusting])


def _run(
    config: "SweepConfig", path: Path, address: str | None, minutes: float | None, **options: Any
) -> "SweepOutcome":
    from pareto_amb.diffusion.methods import METHODS
    from pareto_amb.running.start import start_sweep
    from pareto_amb.sweep_file import declare
    from pareto_amb.terminal import make_console

    return start_sweep(
        config,
        path,
        declare(),
        METHODS,
        address=address,
        minutes=minutes,
        **options,
        console=make_console(),
    )


def _print_plan(config: "SweepConfig", space: str | None) -> None:
    """The resolved configuration, what is missing and what it costs; images are loaded for `auto` alone."""
    from pareto_amb.config_file import to_yaml
    from pareto_amb.diffusion.methods import METHODS
    from pareto_amb.diffusion.text.build import make_text_model
    from pareto_amb.needs import data_problem, describe_encoders, missing, with_encoders
    from pareto_amb.running.materials import describe_auto, load_training_images, resolve_auto
    from pareto_amb.running.room import describe_room, room_needed
    from pareto_amb.search.cost import describe_plan, planned_trainings
    from pareto_amb.search_spaces import describe_recipe
    from pareto_amb.sweep_file import declare
    from pareto_amb.terminal import make_console

    declared, absent = declare(), missing(config)
    encoders, config = describe_encoders(config), with_encoders(config)
    if config.space.auto_parameters() and not (config.data.origin and data_problem(config.data)):
        images = load_training_images(config, make_console(quiet=True), fetch=False)
        config = resolve_auto(config, declared, images.training_sets)
    print(to_yaml(config))
    trainings = sum(planned_trainings(config, declared))
    try:
        room = describe_room(
            room_needed(config, METHODS, make_text_model(config, (), fetch=False), trainings)
        )
    except UserError as error:
        room = f"storage: not known yet, {error}"
    recipe, auto = describe_recipe(config.recipe, space), describe_auto(config, declared)
    for line in (*recipe, *encoders, *auto, *describe_plan(config, declared), room):
        print(f"# {line}")
    for line in (*(f"missing: {each}" for each in absent), *_measured(config, declared)):
        print(f"# {line}", flush=True)


def _measured(config: "SweepConfig", declared: "Declared") -> list[str]:
    """The hours and the memory that the sweep takes here, or why they are not known."""
    from pareto_amb.diffusion.methods import METHODS
    from pareto_amb.running.estimate import describe_speed, measure_speed
    from pareto_amb.search import cost
    from pareto_amb.terminal import make_console

    if not cost.MEASURED_SECONDS:
        return []
    try:
        with make_console().status("measuring how fast this machine is"):
            return describe_speed(config, declared, measure_speed(config, METHODS, cost.MEASURED_SECONDS))
    except (UserError, RuntimeError) as error:  # RuntimeError: memory, of a GPU too
        return [f"hours and memory: not known, {reason(error)}"]


def _print_summary(outcome: "SweepOutcome", resume: str, trusting: list[str]) -> None:
    from pareto_amb.results.words import describe
    from pareto_amb.terminal import format_duration, make_console

    run, console = outcome.run, make_console()
    print(f"\nfinished in {format_duration(outcome.seconds)}")
    if outcome.stopped:
        print(outcome.stopped)
    if outcome.failed:
        print(f"{outcome.failed} trials failed; the report names the reasons")
        print(f"  to try them again: {resume} --retry-failed")
    if outcome.interrupted:
        print(f"{outcome.interrupted} trials were interrupted, the last one by {outcome.why_interrupted}")
    if outcome.tracking_problem:
        print(f"MLflow misses {outcome.tracking_problem}; the results table has all of it")
        sync = shlex.join(["pareto-amb", "mlflow", "sync", str(run.path), *trusting])
        print(f"  log the rest with: {sync}")
    if outcome.recommendation is None:
        print(f"no recommendation: {outcome.why_none}")
    else:
        declared = run.load().declared
        for found in outcome.recommendation.recommendations:
            console.print("\n".join(describe(found, declared)))
        for size, reason in outcome.recommendation.not_recommended.items():
            print(f"no recommendation for train size {size}: {reason}")
    if outcome.unfinished:
        print(f"{outcome.unfinished} trials are not finished: {resume}")
    print("\nnext:")
    print(f"  {shlex.join(['open', str(run.report)])}")
    for command in how_to_look(outcome.tracking_uri, outcome.tracking_link):
        print(f"  {command}")
    if outcome.recommendation is not None and outcome.recommendation.advised:
        print(f"  {shlex.join(['pareto-amb', 'train', str(run.recommendation)])}")
