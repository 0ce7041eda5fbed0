"""The commands: parse, call, print. Everything heavy is imported inside a command."""

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pareto_amb.commands.evaluate import encode, evaluate
from pareto_amb.commands.scan import scan
from pareto_amb.errors import UserError

if TYPE_CHECKING:
    from pareto_amb.config import SweepConfig
    from pareto_amb.sweep import SweepOutcome

app = typer.Typer(
    name="pareto-amb",
    help="Find the noise level sigma_tn above which a diffusion model should see only noisy images, so "
    "that it stops copying its training set. Start with: pareto-amb sweep digits",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data", help="Bring images into the form that sweeps read fastest.")

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a configuration key; may be repeated."),
]


def main() -> None:
    """Run the command line; a UserError becomes one line on stderr and exit code 2."""
    for name in ("MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "true")
    try:
        app()
    except UserError as error:
        _print_error(error)
        sys.exit(2)


def _print_error(error: UserError) -> None:
    print(f"pareto-amb: error: {error}", file=sys.stderr, flush=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"pareto-amb {version('pareto-amb')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


@app.command()
def spaces() -> None:
    """List the search spaces that ship with pareto-amb."""
    import search_spaces

    for name in search_spaces.names():
        print(f"{name:14} {search_spaces.load(name)['description']}")


@app.command()
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
        float | None, typer.Option(help="GPUs a trial; 0.5 runs two on one GPU.")
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
        _print_plan(_with_sigma_range(config))
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
    import search_spaces
    from pareto_amb.config import SweepConfig, apply_overrides, parse
    from pareto_amb.run_directory import RunDirectory

    if resume is not None:
        if space or set_used or output:
            raise UserError("--resume RUN_DIR takes its space, keys and output from the run itself")
        values = RunDirectory(resume).config().model_dump(mode="json")
        return parse(SweepConfig, apply_overrides(values, changes), str(resume)), resume
    if space is None:
        raise UserError("name a search space (see: pareto-amb spaces), a sweep file, or --resume RUN_DIR")
    values = apply_overrides(search_spaces.load(space), changes)
    config = parse(SweepConfig, values, space)
    data = config.data
    if data.path and Path(data.path).exists():
        data = data.model_copy(update={"path": str(Path(data.path).resolve())})
    time = f"{datetime.now():%Y%m%d-%H%M%S}"
    return config.model_copy(update={"data": data}), output or Path("runs") / f"{config.name}-{time}"


def _with_sigma_range(config: "SweepConfig") -> "SweepConfig":
    """The configuration with sigma_tn: auto replaced by ranges; loads the images only if there is a need."""
    if config.space.sigma_tn != "auto":
        return config
    from pareto_amb.materials import load_splits, resolve_sigma_tn
    from pareto_amb.terminal import make_console

    return resolve_sigma_tn(config, *load_splits(config, make_console(quiet=True)))


def _sigma_lines(config: "SweepConfig") -> list[str]:
    """What sigma_tn: auto became, one line a train size; none for a range that was given."""
    ranges = config.space.sigma_tn
    return [
        f"sigma_tn: auto: with {size:,} images collapse level {found.collapse_level:g} -> "
        f"searched {found.low:g} to {found.high:g}"
        for size, found in (ranges.items() if isinstance(ranges, dict) else ())
    ]


def _run(
    config: "SweepConfig", path: Path, resumed: bool, address: str | None, minutes: float | None
) -> "SweepOutcome":
    from pareto_amb.cluster import check_address
    from pareto_amb.config import to_yaml
    from pareto_amb.materials import load_materials, resolve_sigma_tn
    from pareto_amb.run_directory import RunDirectory
    from pareto_amb.storage import write_text
    from pareto_amb.sweep import locked, run_sweep, start_run
    from pareto_amb.terminal import make_console
    from pareto_amb.tracking import Tracker, tracking_uri

    check_address(address)
    console = make_console()
    materials = load_materials(config, console)
    with console.status("measuring the collapse level"):
        config = resolve_sigma_tn(config, materials.image_set, materials.splits)
    run = RunDirectory(path) if resumed else start_run(config, path)
    with locked(run):
        if resumed:
            write_text(run.sweep, to_yaml(config))
        uri = run.read_environment().get("tracking_uri")
        with console.status("opening MLflow"):
            tracker = Tracker(tracking_uri(uri), run.path.resolve().name, config)
        console.print(f"run directory: {run.path}")
        for line in _sigma_lines(config):
            console.print(line)
        return run_sweep(
            run,
            config,
            materials,
            tracker,
            console,
            address=address,
            time_budget=minutes * 60 if minutes else None,
        )


def _print_plan(config: "SweepConfig") -> None:
    from pareto_amb.config import to_yaml
    from pareto_amb.search.cost import expected_trainings

    sizes, search = config.space.train_size, config.search
    searched = (search.baseline_seeds + search.trials * len(search.methods)) * len(sizes)
    repeated = search.n_confirmations() * len(sizes)
    rungs = config.rung_images()
    seen = round(expected_trainings(config) * rungs[-1])
    generated = (searched * len(rungs) + repeated) * config.evaluation.n_samples
    some, about, at_most = "", "", ""
    if search.reduction_factor is not None:
        some, about, at_most = " that runs to the end", "about ", "at most "
    print(to_yaml(config))
    for line in _sigma_lines(config):
        print(f"# {line}")
    print(f"# {searched + repeated} trainings: for each of the train sizes {', '.join(map(str, sizes))},")
    methods = ", ".join(f"{search.trials} of {method}" for method in search.methods)
    print(f"#   {search.baseline_seeds} DDPM baselines, {methods}")
    if repeated:
        best, seeds = search.confirm.candidates, search.confirm.seeds
        print(f"#   and after the search the best {best} again, each with {seeds} fresh seeds")
    print(f"# {rungs[-1]:,} images seen by each{some}, {about}{seen:,} in all")
    print(f"# measured at {', '.join(f'{n:,}' for n in rungs)} images seen, repeats at the end,")
    print(f"#   {at_most}{generated:,} images generated in all")


def _print_summary(outcome: "SweepOutcome") -> None:
    from pareto_amb.progress import format_duration

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
            print(found.summary)
            low, high = found.sigma_tn_interval or (found.sigma_tn, found.sigma_tn)
            print(
                f"  sigma_tn {found.sigma_tn:.4g} (variance-preserving {found.sigma_tn_vp:.4g}), "
                f"90% interval {low:.4g} to {high:.4g}"
            )
            print(f"  FID           {found.fid.value:8.4g}   DDPM {found.baseline.fid.value:.4g}")
            print(
                f"  memorization  {found.memorization.value:8.3f}   DDPM "
                f"{found.baseline.memorization.value:.3f}   held-out images "
                f"{found.heldout_memorization:.3f}"
            )
            if found.confirmation:
                print(f"  {found.confirmation.describe()}")
            else:
                print("  note: the best of many trainings, not confirmed by fresh seeds")
            for trial_id in found.refuted:
                print(f"  note: {trial_id} looked better, but with fresh seeds its FID is worse than DDPM's")
            if found.early_stop:
                print(f"  note: {found.early_stop.describe()}")
            if found.caution:
                print(f"  note: {found.caution}")
        for size, reason in outcome.recommendation.not_recommended.items():
            print(f"no recommendation for train size {size}: {reason}")
    if outcome.unfinished:
        print(f"{outcome.unfinished} trials are not finished: pareto-amb sweep --resume {run.path}")
    print("\nnext:")
    print(f"  open {run.report}")
    print(f"  mlflow ui --backend-store-uri {run.read_environment()['tracking_uri']}")
    if outcome.recommendation is not None:
        print(f"  pareto-amb train {run.recommendation}")


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR")]) -> None:
    """Write RUN_DIR/report.html again from the results table."""
    from dashboards.report import write_report

    print(write_report(run_dir))


@app.command()
def recommend(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR")],
    policy: Annotated[
        Literal["match-ddpm", "knee", "max-memorization"],
        typer.Option(
            help="match-ddpm: fewest copies at DDPM's FID; knee: the frontier's bend; "
            "max-memorization: best FID with at most --max-memorization."
        ),
    ] = "match-ddpm",
    max_memorization: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Limit for --policy max-memorization.")
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the recommendation to this YAML file."),
    ] = None,
) -> None:
    """Recommend a sigma_tn from a run's results, by a rule of your choice."""
    from pareto_amb.export import build_recommendation, write_recommendation
    from pareto_amb.run_directory import RunDirectory

    found = build_recommendation(RunDirectory(run_dir), policy, max_memorization)
    for entry in found.recommendations:
        print(entry.summary)
        if entry.early_stop:
            print(f"note: {entry.early_stop.describe()}")
        if entry.caution:
            print(f"note: {entry.caution}")
    for size, reason in found.not_recommended.items():
        print(f"no recommendation for train size {size}: {reason}")
    if export is not None:
        write_recommendation(found, export)
        print(f"written to {export}")


@app.command()
def train(
    recommendation: Annotated[Path, typer.Argument(metavar="RECOMMENDATION.yaml")],
    train_size: Annotated[
        int | None, typer.Option(help="Which recommendation to follow, where the file has several.")
    ] = None,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(help="Default: the folder training beside the recommendation.")
    ] = None,
) -> None:
    """Train a model as recommended; run it again to continue a training that was stopped.

    Keys for --set are those of the file's training block, e.g. training.images=10000000,
    data.path=/my/images or train_size=null for the whole set.

    On several GPUs: torchrun --nproc-per-node 4 -m pareto_amb train RECOMMENDATION.yaml
    """
    from pareto_amb.config import TrainingRun, apply_overrides, parse
    from pareto_amb.diffusion.parallel import join_world
    from pareto_amb.export import load_training_block
    from pareto_amb.production import train_model
    from pareto_amb.terminal import make_console

    with join_world(_print_error) as world:
        with world.together():
            block: dict[str, Any] = load_training_block(recommendation, train_size)
            run = parse(TrainingRun, apply_overrides(block, overrides or []), str(recommendation))
        console = make_console(quiet=not world.is_first)
        checkpoint = train_model(run, output or recommendation.parent / "training", console, world)
        console.print(f"next:\n  pareto-amb sample {checkpoint}", markup=False)


