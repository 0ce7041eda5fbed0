"""Which trials of a sweep go on at a rung: those that a later rung may still bring onto the frontier.

Every rung is a point where a training may stop, so one is worth going on as long as some later rung may add
to what is there. `halving.py` has the rule where only the last values count. Rungs count from 1.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_amb.search.extrapolation import Array, LearningCurves, Rows
from pareto_amb.search.pareto import dominated_by, non_dominated
from pareto_amb.search.rungs import Rungs

OPTIMISM = 1.0
"""Standard errors by which a later rung may come out better than expected."""


class FrontierRungs(Rungs):
    """What the trials that compete have shown at each rung, and whose later rungs may join the frontier.

    The frontier is that of all rungs of all trials. What a trial will have later is extrapolated
    (`extrapolation.py`), and taken for OPTIMISM standard errors better: where early figures tell little,
    little is stopped, and nothing before MIN_FINISHED trials have come farther. A trial pauses where
    something measured dominates all that may follow; it may resume when more is known. A trial whose values
    are not finite pauses.
    """

    def __init__(
        self,
        n_rungs: int,
        *,
        n_objectives: int | None = None,
        floor: ArrayLike = 0.0,
        n_probe_rungs: int = 0,
    ) -> None:
        """Set up the rungs 1 to `n_rungs`. At the first `n_probe_rungs` the objectives are NaN.

        The first `n_objectives` values of a report count, None for all; the others help to extrapolate them,
        never below `floor`.
        """
        self._curves: LearningCurves[str] = LearningCurves(
            n_rungs, n_objectives, floor, n_probe_rungs=n_probe_rungs
        )
        self._floor = floor
        self._front: Array | None = None
        self._paused: set[int] = set()

    def enter(self, trial_id: str, rung: int, values: Sequence[float]) -> None:
        """Count the minimised `values` of a trial that goes on from `rung` in any case."""
        self._paused.discard(self._record(trial_id, rung, values))

    def pause(self, trial_id: str, rung: int, values: Sequence[float]) -> None:
        """Count the minimised `values` of a trial that paused at `rung`; `candidates` decides on it."""
        self._paused.add(self._record(trial_id, rung, values))

    def report(self, trial_id: str, rung: int, values: Sequence[float]) -> bool:
        """Count the minimised `values` of a trial at `rung`: whether it goes on. The last rung ends it."""
        self.pause(trial_id, rung, values)
        row = np.array([self._curves.row(trial_id)])
        if rung < self._curves.n_rungs and not self._has_hope(row)[0]:
            return False
        self.go_on(trial_id)
        return True

    def candidates(self) -> list[tuple[int, str]]:
        """(rung, trial) of the paused trials that may yet join the frontier: highest rung first, by name."""
        rows = np.array(list(self._paused), dtype=np.int64)
        hopeful = rows[self._has_hope(rows)]
        found = zip(self._curves.highest(hopeful).tolist(), hopeful.tolist(), strict=True)
        return sorted(
            ((rung, self._curves.keys[row]) for rung, row in found),
            key=lambda candidate: (-candidate[0], candidate[1]),
        )

    def last_choice(self) -> str | None:
        """The paused trial with the least hope: one of the lowest rung, without any if there is one."""
        rows = np.array(list(self._paused), dtype=np.int64)
        ranked = zip(self._curves.highest(rows).tolist(), self._has_hope(rows).tolist(), strict=True)
        named = [(*rank, self._curves.keys[row]) for rank, row in zip(ranked, rows, strict=True)]
        return min(named)[-1] if named else None

    def go_on(self, trial_id: str) -> None:
        """Let a trial leave the highest rung it reached; it is no candidate any more, but still counts."""
        self._paused.discard(self._curves.row(trial_id))

    def forget(self, trial_id: str) -> None:
        """Leave out a trial that failed: it will neither resume nor count."""
        self.go_on(trial_id)
        self._curves.forget(trial_id)
        self._front = None

    def _record(self, trial_id: str, rung: int, values: Sequence[float]) -> int:
        front, row = self._front, self._curves.record(trial_id, rung, values)
        if rung <= self._curves.n_probe_rungs:
            return row
        new = np.maximum(self._curves.objectives(rung, np.array([row])), self._floor)
        if front is not None and np.isfinite(new).all() and not dominated_by(new, front)[0]:
            self._front = _in_order(np.concatenate([front[~dominated_by(front, new)], new]))
        return row

    def _has_hope(self, rows: Rows) -> NDArray[np.bool_]:
        """Whether a later rung of each of `rows` (k,) may join the frontier, as far as one knows: (k,).

        Not of a trial whose last objectives are not finite.
        """
        if not len(rows):
            return np.zeros(0, dtype=np.bool_)
        reached, full = self._curves.highest(rows), self._curves.full_rungs()
        curves, errors = self._curves.completed(rows)
        hoped = np.maximum(curves - OPTIMISM * errors, self._floor)
        free = (full > reached[:, None]) & ~dominated_by(hoped, self._frontier())
        last = np.maximum(reached - full[0], 0)
        finite = np.isfinite(curves[np.arange(len(rows)), last]).all(axis=-1)
        return np.asarray((finite | (reached < full[0])) & free.any(axis=1))

    def _frontier(self) -> Array:
        """What no rung of any trial dominates (f, m), of finite values in order; no better than the floor."""
        if self._front is None:
            values = np.maximum(self._curves.measured(), self._floor)
            self._front = _in_order(values[non_dominated(values)])
        return self._front


def _in_order(front: Array) -> Array:
    return front[np.lexsort(front.T[::-1])]
