"""MLflow: one parent run a sweep, one nested run a trial, both found again by the run's UUID.

The results table is the truth, and what MLflow has of a trial stands in that trial's tags: `rung` and
`pictures` are the last rung whose figures and picture it has. What it lacks is the difference, so that
logging goes on after any kill, on either side, without a queue beside the table. Logging something twice adds
nothing: a metric's step is images seen and its time that of the row.
"""

import io
import logging
import math
import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from PIL import Image

from pareto_amb.declared import Declared
from pareto_amb.printable import reason
from pareto_amb.redaction import redact
from pareto_amb.results.probes import GAP, gaps
from pareto_amb.results.run_directory import RunDirectory, grid_name
from pareto_amb.results.size import Results
from pareto_amb.results.table import Status, load_results
from pareto_amb.running import tracked_sweep
from pareto_amb.storage import Storage

EXPERIMENT = "pareto-amb"
RUN_STATUS: dict[Status, str] = {
    "running": "RUNNING",
    "complete": "FINISHED",
    "paused": "KILLED",
    "interrupted": "KILLED",
    "failed": "FAILED",
}
"""What MLflow calls the run of a trial with a status."""

LONGEST_TAG = 5000
"""Characters of a tag's value that every store takes."""

LOCAL_UI = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens."""

PAGE = 1000
"""Runs that a server lists at a time."""

CALLED = {"budget": "share_of_full_training"}
"""What MLflow calls figures whose column would not explain itself there."""

_BOOKKEEPING = {"seed", "rung", "images_seen", "branched_at", "recorded_at"}
"""Numbers of a row that are no figures of its trial."""

BRANCHED = "branched_"
"""Begins the names of a branched trial's metrics."""

_FINISHED = "finished_n"
"""Begins the tag of the parent run that says how many points of a train size's curves it has."""

_MAX_METRICS, _MAX_TAGS = 1000, 100
"""What a server takes in one request."""

Rows = Sequence[Mapping[str, Any]]


_LOGGERS = [logging.getLogger(name) for name in ("mlflow", "alembic", "sqlalchemy", "urllib3")]
_TIMEOUT, _RETRIES = "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_NO_URL = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"


def quiet_mlflow() -> None:
    """What goes wrong in MLflow is ours to say, with its secrets hidden."""
    for logger in _LOGGERS:
        logger.setLevel(logging.CRITICAL)
    os.environ[_NO_URL] = "true"  # it prints the password in it too


def limit_requests(seconds: int) -> None:
    """Let a request of this process to a tracking server take `seconds`, once, unless the user says else."""
    os.environ.setdefault(_TIMEOUT, str(seconds))
    os.environ.setdefault(_RETRIES, "0")


