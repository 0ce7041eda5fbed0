import math
import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from ray.tune.search import Searcher

from pareto_amb import search_spaces
from pareto_amb.config import N_PROBED_LEVELS, SweepConfig
from pareto_amb.config_file import apply_overrides
from pareto_amb.declared import Declared, Objective
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.diffusion.noise import LogNormal, natural_mix_ratio
from pareto_amb.diffusion.theory import START_SHARE
from pareto_amb.errors import UserError
from pareto_amb.randomness import derive_seed
from pareto_amb.results.probes import HELDOUT, LEVELS, PROBES, TRAIN, log_errors
from pareto_amb.results.table import ResultsTable, shipped, trial_columns
from pareto_amb.running.searcher import ParetoSearcher
from pareto_amb.search.proposals import ParetoSampler, make_sampler, startup_point
from pareto_amb.sweep_file import declare, parse_sweep
from pareto_amb.trial import Trial

DECLARED = shipped()


def make_config(*changes: str) -> SweepConfig:
    return parse_sweep(apply_overrides(search_spaces.load("smoke"), changes), "smoke")


def open_searcher(
    folder: Path, config: SweepConfig, declared: Declared = DECLARED
) -> tuple[ParetoSearcher, ResultsTable]:
    results = ResultsTable(folder / "results.parquet", declared)
    return ParetoSearcher(config, folder / "study.db", results, METHODS), results


def ask(searcher: ParetoSearcher, ray_id: str) -> Trial:
    config = searcher.suggest(ray_id)
    assert isinstance(config, dict)
    return Trial.from_config(config)


def row(trial: Trial, status: str = "complete", **more: Any) -> dict[str, Any]:
    """The lower sigma_tn, the better."""
    sigma_tn = trial.parameters.get("sigma_tn", 0.0)
    return {
        **trial_columns(trial, DECLARED),
        **{"rung": 3, "images_seen": 10, "budget": 1.0, "n_samples": 5},
        "fid": 3.0 + sigma_tn,
        "memorization": 0.05 if sigma_tn else 0.1,
        "status": status,
        "similarity_mean": 0.5,
        **more,
    }


def told(trial: Trial, status: str = "complete", **more: Any) -> dict[str, Any]:
    """What Ray hands over of a row."""
    found = row(trial, status, **more)
    return {**found, PROBES: log_errors(found)}


def finish(searcher: ParetoSearcher, results: ResultsTable, ray_id: str, trial: Trial, **more: Any) -> None:
    results.record(row(trial, **more))
    searcher.on_trial_complete(ray_id, told(trial, **more))


def run_through(searcher: ParetoSearcher, results: ResultsTable) -> list[Trial]:
    """Every trial of the search, each finished before the next is asked for."""
    trials = []
    for k in range(searcher.n_total):
        trials.append(ask(searcher, f"ray{k}"))
        finish(searcher, results, f"ray{k}", trials[-1])
    assert searcher.suggest("more") == Searcher.FINISHED
    return trials


def sigmas(trials: list[Trial]) -> list[float]:
    return [trial.parameters["sigma_tn"] for trial in trials if "sigma_tn" in trial.parameters]


def test_baselines_come_first(tmp_path: Path) -> None:
    config = make_config("space.train_size=[50, 80]")
    searcher, results = open_searcher(tmp_path, config)
    trials = run_through(searcher, results)
    assert [t.id for t in trials[:4]] == ["n50-ddpm-s0", "n50-ddpm-s1", "n80-ddpm-s0", "n80-ddpm-s1"]
    assert all(t.parameters == {} for t in trials[:4])
    assert sorted(t.train_size for t in trials[4:]) == [50] * 4 + [80] * 4
    assert len({t.id for t in trials}) == len(trials)
    assert all(0.1 <= sigma_tn <= 2 for sigma_tn in sigmas(trials))
    for t in trials[4:]:
        natural = natural_mix_ratio(LogNormal(), t.parameters["sigma_tn"])
        assert t.parameters["mix_ratio"] in (0.5, natural)


