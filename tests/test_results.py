from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pareto_amb.errors import UserError
from pareto_amb.results import DEFAULTS, SCHEMA, ResultsTable, load_results


def row(trial_id: str = "a", rung: int = 1, status: str = "running", **more: Any) -> dict[str, Any]:
    numbers = {name: 1 for name, kind in SCHEMA.items() if kind != "str"}
    return {
        **numbers,
        "trial_id": trial_id,
        "method": "ddpm",
        "rung": rung,
        "status": status,
        "error": "",
        **more,
    }


def test_rows_survive_on_disk_after_every_record(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path / "results.parquet")
    table.record(row("b"))
    table.record(row("a", **{"memorization_at_0.900": 0.5}))
    loaded = load_results(tmp_path / "results.parquet")
    assert loaded.trial_id.tolist() == ["a", "b"]
    assert loaded["memorization_at_0.900"].tolist()[0] == 0.5
    pd.testing.assert_frame_equal(loaded, ResultsTable(tmp_path / "results.parquet").frame())


def test_a_rung_reported_again_replaces_its_row_and_status_holds_for_the_trial(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path / "results.parquet")
    table.record(row(rung=1, fid=9.0))
    table.record(row(rung=1, fid=8.0))
    table.record(row(rung=2, status="complete"))
    frame = table.frame()
    assert frame.fid.tolist() == [8.0, 1.0]
    assert frame.status.tolist() == ["complete", "complete"]
    assert table.status("a") == "complete"
    assert table.status("b") is None
    last = table.last_row("a")
    assert last is not None
    assert last["rung"] == 2


def test_a_paused_trial_is_running_again_once_it_is_resumed(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path / "results.parquet")
    table.record(row(rung=1, status="running"))
    table.record(row(rung=2, status="pruned"))
    assert table.frame().status.tolist() == ["pruned", "pruned"]
    table.record({**table.rows("a")[-1], "status": "running"})
    assert load_results(tmp_path / "results.parquet").status.tolist() == ["running", "running"]
    assert [known["rung"] for known in table.rows("a")] == [1, 2]
    assert table.rows("b") == []


def test_a_failed_trial_without_measurements_keeps_its_reason(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path / "results.parquet")
    failed = {k: v for k, v in row(rung=0, status="failed", error="out of memory").items() if k != "fid"}
    table.record(failed)
    loaded = load_results(tmp_path / "results.parquet")
    assert loaded.fid.isna().all()
    assert loaded.error.tolist() == ["out of memory"]


def test_what_is_not_a_results_table_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results table there"):
        load_results(tmp_path / "results.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match=r"bad\.parquet: not a results table"):
        load_results(tmp_path / "bad.parquet")
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(UserError, match="column 'trial_id' is missing"):
        load_results(tmp_path / "other.parquet")


def test_rows_keep_the_time_of_their_first_record(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path / "results.parquet")
    numbers = {name: value for name, value in row().items() if name != "recorded_at"}
    table.record({**numbers, "trial_id": "b"})
    table.record({**numbers, "trial_id": "a"})
    before = table.frame().set_index("trial_id").recorded_at
    assert before["b"] < before["a"]
    reopened = ResultsTable(tmp_path / "results.parquet")
    reopened.record({**numbers, "trial_id": "b", "status": "failed"})
    pd.testing.assert_series_equal(reopened.frame().set_index("trial_id").recorded_at, before)


def test_a_table_of_an_older_version_loads(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path / "results.parquet")
    table.record(row("a"))
    old = table.frame().drop(columns=list(DEFAULTS))
    old.to_parquet(tmp_path / "old.parquet", index=False)
    loaded = load_results(tmp_path / "old.parquet")
    assert {name: str(kind) for name, kind in loaded.dtypes.items()}.items() >= {
        name: str(kind) for name, kind in table.frame().dtypes.items()
    }.items()
    again = ResultsTable(tmp_path / "old.parquet")
    again.record(row("b"))
    assert load_results(tmp_path / "old.parquet").trial_id.tolist() == ["a", "b"]
