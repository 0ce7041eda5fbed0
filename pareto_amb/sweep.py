"""Puts a sweep together and runs it on Ray."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from filelock import FileLock, Timeout
from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import Searcher
from rich.console import Console

from dashboards.report import write_report
from pareto_amb.cluster import gpus_per_trial, ray_cluster
from pareto_amb.config import SweepConfig, to_yaml
from pareto_amb.environment import describe_environment
from pareto_amb.errors import UserError
from pareto_amb.evaluation.evaluate import Reference, build_references
from pareto_amb.export import RecommendationFile, build_recommendation, write_recommendation
from pareto_amb.materials import Materials
from pareto_amb.progress import SweepProgress
from pareto_amb.results import ResultsTable
from pareto_amb.run_directory import RunDirectory
from pareto_amb.search.confirm import GivenTrials, confirmations
from pareto_amb.search.cost import expected_trainings
from pareto_amb.search.frontier import BASELINE, OBJECTIVES
from pareto_amb.search.patience import describe_stall, has_stalled
from pareto_amb.search.schedulers import ParetoHalving
from pareto_amb.search.searcher import ParetoSearcher
from pareto_amb.storage import Storage, write_text
from pareto_amb.tracking import Tracker
from trainables import METHODS, SweepAssets, TrialTrainable


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep leaves behind."""

    run: RunDirectory
    recommendation: RecommendationFile | None
    why_none: str
    unfinished: int
    failed: int
    seconds: float
    tracking_problem: str
    stopped: str


