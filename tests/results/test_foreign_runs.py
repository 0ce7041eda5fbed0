"""A run directory may come from anyone: it gives a result or a UserError, and is contacted nowhere."""

import io
import json
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pareto_amb.config import ScheduleConfig, SweepConfig
from pareto_amb.config_file import to_yaml
from pareto_amb.dashboards.report import render, write_report
from pareto_amb.errors import UserError
from pareto_amb.results.names import check_names
from pareto_amb.results.parquet import MAX_LENGTH, NUMBERS
from pareto_amb.results.recommendation_file import ExportedRecommendation, build_recommendation
from pareto_amb.results.run import Run
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.results.table import METADATA, columns, load_results, shipped

DECLARED = shipped()
COLUMNS = columns(DECLARED)
LISTS = [name for name, column in COLUMNS.items() if column.dtype == "object"]
FEW = settings(
    max_examples=int(__import__("os").environ.get("N", "25")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def rows() -> pd.DataFrame:
    """A small sweep: two DDPM seeds, four trials, one of them repeated with a control, one failed."""
    found = []
    for number, (trial_id, sigma) in enumerate(
        [
            ("d-s0", 0.0),
            ("d-s1", 0.0),
            ("a-0", 0.2),
            ("a-1", 0.7),
            ("a-2", 1.5),
            ("a-0-c1", 0.2),
            ("a-3", 0.4),
            ("a-0-c1-control", 0.2),
        ]
    ):
        rungs = [0] if trial_id == "a-3" else [2] if "-c1" in trial_id else [1, 2]
        method = "control" if trial_id.endswith("control") else "algorithm1" if sigma else "ddpm"
        for rung in rungs:
            figures = {n: 0.1 * (number + 1) / (rung + 1) for n, c in COLUMNS.items() if c.dtype == "float64"}
            found.append(
                figures
                | {
                    "trial_id": trial_id, "method": method, "train_size": 50,
                    "sigma_tn": sigma, "mix_ratio": 0.5 if sigma else 0.0, "corruption": 0.0, "seed": number,
                    "rung": rung, "images_seen": 100 * rung, "budget": rung / 2, "n_samples": 40 * (rung > 0),
                    "status": "complete" if rung else "failed", "error": "" if rung else "out of memory",
                    "confirms": "a-0" if trial_id == "a-0-c1" else "", "recorded_at": 1e9 + number,
                    "branched_at": 0,
                    "controls": "a-0" if method == "control" else "",
                    "probe_levels": [0.1, 0.4], "probe_train": [0.2, 0.5], "probe_heldout": [0.3, 0.5],
                }
            )  # fmt: skip
    return pd.DataFrame(found).reindex(columns=list(COLUMNS)).astype({n: c.dtype for n, c in COLUMNS.items()})


def write_table(frame: pd.DataFrame | pa.Table, path: Path, declared: object = None) -> None:
    table = frame if isinstance(frame, pa.Table) else to_table(frame)
    values = DECLARED.to_json() if declared is None else declared
    plain = [field.name for field in table.schema if not pa.types.is_list(field.type)]
    pq.write_table(table.replace_schema_metadata({METADATA: json.dumps(values)}), path, use_dictionary=plain)


def to_table(frame: pd.DataFrame) -> pa.Table:
    lists = [name for name in LISTS if name in frame]
    table = pa.Table.from_pandas(frame.drop(columns=lists), preserve_index=False)
    for name in lists:
        table = table.append_column(pa.field(name, NUMBERS), pa.array(frame[name].tolist(), NUMBERS))
    return table


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    values: dict[str, Any] = {
        "name": "digits",
        "data": {"source": "digits", "resolution": 8, "channels": 1},
        "space": {"train_size": [50], "sigma_tn": {"low": 0.1, "high": 2.0}, "mix_ratio": [0.5]},
        "training": {"images": 12_800},
        "evaluation": {"n_samples": 40, "rungs": [0.5, 1.0]},
        "search": {"trials": 4, "baseline_seeds": 2},
    }
    (folder / "sweep.yaml").write_text(to_yaml(SweepConfig.model_validate(values)))
    write_table(rows(), folder / "results.parquet")
    return folder


def probed(frame: pd.DataFrame) -> pd.DataFrame:
    """The same sweep with a probe rung before the others."""
    first = frame.drop_duplicates("trial_id")
    first = first[(first.rung > 0) & (first.confirms == "") & (first.controls == "")]
    lists, numbers = first[LISTS], [n for n, c in COLUMNS.items() if c.dtype == "float64"]
    kept = [*DECLARED.parameters, "recorded_at", "train_seconds", "eval_seconds"]
    unknown = {name: np.nan for name in numbers if name not in kept}
    more = first.assign(**unknown).assign(**lists, n_samples=0, images_seen=50, budget=0.25, rung=1)
    return pd.concat([more, frame.assign(rung=frame.rung + (frame.rung > 0))], ignore_index=True)


def assert_used_or_refused(*uses: Callable[[], object]) -> None:
    """Call each; what is refused is refused in one line."""
    for call in uses:
        refused = None
        try:
            call()
        except UserError as error:
            refused = str(error)
        assert refused is None or (refused and "\n" not in refused)


def read_all(folder: Path) -> None:
    """Everything that reads a run."""
    assert_used_or_refused(
        lambda: build_recommendation(RunDirectory(folder)),
        lambda: build_recommendation(RunDirectory(folder), "knee"),
        lambda: render(Run.read(folder)),
    )


def strange(dtype: str) -> st.SearchStrategy[Any]:
    if dtype == "str":
        return st.sampled_from(["", "a", "a-0", "d-s0", "ddpm", "complete", "failed", "running"]) | st.text(
            max_size=8
        )
    if dtype == "object":
        return st.lists(
            st.sampled_from([0.0, 0.5, 1.0, np.nan, np.inf, -1.0, 1e300]) | st.floats(), max_size=3
        )
    edge = [0, 1, -1, 2, 2**31, 2**62]
    if dtype == "int64":
        return st.sampled_from(edge) | st.integers(-(2**63), 2**63 - 1)
    return st.sampled_from([0.0, 1.0, 0.5, np.nan, np.inf, -np.inf, 1e-300, 1e29, -1e29, 1e300]) | st.floats()


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """The small sweep with some cells, columns or rows of any value of their type, or gone."""
    frame = rows()
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(list(COLUMNS)))
        value = draw(strange(COLUMNS[name].dtype))
        where = draw(st.just(slice(None)) | st.integers(0, len(frame) - 1).map(lambda k: slice(k, k + 1)))
        if isinstance(value, list):
            chosen = set(frame.index[where])
            frame[name] = [value if k in chosen else frame[name][k] for k in frame.index]
        else:
            frame.loc[frame.index[where], name] = value
    frame = frame[draw(st.lists(st.booleans(), min_size=len(frame), max_size=len(frame)))]
    return frame.drop(columns=draw(st.lists(st.sampled_from(list(COLUMNS)), max_size=1) | st.just([])))


@FEW
@given(frame=tables())
def test_any_table_of_the_types_gives_results_or_one_line(run_dir: Path, frame: pd.DataFrame) -> None:
    write_table(frame, run_dir / "results.parquet")
    read_all(run_dir)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("trial_id", "../../etc/passwd"), ("trial_id", ""), ("method", "<b>"), ("status", "done"),
        ("rung", -1), ("train_size", 0), ("n_samples", 0), ("budget", 1.5), ("budget", np.nan),
        ("fid", np.inf), ("memorization", 1.5), ("sigma_tn", np.nan), ("sigma_tn", -1.0), ("sigma_tn", 0.0),
        ("heldout_memorization", -0.1), ("train_seconds", -1.0), ("confirms", "gone"), ("train_loss", np.inf),
        ("final_memorization", 1.5), ("final_fid_se", -1.0), ("final_n_samples", -1.0), ("controls", "gone"),
        ("controls", "d-s0"), ("controls", "a-0-c1"), ("controls", "a-0-c1-control"),
    ],
)  # fmt: skip
def test_a_value_that_no_sweep_writes_is_named(run_dir: Path, column: str, value: Any) -> None:
    frame = rows()
    frame.loc[frame.trial_id == "a-1", column] = value
    write_table(frame, run_dir / "results.parquet")
    with pytest.raises(
        UserError, match=rf"results.parquet: not a results table, column '{column}'.*; restore"
    ):
        load_results(run_dir / "results.parquet")


