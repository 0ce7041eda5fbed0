from pathlib import Path
from typing import Any

import pytest

from pareto_amb import search_spaces
from pareto_amb.config import SweepConfig
from pareto_amb.config_file import apply_overrides
from pareto_amb.declared import Declared, MethodInfo
from pareto_amb.results.confirm import branched_trials, next_from_scratch
from pareto_amb.results.table import ResultsTable, columns, shipped
from pareto_amb.running.confirm import (
    ChosenTrials,
    GivenTrials,
    choose_from_scratch,
    followers,
    from_scratch,
    to_choose,
    unfinished,
)
from pareto_amb.running.pace import Paced
from pareto_amb.sweep_file import parse_sweep
from pareto_amb.trial import Trial

DECLARED = shipped()


def make_config(*changes: str) -> SweepConfig:
    changes = ("search.confirm={candidates: 2, seeds: 2}", "evaluation.probes=[]", *changes)
    return parse_sweep(apply_overrides(search_spaces.load("smoke"), changes), "smoke")


def row(trial_id: str, fid: float, memorization: float, rung: int = 2, **more: Any) -> dict[str, Any]:
    numbers: dict[str, Any] = {name: 1 for name, c in columns(DECLARED).items() if c.dtype != "str"} | {
        "branched_at": 0
    }
    words = {"trial_id": trial_id, "method": "algorithm1", "status": "complete", "error": ""}
    place = {"rung": rung, "budget": rung / 2, "images_seen": 6400 * rung, "train_size": 50}
    return {**numbers, **words, **place, "fid": fid, "memorization": memorization, **more}


def baselines(folder: Path) -> ResultsTable:
    """DDPM at fids 100 and 104: no worse is up to 102 + 2 * 2.83."""
    results = ResultsTable(folder / "results.parquet", DECLARED)
    for k, fid in enumerate((100.0, 104.0)):
        results.record(row(f"n50-ddpm-s{k}", 150.0, 0.1, 1, method="ddpm"))
        results.record(row(f"n50-ddpm-s{k}", fid, 0.5, method="ddpm"))
    return results


def finished_search(folder: Path) -> ResultsTable:
    """DDPM, and trials of which the first three are near what it admits."""
    results = baselines(folder)
    for name, fid, memorization in [
        ("a", 101.0, 0.3),
        ("b", 107.0, 0.2),  # admissible, fewest copies
        ("c", 109.0, 0.1),  # just not admissible
        ("d", 130.0, 0.0),
        ("e", 95.0, 0.4),
    ]:
        results.record(row(name, 150.0, 0.4, 1, sigma_tn=ord(name) / 100, seed=ord(name)))
        results.record(row(name, fid, memorization, sigma_tn=ord(name) / 100, seed=ord(name)))
    results.record(row("f", 106.0, 0.25, 1, status="paused", sigma_tn=ord("f") / 100, seed=ord("f")))
    results.record(row("g", 90.0, 0.0, status="failed"))
    results.record(row("h", 90.0, 0.0, method="control"))  # may not be recommended
    return results


def left(config: SweepConfig, results: ResultsTable) -> list[Trial]:
    return unfinished(followers(config, results), results)


def ids(trials: list[Trial]) -> list[str]:
    return [trial.id for trial in trials]


def test_each_candidate_is_trained_again_to_its_own_stopping_point_with_the_same_fresh_seeds(
    tmp_path: Path,
) -> None:
    found = left(make_config("search.controls=false"), finished_search(tmp_path))
    assert ids(found) == ["b-r2-c1", "b-r2-c2", "f-r1-c1", "f-r1-c2"]
    assert [(trial.confirms, trial.last) for trial in found] == [("b", 2), ("b", 2), ("f", 1), ("f", 1)]
    chosen = [{"sigma_tn": ord(name) / 100, "mix_ratio": 1.0} for name in "bbff"]
    assert [trial.parameters for trial in found] == chosen
    first, second, *others = [trial.seed for trial in found]
    assert others == [first, second]
    assert len({first, second, *(ord(name) for name in "abcdefgh"), 0, 1}) == 12
    assert {(trial.method, trial.train_size, trial.measured) for trial in found} == {("algorithm1", 50, 0)}


