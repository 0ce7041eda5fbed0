"""After the search: its best trials again, with seeds that had no part in choosing them."""

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from ray.tune.search import Searcher

from pareto_amb.config import SweepConfig
from pareto_amb.results import ResultsTable
from pareto_amb.search.frontier import BASELINE, OBJECTIVES, RECOMMENDED, comparable
from pareto_amb.search.recommend import summarize_baseline

FIRST_SEED = 1_000_000
"""Fresh seeds start here, counted from the sweep's, beyond those of any trial."""

_CHOSEN = ("method", "train_size", "sigma_tn", "mix_ratio", "corruption")


def worth_confirming(results: pd.DataFrame, train_size: int, count: int) -> list[str]:
    """The `count` trials that `match-ddpm` would take first, best first, by what the search measured.

    Those with a fid no worse than DDPM's come first, by memorization; the others follow by their fid. None
    where no baseline has finished.
    """
    rows = comparable(results, train_size)
    if not (rows.method == BASELINE).any():
        return []
    limit = summarize_baseline(results, train_size).fid.high
    rows = rows[(rows.method == RECOMMENDED) & (rows.confirms == "")]
    excess = (rows.fid - limit).clip(lower=0)
    order = np.lexsort((rows.fid, rows.memorization, excess))
    return [str(trial_id) for trial_id in rows.trial_id.iloc[order[:count]]]


def confirmations(config: SweepConfig, results: ResultsTable) -> list[dict[str, Any]]:
    """The configurations of the trials that confirm a finished search and have not ended.

    All candidates are given the same fresh seeds. They follow from the table, so that a resumed sweep finds
    the same ones; those that were begun for an earlier, shorter search are among them.
    """
    frame, confirm = results.frame(), config.search.confirm
    wanted = [
        (trial_id, k)
        for size in config.space.train_size
        for trial_id in worth_confirming(frame, size, confirm.candidates)
        for k in range(1, confirm.seeds + 1)
    ]
    begun = frame[frame.confirms != ""].drop_duplicates("trial_id")
    earlier = [(row.confirms, int(row.trial_id.rpartition("-c")[2])) for row in begun.itertuples()]
    trials = [_repeat(config, results, *pair) for pair in dict.fromkeys(wanted + earlier)]
    return [trial for trial in trials if results.status(trial["trial_id"]) not in {"complete", "failed"}]


def _repeat(config: SweepConfig, results: ResultsTable, trial_id: str, k: int) -> dict[str, Any]:
    original = results.last_row(trial_id)
    assert original is not None
    return {
        "trial_id": f"{trial_id}-c{k}",
        **{name: original[name] for name in _CHOSEN},
        "seed": config.seed + FIRST_SEED + k,
        "rung": 0,
        "confirms": trial_id,
    }


class GivenTrials(Searcher):
    """Hands out given trials, one after the other."""

    def __init__(self, trials: Iterable[dict[str, Any]]) -> None:
        super().__init__(metric=OBJECTIVES, mode=["min", "min"])
        self._left = deque(trials)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial's configuration, or Searcher.FINISHED. `trial_id` is Ray's own."""
        return self._left.popleft() if self._left else str(Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing follows from it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the trials follow from the results table."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see `save`."""
