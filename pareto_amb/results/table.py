"""The results table: one row per (trial, rung), the only thing the analysis and the report read.

Columns that every row has are those of `columns`. Further metrics may follow as extra float columns, among
them `memorization_at_T` and `heldout_memorization_at_T`, the shares above each similarity threshold T, and
`NAME_se`, the standard deviation of an objective over sets of n_samples images of the same model (how far
another training would move it is not in it). Columns that begin with `final_` are of a second measurement,
on more samples, of the trials that have one: never to be drawn or judged beside figures of fewer. A row of a
probe rung has denoising errors alone: its `n_samples` is 0, and the figures of samples are NaN.

The file carries what its sweep declared, and a description of each column as that field's metadata.

Of a long table under way the trials that changed last lie in a second, short file of the same form beside it:
what is there of a trial takes the place of all that the long one has of it.
"""

import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pareto_amb.config import SearchConfig
from pareto_amb.declared import Declared, Parameter
from pareto_amb.errors import UserError
from pareto_amb.printable import printable, reason
from pareto_amb.reading import read_file
from pareto_amb.results.checks import check_rows
from pareto_amb.results.parquet import MAX_FILE_BYTES, NUMBERS, ParquetTable
from pareto_amb.results.probes import HELDOUT, LEVELS, TRAIN
from pareto_amb.results.size import Results
from pareto_amb.storage import replace_file
from pareto_amb.trial import Trial
from pareto_amb.untrusted import parse_json

Status = Literal["running", "complete", "paused", "interrupted", "failed"]

METADATA = b"pareto_amb"
"""The key of the file's metadata that holds the declarations, as JSON."""

_MAX_METADATA = 1_000_000

FINAL = "final_"
"""Begins the columns of a trial's final measurement."""

RECENT_ROWS = 256
"""A table of more rows is not rewritten whole after every row; so many lie in the short file at most."""

_LONGEST_ERROR = 2_000
"""Characters kept of why a trial failed."""

_ORDER = ["train_size", "trial_id", "rung"]
"""Of the rows, by column."""

_FORMER_STATUS = {"pruned": "paused"}


@dataclass(frozen=True)
class Column:
    """A column of the table. `default` stands for it in tables written before there was one.

    An `object` is a list of real numbers, empty where a row has none.
    """

    name: str
    dtype: Literal["str", "int64", "float64", "object"]
    description: str
    default: Any = None


_IDENTITY = (
    Column("trial_id", "str", "unique in the run, such as n100-algorithm1-0007 or n100-ddpm-s2"),
    Column("method", "str", "the training method"),
    Column("train_size", "int64", "images in the training set"),
)
_PROGRESS = (
    Column("seed", "int64", "of the training: initial weights, noisy copies, batches"),
    Column("rung", "int64", "place of the measurement, from 1; 0 for a trial that ended before its first"),
    Column("images_seen", "int64", "images the training had seen"),
    Column(
        "branched_at",
        "int64",
        "images after which the trial went on from the first DDPM baseline of its size, 0 from scratch; such "
        "a trial copies more and is on no frontier",
        0,
    ),
    Column("budget", "float64", "images seen as a share of a full training, in (0, 1]"),
    Column("n_samples", "int64", "generated images that the figures rest on; 0 at a probe rung"),
)
_FIGURES = (
    Column("threshold", "float64", "similarity above which a generated image counts as a copy"),
    Column("similarity_mean", "float64", "of each sample to its nearest training image, averaged"),
    Column("similarity_p95", "float64", "its 95th percentile over the samples"),
    Column("heldout_memorization", "float64", "memorization of held-out images: real, never trained on"),
    Column("heldout_similarity_mean", "float64", "similarity_mean of held-out images"),
    Column("heldout_similarity_p95", "float64", "similarity_p95 of held-out images"),
    Column("heldout_fid", "float64", "FID of n_samples held-out images, from the other real ones", math.nan),
    Column("train_loss", "float64", "mean over the images seen since the previous rung"),
    Column("train_seconds", "float64", "of the whole training up to this rung"),
    Column("eval_seconds", "float64", "of this rung's measurement"),
    Column(
        "device",
        "str",
        "what this rung was measured on: the name of a GPU, or cpu; seconds of different ones do not compare",
        "",
    ),
    Column(
        "status",
        "str",
        "of the trial: running, complete, paused (may resume), interrupted (by a machine, goes on) or failed",
    ),
    Column("error", "str", "why the trial was interrupted or failed, one line"),
    Column("confirms", "str", "the trial that this one repeats with a fresh seed; empty for others", ""),
    Column(
        "controls",
        "str",
        "the trial that this one is a control of: clean images at its noise levels, beside one of its "
        "repeats; empty for others",
        "",
    ),
    Column("recorded_at", "float64", "seconds since 1970 at which the row was first written", math.nan),
)
_PROBES = (
    Column(LEVELS, "object", "noise levels, EDM units, at which the model denoised noisy images", ()),
    Column(TRAIN, "object", "mean squared denoising error on training images at each of probe_levels", ()),
    Column(HELDOUT, "object", "the same on held-out images; empty where there are none", ()),
)
_PATTERNS = (
    (r"heldout_images", "held-out images that the figures of held-out images rest on"),
    (r"heldout_memorization_at_(.*)", "share of held-out images with similarity above {0}"),
    (r"memorization_at_(.*)", "share of samples with similarity above {0}"),
    (r"(.*)_se", "standard error of {0} over sets of n_samples images of the same model"),
)