def test_a_train_size_starts_at_the_best_sigma_tn_of_the_next_smaller_one(tmp_path: Path) -> None:
    ranges = {n: {"low": 0.1 * f, "high": f, "collapse_level": 1.0} for n, f in ((80, 4.0), (50, 1.0))}
    config = make_config(
        f"space.sigma_tn={ranges}", "space.train_size=[80, 50]", "search.trials=6", "search.baseline_seeds=1"
    )
    searcher, results = open_searcher(tmp_path, config)
    trials = run_through(searcher, results)
    assert [t.train_size for t in trials] == [80, 50] + [50] * 4 + [80] * 4 + [80, 50] * 2
    *small, first, second = sigmas(trials)[:6]
    assert first == pytest.approx(4 * min(small))
    assert second != pytest.approx(first)


def test_a_larger_size_does_not_wait_when_there_is_nothing_else_to_begin(tmp_path: Path) -> None:
    searcher, _ = open_searcher(tmp_path, make_config("space.train_size=[50, 80]"))
    trials = [ask(searcher, f"ray{k}") for k in range(searcher.n_total)]
    assert [t.train_size for t in trials[4:]] == [50] * 4 + [80] * 4


def test_each_size_has_its_own_two_objective_study(tmp_path: Path) -> None:
    config = make_config("space.train_size=[50, 80]")
    searcher, results = open_searcher(tmp_path, config)
    run_through(searcher, results)
    for size in (50, 80):
        study = optuna.load_study(study_name=f"train_size={size}", storage=f"sqlite:///{tmp_path}/study.db")
        assert len(study.directions) == 2
        assert [t.state.name for t in study.trials] == ["COMPLETE"] * 4
        assert [t.values[0] for t in study.trials] == pytest.approx(
            [3 + t.params["sigma_tn"] for t in study.trials]
        )


def test_a_rebuilt_searcher_hands_out_exactly_what_has_not_finished(tmp_path: Path) -> None:
    config = make_config()
    searcher, results = open_searcher(tmp_path, config)
    trials = {f"ray{k}": ask(searcher, f"ray{k}") for k in range(5)}  # 2 baselines, 3 trials
    finish(searcher, results, "ray0", trials["ray0"])
    finish(searcher, results, "ray2", trials["ray2"])
    results.record(row(trials["ray3"]))  # killed after the row, before Optuna was told
    results.record(row(trials["ray1"], "running", rung=1, budget=0.5))

    again, results = open_searcher(tmp_path, config)
    assert again.n_total == 6
    assert again.n_remaining == 3
    handed_out = [ask(again, f"again{k}") for k in range(3)]
    assert handed_out[:2] == [trials["ray1"].after(1), trials["ray4"]]
    assert handed_out[2].id not in {trial.id for trial in trials.values()}
    assert again.suggest("more") == Searcher.FINISHED
    study = optuna.load_study(study_name="train_size=50", storage=f"sqlite:///{tmp_path}/study.db")
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "RUNNING", "RUNNING"]


def test_paused_trials_are_handed_out_again_first_and_are_no_work_left(tmp_path: Path) -> None:
    config = make_config("search.baseline_seeds=1")
    searcher, results = open_searcher(tmp_path, config)
    trials = [ask(searcher, f"ray{k}") for k in range(5)]
    for trial, status in zip(trials, ("complete", "paused", "running", "paused", "complete"), strict=True):
        results.record(row(trial, status, rung=2 if status == "complete" else 1))
    again, _ = open_searcher(tmp_path, config)
    assert again.n_remaining == 1
    assert [ask(again, f"again{k}") for k in range(3)] == [trials[k].after(1) for k in (1, 3, 2)]
    assert again.suggest("more") == Searcher.FINISHED
    all_to_the_end = make_config("search.baseline_seeds=1", "search.early_stopping=false")
    assert open_searcher(tmp_path, all_to_the_end)[0].n_remaining == 3


def test_a_trial_stopped_early_is_not_told_as_complete(tmp_path: Path) -> None:
    searcher, _ = open_searcher(tmp_path, make_config("search.baseline_seeds=1"))
    searcher.suggest("baseline")
    first, second = (ask(searcher, f"ray{k}") for k in range(2))
    searcher.on_trial_complete("ray0", told(first, "running", fid=0.0))
    searcher.on_trial_complete("ray1", error=True)
    searcher.failed(second)
    study = optuna.load_study(study_name="train_size=50", storage=f"sqlite:///{tmp_path}/study.db")
    assert [t.state.name for t in study.trials[:2]] == ["RUNNING", "FAIL"]


