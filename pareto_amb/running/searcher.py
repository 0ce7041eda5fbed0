"""A Ray Tune searcher over Optuna: one multi-objective study per train size and method, all
in one study.db.

The results table decides what has happened; the studies follow it. A searcher that is built again on the
files of a killed run therefore hands out exactly the trials that have not finished.
"""

import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.search import Searcher

from pareto_amb.config import SweepConfig
from pareto_amb.declared import BASELINE
from pareto_amb.diffusion.methods import Algorithm1, Method
from pareto_amb.diffusion.theory import START_SHARE
from pareto_amb.diffusion.trainer import noise_distribution
from pareto_amb.randomness import derive_seed
from pareto_amb.results.branching import baseline_id, branching_rung, first_baseline
from pareto_amb.results.probes import PROBES, log_errors
from pareto_amb.results.size import reference_box
from pareto_amb.results.table import ResultsTable
from pareto_amb.running.study import open_storage, study_errors
from pareto_amb.running.study_notes import open_named, show_beside, show_searched
from pareto_amb.search.proposals import (
    Box,
    ParetoSampler,
    carry_over,
    distributions,
    grid_point,
    make_sampler,
    startup_point,
)
from pareto_amb.trial import Trial

Context = tuple[int, str]
"""A train size and a method: each has a search of its own."""


