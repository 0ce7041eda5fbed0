from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pareto_amb.search.early_stopping import OPTIMISM, FrontierRungs
from pareto_amb.search.extrapolation import MIN_FINISHED, LearningCurves, extrapolate
from pareto_amb.search.pareto import non_dominated


def known(rungs: FrontierRungs, curves: dict[str, list[tuple[float, ...]]]) -> FrontierRungs:
    """With trials that went through every rung."""
    for name, curve in curves.items():
        for rung, values in enumerate(curve, 1):
            rungs.enter(name, rung, values)
    return rungs


def quality_against_copies(count: int = 8) -> dict[str, list[tuple[float, ...]]]:
    """Both objectives of trial k follow from what it shows first, on a trade-off."""
    return {f"t{k}": [(20.0 + k, 0.0, float(k)), (10.0 + k, 0.9 - 0.1 * k, 0.0)] for k in range(count)}


def test_all_go_on_until_trials_can_be_extrapolated() -> None:
    rungs = FrontierRungs(2, n_objectives=2)
    for k in range(MIN_FINISHED):
        assert rungs.report(f"t{k}", 1, (10.0 + k, 10.0 + k, float(k)))
        assert rungs.report(f"u{k}", 1, (20.0 + k, 20.0 + k, float(k)))
        rungs.enter(f"t{k}", 2, (10.0 + k, 10.0 + k, float(k)))
    assert not rungs.report("late", 1, (30.0, 30.0, 0.0))


def test_a_trial_goes_on_while_a_later_rung_may_join_the_frontier() -> None:
    rungs = known(FrontierRungs(2, n_objectives=2), quality_against_copies())
    assert rungs.report("between", 1, (23.4, 0.0, 3.4))
    assert rungs.report("beyond", 1, (29.0, 0.0, 9.0))
    rungs.enter("better than all", 2, (5.0, 0.0, 0.0))
    assert not rungs.report("behind", 1, (23.6, 0.0, 3.6))
    assert rungs.candidates() == []
    rungs.forget("better than all")
    assert rungs.candidates() == [(1, "behind")]


def test_a_training_that_only_copies_more_stops_by_itself() -> None:
    """FID is best at the second rung and copies rise: nobody goes on to where both are worse."""
    curves = {f"t{k}": [(30.0 + k, 0.0), (10.0 + k, 0.3 - k / 20), (20.0 + k, 0.7)] for k in range(6)}
    rungs = known(FrontierRungs(3), {name: [*curve] for name, curve in curves.items()})
    assert rungs.report("new", 1, (32.4, 0.0))
    assert not rungs.report("new", 2, (12.4, 0.18))


def test_what_early_figures_do_not_tell_is_not_stopped_by_them() -> None:
    rng = np.random.default_rng(0)
    curves = {
        f"t{k}": [(float(rng.random()), float(rng.random())), (float(rng.random()), float(rng.random()))]
        for k in range(12)
    }
    told = {name: [first, (first[0] + 0.5, first[1] + 0.5)] for name, (first, _) in curves.items()}
    decided = {}
    for label, shown in (("nothing", curves), ("all", told)):
        rungs = known(FrontierRungs(2), shown)
        decided[label] = sum(rungs.report(f"u{k}", 1, tuple(rng.random(2).tolist())) for k in range(30))
    assert decided["all"] < decided["nothing"]


def test_failed_trials_do_not_count_and_values_that_are_not_finite_pause() -> None:
    rungs = known(FrontierRungs(2, n_objectives=2), quality_against_copies())
    assert not rungs.report("nan", 1, (np.nan, 0.0, 0.0))
    assert not rungs.report("inf", 1, (np.inf, 0.0, 0.0))
    assert rungs.report("fine", 1, (23.4, 0.0, 3.4))
    assert rungs.candidates() == []
    rungs.pause("waits", 1, (90.0, 0.9, 40.0))
    assert rungs.last_choice() == "inf"  # as hopeless as the others, and first by name
    for name in ("nan", "inf"):
        rungs.forget(name)
    assert rungs.last_choice() == "waits"


def test_a_higher_rung_is_served_first_and_what_goes_on_is_no_candidate() -> None:
    rungs = FrontierRungs(3)
    for name, rung in (("b", 1), ("a", 1), ("c", 2)):
        rungs.pause(name, rung, (1.0, 1.0))
    assert rungs.candidates() == [(2, "c"), (1, "a"), (1, "b")]
    assert [rungs.promotable() for _ in range(4)] == ["c", "a", "b", None]