def test_each_size_is_searched_in_the_range_that_auto_found_for_it(tmp_path: Path) -> None:
    found = {50: (0.02, 0.05), 80: (0.3, 0.4)}
    ranges = {s: {"low": low, "high": high, "collapse_level": 1.0} for s, (low, high) in found.items()}
    config = make_config(f"space.sigma_tn={ranges}", "space.train_size=[50, 80]", "search.trials=8")
    searcher, results = open_searcher(tmp_path, config)
    for trial in run_through(searcher, results):
        low, high = found[trial.train_size]
        assert trial.method == "ddpm" or low <= trial.parameters["sigma_tn"] <= high


def test_once_started_the_sampler_that_was_asked_for_steers(tmp_path: Path) -> None:
    """Startup points are the same for all samplers; from then on each goes its own way.

    The search is easy: the lower sigma_tn, the better. Those that learn from it go lower than chance.
    """
    chosen = {}
    for sampler in ("gp", "tpe", "random"):
        config = make_config(f"search.sampler={sampler}", "search.trials=20", "search.startup_trials=4")
        (tmp_path / sampler).mkdir()
        chosen[sampler] = sigmas(run_through(*open_searcher(tmp_path / sampler, config)))
    assert chosen["gp"][:4] == chosen["tpe"][:4] == chosen["random"][:4]
    later = {sampler: np.log(values[4:]) for sampler, values in chosen.items()}
    assert all(len(set(values)) == 16 for values in later.values())
    assert later["gp"].mean() < later["random"].mean() - 0.5
    assert later["tpe"].mean() < later["random"].mean() - 0.5


def test_a_sampler_is_told_which_parameters_have_a_logarithmic_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(
        "pareto_amb.running.searcher.make_sampler",
        lambda config, seed, log=(): told.append(list(log)) or make_sampler(config, seed, log),
    )
    open_searcher(tmp_path, make_config("search.methods=[algorithm1, masking]"))
    assert told == [["sigma_tn"], []]


def test_every_method_has_its_own_study_parameters_and_trials(tmp_path: Path) -> None:
    config = make_config(
        "search.methods=[algorithm1, masking, noise_only]", "space.train_size=[50, 80]", "search.trials=3"
    )
    searcher, results = open_searcher(tmp_path, config)
    assert searcher.n_total == 2 * 2 + 2 * 3 * 3
    trials = []
    for k in range(searcher.n_total):
        trials.append(ask(searcher, f"ray{k}"))
        if k < searcher.n_total - 1:
            finish(searcher, results, f"ray{k}", trials[-1])
    assert searcher.suggest("more") == Searcher.FINISHED
    assert [t.method for t in trials[4:10]] == ["algorithm1", "masking", "noise_only"] * 2
    assert trials[5].id == "n50-masking-0000"
    for t in trials[4:]:
        assert tuple(t.parameters) == DECLARED.method(t.method).parameter_names
        assert 0.1 <= t.parameters.get("corruption", 0.5) <= 0.9
    assert trials[4].parameters["sigma_tn"] != trials[6].parameters["sigma_tn"]
    states = {
        summary.study_name: summary.n_trials
        for summary in optuna.get_all_study_summaries(f"sqlite:///{tmp_path}/study.db")
    }
    labels = ("", ",method=masking", ",method=noise_only")
    assert states == {f"train_size={size}{label}": 3 for size in (50, 80) for label in labels}

    again, _ = open_searcher(tmp_path, config)
    assert again.n_remaining == 1
    assert ask(again, "again") == trials[-1]
    assert again.suggest("more") == Searcher.FINISHED


