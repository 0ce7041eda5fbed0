"""What a Python program calls: light to import, objects that show themselves, errors that name culprits."""

import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from typer.testing import CliRunner

import pareto_amb
from pareto_amb import search_spaces, signals
from pareto_amb.cli import app
from pareto_amb.config_file import to_yaml
from pareto_amb.results.table import ResultsTable, columns, shipped, trial_columns
from pareto_amb.sweep_file import parse_sweep
from pareto_amb.trial import Trial

DECLARED = shipped()
DIGITS = (load_digits().images * 255 / 16).astype(np.uint8)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A finished run: three seeds of DDPM and two trials of Algorithm 1."""
    path = tmp_path / "run <i>"
    path.mkdir()
    config = parse_sweep(search_spaces.load("smoke"), "smoke")
    (path / "sweep.yaml").write_text(to_yaml(config), encoding="utf-8")
    table = ResultsTable(path / "results.parquet", DECLARED)
    numbers: dict[str, Any] = {
        name: 1 for name, column in columns(DECLARED).items() if column.dtype != "str"
    } | {"branched_at": 0}
    trials = [Trial(f"n50-ddpm-s{k}", "ddpm", 50, k) for k in range(3)]
    trials += [
        Trial(f"n50-algorithm1-000{k}", "algorithm1", 50, k, {"sigma_tn": 0.2 + k, "mix_ratio": 0.5})
        for k in range(2)
    ]
    measured = [(100.0, 0.3), (104.0, 0.32), (96.0, 0.28), (101.0, 0.1), (150.0, 0.05)]
    for trial, (fid, copies) in zip(trials, measured, strict=True):
        figures = {"fid": fid, "memorization": copies, "heldout_memorization": 0.01}
        figures |= {"n_samples": 500, "status": "complete", "error": ""}
        table.record({**numbers, **trial_columns(trial, DECLARED), **figures})
    return path


def test_importing_is_light_and_offers_what_it_names() -> None:
    code = (
        "import sys, pareto_amb\n"
        "assert not {'torch', 'ray', 'pandas', 'pydantic'} & set(sys.modules), 'heavy'\n"
        "assert set(pareto_amb.__all__) <= set(dir(pareto_amb))\n"
        "pareto_amb.evaluate, pareto_amb.scan, pareto_amb.load_run, pareto_amb.sweep, pareto_amb.recommend\n"
        "import pareto_amb.scanning, pareto_amb.interface\n"
        "assert callable(pareto_amb.scan) and callable(pareto_amb.sweep)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="no attribute 'sweeep'"):
        pareto_amb.sweeep  # noqa: B018


def test_a_run_is_read_and_recommends(run_dir: Path) -> None:
    run = pareto_amb.load_run(run_dir)
    assert run.train_sizes() == [50]
    assert run.size(50).frontier.trial_id.tolist() == [
        "n50-ddpm-s0",
        "n50-algorithm1-0000",
        "n50-algorithm1-0001",
    ]
    assert len(run.frame) == 5
    found = pareto_amb.recommend(run)
    assert found.recommendations[0].trial_id == "n50-algorithm1-0000"
    assert pareto_amb.recommend(run_dir, "max-memorization", 0.06).recommendations[0].sigma_tn == 1.2
    with pytest.raises(pareto_amb.UserError, match="unknown policy 'kneee': did you mean 'knee'"):
        pareto_amb.recommend(run, "kneee")
    with pytest.raises(pareto_amb.UserError, match="nowhere"):
        pareto_amb.load_run("nowhere")


def test_objects_show_themselves_with_everything_escaped(run_dir: Path) -> None:
    run = pareto_amb.load_run(run_dir)
    shown = run._repr_html_()
    assert "run &lt;i&gt;" in shown
    assert "<i>" not in shown
    assert "fewer copies" in pareto_amb.recommend(run)._repr_html_()
    assert "<td>50</td>" in pareto_amb.scan(DIGITS[:200], [50])._repr_html_()


@pytest.mark.parametrize("images", [DIGITS[:200], torch.from_numpy(DIGITS[:200])], ids=["array", "tensor"])
def test_images_in_memory_are_scanned_like_those_of_a_source(images: Any) -> None:
    found = pareto_amb.scan(images, [50, 100])
    assert (found.total, found.shape) == (200, (1, 8, 8))
    assert [size.train_size for size in found.sizes] == [50, 100]
    named = pareto_amb.scan("digits", [100]).sizes[0]
    assert found.sizes[1].levels[0] == pytest.approx(named.levels[0], rel=0.2)  # other 100 of the digits
    with pytest.raises(pareto_amb.UserError, match="uint8"):
        pareto_amb.scan(DIGITS / 255, [50])


def test_images_in_memory_are_evaluated() -> None:
    train, heldout = DIGITS[:100], DIGITS[100:300]
    generated = np.concatenate([train[:20], DIGITS[300:380]])
    report = pareto_amb.evaluate(generated, train, heldout, encoders="pixels")
    assert report.identical.value == 0.2
    assert report.finding == "copies"
    assert "20.0%" in report._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give a search space"),
        ({"space": "digit"}, "did you mean 'digits'"),
        ({"space": "smoke", "changes": {"search.trails": 3}}, "did you mean 'trials'"),
        ({"space": {"name": "x"}}, "key 'data' is missing"),
        ({"space": "smoke", "changes": {"search": 3}}, "search"),
        ({"space": "smoke", "recipe": "text"}, "smoke: has no recipes"),
        ({"space": "ffhq300", "recipe": "relased"}, "did you mean 'released'"),
        ({"space": "ffhq300", "changes": {"recipe": "released"}}, "recipe=NAME"),
        ({"space": {"recipes": {"a": {}}}, "recipe": "b"}, "sweep: unknown recipe 'b'"),
        ({"space": {"recipes": {"a": {"name": "x"}}, "recipe": "a"}}, "key 'data' is missing"),
        ({"space": "smoke", "changes": {"search.methods": "masking"}}, "search.methods"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(pareto_amb.UserError, match=message):
        pareto_amb.sweep(output=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_how_to_go_on_names_all_that_was_given(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []

    def start(*_: Any, **__: Any) -> None:
        said.append(signals.hint())
        raise pareto_amb.UserError("enough")

    monkeypatch.setattr("pareto_amb.running.start.start_sweep", start)
    with pytest.raises(pareto_amb.UserError, match="enough"):
        pareto_amb.sweep(resume=run_dir, address="auto", trust_run=True)
    assert said == [f"pareto_amb.sweep(resume={str(run_dir)!r}, address='auto', trust_run=True)"]
    assert signals.hint() == ""
    command = ["sweep", "--resume", str(run_dir), "--address", "auto", "--trust-run"]
    CliRunner().invoke(app, command)
    assert shlex.split(said[1]) == ["pareto-amb", *command]
    CliRunner().invoke(app, command[:3])
    assert shlex.split(said[2]) == ["pareto-amb", *command[:3]]


def test_a_sweep_leaves_mlflow_in_a_program_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "folder-of-runs")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "false")
    logger, environment = logging.getLogger("sqlalchemy"), dict(os.environ)
    before = logger.level
    logger.setLevel(17)
    try:
        with pytest.raises(pareto_amb.UserError, match="cannot be used"):
            pareto_amb.sweep("smoke", tmp_path / "run")
        assert logger.level == 17
    finally:
        logger.setLevel(before)
    assert {name: os.environ.get(name) for name in {*environment, *os.environ}} == environment
