"""Non-domination, and the frontiers of a results table."""

from bisect import bisect_right
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

OBJECTIVES = ["fid", "memorization"]
BASELINE = "ddpm"
RECOMMENDED = "algorithm1"
"""The method that recommendations come from; the others only take part in the frontier."""

Budget = Literal["full", "any"]


def non_dominated(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows no other row dominates, every column being minimised.

    `values` (n, m) finite; returns (n,). Row a dominates row b when it is nowhere larger and somewhere
    smaller; equal rows do not dominate each other. O(n log n) for two columns.
    """
    return np.asarray(front_numbers(values, 1) == 0)


def front_numbers(values: NDArray[np.float64], n_fronts: int | None = None) -> NDArray[np.int64]:
    """The front of each row of `values` (n, m), every column minimised: 0 is not dominated, 1 only by 0, ...

    With `n_fronts` only so many are told apart; the rows behind them have the number `n_fronts`.
    O(n log n) for two columns (Jensen 2003).
    """
    unique, inverse = np.unique(values, axis=0, return_inverse=True)
    numbers = _fronts_2d(unique) if values.shape[1] == 2 else _fronts_by_peeling(unique)
    result = numbers[inverse.reshape(-1)] if len(values) else np.zeros(0, dtype=np.int64)
    return result if n_fronts is None else np.minimum(result, n_fronts)


def _fronts_2d(unique: NDArray[np.float64]) -> NDArray[np.int64]:
    """For distinct rows (n, 2) in lexicographic order.

    A row belongs to the first front whose lowest second value so far is above its own; these lowest values
    never fall from one front to the next, so that bisection finds it.
    """
    lowest: list[float] = []
    numbers = np.empty(len(unique), dtype=np.int64)
    for position, second in enumerate(unique[:, 1].tolist()):
        front = bisect_right(lowest, second)
        lowest[front : front + 1] = [second]
        numbers[position] = front
    return numbers


def _fronts_by_peeling(unique: NDArray[np.float64]) -> NDArray[np.int64]:
    """For distinct rows (n, m): take the rows that no other dominates away, again and again."""
    numbers = np.full(len(unique), -1, dtype=np.int64)
    front = 0
    while (left := np.flatnonzero(numbers < 0)).size:
        rows = unique[left]
        dominators = np.array([(rows <= row).all(axis=1).sum() for row in rows]) - 1  # without itself
        numbers[left[dominators == 0]] = front
        front += 1
    return numbers


def crowding_distance(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each row of one front, `values` (n, m), is from its neighbours: (n,), infinite at the ends.

    The sum over columns of the gap between the neighbours on either side, as a share of the column's range
    (Deb et al. 2002, NSGA-II).
    """
    n = len(values)
    distance = np.zeros(n)
    for column in values.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]] if n else 0.0
        if span > 0:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
        distance[order[[0, -1]] if n else []] = np.inf
    return distance


def best_first(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The rows of `values` (n, m) from best to worst: by front, then by spread within the front."""
    fronts = front_numbers(values)
    spread = np.empty(len(values))
    for front in range(fronts.max(initial=-1) + 1):
        members = fronts == front
        spread[members] = crowding_distance(values[members])
    return np.lexsort((-spread, fronts))


def hypervolume(values: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """The area that the rows of `values` (n, 2) dominate below `reference` (2,), both columns minimised."""
    inside = values[(values < reference).all(axis=1)]
    front = np.unique(inside[non_dominated(inside)], axis=0)  # by rising first, falling second value
    heights = np.concatenate([reference[1:], front[:-1, 1]]) - front[:, 1]
    return float(((reference[0] - front[:, 0]) * heights).sum())


def comparable(results: pd.DataFrame, train_size: int, budget: Budget = "full") -> pd.DataFrame:
    """The rows of one train size that may share a frontier.

    `full`: one row a completed trial, at its full budget: a trial that was stopped early copies less
    only because it trained less. `any`: every rung of every trial measured with the same number of
    samples as the last one, early stopping included. Failed trials appear in neither.
    """
    rows = results[(results.train_size == train_size) & results[OBJECTIVES].notna().all(axis=1)]
    rows = rows[rows.status != "failed"]
    complete = rows[(rows.status == "complete") & (rows.budget >= 1)]
    if budget == "full":
        return complete
    return rows[rows.n_samples == complete.n_samples.max()] if len(complete) else rows


def frontier(results: pd.DataFrame, train_size: int, budget: Budget = "full") -> pd.DataFrame:
    """The non-dominated rows of one train size, by rising fid; baselines take part like any trial."""
    rows = comparable(results, train_size, budget)
    front = rows[non_dominated(rows[OBJECTIVES].to_numpy(dtype=np.float64))]
    return front.sort_values(OBJECTIVES)
