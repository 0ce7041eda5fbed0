"""After the search: its best trainings again, with seeds that had no part in choosing them, and controls.

Those of a search on branched trials are trained from scratch first, one chosen after another.
"""

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray.tune.search import Searcher

from pareto_amb.config import SweepConfig
from pareto_amb.declared import Declared, Objective
from pareto_amb.results.confirm import branched_trials, next_from_scratch, worth_confirming
from pareto_amb.results.table import ResultsTable, empty_row
from pareto_amb.trial import Trial

FIRST_SEED = 1_000_000
"""Fresh seeds start here, counted from the sweep's, beyond those of any trial."""


def followers(config: SweepConfig, results: ResultsTable) -> list[Trial]:
    """The trials that follow a finished search: its best trainings repeated, and then the repeats' controls.

    A repeat ends where the training that it confirms is best; all are given the same fresh seeds. They follow
    from the table, so that a resumed sweep finds the same ones; those that were begun for an earlier, shorter
    search are among them, under the ids that they have. So are the trainings from scratch of branched trials,
    of which the best are repeated; they have no control.
    """
    found, confirm = results.results(), config.search.confirm
    begun = _all_begun(config, results)
    wanted = [
        _repeat(config, results, trial_id, rung, k)
        for size in config.space.train_size
        for trial_id, rung in worth_confirming(found.size(size), confirm.candidates)
        for k in range(1, confirm.seeds + 1)
    ]
    repeats = _once([*wanted, *(trial for trial in begun if trial.confirms)])
    controlled = [trial for trial in repeats if not trial.every_rung]
    controls = [control for trial in controlled for control in _controls(config, results.declared, trial)]
    return [*repeats, *_once([*controls, *(trial for trial in begun if trial.controls)])]


def from_scratch(config: SweepConfig, results: ResultsTable) -> list[Trial]:
    """The trainings from scratch of branched trials that were begun."""
    return [trial for trial in _all_begun(config, results) if trial.every_rung]


def to_choose(config: SweepConfig, results: ResultsTable) -> dict[int, int]:
    """By train size, how many branched trials are still to be chosen for a training from scratch."""
    begun, found = from_scratch(config, results), results.results()
    return {
        size: max(
            min(config.n_from_scratch(results.declared), len(branched_trials(found.size(size))))
            - sum(trial.train_size == size for trial in begun),
            0,
        )
        for size in config.space.train_size
    }


def choose_from_scratch(config: SweepConfig, results: ResultsTable) -> Trial | None:
    """The next training from scratch, for the size that has most to choose; None when all were chosen."""
    left = to_choose(config, results)
    size = max(left, key=left.__getitem__)
    begun = {trial.confirms for trial in from_scratch(config, results)}
    chosen = next_from_scratch(results.results().size(size), begun) if left[size] else None
    if chosen is None:
        return None
    return replace(_repeat(config, results, chosen, len(config.rung_images()), 0), every_rung=True)


def _all_begun(config: SweepConfig, results: ResultsTable) -> list[Trial]:
    """What follows the search and has a row."""
    known = [row for row in map(results.last_row, results.trial_ids()) if row is not None]
    return [_begun(config, results.declared, row) for row in known if row["confirms"] or row["controls"]]


def unfinished(trials: Iterable[Trial], results: ResultsTable) -> list[Trial]:
    """Those that have not ended."""
    return [trial for trial in trials if results.status(trial.id) not in {"complete", "failed"}]


def _repeat(config: SweepConfig, results: ResultsTable, trial_id: str, rung: int, k: int) -> Trial:
    """The k-th repeat; number 0 is the training from scratch of a branched trial."""
    original = results.last_row(trial_id)
    assert original is not None
    return Trial(
        id=f"{original['confirms'] or trial_id}-r{rung}-c{k}",
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
    """The trial that a row is of. The rung that it ends with stands in its id.

    In older tables it does not: those all ended with the last, or where they were measured.
    """
    named = re.search(r"-r(\d+)-c(\d+)", row["trial_id"])
    last = int(named[1]) if named else int(row["rung"]) or len(config.rung_images())
    every_rung = named is not None and int(named[2]) == 0
    return Trial(
        id=row["trial_id"],
        method=row["method"],
        train_size=int(row["train_size"]),
        seed=int(row["seed"]),
        parameters=_parameters(declared, row),
        confirms=row["confirms"],
        controls=row["controls"],
        last=last,
        measured=int(row["rung"]) if every_rung else 0,
        every_rung=every_rung,
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

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
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


class ChosenTrials(GivenTrials):
    """Hands out the trainings from scratch that were cut off, then chooses others, each when it may begin.

    It is best asked for no trial ahead of its worker. A choice is on record before it is handed out: the
    next one counts with it, and so does a resumed sweep.
    """

    def __init__(self, config: SweepConfig, results: ResultsTable) -> None:
        left = unfinished(from_scratch(config, results), results)
        super().__init__(left, list(results.declared.objectives.values()))
        self._config, self._results = config, results

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """As of `GivenTrials`."""
        if not self._left and (chosen := choose_from_scratch(self._config, self._results)):
            self._results.record({**empty_row(chosen, self._results.declared), "status": "running"})
            self._left.append(chosen)
        return super().suggest(trial_id)
