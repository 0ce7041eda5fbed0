"""What trials have shown at each rung, and what those that have not finished will come to."""

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Key = TypeVar("Key", bound=Hashable)

MIN_FINISHED = 4
"""From so many finished trials on, others can be foreseen."""


class Curves(Generic[Key]):
    """The values that trials have shown at each rung; a trial is a row, in the order they were added.

    Values are the objectives, all minimised, and more that help to foresee them.
    """

    def __init__(self, n_rungs: int, n_objectives: int | None = None) -> None:
        """`n_rungs` counts the last one, full budget. Without `n_objectives` all values are objectives."""
        self.keys: list[Key] = []
        self.versions = [0] * n_rungs
        """How often the values of each rung have changed."""
        self._n_objectives = n_objectives
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
        """Set what a trial shows at `rung`, rising from 0, always equally many values; returns its row."""
        row = self.row(key)
        if not self._values.shape[2]:
            self._values = np.zeros((*self._measured.shape, len(values)))
        self._values[rung, row], self._measured[rung, row] = values, True
        self.versions[rung] += 1
        return row

    def forget(self, key: Key) -> int:
        """Take back all that a trial has shown; returns its row, which stays its own."""
        row = self.row(key)
        for rung in np.flatnonzero(self._measured[:, row]).tolist():
            self.versions[rung] += 1
        self._measured[:, row] = False
        return row

    def at(self, rung: int) -> Rows:
        """The rows of the trials that were measured at `rung` (-1: the last)."""
        return np.flatnonzero(self._measured[rung])

    def highest(self) -> Rows:
        """The last rung that each row has reached (n,), -1 for none."""
        measured = self._measured[:, : len(self.keys)]
        numbers = np.arange(len(measured))[:, None]
        return np.asarray(np.where(measured, numbers, -1).max(axis=0))

    def objectives(self, rung: int, rows: Rows) -> Array:
        """What `rows` (k,) have at `rung`: (k, m)."""
        return self._values[rung, rows, : self._n_objectives]

    def foreseen(self, rung: int, rows: Rows) -> Array | None:
        """What `rows` (k,), measured at `rung`, will have at the last one: (k, m).

        None before MIN_FINISHED trials, whose values are finite, have been at both.
        """
        known = np.flatnonzero(self._measured[rung] & self._measured[-1])
        before, after = self._values[rung, known], self.objectives(-1, known)
        usable = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
        if usable.sum() < MIN_FINISHED:
            return None
        return foresee(before[usable], after[usable], self._values[rung, rows])


def foresee(before: Array, after: Array, shown: Array) -> Array:
    """What trials that have shown `shown` (k, f) will come to: (k, m), never below 0.

    A ridge regression on the trials that showed `before` (n, f) and came to `after` (n, m). Its penalty, one
    observation's weight, draws towards the mean what they do not tell.
    """
    mean, scale = before.mean(axis=0), before.std(axis=0) + 1e-12
    z = (before - mean) / scale
    weights = np.linalg.solve(z.T @ z + np.eye(z.shape[1]), z.T @ (after - after.mean(axis=0)))
    return np.asarray(np.maximum((shown - mean) / scale @ weights + after.mean(axis=0), 0.0))