def test_each_repeat_has_a_control_that_differs_in_the_method_alone(tmp_path: Path) -> None:
    found = left(make_config(), finished_search(tmp_path))
    repeats, controls = found[:4], found[4:]
    assert ids(controls) == [f"{trial.id}-control" for trial in repeats]
    for repeat, control in zip(repeats, controls, strict=True):
        assert (control.method, control.confirms, control.controls) == ("control", "", repeat.confirms)
        same = ("train_size", "seed", "parameters", "last")
        assert [getattr(control, name) for name in same] == [getattr(repeat, name) for name in same]
        assert repeat.controls == ""


def test_a_control_is_trained_at_those_parameters_that_it_has(tmp_path: Path) -> None:
    own = {
        "own": MethodInfo(
            "own", "Own", "", control="plain", parameters=DECLARED.method("control").parameters
        ),
        "plain": MethodInfo("plain", "Plain", "", parameters=DECLARED.method("control").parameters[:1]),
    }
    results = finished_search(tmp_path)
    declared = Declared({**DECLARED.methods, **own}, DECLARED.objectives)
    results = ResultsTable(results.path, declared)
    results.record(row("o", 80.0, 0.0, method="own", sigma_tn=0.25, mix_ratio=0.5))
    repeat, control = (next(t for t in left(make_config(), results) if t.method == m) for m in own)
    assert (repeat.parameters, repeat.id) == ({"sigma_tn": 0.25, "mix_ratio": 0.5}, "o-r2-c1")
    assert (control.parameters, control.id) == ({"sigma_tn": 0.25}, "o-r2-c1-plain")


@pytest.mark.parametrize("off", ["candidates", "seeds"])
def test_none_are_trained_where_confirmation_is_off(tmp_path: Path, off: str) -> None:
    config = make_config(f"search.confirm.{off}=0")
    assert followers(config, finished_search(tmp_path)) == []
    assert (config.n_confirmations(DECLARED), config.n_controls(DECLARED)) == (0, 0)


@pytest.mark.parametrize(
    ("change", "planned"),
    [
        ("search.methods=[control]", (0, 0)),
        ("search.methods=[masking]", (0, 0)),
        ("search.methods=[algorithm1, masking]", (4, 4)),
        ("search.controls=false", (4, 0)),
        ("seed=0", (4, 4)),
    ],
)
def test_what_follows_a_search_is_planned_for(change: str, planned: tuple[int, int]) -> None:
    config = make_config(change)
    assert (config.n_confirmations(DECLARED), config.n_controls(DECLARED)) == planned


def test_what_has_been_trained_changes_no_candidate(tmp_path: Path) -> None:
    results = finished_search(tmp_path)
    before = left(make_config(), results)
    for done, trial in enumerate(before):
        assert left(make_config(), results) == before[done:]
        own = {"confirms": trial.confirms, "controls": trial.controls, "method": trial.method}
        results.record(row(trial.id, 0.0, 0.0, trial.last, **own, seed=trial.seed, **trial.parameters))
    assert left(make_config(), results) == []
    assert followers(make_config(), results) == before


def test_a_longer_search_keeps_what_was_begun_for_the_shorter_one(tmp_path: Path) -> None:
    results, config = finished_search(tmp_path), make_config()
    _, _, repeat, _, *_, control, _ = followers(config, results)
    assert (repeat.id, control.id) == ("f-r1-c1", "f-r1-c1-control")
    unmeasured = {"rung": 0, "budget": 0.0, "status": "interrupted"}
    for trial in (repeat, control):
        own = {"confirms": trial.confirms, "controls": trial.controls, "method": trial.method}
        results.record(row(trial.id, 0, 0, **own, seed=trial.seed, **trial.parameters) | unmeasured)
    for name in "xy":
        results.record(row(name, 90.0, 0.01))
    found = followers(config, results)
    assert ids(found[:5]) == ["x-r2-c1", "x-r2-c2", "y-r2-c1", "y-r2-c2", "f-r1-c1"]
    assert ids(found[5:]) == [f"{name}-control" for name in ids(found[:5])]
    assert (found[4], found[9]) == (repeat, control)