def tables(rows: int) -> st.SearchStrategy[list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    value = st.integers(0, 6)
    row = st.tuples(value, value, st.integers(-6, 0))
    return st.lists(st.tuples(row, row), min_size=MIN_FINISHED, max_size=rows)


@settings(deadline=None)
@given(tables(12), st.lists(st.tuples(*[st.integers(-6, 6)] * 3), min_size=1, max_size=6))
def test_a_trial_goes_on_as_by_comparing_with_all_there_is(
    finished: list[tuple[tuple[int, ...], tuple[int, ...]]], new: list[tuple[int, ...]]
) -> None:
    floor = (0.0, 0.0, -6.0)
    rungs = FrontierRungs(2, floor=floor)
    known(rungs, {f"t{k}": [*rows] for k, rows in enumerate(finished)})
    before, after = (np.array(part, dtype=float) for part in zip(*finished, strict=True))
    everything = [*before, *after]
    for k, row in enumerate(new):
        everything.append(np.maximum(row, floor))
        expected, error = extrapolate(before, after, np.array([row], dtype=float), floor)
        hoped = np.maximum(expected[0] - OPTIMISM * error, floor)
        goes_on = not any((seen <= hoped).all() and (seen < hoped).any() for seen in everything)
        assert rungs.report(f"u{k}", 1, row) == goes_on


@settings(deadline=None)
@given(tables(10), st.randoms(use_true_random=False))
def test_what_is_decided_does_not_depend_on_the_order_it_is_told_in(
    finished: list[tuple[tuple[int, ...], tuple[int, ...]]], random: Random
) -> None:
    told = [(f"t{k}", rung, row) for k, rows in enumerate(finished) for rung, row in enumerate(rows, 1)]
    told += [(f"u{k}", 1, rows[0]) for k, rows in enumerate(finished)]
    decided = []
    for order in (told, random.sample(told, len(told))):
        rungs = FrontierRungs(2, floor=(0.0, 0.0, -6.0))
        for name, rung, row in order:
            (rungs.pause if name.startswith("u") else rungs.enter)(name, rung, row)
        decided.append(sorted(name for _, name in rungs.candidates()))
    assert decided[0] == decided[1]


@settings(deadline=None)
@given(tables(12))
def test_the_frontier_is_that_of_all_that_was_measured(
    finished: list[tuple[tuple[int, ...], tuple[int, ...]]],
) -> None:
    rungs = FrontierRungs(2, floor=(0.0, 0.0, -6.0))
    known(rungs, {f"t{k}": [*rows] for k, rows in enumerate(finished)})
    everything = np.array([row for rows in finished for row in rows], dtype=float)
    expected = everything[non_dominated(everything)]
    assert np.unique(rungs._frontier(), axis=0).tolist() == np.unique(expected, axis=0).tolist()


def test_a_curve_is_completed_from_the_last_rung_that_it_has_reached() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((6, 3, 2))
    curves: LearningCurves[int] = LearningCurves(3)
    for k in range(6):
        for rung in range(1, 4 if k < 5 else 3):
            curves.record(k, rung, values[k, rung - 1].tolist())
    completed, errors = curves.completed(np.array([0, 5]))
    assert completed[0] == pytest.approx(values[0])
    assert (errors[0] == 0).all()
    expected, error = extrapolate(values[:5, 1], values[:5, 2], values[5:, 1])
    assert completed[1] == pytest.approx(np.stack([*values[5, :2], expected[0]]))
    assert errors[1, 2] == pytest.approx(error)
    curves.forget(0)
    curves.forget(1)
    assert np.isnan(curves.completed(np.array([5]))[0][0, 2]).all()


NOT_YET = (np.nan, np.nan)


def probed(count: int = 8) -> dict[str, list[tuple[float, ...]]]:
    """Trial k shows k in its probes, and later objectives on a trade-off."""
    return {
        f"t{k}": [(*NOT_YET, float(k), np.nan), (10.0 + k, 0.9 - 0.1 * k, float(k), np.nan)]
        for k in range(count)
    }


def test_probes_alone_tell_who_goes_on_before_there_are_objectives() -> None:
    rungs = FrontierRungs(2, n_objectives=2, n_probe_rungs=1)
    assert rungs.report("first", 1, (*NOT_YET, 90.0, np.nan))
    known(rungs, probed())
    rungs.enter("better", 2, (11.0, 0.0, 0.0, np.nan))
    assert rungs.report("on the trade-off", 1, (*NOT_YET, 0.5, np.nan))
    assert not rungs.report("behind", 1, (*NOT_YET, 5.0, np.nan))
    rungs.forget("better")
    assert rungs.candidates() == [(1, "behind")]
    assert rungs.report("shows nothing", 1, (*NOT_YET, np.nan, np.nan))


def test_a_curve_is_completed_from_the_probes_it_has_and_counts_with_full_rungs_alone() -> None:
    curves: LearningCurves[str] = LearningCurves(3, 2, n_probe_rungs=1)
    rng = np.random.default_rng(0)
    values = rng.random((6, 3, 4))
    values[:, 0, :2] = np.nan
    values[:, :, 3] = np.nan  # nothing is held out
    for k, shown in enumerate(values):
        for rung in range(1, 4 if k < 5 else 2):
            curves.record(f"t{k}", rung, shown[rung - 1].tolist())
    completed, errors = curves.completed(np.array([0, 5]))
    assert curves.full_rungs().tolist() == [2, 3]
    assert completed.shape == errors.shape == (2, 2, 2)
    assert completed[0] == pytest.approx(values[0, 1:, :2])
    for later in (1, 2):
        probes = values[:5, 0, 2:3], values[5:, 0, 2:3]
        expected, error = extrapolate(probes[0], values[:5, later, :2], probes[1])
        assert completed[1, later - 1] == pytest.approx(expected[0])
        assert errors[1, later - 1] == pytest.approx(error)
