"""`sweep`: the search itself, its dry run and its summary."""

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pareto_amb.commands.options import Overrides
from pareto_amb.errors import UserError

if TYPE_CHECKING:
    from pareto_amb.config import SweepConfig
    from pareto_amb.results.recommendation_file import ExportedRecommendation
    from pareto_amb.running.sweep import SweepOutcome


def sweep(
    space: Annotated[
        str | None, typer.Argument(metavar="NAME|FILE.yaml", help="A search space; see: spaces.")
    ] = None,
    overrides: Overrides = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials a train size, baselines apart (search.trials).")
    ] = None,
    time_budget: Annotated[
        float | None, typer.Option(metavar="MINUTES", help="Stop after so long; --resume goes on.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/NAME-TIME.")] = None,
    address: Annotated[str | None, typer.Option(help="Address of a running Ray cluster, e.g. auto.")] = None,
    gpus_per_trial: Annotated[
        float | None, typer.Option(help="GPUs per trial; 0.5 runs two on one GPU.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN_DIR", help="Continue a run that was stopped or killed."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved plan and its cost; start nothing.")
    ] = False,
) -> None:
    """Search for sigma_tn: train many models, measure each, write report and recommendation."""
    changes = list(overrides or [])
    if trials is not None:
        changes.append(f"search.trials={trials}")
    if gpus_per_trial is not None:
        changes.append(f"resources.gpus_per_trial={gpus_per_trial}")
    if time_budget is not None and time_budget <= 0:
        raise UserError(f"--time-budget {time_budget:g}: must be above 0 minutes")
    config, path = _resolve(space, resume, changes, bool(overrides), output)
    if dry_run:
        _print_plan(config)
        return
    try:
        outcome = _run(config, path, resume is not None, address, time_budget)
    except KeyboardInterrupt:
        hint = f"; continue with: pareto-amb sweep --resume {path}" if path.exists() else ""
        print(f"stopped{hint}", file=sys.stderr)
        sys.exit(130)
    _print_summary(outcome)
    if outcome.recommendation is None and not outcome.unfinished:
        sys.exit(1)


def _resolve(
    space: str | None, resume: Path | None, changes: list[str], set_used: bool, output: Path | None
) -> "tuple[SweepConfig, Path]":
    """The configuration and run directory that the arguments of `sweep` stand for."""
    from pareto_amb import search_spaces
    from pareto_amb.config_file import apply_overrides
    from pareto_amb.results.run_directory import RunDirectory
    from pareto_amb.sweep_file import parse_sweep

    if resume is not None:
        if space or set_used or output:
            raise UserError("--resume RUN_DIR takes its space, keys and output from the run itself")
        values = RunDirectory(resume).config().model_dump(mode="json")
        return parse_sweep(apply_overrides(values, changes), str(resume)), resume
    if space is None:
        raise UserError("name a search space (see: pareto-amb spaces), a sweep file, or --resume RUN_DIR")
    config = parse_sweep(apply_overrides(search_spaces.load(space), changes), space).with_absolute_path()
    return config, output or Path("runs") / f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"


def _run(
    config: "SweepConfig", path: Path, resumed: bool, address: str | None, minutes: float | None
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
        resumed=resumed,
        address=address,
        minutes=minutes,
        console=make_console(),
    )


def _print_plan(config: "SweepConfig") -> None:
    """The resolved configuration and what it costs; loads images only where `auto` needs them."""
    from pareto_amb.config_file import to_yaml
    from pareto_amb.running.materials import describe_auto, load_splits, resolve_auto
    from pareto_amb.search.cost import describe_plan
    from pareto_amb.sweep_file import declare
    from pareto_amb.terminal import make_console

    declared = declare()
    if config.space.auto_parameters():
        config = resolve_auto(config, declared, *load_splits(config, make_console(quiet=True)))
    print(to_yaml(config))
    for line in (*describe_auto(config, declared), *describe_plan(config, declared)):
        print(f"# {line}")


def _print_summary(outcome: "SweepOutcome") -> None:
    from pareto_amb.running.progress import format_duration

    run = outcome.run
    print(f"\nfinished in {format_duration(outcome.seconds)}")
    if outcome.stopped:
        print(outcome.stopped)
    if outcome.failed:
        print(f"{outcome.failed} trials failed; the report names the reasons")
    if outcome.tracking_problem:
        print(f"MLflow misses some of the run, the results table does not: {outcome.tracking_problem}")
    if outcome.recommendation is None:
        print(f"no recommendation: {outcome.why_none}")
    else:
        for found in outcome.recommendation.recommendations:
            _print_recommendation(found)
        for size, reason in outcome.recommendation.not_recommended.items():
            print(f"no recommendation for train size {size}: {reason}")
    if outcome.unfinished:
        print(f"{outcome.unfinished} trials are not finished: pareto-amb sweep --resume {run.path}")
    print("\nnext:")
    print(f"  open {run.report}")
    print(f"  mlflow ui --backend-store-uri {run.read_environment()['tracking_uri']}")
    if outcome.recommendation is not None:
        print(f"  pareto-amb train {run.recommendation}")


def _print_recommendation(found: "ExportedRecommendation") -> None:
    from pareto_amb.results.baseline import describe_figure

    print(found.summary)
    if found.sigma_tn is not None and found.sigma_tn_vp is not None:
        low, high = found.interval or (found.sigma_tn, found.sigma_tn)
        print(
            f"  sigma_tn {found.sigma_tn:.4g} (variance-preserving {found.sigma_tn_vp:.4g}), "
            f"90% interval {low:.4g} to {high:.4g}"
        )
    for name in found.objectives():
        heldout = ""
        if name == "memorization":
            heldout = f"   held-out images {found.heldout_memorization:.3f}"
        label, _, ours = describe_figure(name, found[name].value).rpartition(" ")
        theirs = describe_figure(name, found.baseline[name].value).rpartition(" ")[2]
        print(f"  {label:<13} {ours:>8}   DDPM {theirs}{heldout}")
    if found.confirmation:
        print(f"  {found.confirmation.describe()}")
    for note in found.notes():
        print(f"  note: {note}")
