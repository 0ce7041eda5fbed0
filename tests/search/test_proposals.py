import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pareto_amb.declared import MethodInfo, Parameter
from pareto_amb.search.ehvi import EHVISampler
from pareto_amb.search.extrapolation import extrapolate
from pareto_amb.search.pareto import hypervolume
from pareto_amb.search.proposals import (
    MAX_OBSERVED,
    SPREAD,
    ParetoSampler,
    Range,
    distributions,
    grid_point,
    startup_point,
)

SEARCHED: dict[str, optuna.distributions.BaseDistribution] = {
    "sigma_tn": optuna.distributions.FloatDistribution(0.1, 10, log=True)
}


@dataclass(frozen=True)
class Between:
    low: float
    high: float


@dataclass(frozen=True)
class Space:
    ranges: dict[str, Range | tuple[float | str, ...]]

    def searched(self, name: str, train_size: int) -> Range | tuple[float | str, ...]:
        found = self.ranges[name]
        return found if isinstance(found, tuple) else Between(found.low, found.high * train_size)


METHOD = MethodInfo(
    "own",
    "Own",
    "",
    parameters=(
        Parameter("level", "level", "", kind="level", log=True),
        Parameter("word", "word", ""),
        Parameter("share", "share", "", kind="share"),
    ),
)
SPACE = Space({"level": Between(0.1, 0.2), "word": ("natural", 0.5), "share": Between(0.2, 0.01)})


def test_what_is_searched_follows_from_the_declared_parameters_in_their_order() -> None:
    found = distributions(METHOD, SPACE, 50)
    assert list(found.items()) == [
        ("level", optuna.distributions.FloatDistribution(0.1, 10.0, log=True)),
        ("word", optuna.distributions.CategoricalDistribution(["natural", 0.5])),
        ("share", optuna.distributions.FloatDistribution(0.2, 0.5)),
    ]


@pytest.mark.parametrize("centre", [0.3, 0.001, 40.0])
def test_startup_points_begin_at_a_centre_and_lie_around_it(centre: float) -> None:
    points = [startup_point(SEARCHED, k, 0, {"sigma_tn": centre})["sigma_tn"] for k in range(256)]
    assert points[0] == pytest.approx(min(max(centre, 0.1), 10.0))
    assert all(0.1 <= point <= 10.0 for point in points)
    within = [point for point in points if abs(np.log(point / points[0])) < SPREAD]
    assert len(within) > 0.6 * len(points)


def test_what_a_search_has_not_begun_tells_what_to_expect_and_is_no_trial_of_it() -> None:
    search = make_search(EHVISampler(0), n_startup=1, n_rungs=2)
    search.begin("begun", {"sigma_tn": 1.0})
    for k in range(4):
        search.report(f"baseline {k}", 1, (1.0 + k, 2.0 + k))
        search.report(f"baseline {k}", 2, (2.0 + k, 4.0 + k))
    assert search.best() is None
    search.report("begun", 1, (1.5, 2.5))
    rows, curves = search._expected()
    assert len(rows) == 1
    assert curves[0, 1] == pytest.approx([2.5, 4.5], abs=0.5)
    assert 0.1 <= search.propose()["sigma_tn"] <= 10


def test_startup_points_cover_the_space_evenly() -> None:
    searched = distributions(METHOD, SPACE, 50)
    points = [startup_point(searched, k, seed=3) for k in range(16)]
    bins = [int(np.log(p["level"] / 0.1) / np.log(100) * 16) for p in points]
    assert sorted(bins) == list(range(16))
    assert [p["word"] for p in points].count("natural") == 8
    assert sorted(int((p["share"] - 0.2) / 0.3 * 16) for p in points) == list(range(16))


