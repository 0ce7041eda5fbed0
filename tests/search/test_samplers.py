from collections.abc import Sequence

import numpy as np
import optuna
import pytest

import search_spaces
from pareto_amb.config import SpaceConfig, SweepConfig, apply_overrides, parse
from pareto_amb.search.foresight import foresee
from pareto_amb.search.samplers import MAX_OBSERVED, ParetoSampler, distributions, startup_point

SEARCHED: dict[str, optuna.distributions.BaseDistribution] = {
    "sigma_tn": optuna.distributions.FloatDistribution(0.1, 10, log=True)
}


def make_space(*changes: str) -> SpaceConfig:
    return parse(SweepConfig, apply_overrides(search_spaces.load("smoke"), changes), "smoke").space


def test_startup_points_cover_the_space_evenly() -> None:
    space = make_space()
    points = [startup_point(distributions(space, 50, "algorithm1"), k, seed=3) for k in range(16)]
    low, high = np.log(space.sigma_tn.low), np.log(space.sigma_tn.high)
    bins = [int((np.log(p["sigma_tn"]) - low) / (high - low) * 16) for p in points]
    assert sorted(bins) == list(range(16))
    assert [p["mix_ratio"] for p in points].count("natural") == 8
    ranged = make_space("space.mix_ratio={low: 0.2, high: 0.6}")
    searched = distributions(ranged, 50, "algorithm1")
    assert all(0.2 <= startup_point(searched, k, seed=0)["mix_ratio"] <= 0.6 for k in range(9))


class Recorder(optuna.samplers.RandomSampler):
    """Keeps the trials that the sampler is shown."""

    shown: Sequence[optuna.trial.FrozenTrial] = []

    def infer_relative_search_space(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> dict:
        self.shown = [t for t in study.get_trials() if t.number != trial.number]
        return super().infer_relative_search_space(study, trial)


def make_search(sampler: optuna.samplers.BaseSampler, n_rungs: int, n_startup: int = 0) -> ParetoSampler:
    return ParetoSampler(SEARCHED, sampler, n_startup=n_startup, n_rungs=n_rungs)


def test_points_come_evenly_as_long_as_nothing_is_known_and_at_least_so_many() -> None:
    recorder = Recorder(seed=0)
    search = make_search(recorder, n_rungs=1, n_startup=6)
    points = [startup_point(SEARCHED, k, seed=0) for k in range(8)]
    for key in range(8):  # more workers than startup points
        assert search.propose() == points[key]
        search.begin(key, points[key])
    search.report(0, 0, [1.0, 1.0])
    search.propose()
    assert len(recorder.shown) == 8
    patient = make_search(Recorder(seed=0), n_rungs=1, n_startup=6)
    patient.begin(0, points[0])
    patient.report(0, 0, [1.0, 1.0])
    assert patient.propose() == points[1]


def test_a_search_may_start_elsewhere() -> None:
    search = make_search(Recorder(seed=0), n_rungs=1, n_startup=2)
    search.start_from({"sigma_tn": 7.0})
    assert search.propose() == {"sigma_tn": 7.0}
    search.begin(0, {"sigma_tn": 7.0})
    assert search.propose() == startup_point(SEARCHED, 1, seed=0)


def begin_all(search: ParetoSampler, count: int) -> None:
    for key in range(count):
        search.begin(key, {"sigma_tn": 0.1 + key / count})


def test_a_trial_stopped_early_is_never_shown_with_what_it_had_then() -> None:
    recorder = Recorder(seed=0)
    search = make_search(recorder, n_rungs=2)
    begin_all(search, 6)
    for key in range(6):
        search.report(key, 0, [10.0 + key, 0.0, 0.5 + key / 10])
    search.propose()
    assert recorder.shown == []  # nothing is known of how any of them ends
    for key in range(4):
        search.report(key, 1, [5.0 + key, 0.1 * key, 0.7])
    search.propose(reference=[10.0, 1.0])
    states = {t.params["sigma_tn"]: t for t in recorder.shown}
    shown = [states[0.1 + key / 6].values for key in range(6)]
    assert shown[:4] == [pytest.approx([(5 + key) / 10, 0.1 * key]) for key in range(4)]
    foreseen = np.array(shown[4:])
    assert (foreseen[:, 0] > 0.8).all()  # beyond the finished ones, as their first rung was
    assert (foreseen[:, 1] > 0.2).all()  # where they had no copies yet
    assert foreseen[1, 0] > foreseen[0, 0]


def test_a_failed_trial_is_forgotten_and_a_running_one_is_avoided() -> None:
    recorder = Recorder(seed=0)
    search = make_search(recorder, n_rungs=1)
    begin_all(search, 3)
    search.report(0, 0, [1.0, 1.0])
    search.forget(1)
    search.propose()
    assert [t.state.name for t in recorder.shown] == ["COMPLETE", "RUNNING"]
    assert search.n_begun == 3


def test_a_long_sweep_is_shown_by_its_best_and_an_even_choice_of_the_others() -> None:
    recorder = Recorder(seed=0)
    search = make_search(recorder, n_rungs=1)
    begin_all(search, 300)
    for key in range(300):
        search.report(key, 0, [float(key), float(key)])
    search.propose(reference=[1.0, 1.0])
    seen = sorted(t.values[0] for t in recorder.shown)
    assert len(seen) == MAX_OBSERVED
    assert seen[: MAX_OBSERVED // 2] == list(range(MAX_OBSERVED // 2))
    assert seen[-1] == 299


def test_what_early_figures_tell_is_foreseen_and_what_they_do_not_is_the_mean() -> None:
    rng = np.random.default_rng(0)
    before = rng.random((200, 2))
    after = np.stack([3 * before[:, 0] + 1, rng.random(200)], axis=1)
    told, untold = foresee(before, after, np.array([[0.0, 0.5], [1.0, 0.5]])).T
    assert told == pytest.approx([1, 4], abs=0.1)
    assert untold == pytest.approx([0.5, 0.5], abs=0.15)
    assert (foresee(before, after - 10, before) == 0).all()