class ParetoSearcher(Searcher):
    """Hands out the DDPM baselines of every train size first, then the trials of every method in turn.

    A trial's configuration is `Trial.config`, with the words among its parameters resolved to numbers.
    A train size waits for the first results of the next smaller one, and starts at its best parameters.
    The paused trials of an earlier process are handed out first: the scheduler lets them wait on. Trials that
    are branched wait until the first baseline of their size, which comes before the others, tells from where.
    """

    def __init__(
        self,
        config: SweepConfig,
        study_path: Path,
        results: ResultsTable,
        methods: Mapping[str, type[Method]],
        collapse_levels: Mapping[int, float] | None = None,
        *,
        stopped: bool = False,
    ) -> None:
        """`methods` has the code of those that the sweep compares; the objectives are those of the table.

        The first noise levels are tried around START_SHARE of the collapse level of a train size, where that
        is known.
        With `stopped` no trial is begun that was not begun before.
        """
        self._objectives = list(results.declared.objectives.values())
        names = [objective.name for objective in self._objectives]
        super().__init__(metric=names, mode=[objective.direction for objective in self._objectives])
        self._reported = results.declared.reported
        self._signs = {objective.name: objective.sign for objective in self._objectives}
        self._config, self._methods, self._stopped = config, methods, stopped
        self._collapse_levels = collapse_levels or {}
        self._results = results
        self._noise = noise_distribution(config.training)
        self._n_trials, self._is_grid = config.n_trials(results.declared), config.search.sampler == "grid"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        contexts = [(size, method) for size in config.space.train_size for method in config.search.methods]
        self._distributions = {
            (size, method): distributions(results.declared.method(method), config.space, size)
            for size, method in contexts
        }
        with study_errors(study_path):
            self._storage = open_storage(study_path)
            self._studies = {context: self._open_study(context, results) for context in contexts}
        self._numbers: dict[str, int] = {}
        """The number in its study of each trial that is no baseline."""
        self._baselines: dict[int, list[list[float]]] = {size: [] for size in config.space.train_size}
        self._searches = {context: self._open_search(context, results) for context in contexts}
        self._running: dict[str, Trial] = {}
        for trial_id in results.trial_ids():
            self.show(trial_id)
        self._queue = deque(self._unfinished(results))
        self.n_total = self._count_planned()
        self.n_remaining = self.n_total - self.count_ended(results)

    def _open_study(self, context: Context, results: ResultsTable) -> optuna.Study:
        """The study of a context, with the trials that the results table has and it has not.

        ValueError where it is not the one that these results are from.
        """
        study = open_named(self._storage, _study_name(context), self._objectives)
        known, measured = study.get_trials(), _measured(context, results)
        for asked in known:
            if asked.params.keys() != self._distributions[context].keys():
                raise ValueError("its trials have other parameters")
            row = measured.get(asked.number)
            if row and not _same(self._methods[context[1]].resolve(asked.params, self._noise), row):
                raise ValueError(f"its trial {asked.number} is not that of the results table")
        for number in range(len(known), max(measured, default=-1) + 1):
            study.add_trial(self._again(context, number, measured.get(number)))
        return study

    def _again(self, context: Context, number: int, row: Mapping[str, float] | None) -> FrozenTrial:
        """Trial `number` as the study had it, from its parameters in the table.

        One that has no row is what the grid or the startup points have in its place, so that its checkpoint
        fits, or, after those, one that has failed.
        """
        searched, lost = self._distributions[context], False
        if row is not None:
            params = {name: self._choice(context, name, row) for name in searched}
        elif self._is_grid:
            params = grid_point(searched, number)
        else:
            seed = derive_seed(self._config.seed, f"startup/{_label(context)}")
            params = startup_point(searched, number, seed, self._centres(context))
            lost = number >= self._config.search.startup_trials
        state = TrialState.FAIL if lost else TrialState.RUNNING
        return create_trial(params=params, distributions=searched, state=state)

    def _choice(self, context: Context, name: str, row: Mapping[str, float]) -> Any:
        """What was chosen for a parameter, words among the choices, where the table has a number."""
        searched = self._distributions[context]
        distribution = searched[name]
        if not isinstance(distribution, CategoricalDistribution):
            return row[name]
        for choice in distribution.choices:
            chosen = {**{n: row[n] for n in searched}, name: choice}
            if _same({name: self._methods[context[1]].resolve(chosen, self._noise)[name]}, row):
                return choice
        raise ValueError(f"{name} {row[name]:g} of the results table is none of the choices")

    def _open_search(self, context: Context, results: ResultsTable) -> ParetoSampler:
        """The search of a context, as far as its study and the results table have it."""
        search, seed, label = self._config.search, self._config.seed, _label(context)
        searched, known = self._distributions[context], self._studies[context].get_trials()
        log = [p.name for p in results.declared.method(context[1]).parameters if p.log]
        found = ParetoSampler(
            searched,
            make_sampler(search, derive_seed(seed, f"search/{label}/{len(known)}"), log),
            n_objectives=len(self._objectives),
            n_startup=search.startup_trials,
            n_rungs=len(self._config.rung_images()),
            n_probe_rungs=len(self._config.probe_images()),
            floor=[objective.sign * objective.ideal for objective in self._objectives],
            seed=derive_seed(seed, f"startup/{label}"),
            centres=self._centres(context),
        )
        for asked in known:
            found.begin(asked.number, asked.params)
            self._recall(found, asked.number, self._trial(context, asked.number, asked.params).id, results)
            if asked.state == TrialState.FAIL:
                found.forget(asked.number)
        for k in range(search.baseline_seeds):
            baseline = baseline_id(context[0], k)
            self._recall(found, baseline, baseline, results)
        return found

    def _recall(self, search: ParetoSampler, key: int | str, trial_id: str, results: ResultsTable) -> None:
        """Let a search know what the table has of a trial that has not failed."""
        for row in results.rows(trial_id) if results.status(trial_id) != "failed" else ():
            if row["rung"]:
                search.report(key, row["rung"], self._shown({**row, PROBES: log_errors(row)}))

    def _centres(self, context: Context) -> dict[str, float]:
        """Where the startup points of a search lie, of the parameters that are noise levels."""
        size, method = context
        level = self._collapse_levels.get(size, math.inf)
        parameters = self._methods[method].info().parameters
        return {p.name: START_SHARE * level for p in parameters if p.kind == "level" and math.isfinite(level)}

    def _shown(self, row: Mapping[str, Any]) -> list[float]:
        """What a search is told of a row: the objectives, minimised, their predictors and the probes."""
        return [*(self._signs.get(name, 1.0) * row[name] for name in self._reported), *row[PROBES]]

    def _count_planned(self) -> int:
        sizes = len(self._config.space.train_size)
        begun = sum(found.n_begun for found in self._searches.values())
        trials = begun if self._stopped else sum(self._n_trials.values()) * sizes
        return self._config.search.baseline_seeds * sizes + trials

    def stop(self) -> None:
        """Begin no more trials; those that were begun go on, and are all that `n_total` counts."""
        self._stopped = True
        self.n_total = self._count_planned()

    def count_ended(self, results: ResultsTable) -> int:
        """The trials that need no more work as far as one knows; where nothing is stopped, paused ones do."""
        paused = {"paused"} if self._config.search.early_stopping else set()
        rows = [results.last_row(trial_id) for trial_id in results.trial_ids()]
        search = [row["status"] for row in rows if row and not (row["confirms"] or row["controls"])]
        return sum(status in {"complete", "failed"} | paused for status in search)

    def _unfinished(self, results: ResultsTable) -> list[Trial]:
        """The trials of earlier processes that have not ended, paused ones first; baselines included."""
        sizes, seeds = self._config.space.train_size, range(self._config.search.baseline_seeds)
        baselines = [self._baseline(size, k) for size in sizes for k in seeds]
        if self._config.branching_rungs():
            baselines.sort(key=lambda trial: trial.id != first_baseline(trial.train_size))
        asked = [
            self._trial(context, begun.number, begun.params)
            for context, study in self._studies.items()
            for begun in study.get_trials(states=[TrialState.RUNNING, TrialState.WAITING])
        ]
        unfinished = []
        for trial in baselines + asked:
            row = results.last_row(trial.id)
            if row is not None and row["status"] in {"complete", "failed"}:
                self._tell(trial, row)
            else:
                unfinished.append(replace(trial, measured=row["rung"]) if row else trial)
        return sorted(unfinished, key=lambda trial: results.status(trial.id) != "paused")

    def _baseline(self, train_size: int, k: int) -> Trial:
        return Trial(baseline_id(train_size, k), BASELINE, train_size, self._config.seed + k)

    def _trial(self, context: Context, number: int, chosen: Mapping[str, Any]) -> Trial:
        """Trial `number` of a search, for which the study has `chosen`."""
        size, method = context
        trial_id = f"n{size}-{method}-{number:04d}"
        self._numbers[trial_id] = number
        parameters = self._methods[method].resolve(chosen, self._noise)
        return Trial(trial_id, method, size, self._config.seed + number, parameters)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's configuration, Searcher.FINISHED, or None while there is none but may be.

        `trial_id` is Ray's own.
        """
        trial = self._next_queued() or self._ask()
        if trial is None:
            return None if self._waits() else str(Searcher.FINISHED)
        self._running[trial_id] = trial
        return trial.config()

    def _next_queued(self) -> Trial | None:
        for trial in self._queue:
            if (images := self._begins_at(trial)) is not None:
                self._queue.remove(trial)
                return replace(trial, branched_at=images)
        return None

    def _begins_at(self, trial: Trial) -> int | None:
        """The images after which a trial goes on from a baseline, 0 from scratch; None if not known yet."""
        if trial.method == BASELINE:
            return 0
        row = self._results.last_row(trial.id)
        return int(row["branched_at"]) if row else self._branched_at(trial.train_size)

    def _branched_at(self, train_size: int) -> int | None:
        """The same of the trials of a size that begin now."""
        if not self._config.branching_rungs():
            return 0
        rows = self._results.rows(name := first_baseline(train_size))
        ended = self._results.status(name) in {"complete", "failed"}
        rung = branching_rung(self._config, rows, ended)
        return self._config.rung_images()[rung - 1] if rung else rung

    def _waits(self) -> bool:
        """Whether trials are left that wait for a baseline, and it is under way."""
        waiting = {trial.train_size for trial in self._queue} | {size for size, _ in self._wanting()}
        under_way = {trial.id for trial in self._running.values()}
        return any(first_baseline(size) in under_way for size in waiting)

    def _wanting(self) -> list[Context]:
        """The searches that have not begun all their trials; none where no more are begun."""
        wanting = [c for c, search in self._searches.items() if search.n_begun < self._n_trials[c[1]]]
        return [] if self._stopped else wanting

    def _ask(self) -> Trial | None:
        """A new trial for the search that has begun the fewest, None when there is none to begin now."""
        wanting = [context for context in self._wanting() if self._branched_at(context[0]) is not None]
        if not wanting:
            return None
        ready = [context for context in wanting if self._is_ready(context)]
        context = min(ready or wanting, key=lambda c: self._searches[c].n_begun)
        search = self._searches[context]
        if search.n_begun == 0:
            self._start_from_smaller(context)
        params, number = search.propose(self._box(context[0])), search.n_begun
        asked = self._trial(context, number, params)
        begun = create_trial(
            params=params,
            distributions=self._distributions[context],
            user_attrs={"trial_id": asked.id},
            state=TrialState.RUNNING,
        )
        self._studies[context].add_trial(begun)
        search.begin(number, params)
        return replace(asked, branched_at=self._branched_at(context[0]) or 0)

    def _smaller(self, context: Context) -> Context | None:
        """The search of the next smaller train size, None for the smallest and where a grid is searched."""
        if self._is_grid:
            return None
        size, method = context
        smaller = [other for other in self._config.space.train_size if other < size]
        return (max(smaller), method) if smaller else None

    def _is_ready(self, context: Context) -> bool:
        """Whether it is known where to start: a size waits for the next smaller one's first results."""
        smaller = self._smaller(context)
        return (
            smaller is None
            or self._searches[context].n_begun > 0
            or self._searches[smaller].best() is not None
        )

    def _start_from_smaller(self, context: Context) -> None:
        """Let a search begin where the next smaller train size has its best trial so far, if it has one."""
        smaller = self._smaller(context)
        if smaller and (best := self._searches[smaller].best(self._box(smaller[0]))):
            ranges = self._distributions[smaller], self._distributions[context]
            self._searches[context].start_from(carry_over(best, *ranges))

    def _box(self, train_size: int) -> Box | None:
        """A perfect model and the reference point that follows from DDPM, both minimised.

        None before a baseline has finished, or where DDPM is perfect in an objective, as in copying nothing.
        """
        finished = self._baselines[train_size]
        if not finished:
            return None
        ideal, reference = reference_box(np.mean(finished, axis=0), self._objectives)
        return (ideal, reference) if (reference > ideal).all() else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Let the search know what a trial has shown at a rung."""
        self._hear(self._running[trial_id], result)

    def _hear(self, trial: Trial, result: Mapping[str, Any]) -> None:
        for search, key in self._searches_of(trial):
            search.report(key, result["rung"], self._shown(result))

    def _searches_of(self, trial: Trial) -> list[tuple[ParetoSampler, int | str]]:
        """The searches that a trial tells of, and what they know it by: all of its size for a baseline."""
        if trial.method != BASELINE:
            return [(self._searches[trial.train_size, trial.method], self._numbers[trial.id])]
        size = trial.train_size
        return [(self._searches[size, method], trial.id) for method in self._config.search.methods]

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna a finished trial; one stopped before its full budget stays open.

        So does one that ended with an error: whether it has failed is for `failed` to say.
        """
        trial = self._running.pop(trial_id)
        if not error and result is not None and result.get("status") == "complete":
            self._hear(trial, result)  # Ray hands the last result over here only
            self._tell(trial, result)

    def show(self, trial_id: str) -> None:
        """Let study.db show what the table has of a trial: its rungs, its pictures, whether it waits."""
        rows, number = self._results.rows(trial_id), self._numbers.get(trial_id)
        if not rows:
            return
        context = (int(rows[0]["train_size"]), str(rows[0]["method"]))
        if number is None:
            show_beside(self._storage, context[0], rows, self._results.declared)
        else:
            show_searched(self._storage, _study_name(context), number, rows, self._results.declared)

    def failed(self, trial: Trial) -> None:
        """A trial of the search has failed: it is not tried again, and counts for nothing."""
        self._tell(trial, {"status": "failed"})

    def _tell(self, trial: Trial, row: Mapping[str, Any]) -> None:
        complete = row["status"] == "complete"
        values = [float(row[name]) for name in self._signs] if complete else None
        if not complete:
            for search, key in self._searches_of(trial):
                search.forget(key)
        if trial.method == BASELINE:
            if values is not None:
                self._baselines[trial.train_size].append(values)
            return
        self.show(trial.id)  # Optuna takes nothing more once it is told, and nothing of one that waits
        context, number = (trial.train_size, trial.method), self._numbers[trial.id]
        self._studies[context].tell(number, values, state=None if complete else TrialState.FAIL)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: study.db and the results table hold the whole state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see `save`."""


def _same(resolved: Mapping[str, float], row: Mapping[str, float]) -> bool:
    """Whether parameters are those of a row, up to the rounding of another machine."""
    return all(math.isclose(value, row[name], rel_tol=1e-9) for name, value in resolved.items())


def _measured(context: Context, results: ResultsTable) -> dict[int, dict[str, float]]:
    """The parameters of the trials of a search that have a row, by their number in the study."""
    size, method = context
    names = results.declared.method(method).parameter_names
    found = {}
    for trial_id in results.trial_ids():
        number = re.fullmatch(rf"n{size}-{method}-(\d{{4,7}})", trial_id)
        if number:
            row = results.rows(trial_id)[0]
            found[int(number.group(1))] = {name: float(row[name]) for name in names}
    return found


def _study_name(context: Context) -> str:
    return f"train_size={_label(context)}"


def _label(context: Context) -> str:
    """What a search is called in seeds and names of studies."""
    size, method = context
    return f"{size}" if method == Algorithm1.name else f"{size},method={method}"
