"""ParetoHalving in experiments of Ray Tune whose trials are two numbers and a counter."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle, tune
from ray.tune.experiment import Trial
from ray.tune.logger import JsonLoggerCallback
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from pareto_amb.running.scheduler import InOrder, ParetoHalving
from pareto_amb.signals import own_handlers

METRICS, MODE = ("fid", "memorization"), ("min", "min")
TRADE_OFF = [(9, 9), (1, 8), (8, 1), (9, 8), (4, 4), (8, 9), (9, 7), (7, 9)]
"""Three trials on the frontier, one of them in the middle; five behind it."""


@pytest.fixture(scope="module")
def cluster(two_workers: None) -> Iterator[None]:
    """Ray replaces handlers of signals, and leaves its own behind."""
    with pytest.MonkeyPatch.context() as patch, own_handlers():
        for name in ("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
            patch.setenv(name, "1" if name.startswith("TUNE") else "0")
        patch.setenv("RAY_AIR_NEW_OUTPUT", "0")
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def curve_class() -> type[tune.Trainable]:
    """A class of its own, which Ray sends to its workers by value."""

    class Curve(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.t = 0
            return True

        def step(self) -> dict[str, Any]:
            self.t += 1
            fid, memorization = self.config["point"]
            with Path(self.config["log"]).open("a") as log:
                log.write(f"{self.config['point']} {self.t}\n")
            if self.config.get("fails_at") == self.t:
                raise RuntimeError("out of memory")
            return {"seen": 100 * self.t, "fid": fid + 1 / self.t, "memorization": memorization}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            (Path(checkpoint_dir) / "t").write_text(str(self.t))

        def load_checkpoint(self, checkpoint: str) -> None:
            self.t = int((Path(checkpoint) / "t").read_text())

    return Curve


def halving(**changes: Any) -> ParetoHalving:
    settings = {"time_attr": "seen", "rungs": (100, 200, 400), **changes}
    return ParetoHalving(METRICS, MODE, **settings)


def make_tuner(
    folder: Path, scheduler: ParetoHalving, space: dict[str, Any], *, cpus: int = 2, **more: Any
) -> tune.Tuner:
    callbacks, failures = more.pop("callbacks", None), more.pop("max_failures", 0)
    return tune.Tuner(
        tune.with_resources(curve_class(), {"cpu": cpus}),
        param_space={"log": str(folder / "log"), **space},
        tune_config=tune.TuneConfig(scheduler=scheduler, reuse_actors=True, **more),
        run_config=tune.RunConfig(
            name="experiment",
            storage_path=str(folder),
            verbose=0,
            callbacks=callbacks,
            failure_config=tune.FailureConfig(max_failures=failures),
        ),
    )


def steps(folder: Path) -> dict[str, list[int]]:
    """The steps that were computed of each trial, in order."""
    done: dict[str, list[int]] = {}
    for line in (folder / "log").read_text().splitlines():
        point, _, t = line.rpartition(" ")
        done.setdefault(point, []).append(int(t))
    return done


class Recorder(Searcher):
    """Proposes given configurations, and notes what it is told."""

    def __init__(self, configs: list[dict[str, Any]]) -> None:
        super().__init__(metric=list(METRICS), mode=list(MODE))
        self.configs, self.proposed = list(configs), 0
        self.told: dict[str, tuple[Any, bool]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.proposed == len(self.configs):
            return str(Searcher.FINISHED)
        self.proposed += 1
        return self.configs[self.proposed - 1]

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        assert trial_id not in self.told
        self.told[trial_id] = (result, error)

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_the_best_by_both_metrics_finish_and_no_step_is_taken_twice(tmp_path: Path) -> None:
    searcher = Recorder([{"point": point} for point in TRADE_OFF])
    found = make_tuner(tmp_path, halving(), {}, search_alg=searcher, num_samples=99).fit()
    done = steps(tmp_path)
    assert found.num_terminated == len(done) == 8
    assert all(taken == list(range(1, len(taken) + 1)) for taken in done.values())
    assert {str(point) for point in [(1, 8), (8, 1)]} <= {p for p, taken in done.items() if len(taken) == 4}
    assert len(done[str((9, 9))]) == 1
    assert sum(map(len, done.values())) < 8 * 4
    ended = [result for result, error in searcher.told.values() if result is None and not error]
    assert len(searcher.told) == 8
    assert len(ended) == sum(len(taken) < 4 for taken in done.values())


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_paused_trial_resumes_from_its_checkpoint_once_it_ranks_among_the_best(tmp_path: Path) -> None:
    worse_and_worse = [{"point": (k, k)} for k in range(1, 5)]
    make_tuner(tmp_path, halving(), {}, search_alg=Recorder(worse_and_worse), num_samples=99).fit()
    order = (tmp_path / "log").read_text().splitlines()
    assert order[:2] == ["(1, 1) 1", "(2, 2) 1"]  # paused: one of one is not half of them
    assert order.index("(1, 1) 2") < order.index("(4, 4) 1")
    assert steps(tmp_path)["(1, 1)"] == [1, 2, 3, 4]
    assert steps(tmp_path)["(4, 4)"] == [1]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_groups_compete_among_themselves_and_protected_trials_run_to_the_end(tmp_path: Path) -> None:
    scheduler = halving(
        group_by=lambda config: config["point"][0] > 50,
        protect=lambda config: config["point"] == [99, 99],
    )
    points = [[99, 99], [1, 1], [2, 2], [61, 61], [62, 62]]
    found = make_tuner(tmp_path, scheduler, {"point": tune.grid_search(points)}, cpus=1).fit()
    assert not found.errors
    done = steps(tmp_path)
    assert done["[99, 99]"] == [1, 2, 3, 4]
    for best, worst in (("[1, 1]", "[2, 2]"), ("[61, 61]", "[62, 62]")):
        assert len(done[best]) > len(done[worst]) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_failed_trial_is_left_out_and_a_retried_one_keeps_what_it_reached(tmp_path: Path) -> None:
    configs = [{"point": (1, 1), "fails_at": 2}] + [{"point": (k, k)} for k in range(2, 6)]
    searcher = Recorder(configs)
    found = make_tuner(tmp_path, halving(), {}, search_alg=searcher, num_samples=99, max_failures=1).fit()
    done = steps(tmp_path)
    assert done["(1, 1)"] == [1, 2, 2]  # tried again from the checkpoint of its pause
    assert found.num_errors == 1
    assert done["(2, 2)"] == [1, 2, 3, 4]
    assert Counter(error for _, error in searcher.told.values()) == {True: 1, False: 4}


def break_off(folder: Path, after: int) -> None:
    """Begin an experiment in `folder` that breaks off once so many results are in and its state is written.

    Left to itself Ray writes its state in the background now and then, and may be broken off while it does.
    """
    choose = ParetoHalving.choose_trial_to_run

    def choose_or_break(self: ParetoHalving, tune_controller: Any) -> Trial | None:
        results = [trial.last_result.get("training_iteration", 0) for trial in tune_controller.get_trials()]
        if sum(results) >= after:
            tune_controller.checkpoint(force=True, wait=True)
            raise KeyError("interrupted")
        return choose(self, tune_controller)

    space = {"point": tune.grid_search([[k, k] for k in (3, 1, 2, 4, 5, 6)])}
    tuner = make_tuner(folder, halving(), space, callbacks=[JsonLoggerCallback()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "3600")
        patch.setattr(ParetoHalving, "choose_trial_to_run", choose_or_break)
        with pytest.raises(Exception, match="interrupted"):
            tuner.fit()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_an_interrupted_experiment_is_restored_with_its_paused_trials(tmp_path: Path) -> None:
    break_off(tmp_path, after=5)
    before = steps(tmp_path)
    assert sum(map(len, before.values())) >= 5
    found = tune.Tuner.restore(str(tmp_path / "experiment"), curve_class()).fit()
    assert found.num_terminated == 6
    after = steps(tmp_path)
    assert after["[1, 1]"][-1] == 4
    assert len(after["[6, 6]"]) == 1
    repeated = sum(len(taken) - len(set(taken)) for taken in after.values())
    assert repeated <= 1  # the step under way
    assert {p for p in after if len(after[p]) == len(before.get(p, []))}, "some stayed paused"


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_searcher_that_waits_for_a_paused_trial_does_not_wait_for_ever(tmp_path: Path) -> None:
    searcher = tune.search.ConcurrencyLimiter(Recorder([{"point": (k, 9 - k)} for k in range(6)]), 2)
    found = make_tuner(tmp_path, halving(reduction_factor=4), {}, search_alg=searcher, num_samples=6).fit()
    assert found.num_terminated == 6


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_function_whose_trials_optuna_proposes(tmp_path: Path) -> None:
    def train(config: dict[str, float]) -> None:
        checkpoint = tune.get_checkpoint()
        start = 0
        if checkpoint:
            with checkpoint.as_directory() as folder:
                start = int((Path(folder) / "epoch").read_text())
        for epoch in range(start + 1, 5):
            with (tmp_path / "log").open("a") as log:
                log.write(f"{config['x']} {epoch}\n")
            metrics = {"seen": 100 * epoch, "fid": config["x"], "memorization": (1 - config["x"]) / epoch}
            folder = tmp_path / f"{config['x']}"
            folder.mkdir(exist_ok=True)
            (folder / "epoch").write_text(str(epoch))
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))

    searcher = OptunaSearch(metric=list(METRICS), mode=list(MODE), seed=1)
    found = tune.Tuner(
        tune.with_resources(train, {"cpu": 2}),
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(
            scheduler=halving(reduction_factor=3), search_alg=searcher, num_samples=6, reuse_actors=True
        ),
        run_config=tune.RunConfig(name="experiment", storage_path=str(tmp_path), verbose=0),
    ).fit()
    assert not found.errors
    done = steps(tmp_path)
    assert len(done) == 6
    assert all(taken == list(range(1, len(taken) + 1)) for taken in done.values())
    states = Counter(trial.state.name for trial in searcher._ot_study.trials)
    assert states["COMPLETE"] == sum(len(taken) == 4 for taken in done.values()) > 0
    assert states["PRUNED"] == sum(len(taken) < 4 for taken in done.values()) > 0


class WaitingTrial:
    """As much of Ray's Trial as the scheduler looks at."""

    has_reported_at_least_once = False
    relative_logdir: str | None = None

    def __init__(self, name: str, **config: Any) -> None:
        self.trial_id, self.config, self.status = name, config, Trial.PENDING

    def set_status(self, status: str) -> None:
        self.status = status

    def init_local_path(self) -> None:
        pass


