from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pareto_amb.search.halving import ParetoRungs
from pareto_amb.search.pareto import best_first


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
