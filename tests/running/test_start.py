"""What is refused before a sweep starts, and what is left of it then: nothing."""

import socket
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from rich.console import Console

from pareto_amb import search_spaces
from pareto_amb.config_file import apply_overrides
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.errors import UserError
from pareto_amb.running.start import start_sweep
from pareto_amb.sweep_file import declare, parse_sweep

PIXELS = ["evaluation.fid_encoder=pixels", "evaluation.similarity_encoder=pixels"]


def start(path: Path, *changes: str, **options: Any) -> None:
    config = parse_sweep(apply_overrides(search_spaces.load("smoke"), [*PIXELS, *changes]), "smoke")
    start_sweep(config, path, declare(), METHODS, console=Console(quiet=True), **options)


def test_data_that_cannot_be_used_leave_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent"):
        start(tmp_path / "run", "data.source=images", f"data.path={tmp_path / 'absent'}")
    assert not (tmp_path / "run").exists()


def test_a_cluster_that_does_not_answer_leaves_no_run_directory(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(UserError, match="nothing answers there"):
            start(tmp_path / "run", address=address)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_something_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty; name another --output"):
        start(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_two_sweeps_never_share_a_run_directory(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another sweep is running in it"):
        start(tmp_path, resumed=True)
    assert not (tmp_path / "sweep.yaml").exists()


def test_an_mlflow_server_that_cannot_be_used_is_refused_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    monkeypatch.setattr("pareto_amb.running.start.run_sweep", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(UserError, match="MLflow at nonsense://x: cannot be used"):
        start(tmp_path / "run")
