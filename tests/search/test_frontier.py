import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pareto_amb.search.frontier import (
    average_seeds,
    best_first,
    comparable,
    crowding_distance,
    front_numbers,
    frontier,
    hypervolume,
    hypervolume_history,
    non_dominated,
    normalized_hypervolume,
    reference_point,
)


def brute_force(values: np.ndarray) -> list[bool]:
    return [not any((other <= row).all() and (other < row).any() for other in values) for row in values]


def tables(rows: int, columns: tuple[int, int]) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(st.integers(0, rows), st.integers(*columns))
    return shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=st.integers(0, 4).map(float)))


@settings(max_examples=300)
@given(tables(12, (1, 3)))
def test_non_dominated_agrees_with_brute_force(values: np.ndarray) -> None:
    assert non_dominated(values).tolist() == brute_force(values)


@settings(max_examples=300)
@given(tables(12, (1, 3)))
def test_fronts_agree_with_taking_the_best_away_again_and_again(values: np.ndarray) -> None:
    left, front = list(range(len(values))), 0
    expected = [0] * len(values)
    while left:
        best = [row for row, on in zip(left, brute_force(values[left]), strict=True) if on]
        for row in best:
            expected[row] = front
        left, front = [row for row in left if row not in best], front + 1
    assert front_numbers(values).tolist() == expected
    assert front_numbers(values, 2).tolist() == [min(number, 2) for number in expected]


def test_crowding_is_the_gap_between_neighbours_and_infinite_at_the_ends() -> None:
    front = np.array([[4.0, 0.0], [0.0, 10.0], [1.0, 6.0], [2.0, 5.0]])
    assert crowding_distance(front).tolist() == [np.inf, np.inf, 2 / 4 + 5 / 10, 3 / 4 + 6 / 10]


@given(tables(10, (2, 2)))
def test_best_first_orders_by_front_and_keeps_the_ends_of_a_front_before_its_middle(
    values: np.ndarray,
) -> None:
    order = best_first(values)
    assert sorted(order.tolist()) == list(range(len(values)))
    assert (np.diff(front_numbers(values)[order]) >= 0).all()
    fronts = front_numbers(values)
    spread = crowding_distance(values, fronts)
    for front in set(fronts.tolist()):
        assert spread[fronts == front].tolist() == crowding_distance(values[fronts == front]).tolist()
    front = values[order][fronts[order] == 0]
    if len(front) > 2:
        assert {front[0, 0], front[1, 0]} == {front[:, 0].min(), front[:, 0].max()} or len(
            np.unique(front, axis=0)
        ) < len(front)


