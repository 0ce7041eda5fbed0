import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pareto_amb.declared import Declared, MethodInfo, Objective, Parameter
from pareto_amb.errors import UserError
from pareto_amb.results import table as table_module
from pareto_amb.results.points import comparable, measured
from pareto_amb.results.probes import gaps, mean_gaps, probe_columns
from pareto_amb.results.table import (
    ResultsTable,
    columns,
    final_figures,
    load_results,
    recent_path,
    searched,
    shipped,
    trial_columns,
)
from pareto_amb.trial import Trial

DECLARED = shipped()


def row(trial_id: str = "a", rung: int = 1, status: str = "running", **more: Any) -> dict[str, Any]:
    numbers = {name: 1 for name, column in columns(DECLARED).items() if column.dtype != "str"} | {
        "branched_at": 0
    }
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
    table = ResultsTable(tmp_path / "results.parquet", DECLARED)
    table.record(row("b"))
    table.record(row("a", **{"memorization_at_0.900": 0.5}))
    loaded = load_results(tmp_path / "results.parquet").frame
    assert loaded.trial_id.tolist() == ["a", "b"]
    assert loaded["memorization_at_0.900"].tolist()[0] == 0.5
    pd.testing.assert_frame_equal(loaded, ResultsTable(tmp_path / "results.parquet", DECLARED).frame())


def test_a_long_table_is_the_same_from_its_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "RECENT_ROWS", 4)
    path, seen = tmp_path / "results.parquet", set[int]()
    table = ResultsTable(path, DECLARED)
    assert not recent_path(path).exists()
    with table.settled():
        for k in range(9):
            table.record(row(f"t{k % 4}", rung=0, status="running"))
            table.record(row(f"t{k % 4}", rung=1 + k // 4, fid=float(k), train_loss=math.nan))
            seen.add(path.stat().st_mtime_ns)
            pd.testing.assert_frame_equal(load_results(path).frame, table.frame())
        assert recent_path(path).exists()
        assert len(seen) < 9
    assert not recent_path(path).exists()
    pd.testing.assert_frame_equal(load_results(path).frame, table.frame())


def test_a_long_table_survives_a_kill_at_any_point_of_its_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "RECENT_ROWS", 3)
    path = tmp_path / "results.parquet"
    table = ResultsTable(path, DECLARED)
    for k in range(4):
        table.record(row(f"t{k}"))
    table.record(row("t0", rung=2, status="complete", error="", **{"memorization_at_0.900": 0.5}))
    short, wanted = recent_path(path).read_bytes(), load_results(path).frame
    assert wanted.status.tolist() == ["complete", "complete", "running", "running", "running"]
    again = ResultsTable(path, DECLARED)  # as a resumed sweep does
    assert not recent_path(path).exists()
    pd.testing.assert_frame_equal(load_results(path).frame, wanted)
    recent_path(path).write_bytes(short)  # the process was killed before it removed the short file
    pd.testing.assert_frame_equal(load_results(path).frame, wanted)
    again.record(row("t4"))
    assert again.trial_ids() == load_results(path).frame.trial_id.unique().tolist()


@pytest.mark.parametrize("moment", range(1, 16))
def test_a_kill_before_any_file_changes_loses_no_row_that_was_recorded(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "RECENT_ROWS", 3)
    path, left = tmp_path / "results.parquet", moment
    table = ResultsTable(path, DECLARED)
    write, unlink = table_module._write, Path.unlink

    def counted(change: Any) -> Any:
        def killed(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return change(*arguments, **options)

        return killed

    monkeypatch.setattr(table_module, "_write", counted(write))
    monkeypatch.setattr(Path, "unlink", counted(unlink))
    recorded = table.frame()
    try:
        for k in range(12):
            table.record(row(f"t{k // 2}", rung=1 + k % 2))
            recorded = table.frame()
    except KeyboardInterrupt:
        pass
    assert left == 0
    monkeypatch.undo()
    found = load_results(path).frame
    known = found.merge(recorded[["trial_id", "rung"]], on=["trial_id", "rung"])
    assert len(known) == len(recorded)
    assert len(found) <= len(recorded) + 1


def test_a_reader_misses_nothing_while_the_two_files_become_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "RECENT_ROWS", 2)
    path = tmp_path / "results.parquet"
    table = ResultsTable(path, DECLARED)
    for k in range(4):
        table.record(row(f"t{k}"))
    read = table_module.read_file

    def settle_meanwhile(file: Path, limit: int) -> bytes:
        with table.settled():
            return read(file, limit)

    monkeypatch.setattr(table_module, "read_file", settle_meanwhile)
    assert recent_path(path).exists()
    assert load_results(path).frame.trial_id.tolist() == ["t0", "t1", "t2", "t3"]
    assert not recent_path(path).exists()


def test_a_damaged_short_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "results.parquet"
    ResultsTable(path, DECLARED).record(row("a"))
    recent_path(path).write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match=r"results\.recent\.parquet: not a results table"):
        load_results(path)


