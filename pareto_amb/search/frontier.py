"""Non-domination, and the frontiers of a results table."""

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
    unique, inverse = np.unique(values, axis=0, return_inverse=True)
    if values.shape[1] == 2:
        on_front = _non_dominated_sorted_2d(unique)
    else:
        on_front = np.array([_is_non_dominated(row, unique) for row in unique], dtype=bool)
    return on_front[inverse.reshape(-1)] if len(values) else np.zeros(0, dtype=bool)


def _non_dominated_sorted_2d(unique: NDArray[np.float64]) -> NDArray[np.bool_]:
    """For distinct rows in lexicographic order a row survives when its second value is a new minimum."""
    if not len(unique):
        return np.zeros(0, dtype=bool)
    best_before = np.minimum.accumulate(np.concatenate([[np.inf], unique[:-1, 1]]))
    return np.asarray(unique[:, 1] < best_before)


def _is_non_dominated(row: NDArray[np.float64], unique: NDArray[np.float64]) -> bool:
    no_larger = (unique <= row).all(axis=1)
    return bool(no_larger.sum() == 1)  # only the row itself


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
