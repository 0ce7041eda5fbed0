"""After the search: its best trials again, with seeds that had no part in choosing them."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from ray.tune.search import Searcher

from pareto_amb.config import SweepConfig
from pareto_amb.declared import Objective
from pareto_amb.results.confirm import worth_confirming
from pareto_amb.results.table import ResultsTable
from pareto_amb.trial import Trial

FIRST_SEED = 1_000_000
"""Fresh seeds start here, counted from the sweep's, beyond those of any trial."""


def confirmations(config: SweepConfig, results: ResultsTable) -> list[Trial]:
    """The trials that confirm a finished search and have not ended.

    All candidates are given the same fresh seeds. They follow from the table, so that a resumed sweep finds
    the same ones; those that were begun for an earlier, shorter search are among them.
    """
    found, confirm = results.results(), config.search.confirm
    wanted = [
        (trial_id, k)
        for size in config.space.train_size
        for trial_id, _ in worth_confirming(found.size(size), confirm.candidates)
        for k in range(1, confirm.seeds + 1)
    ]
    begun = found.frame[found.frame.confirms != ""].drop_duplicates("trial_id")
    earlier = [(row.confirms, int(row.trial_id.rpartition("-c")[2])) for row in begun.itertuples()]
    trials = [_repeat(config, results, *pair) for pair in dict.fromkeys(wanted + earlier)]
    return [trial for trial in trials if results.status(trial.id) not in {"complete", "failed"}]


def _repeat(config: SweepConfig, results: ResultsTable, trial_id: str, k: int) -> Trial:
    original = results.last_row(trial_id)
    assert original is not None
    chosen = results.declared.method(original["method"]).parameter_names
    return Trial(
        id=f"{trial_id}-c{k}",
        method=original["method"],
        train_size=int(original["train_size"]),
        seed=config.seed + FIRST_SEED + k,
        parameters={name: float(original[name]) for name in chosen},
        confirms=trial_id,
    )


class GivenTrials(Searcher):
    """Hands out given trials, one after the other."""

    def __init__(self, trials: Iterable[Trial], objectives: Sequence[Objective]) -> None:
        super().__init__(metric=[o.name for o in objectives], mode=[o.direction for o in objectives])
        self._left = deque(trials)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial's configuration, or Searcher.FINISHED. `trial_id` is Ray's own."""
        return self._left.popleft().config() if self._left else str(Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing follows from it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the trials follow from the results table."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see `save`."""