def test_a_stopped_search_begins_no_trial_but_goes_on_with_those_that_were(tmp_path: Path) -> None:
    config = make_config()
    searcher, results = open_searcher(tmp_path, config)
    trials = {f"ray{k}": ask(searcher, f"ray{k}") for k in range(4)}  # 2 baselines, 2 of 4 trials
    finish(searcher, results, "ray2", trials["ray2"])
    searcher.stop()
    assert searcher.n_total == 4
    assert searcher.suggest("more") == Searcher.FINISHED

    again = ParetoSearcher(config, tmp_path / "study.db", results, METHODS, stopped=True)
    assert (again.n_total, again.n_remaining) == (4, 3)
    assert [ask(again, f"again{k}") for k in range(3)] == [trials[f"ray{k}"] for k in (0, 1, 3)]
    assert again.suggest("more") == Searcher.FINISHED


def test_repeats_with_fresh_seeds_do_not_count_as_trials_of_the_search(tmp_path: Path) -> None:
    config = make_config()
    searcher, results = open_searcher(tmp_path, config)
    run_through(searcher, results)
    last = results.last_row("n50-algorithm1-0000")
    results.record({**last, "trial_id": "n50-algorithm1-0000-c1", "confirms": "n50-algorithm1-0000"})
    again, _ = open_searcher(tmp_path, config)
    assert (again.n_remaining, again.count_ended(results)) == (0, 6)


def studies(folder: Path) -> dict[str, optuna.Study]:
    """As optuna-dashboard finds them; those with trials."""
    storage = f"sqlite:///{folder}/study.db"
    found = [study.study_name for study in optuna.get_all_study_summaries(storage) if study.n_trials]
    return {name: optuna.load_study(study_name=name, storage=storage) for name in found}


def test_a_dashboard_sees_names_rungs_pictures_and_who_waits(tmp_path: Path) -> None:
    searcher, results = open_searcher(tmp_path, make_config("search.baseline_seeds=1"))
    baseline, paused, probed = (ask(searcher, f"ray{k}") for k in range(3))
    unsampled = {"n_samples": 0, "fid": math.nan, "memorization": math.nan}

    def record(trial: Trial, status: str, **more: Any) -> None:
        results.record(row(trial, status, **more))
        searcher.show(trial.id)

    record(baseline, "running", rung=1)
    record(paused, "paused", rung=1, fid=1 / 3)
    record(probed, "interrupted", rung=1, **unsampled)
    (study,) = studies(tmp_path).values()
    assert study.metric_names == ["fid", "memorization"]
    first, second = study.trials
    figures = {"images_seen": 10, "n_samples": 5, "fid": 0.333333, "memorization": 0.05}
    assert first.user_attrs == {
        "trial_id": paused.id,
        "status": "paused",
        "seed": paused.seed,
        "rung_1": {**figures, "picture": f"samples/{paused.id}/rung-1.png"},
    }
    assert second.user_attrs["rung_1"] == {"images_seen": 10, "n_samples": 0}
    assert [trial.state.name for trial in study.trials] == ["WAITING", "WAITING"]
    assert first.system_attrs["fixed_params"] == first.params
    record(paused, "running", rung=1)
    assert studies(tmp_path)["train_size=50"].trials[0].state.name == "RUNNING"
    record(paused, "complete")
    searcher.on_trial_complete("ray1", told(paused))
    searcher.show(paused.id)
    ended = studies(tmp_path)["train_size=50"].trials[0]
    assert (ended.state.name, ended.user_attrs["status"]) == ("COMPLETE", "complete")
    assert ended.user_attrs.keys() >= {"rung_1", "rung_3"}


