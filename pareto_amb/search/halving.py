"""Asynchronous successive halving on several metrics: which trials go on at a rung, and which may resume.

ASHA (Li et al. 2020) with the rank of several metrics in the place of one metric's: non-domination first,
then spread within a front. Free of Ray; `schedulers.py` puts it to use there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pareto_amb.config import SweepConfig
from pareto_amb.search.foresight import MIN_FINISHED, foresee
from pareto_amb.search.frontier import crowding_distance, front_numbers


def expected_budget(rungs: Sequence[float], reduction_factor: float, first: int = 0) -> float:
    """What a trial costs on average that is judged from rung `first` on, in the unit of `rungs`.

    It reaches rungs[first] for certain, and each later rung with probability 1/reduction_factor of the
    one before.
    """
    steps = np.diff(rungs[first:])
    return float(rungs[first] + (steps / reduction_factor ** np.arange(1, len(steps) + 1)).sum())


def expected_trainings(config: SweepConfig) -> float:
    """How many full trainings a sweep costs on average, baselines and confirmation included."""
    search, rungs = config.search, config.rung_images()
    share = 1.0
    if search.reduction_factor is not None:
        costs = [expected_budget(rungs, search.reduction_factor, first) for first in range(search.brackets)]
        share = len(costs) / sum(rungs[-1] / cost for cost in costs)  # every bracket has the same budget
    searched = search.trials * len(search.methods) * share
    return (search.baseline_seeds + searched + search.n_confirmations()) * len(config.space.train_size)


class ParetoRungs:
    """The results of the trials that compete with each other, rung by rung, and the rule of promotion.

    A trial that is among the best 1/reduction_factor of those measured at its rung goes on; the others
    pause, and may resume once enough worse ones were measured. Values that are not finite rank last.
    Nothing is decided at the last rung. Until `close`, one of fewer than reduction_factor trials is not
    known to be good.

    With `foresee` what counts is not what a trial has at its rung but what the finished ones let expect of
    it at the last (`foresight.py`). Until MIN_FINISHED have finished all go on, and a trial that is foreseen
    on the frontier always does: where early figures tell little, little is stopped.
    """

    def __init__(
        self, n_rungs: int, reduction_factor: float, *, n_objectives: int | None = None, foresee: bool = False
    ) -> None:
        """`n_rungs` counts the last one, full budget. ValueError unless `reduction_factor` is above 1.

        The first `n_objectives` values of a report are what trials are ranked by, None for all; the others
        help to foresee them.
        """
        if reduction_factor <= 1:
            raise ValueError(f"reduction_factor must be above 1, got {reduction_factor}")
        last = _Rung(reduction_factor, n_objectives, None)
        finished = last if foresee else None
        self._rungs = [_Rung(reduction_factor, n_objectives, finished) for _ in range(n_rungs - 1)] + [last]

    def enter(self, trial_id: str, rung: int, values: Sequence[float]) -> None:
        """Count the minimised `values` of a trial that goes on from `rung` (0 is the first) in any case."""
        self._rungs[rung].add(trial_id, values)
        self._rungs[rung].gone_on.add(trial_id)

    def pause(self, trial_id: str, rung: int, values: Sequence[float]) -> None:
        """Count the minimised `values` of a trial that paused at `rung`; `promotable` decides on it."""
        self._rungs[rung].add(trial_id, values)
        self._rungs[rung].gone_on.discard(trial_id)

    def report(self, trial_id: str, rung: int, values: Sequence[float]) -> bool:
        """Count the minimised `values` of a trial at `rung`: whether it goes on."""
        self.pause(trial_id, rung, values)
        goes_on = self._rungs[rung].is_among_best(trial_id)
        if goes_on:
            self.go_on(trial_id)
        return goes_on

    def candidates(self) -> list[tuple[int, str]]:
        """(rung, trial) of the paused trials that are among the best of their rung by now.

        Highest rung first, best rank first.
        """
        return [
            (rung, trial_id)
            for rung in reversed(range(len(self._rungs) - 1))
            for trial_id in self._rungs[rung].candidates()
        ]

    def promotable(self) -> str | None:
        """The first of `candidates`, None without one. It counts as resumed from then on."""
        for _, trial_id in self.candidates():
            self.go_on(trial_id)
            return trial_id
        return None

    def close(self) -> None:
        """No new trial will come: from now on the best of each rung goes on, however few were measured."""
        for rung in self._rungs:
            rung.close()

    def last_choice(self) -> str | None:
        """The paused trial with the least hope: of the lowest rung, the one of the worst rank."""
        for rung in self._rungs[:-1]:
            if (trial_id := rung.worst_paused()) is not None:
                return trial_id
        return None

    def go_on(self, trial_id: str) -> None:
        """Let a trial leave the highest rung it reached; it is no candidate any more, but still counts."""
        for rung in self._rungs:
            if trial_id in rung:
                rung.gone_on.add(trial_id)

    def forget(self, trial_id: str) -> None:
        """Leave out a trial that failed: it will neither resume nor count."""
        for rung in self._rungs:
            if trial_id in rung:
                rung.remove(trial_id)


class _Rung:
    """The trials measured at one rung, their values (n, m), and which of them have gone on.

    Ranks are of what is foreseen from the trials of the rung `finished`, without one of the values here.
    """

    def __init__(self, reduction_factor: float, n_objectives: int | None, finished: "_Rung | None") -> None:
        self._reduction_factor, self._at_least = reduction_factor, 0
        self._n_objectives, self._finished, self._n_finished = n_objectives, finished, 0
        self._rows: dict[str, int] = {}
        self._values = np.empty((0, 0))
        self._ranks: _Ranks | None = None
        self.gone_on: set[str] = set()

    def __contains__(self, trial_id: str) -> bool:
        return trial_id in self._rows

    def add(self, trial_id: str, values: Sequence[float]) -> None:
        row = self._rows.setdefault(trial_id, len(self._rows))
        if row == len(self._values):
            self._values = np.resize(self._values, (max(2 * row, 16), len(values)))
        self._values[row] = values
        self._ranks = None

    def close(self) -> None:
        self._at_least = 1
        self._ranks = None

    def remove(self, trial_id: str) -> None:
        self._values = np.delete(self._values, self._rows.pop(trial_id), axis=0)
        self._rows = {name: row for row, name in enumerate(self._rows)}
        self.gone_on.discard(trial_id)
        self._ranks = None

    def is_among_best(self, trial_id: str) -> bool:
        return trial_id in self._rank().best

    def candidates(self) -> list[str]:
        """The paused trials among the best, best first."""
        return self._best_first(self._rank().best - self.gone_on)

    def worst_paused(self) -> str | None:
        paused = self._best_first(self._rows.keys() - self.gone_on)
        return paused[-1] if paused else None

    def _rank(self) -> "_Ranks":
        """Spread is looked at in one front alone, the one that only a part of goes on from."""
        if self._finished is not None and len(self._finished._rows) != self._n_finished:
            self._n_finished, self._ranks = len(self._finished._rows), None
        if self._ranks is None:
            names, expected = list(self._rows), self._expected()
            fronts = _fronts(expected)
            self._ranks = ranks = _Ranks(expected, fronts, frozenset())
            if count := self._n_best(fronts):
                last = np.partition(fronts, count - 1)[count - 1]
                best = [names[row] for row in np.flatnonzero(fronts < last)]
                best += self._best_first(names[row] for row in np.flatnonzero(fronts == last))
                ranks.best = frozenset(best[:count])
        return self._ranks

    def _n_best(self, fronts: NDArray[np.int64]) -> int:
        """How many of the trials go on, whose fronts are `fronts`."""
        n = len(fronts)
        share = min(max(int(n / self._reduction_factor), self._at_least), n)
        if self._finished is None:
            return share
        return n if self._n_finished < MIN_FINISHED else max(share, int((fronts == 0).sum()))

    def _expected(self) -> NDArray[np.float64]:
        """What the trials are ranked by (n, n_objectives)."""
        values, finished = self._values[: len(self._rows)], self._finished
        if finished is None or self._n_finished < MIN_FINISHED:
            return values[:, : self._n_objectives]
        known = [name for name in finished._rows if name in self]
        before = np.array([self._values[self._rows[name]] for name in known])
        after = np.array([finished._values[finished._rows[name]][: self._n_objectives] for name in known])
        usable = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
        if usable.sum() < MIN_FINISHED:
            return values[:, : self._n_objectives]
        return foresee(before[usable], after[usable], values)

    def _best_first(self, trial_ids: Iterable[str]) -> list[str]:
        """`trial_ids` by front, then by spread within it, then by name: the order of reports is no matter."""
        ranks = self._rank()
        fronts, spread = ranks.fronts, np.zeros(len(ranks.fronts))
        rows, names = {name: self._rows[name] for name in trial_ids}, list(self._rows)
        for front in {int(fronts[row]) for row in rows.values()}:
            members = sorted(np.flatnonzero(fronts == front).tolist(), key=lambda row: names[row])
            if np.isfinite(ranks.expected[members]).all():
                spread[members] = crowding_distance(ranks.expected[members])
        return sorted(rows, key=lambda name: (fronts[rows[name]], -spread[rows[name]], name))


@dataclass
class _Ranks:
    """What the trials of a rung are ranked by, (n, m), the front of each, (n,), and those that go on."""

    expected: NDArray[np.float64]
    fronts: NDArray[np.int64]
    best: frozenset[str]


def _fronts(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The front of each row of `values` (n, m); rows that are not finite share one behind all others."""
    finite = np.isfinite(values).all(axis=1)
    fronts = np.full(len(values), len(values))
    fronts[finite] = front_numbers(values[finite])
    return fronts
