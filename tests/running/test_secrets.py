"""A canary in the place of a password: no file and no stream of a whole sweep holds it."""

import os
import sqlite3
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytestmark = pytest.mark.slow

CANARY = "CANARY8842"
TINY = [
    "training.images=1600", "evaluation.n_samples=40", "evaluation.fid_encoder=pixels",
    "evaluation.similarity_encoder=pixels", "search.confirm.candidates=0", "search.trials=1",
]  # fmt: skip


def sweep(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    changes = [word for change in TINY for word in ("--set", change)] if "smoke" in arguments else []
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    places = {"TMPDIR": str(folder / "tmp"), "RAY_TMPDIR": str(folder / "ray")}
    environment = {**inherited, **places, **more}
    return subprocess.run(
        [sys.executable, "-m", "pareto_amb", "sweep", *arguments, *changes],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip


def contents(path: Path) -> Iterator[bytes]:
    """What a file holds, as it is and unpacked."""
    yield path.read_bytes()
    if path.suffix == ".parquet":
        yield pd.read_parquet(path).to_csv().encode()
    elif path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            yield from map(archive.read, archive.namelist())
    elif path.suffix == ".db":
        connection = sqlite3.connect(path)
        yield "\n".join(connection.iterdump()).encode()
        connection.close()


def test_no_file_and_no_stream_of_a_sweep_holds_the_password(tmp_path: Path, server: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="a", dir="/tmp") as short:  # the path of a socket is short
        folder = Path(short)
        (folder / "tmp").mkdir()
        (folder / "ray").mkdir()
        uri = f"http://me:{CANARY}@127.0.0.1:{server.port}"
        secrets = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_TRACKING_TOKEN": f"{CANARY}-token"}
        done = sweep(folder, "smoke", "--output", "run", **secrets)
        assert done.returncode == 0, done.stdout + done.stderr
        refused = sweep(folder, "--resume", "run")
        assert (refused.returncode, "set MLFLOW_TRACKING_URI" in refused.stderr) == (2, True)
        for one in (done, refused):
            assert CANARY not in one.stdout + one.stderr
        assert f"http://***@127.0.0.1:{server.port}" in (folder / "run" / "environment.json").read_text()
        looked = 0
        for place in (folder, tmp_path):
            for path in place.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    looked += 1
                    assert not any(CANARY.encode() in content for content in contents(path)), path
        assert looked > 30
