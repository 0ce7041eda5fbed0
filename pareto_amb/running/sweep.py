"""Runs the trials of a sweep on Ray, and writes what they amount to."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.search import Searcher
from rich.console import Console

from pareto_amb.config import SweepConfig
from pareto_amb.config_file import to_yaml
from pareto_amb.credentials import storage_credentials
from pareto_amb.dashboards.report import write_report
from pareto_amb.declared import Declared
from pareto_amb.diffusion.methods import Method
from pareto_amb.environment import describe_environment
from pareto_amb.errors import UserError
from pareto_amb.printable import printable, reason
from pareto_amb.redaction import redact_uri, redact_values
from pareto_amb.results.recommendation_file import (
    RecommendationFile,
    build_recommendation,
    write_recommendation,
)
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.results.words import describe
from pareto_amb.running.assets import bare_training_sets, measure_references, training_pixels
from pareto_amb.running.claim import Claim
from pareto_amb.running.cluster import ClusterWatch, gpus_per_trial, ray_cluster
from pareto_amb.running.confirm import ChosenTrials, GivenTrials, unfinished
from pareto_amb.running.follower import Follower, PatienceWatch, SilentRay
from pareto_amb.running.halt import halting_in_order
from pareto_amb.running.heartbeats import Journal, heartbeats
from pareto_amb.running.materials import Materials, describe_auto
from pareto_amb.running.notify import Notifier
from pareto_amb.running.own_code import travelling
from pareto_amb.running.pace import Paced, Slots, Workers
from pareto_amb.running.progress import SweepProgress
from pareto_amb.running.room import check_room, room_needed
from pareto_amb.running.scheduler import InOrder, ParetoHalving
from pareto_amb.running.state import SweepState
from pareto_amb.running.stopping import put_up_sign, stopping_in_order
from pareto_amb.running.storage_check import check_storage
from pareto_amb.running.sync import ending_of
from pareto_amb.running.tracker import Tracker
from pareto_amb.running.tracking import LOCAL_UI, Ending, Mirror, Tracked, run_uuid
from pareto_amb.running.tracking_check import check_tracking
from pareto_amb.running.trust import trusted_tracking_uri
from pareto_amb.running.watching import watched
from pareto_amb.search.cost import expected_trainings
from pareto_amb.storage import Storage, write_text
from pareto_amb.terminal import format_duration
from pareto_amb.trainables.trial_trainable import SweepAssets, TrialTrainable


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep leaves behind."""

    run: RunDirectory
    recommendation: RecommendationFile | None
    why_none: str
    unfinished: int
    failed: int
    interrupted: int
    why_interrupted: str
    seconds: float
    tracking_problem: str
    tracking_uri: str
    tracking_link: str
    stopped: str


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do, with all that it needs loaded.

    `declared` has the sweep's own objectives alone; `methods` has the code of its methods; `collapse_levels`
    are those of the training images of each train size. `address` names
    an existing Ray cluster; without one Ray runs on this machine. After `time_budget` seconds running trials
    stop, to be continued from their last checkpoint by a later call. `cluster` is Ray where it is connected
    already. `trust_run`: what the files of a resumed
    run name may be connected to. `retry_failed`: its trials that failed are tried again. `notify` is a URL
    that hears of the first result, failures and the end; `watch`: a page follows the sweep.
    """

    config: SweepConfig
    declared: Declared
    methods: Mapping[str, type[Method]]
    materials: Materials
    collapse_levels: Mapping[int, float]
    resumed: bool
    address: str | None
    time_budget: float | None
    trust_run: bool = False
    retry_failed: bool = False
    notify: str | None = field(default=None, repr=False)
    watch: bool = False
    cluster: ClusterWatch | None = None


def run_sweep(claim: Claim, plan: Plan, console: Console) -> SweepOutcome:
    """Run the trials of a sweep that have not finished, then write recommendation and report.

    Raises UserError, before anything is kept or MLflow hears of it, for whatever of the plan cannot be done,
    and SweepHaltedError when a disk was full or another fault of the machines stopped it.
    """
    started, run, config, methods = time.monotonic(), claim.run, plan.config, plan.methods
    notifier = Notifier(plan.notify, run.name, console)
    with ExitStack() as viewer, halting_in_order(claim, Storage(run.storage_uri(config)).folder):
        uri, environment = check_outside(run, config, plan.materials, plan.trust_run, console)
        unfinished, begun = SweepState.foresee(
            run, config, plan.declared, methods, plan.collapse_levels, plan.retry_failed
        )
        check_room(run, config, room_needed(config, methods, plan.materials.text_model, unfinished, begun))
        if unfinished:
            with _cluster(plan, run) as watch, travelling(methods, plan.declared):
                slots = Slots(config, gpus_per_trial(config), shared=not watch.ours)
                with console.status("measuring the real images"):
                    assets = _make_assets(run, plan, slots.gpus)
                state, tracker = _begin(claim, plan, environment, uri, console, viewer)
                with (
                    _told(tracker, notifier),
                    stopping_in_order(assets.stop_sign, watch, console) as stopping,
                ):
                    follower = Following(state, tracker, notifier, console, stopping)
                    _run_on_cluster(follower, assets, slots, plan.time_budget)
        else:
            state, tracker = _begin(claim, plan, environment, uri, console, viewer)
        with _told(tracker, notifier):
            outcome = _finish(state, tracker, environment["tracking_uri"], time.monotonic() - started)
    notifier.end(_in_words(outcome), failed=False)
    return outcome


def check_outside(
    run: RunDirectory, config: SweepConfig, materials: Materials, trust_run: bool, console: Console
) -> tuple[str, dict[str, Any]]:
    """Where MLflow is, and what environment.json is to hold.

    UserError where MLflow or the storage do not answer, or a resumed run would go on with other data.
    """
    uri = trusted_tracking_uri(run, trust_run)
    environment = _environment(run, materials, uri)
    with console.status("asking MLflow and the storage"):
        check_tracking(uri)
        check_storage(run.storage_uri(config))
    return uri, environment


def _cluster(plan: Plan, run: RunDirectory) -> AbstractContextManager[ClusterWatch]:
    return ray_cluster(plan.address, run) if plan.cluster is None else nullcontext(plan.cluster)


@contextmanager
def _told(tracker: Tracker, notifier: Notifier) -> Iterator[None]:
    """Let MLflow, and whoever is to be notified, know where a sweep is cut off in the block."""
    try:
        yield
    except BaseException as error:
        tracker.finish(Ending("KILLED", {}, []), patience=2)
        notifier.end(f"the sweep was cut off: {reason(error)}", failed=True)
        raise


def _environment(run: RunDirectory, materials: Materials, uri: str) -> dict[str, Any]:
    """The content of environment.json; UserError when a resumed run would mix data, encoders or trainings."""
    found = materials.fingerprints()
    before = run.read_environment()
    for part in ("data", "encoders", "training"):
        if before and before.get(part) != found[part]:
            raise UserError(f"{run.path}: the {part} changed since this run began; start a new run instead")
    tracked = {"tracking_uri": redact_uri(uri), "run_uuid": run_uuid(before)}
    described = describe_environment()
    if before:  # a run is what it was begun as
        described["command"] = before.get("command")
    return {**redact_values({**described, **found}), **tracked}


def _begin(
    claim: Claim,
    plan: Plan,
    environment: Mapping[str, Any],
    uri: str,
    console: Console,
    viewer: ExitStack,
) -> tuple[SweepState, Tracker]:
    """Write what the run is, and begin to log to MLflow: nothing will be refused any more.

    A page that follows the sweep is shown until `viewer` is left.
    """
    run, config = claim.run, plan.config
    storage = Storage(run.storage_uri(config))
    tracked = Tracked(uri, run, environment["run_uuid"], config.name, plan.declared, storage)
    mirror = Mirror(tracked)
    tracker = Tracker(mirror, lambda: _say_link(console, mirror.link))
    write_text(run.sweep, to_yaml(plan.config))
    write_text(run.environment, json.dumps(environment, indent=2))
    claim.keep()
    console.print(f"run directory: {run.path}")
    for line in describe_auto(plan.config, plan.declared):
        console.print(line)
    state = SweepState.open(run, config, plan.declared, plan.methods, plan.collapse_levels, plan.retry_failed)
    tracker.start()
    if plan.watch:
        viewer.enter_context(watched(run, console))
    return state, tracker


def _say_link(console: Console, link: str) -> None:
    """Where a server shows the sweep from now on."""
    if not link.startswith(LOCAL_UI):
        console.print(f"in MLflow: {printable(link)}", soft_wrap=True, highlight=False, markup=False)


def _make_assets(run: RunDirectory, plan: Plan, gpus: float) -> SweepAssets:
    config, materials = plan.config, plan.materials
    return SweepAssets(
        config=config,
        declared=plan.declared,
        methods=plan.methods,
        training_sets=bare_training_sets(materials),
        pixels=training_pixels(materials),
        encoded=materials.files,
        references=measure_references(config, materials, gpus),
        probes=materials.probes(config, plan.collapse_levels),
        fid_encoder=materials.fid_encoder,
        similarity_encoder=materials.similarity_encoder,
        judge=materials.judge,
        text_model=materials.text_model,
        prompts=materials.prompts(config),
        storage_uri=run.storage_uri(config),
        stop_sign=put_up_sign(),
        credentials=storage_credentials(run.storage_uri(config)),
    )


@dataclass(frozen=True)
class Following:
    """What listens to a sweep while it runs."""

    state: SweepState
    tracker: Tracker
    notifier: Notifier
    console: Console
    stopping: tune.Callback


def _run_on_cluster(
    following: Following, assets: SweepAssets, slots: Slots, time_budget: float | None
) -> None:
    state = following.state
    config, total = state.config, state.n_planned
    with SweepProgress(
        following.console,
        state.results,
        total=total,
        finished=total - state.n_unfinished(),
        n_rungs=len(config.rung_images()),
        trainings=expected_trainings(config, state.declared),
        listeners=[Journal(state.run).hear, following.notifier.hear],
    ) as progress:
        follower = Follower(state, following.tracker, progress)
        with state.results.settled(), heartbeats(assets.stop_sign, progress, state.run) as beating:
            callbacks = [follower, PatienceWatch(state, progress), beating, following.stopping]
            _run_trials(state, assets, progress, callbacks, slots, time_budget)


def _run_trials(
    state: SweepState,
    assets: SweepAssets,
    progress: SweepProgress,
    callbacks: Sequence[tune.Callback],
    slots: Slots,
    time_budget: float | None,
) -> None:
    """Search, and when that is over before the time is up, train what follows from it.

    First what branched trials have chosen, from scratch; then repeats of the best, beside their controls.
    """
    config, results, started = state.config, state.results, time.monotonic()

    def fit(searcher: Searcher, count: int, scheduler: ParetoHalving | None = None, ahead: int = 1) -> None:
        left = None if time_budget is None else time_budget - (time.monotonic() - started)
        if left is None or left > 0:
            make_tuner(assets, searcher, scheduler, count, callbacks, slots, left, ahead=ahead).fit()

    if state.n_searching():
        fit(state.searcher, state.searcher.n_total, state.halving)
    if state.n_searching():
        return
    if count := state.n_from_scratch():
        total = state.searcher.n_total + state.n_following
        progress.following(state.n_unfinished(), total, float(state.n_unfinished()))
        fit(ChosenTrials(config, results), count, ahead=0)
    if state.n_from_scratch():
        return
    trials = unfinished(following := state.followers(), results)
    rungs, total = config.rung_images(), state.searcher.n_total + len(following)
    progress.following(len(trials), total, sum(rungs[trial.last - 1] for trial in trials) / rungs[-1])
    if trials:
        fit(GivenTrials(trials, list(state.declared.objectives.values())), len(trials))


def make_tuner(
    assets: SweepAssets,
    searcher: Searcher,
    scheduler: ParetoHalving | None,
    num_samples: int,
    callbacks: Sequence[tune.Callback],
    slots: Slots,
    time_budget: float | None,
    trainable: type[TrialTrainable] = TrialTrainable,
    ahead: int = 1,
) -> tune.Tuner:
    """What runs the trials that `searcher` hands out, at most so many, by Ray Tune.

    It is asked for as many as have room, and so many `ahead` of their workers.
    """
    paced = Paced(searcher, slots.count, ahead, scheduler)
    given = tune.with_parameters(trainable, assets=assets)
    filesystem, path = Storage(assets.storage_uri, patient=True).place
    return tune.Tuner(
        tune.with_resources(given, slots.each),
        tune_config=tune.TuneConfig(
            search_alg=paced,
            scheduler=scheduler or InOrder(),
            num_samples=num_samples,
            time_budget_s=time_budget,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=tune.FailureConfig(max_failures=assets.config.search.max_retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            callbacks=[*callbacks, Workers(paced), SilentRay()],
            verbose=0,
        ),
    )


def _trial_name(trial: RayTrial) -> str:
    return str(trial.config["id"])


def _finish(state: SweepState, tracker: Tracker, tracking_uri: str, seconds: float) -> SweepOutcome:
    run, recommendation, why_none = state.run, None, ""
    try:
        recommendation = build_recommendation(run)
        write_recommendation(recommendation, run.recommendation)
    except UserError as error:
        why_none = str(error)
    write_report(run.path, trust=True)
    recommended = recommendation.recommendations if recommendation else []
    missing = tracker.finish(ending_of(run, state.results.results(), recommended))
    statuses = [state.results.status(trial_id) for trial_id in state.results.trial_ids()]
    rows = [state.results.last_row(trial_id) for trial_id in state.results.trial_ids()]
    interrupted = [row["error"] for row in rows if row and row["status"] == "interrupted" and row["error"]]
    return SweepOutcome(
        run=run,
        recommendation=recommendation,
        why_none=why_none,
        unfinished=state.n_unfinished(),
        failed=statuses.count("failed"),
        interrupted=len(interrupted),
        why_interrupted=next(reversed(interrupted), ""),
        seconds=seconds,
        tracking_problem=f"{missing} ({tracker.problem or 'it is too slow'})" if missing else "",
        tracking_uri=tracking_uri,
        tracking_link=printable(tracker.link),
        stopped=run.why_stopped(),
    )


def _in_words(outcome: SweepOutcome) -> str:
    """How a sweep ended, with every recommendation as the terminal has it."""
    lines = [f"finished in {format_duration(outcome.seconds)}", outcome.stopped]
    if outcome.unfinished:
        lines[0] = f"stopped after {format_duration(outcome.seconds)}"
        lines.append(f"{outcome.unfinished} trials are not finished")
    if outcome.failed:
        lines.append(f"{outcome.failed} trials failed")
    if outcome.interrupted:
        lines.append(f"{outcome.interrupted} trials were interrupted, by {outcome.why_interrupted}")
    if outcome.recommendation is None:
        return "\n".join(filter(None, [*lines, f"no recommendation: {outcome.why_none}"]))
    declared = outcome.run.load().declared
    for found in outcome.recommendation.recommendations:
        lines += describe(found, declared)
    for size, why in outcome.recommendation.not_recommended.items():
        lines.append(f"no recommendation for train size {size}: {why}")
    return "\n".join(filter(None, lines))