def test_repeats_of_an_older_version_went_to_the_end_and_are_not_trained_twice(tmp_path: Path) -> None:
    results, config = finished_search(tmp_path), make_config("search.controls=false")
    first, second, *others = followers(config, results)
    results.record(row("b-c1", 500.0, 0.9, confirms="b", seed=first.seed))
    old = {"confirms": "b", "seed": second.seed, "status": "interrupted", "sigma_tn": ord("b") / 100}
    results.record(row("b-c2", 500.0, 0.9, 0, **old))
    found = left(config, results)
    assert ids(found) == ["b-c2", *ids(others)]
    assert found[0].last == 2


def test_given_trials_are_handed_out_in_order_and_then_no_more() -> None:
    trials = [Trial(name, "algorithm1", 50, seed, {"sigma_tn": 0.5}) for seed, name in enumerate("ab")]
    searcher = GivenTrials(trials, list(DECLARED.objectives.values()))
    assert (searcher.metric, searcher.mode) == (["fid", "memorization"], ["min", "min"])
    handed_out = [searcher.suggest(f"ray{k}") for k in range(3)]
    assert [Trial.from_config(config) for config in handed_out[:2]] == trials
    assert handed_out[2] == GivenTrials.FINISHED


BRANCHED = ("search.branch_from=0.5", "search.confirm.points=3", "search.controls=false")


def branched_search(folder: Path) -> ResultsTable:
    """DDPM as above, and trials that went on from it after half of the budget."""
    results = baselines(folder)
    for name, fid, memorization in [
        ("a", 101.0, 0.3),
        ("b", 107.0, 0.2),  # admissible, fewest copies
        ("c", 109.0, 0.1),
        ("d", 130.0, 0.0),
        ("e", 95.0, 0.4),
    ]:
        chosen = {"sigma_tn": ord(name) / 100, "seed": ord(name), "branched_at": 6400}
        results.record(row(name, fid, memorization, **chosen))
    results.record(row("g", 90.0, 0.0, status="failed", branched_at=6400))
    results.record(row("h", 90.0, 0.0, method="control", branched_at=6400))  # may not be recommended
    return results


def show(results: ResultsTable, trial: Trial, fid: float, memorization: float, rung: int = 2) -> None:
    own = {"confirms": trial.confirms, "method": trial.method, "seed": trial.seed, **trial.parameters}
    status = "complete" if rung == trial.last else "running"
    results.record(row(trial.id, fid, memorization, rung, status=status, **own))


def test_branched_trials_are_trained_from_scratch_in_the_order_of_confirmation_until_one_has_shown_figures(
    tmp_path: Path,
) -> None:
    results, config = branched_search(tmp_path), make_config(*BRANCHED)
    assert branched_trials(results.results().size(50)) == ["b", "a", "e", "c", "d"]
    assert followers(config, results) == []
    assert to_choose(config, results) == {50: 3}
    searcher = Paced(ChosenTrials(config, results), lambda: 2, ahead=0)
    first, second = (Trial.from_config(searcher.suggest(f"ray{k}")) for k in range(2))
    assert [first.id, second.id] == ["b-r2-c0", "a-r2-c0"]
    assert (first.confirms, first.last, first.every_rung, first.branched_at) == ("b", 2, True, 0)
    assert first.parameters["sigma_tn"] == ord("b") / 100
    assert first.seed == second.seed
    assert first.seed not in [ord(name) for name in "abcde"]
    assert searcher.suggest("ray2") is None  # both workers are busy
    assert (results.status("a-r2-c0"), to_choose(config, results)) == ("running", {50: 1})
    searcher.on_trial_complete("ray0")
    assert Trial.from_config(searcher.suggest("ray2")).id == "e-r2-c0"
    searcher.on_trial_complete("ray1")
    assert searcher.suggest("ray3") == ChosenTrials.FINISHED


