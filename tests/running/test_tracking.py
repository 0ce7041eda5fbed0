import io
import json
import math
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from markupsafe import escape
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image
from ray.tune.experiment import Trial as RayTrial

from pareto_amb import search_spaces
from pareto_amb.cli import main
from pareto_amb.commands.mlflow import how_to_look
from pareto_amb.config import ScheduleConfig
from pareto_amb.config_file import to_yaml
from pareto_amb.dashboards.plots import ANY_TITLE, FULL_TITLE
from pareto_amb.errors import UserError
from pareto_amb.results.recommendation_file import build_recommendation, write_recommendation
from pareto_amb.results.run_directory import RunDirectory, grid_name
from pareto_amb.results.table import ResultsTable, columns, shipped
from pareto_amb.running import tracker as tracker_module
from pareto_amb.running import tracking
from pareto_amb.running.follower import Follower
from pareto_amb.running.machine_metrics import MachineMetrics
from pareto_amb.running.register import register_model
from pareto_amb.running.sync import sync_run
from pareto_amb.running.tracker import Tracker
from pareto_amb.running.tracking import Ending, Mirror, Missing, Tracked, run_uuid
from pareto_amb.storage import Storage
from pareto_amb.sweep_file import parse_sweep

CONFIG = parse_sweep(search_spaces.load("smoke"), "smoke")
DECLARED = shipped()
TRIAL = "n50-ddpm-s0"
NOTHING = Ending("FINISHED", {}, [])


def png() -> bytes:
    content = io.BytesIO()
    Image.new("L", (8, 8)).save(content, "png")
    return content.getvalue()


PICTURE = png()


class Sweep:
    """A run directory with a table, and where it is tracked."""

    def __init__(self, path: Path, uri: str) -> None:
        self.run, self.uri = RunDirectory(path), uri
        path.mkdir(parents=True)
        self.run.sweep.write_text(to_yaml(CONFIG))
        self.table = ResultsTable(self.run.results, DECLARED)
        storage = Storage(str(path))
        self.tracked = Tracked(uri, self.run, run_uuid({}), "smoke", DECLARED, storage)

    def record(self, trial_id: str = TRIAL, rung: int = 1, **more: Any) -> None:
        numbers = {name: 1 for name, column in columns(DECLARED).items() if column.dtype != "str"} | {
            "branched_at": 0
        }
        words = {"trial_id": trial_id, "method": "ddpm", "status": "running", "error": "", "confirms": ""}
        when = {"rung": rung, "images_seen": 10 * rung, "recorded_at": 1700000000.25 + rung}
        self.table.record({**numbers, **words, **when, **more})
        if rung:
            self.tracked.storage.write(grid_name(trial_id, rung), PICTURE)

    def mirror(self) -> Mirror:
        """As a new process would have it."""
        return Mirror(self.tracked)

    def client(self, store: str = "") -> MlflowClient:
        return MlflowClient(tracking_uri=store or self.uri)

    def runs(self, store: str = "") -> list[Run]:
        """All runs in MLflow, of any sweep."""
        client = self.client(store)
        experiment = client.get_experiment_by_name("pareto-amb")
        assert experiment is not None
        return list(client.search_runs([experiment.experiment_id]))

    def trials(self, store: str = "") -> dict[str, Run]:
        found = [run for run in self.runs(store) if "trial_id" in run.data.tags]
        trials = {run.data.tags["trial_id"]: run for run in found}
        assert len(trials) == len(found)
        return trials

    def picture_steps(self, run: Run) -> list[int]:
        """The images seen at each picture of a trial."""
        files = self.client().list_artifacts(run.info.run_id, "images")
        return sorted(int(re.split("[+%]", file.path)[2]) for file in files if file.path.endswith(".png"))

    def curve(self, name: str) -> dict[int, float]:
        """A metric of the parent run, by its steps; each has one value."""
        found = self.client().get_metric_history(self.parent().info.run_id, name)
        assert len({metric.step for metric in found}) == len(found)
        return {metric.step: metric.value for metric in found}

    def parent(self, store: str = "") -> Run:
        (found,) = (run for run in self.runs(store) if run.data.tags.get("kind") == "sweep")
        return found


