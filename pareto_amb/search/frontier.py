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

_GIVEN = ["sigma_tn", "mix_ratio", "corruption", "budget", "threshold", "recorded_at"]
"""Columns of numbers that are not measured on a training: its seeds share them, and no mean is taken."""

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
    unique, inverse = _distinct_rows(values)
    numbers = _fronts_2d(unique) if values.shape[1] == 2 else _fronts_by_peeling(unique)
    return numbers[inverse] if n_fronts is None else np.minimum(numbers[inverse], n_fronts)


def _distinct_rows(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The distinct rows of `values` (n, m) in lexicographic order, and which of them each row is (n,).

    Several times as fast as np.unique(axis=0).
    """
    order = np.lexsort(values.T[::-1])
    ordered = values[order]
    is_new = np.ones(len(values), dtype=np.bool_)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    which = np.empty(len(values), dtype=np.int64)
    which[order] = np.cumsum(is_new) - 1
    return ordered[is_new], which


def _fronts_2d(unique: NDArray[np.float64]) -> NDArray[np.int64]:
    """For distinct rows (n, 2) in lexicographic order.

    A row belongs to the first front whose lowest second value so far is above its own; these lowest values
    never fall from one front to the next, so that bisection finds it.
    """
    lowest: list[float] = []
    numbers: list[int] = []
    for second in unique[:, 1].tolist():
        front = bisect_right(lowest, second)
        if front == len(lowest):
            lowest.append(second)
        else:
            lowest[front] = second
        numbers.append(front)
    return np.array(numbers, dtype=np.int64)


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


def crowding_distance(
    values: NDArray[np.float64], fronts: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """How far each row of `values` (n, m) is from its neighbours in its front: (n,), infinite at the ends.

    The sum over columns of the gap between the neighbours on either side, as a share of the column's range
    in the front (Deb et al. 2002, NSGA-II). `fronts` (n,) from 0 on, by default one for all.
    """
    n = len(values)
    fronts = np.zeros(n, dtype=np.int64) if fronts is None else fronts
    distance = np.zeros(n)
    for column in values.T:
        order = np.lexsort((column, fronts))
        x, front = column[order], fronts[order]
        first, last = np.flatnonzero(np.diff(front, prepend=-1)), np.flatnonzero(np.diff(front, append=-1))
        span = np.repeat(x[last] - x[first], last - first + 1)
        gap = np.zeros(n)
        gap[1:-1] = x[2:] - x[:-2]
        share = np.divide(gap, span, out=np.zeros(n), where=span > 0)
        share[first] = share[last] = np.inf
        distance[order] += share
    return distance


def best_first(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The rows of `values` (n, m) from best to worst: by front, then by spread within the front."""
    fronts = front_numbers(values)
    return np.lexsort((-crowding_distance(values, fronts), fronts))


def hypervolume(values: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """The area that the rows of `values` (n, 2) dominate below `reference` (2,), both columns minimised."""
    inside = values[(values < reference).all(axis=1)]
    front = np.unique(inside[non_dominated(inside)], axis=0)  # by rising first, falling second value
    heights = np.concatenate([reference[1:], front[:-1, 1]]) - front[:, 1]
    return float(((reference[0] - front[:, 0]) * heights).sum())


def reference_point(results: pd.DataFrame, train_size: int) -> NDArray[np.float64]:
    """Where the hypervolume of one train size ends: (2 x DDPM's mean fid, DDPM's mean memorization).

    It is known once the baselines are done, whatever is searched. NaN while no baseline has finished.
    """
    rows = comparable(results, train_size)
    means = rows.loc[rows.method == BASELINE, OBJECTIVES].mean().to_numpy(dtype=np.float64)
    return np.asarray(means * [2.0, 1.0])


def normalized_hypervolume(points: pd.DataFrame, reference: NDArray[np.float64]) -> float:
    """The share of the box between a perfect model, (0, 0), and `reference` that `points` dominate.

    DDPM itself dominates nothing of it. NaN where there is no such box: no baseline has finished, or DDPM
    copies nothing, so that nothing can copy less.
    """
    if not (reference > 0).all():
        return float("nan")
    values = points[OBJECTIVES].to_numpy(dtype=np.float64)
    return hypervolume(values, reference) / float(reference.prod())


def hypervolume_history(results: pd.DataFrame, train_size: int) -> pd.DataFrame:
    """The normalised hypervolume of one train size after each training that reached its full budget.

    Columns: `trial_id`, `trainings` (cost so far, in full trainings, stopped and failed ones included) and
    `hypervolume`, against today's reference point. It can fall: a configuration that is repeated counts
    with the mean of its repeats. Empty when the order of the rows is not known (tables of old versions).
    """
    rows = results[(results.train_size == train_size) & (results.rung > 0)]
    rows = rows.sort_values("recorded_at", kind="stable", ignore_index=True)
    spent = (rows.budget - rows.groupby("trial_id").budget.shift(fill_value=0.0)).cumsum()
    reference = reference_point(results, train_size)
    finished = comparable(rows, train_size)
    if rows.recorded_at.isna().any():
        finished = finished.iloc[:0]
    measured, reached = finished[OBJECTIVES], []
    points = measured.iloc[:0]
    for k, repeat in enumerate((configuration(finished) != finished.trial_id).tolist()):
        more = pd.concat([points, measured.iloc[[k]]])
        points = average_seeds(finished.iloc[: k + 1])[OBJECTIVES] if repeat else more
        reached.append(normalized_hypervolume(points, reference))
    return pd.DataFrame(
        {
            "trial_id": finished.trial_id.tolist(),
            "trainings": spent[finished.index].tolist(),
            "hypervolume": reached,
        }
    )


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


def configuration(rows: pd.DataFrame) -> "pd.Series[str]":
    """What tells the configurations among `rows` of one train size apart.

    All seeds of DDPM are one, and so are a trial and its repeats with fresh seeds (column `confirms`).
    """
    original = rows.trial_id.where(_repeated(rows) == "", _repeated(rows))
    return original.where(rows.method != BASELINE, BASELINE).rename("configuration")


def _repeated(rows: pd.DataFrame) -> "pd.Series[str]":
    """The trial that each row repeats, empty for most; tables made by hand may do without the column."""
    return rows.get("confirms", pd.Series("", index=rows.index, dtype=object))


def average_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a configuration, from full-budget `rows` of one train size: the mean over its seeds.

    A trial that was repeated with fresh seeds is the mean of the repeats alone: its own figures are those
    that it was picked for. `seeds` counts the trainings behind a row, `confirmed` says whether they are
    such repeats; `fid_se` and `memorization_se` are those of the means, `trial_id` is the trial repeated.
    """
    kept = rows[~rows.trial_id.isin(_repeated(rows))]
    key = configuration(kept)
    groups = kept.groupby(key, sort=False)
    averaged = groups.first()
    measured = kept.select_dtypes("float").columns.difference(_GIVEN)
    averaged[measured] = groups[measured].mean()
    averaged["seeds"] = groups.size()
    averaged["confirmed"] = (_repeated(kept) != "").groupby(key).any()
    averaged["trial_id"] = averaged.trial_id.where(~averaged.confirmed, averaged.index)
    averaged["confirms"] = ""
    for name in [f"{objective}_se" for objective in OBJECTIVES if f"{objective}_se" in kept]:
        averaged[name] = np.sqrt((kept[name] ** 2).groupby(key).mean() / averaged.seeds)
    return averaged.reset_index(drop=True)


def frontier(results: pd.DataFrame, train_size: int, budget: Budget = "full") -> pd.DataFrame:
    """The non-dominated points of one train size, by rising fid; DDPM takes part like any trial.

    At full budget a point is a configuration (`average_seeds`), at any budget it is a row of the table.
    """
    rows = comparable(results, train_size, budget)
    if budget == "full":
        rows = average_seeds(rows)
    front = rows[non_dominated(rows[OBJECTIVES].to_numpy(dtype=np.float64))]
    return front.sort_values(OBJECTIVES)
