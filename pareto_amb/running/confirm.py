"""After the search: its best trainings again, with seeds that had no part in choosing them, and controls."""

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray.tune.search import Searcher

from pareto_amb.config import SweepConfig
from pareto_amb.declared import Declared, Objective
from pareto_amb.results.confirm import worth_confirming
from pareto_amb.results.table import ResultsTable
from pareto_amb.trial import Trial

FIRST_SEED = 1_000_000
"""Fresh seeds start here, counted from the sweep's, beyond those of any trial."""


def followers(config: SweepConfig, results: ResultsTable) -> list[Trial]:
    """The trials that follow a finished search: its best trainings repeated, and then the repeats' controls.

    A repeat ends where the training that it confirms is best; all are given the same fresh seeds. They follow
    from the table, so that a resumed sweep finds the same ones; those that were begun for an earlier, shorter
    search are among them, under the ids that they have.
    """
    found, confirm = results.results(), config.search.confirm
    known = [row for row in map(results.last_row, results.trial_ids()) if row is not None]
    begun = [_begun(config, results.declared, row) for row in known if row["confirms"] or row["controls"]]
    wanted = [
        _repeat(config, results, trial_id, rung, k)
        for size in config.space.train_size
        for trial_id, rung in worth_confirming(found.size(size), confirm.candidates)
        for k in range(1, confirm.seeds + 1)
    ]
    repeats = _once([*wanted, *(trial for trial in begun if trial.confirms)])
    controls = [control for trial in repeats for control in _controls(config, results.declared, trial)]
    return [*repeats, *_once([*controls, *(trial for trial in begun if trial.controls)])]


def unfinished(trials: Iterable[Trial], results: ResultsTable) -> list[Trial]:
    """Those that have not ended."""
    return [trial for trial in trials if results.status(trial.id) not in {"complete", "failed"}]


def _repeat(config: SweepConfig, results: ResultsTable, trial_id: str, rung: int, k: int) -> Trial:
    original = results.last_row(trial_id)
    assert original is not None
    return Trial(
        id=f"{trial_id}-r{rung}-c{k}",
        method=original["method"],
        train_size=int(original["train_size"]),
        seed=config.seed + FIRST_SEED + k,
        parameters=_parameters(results.declared, original),
        confirms=trial_id,
        last=rung,
    )


def _controls(config: SweepConfig, declared: Declared, repeat: Trial) -> list[Trial]:
    """The control of a repeat, which differs from it in the method alone; none where there is none."""
    name = declared.method(repeat.method).control
    if not (config.search.controls and name):
        return []
    chosen = {key: repeat.parameters[key] for key in declared.method(name).parameter_names}
    control = replace(repeat, id=f"{repeat.id}-{name}", method=name, parameters=chosen)
    return [replace(control, confirms="", controls=repeat.confirms)]


def _begun(config: SweepConfig, declared: Declared, row: Mapping[str, Any]) -> Trial:
    """The trial that a row is of. Until it is measured, the rung that it ends with stands in its id alone.

    In older tables it does not: those all ended with the last.
    """
    named = re.search(r"-r(\d+)-c\d+", row["trial_id"])
    planned = int(named[1]) if named else len(config.rung_images())
    return Trial(
        id=row["trial_id"],
        method=row["method"],
        train_size=int(row["train_size"]),
        seed=int(row["seed"]),
        parameters=_parameters(declared, row),
        confirms=row["confirms"],
        controls=row["controls"],
        last=int(row["rung"]) or planned,
    )


def _parameters(declared: Declared, row: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(row[name]) for name in declared.method(row["method"]).parameter_names}


def _once(trials: Iterable[Trial]) -> list[Trial]:
    """Each training once, in the order of its first mention, as the last one has it."""
    return list({(t.confirms, t.controls, t.method, t.last, t.seed): t for t in trials}.values())


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