def start_run(config: SweepConfig, path: Path) -> RunDirectory:
    """Make a run directory and write sweep.yaml into it.

    Raises UserError when the directory exists and holds something, or cannot be written.
    """
    run = RunDirectory(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise UserError(f"{path}: is not empty; name another --output, or use --resume {path}")
        write_text(run.sweep, to_yaml(config))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    return run


@contextmanager
def locked(run: RunDirectory) -> Iterator[None]:
    """Hold the run directory; UserError when another process does. The lock dies with its process."""
    lock = FileLock(run.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{run.path}: another sweep is running in it") from error
    except OSError as error:
        raise UserError(f"{run.path}: cannot be written ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()


def run_sweep(
    run: RunDirectory,
    config: SweepConfig,
    materials: Materials,
    tracker: Tracker,
    console: Console,
    *,
    address: str | None = None,
    time_budget: float | None = None,
) -> SweepOutcome:
    """Run the trials of a sweep that have not finished, then write recommendation and report.

    `address` names an existing Ray cluster; without one Ray runs on this machine. After `time_budget`
    seconds running trials stop, to be continued from their last checkpoint by a later call.
    """
    started = time.monotonic()
    _write_environment(run, materials, tracker)
    results = ResultsTable(run.results)
    searcher = ParetoSearcher(config, run.study, results, stopped=run.stopped.exists())
    halving = _make_halving(config, results, closed=not searcher.n_remaining)
    state = _State(run, config, results, searcher, halving)
    if unfinished := state.n_unfinished():
        with ray_cluster(address):
            gpus = gpus_per_trial(config)
            with console.status("measuring the real images"):
                assets = _measure_assets(run, config, materials, gpus)
            total = searcher.n_total + _n_confirmations(config)
            progress = SweepProgress(
                console,
                results,
                total=total,
                finished=total - unfinished,
                n_rungs=len(config.evaluation.rungs),
                trainings=expected_trainings(config),
            )
            with progress:
                follower = _Follower(results, tracker, progress, Storage(assets.storage_uri), halving)
                _run_trials(state, assets, follower, gpus, time_budget)
    return _finish(state, tracker, time.monotonic() - started)


def _n_confirmations(config: SweepConfig) -> int:
    return config.search.n_confirmations() * len(config.space.train_size)


@dataclass(frozen=True)
class _State:
    """A sweep under way: first its trials are searched, then the best of them confirmed."""

    run: RunDirectory
    config: SweepConfig
    results: ResultsTable
    searcher: ParetoSearcher
    halving: ParetoHalving | None

    def n_searching(self) -> int:
        """The trials of the search that have not ended, or are good enough to resume."""
        promotable = self.halving.n_promotable() if self.halving else 0
        return self.searcher.n_total - self.searcher.count_ended(self.results) + promotable

    def n_unfinished(self) -> int:
        """All trials that have not ended; which ones are confirmed is known once the search is over."""
        if searching := self.n_searching():
            return searching + _n_confirmations(self.config)
        return len(confirmations(self.config, self.results))


def _run_trials(
    state: _State, assets: SweepAssets, follower: "_Follower", gpus: float, time_budget: float | None
) -> None:
    """Search, and when that is over before the time is up, confirm what was found."""
    started = time.monotonic()
    if state.n_searching():
        watch = _PatienceWatch(state, follower.progress)
        searcher, callbacks = state.searcher, [follower, watch]
        _tuner(assets, searcher, state.halving, searcher.n_total, callbacks, gpus, time_budget).fit()
    left = None if time_budget is None else time_budget - (time.monotonic() - started)
    if state.n_searching() or (left is not None and left <= 0):
        return
    if trials := confirmations(state.config, state.results):
        _tuner(assets, GivenTrials(trials), None, len(trials), [follower], gpus, left).fit()


def _make_halving(config: SweepConfig, results: ResultsTable, closed: bool) -> ParetoHalving | None:
    """The scheduler, told what the table holds; None where every trial runs to the end.

    `closed`: all trials of the sweep were begun and none was cut off.
    """
    search = config.search
    if search.reduction_factor is None:
        return None
    halving = ParetoHalving(
        OBJECTIVES,
        ["min", "min"],
        time_attr="images_seen",
        rungs=config.rung_images(),
        reduction_factor=search.reduction_factor,
        foresee_by=["similarity_mean"],  # it foretells copying before there are copies
        brackets=search.brackets,
        group_by=lambda trial: (trial["train_size"], trial["method"]),
        protect=lambda trial: trial["method"] == BASELINE or bool(trial.get("confirms")),
        name_of=lambda trial: str(trial["trial_id"]),
    )
    for trial_id in results.trial_ids():
        rows, status = results.rows(trial_id), results.status(trial_id)
        if status != "failed":
            halving.recall(trial_id, rows[0], rows, paused=status == "pruned")
    if closed:
        halving.close()
    return halving


def _write_environment(run: RunDirectory, materials: Materials, tracker: Tracker) -> None:
    """Write environment.json; UserError when a resumed run would mix data or encoders."""
    found = materials.fingerprints()
    before = run.read_environment()
    for part in ("data", "encoders"):
        if before and before.get(part) != found[part]:
            raise UserError(f"{run.path}: the {part} changed since this run began; start a new run instead")
    environment = {**describe_environment(), **found, "tracking_uri": tracker.uri}
    write_text(run.environment, json.dumps(environment, indent=2))


def _measure_assets(run: RunDirectory, config: SweepConfig, materials: Materials, gpus: float) -> SweepAssets:
    """Encode the real images, once a sweep, where a trial would run."""
    measure = ray.remote(num_cpus=config.resources.cpus_per_trial, num_gpus=gpus)(_references)
    try:
        references = ray.get(measure.remote(config, materials))
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from error
        raise
    return SweepAssets(
        config=config,
        training_sets=materials.training_sets(config.data.conditional),
        references=references,
        fid_encoder=materials.fid_encoder,
        similarity_encoder=materials.similarity_encoder,
        storage_uri=run.storage_uri(config),
    )


def _references(config: SweepConfig, materials: Materials) -> dict[int, Reference]:
    torch.set_num_threads(config.resources.cpus_per_trial)
    return build_references(
        materials.image_set.images,
        {size: (part.train, part.heldout) for size, part in materials.splits.items()},
        materials.fid_encoder,
        materials.similarity_encoder,
        config.evaluation,
        "cuda" if ray.get_gpu_ids() else "cpu",
    )


def _tuner(
    assets: SweepAssets,
    searcher: Searcher,
    scheduler: ParetoHalving | None,
    num_samples: int,
    callbacks: list[tune.Callback],
    gpus: float,
    time_budget: float | None,
) -> tune.Tuner:
    search, resources = assets.config.search, assets.config.resources
    trainable = tune.with_parameters(TrialTrainable, assets=assets, methods=METHODS)
    return tune.Tuner(
        tune.with_resources(trainable, {"cpu": resources.cpus_per_trial, "gpu": gpus}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=num_samples,
            time_budget_s=time_budget,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=assets.storage_uri,
            failure_config=tune.FailureConfig(max_failures=search.max_retries),
            callbacks=[*callbacks, _SilentRay()],
            verbose=0,
        ),
    )


def _trial_name(trial: Trial) -> str:
    return str(trial.config["trial_id"])


class _SilentRay(TrialProgressCallback):
    """In the place of the one that Ray adds, which prints of ended trials whatever the verbosity."""

    def _print(self, msg: str) -> None:
        """Say nothing: `SweepProgress` does."""


class _Follower(tune.Callback):
    """Carries each result from Ray to the results table, then to MLflow and the screen."""

    def __init__(
        self,
        results: ResultsTable,
        tracker: Tracker,
        progress: SweepProgress,
        storage: Storage,
        halving: ParetoHalving | None,
    ) -> None:
        self._results, self._tracker, self.progress = results, tracker, progress
        self._storage, self._halving = storage, halving

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles callbacks for a restore of its own, which is never used: leave everything out."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        row = self._results.last_row(trial.config["trial_id"])
        if row is not None and row["status"] == "pruned":
            resumed = {**row, "status": "running"}
            self._results.record(resumed)
            self.progress.resumed(resumed)
            self._tracker.log_status(resumed)
        self.progress.started(trial.config)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        row = result["row"]
        if self._halving and self._halving.is_paused(trial):
            row["status"] = "pruned"
        trial.config["rung"] = row["rung"]  # not to be measured again
        self._results.record(row)
        self.progress.row(row)
        name = f"rung-{row['rung']}.png"
        picture = self._storage.read(f"samples/{row['trial_id']}/{name}")
        self._tracker.log_row(row, {name: picture} if picture else {})

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        self.progress.retried(trial.config)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        reason = _failure_reason(trial)
        row = self._results.last_row(trial.config["trial_id"]) or _empty_row(trial.config)
        failed = {**row, "status": "failed", "error": reason}
        self._results.record(failed)
        self.progress.failed(trial.config, reason)
        self._tracker.log_row(failed, {})


class _PatienceWatch(tune.Callback):
    """Ends the search when its frontier has stopped growing, and leaves the reason in the run directory."""

    def __init__(self, state: _State, progress: SweepProgress) -> None:
        self._state, self._progress = state, progress

    def __getstate__(self) -> dict[str, Any]:
        """As for `_Follower`."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        state, patience = self._state, self._state.config.search.patience
        if patience is None or result["status"] != "complete" or state.run.stopped.exists():
            return
        table = state.results.frame()
        if all(has_stalled(table, size, patience) for size in state.config.space.train_size):
            reason = describe_stall(patience)
            write_text(state.run.stopped, reason)
            state.searcher.stop()
            self._progress.stopped(reason, state.searcher.n_total + _n_confirmations(state.config))


def _failure_reason(trial: Trial) -> str:
    """The last line of the traceback that Ray keeps of a trial's latest failure."""
    if trial.error_file is None:
        return "the worker died"
    text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace").strip()
    return text.rpartition("\n")[2].strip() or "the worker died"


def _empty_row(trial: dict[str, Any]) -> dict[str, Any]:
    """The row of a trial that failed before its first rung."""
    return {**trial, "rung": 0, "images_seen": 0, "budget": 0.0, "n_samples": 0}


def _finish(state: _State, tracker: Tracker, seconds: float) -> SweepOutcome:
    run, recommendation, why_none = state.run, None, ""
    try:
        recommendation = build_recommendation(run)
        write_recommendation(recommendation, run.recommendation)
        for found in recommendation.recommendations:
            tracker.log_recommendation(found)
    except UserError as error:
        why_none = str(error)
    write_report(run.path)
    files = [run.sweep, run.results, run.environment, run.report, run.recommendation]
    tracker.finish([path for path in files if path.exists()])
    statuses = [state.results.status(trial_id) for trial_id in state.results.trial_ids()]
    return SweepOutcome(
        run=run,
        recommendation=recommendation,
        why_none=why_none,
        unfinished=state.n_unfinished(),
        failed=statuses.count("failed"),
        seconds=seconds,
        tracking_problem=tracker.problem,
        stopped=run.why_stopped(),
    )