def test_baselines_repeats_and_controls_stand_beside_the_search_and_change_nothing_in_it(
    tmp_path: Path,
) -> None:
    config = make_config("search.baseline_seeds=1", "search.trials=5")
    (tmp_path / "plain").mkdir()
    plain, alone = open_searcher(tmp_path / "plain", config)
    searcher, results = open_searcher(tmp_path, config)
    for k in range(3):
        for each, table in ((plain, alone), (searcher, results)):
            finish(each, table, f"ray{k}", ask(each, f"ray{k}"))
        for trial_id in results.trial_ids():
            searcher.show(trial_id)
    chosen = results.last_row("n50-algorithm1-0000")
    assert chosen is not None
    follows = {
        "n50-algorithm1-0000-r2-c1": {"confirms": chosen["trial_id"], "rung": 2, "images_seen": 7},
        "n50-algorithm1-0000-r2-c1-control": {"controls": chosen["trial_id"], "method": "control"},
        "n50-algorithm1-0000-r2-c2": {"confirms": chosen["trial_id"], "status": "running"},
    }
    for trial_id, differs in follows.items():
        results.record({**chosen, "trial_id": trial_id, **differs})
        for _ in range(2):
            searcher.show(trial_id)
    found = {name: study.trials for name, study in studies(tmp_path).items()}
    assert {name: [t.user_attrs["trial_id"] for t in trials] for name, trials in found.items()} == {
        "train_size=50": ["n50-algorithm1-0000", "n50-algorithm1-0001"],
        "train_size=50, baselines and repeats": ["n50-ddpm-s0", "n50-algorithm1-0000-r2-c1"],
        "train_size=50, controls": ["n50-algorithm1-0000-r2-c1-control"],
    }
    baseline, repeat = found["train_size=50, baselines and repeats"]
    assert (baseline.params, baseline.values) == ({"method": "ddpm", "images_seen": 10}, [3.0, 0.1])
    assert (repeat.params["images_seen"], repeat.params["sigma_tn"]) == (7, chosen["sigma_tn"])
    assert repeat.user_attrs["confirms"] == "n50-algorithm1-0000"
    asked = [open_searcher(folder, config)[0] for folder in (tmp_path, tmp_path / "plain")]
    first, second = ([ask(each, f"{k}") for k in range(3)] for each in asked)
    assert first == second