def report(
    scheduler: ParetoHalving, name: str, seen: float, fid: float, memorization: float = 0, **more: Any
) -> str:
    """A trial's result, with Ray's part in what follows; a trial that is not known yet begins."""
    trial = TRIALS.setdefault((id(scheduler), name), WaitingTrial(name))
    if trial.status == Trial.PENDING:
        scheduler.on_trial_add(None, trial)
    trial.status = Trial.RUNNING
    result = {"seen": seen, "fid": fid, "memorization": memorization, **more}
    decision = scheduler.on_trial_result(None, trial, result)
    trial.status = Trial.PAUSED if decision == ParetoHalving.PAUSE else trial.status
    return decision


TRIALS: dict[tuple[int, str], WaitingTrial] = {}


@pytest.fixture(autouse=True)
def no_trials() -> None:
    TRIALS.clear()


def resumed(scheduler: ParetoHalving) -> str | None:
    trial = scheduler.choose_trial_to_run(Idle())
    if trial is None:
        return None
    assert scheduler.choose_trial_to_run(Idle()) is trial
    trial.status = Trial.RUNNING
    return str(trial.trial_id)


class Idle:
    """A controller whose search goes on and where something still runs."""

    def get_live_trials(self) -> list[Any]:
        return [type("Running", (), {"status": Trial.RUNNING})]


