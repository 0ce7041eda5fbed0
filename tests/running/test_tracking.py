from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pareto_amb import search_spaces
from pareto_amb.errors import UserError
from pareto_amb.results.recommend import Recommendation
from pareto_amb.results.table import columns, shipped
from pareto_amb.running.tracking import Tracker, tracking_uri
from pareto_amb.sweep_file import parse_sweep

CONFIG = parse_sweep(search_spaces.load("smoke"), "smoke")
DECLARED = shipped()


def row(**more: Any) -> dict[str, Any]:
    numbers = {name: 1 for name, column in columns(DECLARED).items() if column.dtype != "str"}
    words = {"trial_id": "n50-ddpm-s0", "method": "ddpm", "status": "running", "error": ""}
    return {**numbers, **words, **more}


def open_tracker(folder: Path) -> Tracker:
    return Tracker(f"sqlite:///{folder / 'mlflow.db'}", "run", CONFIG, DECLARED)


def trial_runs(folder: Path) -> list[Any]:
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("pareto-amb")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    return [run for run in runs if "trial_id" in run.data.tags]


@pytest.mark.slow
def test_a_resumed_sweep_logs_on_into_the_same_runs(tmp_path: Path) -> None:
    open_tracker(tmp_path).log_row(row(rung=1, images_seen=10, fid=5.0), {})
    open_tracker(tmp_path).log_row(row(rung=2, images_seen=20, fid=4.0, status="complete"), {})
    (run,) = trial_runs(tmp_path)
    assert run.data.metrics["fid"] == 4.0
    assert run.info.status == "FINISHED"
    assert set(run.data.params) == {"method", "train_size", *DECLARED.parameters, "seed"}
    numbers = {name for name, column in columns(DECLARED).items() if column.dtype == "float64"}
    expected = numbers - set(DECLARED.parameters) - {"recorded_at"} | {"n_samples"}
    assert set(run.data.metrics) == expected


@pytest.mark.slow
def test_a_paused_trial_is_closed_and_opened_again_when_it_resumes(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path)
    tracker.log_row(row(rung=1, images_seen=10, fid=5.0, status="paused"), {})
    (run,) = trial_runs(tmp_path)
    assert (run.info.status, run.data.tags["status"]) == ("KILLED", "paused")
    tracker.log_status(row(rung=1, images_seen=10, fid=5.0))
    (run,) = trial_runs(tmp_path)
    assert (run.info.status, run.data.tags["status"]) == ("RUNNING", "running")
    tracker.log_row(row(rung=2, images_seen=20, fid=4.0, status="complete"), {})
    (run,) = trial_runs(tmp_path)
    assert run.info.status == "FINISHED"
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert [m.step for m in client.get_metric_history(run.info.run_id, "fid")] == [10, 20]


def test_a_failed_trial_carries_its_reason(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path)
    tracker.log_row(row(fid=float("nan"), status="failed", error="out of memory"), {})
    (run,) = trial_runs(tmp_path)
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "out of memory"
    assert "fid" not in run.data.metrics
    assert tracker.problem == ""


def spread(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value}


def recommendation(**more: Any) -> Recommendation:
    ddpm = {"seeds": 2, "fid": spread(9.0), "memorization": spread(0.3)}
    chosen = {"sigma_tn": 0.5, "mix_ratio": 0.5}
    fixed = {"train_size": 50, "policy": "match-ddpm", "parameters": chosen, "sigma_tn_vp": 0.4}
    figures = {"fid": spread(8.0), "memorization": spread(0.1), "baseline": ddpm, "heldout_memorization": 0.0}
    rest = {"trial_id": "t", "window": None, "early_stop": None, "summary": ""}
    return Recommendation.model_validate({**fixed, **figures, **rest, **more})


@pytest.mark.slow
def test_what_is_recommended_and_how_it_was_confirmed_is_on_the_parent_run(tmp_path: Path) -> None:
    confirmation = {
        "trials": ["t-c1"], "search_fid": 7.0, "search_memorization": 0.05, "fid_change": 1.0,
        "memorization_change": 0.05,
    }  # fmt: skip
    tracker = open_tracker(tmp_path)
    tracker.log_recommendation(recommendation(interval=(0.3, 0.6), confirmation=confirmation))
    tracker.log_row(row(trial_id="t-c1", confirms="t"), {})
    assert tracker.problem == ""
    client = MlflowClient(tracking_uri=tracker.uri)
    tags = client.get_run(tracker._parent).data.tags
    assert tags.items() >= {
        "n50.trial_id": "t", "n50.sigma_tn": "0.5", "n50.sigma_tn_low": "0.3", "n50.sigma_tn_high": "0.6",
        "n50.fid": "8.0", "n50.memorization": "0.1", "n50.search_memorization": "0.05",
        "n50.memorization_change": "0.05", "n50.fid_change": "1.0",
    }.items()  # fmt: skip
    (run,) = trial_runs(tmp_path)
    assert run.data.tags["confirms"] == "t"


@pytest.mark.slow
def test_a_server_lost_on_the_way_is_reported_and_does_not_stop_the_sweep(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path)
    tracker.log_row(row(), {})
    tracker._trials["n50-ddpm-s0"] = "no-such-run"
    tracker.log_row(row(rung=2), {})
    assert "no-such-run" in tracker.problem


def test_an_unusable_tracking_store_is_refused_before_any_trial(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MLflow at nonsense://x: cannot be used"):
        Tracker("nonsense://x", "run", CONFIG, DECLARED)


def test_the_environment_decides_where_to_track(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert tracking_uri("sqlite:///of-the-run.db") == "sqlite:///of-the-run.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert tracking_uri("sqlite:///of-the-run.db") == "http://server"