def columns(declared: Declared) -> dict[str, Column]:
    """The columns that every row has, in their order, by name."""
    parameters = (Column(p.name, "float64", _of_parameter(p), p.absent) for p in declared.parameters.values())
    objectives = (Column(o.name, "float64", o.description) for o in declared.objectives.values())
    every = (*_IDENTITY, *parameters, *_PROGRESS, *objectives, *_FIGURES, *_PROBES, *_final_columns(declared))
    return {column.name: column for column in every}


def _final_columns(declared: Declared) -> Iterator[Column]:
    """Those of the final measurement, NaN in rows that have none."""
    yield _final("n_samples", "generated images of a second, final measurement; NaN where there is none")
    for objective in declared.objectives.values():
        yield _final(objective.name, f"{objective.name} of those final_n_samples images")
        error = f"standard error of {FINAL}{objective.name}; NaN where it has none"
        yield _final(objective.error_column, error)


def _final(name: str, description: str) -> Column:
    return Column(f"{FINAL}{name}", "float64", description, math.nan)


def final_figures(declared: Declared, metrics: Mapping[str, float]) -> dict[str, float]:
    """The columns of a final measurement that found `metrics`."""
    named = {column.name: column.name.removeprefix(FINAL) for column in _final_columns(declared)}
    return {column: float(metrics[name]) for column, name in named.items() if name in metrics}


def _of_parameter(parameter: Parameter) -> str:
    return f"{parameter.description.partition(';')[0]}; a constant where a method has none"


def describe_column(name: str, every_row: Mapping[str, Column]) -> str:
    """What a column holds, beside those of `every_row` further metrics; empty for one that is not known."""
    if known := every_row.get(name):
        return known.description
    for pattern, words in _PATTERNS:
        if found := re.fullmatch(pattern, name):
            return words.format(*found.groups())
    return ""


def trial_columns(trial: Trial, declared: Declared) -> dict[str, Any]:
    """How every row of a trial begins: who it is and what was chosen for it."""
    return {
        "trial_id": trial.id,
        "method": trial.method,
        "train_size": trial.train_size,
        **declared.columns_of(trial.method, trial.parameters),
        "seed": trial.seed,
        "confirms": trial.confirms,
        "controls": trial.controls,
        "branched_at": trial.branched_at,
    }


def empty_row(trial: Trial, declared: Declared) -> dict[str, Any]:
    """The row of a trial that has not come to its first rung, but for its status."""
    start = {"rung": 0, "images_seen": 0, "budget": 0.0, "n_samples": 0, "error": ""}
    return {**trial_columns(trial, declared), **start}


def searched(rows: pd.DataFrame) -> pd.DataFrame:
    """Those of `rows` that are of the search, baselines included: no repeats, and no controls."""
    return rows[(rows.confirms == "") & (rows.controls == "")]


