"""How many trials are handed out, and when."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.search import Searcher

from pareto_amb import search_spaces
from pareto_amb.config import SweepConfig
from pareto_amb.config_file import apply_overrides
from pareto_amb.running import pace
from pareto_amb.running.cluster import ENVIRONMENT
from pareto_amb.running.pace import ASK_SECONDS, Paced, Slots, Workers
from pareto_amb.running.scheduler import ParetoHalving
from pareto_amb.running.sweep import make_tuner
from pareto_amb.signals import own_handlers
from pareto_amb.sweep_file import parse_sweep
from pareto_amb.trainables.trial_trainable import SweepAssets, TrialTrainable


class Counting(Searcher):
    """Proposes so many trials, and counts which ended."""

    def __init__(self, n: int) -> None:
        super().__init__(metric=["fid", "memorization"], mode=["min", "min"])
        self.left, self.ended = n, 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if not self.left:
            return str(Searcher.FINISHED)
        self.left -= 1
        return {"id": f"trial{self.left}"}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.ended += 1

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


class Halving:
    """Trials that wait at a rung, as `ParetoHalving` knows them."""

    def __init__(self) -> None:
        self.paused: set[str] = set()

    @property
    def n_paused(self) -> int:
        return len(self.paused)

    def is_paused(self, trial: Any) -> bool:
        return trial.trial_id in self.paused


class Cluster:
    """So many slots, trials that wait for one of them, have one, or are paused."""

    def __init__(self, slots: int, n: int = 99, ahead: int = 1) -> None:
        self.slots, self.asked, self.halving = slots, 0, Halving()
        self.searcher = Paced(Counting(n), lambda: self.slots, ahead, cast(ParetoHalving, self.halving))
        self.workers = Workers(self.searcher)
        self.waiting: list[str] = []
        self.working: list[str] = []

    def fill(self) -> int:
        """Ask until there is nothing more, as Ray Tune does; how many it got."""
        for count in range(100):
            self.asked += 1
            if not isinstance(self.searcher.suggest(f"ray{self.asked}"), dict):
                return count
            self.waiting.append(f"ray{self.asked}")
        raise AssertionError("it never ends")

    def start(self) -> None:
        self.working.append(self.waiting.pop(0))
        self.workers.on_trial_start(0, [], _trial(self.working[-1]))

    def report(self, pauses: bool = False) -> None:
        name = self.working.pop(0)
        (self.halving.paused.add(name) if pauses else self.working.append(name))
        self.searcher.on_trial_result(name, {})
        self.workers.on_trial_result(0, [], _trial(name), {})

    def resume(self) -> None:
        self.waiting.append(self.halving.paused.pop())

    def recover(self) -> None:
        self.waiting.append(self.working.pop(0))
        self.workers.on_trial_recover(0, [], _trial(self.waiting[-1]))

    def end(self) -> None:
        self.searcher.on_trial_complete(self.working.pop(0), {})


def _trial(name: str) -> Any:
    return SimpleNamespace(trial_id=name)


def test_all_slots_are_filled_at_once_and_then_one_trial_waits() -> None:
    cluster = Cluster(slots=4)
    assert cluster.fill() == 4
    cluster.start()
    assert cluster.fill() == 0  # the other three have not started
    for _ in range(3):
        cluster.start()
    assert cluster.fill() == 1
    cluster.end()
    assert cluster.fill() == 0
    cluster.start()
    assert cluster.fill() == 1


def test_a_trial_that_pauses_makes_room_and_one_that_resumes_takes_it() -> None:
    cluster = Cluster(slots=2)
    cluster.fill(), cluster.start(), cluster.start(), cluster.fill()
    cluster.report()
    assert cluster.fill() == 0
    cluster.report(pauses=True)
    cluster.start()
    assert cluster.fill() == 1
    cluster.resume()
    assert cluster.fill() == 0


def test_where_none_is_ahead_a_trial_is_handed_out_when_another_ends() -> None:
    cluster = Cluster(slots=2, ahead=0)
    assert cluster.fill() == 2
    cluster.start(), cluster.start()
    assert cluster.fill() == 0
    cluster.end()
    assert cluster.fill() == 1


def test_nodes_that_join_are_filled_and_those_that_leave_are_not_missed() -> None:
    cluster = Cluster(slots=1)
    assert cluster.fill() == 1
    cluster.slots = 3
    assert cluster.fill() == 2
    cluster.slots = 1
    cluster.start(), cluster.start(), cluster.start()
    assert cluster.fill() == 1  # more fit than was known
    cluster.recover()
    cluster.end()
    assert cluster.fill() == 0


def test_what_ends_reaches_the_searcher_and_so_does_the_end_of_it() -> None:
    cluster = Cluster(slots=2, n=3)
    cluster.fill(), cluster.start(), cluster.start(), cluster.fill()
    for _ in range(2):
        cluster.end()
    assert cast(Counting, cluster.searcher._searcher).ended == 2
    assert cluster.searcher.suggest("more") == Searcher.FINISHED


@given(st.integers(1, 5), st.lists(st.sampled_from("srpuxe"), max_size=60))
def test_one_is_always_ahead_and_never_more_beyond_the_slots(slots: int, events: list[str]) -> None:
    cluster = Cluster(slots)
    acts = {
        "s": (cluster.waiting, cluster.start),
        "r": (cluster.working, cluster.report),
        "p": (cluster.working, lambda: cluster.report(pauses=True)),
        "u": (cluster.halving.paused, cluster.resume),
        "x": (cluster.working, cluster.recover),
        "e": (cluster.working, cluster.end),
    }
    for event in events:
        there, act = acts[event]
        if there and (event != "s" or len(cluster.working) < slots):
            act()
        waited = len(cluster.waiting)
        got = cluster.fill()
        under_way = len(cluster.waiting) + len(cluster.working)
        assert cluster.waiting
        assert under_way >= slots
        assert got == 0 or waited == 0 or under_way == slots
        assert got <= 1 or under_way <= slots + 1


def smoke(*changes: str) -> SweepConfig:
    return parse_sweep(apply_overrides(search_spaces.load("smoke"), changes), "smoke")


def slots_of(monkeypatch: pytest.MonkeyPatch, there: dict[str, float], shared: bool, gpus: float) -> Slots:
    monkeypatch.setattr(ray, "cluster_resources", lambda: there)
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    return Slots(smoke("resources.cpus_per_trial=2"), gpus, shared)


@pytest.mark.parametrize(
    ("gpus", "shared", "expected"),
    [(0.0, False, 16), (1.0, False, 8), (0.1, False, 16), (3.0, False, 2), (0.0, True, 4), (1.0, True, 2)],
)
def test_slots_are_what_trials_fit_in_without_what_others_hold(
    monkeypatch: pytest.MonkeyPatch, gpus: float, shared: bool, expected: int
) -> None:
    assert slots_of(monkeypatch, {"CPU": 32.0, "GPU": 8.0}, shared, gpus).count() == expected


def test_slots_follow_the_nodes_and_are_one_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    slots = slots_of(monkeypatch, there := {"CPU": 12.0, "GPU": 4.0}, True, 1.0)
    assert slots.count() == 2
    there["GPU"] = 7.0
    assert slots.count() == 2  # Ray is not asked again yet
    now += ASK_SECONDS
    assert slots.count() == 4  # CPUs are left for so many
    there.clear()
    now += ASK_SECONDS
    assert slots.count() == 1


def trivial_trial() -> type[TrialTrainable]:
    """A class of its own, which Ray sends to its workers by value."""

    class Trivial(tune.Trainable):
        def setup(self, config: dict[str, Any], assets: Any) -> None: ...

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            return {"fid": 0.0, "memorization": 0.0, "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None: ...

        def load_checkpoint(self, checkpoint: Any) -> None: ...

    return cast(type[TrialTrainable], Trivial)


class HandedOut(tune.Callback):
    """How many trials were under way whenever one started."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.counts.append(sum(not other.is_finished() for other in trials))


@pytest.mark.slow
def test_ray_tune_starts_all_workers_together_and_writes_its_state_not_for_every_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_OVERRIDE_RESOURCES")
    save, saved = TuneController.save_to_dir, []
    monkeypatch.setattr(TuneController, "save_to_dir", lambda self: (saved.append(self), save(self)))
    config, handed_out = smoke(), HandedOut()
    assets = cast(SweepAssets, SimpleNamespace(config=config, storage_uri=str(tmp_path)))
    with own_handlers():
        ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
        try:
            slots = Slots(config, 0.0, shared=False)
            found = make_tuner(
                assets, Counting(12), None, 99, [handed_out], slots, None, trivial_trial()
            ).fit()
        finally:
            ray.shutdown()
    assert found.num_terminated == len(handed_out.counts) == 12
    assert handed_out.counts[0] == 3
    assert max(handed_out.counts) <= 4
    assert len(saved) == 2  # at the beginning and at the end