def test_a_mode_max_metric_counts_the_other_way_round() -> None:
    scheduler = ParetoHalving(METRICS, ("max", "min"), time_attr="seen", rungs=(100, 200))
    assert report(scheduler, "low", 100, fid=1) == "PAUSE"
    assert report(scheduler, "high", 100, fid=2) == "CONTINUE"


def test_three_metrics_one_of_them_maximised_are_ranked_by_all_of_them() -> None:
    names, modes = (*METRICS, "novelty"), ("min", "min", "max")
    scheduler = ParetoHalving(names, modes, time_attr="seen", rungs=(1, 2), reduction_factor=4 / 3)
    decisions = {}
    for name, values in {"a": (5, 5, 5), "b": (4, 4, 6), "c": (9, 9, 7), "d": (4, 5, 5.5)}.items():
        trial = WaitingTrial(name)
        scheduler.on_trial_add(None, trial)
        result = {"seen": 1, **dict(zip(names, values, strict=True))}
        decisions[name] = scheduler.on_trial_result(None, trial, result)
    # by the first two metrics alone c is the worst; with the third it is not dominated, and b dominates a, d
    assert decisions == {"a": "PAUSE", "b": "CONTINUE", "c": "CONTINUE", "d": "CONTINUE"}
    assert scheduler.n_promotable() == 0