def recent_path(path: Path) -> Path:
    """Where the trials that changed last lie, beside the table at `path`."""
    return path.with_suffix(".recent.parquet")


class ResultsTable:
    """The rows of a run, on disk after every change: whole, or in a long one the trials that changed last."""

    def __init__(self, path: Path, declared: Declared) -> None:
        """Open the table at `path`, an empty one if there is none yet; UserError when unreadable."""
        self.path, self.declared = path, declared
        self._columns = columns(declared)
        self._trials: dict[str, dict[int, dict[str, Any]]] = {}
        if path.exists():
            for row in load_results(path, declared).frame.to_dict("records"):
                self._trials.setdefault(row["trial_id"], {})[row["rung"]] = dict(row)
        else:
            _write(path, self.frame(), declared)
        self._n_whole, self._changed = 0, dict.fromkeys(self._trials)
        self._settle()

    def record(self, row: Mapping[str, Any]) -> None:
        """Add a row, or replace the one of the same trial and rung; its status holds for the trial.

        Rung 0 stands for a trial that has none, and goes with the first. OSError where it cannot be written.
        """
        rungs = self._trials.setdefault(row["trial_id"], {})
        if row["rung"] > 0:
            rungs.pop(0, None)
        new = {"confirms": "", "controls": "", "branched_at": 0, "device": "", "recorded_at": time.time()}
        rungs[row["rung"]] = {**new, **rungs.get(row["rung"], {}), **row}
        for known in rungs.values():
            known["status"], known["error"] = row["status"], row.get("error", "")[:_LONGEST_ERROR]
        self._changed[row["trial_id"]] = None
        n_changed = sum(len(self._trials[trial_id]) for trial_id in self._changed)
        if n_changed > RECENT_ROWS or self._n_whole + n_changed <= RECENT_ROWS:
            self._write_whole()
        else:
            _write(recent_path(self.path), self._frame(self._changed), self.declared)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """At the end of the block all rows are in the one file, unless its disk takes no more."""
        try:
            yield
        finally:
            with suppress(OSError):
                self._settle()

    def _settle(self) -> None:
        if recent_path(self.path).exists():
            self._write_whole()

    def _write_whole(self) -> None:
        frame = self.frame()
        _write(self.path, frame, self.declared)
        recent_path(self.path).unlink(missing_ok=True)
        self._n_whole, self._changed = len(frame), {}

    def trial_ids(self) -> list[str]:
        """The trials that have a row, in the order of their first."""
        return list(self._trials)

    def rows(self, trial_id: str) -> list[dict[str, Any]]:
        """The rows of a trial by rising rung, none when it has no row."""
        rungs = self._trials.get(trial_id, {})
        return [rungs[rung] for rung in sorted(rungs)]

    def last_row(self, trial_id: str) -> dict[str, Any] | None:
        """The row of a trial's highest rung so far, None when it has no row."""
        return next(reversed(self.rows(trial_id)), None)

    def status(self, trial_id: str) -> Status | None:
        """The status of a trial, None when it has no row."""
        row = self.last_row(trial_id)
        return row["status"] if row else None

    def frame(self) -> pd.DataFrame:
        """The rows, the columns that all have first, ordered by train size, trial and rung."""
        return self._frame(self._trials)

    def _frame(self, trial_ids: Iterable[str]) -> pd.DataFrame:
        frame = pd.DataFrame([row for name in trial_ids for row in self._trials[name].values()])
        further = [name for name in frame.columns if name not in self._columns]
        frame = frame.reindex(columns=[*self._columns, *further])
        frame = frame.astype({name: column.dtype for name, column in self._columns.items()})
        for name in (name for name, column in self._columns.items() if column.dtype == "object"):
            values = [value if isinstance(value, list) else [] for value in frame[name]]
            frame[name] = pd.Series(values, index=frame.index, dtype="object")
        return frame.sort_values(_ORDER, ignore_index=True)

    def results(self) -> Results:
        """What the rows tell so far."""
        return Results(self.frame(), self.declared)


def _write(path: Path, frame: pd.DataFrame, declared: Declared) -> None:
    """Write rows to a file, whole or not at all, with what their sweep declared."""
    metadata = {METADATA: json.dumps(declared.to_json()).encode()}
    table = _to_arrow(frame, columns(declared)).replace_schema_metadata(metadata)
    plain = [field.name for field in table.schema if field.type != NUMBERS]
    with replace_file(path) as temporary:
        pq.write_table(table, temporary, use_dictionary=plain)


