"""A sweep under way: what was measured, what is searched, and what is left to do."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pareto_amb.config import SweepConfig
from pareto_amb.declared import BASELINE, Declared
from pareto_amb.diffusion.methods import Method
from pareto_amb.errors import UserError
from pareto_amb.results.probes import PROBES, log_errors
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.results.table import ResultsTable, empty_row
from pareto_amb.running.confirm import followers, from_scratch, to_choose, unfinished
from pareto_amb.running.retry import retry_failed
from pareto_amb.running.scheduler import ParetoHalving
from pareto_amb.running.searcher import ParetoSearcher
from pareto_amb.running.study import open_storage, study_errors
from pareto_amb.trial import Trial

_GO_ON = {"running", "interrupted"}


@dataclass(frozen=True)
class SweepState:
    """A sweep as its files have it: first its trials are searched, then others follow from what was found.

    `methods` has the code of those that are compared. `halving` is None where every trial runs to the end.
    """

    run: RunDirectory
    config: SweepConfig
    methods: Mapping[str, type[Method]]
    results: ResultsTable
    searcher: ParetoSearcher
    halving: ParetoHalving | None

    @classmethod
    def open(
        cls,
        run: RunDirectory,
        config: SweepConfig,
        declared: Declared,
        methods: Mapping[str, type[Method]],
        collapse_levels: Mapping[int, float] | None = None,
        retry: bool = False,
    ) -> "SweepState":
        """A sweep as far as it has come, at its beginning where the run directory has no table yet.

        Its first trials lie around what the `collapse_levels` of the train sizes let expect; else evenly.
        With `retry`, trials that failed are taken up again.
        """
        results = ResultsTable(run.results, declared)
        _check_rungs(config, results)
        if retry:
            retry_failed(results, run.study)
        searcher = ParetoSearcher(
            config, run.study, results, methods, collapse_levels or {}, stopped=run.stopped.exists()
        )
        halving = _make_halving(config, results, closed=not searcher.n_remaining)
        return cls(run, config, methods, results, searcher, halving)

    @classmethod
    def foresee(
        cls,
        run: RunDirectory,
        config: SweepConfig,
        declared: Declared,
        methods: Mapping[str, type[Method]],
        collapse_levels: Mapping[int, float] | None = None,
        retry: bool = False,
    ) -> tuple[int, int]:
        """How many trials `open` would find unfinished, and how many of them have a checkpoint.

        The files of the run stay as they are.
        """
        with study_errors(run.study):
            if run.study.exists():
                open_storage(run.study).engine.dispose()
        with tempfile.TemporaryDirectory() as folder:
            copy = RunDirectory(Path(folder))
            journal = run.study.with_name(f"{run.study.name}-journal")
            for path in (run.recent, run.results, run.study, journal, run.stopped):
                if path.exists():
                    shutil.copyfile(path, copy.path / path.name)
            state = cls.open(copy, config, declared, methods, collapse_levels, retry)
            return state.n_unfinished(), state.n_begun()

    @property
    def declared(self) -> Declared:
        """What the sweep compares."""
        return self.results.declared

    @property
    def n_planned(self) -> int:
        """All trials, as far as one knows before the search is over."""
        return self.searcher.n_total + self.n_following

    @property
    def n_following(self) -> int:
        """The trials that follow the search, over all train sizes, at most."""
        each = self.config.n_confirmations(self.declared) + self.config.n_controls(self.declared)
        return each * len(self.config.space.train_size)

    def n_searching(self) -> int:
        """The trials of the search that have not ended, or are good enough to resume."""
        promotable = self.halving.n_promotable() if self.halving else 0
        return self.searcher.n_total - self.searcher.count_ended(self.results) + promotable

    def n_unfinished(self) -> int:
        """All trials that have not ended; which ones follow the search is known once it is over."""
        if searching := self.n_searching():
            return searching + self.n_following
        if left := self.n_from_scratch():
            sizes = len(self.config.space.train_size)
            return left + self.n_following - self.config.n_from_scratch(self.declared) * sizes
        return len(unfinished(self.followers(), self.results))

    def n_from_scratch(self) -> int:
        """Once the search is over: the trainings from scratch of branched trials that have not ended."""
        begun = unfinished(from_scratch(self.config, self.results), self.results)
        return len(begun) + sum(to_choose(self.config, self.results).values())

    def n_begun(self) -> int:
        """The unfinished trials that were measured before: each has its checkpoint."""
        going = [name for name in self.results.trial_ids() if self.results.status(name) in _GO_ON]
        rows = [row for name in going if (row := self.results.last_row(name))]
        measured = sum(1 for row in rows if row["rung"] > 0)
        return measured + (self.halving.n_promotable() if self.halving else 0)

    def end(self, trial: Trial, error: str, interrupted: bool) -> None:
        """Record that a trial has ended without a result, for good unless it was only `interrupted`."""
        row = self.results.last_row(trial.id) or empty_row(trial, self.declared)
        status = "interrupted" if interrupted else "failed"
        self.results.record({**row, "status": status, "error": error})
        self.show(trial.id)
        if not interrupted and not trial.follows:
            self.searcher.failed(trial)

    def show(self, trial_id: str) -> None:
        """Let study.db show what the table has of a trial."""
        self.searcher.show(trial_id)

    def followers(self) -> list[Trial]:
        """The trials that follow the search, once it is over, ended ones among them."""
        return followers(self.config, self.results)


def _check_rungs(config: SweepConfig, results: ResultsTable) -> None:
    """Raise UserError where a row was measured elsewhere than where the configuration has its rung."""
    rungs = config.rung_images()
    for trial_id in results.trial_ids():
        for row in results.rows(trial_id):
            rung, images = row["rung"], row["images_seen"]
            if rung and (rung > len(rungs) or rungs[rung - 1] != images):
                here = f"at {rungs[rung - 1]:,}" if rung <= len(rungs) else "nowhere"
                raise UserError(
                    f"evaluation.rungs: trial {trial_id} was measured at {images:,} images seen, rung "
                    f"{rung}, which is {here} now; restore evaluation.rungs, evaluation.probes and training "
                    "in the run's sweep.yaml"
                )


def _make_halving(config: SweepConfig, results: ResultsTable, closed: bool) -> ParetoHalving | None:
    """The scheduler, told what the table holds; None where every trial runs to the end.

    `closed`: all trials of the sweep were begun and none was cut off.
    """
    search, objectives = config.search, results.declared.objectives
    if not search.early_stopping:
        return None
    halving = ParetoHalving(
        list(objectives),
        [objective.direction for objective in objectives.values()],
        time_attr="images_seen",
        rungs=config.rung_images(),
        extrapolate_by=[*results.declared.predictors, PROBES],
        n_probe_rungs=len(config.probe_images()),
        ideal=[objective.ideal for objective in objectives.values()],
        group_by=lambda trial: (trial["train_size"], trial["method"]),
        count_in=lambda trial: (
            [(trial["train_size"], method) for method in search.methods]
            if trial["method"] == BASELINE and not trial["controls"]
            else []
        ),
        protect=lambda trial: trial["method"] == BASELINE or bool(trial["confirms"] or trial["controls"]),
        name_of=lambda trial: str(trial["id"]),
    )
    for trial_id in results.trial_ids():
        rows, status = results.rows(trial_id), results.status(trial_id)
        rows = [{**row, PROBES: log_errors(row)} for row in rows]
        if status != "failed":
            halving.recall(trial_id, rows[0], rows, paused=status == "paused")
    if closed:
        halving.close()
    return halving
