from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pareto_amb.search.foresight import MIN_FINISHED, foresee
from pareto_amb.search.frontier import best_first, non_dominated
from pareto_amb.search.halving import ParetoRungs, expected_budget


def test_the_best_third_goes_on() -> None:
    rungs = ParetoRungs(2, 3)
    assert not rungs.report("a", 0, (5.0, 5.0))  # one of one: nobody knows yet
    assert not rungs.report("b", 0, (4.0, 4.0))
    assert rungs.report("c", 0, (3.0, 3.0))
    assert not rungs.report("d", 0, (2.0, 4.0))


def test_a_paused_trial_resumes_once_enough_worse_ones_were_measured() -> None:
    rungs = ParetoRungs(2, 2)
    assert not rungs.report("good", 0, (1.0, 1.0))
    assert rungs.promotable() is None
    assert not rungs.report("bad", 0, (9.0, 9.0))
    assert rungs.promotable() == "good"
    assert rungs.promotable() is None


def test_trials_on_a_trade_off_are_equally_good_whatever_one_metric_alone_would_say() -> None:
    rungs = ParetoRungs(2, 2)
    for trial_id, values in {"w": (9.0, 9.0), "x": (8.0, 9.5), "left": (1.0, 5.0)}.items():
        rungs.report(trial_id, 0, values)
    assert rungs.report("right", 0, (5.0, 1.0))


def test_a_higher_rung_is_served_first() -> None:
    rungs = ParetoRungs(3, 2)
    for k in range(8):
        rungs.report(f"t{k}", 0, (float(8 - k), 0.0))
    assert [rungs.report("t7", 1, (1.0, 0.0)), rungs.report("t5", 1, (2.0, 0.0))] == [False, False]
    assert rungs.promotable() == "t7"


def test_a_failed_trial_neither_resumes_nor_counts() -> None:
    rungs = ParetoRungs(2, 2)
    rungs.report("good", 0, (1.0, 1.0))
    rungs.report("bad", 0, (9.0, 9.0))
    rungs.forget("good")
    assert rungs.promotable() is None


def test_values_that_are_not_finite_rank_last() -> None:
    rungs = ParetoRungs(2, 2)
    assert not rungs.report("nan", 0, (0.0, np.nan))
    assert rungs.report("bad", 0, (9.0, 9.0))
    assert not rungs.report("inf", 0, (np.inf, 0.0))
    assert rungs.report("worse", 0, (10.0, 10.0))
    assert rungs.promotable() is None
    assert rungs.last_choice() == "nan"


def test_the_best_of_too_few_goes_on_once_no_other_will_come() -> None:
    rungs = ParetoRungs(3, 4)
    assert [rungs.report(t, 0, v) for t, v in {"a": (2.0, 2.0), "b": (1.0, 1.0)}.items()] == [False, False]
    assert rungs.promotable() is None
    rungs.close()
    assert rungs.promotable() == "b"
    assert rungs.report("b", 1, (1.0, 1.0))
    assert rungs.promotable() is None


def test_what_is_entered_counts_and_what_is_paused_may_resume() -> None:
    rungs = ParetoRungs(3, 2)
    rungs.enter("gone", 0, (1.0, 1.0))
    rungs.enter("gone", 1, (1.0, 1.0))
    rungs.pause("waits", 0, (2.0, 2.0))
    assert rungs.candidates() == []
    rungs.enter("worse", 0, (3.0, 3.0))
    rungs.enter("worst", 0, (4.0, 4.0))
    assert rungs.candidates() == [(0, "waits")]
    rungs.go_on("waits")
    assert rungs.candidates() == []


@pytest.mark.parametrize(("first", "cost"), [(0, 1 + 1 / 2 + 2 / 4), (1, 2 + 2 / 2), (2, 4)])
def test_the_expected_budget_of_a_bracket(first: int, cost: float) -> None:
    assert expected_budget((1, 2, 4), 2, first) == pytest.approx(cost)


