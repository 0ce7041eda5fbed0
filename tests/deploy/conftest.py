"""What the tests of services and jobs share."""

import socket
from collections.abc import Callable

import pytest

SETTINGS = (
    "training.images=1600", "evaluation.n_samples=40", "evaluation.fid_encoder=pixels",
    "evaluation.similarity_encoder=pixels", "search.trials=1", "search.startup_trials=1",
    "search.baseline_seeds=1", "search.confirm.candidates=0",
)  # fmt: skip


@pytest.fixture(scope="session")
def smallest() -> list[str]:
    """Options of a sweep that trains twice, for a moment."""
    return [word for setting in SETTINGS for word in ("--set", setting)]


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Names a port of loopback that nobody listens at."""

    def find() -> int:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port: int = server.getsockname()[1]
            return port

    return find
