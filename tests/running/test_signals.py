"""A sweep that is stopped or loses its Ray, run as a user runs it: what it says, leaves and ends."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors import safe_open

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes by /proc"),
]

SWEEP = "smoke evaluation.n_samples=40 evaluation.fid_encoder=pixels evaluation.similarity_encoder=pixels"
ENDLESS = "training.images=100000000 training.checkpoint_seconds=8 search.confirm.candidates=0"
SECONDS = 120.0
"""How long a sweep may take to reach its trials."""


def processes() -> dict[int, tuple[int, str]]:
    """All processes: their parent, and what they are called by ps."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            stat = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if stat[0] != "Z":
                found[int(folder.name)] = int(stat[1]), title
    return found


def below(ancestor: int) -> dict[int, str]:
    """The processes that one has started, and those that these have."""
    found = processes()
    inside = {ancestor}
    for _ in range(6):
        inside |= {pid for pid, (parent, _) in found.items() if parent in inside}
    return {pid: found[pid][1] for pid in inside - {ancestor}}


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


class Sweep:
    """A sweep whose trials train; it ends at the latest with its test."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pareto_amb", "sweep", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, title: str) -> int:
        """The number of a process of the sweep that is called so."""
        found: list[int] = []

        def there() -> bool:
            found[:] = [pid for pid, name in below(self.process.pid).items() if title in name]
            return bool(found)

        self.until(there)
        return found[0]

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something while the sweep runs."""

        def holds() -> bool:
            assert self.process.poll() is None, self.process.communicate()
            return condition()

        until(holds, SECONDS, "the sweep does not get there")

    def end(self, seconds: float) -> tuple[int, str]:
        """Its exit code and stderr."""
        _, error = self.process.communicate(timeout=seconds)
        return self.process.returncode, error


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    started: list[Sweep] = []

    def start(*arguments: str) -> Sweep:
        started.append(Sweep(tmp_path, *arguments))
        return started[-1]

    yield start
    for one in started:
        with suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.communicate()


@pytest.fixture
def _store(tmp_path: Path, empty_store: Path) -> None:
    """MLflow's store, which takes seconds to make."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")


def seen(folder: Path) -> list[int]:
    """How many images each checkpoint of a run has seen."""
    found = []
    for path in sorted(folder.glob("checkpoints/*.safetensors")):
        with safe_open(path, "pt") as file:
            header = file.metadata()["pareto_amb"]
        found.append(int(header.partition('"images_seen": ')[2].partition(",")[0]))
    return found


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_store", "two_workers")
def test_a_stopped_sweep_says_how_to_go_on_and_loses_nothing(
    tmp_path: Path, sweep: Callable[..., Sweep]
) -> None:
    space, *keys = f"{SWEEP} {ENDLESS}".split()
    run, line = tmp_path / "run", "stopped; continue with: pareto-amb sweep --resume run\n"
    first = sweep(space, "--output", "run", *(word for key in keys for word in ("--set", key)))
    first.until(lambda: seen(run) != [])
    before = seen(run)
    first.process.send_signal(signal.SIGTERM)
    assert first.end(60) == (143, line)
    assert sum(seen(run)) > sum(before)  # sooner than the next checkpoint was due

    second, before = sweep("--resume", "run"), seen(run)
    second.until(lambda: seen(run) != before)
    before = seen(run)
    os.killpg(second.process.pid, signal.SIGINT)  # as a terminal does
    assert second.end(60) == (130, line)
    assert sum(seen(run)) > sum(before)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("_store")
@pytest.mark.parametrize(("name", "place"), [("raylet", "raylet/raylet"), ("GCS", "gcs/gcs_server")])
def test_a_lost_ray_is_named_within_seconds(
    tmp_path: Path, sweep: Callable[..., Sweep], name: str, place: str
) -> None:
    """A worker's arguments name the raylet, too: by its socket."""
    space, *keys = f"{SWEEP} {ENDLESS}".split()
    running = sweep(space, "--output", "run", *(word for key in keys for word in ("--set", key)))
    running.wait_for(".train")
    os.kill(running.wait_for(f"/ray/{place} "), signal.SIGKILL)
    code, error = running.end(20)
    assert code == 1
    assert error.startswith(
        f"pareto-amb: error: Ray's {name} process has died (what Ray said is in run/ray.log)"
    )
    assert error.endswith("; continue with: pareto-amb sweep --resume run\n")
    assert error.count("\n") == 1


def test_a_sweep_that_is_stopped_before_its_trials_leaves_nothing(
    tmp_path: Path, sweep: Callable[..., Sweep]
) -> None:
    starting = sweep("smoke", "--output", "run")
    starting.wait_for("gcs_server")
    starting.process.send_signal(signal.SIGTERM)
    assert starting.end(30) == (143, "stopped\n")
    assert list(tmp_path.iterdir()) == []
