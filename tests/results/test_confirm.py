from typing import Any

import pandas as pd
import pytest

from pareto_amb.results.confirm import worth_confirming
from pareto_amb.results.size import Results
from pareto_amb.results.table import columns, shipped

DECLARED = shipped()


def row(trial_id: str, fid: float, memorization: float, **more: Any) -> dict[str, Any]:
    numbers: dict[str, Any] = {name: 1 for name, c in columns(DECLARED).items() if c.dtype != "str"}
    words = {"trial_id": trial_id, "method": "algorithm1", "status": "complete", "error": "", "confirms": ""}
    return {
        **numbers,
        **words,
        "controls": "",
        "rung": 2,
        "train_size": 50,
        "fid": fid,
        "memorization": memorization,
        **more,
    }


def finished_search() -> pd.DataFrame:
    """DDPM at fids 100 and 104: no worse is up to 102 + 2 * 2.83."""
    rows = [row(f"n50-ddpm-s{k}", fid, 0.5, method="ddpm") for k, fid in enumerate((100.0, 104.0))]
    rows += [
        row("a", 101.0, 0.3),
        row("b", 107.0, 0.2),  # admissible, fewest copies
        row("c", 109.0, 0.1),  # just not admissible
        row("d", 130.0, 0.0),
        row("d", 120.0, 0.3, rung=1, status="complete"),
        row("e", 95.0, 0.4),
        row("f", 105.0, 0.25, rung=1, budget=0.5, status="paused"),
        row("g", 90.0, 0.0, status="failed"),
        row("h", 90.0, 0.0, method="masking"),
        row("b-r2-c1-control", 90.0, 0.0, method="control", controls="b"),
        row("b-c1", 90.0, 0.0, confirms="b"),
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("count", range(8))
def test_the_trials_that_match_ddpm_would_take_come_first(count: int) -> None:
    frame = finished_search()
    found = worth_confirming(Results(frame, DECLARED).size(50), count)
    assert found == [("b", 2), ("f", 1), ("a", 2), ("e", 2), ("c", 2), ("d", 1)][:count]
    assert worth_confirming(Results(frame[frame.method != "ddpm"], DECLARED).size(50), count) == []
