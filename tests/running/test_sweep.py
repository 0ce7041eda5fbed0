"""Whole sweeps on real digits, by the command line.

The sweep as shipped and those that are killed run in processes of their own; what follows them and the other
sweeps are called in this one, where imports are paid once.
"""

import io
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import optuna
import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from pareto_amb.cli import main
from pareto_amb.config import N_PROBED_LEVELS
from pareto_amb.results.confirm import worth_confirming
from pareto_amb.results.probes import log_errors
from pareto_amb.results.table import load_results, searched, shipped
from pareto_amb.search.early_stopping import OPTIMISM
from pareto_amb.search.extrapolation import extrapolate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OBJECTIVES = list(shipped().objectives)
HEARD = shipped().reported
COMMAND = [sys.executable, "-m", "pareto_amb"]
TINY = [
    "--set",
    "training.images=1600",
    "--set",
    "evaluation.n_samples=40",
    "--set",
    "evaluation.fid_encoder=pixels",
    "--set",
    "evaluation.similarity_encoder=pixels",
]


WAIT_SECONDS = 400
"""How long a test waits for a process; less than it is given itself."""

NO_REPEATS = ["--set", "search.confirm.candidates=0"]


def environment(workers: int = 1) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return {**inherited, "RAY_OVERRIDE_RESOURCES": f'{{"CPU": {workers}}}'}


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's store in a test's folder, which takes seconds to make."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")


