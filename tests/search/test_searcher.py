from pathlib import Path

import optuna
import pytest
from ray.tune.search import Searcher

import search_spaces
from pareto_amb.config import SweepConfig, apply_overrides, parse
from pareto_amb.diffusion.noise import LogNormal, natural_mix_ratio
from pareto_amb.results import ResultsTable
from pareto_amb.search.searcher import ParetoSearcher


def make_config(*changes: str) -> SweepConfig:
    return parse(SweepConfig, apply_overrides(search_spaces.load("smoke"), changes), "smoke")


def open_searcher(folder: Path, config: SweepConfig) -> tuple[ParetoSearcher, ResultsTable]:
    results = ResultsTable(folder / "results.parquet")
    return ParetoSearcher(config, folder / "study.db", results), results


def row(trial: dict, status: str = "complete") -> dict:
    numbers = {"rung": 2, "images_seen": 10, "budget": 1.0, "n_samples": 5}
    return {
        **trial,
        **numbers,
        "fid": 3.0 + trial["sigma_tn"],
        "memorization": 0.05 if trial["sigma_tn"] else 0.1,
        "status": status,
        "similarity_mean": 0.5,
    }


def finish(searcher: ParetoSearcher, results: ResultsTable, ray_id: str, trial: dict) -> None:
    results.record(row(trial))
    searcher.on_trial_complete(ray_id, row(trial))


def test_baselines_come_first(tmp_path: Path) -> None:
    config = make_config("space.train_size=[50, 80]")
    searcher, results = open_searcher(tmp_path, config)
    trials = []
    for k in range(searcher.n_total):
        trial = searcher.suggest(f"ray{k}")
        assert isinstance(trial, dict)
        finish(searcher, results, f"ray{k}", trial)
        trials.append(trial)
    assert searcher.suggest("more") == Searcher.FINISHED
    assert [t["trial_id"] for t in trials[:4]] == ["n50-ddpm-s0", "n50-ddpm-s1", "n80-ddpm-s0", "n80-ddpm-s1"]
    assert sorted(t["train_size"] for t in trials[4:]) == [50] * 4 + [80] * 4
    assert len({t["trial_id"] for t in trials}) == len(trials)
    assert all(0.1 <= t["sigma_tn"] <= 2 for t in trials[4:])
    for t in trials[4:]:
        assert t["mix_ratio"] in (0.5, natural_mix_ratio(LogNormal(), t["sigma_tn"]))


def test_a_train_size_starts_at_the_best_sigma_tn_of_the_next_smaller_one(tmp_path: Path) -> None:
    ranges = {n: {"low": 0.1 * f, "high": f, "collapse_level": 1.0} for n, f in ((80, 4.0), (50, 1.0))}
    config = make_config(
        f"space.sigma_tn={ranges}", "space.train_size=[80, 50]", "search.trials=6", "search.baseline_seeds=1"
    )
    searcher, results = open_searcher(tmp_path, config)
    trials = []
    for k in range(searcher.n_total):
        trial = searcher.suggest(f"ray{k}")
        assert isinstance(trial, dict)
        finish(searcher, results, f"ray{k}", trial)  # the lower sigma_tn, the better
        trials.append(trial)
    assert [t["train_size"] for t in trials] == [80, 50] + [50] * 4 + [80] * 4 + [80, 50] * 2
    best = min(trials[2:6], key=lambda t: t["sigma_tn"])
    assert trials[6]["sigma_tn"] == pytest.approx(4 * best["sigma_tn"])
    assert trials[7]["sigma_tn"] != pytest.approx(trials[6]["sigma_tn"])


def test_a_larger_size_does_not_wait_when_there_is_nothing_else_to_begin(tmp_path: Path) -> None:
    searcher, _ = open_searcher(tmp_path, make_config("space.train_size=[50, 80]"))
    trials = [searcher.suggest(f"ray{k}") for k in range(searcher.n_total)]
    assert [t["train_size"] for t in trials[4:]] == [50] * 4 + [80] * 4