@pytest.mark.parametrize(("ideal", "decided"), [(None, "PAUSE"), ((0, 100), "PAUSE"), ((0, 20), "CONTINUE")])
def test_a_maximised_metric_is_extrapolated_as_far_as_its_ideal(
    ideal: tuple[float, float] | None, decided: str
) -> None:
    scheduler = ParetoHalving(
        METRICS, ("min", "max"), time_attr="seen", rungs=(1, 2), extrapolate_by=(), ideal=ideal
    )
    for k in range(8):
        for seen in (1, 2):
            report(scheduler, str(k), seen, fid=5, memorization=30 + 10 * k)
    assert (
        report(scheduler, "worse", 1, fid=5, memorization=25) == decided
    )  # where all are perfect, all go on


@pytest.mark.parametrize("counts", [True, False])
def test_a_protected_trial_counts_where_it_is_said_to_until_it_fails(counts: bool) -> None:
    scheduler = ParetoHalving(
        METRICS,
        ("min", "min"),
        time_attr="seen",
        rungs=(1, 2),
        extrapolate_by=(),
        group_by=lambda config: "group",
        protect=lambda config: config.get("baseline", False),
        count_in=lambda config: ["group"] if counts else [],
    )
    for k in range(8):
        for seen in (1, 2):
            report(scheduler, str(k), seen, fid=30 - 10 * seen + k, memorization=20 - k)
    baseline = TRIALS[id(scheduler), "baseline"] = WaitingTrial("baseline", baseline=True)
    for seen in (1, 2):
        decided = report(scheduler, "baseline", seen, fid=11, memorization=11)
        assert decided == ("CONTINUE" if seen == 1 else "STOP")
    assert report(scheduler, "new", 1, fid=23, memorization=14) == ("PAUSE" if counts else "CONTINUE")
    scheduler.on_trial_error(None, baseline)
    assert scheduler.n_promotable() == counts


def test_lists_of_probes_decide_before_the_metrics_are_measured() -> None:
    scheduler = ParetoHalving(
        METRICS, MODE, time_attr="seen", rungs=(1, 2), extrapolate_by=("probes",), n_probe_rungs=1
    )
    for k in range(8):
        report(scheduler, str(k), 1, math.nan, math.nan, probes=[float(k), 1.0])
        report(scheduler, str(k), 2, 10.0 + k, k / 10, probes=[float(k), 1.0])
    decided = {
        name: report(scheduler, name, 1, math.nan, math.nan, probes=[shown, 1.0])
        for name, shown in (("fine", -1.0), ("hopeless", 6.0))
    }
    assert decided == {"fine": "CONTINUE", "hopeless": "PAUSE"}


def test_a_trial_that_only_gets_worse_pauses_where_it_is_best_though_it_leads_there() -> None:
    scheduler = halving(extrapolate_by=())
    for k in range(6):
        for seen, fid, copies in ((100, 30, 0), (200, 10, 5), (400, 20, 50)):
            report(scheduler, str(k), seen, fid=fid + k, memorization=copies - k / 2)
    assert report(scheduler, "new", 100, fid=32.4, memorization=-1.2) == "CONTINUE"
    assert report(scheduler, "new", 200, fid=9, memorization=1) == "PAUSE"


def test_a_value_that_is_not_finite_ranks_last() -> None:
    scheduler = halving()
    decisions = [report(scheduler, str(fid), 100, fid) for fid in (math.nan, 9.0, math.inf, 10.0)]
    assert decisions == ["PAUSE", "CONTINUE", "PAUSE", "CONTINUE"]
    assert resumed(scheduler) is None