@contextmanager
def mlflow_left_as_it_was() -> Iterator[None]:
    """Undo at the end of the block what `quiet_mlflow` and `limit_requests` change: a program may go on."""
    levels = [logger.level for logger in _LOGGERS]
    before = {name: os.environ.get(name) for name in (_TIMEOUT, _RETRIES, _NO_URL)}
    try:
        yield
    finally:
        for logger, level in zip(_LOGGERS, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def run_uuid(environment: Mapping[str, Any]) -> str:
    """The UUID in a run's environment.json; a new one where there is none."""
    try:
        return uuid.UUID(str(environment.get("run_uuid"))).hex
    except ValueError:
        return uuid.uuid4().hex


def why(error: Exception) -> str:
    """Why MLflow, its server, database, artifact store or disk failed: the cause where a client names one."""
    said = reason(error, longest=4000)
    return (said.rpartition("(Caused by ")[2] if "(Caused by " in said else said)[:200]


@dataclass(frozen=True)
class Tracked:
    """What is tracked, and where. `uuid` is the run's own; `storage` holds its pictures."""

    uri: str
    run: RunDirectory
    uuid: str
    space: str
    declared: Declared
    storage: Storage


@dataclass(frozen=True)
class Ending:
    """What is logged to the parent run when a sweep ends: MLflow's status, tags, files, and pages by name."""

    status: str
    tags: Mapping[str, str]
    files: Sequence[Path]
    pages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Missing:
    """How much of a run MLflow lacks: rows of the table, trials with any change, pictures."""

    rows: int = 0
    trials: int = 0
    pictures: int = 0
    ending: bool = False

    def __bool__(self) -> bool:
        return self != Missing()

    def __str__(self) -> str:
        parts = []
        if self.trials:
            parts.append(f"{_count(self.rows, 'row')} of {_count(self.trials, 'trial')}")
        if self.pictures:
            parts.append(_count(self.pictures, "picture"))
        if self.ending:
            parts.append("the sweep's curves, the recommendation and the report")
        return ", ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@dataclass
class _Logged:
    """What MLflow has of a trial."""

    run_id: str
    rung: int = -1
    pictures: int = 0
    status: str = ""
    error: str = ""


@dataclass
class _Parent:
    """The parent run, and how many trainings it says have ended, by train size."""

    run_id: str
    finished: dict[int, int] = field(default_factory=dict)


class Mirror:
    """Brings MLflow up to date with a run; whatever MLflow raises passes through, and can be tried again."""

    def __init__(self, tracked: Tracked) -> None:
        quiet_mlflow()
        self.steps = 0
        """Rises with all that was logged: what makes progress is worth waiting for."""
        self.reading_seconds = 0.0
        """What reading the table, and working out what it amounts to, took the last time; its rows grow."""
        self._tracked = tracked
        self._params = ("method", "train_size", *tracked.declared.parameters)
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._parent = _Parent("")
        self._trials: dict[str, _Logged] = {}
        self._failures: Counter[tuple[str, str]] = Counter()
        self._ended = False

    @property
    def uri(self) -> str:
        return self._tracked.uri

    @property
    def parent(self) -> str:
        """The id of the parent run, empty before MLflow has answered."""
        return self._parent.run_id

    @property
    def link(self) -> str:
        """Where a browser shows the parent run, without secrets; empty before MLflow has answered.

        For a database it is where `mlflow ui` shows it, on its usual port.
        """
        served = urlsplit(self._tracked.uri)
        page = f"#/experiments/{self._experiment}/runs/{self.parent}"
        if not self.parent or served.scheme not in {"http", "https", *DATABASE_ENGINES}:
            return ""
        if not served.scheme.startswith("http"):
            return f"{LOCAL_UI}/{page}"
        host = served.netloc.rpartition("@")[2]
        return f"{served.scheme}://{host}{served.path.rstrip('/')}/{page}"

    @property
    def is_file(self) -> bool:
        """Whether MLflow is a database of this process's own: slow to set up, and never out of reach."""
        return self._tracked.uri.startswith("sqlite")

    def run_of(self, trial_id: str) -> tuple[MlflowClient, str]:
        """MLflow, and the id of a trial's run there. KeyError where it has none."""
        return self._connected(), self._trials[trial_id].run_id

    def look(self) -> Missing:
        """Ask MLflow what it has, and say what it lacks."""
        self._connected()
        return self.missing()

    def update(self, go_on: Callable[[], bool] = lambda: True) -> None:
        """Log all that MLflow lacks of the table, until `go_on` says no; what failed before comes last."""
        client, started = self._connected(), time.monotonic()
        results = self._results()
        table = _by_trial(results)
        self.reading_seconds = time.monotonic() - started
        work = [(self._log_figures, trial_id) for trial_id in table if self._lacks_figures(table[trial_id])]
        work += [(self._log_pictures, trial_id) for trial_id in table if self._rungs_without(table[trial_id])]
        for log, trial_id in sorted(work, key=lambda job: self._failures[job[0].__name__, job[1]]):
            if not go_on():
                return
            try:
                log(client, table[trial_id])
            except Exception:
                self._failures[log.__name__, trial_id] += 1
                self._client = None  # whether the server has it is asked anew
                raise
            self.steps += 1
        if go_on():
            started = time.monotonic()
            self._log_points(client, results)
            self.reading_seconds += time.monotonic() - started

    def end(self, ending: Ending) -> None:
        """Log how the sweep ended to the parent run, and close it."""
        client, parent = self._connected(), self._parent.run_id
        self._log_points(client, self._results())
        before = client.get_run(parent).data.tags
        for name in before.keys() - ending.tags.keys():
            if re.fullmatch(r"n\d+\..+", name):  # of an earlier end
                client.delete_tag(parent, name)
        tags = [_tag(name, value) for name, value in ending.tags.items()]
        for start in range(0, len(tags), _MAX_TAGS):
            client.log_batch(parent, tags=tags[start : start + _MAX_TAGS])
            self.steps += 1
        for path in ending.files:
            client.log_artifact(parent, str(path))
            self.steps += 1
        for name, page in ending.pages.items():
            client.log_text(parent, page, name)
            self.steps += 1
        client.set_terminated(parent, status=ending.status)
        self._ended = True

    def missing(self) -> Missing:
        """What MLflow lacks, as far as it has answered."""
        table = _by_trial(self._results())
        late = [rows for rows in table.values() if self._lacks_figures(rows)]
        return Missing(
            rows=sum(sum(row["rung"] > self._logged(rows).rung for row in rows) for rows in late),
            trials=len(late),
            pictures=sum(len(self._rungs_without(rows)) for rows in table.values()),
            ending=not self._ended,
        )

    def _results(self) -> Results:
        return load_results(self._tracked.run.results, self._tracked.declared)

    def _logged(self, rows: Rows) -> _Logged:
        return self._trials.get(rows[0]["trial_id"], _Logged(""))

    def _lacks_figures(self, rows: Rows) -> bool:
        logged, last = self._logged(rows), rows[-1]
        state = (last["rung"], last["status"], _cut(last["error"]))
        return not logged.run_id or (logged.rung, logged.status, logged.error) != state

    def _rungs_without(self, rows: Rows) -> list[int]:
        """The rungs whose picture MLflow lacks; where nothing was sampled there is none."""
        sampled = (row["rung"] for row in rows if row["n_samples"])
        return [rung for rung in sampled if rung > self._logged(rows).pictures]

    def _connected(self) -> MlflowClient:
        """The client, once MLflow has told what it has of the run; what is not there yet is made."""
        if self._client is None:
            client = MlflowClient(tracking_uri=self._tracked.uri)
            self._experiment = self._experiment_id(client)
            known = list(self._runs(client))
            self._parent = self._open_parent(client, known)
            self._trials = {
                run.data.tags["trial_id"]: _read(run) for run in reversed(known) if _is_trial(run)
            }
            self._client = client
            self.steps += 1
        return self._client

    def _experiment_id(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        artifacts = None
        if self._tracked.uri.startswith("sqlite:///"):
            database = Path(self._tracked.uri.removeprefix("sqlite:///").partition("?")[0])
            artifacts = (database.parent / "mlartifacts").resolve().as_uri()
        return str(client.create_experiment(EXPERIMENT, artifact_location=artifacts))

    def _runs(self, client: MlflowClient) -> Iterator[Run]:
        """The parent run and the runs of the trials, a page at a time."""
        token = None
        while True:
            page = client.search_runs(
                [self._experiment],
                f"tags.run_uuid = '{self._tracked.uuid}'",
                max_results=PAGE,
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def _open_parent(self, client: MlflowClient, known: Iterable[Run]) -> "_Parent":
        """The parent run, with what was asked for and the images, as far as it has not got them."""
        run = next((run for run in known if run.data.tags.get("kind") == "sweep"), None)
        if run is None:
            name = self._tracked.run.name
            tags = {"kind": "sweep", "sweep_run": name, "space": self._tracked.space}
            tags = {key: _cut(value) for key, value in tags.items()} | {"run_uuid": self._tracked.uuid}
            run = client.create_run(self._experiment, run_name=_cut(name, 250), tags=tags)
        elif run.info.status != "RUNNING" and not self._ended:
            client.update_run(run.info.run_id, "RUNNING")
        parent = _Parent(str(run.info.run_id), _finished(run))
        config = self._tracked.run.config(self._tracked.declared)
        asked = tracked_sweep.parameters(config).items()
        params = [Param(name, _cut(value)) for name, value in asked if name not in run.data.params]
        for start in range(0, len(params), _MAX_TAGS):
            client.log_batch(parent.run_id, params=params[start : start + _MAX_TAGS])
        images = tracked_sweep.dataset(config, self._tracked.run.read_environment())
        if images is not None and not (run.inputs and run.inputs.dataset_inputs):
            client.log_inputs(parent.run_id, [images])
        return parent

    def _log_points(self, client: MlflowClient, results: Results) -> None:
        """Log what the trainings that have ended since the last call amount to."""
        config = self._tracked.run.config(self._tracked.declared)
        for size in map(results.size, results.sizes()):
            history, logged = tracked_sweep.ended_trainings(size, config), self._parent.finished
            before = logged.get(size.train_size, 0)
            if len(history) <= before:
                continue
            metrics = list(tracked_sweep.points(size, history, before))
            for start in range(0, len(metrics), _MAX_METRICS):
                client.log_batch(self._parent.run_id, metrics=metrics[start : start + _MAX_METRICS])
            client.set_tag(self._parent.run_id, f"{_FINISHED}{size.train_size}", str(len(history)))
            logged[size.train_size] = len(history)
            self.steps += 1

    def _log_figures(self, client: MlflowClient, rows: Rows) -> None:
        """Log the rows of a trial that its run lacks, and its status."""
        last = rows[-1]
        logged = self._trials.get(last["trial_id"]) or self._open_trial(client, rows[0])
        if logged.rung < 0:
            client.log_batch(logged.run_id, params=list(self._parameters(last)))
        metrics = [metric for row in rows if row["rung"] > logged.rung for metric in self._metrics(row)]
        for start in range(0, len(metrics), _MAX_METRICS):
            client.log_batch(logged.run_id, metrics=metrics[start : start + _MAX_METRICS])
        if last["status"] == "running":
            client.update_run(logged.run_id, "RUNNING")
        else:
            status, end = RUN_STATUS[last["status"]], _milliseconds(last)
            client.set_terminated(logged.run_id, status=status, end_time=end or None)
        rung, status, error = last["rung"], last["status"], _cut(last["error"])
        tags = [_tag("rung", str(rung)), _tag("status", status)]
        if error or logged.error:
            tags.append(_tag("error", error))
        client.log_batch(logged.run_id, tags=tags)
        logged.rung, logged.status, logged.error = rung, status, error

    def _parameters(self, row: Mapping[str, Any]) -> Iterator[Param]:
        """The method, what was chosen for it and, of a noise level that has one, its step as NAME_step."""
        yield from (Param(name, str(row[name])) for name in self._params)
        for parameter in self._tracked.declared.method(row["method"]).parameters:
            if parameter.schedule is not None:
                yield Param(f"{parameter.name}_step", str(parameter.schedule.step(row[parameter.name])))

    def _metrics(self, row: Mapping[str, Any]) -> Iterator[Metric]:
        """The numbers of a row; those of a branched trial have names of their own, so as to mix with none."""
        prefix = BRANCHED if row["branched_at"] else ""
        first = [*self._tracked.declared.objectives]  # a chart of MLflow begins with the first one
        for name in dict.fromkeys([*first, *row]):
            value = row[name]
            if name in {*self._params, *_BOOKKEEPING} or not isinstance(value, (int, float)):
                continue
            if not math.isnan(value):
                yield _metric(f"{prefix}{CALLED.get(name, name)}", value, row)
        for level, gap in gaps(row).items():
            yield _metric(f"{prefix}{GAP}{level:g}", gap, row)

    def _open_trial(self, client: MlflowClient, row: Mapping[str, Any]) -> _Logged:
        tags = {
            MLFLOW_PARENT_RUN_ID: self._parent.run_id,
            "run_uuid": self._tracked.uuid,
            "trial_id": row["trial_id"],
            "method": row["method"],
            "train_size": str(row["train_size"]),
            "seed": str(row["seed"]),
        }
        named = ("confirms", "controls", "branched_at", "device")
        tags |= {name: str(row[name]) for name in named if row.get(name)}
        began, name = _milliseconds(row) or None, row["trial_id"]
        run = client.create_run(self._experiment, start_time=began, tags=tags, run_name=name)
        self._trials[row["trial_id"]] = _Logged(str(run.info.run_id))
        return self._trials[row["trial_id"]]

    def _log_pictures(self, client: MlflowClient, rows: Rows) -> None:
        """Log the pictures that a trial's run lacks, also when a process was killed before it noted that."""
        logged, lacking = self._logged(rows), self._rungs_without(rows)
        there = [file.path for file in client.list_artifacts(logged.run_id, "images")]
        for row in (row for row in rows if row["rung"] in lacking):
            step, content = int(row["images_seen"]), self._grid(row)
            if content is None or any(re.search(rf"/samples[+%]step[+%]{step}[+%]", path) for path in there):
                continue
            client.log_image(
                logged.run_id,
                content,
                key="samples",
                step=step,
                timestamp=_milliseconds(row) or None,
                synchronous=True,
            )
            self.steps += 1
        client.set_tag(logged.run_id, "pictures", str(rows[-1]["rung"]))
        logged.pictures = rows[-1]["rung"]

    def _grid(self, row: Mapping[str, Any]) -> Image.Image | None:
        """The picture of a rung; None where there is none that can be read as one."""
        content = self._tracked.storage.read(grid_name(row["trial_id"], row["rung"]))
        if content is None:
            return None
        try:
            picture = Image.open(io.BytesIO(content), formats=["PNG"])
            picture.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
        return picture


def _by_trial(results: Results) -> dict[str, Rows]:
    """The rows of each trial by rising rung, the trials in the order of the table."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for row in results.frame.sort_values("rung", kind="stable").to_dict("records"):
        rows.setdefault(row["trial_id"], []).append({str(name): value for name, value in row.items()})
    return dict(rows)


def _finished(run: Run) -> dict[int, int]:
    """How many points of its curves a parent run says that it has, by train size."""
    tags = run.data.tags.items()
    return {
        _number(name.removeprefix(_FINISHED), 0): _number(count, 0)
        for name, count in tags
        if name.startswith(_FINISHED)
    }


def _read(run: Run) -> _Logged:
    """What a trial's run says that it holds."""
    tags = run.data.tags
    return _Logged(
        run_id=str(run.info.run_id),
        rung=_number(tags.get("rung"), -1),
        pictures=_number(tags.get("pictures"), 0),
        status=tags.get("status", ""),
        error=tags.get("error", ""),
    )


def _is_trial(run: Run) -> bool:
    return "trial_id" in run.data.tags and run.data.tags.get("kind") != "sweep"


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text is not None and text.isdecimal() else otherwise


def _metric(name: str, value: float, row: Mapping[str, Any]) -> Metric:
    return Metric(name, float(value), _milliseconds(row), int(row["images_seen"]))


def _milliseconds(row: Mapping[str, Any]) -> int:
    """When a row was recorded, since 1970; 0 in tables of older versions, which do not say."""
    seconds = row["recorded_at"]
    return 0 if math.isnan(seconds) else int(seconds * 1000)


def _cut(text: str, longest: int = LONGEST_TAG) -> str:
    """A text without secrets that every store takes whole."""
    return redact(text)[:longest]


def _tag(name: str, value: str) -> RunTag:
    return RunTag(name, _cut(value))
