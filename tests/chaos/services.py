"""An S3 and an MLflow server on this machine, in front of which requests are delayed, refused or dropped."""

import logging
import os
import random
import re
import socket
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import RunData
from mlflow.tracking._tracking_service import utils as tracking
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}

SLOW_SECONDS = 4.0
"""More than a client of S3 waits for by itself."""

SHARE = {"500": 0.5, "503": 0.5, "drops": 0.5, "slow": 0.3, "gone": 1.0}
"""Of the requests, so many are treated so."""


class Troubled:
    """A WSGI application that for some seconds treats a share of its requests as `SHARE` names it.

    It notes when a trial's checkpoint was last written, or asked for by the trial as it begins.
    """

    def __init__(self, application: Application) -> None:
        self._application, self._draw = application, random.Random(0)
        self._how, self._until = "", 0.0
        self.struck = 0
        self.written = defaultdict[str, list[float]](list)
        self.begun = defaultdict[str, list[float]](list)

    def trouble(self, how: str, seconds: float) -> None:
        """Begin; what was under way before ends."""
        self._how, self._until = how, time.monotonic() + seconds

    @property
    def troubled(self) -> bool:
        """Whether it is in trouble now."""
        return time.monotonic() < self._until

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        how = self._how if self.troubled else ""
        if not how or self._draw.random() >= SHARE[how]:
            return self._answer(environ, start)
        self.struck += 1
        if how == "slow":
            time.sleep(SLOW_SECONDS)
            return self._answer(environ, start)
        if how in ("drops", "gone"):
            if how == "drops" and self._draw.random() < 0.5:  # the answer is lost, not the request
                self._answer(environ, lambda *_: None)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start(f"{how if how.isdecimal() else 500} Trouble", [("Content-Length", "0")])
        return [b""]

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        answer = self._application(environ, start)
        found = re.search(r"/checkpoints/([^/]+)\.safetensors$", environ["PATH_INFO"])
        if found:
            reads = environ["REQUEST_METHOD"] in ("GET", "HEAD")
            (self.begun if reads else self.written)[found[1]].append(time.monotonic())
        return answer


@dataclass
class Services:
    """What serves, and where."""

    host: str
    store: Troubled
    store_port: int
    mlflow: Troubled
    mlflow_port: int
    database: Path
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = {**KEYS, "MLFLOW_TRACKING_URI": f"http://{self.host}:{self.mlflow_port}"}

    @property
    def troubled(self) -> bool:
        """Whether one of them is in trouble now."""
        return self.store.troubled or self.mlflow.troubled

    def wait(self) -> None:
        """Until none is."""
        while self.troubled:
            time.sleep(0.2)

    def storage(self, name: str) -> str:
        """The URI of a place for a sweep."""
        return f"s3://sweeps/{name}?endpoint_override={self.host}:{self.store_port}&scheme=http"

    def tracked(self, uuid: str) -> dict[str, RunData]:
        """What MLflow has of each trial of a run, asked of its database."""
        client = MlflowClient(tracking_uri=f"sqlite:///{self.database}")
        experiment = client.get_experiment_by_name("pareto-amb")
        found = client.search_runs([experiment.experiment_id], f"tags.run_uuid = '{uuid}'", max_results=1000)
        named = {run.data.tags.get("trial_id", ""): run for run in found}
        assert len(named) == len(found), "MLflow has a run twice"
        open_ones = [trial for trial, run in named.items() if run.info.status == "RUNNING"]
        assert not open_ones, f"MLflow has them as running: {open_ones}"
        return {trial: run.data for trial, run in named.items() if trial}


@contextmanager
def served(folder: Path, host: str = "127.0.0.1") -> Iterator[Services]:
    """Both services at an address of this machine, for the length of the block."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = Troubled(DomainDispatcherApplication(create_backend_app))
    database = folder / "server.db"
    before = {
        name: os.environ.get(name) for name in ("_MLFLOW_SERVER_FILE_STORE", "_MLFLOW_SERVER_ARTIFACT_ROOT")
    }
    os.environ["_MLFLOW_SERVER_FILE_STORE"] = f"sqlite:///{database}"
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = (folder / "artifacts").as_uri()
    from mlflow.server import app, handlers

    handlers._tracking_store, set_uri = None, tracking.set_tracking_uri
    tracking.set_tracking_uri = lambda uri: None  # this process may be a client, too
    mlflow = Troubled(app)
    servers = [make_server(host, 0, each, threaded=True) for each in (store, mlflow)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    bucket = f"http://{host}:{servers[0].port}/sweeps"
    urllib.request.urlopen(urllib.request.Request(bucket, data=b"", method="PUT")).close()
    asked = f"http://{host}:{servers[1].port}/api/2.0/mlflow/experiments/search?max_results=1"
    urllib.request.urlopen(asked, timeout=200).close()  # the first answer takes long
    try:
        yield Services(host, store, servers[0].port, mlflow, servers[1].port, database)
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        handlers._tracking_store, tracking.set_tracking_uri = None, set_uri
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