class Recorder(optuna.samplers.RandomSampler):
    """Keeps the trials that the sampler is shown."""

    shown: Sequence[optuna.trial.FrozenTrial] = []

    def infer_relative_search_space(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> dict:
        self.shown = [t for t in study.get_trials() if t.number != trial.number]
        return super().infer_relative_search_space(study, trial)


def make_search(sampler: optuna.samplers.BaseSampler, n_rungs: int, n_startup: int = 0) -> ParetoSampler:
    return ParetoSampler(SEARCHED, sampler, n_objectives=2, n_startup=n_startup, n_rungs=n_rungs)


def test_points_come_evenly_as_long_as_nothing_is_known_and_at_least_so_many() -> None:
    recorder = Recorder(seed=0)
    search = make_search(recorder, n_rungs=1, n_startup=6)
    points = [startup_point(SEARCHED, k, seed=0) for k in range(8)]
    for key in range(8):  # more workers than startup points
        assert search.propose() == points[key]
        search.begin(key, points[key])
    search.report(0, 1, [1.0, 1.0])
    search.propose()
    assert len(recorder.shown) == 8
    patient = make_search(Recorder(seed=0), n_rungs=1, n_startup=6)
    patient.begin(0, points[0])
    patient.report(0, 1, [1.0, 1.0])
    assert patient.propose() == points[1]


def test_a_search_may_start_elsewhere() -> None:
    search = make_search(Recorder(seed=0), n_rungs=1, n_startup=2)
    search.start_from({"sigma_tn": 7.0})
    assert search.propose() == {"sigma_tn": 7.0}
    search.begin(0, {"sigma_tn": 7.0})
    assert search.propose() == startup_point(SEARCHED, 1, seed=0)


CHOICES = st.lists(st.sampled_from(["natural", 0.1, 0.4, 1.0, 2.0]), min_size=1, max_size=5, unique=True)


@given(st.lists(CHOICES, max_size=3))
def test_a_grid_is_every_combination_once_the_first_parameter_outermost(lists: list[list]) -> None:
    searched: dict[str, optuna.distributions.BaseDistribution] = {
        f"p{k}": optuna.distributions.CategoricalDistribution(choices) for k, choices in enumerate(lists)
    }
    combinations = [dict(zip(searched, values, strict=True)) for values in itertools.product(*lists)]
    assert [grid_point(searched, k) for k in range(len(combinations))] == combinations
    with pytest.raises(ValueError, match="out of bounds"):
        grid_point(searched, len(combinations))


def test_a_grid_goes_its_way_whatever_the_trials_show() -> None:
    searched: dict[str, optuna.distributions.BaseDistribution] = {
        "sigma_tn": optuna.distributions.CategoricalDistribution([2.0, 0.1, 0.4])
    }
    search = ParetoSampler(searched, None, n_objectives=2, n_startup=1, n_rungs=1)
    search.start_from({"sigma_tn": 0.4})
    for key, sigma_tn in enumerate([2.0, 0.1, 0.4]):
        assert search.propose() == search.propose() == {"sigma_tn": sigma_tn}
        search.begin(key, {"sigma_tn": sigma_tn})
        search.report(key, 1, [sigma_tn, 1.0])
        if key == 1:
            search.forget(key)


def begin_all(search: ParetoSampler, count: int) -> None:
    for key in range(count):
        search.begin(key, {"sigma_tn": 0.1 + key / count})


def test_a_trial_stopped_early_is_never_shown_with_what_it_had_then() -> None:
    recorder = Recorder(seed=0)
    search = make_search(recorder, n_rungs=2)
    begin_all(search, 6)
    for key in range(6):
        search.report(key, 1, [10.0 + key, 0.0, 0.5 + key / 10])
    search.propose()
    assert recorder.shown == []  # nothing is known of how any of them ends
    for key in range(4):
        search.report(key, 2, [5.0 + key, 0.1 * key, 0.7])
    search.propose(box=(np.zeros(2), np.array([10.0, 1.0])))
    states = {t.params["sigma_tn"]: t for t in recorder.shown}
    shown = [states[0.1 + key / 6].values for key in range(6)]
    assert shown[:4] == [pytest.approx([(5 + key) / 10, 0.1 * key]) for key in range(4)]
    expected = np.array(shown[4:])
    assert (expected[:, 0] > 0.8).all()  # beyond the finished ones, as their first rung was
    assert (expected[:, 1] > 0.2).all()  # where they had no copies yet
    assert expected[1, 0] > expected[0, 0]


def test_a_failed_trial_is_forgotten_and_a_running_one_is_avoided() -> None:
    recorder = Recorder(seed=0)
    search = make_search(recorder, n_rungs=1)
    begin_all(search, 3)
    search.report(0, 1, [1.0, 1.0])
    search.forget(1)
    search.propose()
    assert [t.state.name for t in recorder.shown] == ["COMPLETE", "RUNNING"]
    assert search.n_begun == 3


def test_a_long_sweep_is_shown_by_its_best_and_an_even_choice_of_the_others() -> None:
    recorder = Recorder(seed=0)
    search = make_search(recorder, n_rungs=1)
    begin_all(search, 300)
    for key in range(300):
        search.report(key, 1, [float(key), float(key)])
    search.propose(box=(np.zeros(2), np.ones(2)))
    seen = sorted(t.values[0] for t in recorder.shown)
    assert len(seen) == MAX_OBSERVED
    assert seen[: MAX_OBSERVED // 2] == list(range(MAX_OBSERVED // 2))
    assert seen[-1] == 299


def test_what_early_figures_tell_is_extrapolated_and_what_they_do_not_is_the_mean() -> None:
    rng = np.random.default_rng(0)
    before = rng.random((200, 2))
    after = np.stack([3 * before[:, 0] + 1, rng.random(200)], axis=1)
    expected, error = extrapolate(before, after, np.array([[0.0, 0.5], [1.0, 0.5]]))
    told, untold = expected.T
    assert told == pytest.approx([1, 4], abs=0.1)
    assert untold == pytest.approx([0.5, 0.5], abs=0.15)
    assert error[0] < 0.1 < 0.25 < error[1] < 0.35  # of a draw from the unit interval: 0.29
    assert (extrapolate(before, after - 10, before)[0] == 0).all()
    cut, _ = extrapolate(before, after - 10, before, floor=[-8.0, -np.inf])
    assert cut[:, 0].min() == -8
    assert (cut[:, 0].max(), cut[:, 1].max()) < (-5, -8)


THREE = np.array([[3.0, 0.2, -0.5], [4.0, 0.1, -0.9], [8.0, 0.3, -0.7], [2.0, 0.4, -0.1], [5.0, 0.2, -0.6]])
"""Two minimised objectives, and one that is maximised, with 1 for an ideal."""


def search_of_three(sampler: optuna.samplers.BaseSampler, floor: Sequence[float]) -> ParetoSampler:
    search = ParetoSampler(SEARCHED, sampler, n_objectives=3, n_startup=0, n_rungs=2, floor=floor)
    begin_all(search, 6)
    for key, values in enumerate(THREE.tolist()):
        search.report(key, 1, values)
        search.report(key, 2, values)
    search.report(5, 1, [3.0, 0.2, -0.9])
    return search


def test_three_objectives_are_shown_as_shares_of_the_way_from_the_ideal_to_the_reference() -> None:
    recorder = Recorder(seed=0)
    search = search_of_three(recorder, floor=[0.0, 0.0, -1.0])
    search.propose(box=(np.array([0.0, 0.0, -1.0]), np.array([10.0, 0.5, -0.2])))
    shown = np.array([t.values for t in recorder.shown])
    assert shown[:5] == pytest.approx((THREE - [0, 0, -1]) / [10, 0.5, 0.8])
    assert recorder.shown[5].params["sigma_tn"] == 0.1 + 5 / 6
    assert 0 <= shown[5, 2] < 0.5  # it shows far more than most of the maximised one


def test_without_a_box_the_worst_seen_is_the_reference_and_the_floor_or_the_best_seen_the_ideal() -> None:
    for floor, lowest in ((-1.0, -1.0), (-np.inf, -0.9)):
        recorder = Recorder(seed=0)
        search = ParetoSampler(
            SEARCHED, recorder, n_objectives=3, n_startup=0, n_rungs=1, floor=[0.0, 0.0, floor]
        )
        begin_all(search, 5)
        for key, values in enumerate(THREE.tolist()):
            search.report(key, 1, values)
        search.propose()
        ideal, worst = np.array([0.0, 0.0, lowest]), np.array([8.0, 0.4, -0.1])
        assert np.array([t.values for t in recorder.shown]) == pytest.approx(
            (THREE - ideal) / (worst - ideal)
        )


@pytest.mark.parametrize(
    "reference", [[10.0, 0.5, -0.2], [10.0, 0.5, 0.0], [4.5, 0.35, 0.0], [6.0, 0.25, -0.55]]
)
def test_the_best_of_three_objectives_alone_dominates_the_largest_volume(reference: Sequence[float]) -> None:
    search = search_of_three(Recorder(seed=0), floor=[0.0, 0.0, -1.0])
    volumes = [hypervolume(row[None], np.array(reference)) for row in THREE]
    best = search.best((np.array([0.0, 0.0, -1.0]), np.array(reference)))
    assert best == {"sigma_tn": 0.1 + int(np.argmax(volumes)) / 6}
