"""Asynchronous successive halving on several metrics: which trials go on at a rung, and which may resume.

ASHA (Li et al. 2020) with the rank of several metrics in the place of one metric's: non-domination first,
then spread within a front. Free of Ray; `running/scheduler.py` puts it to use there, for other experiments
than our sweeps, which have `early_stopping.py`. Rungs count from 1.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pareto_amb.search.extrapolation import Array, LearningCurves, Rows
from pareto_amb.search.pareto import crowding_distance, front_numbers
from pareto_amb.search.rungs import Rungs


class ParetoRungs(Rungs):
    """The results of the trials that compete with each other, rung by rung, and the rule of promotion.

    A trial that is among the best 1/reduction_factor of those measured at its rung goes on; the others
    pause, and may resume once enough worse ones were measured. Values that are not finite rank last.
    Nothing is decided at the last rung. Until `close`, one of fewer than reduction_factor trials is not
    known to be good.
    """

    def __init__(self, n_rungs: int, reduction_factor: float) -> None:
        """Set up the rungs 1 to `n_rungs`. ValueError unless `reduction_factor` is above 1."""
        if reduction_factor <= 1:
            raise ValueError(f"reduction_factor must be above 1, got {reduction_factor}")
        self._curves: LearningCurves[str] = LearningCurves(n_rungs)
        self._rungs = {rung: _Rung(self._curves, rung, reduction_factor) for rung in range(1, n_rungs + 1)}

    def enter(self, trial_id: str, rung: int, values: Sequence[float]) -> None:
        """Count the minimised `values` of a trial that goes on from `rung` in any case."""
        self._rungs[rung].paused.discard(self._curves.record(trial_id, rung, values))

    def pause(self, trial_id: str, rung: int, values: Sequence[float]) -> None:
        """Count the minimised `values` of a trial that paused at `rung`; `promotable` decides on it."""
        self._rungs[rung].paused.add(self._curves.record(trial_id, rung, values))

    def report(self, trial_id: str, rung: int, values: Sequence[float]) -> bool:
        """Count the minimised `values` of a trial at `rung`: whether it goes on."""
        self.pause(trial_id, rung, values)
        goes_on = self._rungs[rung].is_among_best(self._curves.row(trial_id))
        if goes_on:
            self.go_on(trial_id)
        return goes_on

    def candidates(self) -> list[tuple[int, str]]:
        """(rung, trial) of the paused trials that are among the best of their rung by now.

        Highest rung first, best rank first.
        """
        return [
            (rung, self._curves.keys[row])
            for rung in range(self._curves.n_rungs - 1, 0, -1)
            for row in self._rungs[rung].candidates()
        ]

    def close(self) -> None:
        """No new trial will come: from now on the best of each rung goes on, however few were measured."""
        for rung in self._rungs.values():
            rung.close()

    def last_choice(self) -> str | None:
        """The paused trial with the least hope: of the lowest rung, the one of the worst rank."""
        for rung in range(1, self._curves.n_rungs):
            if (row := self._rungs[rung].worst_paused()) is not None:
                return self._curves.keys[row]
        return None

    def go_on(self, trial_id: str) -> None:
        """Let a trial leave the highest rung it reached; it is no candidate any more, but still counts."""
        for rung in self._rungs.values():
            rung.paused.discard(self._curves.row(trial_id))

    def forget(self, trial_id: str) -> None:
        """Leave out a trial that failed: it will neither resume nor count."""
        self.go_on(trial_id)
        self._curves.forget(trial_id)


class _Rung:
    """Who is among the best at one rung, and which rows of `curves` wait there."""

    def __init__(self, curves: LearningCurves[str], rung: int, reduction_factor: float) -> None:
        self._curves, self._rung = curves, rung
        self._reduction_factor, self._at_least = reduction_factor, 0
        self._ranks: _Ranks | None = None
        self.paused: set[int] = set()

    def close(self) -> None:
        self._at_least, self._ranks = 1, None

    def is_among_best(self, row: int) -> bool:
        return bool(self._rank().best[row])

    def candidates(self) -> list[int]:
        """The paused rows among the best, best first."""
        if not self.paused:
            return []
        best = self._rank().best
        return self._best_first([row for row in self.paused if best[row]])

    def worst_paused(self) -> int | None:
        ranked = self._best_first(self.paused)
        return ranked[-1] if ranked else None

    def _rank(self) -> "_Ranks":
        """Spread is looked at in one front alone, the one that only a part of goes on from."""
        version = self._curves.version(self._rung)
        if self._ranks is None or self._ranks.version != version:
            n, rows = len(self._curves.keys), self._curves.at(self._rung)
            shown = self._curves.objectives(self._rung, rows)
            ranks = _Ranks(version, np.zeros((n, shown.shape[1])), np.full(n, -1), np.zeros(n, bool))
            ranks.values[rows], ranks.fronts[rows] = shown, _fronts(shown)
            self._ranks = ranks  # `_best_first` asks for them
            if count := min(max(int(len(rows) / self._reduction_factor), self._at_least), len(rows)):
                last = np.partition(ranks.fronts[rows], count - 1)[count - 1]
                ranks.best[rows] = ranks.fronts[rows] < last
                of_last = self._best_first(np.flatnonzero(ranks.fronts == last).tolist())
                ranks.best[of_last[: count - int(ranks.best.sum())]] = True
        return self._ranks

    def _best_first(self, rows: Collection[int]) -> list[int]:
        """`rows` by front, then by spread within it, then by name: the order of reports is no matter."""
        if not rows:
            return []
        names, ranks, chosen = self._curves.keys, self._rank(), list(rows)
        members = np.flatnonzero(np.isin(ranks.fronts, ranks.fronts[chosen]))
        members = members[np.isfinite(ranks.values[members]).all(axis=1)]
        by_name = sorted(members.tolist(), key=names.__getitem__)
        spread = np.zeros(len(names))
        spread[by_name] = crowding_distance(ranks.values[by_name], ranks.fronts[by_name])
        return sorted(chosen, key=lambda row: (ranks.fronts[row], -spread[row], names[row]))


@dataclass
class _Ranks:
    """What the trials have at a rung (n, m), the front of each (n,), and whether it goes on (n,).

    By row of the curves, of this `version`; a trial that was not measured there has the front -1.
    """

    version: int
    values: Array
    fronts: Rows
    best: NDArray[np.bool_]


def _fronts(values: Array) -> Rows:
    """The front of each row of `values` (n, m); rows that are not finite share one behind all others."""
    finite = np.isfinite(values).all(axis=1)
    fronts = np.full(len(values), len(values))
    fronts[finite] = front_numbers(values[finite])
    return fronts