def test_three_objectives_one_maximised_reach_study_and_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study holds what was measured; the search hears it minimised, within the box that DDPM sets."""
    sharpness = Objective("sharpness", "s", "", "max", ideal=10.0, measure=lambda measured: 0.0)
    values = {**search_spaces.load("smoke"), "name": "three"}
    names = [*DECLARED.objectives, "sharpness"]
    values["search"] = {**values["search"], "objectives": names, "baseline_seeds": 1, "startup_trials": 1}
    declared = declare(objectives=[sharpness])
    config = parse_sweep(values, "three", declared)
    searcher, results = open_searcher(tmp_path, config, declared.judged_by(names))
    assert (searcher.metric, searcher.mode) == (names, ["min", "min", "max"])

    boxes, heard = [], []
    propose, report = ParetoSampler.propose, ParetoSampler.report
    monkeypatch.setattr(
        ParetoSampler, "propose", lambda self, box=None: boxes.append(box) or propose(self, box)
    )
    monkeypatch.setattr(
        ParetoSampler, "report", lambda self, *shown: heard.append(shown) or report(self, *shown)
    )
    for k in range(searcher.n_total):
        trial = ask(searcher, f"ray{k}")
        finish(searcher, results, f"ray{k}", trial, sharpness=4.0 + k)
    ideal, reference = (np.asarray(end).tolist() for end in boxes[-1])
    assert ideal == [0.0, 0.0, -10.0]
    assert reference == [6.0, 0.1, -4.0]  # DDPM has fid 3, memorization 0.1 and sharpness 4
    assert [key for key, *_ in heard] == ["n50-ddpm-s0", 0, 1, 2, 3]
    assert heard[-1][1] == 3
    assert heard[-1][2][1:4] == [0.05, -(4.0 + searcher.n_total - 1), 0.5]
    study = optuna.load_study(study_name="train_size=50", storage=f"sqlite:///{tmp_path}/study.db")
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MINIMIZE", "MAXIMIZE"]
    assert [trial.values[2] for trial in study.trials] == [5.0, 6.0, 7.0, 8.0]


@pytest.mark.parametrize("memorization", [0.1, 0.0])
def test_no_box_where_ddpm_is_perfect_in_an_objective(memorization: float, tmp_path: Path) -> None:
    searcher, results = open_searcher(tmp_path, make_config("search.baseline_seeds=1"))
    assert searcher._box(50) is None
    finish(searcher, results, "ray", ask(searcher, "ray"), memorization=memorization)
    assert (searcher._box(50) is None) == (memorization == 0.0)


def test_a_study_that_was_lost_is_made_again_from_the_table(tmp_path: Path) -> None:
    config = make_config("search.trials=6", "space.mix_ratio=[natural, 0.5]")
    straight, results = open_searcher(tmp_path, config)
    trials = [ask(straight, f"ray{k}") for k in range(straight.n_total)]
    baselines = config.search.baseline_seeds
    for k, trial in enumerate(trials[: baselines + 3]):
        if k != baselines + 1:
            results.record(row(trial))
    (tmp_path / "study.db").unlink()
    again, _ = open_searcher(tmp_path, config)
    assert again.n_remaining == straight.n_total - baselines - 2
    assert ask(again, "ray") == trials[baselines + 1]


GRID = ("search.sampler=grid", "space.sigma_tn=[0.4, 0.1, 1]", "space.mix_ratio=[natural, 0.5]")
POINTS = [(0.4, "natural"), (0.4, 0.5), (0.1, "natural"), (0.1, 0.5), (1.0, "natural"), (1.0, 0.5)]


def grid_config(*changes: str) -> SweepConfig:
    return make_config(*GRID, "search.baseline_seeds=1", "search.trials=9", *changes)


def points(trials: list[Trial]) -> list[tuple[float, float | str]]:
    """What the trials of Algorithm 1 have, the word where it is meant."""
    chosen = [trial.parameters for trial in trials if trial.method == "algorithm1"]
    natural = {s: natural_mix_ratio(LogNormal(), s) for s in (0.1, 0.4, 1.0)}
    return [
        (p["sigma_tn"], "natural" if p["mix_ratio"] == natural[p["sigma_tn"]] else p["mix_ratio"])
        for p in chosen
    ]


def test_a_grid_is_run_once_in_its_order_for_each_size_and_method(tmp_path: Path) -> None:
    config = grid_config(
        "space.train_size=[50, 80]", "search.methods=[algorithm1, masking]", "space.corruption=[0.3, 0.7]"
    )
    searcher, results = open_searcher(tmp_path, config)
    assert searcher.n_total == 2 * (1 + 6 + 2)
    trials = run_through(searcher, results)
    for size in (50, 80):
        ours = [trial for trial in trials if trial.train_size == size]
        assert points(ours) == POINTS
        assert [t.parameters["corruption"] for t in ours if t.method == "masking"] == [0.3, 0.7]
    again, _ = open_searcher(tmp_path, config)
    assert (again.n_total, again.n_remaining) == (18, 0)


def test_a_grid_begins_all_sizes_alike(tmp_path: Path) -> None:
    searcher, _ = open_searcher(tmp_path, grid_config("space.train_size=[50, 80]"))
    begun = [ask(searcher, f"ray{k}") for k in range(6)]
    assert [trial.train_size for trial in begun[2:]] == [50, 80, 50, 80]
    assert points(begun) == [POINTS[0], POINTS[0], POINTS[1], POINTS[1]]


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("killed", range(1, 6))
def test_a_grid_killed_anywhere_runs_each_point_exactly_once(tmp_path: Path, killed: int, lost: bool) -> None:
    """Killed with two trials under way, one of which has a row; then study.db may be lost as well."""
    config = grid_config()
    searcher, results = open_searcher(tmp_path, config)
    begun = [ask(searcher, f"ray{k}") for k in range(1 + killed)]
    for k, trial in enumerate(begun[:-2]):
        finish(searcher, results, f"ray{k}", trial, status="failed" if k == 1 else "complete")
    results.record(row(begun[-1], "running", rung=1, budget=0.5))
    ended = len(begun[:-2])
    if lost:
        (tmp_path / "study.db").unlink()
    again, results = open_searcher(tmp_path, config)
    assert (again.n_total, again.n_remaining) == (7, 7 - ended)
    handed_out = [ask(again, f"again{k}") for k in range(7 - ended)]
    assert again.suggest("more") == Searcher.FINISHED
    trials = sorted([*begun[:ended], *handed_out], key=lambda trial: trial.id)
    assert len({trial.id for trial in trials}) == 7
    assert points(trials) == POINTS
    assert [t.seed for t in trials if t.method == "algorithm1"] == list(range(6))


@pytest.mark.parametrize("case", ["bytes", "folder", "pipe", "version", "other", "locked"])
def test_a_database_that_cannot_be_used_is_named(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, path = make_config("search.trials=2"), tmp_path / "study.db"
    searcher, results = open_searcher(tmp_path, config)
    monkeypatch.setattr("pareto_amb.running.study._PATIENCE", 0.05)
    remedy = "delete it: it is made again from the results table"
    held = sqlite3.connect(path, isolation_level=None)
    if case == "bytes":
        path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    elif case == "folder":
        path.unlink()
        path.mkdir()
    elif case == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif case == "version":
        held.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    elif case == "other":
        trials = [ask(searcher, f"ray{k}") for k in range(searcher.n_total)]
        results.record({**row(trials[-1]), "sigma_tn": 1.2345})
    else:
        held.execute("BEGIN EXCLUSIVE")
        remedy = "end the process that uses it"
    with pytest.raises(UserError, match=rf"study\.db: cannot be used .*; {remedy}"):
        open_searcher(tmp_path, config)
    held.close()


def test_the_first_noise_levels_lie_around_a_share_of_the_collapse_level(tmp_path: Path) -> None:
    config = make_config("search.baseline_seeds=1", "search.trials=2")
    results = ResultsTable(tmp_path / "results.parquet", DECLARED)
    for level, first in ((2.5, START_SHARE * 2.5), (1e9, 2.0), (math.inf, None)):
        folder = tmp_path / f"{level}"
        folder.mkdir()
        searcher = ParetoSearcher(config, folder / "study.db", results, METHODS, {50: level})
        _, trial = (ask(searcher, name) for name in ("ddpm", "first"))
        evenly = startup_point(searcher._distributions[50, "algorithm1"], 0, derive_seed(0, "startup/50"))
        assert trial.parameters["sigma_tn"] == pytest.approx(first or evenly["sigma_tn"])


def test_the_search_hears_of_every_rung_and_its_probes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[int, list[float]]] = []
    report = ParetoSampler.report

    def listen(self: ParetoSampler, key: int | str, rung: int, values: list[float]) -> None:
        if key == 0:
            heard.append((rung, values))
        report(self, key, rung, values)

    monkeypatch.setattr(ParetoSampler, "report", listen)
    config = make_config("search.baseline_seeds=1", "search.trials=1")
    assert config.first_full_rung == 2
    searcher, results = open_searcher(tmp_path, config)
    finish(searcher, results, "ddpm", ask(searcher, "ddpm"))
    trial = ask(searcher, "a")
    nothing = {"fid": math.nan, "memorization": math.nan, "similarity_mean": math.nan, "n_samples": 0}
    levels = [float(k) for k in range(1, N_PROBED_LEVELS + 1)]
    probes = {LEVELS: levels, TRAIN: [1.0] * N_PROBED_LEVELS, HELDOUT: [math.e] * N_PROBED_LEVELS}
    for rung, more in ((1, nothing), (2, {"fid": 7.0})):
        results.record(row(trial, "running", rung=rung, **probes, **more))
        searcher.on_trial_result("a", told(trial, "running", rung=rung, **probes, **more))
    logs = pytest.approx([0.0] * N_PROBED_LEVELS + [1.0] * N_PROBED_LEVELS)
    assert [(rung, values[3:]) for rung, values in heard] == [(1, logs), (2, logs)]
    assert np.isnan(heard[0][1][:3]).all()
    assert heard[1][1][0] == 7.0
    again, _ = open_searcher(tmp_path, config)
    assert [rung for rung, _ in heard] == [1, 2, 1, 2]
    assert np.array_equal(heard[2][1], heard[0][1], equal_nan=True)
    assert ask(again, "b").measured == 2


BRANCHED = ("search.branch_from=auto", "evaluation.probes=[0.125, 0.25]", "evaluation.rungs=[0.5, 1]")


def probed(trial: Trial, rung: int, gap: float, status: str = "running") -> dict[str, Any]:
    """A rung of a baseline, a probe rung: how far apart its denoising errors are."""
    errors = {"probe_levels": [0.1], "probe_train": [1.0], "probe_heldout": [gap], "n_samples": 0}
    unknown = {"fid": math.nan, "memorization": math.nan}
    return row(trial, status, rung=rung, budget=0.125 * rung, **errors, **unknown)


def test_branched_trials_wait_for_the_first_baseline_of_their_size(tmp_path: Path) -> None:
    config = make_config(*BRANCHED, "space.train_size=[50, 80]")
    searcher, results = open_searcher(tmp_path, config)
    baselines = [ask(searcher, f"ray{k}") for k in range(4)]
    assert [t.id for t in baselines] == ["n50-ddpm-s0", "n80-ddpm-s0", "n50-ddpm-s1", "n80-ddpm-s1"]
    results.record(probed(baselines[0], 1, 1.0))
    assert searcher.suggest("later") is None  # a trial may follow, so that the search is not over
    results.record(probed(baselines[1], 1, 1.0))
    results.record(probed(baselines[1], 2, 2.0))
    for k in range(4):
        large = ask(searcher, f"large{k}")
        assert (large.train_size, large.branched_at) == (80, config.rung_images()[0])
    assert searcher.suggest("later") is None
    results.record(row(baselines[0], "failed", rung=1))
    searcher.on_trial_complete("ray0", error=True)
    small = ask(searcher, "small")
    assert (small.train_size, small.branched_at) == (50, config.rung_images()[0])


def test_branched_trials_are_left_where_their_baseline_was_cut_off(tmp_path: Path) -> None:
    searcher, results = open_searcher(tmp_path, make_config(*BRANCHED))
    first, second = (ask(searcher, f"ray{k}") for k in range(2))
    results.record(probed(first, 1, 1.0, "interrupted"))
    searcher.on_trial_complete("ray0", error=True)
    assert searcher.suggest("later") == Searcher.FINISHED
    again, results = open_searcher(tmp_path, make_config(*BRANCHED))
    assert [ask(again, f"again{k}") for k in range(2)] == [first.after(1), second]
    assert again.suggest("later") is None


def test_a_branched_search_that_was_killed_goes_on_with_the_same_trials(tmp_path: Path) -> None:
    """Those with a row, those without one, and those still to come are all branched where they were to be."""
    config = make_config(*BRANCHED)
    searcher, results = open_searcher(tmp_path, config)
    baseline = ask(searcher, "ddpm")
    ask(searcher, "other")
    results.record(probed(baseline, 1, 1.0))
    results.record(probed(baseline, 2, 9.0))
    begun = [ask(searcher, f"ray{k}") for k in range(3)]
    images = config.rung_images()[0]
    assert {trial.branched_at for trial in begun} == {images}
    results.record(row(begun[0]))
    results.record(row(begun[1], "interrupted", rung=0))
    results.record(probed(baseline, 3, 9.0, "complete"))
    again, _ = open_searcher(tmp_path, config)
    assert again.n_remaining == 4
    handed_out = [ask(again, f"again{k}") for k in range(4)]
    assert handed_out[1:3] == begun[1:]
    assert handed_out[3].id == "n50-algorithm1-0003"
    assert handed_out[3].branched_at == images
    assert again.suggest("more") == Searcher.FINISHED


def test_a_trial_that_was_begun_stays_branched_where_it_was(tmp_path: Path) -> None:
    """Though the failed baseline that it was branched from is tried again, and may be branched at later."""
    config = make_config(*BRANCHED)
    searcher, results = open_searcher(tmp_path, config)
    baseline, _ = (ask(searcher, name) for name in ("ddpm", "other"))
    results.record(probed(baseline, 1, 1.0, "failed"))
    searcher.on_trial_complete("ddpm", error=True)
    begun, silent = (ask(searcher, f"ray{k}") for k in range(2))
    assert begun.branched_at == silent.branched_at == config.rung_images()[0]
    results.record(row(begun, "interrupted", rung=0))
    results.record(probed(baseline, 1, 1.0, "interrupted"))
    again, _ = open_searcher(tmp_path, config)
    handed_out = [ask(again, f"again{k}") for k in range(3)]
    assert [trial.id for trial in handed_out] == [baseline.id, "n50-ddpm-s1", begun.id]
    assert handed_out[2].branched_at == begun.branched_at
    assert again.suggest("silent") is None  # the other waits with those that were not begun


def test_trials_begin_from_scratch_where_nothing_is_said_of_branching(tmp_path: Path) -> None:
    trials = run_through(*open_searcher(tmp_path, make_config()))
    assert {trial.branched_at for trial in trials} == {0}