def _to_arrow(frame: pd.DataFrame, every_row: Mapping[str, Column]) -> pa.Table:
    """The rows with a description of each column."""
    lists = {name for name, column in every_row.items() if column.dtype == "object"}
    arrays = {
        name: pa.array(values.tolist(), NUMBERS) if name in lists else pa.array(values, from_pandas=True)
        for name, values in frame.items()
    }
    described = {name: {"description": describe_column(name, every_row)} for name in arrays}
    fields = [pa.field(name, array.type, metadata=described[name]) for name, array in arrays.items()]
    return pa.table(list(arrays.values()), pa.schema(fields))


def load_results(path: Path, declared: Declared | None = None) -> Results:
    """Read a results table, with what its sweep declared unless the caller has that.

    The files may come from anyone: their size is bounded, none of it runs, and every value is checked. Raises
    UserError, one line that names the file and, where it is one, the column and the trial.
    """
    if not path.exists():
        raise UserError(f"{printable(path)}: no results table there; is this a run directory?")
    latest = _read_recent(recent_path(path))  # first: what a sweep takes from it goes into the long file
    content = read_file(path, MAX_FILE_BYTES)
    shown = printable(path)
    try:
        table = ParquetTable(content)
        found = declared or _declarations(table.metadata)
        frame = _parse(table, found)
        if latest is not None:
            shown += f" and {printable(recent_path(path).name)}"
            frame = _merge(frame, _parse(ParquetTable(latest), found))
        check_rows(frame, found, get_args(Status))
    except Exception as error:  # pyarrow raises a dozen types for a corrupt file
        raise UserError(f"{shown}: not a results table, {reason(error)}; {_REMEDY}") from error
    return Results(frame, found)


def _read_recent(path: Path) -> bytes | None:
    """The content of a short file; None where there is none, or none any more."""
    try:
        return read_file(path, MAX_FILE_BYTES) if path.exists() else None
    except UserError:
        if path.exists():
            raise
        return None


def _parse(table: ParquetTable, declared: Declared) -> pd.DataFrame:
    """The rows of a file with all columns of `columns`. ValueError for those that are not there."""
    wanted = columns(declared)
    frame = table.frame({name: column.dtype for name, column in wanted.items()})
    return _complete(frame, wanted)


def _merge(rows: pd.DataFrame, latest: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table, those of the trials of `latest` in the place of what it had of them."""
    frame = pd.concat([rows[~rows.trial_id.isin(latest.trial_id)], latest], ignore_index=True)
    words = [name for name in frame.columns if frame[name].dtype == "str"]
    frame[words] = frame[words].fillna("")
    return frame.sort_values(_ORDER, ignore_index=True)


_REMEDY = "restore the table that its sweep wrote"


def _complete(frame: pd.DataFrame, wanted: Mapping[str, Column]) -> pd.DataFrame:
    """The rows with the columns that older versions lack. ValueError where another one is missing."""
    for name, column in wanted.items():
        if name not in frame.columns:
            if column.default is None:
                raise ValueError(f"column '{name}' is missing")
            values = [list(column.default) if column.dtype == "object" else column.default] * len(frame)
            frame[name] = pd.Series(values, dtype=column.dtype)
    return frame.assign(status=frame.status.replace(_FORMER_STATUS))


def _declarations(metadata: Mapping[bytes, bytes]) -> Declared:
    """What a table says its sweep declared; what ships, for a table of an older version.

    Raises ValueError or UserError where that is no declaration of a sweep's.
    """
    if METADATA not in metadata:
        return shipped()
    if len(metadata[METADATA]) > _MAX_METADATA:
        raise ValueError(f"its declarations are longer than {_MAX_METADATA:,} bytes")
    return Declared.from_json(parse_json(metadata[METADATA]))


def shipped() -> Declared:
    """The methods that ship with pareto-amb, and the default pair of objectives."""
    from pareto_amb.sweep_file import declare

    return declare().judged_by(SearchConfig().objectives)
