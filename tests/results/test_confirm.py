from typing import Any

import pandas as pd
import pytest

from pareto_amb.results.confirm import worth_confirming
from pareto_amb.results.size import Results
from pareto_amb.results.table import columns, shipped

DECLARED = shipped()


def row(trial_id: str, fid: float, memorization: float, **more: Any) -> dict[str, Any]:
    numbers: dict[str, Any] = {name: 1 for name, c in columns(DECLARED).items() if c.dtype != "str"} | {
        "branched_at": 0
    }
    words = {"trial_id": trial_id, "method": "algorithm1", "status": "complete", "error": ""}
    words |= {"confirms": "", "controls": ""}
    return {**numbers, **words, "train_size": 50, "fid": fid, "memorization": memorization, **more}


def finished_search() -> pd.DataFrame:
    """DDPM at fids 100 and 104: no worse is up to 102 + 2 * 2.83."""
    rows = [row(f"n50-ddpm-s{k}", fid, 0.5, method="ddpm") for k, fid in enumerate((100.0, 104.0))]
    rows += [
        row("a", 101.0, 0.3),
        row("b", 107.0, 0.2),  # admissible, fewest copies
        row("c", 109.0, 0.1),  # just not admissible
        row("d", 130.0, 0.0),
        row("e", 95.0, 0.4),
        row("g", 90.0, 0.0, status="failed"),
        row("h", 90.0, 0.0, method="masking"),
        row("b-c1", 90.0, 0.0, confirms="b"),
        row("k", 90.0, 0.0, method="control", controls="b"),
    ]
    return pd.DataFrame(rows).assign(rung=3).fillna({"controls": ""})


def earlier(trial_id: str, rung: int, fid: float, memorization: float, **more: Any) -> dict[str, Any]:
    return row(trial_id, fid, memorization, rung=rung, budget=0.25 * rung, images_seen=rung, **more)


@pytest.mark.parametrize("count", range(8))
def test_the_trials_that_match_ddpm_would_take_come_first(count: int) -> None:
    frame = finished_search()
    found = worth_confirming(Results(frame, DECLARED).size(50), count)
    assert found == [(trial, 3) for trial in ("b", "a", "e", "c", "d")][:count]
    assert worth_confirming(Results(frame[frame.method != "ddpm"], DECLARED).size(50), count) == []


def test_each_trial_is_confirmed_where_it_would_be_taken() -> None:
    rows = [
        earlier("a", 1, 200.0, 0.0),
        earlier("a", 2, 106.0, 0.05),
        earlier("b", 2, 107.5, 0.3),
        earlier("f", 1, 103.0, 0.1, status="paused"),
        earlier("n50-ddpm-s0", 2, 103.0, 0.0, method="ddpm"),
        earlier("n50-ddpm-s1", 2, 103.0, 0.0, method="ddpm"),
        earlier("l", 2, 90.0, 0.0, n_samples=0),
    ]
    size = Results(
        pd.concat([finished_search(), pd.DataFrame(rows)]).fillna({"controls": ""}), DECLARED
    ).size(50)
    assert size.over("any").limits[0][0] == pytest.approx(102 + 2 * 8**0.5)
    assert worth_confirming(size, 4) == [("a", 2), ("f", 1), ("b", 3), ("e", 3)]