@pytest.mark.parametrize(
    ("trial_id", "change", "problem"),
    [
        (
            "a-0-c1",
            {"controls": "a-0"},
            "'controls', trial a-0-c1: a-0 is named by a trial that confirms one",
        ),
        (
            "a-0-c1-control",
            {"train_size": 60},
            "'controls', trial a-0-c1-control: a-0 has another train_size",
        ),
        ("a-0-c1", {"method": "control"}, "'confirms', trial a-0-c1: a-0 has another method"),
        ("a-0-c1", {"confirms": "a-0-c1-control"}, "'confirms', .* is no trial that can repeat"),
    ],
)
def test_a_trial_that_follows_none_that_it_can_is_named(
    run_dir: Path, trial_id: str, change: dict[str, Any], problem: str
) -> None:
    frame = rows()
    frame.loc[frame.trial_id == trial_id, list(change)] = list(change.values())
    write_table(frame, run_dir / "results.parquet")
    with pytest.raises(UserError, match=problem):
        load_results(run_dir / "results.parquet")


def test_what_is_legal_but_strange_is_read(run_dir: Path) -> None:
    for change in (
        {"status": "failed"}, {"train_loss": np.nan}, {"fid": 1.0, "memorization": 0}, {"memorization": 1.0},
        {"n_samples": 1}, {"fid": np.nan}, {"heldout_memorization": np.nan},
    ):  # fmt: skip
        frame = rows().assign(**change)
        write_table(frame, run_dir / "results.parquet")
        assert len(load_results(run_dir / "results.parquet").frame) == len(frame)
        assert "</html>" in render(Run.read(run_dir))
        read_all(run_dir)
    write_table(rows().iloc[:0], run_dir / "results.parquet")
    read_all(run_dir)