@pytest.fixture
def sweep(tmp_path: Path, empty_store: Path) -> Sweep:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Sweep(tmp_path / "run", f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_a_trial_has_its_parameters_figures_and_pictures(sweep: Sweep) -> None:
    sweep.record(rung=1, fid=5.0)
    sweep.record(rung=2, fid=4.0, status="complete")
    mirror = sweep.mirror()
    assert mirror.missing() == Missing(rows=2, trials=1, pictures=2, ending=True)
    mirror.update()
    run = sweep.trials()[TRIAL]
    assert (run.data.metrics["fid"], run.info.status) == (4.0, "FINISHED")
    assert set(run.data.params) == {"method", "train_size", *DECLARED.parameters}
    assert run.data.tags["seed"] == "1"
    numbers = {name for name, column in columns(DECLARED).items() if column.dtype == "float64"}
    expected = numbers - {*DECLARED.parameters, "recorded_at", "budget"}
    expected |= {"n_samples", "share_of_full_training"}
    assert set(run.data.metrics) == expected
    history = sweep.client().get_metric_history(run.info.run_id, "fid")
    assert [(m.step, m.value, m.timestamp) for m in history] == [
        (10, 5.0, 1700000001250),
        (20, 4.0, 1700000002250),
    ]
    assert sweep.picture_steps(run) == [10, 20]
    assert mirror.missing() == Missing(ending=True)
    sweep.tracked = replace(sweep.tracked, declared=DECLARED.in_steps(ScheduleConfig().schedule))
    sweep.record("n50-algorithm1-0000", method="algorithm1", sigma_tn=0.226)
    sweep.mirror().update()
    params = {trial_id: run.data.params for trial_id, run in sweep.trials().items()}
    assert params["n50-algorithm1-0000"]["sigma_tn_step"] == "50"
    assert "sigma_tn_step" not in params[TRIAL]


def test_probes_are_logged_as_gaps_and_their_rungs_have_no_picture_and_no_figures(sweep: Sweep) -> None:
    errors = {"probe_levels": [0.25, 0.5], "probe_train": [1.0, 2.0]}
    nothing = {"n_samples": 0, "fid": math.nan, "memorization": math.nan, "similarity_mean": math.nan}
    sweep.record(rung=1, **nothing, **errors, probe_heldout=[1.5, 2.0])
    mirror = sweep.mirror()
    assert mirror.missing() == Missing(rows=1, trials=1, ending=True)
    mirror.update()
    assert "fid" not in sweep.trials()[TRIAL].data.metrics
    sweep.record(rung=2, fid=4.0, **errors, probe_heldout=[3.0, 2.0])
    mirror.update()
    run = sweep.trials()[TRIAL]
    history = sweep.client().get_metric_history(run.info.run_id, "probe_gap_at_0.25")
    assert [(m.step, m.value) for m in history] == [(10, 1.5), (20, 3.0)]
    assert run.data.metrics["probe_gap_at_0.5"] == 1.0
    assert sweep.picture_steps(run) == [20]
    assert mirror.missing() == Missing(ending=True)


def test_figures_of_a_branched_trial_have_names_of_their_own(sweep: Sweep) -> None:
    errors = {"probe_levels": [0.25], "probe_train": [1.0], "probe_heldout": [1.5], "method": "algorithm1"}
    sweep.record("plain", rung=2, **errors)
    sweep.record("branched", rung=2, branched_at=10, device="NVIDIA H100", **errors)
    sweep.mirror().update()
    plain, branched = (sweep.trials()[name].data for name in ("plain", "branched"))
    assert {"fid", "memorization", "probe_gap_at_0.25"} <= plain.metrics.keys()
    assert branched.metrics == {f"branched_{name}": value for name, value in plain.metrics.items()}
    assert branched.tags["branched_at"] == "10"
    assert branched.tags["device"] == "NVIDIA H100"
    assert "branched_at" not in plain.tags


def test_a_trial_that_follows_the_search_says_which_one_it_follows(sweep: Sweep) -> None:
    for name, follows in {
        "a": {},
        "a-r1-c1": {"confirms": "a"},
        "a-r1-c1-control": {"controls": "a"},
    }.items():
        sweep.record(name, **{"method": "control", "sigma_tn": 0.5, "mix_ratio": 0.5, **follows})
    sweep.mirror().update()
    tags = {name: run.data.tags for name, run in sweep.trials().items()}
    told = {name: {key: tags[name].get(key) for key in ("confirms", "controls")} for name in tags}
    assert told == {
        "a": {"confirms": None, "controls": None},
        "a-r1-c1": {"confirms": "a", "controls": None},
        "a-r1-c1-control": {"confirms": None, "controls": "a"},
    }


def test_logging_goes_on_in_the_same_runs_after_a_kill_and_twice_adds_nothing(sweep: Sweep) -> None:
    sweep.record(rung=1)
    sweep.mirror().update()
    run = sweep.trials()[TRIAL]
    for name in ("rung", "pictures"):  # killed before it was noted
        sweep.client().set_tag(run.info.run_id, name, "-1")
    sweep.record(rung=2)
    for _ in range(2):
        sweep.mirror().update()
    assert len(sweep.runs()) == 2
    history = sweep.client().get_metric_history(run.info.run_id, "fid")
    assert [metric.step for metric in history] == [10, 20]
    assert sweep.picture_steps(run) == [10, 20]


def test_a_trial_whose_run_was_made_in_vain_gets_its_parameters_later(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.record()
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sweep.mirror().update()
    sweep.mirror().update()
    assert set(sweep.trials()[TRIAL].data.params) == {"method", "train_size", *DECLARED.parameters}


def test_a_paused_trial_is_closed_and_opened_again_when_it_resumes(sweep: Sweep) -> None:
    mirror = sweep.mirror()
    for rung, status, expected in ((1, "paused", "KILLED"), (1, "running", "RUNNING")):
        sweep.record(rung=rung, status=status)
        mirror.update()
        run = sweep.trials()[TRIAL]
        assert (run.info.status, run.data.tags["status"]) == (expected, status)
    sweep.record(rung=2, status="complete")
    mirror.update()
    assert sweep.trials()[TRIAL].info.status == "FINISHED"


def test_a_failed_trial_carries_its_reason_until_it_is_retried(sweep: Sweep) -> None:
    mirror = sweep.mirror()
    sweep.record(rung=0, fid=float("nan"), status="failed", error="no http://me:CANARY@host")
    mirror.update()
    run = sweep.trials()[TRIAL]
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "no http://***@host"
    assert "fid" not in run.data.metrics
    sweep.record(rung=1, fid=3.0)
    mirror.update()
    run = sweep.trials()[TRIAL]
    assert (run.info.status, run.data.metrics["fid"], run.data.tags["error"]) == ("RUNNING", 3.0, "")


def test_sweeps_in_directories_of_one_name_stay_apart(sweep: Sweep, tmp_path: Path) -> None:
    other = Sweep(tmp_path / "o'ther \"%`" / "run", sweep.uri)
    for each in (sweep, other):
        each.record()
        each.mirror().update()
    uuids = [run.data.tags["run_uuid"] for run in sweep.runs()]
    assert sorted(uuids) == sorted(2 * [sweep.tracked.uuid, other.tracked.uuid])


def test_all_trials_are_found_again_however_many_a_page_holds(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(5):
        sweep.record(f"t{k}")
    sweep.mirror().update()
    monkeypatch.setattr(tracking, "PAGE", 2)
    again = sweep.mirror()
    assert again.look() == Missing(ending=True)
    again.update()
    assert len(sweep.runs()) == 6


def test_a_new_server_gets_the_whole_run(sweep: Sweep, tmp_path: Path, empty_store: Path) -> None:
    sweep.record()
    sweep.mirror().update()
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    sweep.mirror().update()
    assert sweep.trials()[TRIAL].data.tags["rung"] == "1"


def test_the_parent_run_has_what_was_asked_for_and_on_which_images(sweep: Sweep) -> None:
    data = {"name": "digits", "images": 1797, "fingerprint": "f" * 64}
    sweep.run.environment.write_text(json.dumps({"data": data}))
    sweep.record()
    for _ in range(2):
        sweep.mirror().update()
    parent = sweep.parent()
    params = parent.data.params
    assert (params["training.batch_size"], params["data.source"]) == ("64", "digits")
    assert params["space.train_size"] == "[50]"
    assert "search.trials" not in params  # a resumed sweep may have more
    (found,) = parent.inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("digits", "f" * 36)
    assert json.loads(found.dataset.profile) == {"images": 1797, "train_size": [50]}


def test_the_curves_of_a_sweep_have_a_point_for_every_training_that_ended_and_none_of_branched_ones(
    sweep: Sweep,
) -> None:
    def end(name: str, rung: int, method: str = "algorithm1", **more: Any) -> None:
        sweep.record(name, rung=rung, method=method, train_size=50, status="complete", **more)

    end("n50-ddpm-s0", 1, "ddpm", fid=10.0, memorization=0.4)
    sweep.mirror().update()
    assert sweep.curve("n50/best_fid_at_full_budget") == {}
    end("n50-ddpm-s1", 2, "ddpm", fid=10.0, memorization=0.4)
    end("early", 3, fid=1.0, memorization=0.0, budget=0.5)
    end("branched", 4, fid=0.0, memorization=0.0, branched_at=10)
    end("best", 5, fid=10.0, memorization=0.2)
    sweep.mirror().update()
    sweep.client().set_tag(sweep.parent().info.run_id, "finished_n50", "1")  # killed before it was noted
    end("other", 6, fid=9.0, memorization=0.4)
    sweep.mirror().end(NOTHING)
    assert sweep.curve("n50/best_fid_at_full_budget") == {1: 10, 2: 10, 3: 10, 4: 9}
    assert sweep.curve("n50/best_memorization_at_full_budget") == {1: 0.4, 2: 0.4, 3: 0.2, 4: 0.2}
    assert sweep.curve("n50/cost_in_full_trainings") == {1: 1, 2: 2, 3: 4.25, 4: 5.25}
    hypervolume = sweep.curve("n50/hypervolume_at_full_budget")
    size = sweep.table.results().size(50)
    assert list(hypervolume.values()) == size.hypervolume_history.hypervolume.tolist()


def test_a_link_leads_to_the_parent_run_and_holds_no_secret(sweep: Sweep, tmp_path: Path) -> None:
    mirror = sweep.mirror()
    assert mirror.link == ""
    mirror.look()
    page = f"#/experiments/1/runs/{sweep.parent().info.run_id}"
    assert mirror.link == f"http://127.0.0.1:5000/{page}"
    mirror._tracked = replace(sweep.tracked, uri="https://me:CANARY@host:81/mlflow/?key=CANARY")
    assert mirror.link == f"https://host:81/mlflow/{page}"


def test_a_database_below_the_current_folder_is_named_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begin = "mlflow ui --backend-store-uri "
    assert how_to_look(f"sqlite:///{tmp_path}/mlflow.db", "") == [f"{begin}sqlite:///mlflow.db"]
    assert how_to_look("sqlite:////elsewhere/mlflow.db", "http://x/#/y") == [
        f"{begin}sqlite:////elsewhere/mlflow.db",
        "open 'http://x/#/y'",
    ]
    assert how_to_look("http://***@host", "http://host/#/y") == ["open 'http://host/#/y'"]


def test_metrics_of_the_machine_are_logged_where_it_has_gpus_and_end_with_the_sweep(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.02")

    def logged() -> bool:
        return any(name.startswith("system/") for name in sweep.parent().data.metrics)

    mirror = sweep.mirror()
    mirror.look()
    metrics = MachineMetrics(sweep.uri)
    metrics.follow(mirror.parent)
    assert metrics._monitor is None
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for _ in range(2):
        metrics.follow(mirror.parent)
    threads = [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]
    assert len(threads) == 1
    wait_until(logged)
    metrics.stop()
    assert not threads[0].is_alive()


def advised(sweep: Sweep) -> None:
    """A run whose recommendation is the mean of two repeats."""
    chosen = "n50-algorithm1-0000"
    trials = {
        "n50-ddpm-s0": {"method": "ddpm", "fid": 8.9, "memorization": 0.5},
        "n50-ddpm-s1": {"method": "ddpm", "fid": 9.1, "memorization": 0.52},
        chosen: {"memorization": 0.02, "fid": 9.0},
        f"{chosen}-r1-c2": {"memorization": 0.03, "fid": 8.0, "confirms": chosen, "seed": 1_000_002},
        f"{chosen}-r1-c1": {"memorization": 0.05, "fid": 9.0, "confirms": chosen, "seed": 1_000_001},
    }
    for name, figures in trials.items():
        every = {"method": "algorithm1", "train_size": 50, "n_samples": 1000, "mix_ratio": 0.5}
        sweep.record(name, status="complete", **every | {"heldout_memorization": 0.0} | figures)
        sweep.tracked.storage.write(f"checkpoints/{name}.safetensors", name.encode())
    write_recommendation(build_recommendation(sweep.run, budget="full"), sweep.run.recommendation)
    sweep.run.environment.write_text(json.dumps({"run_uuid": sweep.tracked.uuid, "tracking_uri": sweep.uri}))


def test_the_recommended_model_is_registered_once_with_its_cautions(sweep: Sweep, tmp_path: Path) -> None:
    """The first repeat, whatever the figures of the others."""
    advised(sweep)
    told = [register_model(sweep.run.path, "it's mine") for _ in range(2)]
    first = "n50-algorithm1-0000-r1-c1"
    assert [(each.trial_id, each.version) for each in told] == [(first, "1"), (first, "1")]
    assert [each.new for each in told] == [True, False]
    client = sweep.client()
    version = client.get_model_version("it's mine", "1")
    assert version.run_id == sweep.trials()[first].info.run_id
    assert version.tags["verdict"] == "copies-less"
    for line in build_recommendation(sweep.run, budget="full").recommendations[0].lines():
        assert line in version.description
    folder = client.download_artifacts(version.run_id, "model", str(tmp_path))
    assert Path(folder, "model.safetensors").read_text() == first
    assert sweep.parent().info.status == "FINISHED"


def test_no_model_is_registered_where_none_is_recommended_or_its_checkpoint_is_gone(sweep: Sweep) -> None:
    advised(sweep)
    with pytest.raises(UserError, match="leave out / and :"):
        register_model(sweep.run.path, "a/b")
    with pytest.raises(UserError, match="--train-size: 50"):
        register_model(sweep.run.path, "mine", train_size=60)
    shutil.rmtree(sweep.run.path / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint is of the recommended stopping point"):
        register_model(sweep.run.path, "mine")
    sweep.run.recommendation.unlink()
    with pytest.raises(UserError, match="pareto-amb recommend "):
        register_model(sweep.run.path, "mine")
    assert not sweep.client().search_registered_models()


def test_the_end_is_on_the_parent_run_and_replaces_an_earlier_one(sweep: Sweep) -> None:
    sweep.record()
    sweep.mirror().end(Ending("KILLED", {"n50.fid": "5", "n50.verdict": "old", "n9.x": "1"}, []))
    mirror = sweep.mirror()
    mirror.update()
    mirror.end(Ending("FINISHED", {"n50.fid": "4", "n50.summary": "x" * 9000}, [sweep.run.sweep]))
    parent = sweep.parent()
    assert parent.info.status == "FINISHED"
    tags = {name: value for name, value in parent.data.tags.items() if name[:1] == "n"}
    assert tags == {"n50.fid": "4", "n50.summary": "x" * 5000}
    assert [file.path for file in sweep.client().list_artifacts(parent.info.run_id)] == ["sweep.yaml"]
    assert not mirror.missing()


def test_sync_tags_the_run_with_its_own_recommendation_and_not_with_the_usual_one(
    sweep: Sweep, tmp_path: Path
) -> None:
    """Whatever policy, limit and budget it was made with; its front is beside the tags."""
    for trial, copies in (("n50-ddpm-s0", 0.5), ("n50-algorithm1-0000", 0.1), ("n50-algorithm1-0001", 0.3)):
        figures = {"fid": 9.0 - 10 * copies, "memorization": copies, "n_samples": 1000, "controls": ""}
        method = trial.split("-")[1]
        sweep.record(trial, method=method, train_size=50, status="complete", mix_ratio=0.5, **figures)
    found = build_recommendation(sweep.run, "max-memorization", 0.2, budget="full")
    write_recommendation(found, sweep.run.recommendation)
    sweep.run.environment.write_text(json.dumps({"run_uuid": sweep.tracked.uuid, "tracking_uri": sweep.uri}))
    sync_run(sweep.run.path)
    tags = sweep.parent().data.tags
    told = tags["n50.policy"], tags["n50.max_memorization"], tags["n50.budget"], tags["n50.trial_id"]
    assert told == ("max-memorization", "0.2", "full", "n50-algorithm1-0000")
    front = sweep.client().download_artifacts(sweep.parent().info.run_id, "front-n50.html", str(tmp_path))
    shown = Path(front).read_text()
    assert ANY_TITLE in shown
    assert FULL_TITLE in shown
    assert all(escape(line) in shown for line in found.recommendations[0].lines())
    sweep.run.recommendation.unlink()
    sync_run(sweep.run.path)
    tags = sweep.parent().data.tags
    assert (tags["n50.policy"], tags["n50.budget"]) == ("match-ddpm", "any")


def test_a_trial_that_mlflow_refuses_holds_up_no_other(sweep: Sweep) -> None:
    for trial_id in ("first", "second"):
        sweep.record(trial_id)
    (sweep.run.path / grid_name("first", 1)).unlink()
    (sweep.run.path / grid_name("first", 1)).mkdir()  # a picture that cannot be read
    mirror = sweep.mirror()
    for _ in range(3):
        with pytest.raises(Exception, match="rung-1"):
            mirror.update()
    assert mirror.missing() == Missing(pictures=1, ending=True)


def follower(sweep: Sweep, tracker: Tracker) -> Follower:
    state: Any = SimpleNamespace(results=sweep.table, halving=None, show=lambda trial_id: None)
    progress: Any = SimpleNamespace(
        row=lambda row: None, started=lambda trial: None, resumed=lambda row: None
    )
    return Follower(state, tracker, progress)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracker_module, "FIRST_WAIT", 0.05)


@pytest.mark.usefixtures("impatient")
def test_callbacks_never_wait_for_a_server_that_does_not_answer(tmp_path: Path, silent_port: int) -> None:
    sweep = Sweep(tmp_path / "run", f"http://127.0.0.1:{silent_port}")
    tracker = Tracker(sweep.mirror())
    tracker.start()
    sweep.record()
    row = sweep.table.last_row(TRIAL)
    alone = _seconds(lambda: [sweep.table.record({**row, "rung": rung}) for rung in range(2, 32)])
    told = follower(sweep, tracker)
    trial = cast(RayTrial, None)
    with_tracking = _seconds(
        lambda: [told.on_trial_result(0, [], trial, {"row": {**row, "rung": rung}}) for rung in range(32, 62)]
    )
    assert with_tracking < 2 * alone + 0.5
    assert len(sweep.table.rows(TRIAL)) == 61
    ending = _seconds(lambda: tracker.finish(NOTHING, patience=1.5))
    assert ending < 8
    assert tracker.finish(NOTHING, patience=0.1) == Missing(61, 1, 61, ending=True)
    assert "timed out" in tracker.problem


def test_a_table_that_takes_long_to_read_is_not_read_after_every_row() -> None:
    read, reads = threading.Event(), list[int]()

    def update(go_on: Callable[[], bool]) -> None:
        reads.append(1)
        read.set()

    mirror = SimpleNamespace(
        uri="",
        parent="",
        update=update,
        end=lambda ending: None,
        missing=Missing,
        steps=0,
        is_file=False,
        reading_seconds=1e3,
    )
    tracker = Tracker(cast(Mirror, mirror))
    tracker.start()
    assert read.wait(60)
    for _ in range(5):
        tracker.changed()
    assert tracker.finish(NOTHING, patience=60) == Missing()
    assert len(reads) == 2


def _seconds(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_what_a_server_missed_is_caught_up_when_it_comes_back(tmp_path: Path, server: Any) -> None:
    sweep = Sweep(tmp_path / "run", f"http://me:CANARY@127.0.0.1:{server.port}")
    mirror = sweep.mirror()
    tracker = Tracker(mirror)
    sweep.record("before")
    tracker.start()
    wait_until(lambda: not mirror.missing().trials)
    server.die()
    for k in range(3):
        sweep.record(f"during{k}")
        tracker.changed()
    wait_until(lambda: bool(tracker.problem))
    assert "CANARY" not in tracker.problem
    server.come_back()
    wait_until(lambda: not mirror.missing().trials and not mirror.missing().pictures)
    sweep.record("after", status="complete")
    assert not tracker.finish(NOTHING)
    assert tracker.problem == ""
    assert set(sweep.trials(server.store)) == {"before", "during0", "during1", "during2", "after"}
    history = sweep.client(server.store).get_metric_history
    for run in sweep.trials(server.store).values():
        assert len(history(run.info.run_id, "fid")) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_sync_completes_what_a_dead_server_missed(
    tmp_path: Path,
    server: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri = f"http://me:CANARY@127.0.0.1:{server.port}"
    sweep = Sweep(tmp_path / "run", uri)
    sweep.run.environment.write_text(f'{{"run_uuid": "{sweep.tracked.uuid}", "tracking_uri": "{uri}"}}')
    sweep.record("first", status="complete")
    mirror = sweep.mirror()
    tracker = Tracker(mirror)
    tracker.start()
    wait_until(lambda: not mirror.missing().pictures)
    server.die()
    sweep.record("second", status="complete")
    assert tracker.finish(NOTHING, patience=3) == Missing(1, 1, 1, ending=True)

    def sync() -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["pareto-amb", "mlflow", "sync", str(sweep.run.path)])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        assert "CANARY" not in said.out + said.err
        return int(stopped.value.code or 0), said.out + said.err

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, said = sync()
    assert (code, "set MLFLOW_TRACKING_URI" in said) == (2, True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    code, said = sync()
    assert (code, "cannot be used" in said) == (2, True)
    server.come_back()
    code, said = sync()
    expected = "1 row of 1 trial, 1 picture, the sweep's curves, the recommendation and the report"
    link = f"http://127.0.0.1:{server.port}/#/experiments/1/runs/{sweep.parent(server.store).info.run_id}"
    at = f"http://***@127.0.0.1:{server.port}"
    assert (code, said) == (0, f"logged {expected} to MLflow at {at}\n  open '{link}'\n")
    assert set(sweep.trials(server.store)) == {"first", "second"}
    assert sweep.parent(server.store).info.status == "FINISHED"


def test_a_uuid_is_made_once_and_is_never_text_of_someone_else() -> None:
    made = run_uuid({})
    assert run_uuid({"run_uuid": made}) == made
    assert len(run_uuid({"run_uuid": "x' OR tags.kind = 'sweep"})) == 32


def test_a_database_that_is_locked_delays_nothing_and_is_caught_up(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_module, "FIRST_WAIT", 0.05)
    sweep.record(status="complete")
    mirror, locked = sweep.mirror(), [True, True]
    connected = mirror._connected

    def connect() -> MlflowClient:
        if locked:
            locked.pop()
            raise OSError("database is locked")
        return connected()

    monkeypatch.setattr(mirror, "_connected", connect)
    tracker = Tracker(mirror)
    tracker.start()
    wait_until(lambda: not mirror.missing().trials)
    assert not tracker.finish(replace(NOTHING, tags={"n50.fid": "1"}))
    assert sweep.parent().data.tags["n50.fid"] == "1"
