"""Early stopping on several metrics for Ray Tune: asynchronous successive halving by Pareto rank.

Usable with any Ray Tune experiment; docs/halving.md has an example. The rule itself, free of Ray, is in
`search/halving.py`; as there, rungs count from 1, and 0 stands for none.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.utils import flatten_dict

from pareto_amb.search.early_stopping import FrontierRungs
from pareto_amb.search.halving import ParetoRungs
from pareto_amb.search.rungs import Rungs
from pareto_amb.storage import write_text

Config = Mapping[str, Any]
Result = Mapping[str, Any]


class ParetoHalving(TrialScheduler):
    """Pauses the trials that are not among the best at a rung, and resumes them when they have become so.

    A trial's rank is that of several metrics: how many fronts are better, then how far it is from its
    neighbours in its own front. At each rung the best 1/reduction_factor of the trials measured there so
    far go on; the others keep their checkpoint, free their resources and wait. The last rung ends a trial.
    Once the search has nothing more to propose and no paused trial may resume, the paused ones are ended,
    and the search algorithm is told so without a result: what they reached is not a full training's. At
    least one trial gets to the last rung.

    - Trials must save checkpoints, or they start from the beginning when they resume, and should report at
      every rung. A report past a rung counts as that rung's.
    - `max_concurrent_trials` counts paused trials as running. When it leaves nothing to run, the paused
      trial of the worst rank is ended; better to leave it unset and let resources be the limit.
    - An experiment that was interrupted goes on with `Tuner.restore`: what the trials had reported is read
      from the result.json that Ray keeps of each.
    """

    _supports_buffered_results = False

    def __init__(
        self,
        metrics: Sequence[str],
        mode: Sequence[str],
        *,
        rungs: Sequence[float],
        time_attr: str = "training_iteration",
        reduction_factor: float = 2.0,
        extrapolate_by: Sequence[str] | None = None,
        n_probe_rungs: int = 0,
        ideal: Sequence[float] | None = None,
        group_by: Callable[[Config], object] | None = None,
        protect: Callable[[Config], bool] | None = None,
        count_in: Callable[[Config], Iterable[object]] | None = None,
        name_of: Callable[[Config], str] | None = None,
    ) -> None:
        """Set up the halving; ValueError for settings that do not fit together.

        `metrics`, two or more, each with its `mode`, min or max; nested ones are named a/b. `rungs` are
        values of the result's `time_attr`, rising; the last one is a full training. Trials compete
        with those of the same `group_by(config)` (compared by its repr). Where `protect(config)`, a trial is
        never paused and does not compete; what it shows counts for the others in the groups of
        `count_in(config)`. With `extrapolate_by`, more metrics of the results or none, every
        rung is a point where a trial may stop, and in the place of the best 1/reduction_factor those go on
        that a later rung may bring onto the frontier, by what the others let expect from the metrics and
        these; see `FrontierRungs`. One may be a list of numbers. At the first `n_probe_rungs` the metrics
        themselves are NaN, and these alone tell what will come. Nothing better than `ideal` is expected of a
        metric; by default that is 0 where it is minimised.
        `name_of(config)` is what `recall` and `restore` know a trial by in another experiment; without it
        they know it by Ray's trial id.
        """
        super().__init__()
        _check(metrics, mode, rungs)
        self._metrics = {name: 1 if sense == "min" else -1 for name, sense in zip(metrics, mode, strict=True)}
        self._floor = _floor([*self._metrics.values()], ideal)
        self._extrapolate, self._predictors = extrapolate_by is not None, tuple(extrapolate_by or ())
        self._n_probe_rungs = n_probe_rungs
        self._time_attr, self._rungs = time_attr, tuple(rungs)
        self._reduction_factor = reduction_factor
        self._group_by, self._protect, self._name_of = group_by, protect, name_of
        self._count_in = count_in
        self._groups: dict[str, Rungs] = {}
        self._standings: dict[str, _Standing] = {}
        self._pending: dict[str, Trial] = {}
        self._paused: dict[str, Trial] = {}
        self._resuming: dict[str, Trial] = {}
        self._group("")  # settings that are refused are refused now

    def __getstate__(self) -> dict[str, Any]:
        """Ray adds its trials anew wherever it restores an experiment."""
        return {**self.__dict__, "_pending": {}, "_paused": {}, "_resuming": {}}

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Take up a trial: a new one, one to be tried again, or one of an interrupted experiment."""
        name = self._name(trial)
        if self._is_protected(trial.config):
            self._hear_guest(name, trial.config, self._history(trial)[0])
        else:
            standing = self._standings.get(name)
            if standing is None:
                self._recall(name, trial.config, *self._history(trial))
            elif standing.failed:
                standing.failed = standing.paused = False
                self._count(name, standing)
            standing = self._standings[name]
            if standing.paused and trial.status == Trial.PENDING:
                trial.init_local_path()  # Ray's results want one, though it may never be started
                trial.set_status(Trial.PAUSED)
                self._paused[name] = trial
        if trial.status == Trial.PENDING:
            self._pending[name] = trial

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Pause, stop or continue a trial. ValueError when the result lacks `time_attr` or a metric."""
        name, rung = self._name(trial), self._rung_at(result)
        if self._is_protected(trial.config):
            self._hear_guest(name, trial.config, [result])
        elif rung > self._standings[name].reached and not self._goes_on(name, rung, self._values(result)):
            self._paused[name] = trial
            return str(TrialScheduler.PAUSE)
        return str(TrialScheduler.STOP if rung == len(self._rungs) else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Count the last result of a trial that ended by itself."""
        name = self._name(trial)
        known = {self._time_attr, *self._metrics, *self._predictors} <= result.keys()
        if known and self._is_protected(trial.config):
            self._hear_guest(name, trial.config, [result])
        elif known:
            standing, rung = self._standings[name], self._rung_at(result)
            if rung > standing.reached:
                standing.values[rung] = self._values(result)
                self._count(name, standing)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Forget a trial that failed; `on_trial_add` follows when it is tried again."""
        name = self._drop(trial)
        if self._is_protected(trial.config):
            for rungs in self._guest_of(trial.config):
                rungs.forget(name)
        else:
            standing = self._standings[name]
            standing.failed = True
            self._groups[standing.group].forget(name)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """A trial that waited was ended: it resumes no more, what it reached still counts."""
        name = self._drop(trial)
        if not self._is_protected(trial.config):
            self._groups[self._standings[name].group].go_on(name)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """A paused trial that has become good enough, else the next pending one."""
        trial = self._next_to_resume() or _next_pending(self._pending)
        if trial is not None or not self._paused:
            return trial
        if any(other.status == Trial.RUNNING for other in tune_controller.get_live_trials()):
            return None
        if tune_controller.search_alg.is_finished():
            self.close()
            trial = self._next_to_resume()
        if trial is None:
            self._end_paused(tune_controller)
        return trial

    def debug_string(self) -> str:
        paused = sum(standing.paused for standing in self._standings.values())
        return f"ParetoHalving: {len(self._standings)} trials, {paused} paused"

    def save(self, checkpoint_path: str) -> None:
        """Write what was measured and decided to a JSON file."""
        trials = {
            name: {"group": s.group, "values": s.values, "paused": s.paused}
            for name, s in self._standings.items()
            if not s.failed
        }
        write_text(Path(checkpoint_path), json.dumps({"settings": self._settings(), "trials": trials}))

    def restore(self, checkpoint_path: str) -> None:
        """Take up what `save` wrote. ValueError when that was with other metrics or rungs."""
        state = json.loads(Path(checkpoint_path).read_text(encoding="utf-8"))
        if state["settings"] != self._settings():
            raise ValueError(f"{checkpoint_path}: was saved with other metrics, modes or rungs")
        for name, saved in state["trials"].items():
            values = {int(rung): row for rung, row in saved.pop("values").items()}
            self._enter(name, _Standing(**saved, values=values))

    def recall(self, name: str, config: Config, results: Iterable[Result], paused: bool) -> None:
        """Count the results of a trial of an earlier experiment, by rising time.

        Where it is `paused`, and is added to this experiment under the same name, it waits to resume.
        """
        if self._is_protected(config):
            self._hear_guest(name, config, results)
        else:
            self._recall(name, config, list(results), paused)

    @property
    def n_paused(self) -> int:
        """The trials of this experiment that wait at a rung, those that were chosen to resume left out."""
        return len(self._paused)

    def is_paused(self, trial: Trial) -> bool:
        return self._name(trial) in self._paused

    def close(self) -> None:
        """No new trial will come: the best one measured at each rung goes on, however few they were."""
        for rungs in self._groups.values():
            rungs.close()

    def n_promotable(self) -> int:
        """How many paused trials, those of `recall` included, are good enough to resume."""
        return sum(len(rungs.candidates()) for rungs in self._groups.values())

    def _settings(self) -> dict[str, list[Any]]:
        return {
            "metrics": [*self._metrics, *self._predictors],
            "signs": [*self._metrics.values()],
            "rungs": [*self._rungs],
            "first_rung": [1],
        }

    def _goes_on(self, name: str, rung: int, values: list[float]) -> bool:
        """Count what a trial has reached; whether it goes on from there, which the last rung leaves open."""
        standing = self._standings[name]
        rungs = self._groups[standing.group]
        standing.values[rung] = values
        if rung == len(self._rungs):
            rungs.enter(name, rung, values)
            return True
        standing.paused = not rungs.report(name, rung, values)
        return not standing.paused

    def _name(self, trial: Trial) -> str:
        return self._name_of(trial.config) if self._name_of else str(trial.trial_id)

    def _is_protected(self, config: Config) -> bool:
        return self._protect is not None and self._protect(config)

    def _group(self, label: str) -> Rungs:
        if label not in self._groups:
            n = len(self._rungs)
            self._groups[label] = (
                FrontierRungs(
                    n,
                    n_objectives=len(self._metrics),
                    floor=self._floor,
                    n_probe_rungs=self._n_probe_rungs,
                )
                if self._extrapolate
                else ParetoRungs(n, self._reduction_factor)
            )
        return self._groups[label]

    def _guest_of(self, config: Config) -> list[Rungs]:
        """Where a protected trial counts for the others."""
        return [self._group(repr(label)) for label in (self._count_in(config) if self._count_in else ())]

    def _hear_guest(self, name: str, config: Config, results: Iterable[Result]) -> None:
        """Count what a protected trial has shown."""
        reached = [(self._rung_at(result), result) for result in results]
        for rungs in self._guest_of(config):
            for rung, result in reached:
                if rung:
                    rungs.enter(name, rung, self._values(result))

    def _history(self, trial: Trial) -> tuple[list[Result], bool]:
        """What a trial of an interrupted experiment has reported, and whether it waits at a rung.

        Ray keeps neither: what was decided on the newest result is decided again.
        """
        if trial.status == Trial.ERROR or not trial.has_reported_at_least_once:
            return [], False
        results = _logged_results(trial) or [flatten_dict(trial.last_result)]
        if self._time_attr not in results[-1]:  # Ray makes one up where it is asked before there is one
            return [], False
        rungs = [self._rung_at(result) for result in results]
        at_rung = rungs[-1] > max(rungs[:-1], default=0)
        return results, at_rung and trial.status == Trial.PENDING

    def _recall(self, name: str, config: Config, results: Sequence[Result], paused: bool) -> None:
        values: dict[int, list[float]] = {}
        for result in results:
            if (rung := self._rung_at(result)) > max(values, default=0):
                values[rung] = self._values(result)
        label = repr(self._group_by(config)) if self._group_by else ""
        reached = max(values, default=0)
        self._enter(name, _Standing(label, values, paused and 0 < reached < len(self._rungs)))

    def _enter(self, name: str, standing: "_Standing") -> None:
        self._standings[name] = standing
        self._group(standing.group)
        self._count(name, standing)

    def _count(self, name: str, standing: "_Standing") -> None:
        """Enter all that a trial has reached; it waits at the last of it where it is paused."""
        rungs = self._groups[standing.group]
        for rung, values in standing.values.items():
            rungs.enter(name, rung, values)
        if standing.paused:
            rungs.pause(name, standing.reached, standing.values[standing.reached])

    def _rung_at(self, result: Result) -> int:
        """The highest rung that a result is at or past, 0 before the first."""
        return bisect_right(self._rungs, self._number(result, self._time_attr))

    def _values(self, result: Result) -> list[float]:
        ranked = [sign * self._number(result, name) for name, sign in self._metrics.items()]
        return ranked + [number for name in self._predictors for number in self._numbers(result, name)]

    def _number(self, result: Result, key: str) -> float:
        (number,) = self._numbers(result, key)
        return number

    def _numbers(self, result: Result, key: str) -> list[float]:
        if key not in result:
            raise ValueError(
                f"ParetoHalving needs '{key}' in every result, one has only {', '.join(sorted(result))}"
            )
        value = result[key]
        return [float(number) for number in (value if isinstance(value, list) else [value])]

    def _next_to_resume(self) -> Trial | None:
        """The promoted trial that has not started yet, else the next to be promoted, highest rung first."""
        for name, trial in list(self._resuming.items()):
            if trial.status in {Trial.PAUSED, Trial.PENDING}:
                return trial
            del self._resuming[name]
        ready = [
            (rung, name)
            for rungs in self._groups.values()
            for rung, name in rungs.candidates()
            if name in self._paused and self._paused[name].status == Trial.PAUSED  # saved by now
        ]
        if not ready:
            return None
        _, name = max(ready, key=lambda candidate: candidate[0])
        standing, trial = self._standings[name], self._paused.pop(name)
        standing.paused = False
        self._groups[standing.group].go_on(name)
        self._resuming[name] = trial
        return trial

    def _end_paused(self, tune_controller: Any) -> None:
        """End the paused trials, or only the worst of them where the search waits for that."""
        if tune_controller.search_alg.is_finished():
            hopeless = list(self._paused)
        else:
            last = {rungs.last_choice() for rungs in self._groups.values()}
            hopeless = sorted(self._paused, key=lambda name: name not in last)[:1]
        for name in hopeless:
            tune_controller.stop_trial(self._paused.pop(name))

    def _drop(self, trial: Trial) -> str:
        name = self._name(trial)
        for waiting in (self._pending, self._paused, self._resuming):
            waiting.pop(name, None)
        return name


class InOrder(FIFOScheduler):
    """Runs trials to their end in the order in which they come, as Ray Tune does where it is told nothing.

    No worker that starts is thrown away for one that is free, as long as another trial can take that.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pending: dict[str, Trial] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Ray adds its trials anew wherever it restores an experiment."""
        return {**self.__dict__, "_pending": {}}

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Take up a trial: a new one, or one to be tried again."""
        self._pending[trial.trial_id] = trial

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The next trial that waits."""
        return _next_pending(self._pending)


@dataclass
class _Standing:
    """What is known of a trial: its minimised values by rung, and what was decided."""

    group: str
    values: dict[int, list[float]] = field(default_factory=dict)
    paused: bool = False
    failed: bool = False

    @property
    def reached(self) -> int:
        return max(self.values, default=0)


def _next_pending(trials: dict[str, Trial]) -> Trial | None:
    """The first that has no directory, so that no worker starts for it yet, else the first that waits.

    What Ray chooses it gives a worker that is free, if there is one, and ends the one that starts for it.
    Trials that no longer wait are removed.
    """
    for name in [name for name, trial in trials.items() if trial.status != Trial.PENDING]:
        del trials[name]
    unseen = (trial for trial in trials.values() if trial.relative_logdir is None)
    return next(unseen, next(iter(trials.values()), None))


def _check(metrics: Sequence[str], mode: Sequence[str], rungs: Sequence[float]) -> None:
    if len(metrics) < 2 or len(metrics) != len(mode) or not set(mode) <= {"min", "max"}:
        raise ValueError(f"two metrics or more, each with a mode min or max; got {metrics} and {mode}")
    if not rungs or list(rungs) != sorted(set(rungs)):
        raise ValueError(f"rungs must rise strictly, got {rungs}")


def _floor(signs: Sequence[int], ideal: Sequence[float] | None) -> list[float]:
    """The minimised values that nothing better than is expected of each metric."""
    if ideal is None:
        return [0.0 if sign > 0 else -math.inf for sign in signs]
    if len(ideal) != len(signs):
        raise ValueError(f"an ideal for each metric is needed, got {ideal}")
    return [sign * value for sign, value in zip(signs, ideal, strict=True)]


def _logged_results(trial: Trial) -> list[Result]:
    """The results in the result.json that Ray's logger keeps of a trial, none without one."""
    storage = trial.storage
    path = Path(storage.trial_fs_path, "result.json").as_posix()
    try:
        with storage.storage_filesystem.open_input_stream(path) as file:
            lines = file.readall().decode("utf-8").split("\n")
    except FileNotFoundError:
        return []
    return [flatten_dict(json.loads(line)) for line in lines[:-1]]  # the last one may be half written