def test_a_rung_reported_again_replaces_its_row_and_status_holds_for_the_trial(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path / "results.parquet", DECLARED)
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
    table = ResultsTable(tmp_path / "results.parquet", DECLARED)
    table.record(row(rung=1, status="running"))
    table.record(row(rung=2, status="paused"))
    assert table.frame().status.tolist() == ["paused", "paused"]
    table.record({**table.rows("a")[-1], "status": "running"})
    assert load_results(tmp_path / "results.parquet").frame.status.tolist() == ["running", "running"]
    assert [known["rung"] for known in table.rows("a")] == [1, 2]
    assert table.rows("b") == []


def test_a_failed_trial_without_measurements_keeps_its_reason(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path / "results.parquet", DECLARED)
    failed = {k: v for k, v in row(rung=0, status="failed", error="out of memory").items() if k != "fid"}
    table.record(failed)
    loaded = load_results(tmp_path / "results.parquet").frame
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
    table = ResultsTable(tmp_path / "results.parquet", DECLARED)
    numbers = {name: value for name, value in row().items() if name != "recorded_at"}
    table.record({**numbers, "trial_id": "b"})
    table.record({**numbers, "trial_id": "a"})
    before = table.frame().set_index("trial_id").recorded_at
    assert before["b"] < before["a"]
    reopened = ResultsTable(tmp_path / "results.parquet", DECLARED)
    reopened.record({**numbers, "trial_id": "b", "status": "failed"})
    pd.testing.assert_series_equal(reopened.frame().set_index("trial_id").recorded_at, before)


def test_a_table_of_an_older_version_loads(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path / "results.parquet", DECLARED)
    table.record(row("a"))
    newer = [name for name in table.frame() if name.startswith(("final_", "probe_"))]
    old = table.frame().drop(columns=["confirms", "controls", "recorded_at", *newer])
    old.to_parquet(tmp_path / "old.parquet", index=False)
    loaded = load_results(tmp_path / "old.parquet").frame
    assert {name: str(kind) for name, kind in loaded.dtypes.items()}.items() >= {
        name: str(kind) for name, kind in table.frame().dtypes.items()
    }.items()
    again = ResultsTable(tmp_path / "old.parquet", DECLARED)
    again.record(row("b"))
    assert load_results(tmp_path / "old.parquet").frame.trial_id.tolist() == ["a", "b"]


def test_final_figures_are_in_columns_of_their_own_that_only_rows_with_them_fill(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path / "results.parquet", DECLARED)
    names = [name for name in columns(DECLARED) if name.startswith("final_")]
    objectives = [name for o in DECLARED.objectives for name in (f"final_{o}", f"final_{o}_se")]
    assert names == ["final_n_samples", *objectives]
    without = {name: value for name, value in row("a").items() if name not in names}
    table.record(without)
    measured = {"n_samples": 500, "fid": 2.5, "fid_se": 0.5, "memorization": 0.25, "similarity_mean": 0.5}
    table.record({**without, "rung": 2, **final_figures(DECLARED, measured)})
    frame = load_results(table.path).frame
    assert frame.loc[frame.rung == 1, names].isna().all(axis=None)
    (last,) = frame.loc[frame.rung == 2, names].to_dict("records")
    assert last.pop("final_memorization_se") != 0  # no number: NaN
    assert last == {"final_n_samples": 500, "final_fid": 2.5, "final_fid_se": 0.5, "final_memorization": 0.25}


def test_probes_are_lists_and_a_probe_rung_has_no_figures_but_them(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path / "results.parquet", DECLARED)
    without = {name: value for name, value in row().items() if not name.startswith(("probe_", "final_"))}
    figures = ("fid", "memorization", "threshold", "similarity_mean", "similarity_p95")
    probed = {name: value for name, value in without.items() if name not in figures}
    errors = probe_columns((0.1, 0.4), [0.5, math.inf], [0.75, 2.0])
    table.record({**probed, "n_samples": 0, "fid": math.nan, "memorization": math.nan, **errors})
    table.record({**without, "rung": 2, **probe_columns((0.1, 0.4), [0.5, 1.0], [])})
    table.record({**without, "rung": 3})
    frame = load_results(table.path).frame
    first, second, third = frame.to_dict("records")
    assert gaps(first) == {0.1: 1.5}, "an error that is no number has no gap"
    assert math.isnan(first["probe_train"][1])
    assert (second["probe_levels"], second["probe_heldout"], gaps(second)) == ([0.1, 0.4], [], {})
    assert (third["probe_levels"], third["probe_train"], gaps(third)) == ([], [], {})
    objectives = tuple(DECLARED.objectives.values())
    assert measured(frame, objectives).rung.tolist() == [2, 3]
    assert comparable(frame, objectives, "any").rung.tolist() == [2, 3]
    pd.testing.assert_frame_equal(frame, ResultsTable(table.path, DECLARED).frame())


