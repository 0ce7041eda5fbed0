"""Asynchronous successive halving on several metrics: which trials go on at a rung, and which may resume.

ASHA (Li et al. 2020) with the rank of several metrics in the place of one metric's: non-domination first,
then spread within a front. Free of Ray; `schedulers.py` puts it to use there.
"""

from collections.abc import Sequence

import numpy as np

from pareto_amb.search.frontier import best_first


class ParetoRungs:
    """The results of the trials that compete with each other, rung by rung, and the rule of promotion.

    A trial that is among the best 1/reduction_factor of those measured at its rung goes on; the others
    pause, and may resume once enough worse ones were measured. Nothing is decided at the last rung.
    """

    def __init__(self, n_rungs: int, reduction_factor: float) -> None:
        """`n_rungs` counts the last one, full budget. ValueError unless `reduction_factor` is above 1."""
        if reduction_factor <= 1:
            raise ValueError(f"reduction_factor must be above 1, got {reduction_factor}")
        self._reduction_factor = reduction_factor
        self._measured: list[dict[str, Sequence[float]]] = [{} for _ in range(n_rungs)]
        self._gone_on: list[set[str]] = [set() for _ in range(n_rungs)]
        self._best: list[list[str] | None] = [[] for _ in range(n_rungs)]

    def report(self, trial_id: str, rung: int, values: Sequence[float]) -> bool:
        """Enter the minimised `values` of a trial at `rung` (0 is the first): whether it goes on."""
        self._measured[rung][trial_id] = values
        self._best[rung] = None
        goes_on = trial_id in self._among_best(rung)
        if goes_on:
            self._gone_on[rung].add(trial_id)
        return goes_on

    def promotable(self) -> str | None:
        """A paused trial that is among the best of its rung by now, highest rung and best rank first.

        It counts as resumed from then on.
        """
        for rung in reversed(range(len(self._measured) - 1)):
            for trial_id in self._among_best(rung):
                if trial_id not in self._gone_on[rung]:
                    self._gone_on[rung].add(trial_id)
                    return trial_id
        return None

    def forget(self, trial_id: str) -> None:
        """Leave out a trial that failed: it will neither resume nor count."""
        for measured, gone_on in zip(self._measured, self._gone_on, strict=True):
            measured.pop(trial_id, None)
            gone_on.discard(trial_id)
        self._best = [None] * len(self._best)

    def _among_best(self, rung: int) -> list[str]:
        """The trials that are good enough to leave `rung`, best first."""
        best = self._best[rung]
        if best is None:
            ids, rows = list(self._measured[rung]), list(self._measured[rung].values())
            count = int(len(ids) / self._reduction_factor)
            order = best_first(np.asarray(rows, dtype=np.float64))[:count]
            best = self._best[rung] = [ids[i] for i in order.tolist()]
        return best
