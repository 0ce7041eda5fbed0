from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pareto_amb.search.pareto import (
    best_first,
    crowding_distance,
    dominated_by,
    front_numbers,
    hypervolume,
    hypervolume_growth,
    non_dominated,
    non_dominated_in_each,
)


def brute_force(values: np.ndarray) -> list[bool]:
    return [not any((other <= row).all() and (other < row).any() for other in values) for row in values]


def tables(rows: int, columns: tuple[int, int]) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(st.integers(0, rows), st.integers(*columns))
    return shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=st.integers(0, 4).map(float)))


@settings(max_examples=300, deadline=None)
@given(tables(12, (1, 4)))
def test_non_dominated_agrees_with_brute_force(values: np.ndarray) -> None:
    assert non_dominated(values).tolist() == brute_force(values)


@settings(max_examples=300, deadline=None)
@given(tables(12, (1, 4)), st.data())
def test_points_are_dominated_as_by_comparing_each_with_all(values: np.ndarray, data: st.DataObject) -> None:
    front = np.unique(values[non_dominated(values)], axis=0)
    shape = (3, 2, values.shape[1])
    points = data.draw(
        arrays(np.float64, shape, elements=st.sampled_from([-1.0, 0.0, 1.0, 2.0, 5.0, np.nan]))
    )
    expected = [[any((f <= p).all() and (f < p).any() for f in front) for p in row] for row in points]
    assert dominated_by(points, front).tolist() == expected


@settings(max_examples=300, deadline=None)
@given(tables(12, (1, 4)))
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


@settings(deadline=None)
@given(tables(8, (2, 4)), st.tuples(*[st.integers(1, 5)] * 4))
def test_the_hypervolume_counts_the_unit_cubes_that_some_row_dominates(
    values: np.ndarray, reference: tuple[int, ...]
) -> None:
    end = reference[: values.shape[1]]
    cubes = [any((row <= cube).all() for row in values) for cube in product(*map(range, end))]
    assert hypervolume(values, np.array(end, dtype=float)) == sum(cubes)


def real_tables(rows: int, columns: tuple[int, int]) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(st.integers(0, rows), st.integers(*columns))
    return shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=st.floats(-1, 1.4)))


def by_inclusion_and_exclusion(values: np.ndarray, reference: np.ndarray) -> float:
    """The volume of a union of boxes that end at one point, from those of all intersections."""
    return sum(
        (-1) ** (size + 1) * float(np.maximum(reference - np.max(chosen, axis=0), 0).prod())
        for size in range(1, len(values) + 1)
        for chosen in combinations(values, size)
    )


@settings(deadline=None)
@given(real_tables(6, (2, 5)))
def test_the_hypervolume_is_that_of_a_union_of_boxes(values: np.ndarray) -> None:
    one = np.ones(values.shape[1])
    assert hypervolume(values, one) == pytest.approx(by_inclusion_and_exclusion(values, one), abs=1e-12)


def test_a_hypervolume_of_three_columns_does_not_depend_on_their_order() -> None:
    values = np.random.default_rng(0).random((40, 3))
    expected = hypervolume(values, np.ones(3))
    for order in ([1, 2, 0], [2, 1, 0]):
        assert hypervolume(values[:, order], np.ones(3)) == pytest.approx(expected)


@settings(deadline=None)
@given(real_tables(7, (2, 4)), st.integers(0, 1000))
def test_the_growth_is_the_difference_of_two_hypervolumes(values: np.ndarray, seed: int) -> None:
    one = np.ones(values.shape[1])
    points = np.random.default_rng(seed).uniform(-1.2, 1.3, (2, 3, len(one)))
    inside = values[(values < 1).all(axis=1)]
    front = np.unique(inside[non_dominated(inside)], axis=0)
    growth = hypervolume_growth(front, points)
    assert growth.shape == (2, 3)
    before = hypervolume(values, one)
    expected = [hypervolume(np.vstack([values, p]), one) - before for p in points.reshape(6, -1)]
    np.testing.assert_allclose(growth.ravel(), expected, atol=1e-9)


def test_growth_on_a_grid_of_ties_is_the_difference_too() -> None:
    rng = np.random.default_rng(1)
    for columns in (2, 3, 4):
        values, points = (rng.integers(0, 4, (n, columns)) / 4 for n in (12, 20))
        front = np.unique(values[non_dominated(values)], axis=0)
        one, before = np.ones(columns), hypervolume(values, np.ones(columns))
        expected = [hypervolume(np.vstack([values, p]), one) - before for p in points]
        np.testing.assert_allclose(hypervolume_growth(front, points), expected, atol=1e-12)


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_each_draw_has_its_own_front(columns: int) -> None:
    rng = np.random.default_rng(0)
    draws = np.stack([rng.permutation(12) for _ in range(50 * columns)]).reshape(50, columns, 12)
    draws = np.moveaxis(draws, 1, 2).astype(float)
    draws[:, :, 0] = np.minimum(draws[:, :, 0], 7)  # ties in one column
    found = non_dominated_in_each(draws)
    assert found.tolist() == [brute_force(draw) for draw in draws]
