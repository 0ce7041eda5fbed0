"""Runs the trials of a sweep on Ray, and writes what they amount to."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.search import Searcher
from rich.console import Console

from pareto_amb.config import SweepConfig
from pareto_amb.dashboards.report import write_report
from pareto_amb.declared import Declared
from pareto_amb.diffusion.methods import Method
from pareto_amb.environment import describe_environment
from pareto_amb.errors import UserError
from pareto_amb.results.recommendation_file import (
    RecommendationFile,
    build_recommendation,
    write_recommendation,
)
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.running.assets import measure_references
from pareto_amb.running.cluster import gpus_per_trial, ray_cluster
from pareto_amb.running.confirm import GivenTrials
from pareto_amb.running.follower import Follower, PatienceWatch, SilentRay
from pareto_amb.running.materials import Materials
from pareto_amb.running.own_code import travelling
from pareto_amb.running.progress import SweepProgress
from pareto_amb.running.scheduler import ParetoHalving
from pareto_amb.running.state import SweepState
from pareto_amb.running.tracking import Tracker
from pareto_amb.search.cost import expected_trainings
from pareto_amb.storage import Storage, write_text
from pareto_amb.trainables import SweepAssets, TrialTrainable


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


def run_sweep(
    run: RunDirectory,
    config: SweepConfig,
    declared: Declared,
    methods: Mapping[str, type[Method]],
    materials: Materials,
    tracker: Tracker,
    console: Console,
    *,
    address: str | None = None,
    time_budget: float | None = None,
) -> SweepOutcome:
    """Run the trials of a sweep that have not finished, then write recommendation and report.

    `declared` has the sweep's own objectives alone; `methods` has the code of its methods. `address` names
    an existing Ray cluster; without one Ray runs on this machine. After `time_budget` seconds running trials
    stop, to be continued from their last checkpoint by a later call.
    """
    started = time.monotonic()
    _write_environment(run, materials, tracker)
    state = SweepState.open(run, config, declared, methods)
    if state.n_unfinished():
        with ray_cluster(address), travelling(methods, declared):
            _run_on_cluster(state, materials, tracker, console, time_budget)
    return _finish(state, tracker, time.monotonic() - started)


def _write_environment(run: RunDirectory, materials: Materials, tracker: Tracker) -> None:
    """Write environment.json; UserError when a resumed run would mix data or encoders."""
    found = materials.fingerprints()
    before = run.read_environment()
    for part in ("data", "encoders"):
        if before and before.get(part) != found[part]:
            raise UserError(f"{run.path}: the {part} changed since this run began; start a new run instead")
    environment = {**describe_environment(), **found, "tracking_uri": tracker.uri}
    write_text(run.environment, json.dumps(environment, indent=2))


def _run_on_cluster(
    state: SweepState, materials: Materials, tracker: Tracker, console: Console, time_budget: float | None
) -> None:
    config, total = state.config, state.searcher.n_total + state.n_confirmations
    gpus = gpus_per_trial(config)
    with console.status("measuring the real images"):
        assets = SweepAssets(
            config=config,
            declared=state.declared,
            methods=state.methods,
            training_sets=materials.training_sets(config.data.conditional),
            references=measure_references(config, materials, gpus),
            fid_encoder=materials.fid_encoder,
            similarity_encoder=materials.similarity_encoder,
            storage_uri=state.run.storage_uri(config),
        )
    with SweepProgress(
        console,
        state.results,
        total=total,
        finished=total - state.n_unfinished(),
        n_rungs=len(config.evaluation.rungs),
        trainings=expected_trainings(config, state.declared),
    ) as progress:
        follower = Follower(state, tracker, progress, Storage(assets.storage_uri))
        _run_trials(state, assets, follower, PatienceWatch(state, progress), gpus, time_budget)


def _run_trials(
    state: SweepState,
    assets: SweepAssets,
    follower: Follower,
    watch: PatienceWatch,
    gpus: float,
    time_budget: float | None,
) -> None:
    """Search, and when that is over before the time is up, confirm what was found."""
    started = time.monotonic()
    if state.n_searching():
        searcher, callbacks = state.searcher, [follower, watch]
        _tuner(assets, searcher, state.halving, searcher.n_total, callbacks, gpus, time_budget).fit()
    left = None if time_budget is None else time_budget - (time.monotonic() - started)
    if state.n_searching() or (left is not None and left <= 0):
        return
    if trials := state.confirmations():
        given = GivenTrials(trials, list(state.declared.objectives.values()))
        _tuner(assets, given, None, len(trials), [follower], gpus, left).fit()


def _tuner(
    assets: SweepAssets,
    searcher: Searcher,
    scheduler: ParetoHalving | None,
    num_samples: int,
    callbacks: Sequence[tune.Callback],
    gpus: float,
    time_budget: float | None,
) -> tune.Tuner:
    search, resources = assets.config.search, assets.config.resources
    trainable = tune.with_parameters(TrialTrainable, assets=assets)
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
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1, checkpoint_frequency=1),
            callbacks=[*callbacks, SilentRay()],
            verbose=0,
        ),
    )


def _trial_name(trial: RayTrial) -> str:
    return str(trial.config["id"])


def _finish(state: SweepState, tracker: Tracker, seconds: float) -> SweepOutcome:
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