def test_readers_leave_probe_rungs_out(run_dir: Path) -> None:
    sizes, recommended, pages = [], [], []
    for frame in (rows(), probed(rows())):
        write_table(frame, run_dir / "results.parquet")
        run = Run.read(run_dir)
        sizes.append(run.size(50))
        found = build_recommendation(RunDirectory(run_dir), "knee").to_yaml()
        recommended.append([line for line in found.splitlines() if "created" not in line])
        pages.append(render(run))
    for part in ("full", "anytime", "controls", "configurations", "frontier", "hypervolume_history"):
        before, after = (getattr(size, part) for size in sizes)
        pd.testing.assert_frame_equal(
            before.drop(columns="rung", errors="ignore").reset_index(drop=True),
            after.drop(columns="rung", errors="ignore").reset_index(drop=True),
        )
    assert len(sizes[0].full) > 2
    assert recommended[0] == recommended[1]
    assert all("</html>" in page for page in pages)


def column_of(name: str, values: pa.Array) -> pa.Table:
    table = to_table(rows())
    return table.set_column(table.column_names.index(name), name, values)


def test_columns_of_other_types_are_named(run_dir: Path) -> None:
    n, path = len(rows()), run_dir / "results.parquet"
    for name, values in {
        "fid": pa.array(["1.0"] * n),
        "rung": pa.array([1.5] * n),
        "seed": pa.array([None] * n, pa.int64()),
        "budget": pa.array([[1.0]] * n),
        "error": pa.array([b"x"] * n),
        "memorization": pa.array([1] * n).cast(pa.decimal128(25, 2)),
    }.items():
        write_table(column_of(name, values), path)
        with pytest.raises(UserError, match=f"column '{name}'"):
            load_results(path)
    write_table(column_of("seed", pa.array([2.0] * n)), path)
    assert load_results(path).frame.seed.tolist() == [2] * n
    table = to_table(rows())
    write_table(table.append_column("fid", table.column("fid")), path)
    with pytest.raises(UserError, match="column 'fid' is there twice"):
        load_results(path)


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("probe_levels", [0.4, 0.1], "are no noise levels that rise"),
        ("probe_levels", [0.0, 0.1], "are no noise levels that rise"),
        ("probe_levels", [0.1, np.nan], "are no noise levels that rise"),
        ("probe_levels", [], "are not as many as probe_levels"),
        ("probe_train", [0.1], "are not as many as probe_levels"),
        ("probe_train", [], "are not as many as probe_levels"),
        ("probe_heldout", [0.1, 0.2, 0.3], "are not as many as probe_levels"),
        ("probe_heldout", [0.1, -1.0], "are no errors from 0"),
        ("probe_train", [np.inf, 0.1], "are no errors from 0"),
    ],
)
def test_probes_that_no_sweep_measures_are_named(
    run_dir: Path, column: str, value: list[float], problem: str
) -> None:
    frame = rows()
    ours = (frame.trial_id == "a-1").tolist()
    frame[column] = [value if own else known for own, known in zip(ours, frame[column], strict=True)]
    write_table(frame, run_dir / "results.parquet")
    with pytest.raises(UserError, match=rf"'probe_\w+', trial a-1: .*{problem}"):
        load_results(run_dir / "results.parquet")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([["a"]], "holds more than lists of numbers"),
        (["0.1"], "holds string, not lists of numbers"),
        ([1.0], "holds double, not lists of numbers"),
        ([[[1.0]]], "holds more than lists of numbers"),
        ([[1.0, None]], "holds more than lists of numbers, or numbers that may be missing"),
        ([[0.1] * (MAX_LENGTH + 1)], "holds a list of 101 numbers, more than 100"),
        ([[0.1] * 100 * MAX_LENGTH], "holds lists of more than 100 numbers"),
    ],
    ids=["text in lists", "text", "numbers", "lists of lists", "missing", "long", "huge"],
)
def test_lists_are_of_numbers_and_short(run_dir: Path, values: list[Any], problem: str) -> None:
    table, exact = to_table(rows()), isinstance(values[0], list) and len(values[0]) > MAX_LENGTH
    rest: Any = [] if isinstance(values[0], list) else None
    array = pa.array([*values, *[rest] * (len(table) - 1)], NUMBERS if exact else None)
    at = table.column_names.index("probe_train")
    write_table(table.set_column(at, pa.field("probe_train", array.type), array), run_dir / "results.parquet")
    with pytest.raises(UserError, match=f"column 'probe_train' {problem}"):
        load_results(run_dir / "results.parquet")