def call(*arguments: str, cwd: Path, code: int | None = 0) -> tuple[str, str]:
    """What a command prints to stdout and stderr; it must end with `code`; None: any.

    A sweep has a process of its own: Ray ends the process that it is in where it finds something wrong.
    """
    if arguments[0] == "sweep" and "--dry-run" not in arguments:
        command = [*COMMAND, *arguments]
        done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True)
        assert code in (None, done.returncode), done.stdout + done.stderr
        return done.stdout, done.stderr
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, chdir(cwd), redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["pareto-amb", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
    assert code in (None, end.value.code or 0), out.getvalue() + err.getvalue()
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished smoke sweep, as shipped, and what it printed."""
    folder = tmp_path_factory.mktemp("smoke")
    command = [*COMMAND, "sweep", "smoke", "--output", "run"]
    done = subprocess.run(
        command, cwd=folder, env=environment(2), capture_output=True, text=True, timeout=800
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return folder, done.stdout


def test_the_sweep_leaves_every_file_of_a_run(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    names = {path.name for path in (folder / "run").iterdir()}
    assert {
        "sweep.yaml",
        "results.parquet",
        "study.db",
        "report.html",
        "recommendation.yaml",
        "environment.json",
        "samples",
        "checkpoints",
    } <= names


def assert_stopped_early(table: pd.DataFrame) -> None:
    """All of a search: what paused had no hope beside what was measured, and the others finished."""
    table = searched(table)
    rungs = table.groupby("trial_id").rung.apply(list)
    status = table.groupby("trial_id").status.first()
    assert set(status) <= {"complete", "paused"}
    assert rungs[status == "complete"].tolist() == [[1, 2, 3]] * (status == "complete").sum()
    assert (status[status.index.str.contains("ddpm")] == "complete").all()
    measured = {rung: rows.set_index("trial_id") for rung, rows in table.groupby("rung")}
    everything = table[OBJECTIVES].dropna().to_numpy()
    for trial_id, passed in rungs[status == "paused"].items():
        for later in range(max(passed[-1], 1) + 1, 4):
            before, after = measured[passed[-1]], measured[later]
            known = before.index.intersection(after.index)
            expected, error = extrapolate(
                heard(before.loc[known]),
                after.loc[known, OBJECTIVES].to_numpy(),
                heard(before.loc[[trial_id]]),
            )
            hoped = np.maximum(expected[0] - OPTIMISM * error, 0)
            assert ((everything <= hoped).all(axis=1) & (everything < hoped).any(axis=1)).any()


def heard(rows: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What a search was told of rows of one rung, without what that rung does not have."""
    probes = np.array([log_errors(row) for row in rows.to_dict("records")])
    told = np.hstack([rows[HEARD].to_numpy(), probes])
    return told[:, np.isfinite(told).any(axis=0)]


def test_the_table_has_a_row_for_every_trial_and_the_rungs_it_reached(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    table = pd.read_parquet(folder / "run" / "results.parquet")
    search = searched(table)
    assert search.trial_id.nunique() == 6
    assert_stopped_early(table)
    assert ("paused" in printed) == (search.status == "paused").any()
    assert (table[table.method == "ddpm"].sigma_tn == 0).all()
    assert table[table.method == "algorithm1"].sigma_tn.between(0.1, 2).all()
    figures = table[["fid", "similarity_mean", "heldout_memorization"]].notna()
    assert figures[table.rung > 1].all(axis=None)
    assert not figures[table.rung == 1].any(axis=None)  # probed alone
    assert (table.probe_heldout.map(len) == N_PROBED_LEVELS).all()
    fid = search.pivot_table(index="trial_id", columns="rung", values="fid").dropna()
    assert (fid[3] < fid[2]).all()
    assert table.heldout_memorization.dropna().between(0, 0.05).all()


def test_the_best_training_is_repeated_with_a_fresh_seed_and_a_control_when_the_search_is_over(
    finished: tuple[Path, str],
) -> None:
    folder, _ = finished
    table = pd.read_parquet(folder / "run" / "results.parquet")
    again, controls = table[table.confirms != ""], table[table.controls != ""]
    assert (len(again), len(controls)) == (1, 1)  # measured where they stop only
    repeat, control = again.iloc[0], controls.iloc[0]
    ((original, rung),) = worth_confirming(load_results(folder / "run" / "results.parquet").size(50), 1)
    assert (repeat.trial_id, repeat.confirms) == (f"{original}-r{rung}-c1", original)
    assert (repeat.rung, repeat.budget, repeat.status) == (rung, (rung - 1) / 2, "complete")
    before = table[(table.trial_id == original) & (table.rung == rung)].iloc[0]
    assert (repeat.sigma_tn, repeat.mix_ratio) == (before.sigma_tn, before.mix_ratio)
    assert repeat.seed not in set(searched(table).seed)
    assert repeat.fid != before.fid
    assert repeat.recorded_at > searched(table).recorded_at.max()
    assert (control.trial_id, control.method) == (f"{repeat.trial_id}-control", "control")
    assert (control.controls, control.confirms) == (original, "")
    same = ["train_size", "seed", "sigma_tn", "mix_ratio", "rung", "images_seen", "status"]
    assert control[same].tolist() == repeat[same].tolist()
    assert control.fid != repeat.fid
    assert (folder / "run" / "checkpoints" / f"{repeat.trial_id}.safetensors").exists()


def test_the_summary_says_what_became_of_the_repeated_training(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    table = pd.read_parquet(folder / "run" / "results.parquet")
    repeat = table[table.confirms != ""].iloc[0]
    original = repeat.confirms
    before = table[(table.trial_id == original) & (table.rung == repeat.rung)].iloc[0]
    entry = yaml.safe_load((folder / "run" / "recommendation.yaml").read_text())["recommendations"][0]
    ddpm = entry["baseline"]["fid"]
    refuted = bool(repeat.fid > ddpm["value"] + 2 * ddpm["deviation"])
    assert entry["refuted"] == [original] * refuted
    assert (f"worse than DDPM's for {original}, which had looked better" in printed) == refuted
    no_better = all(entry["baseline"][name]["value"] <= repeat[name] for name in ("fid", "memorization"))
    taken = entry["trial_id"] == original
    assert taken == (entry["fid"]["value"] == repeat.fid) == ("Trained again with 1 fresh seed" in printed)
    assert taken or refuted or no_better
    change = (entry["confirmation"] or {}).get("fid_change")
    assert change == (pytest.approx(repeat.fid - before.fid) if taken else None)


def test_the_summary_names_the_recommendation_and_what_to_do_next(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    entry = yaml.safe_load((folder / "run" / "recommendation.yaml").read_text())["recommendations"][0]
    assert f"sigma_tn {entry['sigma_tn']:.4g}" in printed
    for text in (
        entry["verdict_words"],
        "open run/report.html",
        "mlflow ui --backend-store-uri sqlite:///mlflow.db\n",
    ):
        assert text in printed
    assert ("pareto-amb train run/" in printed) == entry["verdict"].startswith("copies-less")
    assert "[8/8]" in printed
    assert "WARNING" not in printed


def test_mlflow_has_a_parent_run_and_a_nested_run_a_trial(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    table = pd.read_parquet(folder / "run" / "results.parquet")
    reached = table.groupby("trial_id").rung.apply(list)
    experiment = client.get_experiment_by_name("pareto-amb")
    runs = client.search_runs([experiment.experiment_id])
    parent = next(r for r in runs if r.data.tags.get("kind") == "sweep")
    trials = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(trials) == 8
    assert parent.info.status == "FINISHED"
    for trial in trials:
        complete = trial.data.tags["status"] == "complete"
        assert complete or trial.data.tags["status"] == "paused"
        assert trial.info.status == ("FINISHED" if complete else "KILLED")
        assert set(trial.data.params) == {
            "method",
            "train_size",
            "sigma_tn",
            "mix_ratio",
        }
        rungs = reached[trial.data.tags["trial_id"]]
        steps = [m.step for m in client.get_metric_history(trial.info.run_id, "fid")]
        assert steps == [6400 * (rung - 1) for rung in rungs if rung > 1]
        pictures = [p.path for p in client.list_artifacts(trial.info.run_id, "images")]
        assert sorted(int(re.split("[+%]", path)[2]) for path in pictures if path.endswith(".png")) == steps
    assert parent.data.tags["n50.sigma_tn"]
    assert [sum(tag in trial.data.tags for trial in trials) for tag in ("confirms", "controls")] == [1, 1]
    attached = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "recommendation.yaml", "results.parquet", "front-n50.html"} <= attached
    ended = client.get_metric_history(parent.info.run_id, "n50/best_fid_at_full_budget")
    full = table[(table.budget == 1) & (table.controls == "")]
    assert [m.step for m in ended] == list(range(1, len(full) + 1))
    assert min(m.value for m in ended) <= full[full.confirms == ""].fid.min()
    assert mlflow.active_run() is None


def test_a_dashboard_of_optuna_sees_the_whole_sweep(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    table = pd.read_parquet(folder / "run" / "results.parquet").groupby("trial_id").last()
    storage, shown = f"sqlite:///{folder}/run/study.db", {}
    for summary in optuna.get_all_study_summaries(storage):
        study = optuna.load_study(study_name=summary.study_name, storage=storage)
        assert study.metric_names == ["fid", "memorization"]
        shown |= {trial.user_attrs["trial_id"]: trial for trial in study.trials}
    assert shown.keys() == set(table.index)
    states = {"complete": "COMPLETE", "paused": "WAITING"}
    for name, trial in shown.items():
        last = table.loc[name]
        assert (trial.state.name, trial.user_attrs["status"]) == (states[last.status], last.status)
        assert trial.user_attrs[f"rung_{last.rung}"]["images_seen"] == last.images_seen


def test_the_recommended_training_starts_resumes_and_samples(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    first, _ = call("train", "run/recommendation.yaml", "--set", "training.images=640", cwd=folder)
    assert "640 of 640 images" in first
    again, _ = call("train", "run/recommendation.yaml", "--set", "training.images=960", cwd=folder)
    assert "continuing at 640 images" in again
    assert "960 of 960 images" in again
    checkpoint = folder / "run" / "training" / "checkpoint.safetensors"
    with safe_open(checkpoint, "pt") as file:
        assert any(name.startswith("ema.") for name in file.keys())  # noqa: SIM118
    call("sample", str(checkpoint), "--count", "3", "--steps", "3", "--output", "pictures", cwd=folder)
    assert sorted(p.name for p in (folder / "pictures").iterdir()) == [f"00000{k}.png" for k in range(3)]


def test_another_training_is_not_overwritten(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    arguments = ("train", "run/recommendation.yaml", "--output", "mine", "--set", "training.images=32")
    call(*arguments, cwd=folder)
    before = (folder / "mine" / "checkpoint.safetensors").read_bytes()
    _, error = call(*arguments, "--set", "sigma_tn=1.5", cwd=folder, code=2)
    assert "another training, sigma_tn differ" in error
    assert (folder / "mine" / "checkpoint.safetensors").read_bytes() == before


def test_recommend_and_report_work_again_on_the_run_alone(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    printed, _ = call("recommend", "run", "--policy", "knee", "--export", "knee.yaml", cwd=folder)
    assert "sigma_tn" in printed
    knee = yaml.safe_load((folder / "knee.yaml").read_text())
    assert knee["policy"] == "knee"
    for entry in knee["recommendations"]:
        at_an_end = not 0.117 < entry["sigma_tn"] < 1.72  # 5% of the log range 0.1 to 2
        assert ("range-end" in {caution["word"] for caution in entry["cautions"]}) == at_an_end
        assert all(caution["sentence"] in printed for caution in entry["cautions"])
    before = (folder / "run" / "report.html").stat().st_mtime_ns
    call("report", "run", cwd=folder)
    assert (folder / "run" / "report.html").stat().st_mtime_ns > before


def test_resuming_a_finished_run_changes_no_result(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    before = pd.read_parquet(folder / "run" / "results.parquet")
    printed, _ = call("sweep", "--resume", "run", cwd=folder)
    assert "elapsed" not in printed
    assert "not finished" not in printed
    pd.testing.assert_frame_equal(before, pd.read_parquet(folder / "run" / "results.parquet"))


Start = Callable[..., subprocess.Popen[str]]


@contextmanager
def starting(folder: Path, workers: int = 1) -> Iterator[Start]:
    """Starts commands in a folder; what still runs at the end of the block is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=folder, env=environment(workers), start_new_session=True, **pipes
        )
        started.append(process)
        return process

    try:
        yield begin
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with starting(tmp_path) as begin:
        yield begin


def kill(process: subprocess.Popen[str]) -> str:
    """Kill a command, not what it started; what it had printed."""
    process.kill()
    return process.communicate()[0]


def wait_for_table(
    path: Path, enough: Callable[[pd.DataFrame], bool], process: subprocess.Popen[str]
) -> pd.DataFrame:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if path.exists() and enough(table := pd.read_parquet(io.BytesIO(path.read_bytes()))):
            return table
        time.sleep(0.05)
    raise AssertionError(f"not enough in {path}")


def parents() -> dict[int, int]:
    """The parent of every process that lives; none where there is no /proc."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(folder.name)] = int(parent)
    return found


def below(ancestor: int) -> set[int]:
    """The processes that one has started, and those that these have."""
    found, inside = parents(), {ancestor}
    for _ in range(6):
        inside |= {pid for pid, parent in found.items() if parent in inside}
    return inside - {ancestor}


def wait_for_end(family: set[int]) -> None:
    deadline = time.monotonic() + 10
    while family & parents().keys():
        assert time.monotonic() < deadline, "Ray outlives its driver"
        time.sleep(0.05)


FORESEEN = [
    "--trials", "8", "--set", "search.startup_trials=8", "--set", "search.baseline_seeds=1",
    "--set", "evaluation.rungs=[0.92, 1.0]",
]  # fmt: skip
"""What is tried does not depend on results. So little is left after the first full rung that it tells the
last, and some trials have no hope."""

MOMENTS: list[Callable[[pd.DataFrame], bool]] = [
    lambda table: bool((table.status == "paused").any()),
    lambda table: bool(((table.confirms != "") | (table.controls != "")).any()),
]
"""A paused trial; a repeat or its control that has ended, mostly while the other runs."""


@dataclass(frozen=True)
class Killed:
    """A sweep that was killed at `MOMENTS` and has ended: its tables then, and what it printed each time."""

    folder: Path
    tables: list[pd.DataFrame]
    printed: list[str]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Killed:
    folder, tables, printed = tmp_path_factory.mktemp("killed"), list[pd.DataFrame](), list[str]()
    shutil.copy(empty_store, folder / "mlflow.db")
    arguments = ["smoke", "--output", "run", *TINY, *FORESEEN]
    with starting(folder, 2) as start:
        for reached in MOMENTS:
            process = start("sweep", *arguments)
            wait_for_table(folder / "run" / "results.parquet", reached, process)
            family = below(process.pid)
            assert family or sys.platform != "linux"
            printed.append(kill(process))
            if not tables:  # the other is resumed while Ray still ends
                wait_for_end(family)
            tables.append(pd.read_parquet(folder / "run" / "results.parquet"))
            arguments = ["--resume", "run"]
    printed.append(call("sweep", "--resume", "run", cwd=folder)[0])
    return Killed(folder, tables, printed)


def test_a_sweep_killed_at_any_moment_loses_and_repeats_nothing(killed: Killed) -> None:
    tables, printed = killed.tables, killed.printed
    resumed = pd.read_parquet(killed.folder / "run" / "results.parquet")
    assert_stopped_early(resumed)
    assert resumed.trial_id.nunique() == 1 + 8 + 2
    repeat, control = (resumed[resumed[name] != ""].iloc[0] for name in ("confirms", "controls"))
    assert (control.controls, control.seed, control.rung) == (repeat.confirms, repeat.seed, repeat.rung)
    paused = resumed[resumed.status == "paused"].trial_id
    paused_since = paused[~paused.isin(tables[0][tables[0].status == "paused"].trial_id)]
    assert paused_since.map(lambda trial: f"{trial} (sigma_tn" in "".join(printed[1:])).all()
    assert "Last result" not in "".join(printed)  # Ray's own words
    for before in tables:
        kept = resumed.merge(before, on=["trial_id", "rung"], suffixes=("", "_before"))
        assert len(kept) == len(before)
        for column in ("fid", "train_seconds", "eval_seconds"):
            assert kept[column].equals(kept[f"{column}_before"].rename(column))
    with sqlite3.connect(killed.folder / "run" / "study.db") as database:
        states = [state for (state,) in database.execute("select state from trials")]
    assert len(states) == resumed.trial_id.nunique()
    assert states.count("COMPLETE") == resumed[resumed.status == "complete"].trial_id.nunique()


def test_a_trial_that_paused_resumed_and_finished_equals_one_run_straight_through(
    killed: Killed, tmp_path: Path
) -> None:
    shutil.copytree(killed.folder, tmp_path, dirs_exist_ok=True)
    paused = pd.read_parquet(tmp_path / "run" / "results.parquet").query("status == 'paused'")
    assert len(paused)
    settings = tmp_path / "run" / "sweep.yaml"
    settings.write_text(settings.read_text().replace("early_stopping: true", "early_stopping: false"))
    resumed, _ = call("sweep", "--resume", "run", "--trust-run", cwd=tmp_path)
    assert all(f"{trial}: resumed at rung" in resumed for trial in set(paused.trial_id))

    to_the_end = ["--set", "search.early_stopping=false", *NO_REPEATS]
    whole, _ = call("sweep", "smoke", "--output", "whole", *TINY, *FORESEEN, *to_the_end, cwd=tmp_path)
    assert "paused at" not in whole
    tables = [
        searched(pd.read_parquet(tmp_path / name / "results.parquet")).sort_values(["trial_id", "rung"])
        for name in ("run", "whole")
    ]
    assert [set(table.status) for table in tables] == [{"complete"}] * 2
    measured = [c for c in tables[0] if not c.endswith("_seconds") and c != "recorded_at"]
    first, second = (table[measured].reset_index(drop=True) for table in tables)
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    for trial in set(paused.trial_id):
        name = f"checkpoints/{trial}.safetensors"
        mine, straight = (load_file(tmp_path / folder / name) for folder in ("run", "whole"))
        assert mine.keys() == straight.keys()
        assert all(torch.equal(mine[key], straight[key]) for key in mine)


def test_a_trial_that_fails_is_retried_recorded_and_does_not_stop_the_sweep(tmp_path: Path) -> None:
    diverges = ["--set", "training.learning_rate=1e30", "--set", "training.lr_warmup_images=0"]
    sweep = ["sweep", "smoke", "--output", "run", "--trials", "1", "--set", "search.baseline_seeds=1"]
    printed, _ = call(*sweep, *TINY, *diverges, cwd=tmp_path, code=1)
    assert printed.count("trying again") == 2
    assert "no recommendation: train size 50: no DDPM baseline has finished" in printed
    table = pd.read_parquet(tmp_path / "run" / "results.parquet")
    assert table.status.tolist() == ["failed"] * 2
    assert table.error.str.contains("TrainingDivergedError").all()
    assert "TrainingDivergedError" in (tmp_path / "run" / "report.html").read_text()


def test_a_time_budget_stops_in_order_and_resumes(tmp_path: Path) -> None:
    printed, _ = call(
        "sweep", "smoke", "--output", "run", "--time-budget", "0.02", "--set", "training.images=320000",
        "--set", "training.network.options.model_channels=4", *TINY[2:], cwd=tmp_path
    )  # fmt: skip
    assert "8 trials are not finished: pareto-amb sweep --resume run" in printed
    assert (tmp_path / "run" / "report.html").exists()
    assert not (tmp_path / "run" / "recommendation.yaml").exists()


def test_a_search_that_has_stalled_ends_itself_and_a_resumed_one_only_finishes_what_was_begun(
    tmp_path: Path, start: Start
) -> None:
    patience = ["--trials", "12", "--set", "search.patience=1", "--set", "evaluation.thresholds=[0.6]"]
    process = start("sweep", "smoke", "--output", "run", *patience, *TINY)
    reason, table = tmp_path / "run" / "stopped.txt", tmp_path / "run" / "results.parquet"
    wait_for_table(table, lambda _: reason.exists(), process)
    kill(process)
    with sqlite3.connect(tmp_path / "run" / "study.db") as database:
        (begun,) = database.execute(
            "select count(distinct value_json) from trial_user_attributes where key = 'trial_id'"
        ).fetchone()

    printed, _ = call("sweep", "--resume", "run", cwd=tmp_path)
    assert "the search ended itself: over the last full training of every train size" in printed
    assert "not finished" not in printed
    resumed = pd.read_parquet(table)
    assert not set(resumed.status) & {"running", "failed"}
    assert searched(resumed).trial_id.nunique() == begun < 12
    assert [(resumed[name] != "").sum() for name in ("confirms", "controls")] == [1, 1]
    assert "The search ended itself" in (tmp_path / "run" / "report.html").read_text()


def test_methods_compete_in_a_range_that_auto_sets_once_and_a_resumed_sweep_keeps(tmp_path: Path) -> None:
    methods = ["--set", "search.methods=[algorithm1,masking,noise_only]", "--trials", "1"]
    auto = ["--set", "space.sigma_tn=auto", "--set", "search.baseline_seeds=1", *NO_REPEATS]
    sweep = ["sweep", "smoke", "--output", "run", *methods, *auto, *TINY]
    printed, _ = call(*sweep, cwd=tmp_path, code=None)  # one trial a method may be none to recommend
    assert "[4/4]" in printed
    assert "n50-masking-0000 (corruption" in printed
    knee = ["--policy", "knee", "--budget", "full"]
    call("recommend", "run", *knee, "--export", "knee.yaml", cwd=tmp_path)
    table = pd.read_parquet(tmp_path / "run" / "results.parquet")
    assert set(table.status) == {"complete"}
    assert table.groupby("method").size().to_dict() == {
        "algorithm1": 3, "ddpm": 3, "masking": 3, "noise_only": 3
    }  # fmt: skip
    last = table[table.rung == 3].set_index("method")
    assert (last.corruption > 0).to_dict() == {m: m == "masking" for m in last.index}
    assert (last.sigma_tn > 0).to_dict() == {m: m in {"algorithm1", "noise_only"} for m in last.index}
    assert last.fid.nunique() == 4
    entry = yaml.safe_load((tmp_path / "knee.yaml").read_text())["recommendations"][0]
    assert entry["trial_id"] == "n50-algorithm1-0000"
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Masking" in report
    assert "Noise only" in report
    assert "at 50 images, whose collapse level is" in report
    checkpoint = "run/checkpoints/n50-masking-0000.safetensors"
    solver = ["--solver", "dpmpp_2m", "--steps", "3"]
    call("sample", checkpoint, "--count", "2", *solver, "--output", "pictures", cwd=tmp_path)
    assert len(list((tmp_path / "pictures").iterdir())) == 2
    assert_auto_is_kept(tmp_path, printed, last.sigma_tn[["algorithm1", "noise_only"]])


def assert_auto_is_kept(folder: Path, printed: str, tried: "pd.Series[float]") -> None:
    """The range was said, the trials lie in it, and a resumed sweep takes what is written."""
    written = yaml.safe_load((folder / "run" / "sweep.yaml").read_text())["space"]["sigma_tn"]["50"]
    line = (
        f"sigma_tn: auto: with 50 images collapse level {written['collapse_level']:g} -> "
        f"searched {written['low']:g} to {written['high']:g}"
    )
    assert line in printed
    assert tried.between(written["low"], written["high"]).all()
    # What another machine's rounding could do: resuming must take what is written, not measure again.
    moved = (folder / "run" / "sweep.yaml").read_text().replace(f"high: {written['high']}", "high: 0.65")
    (folder / "run" / "sweep.yaml").write_text(moved)
    again, _ = call("sweep", "--resume", "run", "--trials", "2", "--dry-run", cwd=folder)
    assert yaml.safe_load(again)["space"]["sigma_tn"]["50"] == {**written, "high": 0.65}


def captioned_sweep(folder: Path, pipeline: Path) -> None:
    """Write 40 images with captions, and a sweep that trains low-rank additions of a pipeline on some."""
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    for k in range(40):
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{k:02}.png")
        (folder / "images" / f"{k:02}.txt").write_text(f"a handwritten one by {'xyz'[k % 3] * (k // 3 + 1)}")
    values = {
        "name": "captions",
        "data": {"source": "images", "path": "images", "resolution": 16, "captions": True},
        "space": {"train_size": [16], "sigma_tn": "auto", "mix_ratio": [0.5], "text_noise": [0.1]},
        "training": {
            "network": {"name": "pipeline", "options": {"path": str(pipeline)}},
            "adapt": {"kind": "lora", "rank": 2},
            "noise": {"kind": "schedule"},
            "caption_dropout": 0.1,
            "images": 256,
            "batch_size": 8,
            "ema_halflife_images": 32,
        },
        "sampling": {"steps": 3, "sigma_min": 0.03, "sigma_max": 14.6, "guidance": 2.0, "solver": "dpmpp_2m"},
        "evaluation": {
            "fid_encoder": "pixels",
            "similarity_encoder": "pixels",
            "n_samples": 20,
            "other_prompts": 8,
            "rungs": [0.5, 1.0],
            "probes": [0.25],
        },
        "search": {
            "methods": ["s23_algorithm1"],
            "trials": 2,
            "baseline_seeds": 1,
            "confirm": {"candidates": 0},
        },
    }
    (folder / "captions.yaml").write_text(yaml.safe_dump(values))


def test_a_killed_text_to_image_sweep_goes_on_to_a_model_that_diffusers_loads(
    tmp_path: Path, start: Start, write_pipeline: Callable[..., Path]
) -> None:
    captioned_sweep(tmp_path, write_pipeline("v_prediction"))
    results = tmp_path / "run" / "results.parquet"
    process = start("sweep", "captions.yaml", "--output", "run")
    before = wait_for_table(results, lambda table: bool((table.n_samples > 0).any()), process)
    family, encoded = below(process.pid), tmp_path / "run" / "encoded" / "encoded.json"
    kill(process)
    wait_for_end(family)
    note = encoded.read_text()
    call("sweep", "--resume", "run", cwd=tmp_path)

    assert encoded.read_text() == note  # which has a mark of its own each time
    table = pd.read_parquet(results)
    assert table.trial_id.nunique() == 3
    kept = table.merge(before, on=["trial_id", "rung"], suffixes=("", "_before"))
    assert len(kept) == len(before)
    full = table[table.n_samples > 0]
    figures = ["memorization_shuffled_captions", "memorization_unseen_captions", "caption_magnitude"]
    assert full[figures].notna().all().all()
    assert (table[table.method != "ddpm"].text_noise == 0.1).all()
    written = yaml.safe_load((tmp_path / "run" / "sweep.yaml").read_text())
    (searched_range,) = written["space"]["sigma_tn"].values()
    assert 0 < searched_range["low"] < searched_range["high"]
    trial, rung = full.iloc[-1][["trial_id", "rung"]]
    with np.load(tmp_path / "run" / "samples" / trial / f"rung-{rung}.npz") as stored:
        assert stored["prompt"][0].startswith("a handwritten one by ")
        assert len(stored["prompt"]) == len(stored["caption"]) == len(stored["samples"])
        assert stored["asked"].shape[1:] == stored["samples"].shape[1:]
        assert "The same captions, method by method" in (tmp_path / "run" / "report.html").read_text()
    assert "recommendation.yaml" in {path.name for path in (tmp_path / "run").iterdir()}

    call("train", "run/recommendation.yaml", cwd=tmp_path)
    assert (tmp_path / "run" / "training" / "lora").is_dir()
