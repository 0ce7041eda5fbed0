"""MLflow: one parent run a sweep, one nested run a trial. Everything is logged by the driver."""

import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pareto_amb.config import SweepConfig
from pareto_amb.declared import Declared
from pareto_amb.errors import UserError
from pareto_amb.results.recommend import Recommendation
from pareto_amb.results.table import Status

EXPERIMENT = "pareto-amb"
RUN_STATUS: dict[Status, str] = {
    "running": "RUNNING",
    "complete": "FINISHED",
    "paused": "KILLED",
    "failed": "FAILED",
}
"""What MLflow calls the run of a trial with a status."""

_BOOKKEEPING = {"rung", "images_seen", "recorded_at"}
"""Numbers of a row that are no figures of its trial."""


def tracking_uri(of_run: str | None = None) -> str:
    """`MLFLOW_TRACKING_URI`, else where the run was tracked before, else a SQLite file right here."""
    default = f"sqlite:///{Path('mlflow.db').resolve()}"
    return os.environ.get("MLFLOW_TRACKING_URI") or of_run or default


class Tracker:
    """Logs one sweep; a resumed sweep finds its runs again and logs on."""

    def __init__(self, uri: str, run_name: str, config: SweepConfig, declared: Declared) -> None:
        """Open the parent run. UserError when the tracking server cannot be reached or written.

        A trial's run has the parameters of every method of `declared`.
        """
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self.uri = uri
        self.problem = ""
        self._objectives = tuple(declared.objectives)
        self._params = ("method", "train_size", *declared.parameters, "seed")
        self._trials: dict[str, str] = {}
        try:
            self._client = MlflowClient(tracking_uri=uri)
            self._experiment = self._experiment_id()
            self._parent = self._open_parent(run_name, config)
        except (MlflowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"MLflow at {uri}: cannot be used ({reason}); set MLFLOW_TRACKING_URI to a server or a "
                "writable sqlite:///FILE"
            ) from error

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        artifacts = None
        if self.uri.startswith("sqlite:///"):
            database = Path(self.uri.removeprefix("sqlite:///"))
            artifacts = (database.parent / "mlartifacts").resolve().as_uri()
        return str(self._client.create_experiment(EXPERIMENT, artifact_location=artifacts))

    def _open_parent(self, run_name: str, config: SweepConfig) -> str:
        known = self._client.search_runs(
            [self._experiment], f"tags.sweep_run = '{run_name}' and tags.kind = 'sweep'"
        )
        if known:
            parent = known[0].info.run_id
            self._client.update_run(parent, "RUNNING")
            for run in self._client.search_runs(
                [self._experiment], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'"
            ):
                self._trials[run.data.tags["trial_id"]] = run.info.run_id
            return str(parent)
        tags = {"kind": "sweep", "sweep_run": run_name, "space": config.name}
        run = self._client.create_run(self._experiment, run_name=run_name, tags=tags)
        return str(run.info.run_id)

    def log_row(self, row: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
        """Log one row of the results table, and pictures by name, to its trial's run.

        The step of a metric is images seen. A server that stops answering does not stop the sweep: its
        results are safe in the table, and `problem` says what MLflow misses.
        """
        with self._noting_problems():
            self._log_row(row, pictures)

    def log_status(self, row: Mapping[str, Any]) -> None:
        """Log that a trial's status has become that of `row`; what `log_row` says of servers holds."""
        with self._noting_problems():
            self._log_status(self._trials.get(row["trial_id"]) or self._open_trial(row), row)

    @contextmanager
    def _noting_problems(self) -> Iterator[None]:
        try:
            yield
        except (MlflowException, OSError) as error:
            self.problem = " ".join(str(error).split())[:200]

    def _log_row(self, row: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
        run = self._trials.get(row["trial_id"]) or self._open_trial(row)
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, float(value), now, int(row["images_seen"]))
            for name, value in row.items()
            if name not in {*self._params, *_BOOKKEEPING}
            and isinstance(value, (int, float))
            and not math.isnan(value)
        ]
        self._client.log_batch(run, metrics=metrics)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in pictures.items():
                path = Path(folder) / name
                path.write_bytes(content)
                self._client.log_artifact(run, str(path), "samples")
        self._log_status(run, row)

    def _log_status(self, run: str, row: Mapping[str, Any]) -> None:
        tags = [RunTag(name, row[name]) for name in ("status", "error") if row.get(name)]
        self._client.log_batch(run, tags=tags)
        if row["status"] == "running":
            self._client.update_run(run, "RUNNING")
        else:
            self._client.set_terminated(run, status=RUN_STATUS[row["status"]])

    def _open_trial(self, row: Mapping[str, Any]) -> str:
        params = [Param(name, str(row[name])) for name in self._params]
        tags = {
            MLFLOW_PARENT_RUN_ID: self._parent,
            "trial_id": row["trial_id"],
            "method": row["method"],
            "train_size": str(row["train_size"]),
        }
        if row.get("confirms"):
            tags["confirms"] = row["confirms"]
        run = self._client.create_run(self._experiment, run_name=row["trial_id"], tags=tags)
        self._client.log_batch(run.info.run_id, params=params)
        self._trials[row["trial_id"]] = str(run.info.run_id)
        return str(run.info.run_id)

    def log_recommendation(self, found: Recommendation) -> None:
        """Log what is recommended for one train size to the parent run, as tags `nSIZE.NAME`."""
        values: dict[str, Any] = {"trial_id": found.trial_id}
        if found.main:
            values[found.main] = found.parameters[found.main]
        values |= {name: found[name].value for name in self._objectives}
        if found.interval is not None:
            values[f"{found.main}_low"], values[f"{found.main}_high"] = found.interval
        if found.confirmation is not None:
            values |= found.confirmation.model_dump(exclude={"trials"})
        with self._noting_problems():
            for name, value in values.items():
                self._client.set_tag(self._parent, f"n{found.train_size}.{name}", str(value))

    def finish(self, artifacts: list[Path]) -> None:
        """Attach the report and the other files to the parent run and close it."""
        with self._noting_problems():
            for path in artifacts:
                self._client.log_artifact(self._parent, str(path))
            self._client.set_terminated(self._parent)
