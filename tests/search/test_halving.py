from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pareto_amb.search.extrapolation import MIN_FINISHED, extrapolate
from pareto_amb.search.halving import Brackets, ParetoRungs, expected_budget
from pareto_amb.search.pareto import best_first, non_dominated


def test_the_best_third_goes_on() -> None:
    rungs = ParetoRungs(2, 3)
    assert not rungs.report("a", 1, (5.0, 5.0))  # one of one: nobody knows yet
    assert not rungs.report("b", 1, (4.0, 4.0))
    assert rungs.report("c", 1, (3.0, 3.0))
    assert not rungs.report("d", 1, (2.0, 4.0))


def test_a_paused_trial_resumes_once_enough_worse_ones_were_measured() -> None:
    rungs = ParetoRungs(2, 2)
    assert not rungs.report("good", 1, (1.0, 1.0))
    assert rungs.promotable() is None
    assert not rungs.report("bad", 1, (9.0, 9.0))
    assert rungs.promotable() == "good"
    assert rungs.promotable() is None


def test_trials_on_a_trade_off_are_equally_good_whatever_one_metric_alone_would_say() -> None:
    rungs = ParetoRungs(2, 2)
    for trial_id, values in {"w": (9.0, 9.0), "x": (8.0, 9.5), "left": (1.0, 5.0)}.items():
        rungs.report(trial_id, 1, values)
    assert rungs.report("right", 1, (5.0, 1.0))


def test_a_higher_rung_is_served_first() -> None:
    rungs = ParetoRungs(3, 2)
    for k in range(8):
        rungs.report(f"t{k}", 1, (float(8 - k), 0.0))
    assert [rungs.report("t7", 2, (1.0, 0.0)), rungs.report("t5", 2, (2.0, 0.0))] == [False, False]
    assert rungs.promotable() == "t7"


def test_a_failed_trial_neither_resumes_nor_counts() -> None:
    rungs = ParetoRungs(2, 2)
    rungs.report("good", 1, (1.0, 1.0))
    rungs.report("bad", 1, (9.0, 9.0))
    rungs.forget("good")
    assert rungs.promotable() is None


def test_values_that_are_not_finite_rank_last() -> None:
    rungs = ParetoRungs(2, 2)
    assert not rungs.report("nan", 1, (0.0, np.nan))
    assert rungs.report("bad", 1, (9.0, 9.0))
    assert not rungs.report("inf", 1, (np.inf, 0.0))
    assert rungs.report("worse", 1, (10.0, 10.0))
    assert rungs.promotable() is None
    assert rungs.last_choice() == "nan"


def test_the_best_of_too_few_goes_on_once_no_other_will_come() -> None:
    rungs = ParetoRungs(3, 4)
    assert [rungs.report(t, 1, v) for t, v in {"a": (2.0, 2.0), "b": (1.0, 1.0)}.items()] == [False, False]
    assert rungs.promotable() is None
    rungs.close()
    assert rungs.promotable() == "b"
    assert rungs.report("b", 2, (1.0, 1.0))
    assert rungs.promotable() is None


def test_what_is_entered_counts_and_what_is_paused_may_resume() -> None:
    rungs = ParetoRungs(3, 2)
    rungs.enter("gone", 1, (1.0, 1.0))
    rungs.enter("gone", 2, (1.0, 1.0))
    rungs.pause("waits", 1, (2.0, 2.0))
    assert rungs.candidates() == []
    rungs.enter("worse", 1, (3.0, 3.0))
    rungs.enter("worst", 1, (4.0, 4.0))
    assert rungs.candidates() == [(1, "waits")]
    rungs.go_on("waits")
    assert rungs.candidates() == []


@pytest.mark.parametrize(("first", "cost"), [(1, 1 + 1 / 2 + 2 / 4), (2, 2 + 2 / 2), (3, 4)])
def test_the_expected_budget_of_a_bracket(first: int, cost: float) -> None:
    assert expected_budget((1, 2, 4), 2, first) == pytest.approx(cost)


