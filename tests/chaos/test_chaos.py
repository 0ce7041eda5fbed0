"""Sweeps that lose what they run on at random moments, beside ones that nothing disturbs."""

import importlib.util
import json
import pickle
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml

from pareto_amb.results.table import load_results, searched
from pareto_amb.storage import Storage


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


chaos = load("chaos")


@pytest.fixture(scope="module")
def network() -> Iterator[Any]:
    with chaos.Network.made() as made:
        yield made


@pytest.fixture(scope="module")
def services(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with sys.modules["services"].served(tmp_path_factory.mktemp("services"), network.host) as served:
        yield served


def table(**changes: list[object]) -> pd.DataFrame:
    found = {
        "trial_id": ["a", "a", "b"],
        "rung": [1, 2, 1],
        "fid": [1.0, float("nan"), 3.0],
        "status": "complete",
        "eval_seconds": 1.0,
    }
    return pd.DataFrame({**found, **changes})


def test_what_is_lost_repeated_or_otherwise_is_named() -> None:
    assert chaos.differences(table(eval_seconds=[5.0, 6.0, 7.0]), table()) == []
    assert chaos.differences(table(fid=[1.0, float("nan"), 4.0]), table()) == ["b 1 fid"]
    assert chaos.differences(table()[:2], table()) == ["b 1 left_only"]
    assert chaos.differences(table(), table()[1:]) == ["a 1 right_only"]
    assert "b 1 twice" in chaos.differences(pd.concat([table(), table()[2:]]), table())


def test_where_trials_pause_each_has_the_first_of_its_rows() -> None:
    paused = table(status=["paused", "paused", "complete"]).iloc[[0, 2]]
    assert chaos.paused_differences(paused, table()) == []
    assert chaos.paused_differences(table(), table()) == []
    assert chaos.paused_differences(table()[:2], table()) == ["b is lost"]
    assert chaos.paused_differences(paused.assign(fid=[2.0, 3.0]), table()) == ["a 1 fid"]
    assert chaos.paused_differences(paused.assign(status="complete"), table()) == [
        "a is {'complete'}, not paused"
    ]
    gap = paused.assign(rung=[2, 1])
    assert chaos.paused_differences(gap, table()) == ["a 1 left_only", "a 2 right_only"]


def test_a_file_of_faults_is_read_and_summed_up_by_kind(tmp_path: Path) -> None:
    fault = chaos.Fault(1, "sweep", 1, "driver", "SIGKILL", 3.0, 2, 5, lost=2.0)
    other = chaos.Fault(2, "sweep", 2, "driver", "SIGKILL", 4.0, 0, 1, lost=0.5, wrong="a 1 fid")
    path = tmp_path / "chaos.jsonl"
    assert chaos.read(path) == []
    path.write_text("".join(chaos.json.dumps(asdict(each)) + "\n" for each in (fault, other)))
    assert chaos.read(path) == [fault, other]
    heading, line = chaos.summary([fault, other]).splitlines()
    assert heading.split() == ["what", "how", "faults", "alike", "mean", "s", "lost", "max", "s", "lost"]
    assert line.split() == ["driver", "SIGKILL", "2", "1", "1.2", "2.0"]


def test_seconds_are_lost_since_the_checkpoint_until_the_first_fault(tmp_path: Path) -> None:
    begun = {"a": [1.0, 20.0], "b": [2.0, 21.0], "c": [3.0, 40.0], "d": [4.0]}
    written = {"a": [5.0], "b": [9.0, 10.5], "c": [8.0], "d": [6.0]}
    store = SimpleNamespace(begun=begun, written=written)
    run = chaos.Run(chaos.SCENES[0], tmp_path / "run", SimpleNamespace(store=store), chaos.Network())
    run.faults = [chaos.Fault(1, "sweep", 1, "driver", how, 0.0, 0) for how in ("SIGTERM", "SIGKILL")]
    run._moments = [10.0, 15.0]  # b wrote a checkpoint when it was told to
    run._idle = [{"c"}, {"c"}]
    run.table = lambda: pd.DataFrame({"trial_id": ["a", "b", "c", "d"]})
    run._settle()
    assert [fault.lost for fault in run.faults] == [5.0, 4.5]
    assert [fault.rows_after for fault in run.faults] == [0, 4]


@pytest.mark.slow
def test_a_store_that_is_gone_for_seven_seconds_delays_a_trial_and_loses_nothing(
    services: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in services.environment.items():
        monkeypatch.setenv(name, value)
    storage = Storage(services.storage("gone"), patient=True)
    filesystem, root = pickle.loads(pickle.dumps(storage.place))  # as Ray hands it to a worker
    services.store.trouble("gone", 7)
    storage.write("checkpoint", b"weights")
    assert not services.store.troubled
    with filesystem.open_input_file(f"{root}/checkpoint") as file:
        assert file.read() == b"weights"
    services.store.trouble("gone", 7)
    assert storage.read("checkpoint") == b"weights"
    assert storage.read("nothing") is None


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds its victims by /proc")
def test_faults_at_random_moments_change_no_result(services: Any, network: Any, tmp_path: Path) -> None:
    scene = next(scene for scene in chaos.SCENES if scene.nodes == 2)
    wanted, seconds = chaos.undisturbed(scene, tmp_path / "quiet", services, network)
    kinds = [
        ("worker", "SIGKILL"), ("second node", "SIGKILL"), ("store", "gone"), ("mlflow", "500"),
        *([("network", "cut short")] if network.inside else []), ("driver", "SIGKILL"),
    ]  # fmt: skip
    run = chaos.Run(scene, tmp_path / "disturbed", services, network)
    run.disturb(kinds, random.Random(0), seconds / 12, measured=1)
    assert [(fault.target, fault.how) for fault in run.faults] == kinds
    assert services.store.struck
    assert run.wrong(wanted) == []
    known = run.known[run.known.rung > 0]  # one without its first rung has a row until then
    kept = run.table().merge(known, on=["trial_id", "rung"], suffixes=("", "_before"))
    assert len(kept) == len(known) > 0
    for column in ("train_seconds", "eval_seconds", "branched_at"):
        assert kept[column].equals(kept[f"{column}_before"].rename(column))
    table = wanted.table()
    ours = searched(table)[searched(table).method == "algorithm1"]
    assert ours.trial_id.nunique() == 4
    (images,) = ours.branched_at.unique()
    assert images in (800, 3200)  # the rungs before the last
    assert (ours.images_seen > images).all()
    assert (table[~table.trial_id.isin(ours.trial_id)].branched_at == 0).all()
    scratch = table[table.confirms.isin(ours.trial_id)]
    assert scratch.groupby("trial_id").rung.apply(list).tolist() == [[1, 2, 3]]
    repeats, controls = table[table.confirms.isin(scratch.trial_id)], table[table.controls != ""]
    assert (len(repeats), len(controls)) == (1, 1)
    assert set(table.status) <= {"complete", "paused"}
    assert_no_branched_figure(run, set(ours.trial_id), services)


def assert_no_branched_figure(run: Any, branched: set[str], services: Any) -> None:
    """None is on a frontier, recommended, or among MLflow's usual metrics; how many there are is said."""
    size = load_results(run.run / "results.parquet").size(50)
    for budget in ("full", "any"):
        assert branched.isdisjoint(size.over(budget).points.trial_id)
    entry = yaml.safe_load((run.run / "recommendation.yaml").read_text())["recommendations"][0]
    assert entry["trial_id"] not in branched
    said = {caution["word"]: caution["sentence"] for caution in entry["cautions"]}["branched"]
    assert said.startswith("4 trials of the search went on from a DDPM baseline after ")
    assert "they only chose which 1 to train from scratch" in said
    assert said[1:] in (run.run / "report.html").read_text()
    uuid = json.loads((run.run / "environment.json").read_text())["run_uuid"]
    for trial, logged in services.tracked(uuid).items():
        assert ("branched_at" in logged.tags) == (trial in branched)
        assert {name.startswith("branched_") for name in logged.metrics} == {trial in branched}
