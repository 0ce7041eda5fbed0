"""The line of docs/cluster.md that submits a sweep as a Ray job, against a head on this machine.

The head of a cluster needs more of Ray than a sweep does, the extra `cluster`: without it this is skipped.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pareto_amb.results.table import load_results

pytest.importorskip("aiohttp_cors", reason="ray[default] is not installed: pip install pareto-amb[cluster]")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    path = f"{ROOT / 'deploy'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    known = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return known | {"PATH": path, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture
def dashboard(free_port: Callable[[], int]) -> Iterator[int]:
    """The port at which the head of a cluster takes jobs."""
    folder, port = tempfile.mkdtemp(prefix="head-"), free_port()
    places = ["--node-ip-address=127.0.0.1", f"--port={free_port()}", f"--temp-dir={folder}"]
    front = [
        f"--dashboard-port={port}",
        "--dashboard-host=127.0.0.1",
        f"--ray-client-server-port={free_port()}",
    ]
    head = subprocess.Popen(
        ["ray", "start", "--head", "--num-cpus=1", *places, *front, "--block"],
        env=environment() | {"RAY_TMPDIR": folder, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/jobs/", timeout=5).close()
                break
            except OSError:
                assert head.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield port
    finally:
        head.terminate()
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_sweep_is_submitted_by_the_documented_line(
    dashboard: int, smallest: list[str], tmp_path: Path
) -> None:
    documented = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ +(ray job submit .*)$", documented, re.MULTILINE)
    words = line.split()
    assert words[:7] == ["ray", "job", "submit", "--address", "http://HEAD:8265", "--", "sweep.sh"]
    submit = [*words[:4], f"http://127.0.0.1:{dashboard}", *words[5:7], str(tmp_path / "run"), "smoke"]
    chosen = [*smallest, "--set", f"storage={tmp_path / 'shared'}"]
    done = subprocess.run([*submit, *chosen], env=environment(), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = load_results(tmp_path / "run" / "results.parquet").frame
    assert set(rows.status) == {"complete"}
    assert (tmp_path / "shared" / "checkpoints").is_dir()
