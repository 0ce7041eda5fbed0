from pathlib import Path
from typing import Any

import pytest

from pareto_amb import search_spaces
from pareto_amb.config import SweepConfig
from pareto_amb.config_file import apply_overrides
from pareto_amb.results.table import ResultsTable, columns, shipped
from pareto_amb.running.confirm import GivenTrials, confirmations
from pareto_amb.sweep_file import parse_sweep
from pareto_amb.trial import Trial

DECLARED = shipped()


def make_config(*changes: str) -> SweepConfig:
    changes = ("search.confirm={candidates: 2, seeds: 2}", *changes)
    return parse_sweep(apply_overrides(search_spaces.load("smoke"), changes), "smoke")


def row(trial_id: str, fid: float, memorization: float, **more: Any) -> dict[str, Any]:
    numbers: dict[str, Any] = {name: 1 for name, c in columns(DECLARED).items() if c.dtype != "str"}
    words = {"trial_id": trial_id, "method": "algorithm1", "status": "complete", "error": ""}
    return {**numbers, **words, "train_size": 50, "fid": fid, "memorization": memorization, **more}


def finished_search(folder: Path) -> ResultsTable:
    """DDPM at fids 100 and 104: no worse is up to 102 + 2 * 2.83."""
    results = ResultsTable(folder / "results.parquet", DECLARED)
    for k, fid in enumerate((100.0, 104.0)):
        results.record(row(f"n50-ddpm-s{k}", fid, 0.5, method="ddpm"))
    for name, fid, memorization in [
        ("a", 101.0, 0.3),
        ("b", 107.0, 0.2),  # admissible, fewest copies
        ("c", 109.0, 0.1),  # just not admissible
        ("d", 130.0, 0.0),
        ("e", 95.0, 0.4),
    ]:
        results.record(row(name, fid, memorization, sigma_tn=ord(name) / 100, seed=ord(name)))
    results.record(row("f", 90.0, 0.0, status="paused", budget=0.5))
    results.record(row("g", 90.0, 0.0, status="failed"))
    results.record(row("h", 90.0, 0.0, method="masking"))
    return results


def test_each_candidate_is_trained_again_as_it_was_with_the_same_fresh_seeds(tmp_path: Path) -> None:
    found = confirmations(make_config(), finished_search(tmp_path))
    assert [trial.id for trial in found] == ["b-c1", "b-c2", "a-c1", "a-c2"]
    assert [trial.confirms for trial in found] == ["b", "b", "a", "a"]
    chosen = [{"sigma_tn": ord(name) / 100, "mix_ratio": 1.0} for name in "bbaa"]
    assert [trial.parameters for trial in found] == chosen
    first, second, *others = [trial.seed for trial in found]
    assert others == [first, second]
    assert len({first, second, *(ord(name) for name in "abcdefgh"), 0, 1}) == 12
    assert {(trial.method, trial.train_size, trial.measured) for trial in found} == {("algorithm1", 50, 0)}


@pytest.mark.parametrize("off", ["candidates", "seeds"])
def test_none_are_trained_where_confirmation_is_off(tmp_path: Path, off: str) -> None:
    config = make_config(f"search.confirm.{off}=0")
    assert confirmations(config, finished_search(tmp_path)) == []
    assert config.n_confirmations(DECLARED) == 0
    assert make_config("search.methods=[masking]").n_confirmations(DECLARED) == 0
    assert make_config().n_confirmations(DECLARED) == 4


def test_what_has_been_confirmed_changes_no_candidate(tmp_path: Path) -> None:
    results = finished_search(tmp_path)
    before = confirmations(make_config(), results)
    for done, trial in enumerate(before):
        assert confirmations(make_config(), results) == before[done:]
        results.record(row(trial.id, 500.0, 0.9, confirms=trial.confirms))
    assert confirmations(make_config(), results) == []


def test_a_longer_search_keeps_the_repeats_begun_for_the_shorter_one(tmp_path: Path) -> None:
    results = finished_search(tmp_path)
    results.record(row("b-c1", 500.0, 0.9, confirms="b", status="running"))
    for name in "xy":
        results.record(row(name, 90.0, 0.01))
    found = [trial.id for trial in confirmations(make_config(), results)]
    assert found == ["x-c1", "x-c2", "y-c1", "y-c2", "b-c1"]


def test_given_trials_are_handed_out_in_order_and_then_no_more() -> None:
    trials = [Trial(name, "algorithm1", 50, seed, {"sigma_tn": 0.5}) for seed, name in enumerate("ab")]
    searcher = GivenTrials(trials, list(DECLARED.objectives.values()))
    assert (searcher.metric, searcher.mode) == (["fid", "memorization"], ["min", "min"])
    handed_out = [searcher.suggest(f"ray{k}") for k in range(3)]
    assert [Trial.from_config(config) for config in handed_out[:2]] == trials
    assert handed_out[2] == GivenTrials.FINISHED
