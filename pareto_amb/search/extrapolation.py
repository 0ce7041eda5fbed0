"""What trials have shown at each rung, and what those that have not finished will come to.

Rungs count from 1, as in the results table: the last one, full budget, has the number `n_rungs`, and 0 stands
for a trial that has reached none. So it is in all of the search.
"""

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Key = TypeVar("Key", bound=Hashable)

MIN_FINISHED = 4
"""From so many finished trials on, the curves of others can be extrapolated."""


class LearningCurves(Generic[Key]):
    """The values that trials have shown at each rung; a trial is a row, in the order they were added.

    Values are the objectives, all minimised, and more that help to extrapolate them.
    """

    def __init__(self, n_rungs: int, n_objectives: int | None = None, floor: ArrayLike = 0.0) -> None:
        """Without `n_objectives` all values are objectives.

        Nothing is extrapolated below `floor`: a number, or one for each objective.
        """
        self.keys: list[Key] = []
        self.n_rungs, self._n_objectives, self._floor = n_rungs, n_objectives, floor
        self._versions = [0] * n_rungs
        self._rows: dict[Key, int] = {}
        self._values = np.zeros((n_rungs, 16, 0))
        self._measured = np.zeros((n_rungs, 16), dtype=np.bool_)

    def row(self, key: Key) -> int:
        """The row of a trial, a new one at its first mention."""
        row = self._rows.setdefault(key, len(self.keys))
        if row == len(self.keys):
            self.keys.append(key)
            if row == self._measured.shape[1]:
                self._values = np.concatenate([self._values, np.zeros_like(self._values)], axis=1)
                self._measured = np.concatenate([self._measured, np.zeros_like(self._measured)], axis=1)
        return row

    def record(self, key: Key, rung: int, values: Sequence[float]) -> int:
        """Set what a trial shows at `rung`, always equally many values; returns its row."""
        row = self.row(key)
        if not self._values.shape[2]:
            self._values = np.zeros((*self._measured.shape, len(values)))
        self._values[rung - 1, row], self._measured[rung - 1, row] = values, True
        self._versions[rung - 1] += 1
        return row

    def forget(self, key: Key) -> int:
        """Take back all that a trial has shown; returns its row, which stays its own."""
        row = self.row(key)
        for index in np.flatnonzero(self._measured[:, row]).tolist():
            self._versions[index] += 1
        self._measured[:, row] = False
        return row

    def version(self, rung: int) -> int:
        """How often the values of `rung` have changed."""
        return self._versions[rung - 1]

    def at(self, rung: int) -> Rows:
        """The rows of the trials that were measured at `rung`."""
        return np.flatnonzero(self._measured[rung - 1])

    def highest(self) -> Rows:
        """The last rung that each row has reached (n,), 0 for none."""
        measured = self._measured[:, : len(self.keys)]
        numbers = np.arange(1, self.n_rungs + 1)[:, None]
        return np.asarray(np.where(measured, numbers, 0).max(axis=0))

    def objectives(self, rung: int, rows: Rows) -> Array:
        """What `rows` (k,) have at `rung`: (k, m)."""
        return self._values[rung - 1, rows, : self._n_objectives]

    def extrapolated(self, rung: int, rows: Rows) -> Array | None:
        """What `rows` (k,), measured at `rung`, will have at the last one: (k, m).

        None before MIN_FINISHED trials, whose values are finite, have been at both.
        """
        shown = self._values[rung - 1]
        known = np.flatnonzero(self._measured[rung - 1] & self._measured[-1])
        before, after = shown[known], self.objectives(self.n_rungs, known)
        usable = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
        if usable.sum() < MIN_FINISHED:
            return None
        return extrapolate(before[usable], after[usable], shown[rows], self._floor)


def extrapolate(before: Array, after: Array, shown: Array, floor: ArrayLike = 0.0) -> Array:
    """What trials that have shown `shown` (k, f) will come to: (k, m), never below `floor`, a number or (m,).

    A ridge regression on the trials that showed `before` (n, f) and came to `after` (n, m). Its penalty, one
    observation's weight, draws towards the mean what they do not tell.
    """
    mean, scale = before.mean(axis=0), before.std(axis=0) + 1e-12
    z = (before - mean) / scale
    weights = np.linalg.solve(z.T @ z + np.eye(z.shape[1]), z.T @ (after - after.mean(axis=0)))
    return np.asarray(np.maximum((shown - mean) / scale @ weights + after.mean(axis=0), floor))