def test_each_size_has_its_own_two_objective_study(tmp_path: Path) -> None:
    config = make_config("space.train_size=[50, 80]")
    searcher, results = open_searcher(tmp_path, config)
    for k in range(searcher.n_total):
        trial = searcher.suggest(f"ray{k}")
        assert isinstance(trial, dict)
        finish(searcher, results, f"ray{k}", trial)
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
    trials = {f"ray{k}": searcher.suggest(f"ray{k}") for k in range(5)}  # 2 baselines, 3 trials
    finish(searcher, results, "ray0", trials["ray0"])
    finish(searcher, results, "ray2", trials["ray2"])
    results.record(row(trials["ray3"]))  # killed after the row, before Optuna was told
    results.record({**row(trials["ray1"], "running"), "rung": 1, "budget": 0.5})

    again, results = open_searcher(tmp_path, config)
    assert again.n_total == 6
    assert again.n_remaining == 3
    handed_out = [again.suggest(f"again{k}") for k in range(3)]
    assert handed_out[:2] == [{**trials["ray1"], "rung": 1}, trials["ray4"]]
    known = {t["trial_id"] for t in trials.values()}
    assert handed_out[2]["trial_id"] not in known
    assert again.suggest("more") == Searcher.FINISHED
    study = optuna.load_study(study_name="train_size=50", storage=f"sqlite:///{tmp_path}/study.db")
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "RUNNING", "RUNNING"]


def test_paused_trials_are_handed_out_again_first_and_are_no_work_left(tmp_path: Path) -> None:
    config = make_config("search.baseline_seeds=1")
    searcher, results = open_searcher(tmp_path, config)
    trials = [searcher.suggest(f"ray{k}") for k in range(5)]
    for trial, status in zip(trials, ("complete", "pruned", "running", "pruned", "complete"), strict=True):
        done = status == "complete"
        results.record({**row(trial, status), "rung": 2 if done else 1})
    again, _ = open_searcher(tmp_path, config)
    assert again.n_remaining == 1
    handed_out = [again.suggest(f"again{k}") for k in range(3)]
    assert handed_out == [{**trials[k], "rung": 1} for k in (1, 3, 2)]
    assert again.suggest("more") == Searcher.FINISHED
    all_to_the_end = make_config("search.baseline_seeds=1", "search.reduction_factor=null")
    assert open_searcher(tmp_path, all_to_the_end)[0].n_remaining == 3


def test_a_trial_stopped_early_is_not_told_as_complete(tmp_path: Path) -> None:
    searcher, _ = open_searcher(tmp_path, make_config("search.baseline_seeds=1"))
    searcher.suggest("baseline")
    trials = [searcher.suggest(f"ray{k}") for k in range(2)]
    searcher.on_trial_complete("ray0", {**row(trials[0], "running"), "fid": 0.0})
    searcher.on_trial_complete("ray1", error=True)
    study = optuna.load_study(study_name="train_size=50", storage=f"sqlite:///{tmp_path}/study.db")
    assert [t.state.name for t in study.trials[:2]] == ["RUNNING", "FAIL"]


def test_each_size_is_searched_in_the_range_that_auto_found_for_it(tmp_path: Path) -> None:
    found = {50: (0.02, 0.05), 80: (0.3, 0.4)}
    ranges = {s: {"low": low, "high": high, "collapse_level": 1.0} for s, (low, high) in found.items()}
    config = make_config(f"space.sigma_tn={ranges}", "space.train_size=[50, 80]", "search.trials=8")
    searcher, results = open_searcher(tmp_path, config)
    for k in range(searcher.n_total):
        trial = searcher.suggest(f"ray{k}")
        assert isinstance(trial, dict)
        low, high = found[trial["train_size"]]
        assert trial["method"] == "ddpm" or low <= trial["sigma_tn"] <= high
        finish(searcher, results, f"ray{k}", trial)


