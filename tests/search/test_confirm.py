from pathlib import Path
from typing import Any

import pytest

import search_spaces
from pareto_amb.config import SweepConfig, apply_overrides, parse
from pareto_amb.results import SCHEMA, ResultsTable
from pareto_amb.search.confirm import confirmations, worth_confirming


def make_config(*changes: str) -> SweepConfig:
    changes = ("search.confirm={candidates: 2, seeds: 2}", *changes)
    return parse(SweepConfig, apply_overrides(search_spaces.load("smoke"), changes), "smoke")


def row(trial_id: str, fid: float, memorization: float, **more: Any) -> dict[str, Any]:
    numbers: dict[str, Any] = {name: 1 for name, kind in SCHEMA.items() if kind != "str"}
    words = {"trial_id": trial_id, "method": "algorithm1", "status": "complete", "error": ""}
    return {**numbers, **words, "train_size": 50, "fid": fid, "memorization": memorization, **more}


def finished_search(folder: Path) -> ResultsTable:
    """DDPM at fids 100 and 104: no worse is up to 102 + 2 * 2.83."""
    results = ResultsTable(folder / "results.parquet")
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
    results.record(row("f", 90.0, 0.0, status="pruned", budget=0.5))
    results.record(row("g", 90.0, 0.0, status="failed"))
    results.record(row("h", 90.0, 0.0, method="masking"))
    return results


@pytest.mark.parametrize("count", range(8))
def test_the_trials_that_match_ddpm_would_take_come_first(tmp_path: Path, count: int) -> None:
    frame = finished_search(tmp_path).frame()
    assert worth_confirming(frame, 50, count) == ["b", "a", "e", "c", "d"][:count]
    assert worth_confirming(frame[frame.method != "ddpm"], 50, count) == []


def test_each_candidate_is_trained_again_as_it_was_with_the_same_fresh_seeds(tmp_path: Path) -> None:
    found = confirmations(make_config(), finished_search(tmp_path))
    assert [trial["trial_id"] for trial in found] == ["b-c1", "b-c2", "a-c1", "a-c2"]
    assert [trial["confirms"] for trial in found] == ["b", "b", "a", "a"]
    assert {trial["sigma_tn"] for trial in found} == {ord("a") / 100, ord("b") / 100}
    first, second, *others = [trial["seed"] for trial in found]
    assert others == [first, second]
    assert len({first, second, *(ord(name) for name in "abcdefgh"), 0, 1}) == 12
    assert all(trial["mix_ratio"] == 1 and trial["method"] == "algorithm1" for trial in found)


@pytest.mark.parametrize("off", ["candidates", "seeds"])
def test_none_are_trained_where_confirmation_is_off(tmp_path: Path, off: str) -> None:
    config = make_config(f"search.confirm.{off}=0")
    assert confirmations(config, finished_search(tmp_path)) == []
    assert config.search.n_confirmations() == 0
    assert make_config("search.methods=[masking]").search.n_confirmations() == 0
    assert make_config().search.n_confirmations() == 4


def test_what_has_been_confirmed_changes_no_candidate(tmp_path: Path) -> None:
    results = finished_search(tmp_path)
    before = confirmations(make_config(), results)
    for done, trial in enumerate(before):
        assert confirmations(make_config(), results) == before[done:]
        results.record(row(trial["trial_id"], 500.0, 0.9, confirms=trial["confirms"]))
    assert confirmations(make_config(), results) == []


def test_a_longer_search_keeps_the_repeats_begun_for_the_shorter_one(tmp_path: Path) -> None:
    results = finished_search(tmp_path)
    results.record(row("b-c1", 500.0, 0.9, confirms="b", status="running"))
    for name in "xy":
        results.record(row(name, 90.0, 0.01))
    found = [trial["trial_id"] for trial in confirmations(make_config(), results)]
    assert found == ["x-c1", "x-c2", "y-c1", "y-c2", "b-c1"]