def test_lists_in_a_dictionary_are_refused(run_dir: Path) -> None:
    table = to_table(rows())
    pq.write_table(
        table.replace_schema_metadata({METADATA: json.dumps(DECLARED.to_json())}), run_dir / "results.parquet"
    )
    with pytest.raises(UserError, match="'probe_levels' is encoded with a dictionary; write its lists plain"):
        load_results(run_dir / "results.parquet")


def test_what_has_no_lists_has_empty_ones(run_dir: Path) -> None:
    write_table(rows().drop(columns=LISTS), run_dir / "results.parquet")
    assert load_results(run_dir / "results.parquet").frame[LISTS].map(len).to_numpy().sum() == 0
    write_table(column_of("probe_heldout", pa.nulls(len(rows()))), run_dir / "results.parquet")
    assert load_results(run_dir / "results.parquet").frame.probe_heldout.tolist() == [[]] * len(rows())


class Unpickled(pa.ExtensionType):  # type: ignore[misc]
    """A type of Arrow whose making is noticed."""

    made = 0

    def __init__(self) -> None:
        super().__init__(pa.float64(), "test.unpickled")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "Unpickled":
        cls.made += 1
        return cls()


def test_types_of_arrow_are_not_made(run_dir: Path) -> None:
    pa.register_extension_type(Unpickled())
    try:
        plain = pa.array([1.0] * len(rows()))
        write_table(
            column_of("fid", pa.ExtensionArray.from_storage(Unpickled(), plain)), run_dir / "results.parquet"
        )
        Unpickled.made = 0
        assert load_results(run_dir / "results.parquet").frame.fid.tolist() == [1.0] * len(rows())
        assert Unpickled.made == 0
    finally:
        pa.unregister_extension_type("test.unpickled")


def test_a_small_file_that_unpacks_to_much_is_refused(run_dir: Path) -> None:
    path = run_dir / "results.parquet"
    many = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000_001, np.int8)), pa.array(["a"]))
    pq.write_table(pa.table({"trial_id": many}), path)
    with pytest.raises(UserError, match="1,000,001 rows"):
        load_results(path)
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, np.int8)), pa.array(["a" * 90_000]))
    pq.write_table(pa.table({"trial_id": long}), path)
    with pytest.raises(UserError, match="once unpacked"):
        load_results(path)
    pq.write_table(pa.table({"trial_id": ["a"]}), path, compression="zstd")
    with pytest.raises(UserError, match="ZSTD; write it with snappy"):
        load_results(path)


