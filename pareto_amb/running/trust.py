"""What a run's own files may make this process connect to: they may come from someone else."""

import os
from pathlib import Path

from pareto_amb.config import SweepConfig
from pareto_amb.errors import UserError
from pareto_amb.printable import printable
from pareto_amb.redaction import HIDDEN, redact, redact_uri
from pareto_amb.results.run_directory import RunDirectory

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
STORAGE_VARIABLE = "PARETO_AMB_STORAGE"


def trusted_tracking_uri(run: RunDirectory, trust: bool = False) -> str:
    """Where a run is tracked: as the environment says, else as its file does, else in a file right here.

    A URI of the run's file is taken when it names a SQLite file beside the run, in a folder above it or right
    here, or when the caller has said to `trust` the run. Raises UserError for any other, and for one whose
    password is hidden.
    """
    if named := os.environ.get(TRACKING_VARIABLE):
        return named
    here = f"sqlite:///{Path('mlflow.db').resolve()}"
    of_run = run.read_environment().get("tracking_uri")
    if not of_run or of_run == here:
        return here
    uri, shown = str(of_run), printable(redact_uri(str(of_run)))
    if HIDDEN in redact(uri):
        raise UserError(
            f"{printable(run.environment)}: tracked at {shown}, whose secrets are not in the file; "
            f"set {TRACKING_VARIABLE}"
        )
    if not (trust or _is_near(uri, run)):
        raise UserError(
            f"{printable(run.environment)}: asks to track at {shown}; set {TRACKING_VARIABLE}, or give "
            "--trust-run if the run is your own"
        )
    return uri


def _is_near(uri: str, run: RunDirectory) -> bool:
    """Whether a URI is that of a SQLite file in the run directory or in a folder above it."""
    scheme, separator, name = uri.partition(":///")
    if scheme != "sqlite" or not separator or not name.startswith("/") or set("?\0") & set(name):
        return False
    folder = run.path.resolve()
    return Path(os.path.realpath(name)).parent in {folder, *folder.parents}


def check_storage_is_trusted(run: RunDirectory, storage: str | None, trust: bool = False) -> None:
    """Raise UserError where a run's file names a storage to connect to that nobody here has named.

    Folders of this machine are taken, and the URI that `PARETO_AMB_STORAGE` has; any other when the caller
    has said to `trust` the run.
    """
    if trust or not storage or "://" not in storage or storage.startswith("file:///"):
        return
    if storage != os.environ.get(STORAGE_VARIABLE):
        raise UserError(
            f"{printable(run.sweep)}: keeps its checkpoints at {printable(redact_uri(storage))}; set "
            f"{STORAGE_VARIABLE} to that, or give --trust-run if the run is your own"
        )


def what_it_reads(config: SweepConfig) -> list[str]:
    """What a resumed run has this process read outside its own folder, a line each."""
    network = config.training.network
    judged_by = config.evaluation.clip_model if config.evaluation.judge == "clip" else None
    read = {
        "images": config.data.path,
        "first weights": config.training.init_from,
        "a pipeline": str(network.options.get("path", "")) if network.name == "pipeline" else None,
        "a CLIP model": judged_by,
    }
    return [f"reads {what} from {printable(path)}" for what, path in read.items() if path]