def test_a_reduction_factor_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="reduction_factor"):
        ParetoRungs(3, 1)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40),
    st.sampled_from([1.5, 2.0, 3.0, 4.0]),
)
def test_in_the_end_the_best_share_has_gone_on_whatever_the_order(
    values: list[tuple[int, int]], reduction_factor: float
) -> None:
    rungs = ParetoRungs(2, reduction_factor)
    gone_on = {f"{k:02}" for k, row in enumerate(values) if rungs.report(f"{k:02}", 0, row)}
    while (trial_id := rungs.promotable()) is not None:
        assert trial_id not in gone_on
        gone_on.add(trial_id)
    best = best_first(np.array(values, dtype=float))[: int(len(values) / reduction_factor)]
    assert gone_on >= {f"{k:02}" for k in best.tolist()}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20),
    st.sampled_from([1.5, 2.0, 3.0]),
    st.randoms(use_true_random=False),
)
def test_what_has_ended_stays_so_whatever_the_order_it_is_told_in_again(
    values: list[tuple[int, int]], reduction_factor: float, random: Random
) -> None:
    rungs, gone_on = ParetoRungs(2, reduction_factor), set()
    for k, row in enumerate(values):
        gone_on |= {k} if rungs.report(f"{k:02}", 0, row) else set()
    rungs.close()
    while (trial_id := rungs.promotable()) is not None:
        gone_on.add(int(trial_id))
    again = ParetoRungs(2, reduction_factor)
    for k in random.sample(range(len(values)), len(values)):
        (again.enter if k in gone_on else again.pause)(f"{k:02}", 0, values[k])
    again.close()
    assert again.candidates() == []


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30),
    st.sampled_from([1.5, 2.0, 3.0]),
)
def test_each_report_is_judged_as_by_sorting_all_there_is(
    values: list[tuple[int, int]], reduction_factor: float
) -> None:
    rungs = ParetoRungs(2, reduction_factor)
    gone_on: set[int] = set()
    for k, row in enumerate(values):
        goes_on = rungs.report(f"{k:02}", 0, row)
        order = best_first(np.array(values[: k + 1], dtype=float)).tolist()
        best = order[: int((k + 1) / reduction_factor)]
        assert goes_on == (k in best)
        gone_on |= {k} if goes_on else set()
        assert [t for _, t in rungs.candidates()] == [f"{t:02}" for t in best if t not in gone_on]
        paused = [t for t in order if t not in gone_on]
        assert rungs.last_choice() == (f"{paused[-1]:02}" if paused else None)


def foreseeing(n_rungs: int = 2) -> ParetoRungs:
    return ParetoRungs(n_rungs, 4, n_objectives=2, foresee=True)


def test_all_go_on_until_trials_can_be_foreseen() -> None:
    rungs = foreseeing()
    for k in range(MIN_FINISHED):
        assert rungs.report(f"t{k}", 0, (10.0 + k, 10.0 + k, float(k)))
        assert rungs.report(f"u{k}", 0, (20.0 + k, 20.0 + k, float(k)))
        rungs.enter(f"t{k}", 1, (10.0 + k, 10.0 + k, float(k)))
    assert not rungs.report("late", 0, (30.0, 30.0, 0.0))


@given(st.integers(0, 10_000))
def test_ranks_are_those_of_what_is_foreseen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.random((20, 3)), rng.random((8, 3))
    rungs = foreseeing()
    for k in range(8):
        rungs.enter(f"{k:02}", 0, before[k].tolist())
        rungs.enter(f"{k:02}", 1, after[k].tolist())
    for k in range(8, 20):
        rungs.pause(f"{k:02}", 0, before[k].tolist())
    foreseen = foresee(before[:8], after[:, :2], before)
    order, n_best = best_first(foreseen).tolist(), max(20 // 4, int(non_dominated(foreseen).sum()))
    assert [t for _, t in rungs.candidates()] == [f"{k:02}" for k in order[:n_best] if k >= 8]
    assert rungs.last_choice() == f"{[k for k in order if k >= 8][-1]:02}"


def test_a_trial_counts_with_what_it_will_come_to_not_with_what_it_has() -> None:
    rungs = foreseeing()
    for k in range(8):  # all alike at the first rung but for the third value, which tells how they end
        rungs.enter(f"t{k}", 0, (5.0, 0.0, float(k)))
        rungs.enter(f"t{k}", 1, (5.0 + k, 0.1 * k, 0.0))
    assert not rungs.report("fast", 0, (4.9, 0.0, 7.0))
    assert rungs.report("late", 0, (5.1, 0.0, -1.0))


def test_whatever_is_foreseen_on_the_frontier_goes_on_however_many_they_are() -> None:
    rungs = foreseeing()
    for k in range(32):
        worse = 3.0 * (k % 4)
        rungs.enter(f"t{k}", 0, (k / 4 + worse, 8 - k / 4 + worse, 0.0))
        rungs.enter(f"t{k}", 1, (k / 4 + worse, 8 - k / 4 + worse, 0.0))
    assert all(rungs.report(f"u{k}", 0, (k - 0.5, 7.0 - k, 0.0)) for k in range(9))
    assert not rungs.report("behind", 0, (12.0, 12.0, 0.0))
