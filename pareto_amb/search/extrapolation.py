"""What trials have shown at each rung, and what those that have not finished will come to.

Rungs count from 1, as in the results table: the last one, full budget, has the number `n_rungs`, and 0 stands
for a trial that has reached none. So it is in all of the search. The first rungs may be probe rungs, where a
trial shows no objectives yet.
"""

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_amb.search.one_thread import one_thread

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Key = TypeVar("Key", bound=Hashable)

MIN_FINISHED = 4
"""From so many finished trials on, the curves of others can be extrapolated."""

MAX_TOLD = 1_000
"""So many trials tell what to expect at most, the newest: more would tell the same, at a higher price."""


class LearningCurves(Generic[Key]):
    """The values that trials have shown at each rung; a trial is a row, in the order they were added.

    Values are the objectives, all minimised, and more that help to extrapolate them. What is not known of a
    trial is NaN: at a probe rung that is the objectives.
    """

    def __init__(
        self,
        n_rungs: int,
        n_objectives: int | None = None,
        floor: ArrayLike = 0.0,
        *,
        n_probe_rungs: int = 0,
    ) -> None:
        """Without `n_objectives` all values are objectives. The first `n_probe_rungs` are probe rungs.

        Nothing is extrapolated below `floor`: a number, or one for each objective.
        """
        self.keys: list[Key] = []
        self.n_rungs, self._n_objectives, self._floor = n_rungs, n_objectives, floor
        self.n_probe_rungs = n_probe_rungs
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

    def begun(self) -> Rows:
        """The rows of the trials that were measured at any rung."""
        return np.flatnonzero(self._measured.any(axis=0))

    def highest(self, rows: Rows) -> Rows:
        """The last rung that each of `rows` (k,) has reached (k,), 0 for none."""
        numbers = np.arange(1, self.n_rungs + 1)[:, None]
        return np.asarray(np.where(self._measured[:, rows], numbers, 0).max(axis=0))

    def objectives(self, rung: int, rows: Rows) -> Array:
        """What `rows` (k,) have at `rung`: (k, m)."""
        return self._values[rung - 1, rows, : self._n_objectives]

    def measured(self) -> Array:
        """All that any trial has had at any rung (n, m), where it is finite."""
        values = self._values[self._measured][:, : self._n_objectives]
        return np.asarray(values[np.isfinite(values).all(axis=1)])

    def full_rungs(self) -> Rows:
        """The rungs (r,) at which objectives are measured."""
        return np.arange(self.n_probe_rungs + 1, self.n_rungs + 1)

    def completed(self, rows: Rows) -> tuple[Array, Array]:
        """What `rows` (k,) have or will have at each of `full_rungs`, and one standard error: (k, r, m) each.

        The error of what was measured is 0; a rung that was passed without counts as the next one. A later
        rung is extrapolated from the last one that a row has reached; it is NaN before MIN_FINISHED trials,
        whose values are finite, have been at both.
        """
        first = self.n_probe_rungs
        objectives = self._values[first:, rows, : self._n_objectives]
        values = np.where(self._measured[first:, rows, None], objectives, np.nan).swapaxes(0, 1)
        errors, reached = np.zeros_like(values), self.highest(rows)
        for k in range(values.shape[1] - 2, -1, -1):
            passed = np.isnan(values[:, k]).all(axis=1)
            values[passed, k] = values[passed, k + 1]
        for rung in range(1, self.n_rungs):
            waiting = np.flatnonzero(reached == rung)
            for later in self.full_rungs()[max(rung - first, 0) :].tolist() if len(waiting) else ():
                found = self._extrapolated(rung, later, rows[waiting])
                if found is not None:
                    values[waiting, later - 1 - first], errors[waiting, later - 1 - first] = found
        return values, errors

    def _extrapolated(self, rung: int, later: int, rows: Rows) -> tuple[Array, Array] | None:
        """What `rows` (k,), measured at `rung`, will have at a later one (k, m), and the error of it (m,)."""
        known = np.flatnonzero(self._measured[rung - 1] & self._measured[later - 1])[-MAX_TOLD:]
        told = np.isfinite(self._values[rung - 1, known]).any(axis=0)
        shown = self._values[rung - 1][:, told]
        before, after = shown[known], self.objectives(later, known)
        usable = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
        if usable.sum() < MIN_FINISHED or not told.any():
            return None
        with np.errstate(invalid="ignore"):  # nothing follows from figures that are not finite
            return extrapolate(before[usable], after[usable], shown[rows], self._floor)


@one_thread()
def extrapolate(before: Array, after: Array, shown: Array, floor: ArrayLike = 0.0) -> tuple[Array, Array]:
    """What trials that have shown `shown` (k, f) will come to (k, m), and one standard error of that (m,).

    A ridge regression on the trials that showed `before` (n, f) and came to `after` (n, m). Its penalty, one
    observation's weight, draws towards the mean what they do not tell. Nothing lies below `floor`, a number
    or (m,). The error is that of each of the n as the others let expect it.
    """
    mean, scale, level = before.mean(axis=0), before.std(axis=0) + 1e-12, after.mean(axis=0)
    z = (before - mean) / scale
    solved = np.linalg.solve(z.T @ z + np.eye(z.shape[1]), z.T)
    weights = solved @ (after - level)
    leverage = np.einsum("ij,ji->i", z, solved) + 1 / len(z)
    left_out = (after - level - z @ weights) / (1 - leverage)[:, None]
    expected = np.maximum((shown - mean) / scale @ weights + level, floor)
    return np.asarray(expected), np.sqrt(np.mean(left_out**2, axis=0))