def test_a_late_report_counts_for_the_rung_it_has_passed_and_others_decide_nothing() -> None:
    scheduler = halving()
    assert report(scheduler, "a", 99, 1) == "CONTINUE"
    assert report(scheduler, "a", 150, 1) == "PAUSE"
    assert report(scheduler, "b", 250, 2) == "PAUSE"  # alone at the second rung
    assert resumed(scheduler) is None
    assert report(scheduler, "c", 100, 3) == "PAUSE"
    assert resumed(scheduler) == "a"
    assert report(scheduler, "a", 199, 1) == "CONTINUE"
    assert report(scheduler, "a", 200, 1) == "CONTINUE"


def test_a_result_without_a_metric_is_refused_by_name() -> None:
    scheduler = halving()
    trial = WaitingTrial("a")
    scheduler.on_trial_add(None, trial)
    with pytest.raises(ValueError, match="needs 'memorization' in every result, one has only fid, seen"):
        scheduler.on_trial_result(None, trial, {"seen": 100, "fid": 1})


@pytest.mark.parametrize("way", ["file", "pickle", "recall"])
def test_what_was_decided_survives(way: str, tmp_path: Path) -> None:
    settings = {"group_by": lambda config: ("all", 1)}
    scheduler = halving(**settings)
    for k, fid in enumerate((5, 9, 3, 9, 4, math.nan)):
        report(scheduler, str(k), 100, fid)
    if way == "file":
        scheduler.save(str(tmp_path / "state.json"))
        again = halving(**settings)
        again.restore(str(tmp_path / "state.json"))
    elif way == "pickle":
        again = cloudpickle.loads(cloudpickle.dumps(scheduler))
    else:
        again = halving(**settings)
        for k, fid in enumerate((5, 9, 3, 9, 4, math.nan)):
            paused = TRIALS[id(scheduler), str(k)].status == Trial.PAUSED
            again.recall(str(k), {}, [{"seen": 100, "fid": fid, "memorization": 0}], paused)
    assert again.n_promotable() == scheduler.n_promotable()
    paused = [trial for trial in TRIALS.values() if trial.status == Trial.PAUSED]
    assert paused
    for trial in paused:
        added = WaitingTrial(trial.trial_id)
        again.on_trial_add(None, added)
        assert added.status == Trial.PAUSED
        assert again.is_paused(added)
    order = [resumed(scheduler) for _ in range(3)]
    assert [resumed(again) for _ in range(3)] == order
    assert order[0] is not None
    assert report(again, "new", 100, 1.0) == report(scheduler, "new", 100, 1.0)


def test_a_state_of_another_experiment_is_refused(tmp_path: Path) -> None:
    halving().save(str(tmp_path / "state.json"))
    with pytest.raises(ValueError, match="other metrics, modes or rungs"):
        halving(rungs=(1, 2)).restore(str(tmp_path / "state.json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rungs": (2, 1)}, "rungs must rise"),
        ({"rungs": ()}, "rungs must rise"),
        ({"ideal": (0,)}, "an ideal for each metric"),
        ({"reduction_factor": 1}, "reduction_factor must be above 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        halving(**changes)
    with pytest.raises(ValueError, match="two metrics or more, each with a mode"):
        ParetoHalving(["fid"], ["min"], rungs=(1, 2))


@pytest.mark.parametrize("make", [InOrder, halving])
def test_a_trial_that_no_worker_starts_for_is_chosen_before_those_that_have_one(make: Any) -> None:
    scheduler, trials = make(), [WaitingTrial(f"trial{k}") for k in range(4)]
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    assert scheduler.choose_trial_to_run(None) is trials[0]
    for trial in trials[:3]:
        trial.relative_logdir = "there"
    assert scheduler.choose_trial_to_run(None) is trials[3]
    trials[3].relative_logdir = "there"
    assert scheduler.choose_trial_to_run(None) is trials[0]
    trials[0].status = Trial.RUNNING
    assert scheduler.choose_trial_to_run(None) is trials[1]
    for trial in trials:
        trial.status = Trial.RUNNING
    assert scheduler.choose_trial_to_run(None) is None