@given(tables(8, (2, 2)), st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_the_hypervolume_counts_the_unit_squares_that_some_row_dominates(
    values: np.ndarray, reference: tuple[int, int]
) -> None:
    squares = [
        any(row[0] <= x and row[1] <= y for row in values)
        for x in range(reference[0])
        for y in range(reference[1])
    ]
    assert hypervolume(values, np.array(reference, dtype=float)) == sum(squares)


@settings(deadline=None)
@given(tables(6, (2, 2)).filter(len), st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_the_normalised_hypervolume_is_a_share_that_scales_do_not_change(
    values: np.ndarray, reference: tuple[int, int]
) -> None:
    end = np.array(reference, dtype=float)
    share = normalized_hypervolume(pd.DataFrame(values, columns=["fid", "memorization"]), end)
    assert share == hypervolume(values, end) / (reference[0] * reference[1])
    assert 0 <= share <= 1
    scaled = pd.DataFrame(values * [8.0, 0.25], columns=["fid", "memorization"])
    assert normalized_hypervolume(scaled, end * [8.0, 0.25]) == share


def table(*rows: tuple[str, str, float, float, float, str, int]) -> pd.DataFrame:
    names = ["trial_id", "method", "budget", "fid", "memorization", "status", "n_samples"]
    return pd.DataFrame(rows, columns=names).assign(train_size=100)


ROWS = table(
    ("a", "algorithm1", 0.5, 5.0, 0.01, "complete", 100),
    ("a", "algorithm1", 1.0, 10.0, 0.20, "complete", 100),
    ("b", "algorithm1", 1.0, 12.0, 0.10, "complete", 100),
    ("c", "algorithm1", 1.0, 13.0, 0.15, "complete", 100),
    ("d", "algorithm1", 0.5, 1.0, 0.00, "pruned", 100),
    ("e", "algorithm1", 1.0, 1.0, 0.00, "failed", 100),
    ("f", "algorithm1", 0.5, 0.0, 0.00, "running", 50),
    ("g", "algorithm1", 1.0, float("nan"), 0.00, "complete", 100),
)


def test_a_full_budget_frontier_ignores_early_stopped_failed_and_unmeasured_trials() -> None:
    assert frontier(ROWS, 100).trial_id.tolist() == ["a", "b"]
    assert comparable(ROWS, 100).trial_id.tolist() == ["a", "b", "c"]


def test_the_any_budget_view_mixes_rungs_but_never_sample_counts() -> None:
    rows = comparable(ROWS, 100, "any")
    assert "f" not in set(rows.trial_id)
    assert frontier(ROWS, 100, "any").trial_id.tolist() == ["d"]


def test_a_frontier_never_crosses_train_sizes() -> None:
    other = ROWS.assign(train_size=300, fid=0.0)
    both = pd.concat([ROWS, other])
    assert frontier(both, 100).trial_id.tolist() == ["a", "b"]
    assert frontier(both, 50).empty


def searched(*rows: tuple[str, str, float, float, float, str, int]) -> pd.DataFrame:
    """A table whose rows were recorded in the order given, behind three DDPM seeds."""
    seeds = [
        (f"n100-ddpm-s{k}", "ddpm", 1.0, fid, memorization, "complete", 100)
        for k, (fid, memorization) in enumerate([(90.0, 0.3), (100.0, 0.5), (110.0, 0.4)])
    ]
    frame = table(*seeds, *rows)
    rungs = np.where(frame.budget < 1, 1, 2)
    return frame.assign(rung=rungs, recorded_at=np.arange(len(frame), dtype=float))


SEARCH = searched(
    ("t0", "algorithm1", 0.5, 150.0, 0.1, "complete", 100),
    ("t1", "algorithm1", 0.5, 10.0, 0.0, "pruned", 100),
    ("t0", "algorithm1", 1.0, 100.0, 0.2, "complete", 100),
    ("t2", "algorithm1", 1.0, 150.0, 0.1, "complete", 100),
    ("t3", "algorithm1", 1.0, 20.0, 0.4, "complete", 100),
)


def test_the_reference_point_is_twice_ddpms_fid_and_its_memorization() -> None:
    assert reference_point(SEARCH, 100).tolist() == pytest.approx([200.0, 0.4])
    assert np.isnan(reference_point(SEARCH.iloc[3:], 100)).all()
    assert np.isnan(reference_point(SEARCH, 300)).all()


def test_where_ddpm_copies_nothing_there_is_no_hypervolume() -> None:
    rows = SEARCH.assign(memorization=SEARCH.memorization.where(SEARCH.method != "ddpm", 0.0))
    assert np.isnan(normalized_hypervolume(rows, reference_point(rows, 100)))
    assert np.isnan(normalized_hypervolume(rows, reference_point(rows, 300)))


def test_repeats_are_one_point_of_the_frontier() -> None:
    rows = comparable(SEARCH, 100).assign(fid_se=3.0)
    ddpm, *others = average_seeds(rows).to_dict("records")
    assert (ddpm["trial_id"], ddpm["seeds"]) == ("n100-ddpm-s0", 3)
    assert (ddpm["fid"], ddpm["memorization"]) == pytest.approx((100.0, 0.4))
    assert ddpm["fid_se"] == pytest.approx(3 / np.sqrt(3))
    assert [other["trial_id"] for other in others] == ["t0", "t2", "t3"]
    assert [other["fid_se"] for other in others] == [3.0] * 3
    assert frontier(SEARCH, 100).trial_id.tolist() == ["t3", "t0", "t2"]
    assert frontier(SEARCH.iloc[:3], 100)[["fid", "memorization"]].to_numpy().tolist() == [
        pytest.approx([100.0, 0.4])
    ]


def repeats(trial_id: str, *figures: tuple[float, float], status: str = "complete") -> pd.DataFrame:
    """The trial of SEARCH trained again with fresh seeds."""
    row = SEARCH[SEARCH.trial_id == trial_id].iloc[[-1]]
    again = [
        row.assign(
            trial_id=f"{trial_id}-c{k}", confirms=trial_id, fid=fid, memorization=memorization,
            recorded_at=100.0 + k, status=status,
        )
        for k, (fid, memorization) in enumerate(figures, 1)
    ]  # fmt: skip
    return pd.concat(again)


def confirmed_search(*more: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([SEARCH.assign(confirms=""), *more], ignore_index=True)


def test_a_confirmed_trial_counts_with_the_mean_of_its_fresh_seeds_alone() -> None:
    failed = repeats("t0", (1.0, 0.0), status="failed")
    rows = confirmed_search(repeats("t2", (160.0, 0.3), (170.0, 0.2)), failed)
    points = average_seeds(comparable(rows, 100).assign(fid_se=2.0)).set_index("trial_id")
    assert sorted(points.index) == ["n100-ddpm-s0", "t0", "t2", "t3"]
    assert points.loc["t2", ["fid", "memorization", "seeds", "confirmed"]].tolist() == [165, 0.25, 2, True]
    assert points.fid_se["t2"] == pytest.approx(2 / np.sqrt(2))
    assert points.loc["t0", ["fid", "memorization", "seeds", "confirmed"]].tolist() == [100, 0.2, 1, False]
    assert set(points.confirms) == {""}
    assert frontier(rows, 100).trial_id.tolist() == ["t3", "t0"]
    history = hypervolume_history(rows, 100)
    assert history.trial_id.tolist()[-2:] == ["t2-c1", "t2-c2"]
    box = 200 * 0.4
    assert history.hypervolume.tolist()[-3:] == pytest.approx([25 / box, 20 / box, 20 / box])


def test_the_history_adds_up_what_every_training_cost_and_what_the_front_had_reached() -> None:
    history = hypervolume_history(SEARCH, 100)
    assert history.trial_id.tolist() == [f"n100-ddpm-s{k}" for k in range(3)] + ["t0", "t2", "t3"]
    # two halves of t0 and the half that t1 was stopped after lie between the baselines and t0's end
    assert history.trainings.tolist() == [1.0, 2.0, 3.0, 4.5, 5.5, 6.5]
    box = 200 * 0.4
    # the first seed copies less than the mean of all
    first, second, third, *searching = history.hypervolume
    assert (first, second) == pytest.approx((110 * 0.1 / box, 0.0))
    assert third == pytest.approx(0.0)
    assert searching == pytest.approx([100 * 0.2 / box, (100 * 0.2 + 50 * 0.1) / box, 25 / box])
    shuffled = SEARCH.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(hypervolume_history(shuffled, 100), history)


def test_a_table_without_times_has_no_history() -> None:
    assert hypervolume_history(SEARCH.assign(recorded_at=np.nan), 100).empty