def test_the_gap_of_several_seeds_is_their_geometric_mean() -> None:
    rows = [probe_columns((0.1, 0.4), [1.0, 1.0], [theirs, 3.0]) for theirs in (2.0, 8.0)]
    rows.append(probe_columns((0.1,), [0.0], [1.0]))
    assert mean_gaps(pd.DataFrame(rows)) == {0.1: pytest.approx(4.0), 0.4: pytest.approx(3.0)}


def test_what_is_of_the_search_neither_repeats_nor_controls(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path / "results.parquet", DECLARED)
    parameters = {"sigma_tn": 0.5, "mix_ratio": 0.5}
    for name, follows in {"a": {}, "a-r1-c1": {"confirms": "a"}, "x": {"controls": "a"}}.items():
        table.record(
            {**row(), **trial_columns(Trial(name, "control", 1, 1, parameters, **follows), DECLARED)}
        )
    assert searched(table.frame()).trial_id.tolist() == ["a"]
    assert load_results(table.path).frame.controls.tolist() == ["", "", "a"]


def test_a_trial_that_was_pruned_by_an_older_version_is_paused(tmp_path: Path) -> None:
    table = ResultsTable(tmp_path / "results.parquet", DECLARED)
    table.record(row("a"))
    old = table.frame().drop(columns=["probe_levels", "probe_train", "probe_heldout"])
    old.assign(status="pruned").to_parquet(tmp_path / "old.parquet", index=False)
    assert load_results(tmp_path / "old.parquet").frame.status.tolist() == ["paused"]


def test_the_file_says_what_its_columns_hold_and_what_was_declared(tmp_path: Path) -> None:
    third = Objective("variety", label="variety", description="how unlike the samples are", direction="max")
    methods = {
        **DECLARED.methods,
        "own": MethodInfo("own", "Own", "", parameters=(Parameter("dose", "dose", "x"),)),
    }
    declared = Declared(methods, {**DECLARED.objectives, "variety": third})
    table = ResultsTable(tmp_path / "results.parquet", declared)
    trial = Trial("a", "own", train_size=5, seed=1, parameters={"dose": 0.5})
    table.record(
        {**row("a"), **trial_columns(trial, declared), "variety": 0.75, "memorization_at_0.900": 0.1}
    )
    loaded = load_results(tmp_path / "results.parquet")
    assert loaded.declared == declared
    assert loaded.frame[["dose", "sigma_tn", "variety"]].values.tolist() == [[0.5, 0.0, 0.75]]
    schema = pq.read_schema(tmp_path / "results.parquet")
    told = {field.name: field.metadata[b"description"].decode() for field in schema}
    assert all(told.values())
    assert told["variety"] == "how unlike the samples are"
    assert told["memorization_at_0.900"] == "share of samples with similarity above 0.900"


def test_declarations_of_another_version_are_read_as_far_as_they_are_known() -> None:
    values = DECLARED.to_json()
    for entry in (*values["methods"], *values["objectives"]):
        entry["later"] = 1
    values["methods"][1]["parameters"][0]["later"] = 1
    assert Declared.from_json(values) == DECLARED
    del values["objectives"][1]["predictors"]
    assert Declared.from_json(values).predictors == []
    for entry in values["methods"]:
        del entry["control"]
    assert not any(method.control for method in Declared.from_json(values).methods.values())


@pytest.mark.parametrize(
    ("control", "problem"),
    [
        ("gone", "is not declared"),
        ("own", "is the method itself, or the baseline"),
        ("ddpm", "is the method itself, or the baseline"),
        ("masking", "has a parameter of its own, corruption"),
    ],
)
def test_a_control_that_cannot_be_trained_is_refused(control: str, problem: str) -> None:
    own = MethodInfo("own", "Own", "", control=control)
    with pytest.raises(UserError, match=f"^method own: its control '{control}' {problem}; name another"):
        Declared({**DECLARED.methods, "own": own}, DECLARED.objectives)
    assert DECLARED.method("algorithm1").control == "control"
    assert not any(DECLARED.method(name).control for name in ("ddpm", "control", "masking"))
