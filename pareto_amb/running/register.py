"""The recommended model in MLflow's registry: the checkpoint of a training that it was recommended for."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pareto_amb.errors import UserError
from pareto_amb.printable import printable
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.recommendation_file import load_entry
from pareto_amb.results.run import Run
from pareto_amb.results.run_directory import checkpoint_name
from pareto_amb.running.sync import synced
from pareto_amb.running.tracking import why
from pareto_amb.storage import Storage

FOLDER = "model"
"""Where the checkpoint lies among the artifacts of its trial."""


@dataclass(frozen=True)
class Registered:
    """A version of a model: `new` says whether this call has made it."""

    name: str
    version: str
    trial_id: str
    new: bool


def register_model(path: Path, name: str, train_size: int | None = None, trust: bool = False) -> Registered:
    """Bring MLflow up to date with a run, and register its recommended model as a version of `name`.

    That is a training that ended where the recommended one stops: the first repeat of it, whatever its
    figures, so that none is picked for them. `trust` is as for `sync_run`. Raises UserError where nothing is
    recommended, no checkpoint is of that stopping point, or MLflow cannot be used.
    """
    run = Run.read(path)
    found = _recommended(run, train_size)
    if not name.strip() or set("/:") & set(name):
        raise UserError(f"'{printable(name)}': MLflow takes no such name of a model; leave out / and :")
    trials = list(_trainings(run, found))
    with synced(path, trust) as there:
        trial_id, checkpoint = _checkpoint(run, trials, there.storage)
        try:
            client, run_id = there.mirror.run_of(trial_id)
            for version in client.search_model_versions(f"run_id = '{run_id}'"):
                if version.name == name:
                    return Registered(name, str(version.version), trial_id, new=False)
            _log(client, run_id, checkpoint)
            return Registered(name, _create(client, name, run_id, found, trial_id), trial_id, new=True)
        except Exception as error:  # of MLflow, its server, database, artifact store, driver or disk
            raise UserError(f"MLflow at {there.uri}: {why(error)}; nothing was registered") from error


def _recommended(run: Run, train_size: int | None) -> Recommendation:
    """The recommendation of a size; UserError where there is none or its verdict is not to train so."""
    directory = run.directory
    if not run.recommendations:
        raise UserError(
            f"{printable(directory.recommendation)}: is not there; pareto-amb recommend "
            f"{printable(directory.path)} writes it"
        )
    found = run.recommendations[load_entry(directory.recommendation, train_size)["train_size"]]
    if not found.advised:
        raise UserError(f"nothing to register: {printable(found.summary)}")
    return found


def _trainings(run: Run, found: Recommendation) -> Iterator[str]:
    """The trainings that ended where the recommended one stops, its repeats first, by their seeds."""
    rows = run.results.frame
    rows = rows[(rows.trial_id == found.trial_id) | (rows.confirms == found.trial_id)]
    last = rows.sort_values("rung").drop_duplicates("trial_id", keep="last")
    last = last[(last.status == "complete") & (last.branched_at == 0)]
    stop = found.images_seen or last.images_seen.max()
    last = last[last.images_seen == stop].sort_values("seed")
    yield from last[last.confirms != ""].trial_id
    yield from last[last.confirms == ""].trial_id


def _checkpoint(run: Run, trials: list[str], storage: Storage) -> tuple[str, bytes]:
    """The first of the trainings that has a checkpoint, and that."""
    for trial_id in trials:
        content = storage.read(checkpoint_name(trial_id))
        if content is not None:
            return trial_id, content
    raise UserError(
        f"{printable(run.directory.path)}: no checkpoint is of the recommended stopping point; such a model "
        f"is trained by pareto-amb train {printable(run.directory.recommendation)}"
    )


def _log(client: MlflowClient, run_id: str, checkpoint: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        path.write_bytes(checkpoint)
        client.log_artifact(run_id, str(path), FOLDER)


def _create(client: MlflowClient, name: str, run_id: str, found: Recommendation, trial_id: str) -> str:
    """A new version, with the verdict, all figures and cautions."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}"
    tags = {**found.tags(), "train_size": str(found.train_size), "registered_trial": trial_id}
    this = f"This is {trial_id}, one training of it; its own figures are those of its run."
    description = "\n\n".join([*found.lines(), this])
    version = client.create_model_version(name, source, run_id=run_id, tags=tags, description=description)
    return str(version.version)