def test_a_search_that_was_killed_while_it_chose_goes_on_with_those_that_were_chosen(tmp_path: Path) -> None:
    results, config = branched_search(tmp_path), make_config(*BRANCHED)
    searcher = ChosenTrials(config, results)
    first, second = (Trial.from_config(searcher.suggest(f"ray{k}")) for k in range(2))
    show(results, first, 110.0, 0.15)
    show(results, second, 150.0, 0.1, 1)
    again = ResultsTable(results.path, DECLARED)
    assert unfinished(from_scratch(config, again), again) == [second.after(1)]
    resumed = Paced(ChosenTrials(config, again), lambda: 1, ahead=0)
    assert Trial.from_config(resumed.suggest("ray0")) == second.after(1)
    resumed.on_trial_complete("ray0")
    third = resumed.suggest("ray1")
    assert Trial.from_config(third).confirms in {"c", "d", "e"}
    assert resumed.suggest("ray2") is None
    resumed.on_trial_complete("ray1")
    assert resumed.suggest("ray2") == ChosenTrials.FINISHED


def test_the_next_one_is_that_which_adds_most_where_the_bias_is_taken_off(tmp_path: Path) -> None:
    """Beside what is there from scratch, and what is under way."""
    results, config = branched_search(tmp_path), make_config(*BRANCHED)
    first = choose_from_scratch(config, results)
    assert first is not None
    show(results, first, 107.0, 0.2)  # no bias: the best of what is left is at fewer copies
    size = results.results().size(50)
    no_bias = next_from_scratch(size, {"b"})
    expected = {}
    low = {"a": (101.0, 0.3), "c": (109.0, 0.1), "d": (130.0, 0.0), "e": (95.0, 0.4)}
    for name, (fid, copies) in low.items():  # below twice DDPM's FID and its copies, beside b
        x, y = fid / 204, copies / 0.5
        expected[name] = (1 - x) * (1 - y) - (1 - max(x, 107 / 204)) * (1 - max(y, 0.4))
    assert no_bias == max(expected, key=expected.__getitem__) == "d"
    results.record(row("d2", 130.0, 0.0, sigma_tn=ord("d") / 100, branched_at=6400))
    size = results.results().size(50)
    assert next_from_scratch(size, {"b"}) == "d"
    assert next_from_scratch(size, {"b", "d"}) == "c"  # its like adds nothing to what is expected of d
    show(results, first, 180.0, 0.0)  # the bias is large: what looked worse in copies is what may add
    assert next_from_scratch(results.results().size(50), {"b"}) == "e"


def test_the_best_from_scratch_are_repeated_where_they_are_best_and_have_controls(tmp_path: Path) -> None:
    results, config = branched_search(tmp_path), make_config(*BRANCHED, "search.controls=true")
    for fid, copies in ((107.0, 0.25), (106.0, 0.2), (130.0, 0.0)):
        chosen = choose_from_scratch(config, results)
        assert chosen is not None
        show(results, chosen, 103.0, 0.3, 1)
        show(results, chosen, fid, copies)
    assert choose_from_scratch(config, results) is None
    whole = [trial for trial in followers(config, results) if trial.every_rung]
    assert len(whole) == 3
    fresh = left(config, results)
    best, second = (trial.id for trial in sorted(whole, key=lambda t: results.last_row(t.id)["fid"])[:2])
    names = [trial.removesuffix("-r2-c0") for trial in (best, second)]
    repeats = [f"{name}-r2-c{k}" for name in names for k in (1, 2)]
    assert ids(fresh) == [*repeats, *(f"{name}-control" for name in repeats)]
    assert [trial.confirms for trial in fresh[:4]] == [best, best, second, second]
    assert [trial.controls for trial in fresh[4:]] == [best, best, second, second]
    assert len({trial.seed for trial in fresh[:2]} | {trial.seed for trial in whole}) == 3
    for done, trial in enumerate(fresh):  # what they show changes no candidate
        assert left(config, results) == fresh[done:]
        own = {"controls": trial.controls, "confirms": trial.confirms, "method": trial.method}
        results.record(row(trial.id, 1.0, 0.0, trial.last, **own, seed=trial.seed, **trial.parameters))
    assert left(config, results) == []


def test_with_branching_trainings_from_scratch_are_planned_beside_the_repeats() -> None:
    config = make_config("search.branch_from=0.5", "search.confirm.points=3")
    assert (config.n_confirmations(DECLARED), config.n_controls(DECLARED)) == (7, 4)
    masking = make_config("search.branch_from=0.5", "search.methods=[masking]")
    assert (masking.n_confirmations(DECLARED), masking.n_controls(DECLARED)) == (0, 0)