def test_the_next_bracket_is_the_one_that_was_given_the_least() -> None:
    brackets, spent = Brackets((1, 2, 4), 2, 3), {1: 0.0, 2: 0.0, 3: 0.0}
    for _ in range(40):
        begun = brackets.next()
        assert spent[begun] == min(spent.values())
        assert brackets.next(at_most=1) == 1
        assert brackets.next(at_most=2) == min((1, 2), key=lambda bracket: spent[bracket])
        brackets.begin(begun)
        spent[begun] += expected_budget((1, 2, 4), 2, begun)


@pytest.mark.parametrize("count", [0, 4])
def test_there_are_no_more_brackets_than_rungs(count: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 3"):
        Brackets((1, 2, 4), 2, count)


def test_a_reduction_factor_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="reduction_factor"):
        ParetoRungs(3, 1)


def tables(rows: int, highest: int) -> st.SearchStrategy[list[tuple[int, ...]]]:
    """Values of two objectives, or of three, of which a maximised one is negative."""
    value = st.integers(0, highest)
    two, three = st.tuples(value, value), st.tuples(value, value, st.integers(-highest, 0))
    return st.one_of(*(st.lists(row, min_size=1, max_size=rows) for row in (two, three)))


@settings(deadline=None)
@given(tables(40, 6), st.sampled_from([1.5, 2.0, 3.0, 4.0]))
def test_in_the_end_the_best_share_has_gone_on_whatever_the_order(
    values: list[tuple[int, ...]], reduction_factor: float
) -> None:
    rungs = ParetoRungs(2, reduction_factor)
    gone_on = {f"{k:02}" for k, row in enumerate(values) if rungs.report(f"{k:02}", 1, row)}
    while (trial_id := rungs.promotable()) is not None:
        assert trial_id not in gone_on
        gone_on.add(trial_id)
    best = best_first(np.array(values, dtype=float))[: int(len(values) / reduction_factor)]
    assert gone_on >= {f"{k:02}" for k in best.tolist()}


@settings(deadline=None)
@given(tables(20, 3), st.sampled_from([1.5, 2.0, 3.0]), st.randoms(use_true_random=False))
def test_what_has_ended_stays_so_whatever_the_order_it_is_told_in_again(
    values: list[tuple[int, ...]], reduction_factor: float, random: Random
) -> None:
    rungs, gone_on = ParetoRungs(2, reduction_factor), set()
    for k, row in enumerate(values):
        gone_on |= {k} if rungs.report(f"{k:02}", 1, row) else set()
    rungs.close()
    while (trial_id := rungs.promotable()) is not None:
        gone_on.add(int(trial_id))
    again = ParetoRungs(2, reduction_factor)
    for k in random.sample(range(len(values)), len(values)):
        (again.enter if k in gone_on else again.pause)(f"{k:02}", 1, values[k])
    again.close()
    assert again.candidates() == []


@settings(deadline=None)
@given(tables(30, 4), st.sampled_from([1.5, 2.0, 3.0]))
def test_each_report_is_judged_as_by_sorting_all_there_is(
    values: list[tuple[int, ...]], reduction_factor: float
) -> None:
    rungs = ParetoRungs(2, reduction_factor)
    gone_on: set[int] = set()
    for k, row in enumerate(values):
        goes_on = rungs.report(f"{k:02}", 1, row)
        order = best_first(np.array(values[: k + 1], dtype=float)).tolist()
        best = order[: int((k + 1) / reduction_factor)]
        assert goes_on == (k in best)
        gone_on |= {k} if goes_on else set()
        assert [t for _, t in rungs.candidates()] == [f"{t:02}" for t in best if t not in gone_on]
        paused = [t for t in order if t not in gone_on]
        assert rungs.last_choice() == (f"{paused[-1]:02}" if paused else None)