RECOMMENDED: list[str] = []
"""The recommendation of the small sweep, once it was made."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def places(values: Any) -> Iterator[tuple[Any, Any]]:
    """Every container among nested values with each of its keys."""
    items = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for key, value in items:
        yield values, key
        yield from places(value)


@settings(FEW, max_examples=30)
@given(data=st.data())
def test_any_declarations_give_results_or_one_line(run_dir: Path, data: st.DataObject) -> None:
    values = json.loads(json.dumps(DECLARED.in_steps(ScheduleConfig().schedule).to_json()))
    node, key = data.draw(st.sampled_from(list(places(values))))
    node[key] = data.draw(JSON)
    write_table(rows(), run_dir / "results.parquet", values)
    assert_used_or_refused(RunDirectory(run_dir).load)


@settings(FEW, max_examples=20)
@given(data=st.data())
def test_an_edited_recommendation_is_used_or_named(run_dir: Path, data: st.DataObject) -> None:
    if not RECOMMENDED:
        RECOMMENDED.append(build_recommendation(RunDirectory(run_dir), "knee").to_yaml())
    document = yaml.safe_load(RECOMMENDED[0])
    (entry,) = document["recommendations"]
    node, key = data.draw(st.sampled_from([p for p in places(entry) if p[0] is not entry["training"]]))
    node[key] = data.draw(JSON)
    (run_dir / "recommendation.yaml").write_text(yaml.safe_dump(document))
    assert_used_or_refused(lambda: Run.read(run_dir))


@pytest.mark.parametrize(
    "name", ["results.parquet", "recommendation.yaml", "environment.json", "stopped.txt"]
)
@settings(FEW, max_examples=10)
@given(content=st.binary(max_size=200))
def test_any_bytes_as_a_file_of_a_run(run_dir: Path, name: str, content: bytes) -> None:
    (run_dir / name).write_bytes(content)
    assert_used_or_refused(lambda: Run.read(run_dir))


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a":' * 60 + "1" + "}" * 60, "3", "NaN", "x" * 1_000_001]
)
def test_an_environment_that_is_no_object_is_named(run_dir: Path, content: str) -> None:
    (run_dir / "environment.json").write_text(content)
    with pytest.raises(UserError, match=r"environment\.json"):
        Run.read(run_dir)


def test_names_of_an_export_and_of_columns_are_taken() -> None:
    exported = ExportedRecommendation.model_fields.keys() - {"sigma_tn", "mix_ratio"}
    for name in (*exported, "controls", "final_n_samples", "final_sharpness", "sharpness_se"):
        values = DECLARED.to_json()
        values["objectives"].append({"name": name, "label": "", "description": ""})
        with pytest.raises(UserError, match=f"{name}: the name is taken"):
            check_names(type(DECLARED).from_json(values))


@pytest.mark.parametrize(
    "uri", ["s3://bucket?endpoint_override=127.0.0.1:9&scheme=http", "hdfs://nowhere:1/x"]
)
def test_reading_a_run_contacts_nothing(run_dir: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any, **more: Any) -> None:
        raise AssertionError(f"contacted {given}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("pareto_amb.results.run.Storage", refuse)
    values = yaml.safe_load((run_dir / "sweep.yaml").read_text())
    (run_dir / "sweep.yaml").write_text(yaml.safe_dump({**values, "storage": uri}))
    (run_dir / "environment.json").write_text('{"tracking_uri": "http://127.0.0.1:9"}')
    page = write_report(run_dir).read_text()
    assert "write the report with --trust-run to fetch them" in page
    assert build_recommendation(RunDirectory(run_dir), "knee").recommendations
    with pytest.raises(AssertionError, match="contacted"):
        write_report(run_dir, trust=True)


def archive(**arrays: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in arrays.items():
            file.writestr(f"{name}.npy", content)
    return packed.getvalue()


def test_samples_are_bounded_and_inside_the_run(run_dir: Path, tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (4, 3, 20_000, 20_000)}
    )
    path = run_dir / "samples" / "d-s0" / "rung-2.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes(archive(samples=header.getvalue() + b"0" * 100))
    with pytest.raises(UserError, match=r"rung-2\.npz: not a file of samples .*more than"):
        write_report(run_dir)
    path.rename(tmp_path / "elsewhere.npz")
    path.symlink_to(tmp_path / "elsewhere.npz")
    with pytest.raises(UserError, match="lies outside the run directory"):
        write_report(run_dir)
