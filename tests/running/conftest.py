"""Tracking servers: one that answers, can die and come back, and one that never answers."""

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils as tracking
from werkzeug.serving import BaseWSGIServer, make_server


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file that MLflow has set up, which takes it seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def silent_port() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    accepted.append(server.accept()[0])
            except OSError:  # closed
                return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    for connection in accepted:
        connection.close()


class MlflowServer:
    """MLflow's own server over a SQLite file, in a thread of this process."""

    def __init__(self) -> None:
        self.store = os.environ["_MLFLOW_SERVER_FILE_STORE"]
        from mlflow.server import app, handlers

        handlers._tracking_store = None
        self._app, self._server = app, self._listen(app, 0)
        self.port = self._server.port

    @staticmethod
    def _listen(app: object, port: int) -> BaseWSGIServer:
        server = make_server("127.0.0.1", port, app, threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def die(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def come_back(self) -> None:
        self._server = self._listen(self._app, self.port)


@pytest.fixture
def server(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    """Its store and artifacts lie in the test's folder."""
    shutil.copy(empty_store, tmp_path / "server.db")
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{tmp_path / 'server.db'}")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", (tmp_path / "artifacts").as_uri())
    monkeypatch.setattr(tracking, "set_tracking_uri", lambda uri: None)  # this process is the client too
    server = MlflowServer()
    yield server
    server.die()
