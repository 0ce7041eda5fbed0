"""From a configuration to a finished sweep: what can be refused is refused before anything is made."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from pareto_amb.config import SweepConfig
from pareto_amb.config_file import to_yaml
from pareto_amb.declared import Declared
from pareto_amb.diffusion.methods import Method
from pareto_amb.errors import UserError
from pareto_amb.results.names import check_names
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.running.cluster import check_address
from pareto_amb.running.materials import describe_auto, load_materials, resolve_auto
from pareto_amb.running.own_code import check_travels
from pareto_amb.running.sweep import SweepOutcome, run_sweep
from pareto_amb.running.tracking import Tracker, tracking_uri
from pareto_amb.storage import write_text


def start_sweep(
    config: SweepConfig,
    path: Path,
    declared: Declared,
    methods: Mapping[str, type[Method]],
    *,
    resumed: bool = False,
    address: str | None = None,
    minutes: float | None = None,
    console: Console,
) -> SweepOutcome:
    """Run a sweep in the run directory `path`: a new one, or one that goes on where it was `resumed`.

    `declared` is all that the configuration was read against, `methods` has the code of its methods.
    `address` names an existing Ray cluster; after `minutes` the trials stop, to be resumed by another call.
    Raises UserError for data, encoders, weights, a cluster or a directory that cannot be used.
    """
    check_names(declared)
    check_travels(methods, declared)
    declared = declared.judged_by(config.search.objectives)
    check_address(address)
    materials = load_materials(config, console, methods)
    with console.status("measuring the collapse level"):
        config = resolve_auto(config, declared, materials.image_set, materials.splits)
    run = RunDirectory(path) if resumed else _make_run(config, path)
    with _locked(run):
        if resumed:
            write_text(run.sweep, to_yaml(config))
        uri = tracking_uri(run.read_environment().get("tracking_uri"))
        with console.status("opening MLflow"):
            tracker = Tracker(uri, path.resolve().name, config, declared)
        console.print(f"run directory: {path}")
        for line in describe_auto(config, declared):
            console.print(line)
        seconds = minutes * 60 if minutes else None
        return run_sweep(
            run, config, declared, methods, materials, tracker, console, address=address, time_budget=seconds
        )


def _make_run(config: SweepConfig, path: Path) -> RunDirectory:
    """Make a run directory and write sweep.yaml into it.

    Raises UserError when the directory exists and holds something, or cannot be written.
    """
    run = RunDirectory(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise UserError(f"{path}: is not empty; name another --output, or use --resume {path}")
        write_text(run.sweep, to_yaml(config))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    return run


@contextmanager
def _locked(run: RunDirectory) -> Iterator[None]:
    """Hold the run directory; UserError when another process does. The lock dies with its process."""
    lock = FileLock(run.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{run.path}: another sweep is running in it") from error
    except OSError as error:
        raise UserError(f"{run.path}: cannot be written ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()