def extrapolating(n_rungs: int = 2) -> ParetoRungs:
    return ParetoRungs(n_rungs, 4, n_objectives=2, extrapolate=True)


def test_all_go_on_until_trials_can_be_extrapolated() -> None:
    rungs = extrapolating()
    for k in range(MIN_FINISHED):
        assert rungs.report(f"t{k}", 1, (10.0 + k, 10.0 + k, float(k)))
        assert rungs.report(f"u{k}", 1, (20.0 + k, 20.0 + k, float(k)))
        rungs.enter(f"t{k}", 2, (10.0 + k, 10.0 + k, float(k)))
    assert not rungs.report("late", 1, (30.0, 30.0, 0.0))


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_ranks_are_those_of_what_is_extrapolated(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.random((20, 3)), rng.random((8, 3))
    rungs = extrapolating()
    for k in range(8):
        rungs.enter(f"{k:02}", 1, before[k].tolist())
        rungs.enter(f"{k:02}", 2, after[k].tolist())
    for k in range(8, 20):
        rungs.pause(f"{k:02}", 1, before[k].tolist())
    expected = extrapolate(before[:8], after[:, :2], before)
    order, n_best = best_first(expected).tolist(), max(20 // 4, int(non_dominated(expected).sum()))
    assert [t for _, t in rungs.candidates()] == [f"{k:02}" for k in order[:n_best] if k >= 8]
    assert rungs.last_choice() == f"{[k for k in order if k >= 8][-1]:02}"


def test_a_trial_counts_with_what_it_will_come_to_not_with_what_it_has() -> None:
    rungs = extrapolating()
    for k in range(8):  # all alike at the first rung but for the third value, which tells how they end
        rungs.enter(f"t{k}", 1, (5.0, 0.0, float(k)))
        rungs.enter(f"t{k}", 2, (5.0 + k, 0.1 * k, 0.0))
    assert not rungs.report("fast", 1, (4.9, 0.0, 7.0))
    assert rungs.report("late", 1, (5.1, 0.0, -1.0))


def test_whatever_is_expected_on_the_frontier_goes_on_however_many_they_are() -> None:
    rungs = extrapolating()
    for k in range(32):
        worse = 3.0 * (k % 4)
        rungs.enter(f"t{k}", 1, (k / 4 + worse, 8 - k / 4 + worse, 0.0))
        rungs.enter(f"t{k}", 2, (k / 4 + worse, 8 - k / 4 + worse, 0.0))
    assert all(rungs.report(f"u{k}", 1, (k - 0.5, 7.0 - k, 0.0)) for k in range(9))
    assert not rungs.report("behind", 1, (12.0, 12.0, 0.0))


def test_a_maximised_objective_is_extrapolated_below_zero_where_its_floor_lies_there() -> None:
    """Three objectives, the last one maximised: it alone tells the trials apart, and its ideal is 100."""
    decided = {}
    for floor in ((0.0, 0.0, -100.0), (0.0, 0.0, 0.0)):
        rungs = ParetoRungs(2, 4, n_objectives=3, extrapolate=True, floor=floor)
        for k in range(8):
            rungs.enter(f"t{k}", 1, (5.0, 5.0, -10.0 * k))
            rungs.enter(f"t{k}", 2, (5.0, 5.0, -10.0 * k))
        decided[floor] = rungs.report("worse", 1, (5.0, 5.0, -5.0))
    assert list(decided.values()) == [False, True]  # cut at 0 all are alike, so all are on the frontier
    rungs = ParetoRungs(2, 4, n_objectives=3, extrapolate=True, floor=(0.0, 0.0, -50.0))
    for k in range(8):
        rungs.enter(f"t{k}", 1, (5.0, 5.0, -10.0 * k))
        rungs.enter(f"t{k}", 2, (5.0, 5.0, -10.0 * k))
    assert rungs.report("perfect", 1, (5.0, 5.0, -90.0))
    assert rungs.report("as perfect", 1, (5.0, 5.0, -80.0))