@app.command()
def sample(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Image i is drawn from this seed and i.")] = 0,
    solver: Annotated[
        Literal["heun", "dpmpp_2m"],
        typer.Option(help="dpmpp_2m needs half the network evaluations a step; see docs/samplers.md."),
    ] = "heun",
    steps: Annotated[int, typer.Option(min=2, help="Steps of the solver.")] = 18,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the PNG files. Default: samples beside it.")
    ] = None,
) -> None:
    """Generate images from a checkpoint of `train` or of a sweep."""
    from pareto_amb.production import sample_images
    from pareto_amb.terminal import make_console

    folder = output or checkpoint.parent / f"{checkpoint.stem}-samples"
    sample_images(checkpoint, folder, count, seed, solver, steps, make_console())
    print(f"{count} images in {folder}")


app.command()(scan)
app.command()(evaluate)
app.command()(encode)


@data_app.command()
def prepare(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder or zip of images, or cifar10 (fetched).")
    ],
    output: Annotated[Path, typer.Option(metavar="FILE.zip", help="The zip to write; must not exist.")],
    resolution: Annotated[int, typer.Option(help="Side in pixels; images are cropped and resized.")] = 64,
    channels: Annotated[int, typer.Option(help="3 for colour, 1 for grey.")] = 3,
) -> None:
    """Pack an image set into one zip of square PNG images with their labels.

    A dataset.json in the source holds the labels; without one, when every image is in one of two or
    more folders, each folder is a class. FFHQ's numbered folders (00000, 01000, ...) are not classes.
    """
    from pareto_amb.data.prepare import prepare as write_zip
    from pareto_amb.terminal import counting, make_console

    console = make_console()
    with counting(console, "preparing images") as show:
        done = write_zip(source, output, resolution, channels, progress=show)
    for note in done.notes:
        console.print(f"note: {note}", markup=False)
    classes = f"{done.n_classes} classes" if done.n_classes else "no labels"
    console.print(f"{output}: {done.images:,} images of {resolution} x {resolution}, {classes}", markup=False)