@pytest.mark.parametrize("sampler", ["gp", "tpe", "random"])
def test_every_sampler_proposes_beyond_its_startup(sampler: str, tmp_path: Path) -> None:
    config = make_config(f"search.sampler={sampler}", "search.trials=12", "search.startup_trials=3")
    searcher, results = open_searcher(tmp_path, config)
    sigmas = []
    for k in range(searcher.n_total):
        trial = searcher.suggest(f"ray{k}")
        finish(searcher, results, f"ray{k}", trial)
        sigmas.append(trial["sigma_tn"])
    assert len(set(sigmas[2:])) > 6


def test_every_method_has_its_own_study_parameters_and_trials(tmp_path: Path) -> None:
    config = make_config(
        "search.methods=[algorithm1, masking, noise_only]", "space.train_size=[50, 80]", "search.trials=3"
    )
    searcher, results = open_searcher(tmp_path, config)
    assert searcher.n_total == 2 * 2 + 2 * 3 * 3
    trials = []
    for k in range(searcher.n_total):
        trial = searcher.suggest(f"ray{k}")
        assert isinstance(trial, dict)
        if k < searcher.n_total - 1:
            finish(searcher, results, f"ray{k}", trial)
        trials.append(trial)
    assert searcher.suggest("more") == Searcher.FINISHED
    assert [t["method"] for t in trials[4:10]] == ["algorithm1", "masking", "noise_only"] * 2
    assert trials[5]["trial_id"] == "n50-masking-0000"
    for t in trials[4:]:
        searched = {name for name in ("sigma_tn", "mix_ratio", "corruption") if t[name] > 0}
        assert searched == ({"corruption"} if t["method"] == "masking" else {"sigma_tn", "mix_ratio"})
        assert t["method"] != "noise_only" or t["mix_ratio"] == 1
        assert t["method"] != "masking" or 0.1 <= t["corruption"] <= 0.9
    first = {t["method"]: t["sigma_tn"] for t in trials[4:7]}
    assert first["algorithm1"] != first["noise_only"]
    states = {
        summary.study_name: summary.n_trials
        for summary in optuna.get_all_study_summaries(f"sqlite:///{tmp_path}/study.db")
    }
    labels = ("", ",method=masking", ",method=noise_only")
    assert states == {f"train_size={size}{label}": 3 for size in (50, 80) for label in labels}

    again, _ = open_searcher(tmp_path, config)
    assert again.n_remaining == 1
    assert again.suggest("again") == trials[-1]
    assert again.suggest("more") == Searcher.FINISHED


def test_a_stopped_search_begins_no_trial_but_goes_on_with_those_that_were(tmp_path: Path) -> None:
    config = make_config()
    searcher, results = open_searcher(tmp_path, config)
    trials = {f"ray{k}": searcher.suggest(f"ray{k}") for k in range(4)}  # 2 baselines, 2 of 4 trials
    finish(searcher, results, "ray2", trials["ray2"])
    searcher.stop()
    assert searcher.n_total == 4
    assert searcher.suggest("more") == Searcher.FINISHED

    again = ParetoSearcher(config, tmp_path / "study.db", results, stopped=True)
    assert (again.n_total, again.n_remaining) == (4, 3)
    assert [again.suggest(f"again{k}") for k in range(3)] == [trials["ray0"], trials["ray1"], trials["ray3"]]
    assert again.suggest("more") == Searcher.FINISHED


def test_repeats_with_fresh_seeds_do_not_count_as_trials_of_the_search(tmp_path: Path) -> None:
    config = make_config()
    searcher, results = open_searcher(tmp_path, config)
    for k in range(searcher.n_total):
        finish(searcher, results, f"ray{k}", searcher.suggest(f"ray{k}"))
    last = results.last_row("n50-algorithm1-0000")
    results.record({**last, "trial_id": "n50-algorithm1-0000-c1", "confirms": "n50-algorithm1-0000"})
    again, _ = open_searcher(tmp_path, config)
    assert (again.n_remaining, again.count_ended(results)) == (0, 6)
