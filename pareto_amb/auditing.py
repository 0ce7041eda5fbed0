"""Scores of models that were trained elsewhere, and the files that an audit leaves."""

import csv
import io
import json
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from pareto_amb.audit.halves import FEWEST_IMAGES, FEWEST_MODELS
from pareto_amb.audit.influence import FALSE_DISCOVERY_RATE, Influence
from pareto_amb.audit.report import LOWER_BOUND, Attack, Audit, Scores, compare, remarks, verdict
from pareto_amb.audit.roc import thinned
from pareto_amb.errors import UserError
from pareto_amb.evaluation.gate import Answer
from pareto_amb.printable import printable, reason
from pareto_amb.reading import read_file
from pareto_amb.results.parquet import MAX_FILE_BYTES, MAX_ROWS, ParquetTable
from pareto_amb.storage import write_text

JSON_SCHEMA = "pareto-amb audit 1"

MAX_CSV_BYTES = 2**28
MAX_SCORES = 32
MAX_VALUES = 10_000_000
MAX_MODELS = 2_000
COLUMNS = (
    "audit", "image", "file", "models_in", "models_out", "mem", "standard_error", "p_value", "significant",
    "found_out", "copies", "copies_standard_error",
)  # fmt: skip
"""Of audit.csv; then mem and its standard error of every score."""

_TEXT = ("model", "image", "file")
_NEEDED = ("model", "image", "member")
_LONGEST_NAME = 1_000


def read_scores(path: Path) -> Scores:
    """The scores in a CSV or Parquet file of anyone's: one row for each model and image.

    Columns: `model` and `image`, any names; `member`, 1 where the model was trained on the image, else 0;
    optionally `file`, where the image comes from; every other one is a score, low for members as losses are.
    Raises UserError, one line, for whatever cannot be used.
    """
    shown = printable(path)
    try:
        frame = _read(path)
        return _scores(frame)
    except UserError:
        raise
    except Exception as error:  # pyarrow raises a dozen types for a corrupt file
        raise UserError(f"{shown}: not a table of scores: {reason(error)}") from error


def _read(path: Path) -> pd.DataFrame:
    kind = path.suffix.lower()
    if kind == ".parquet":
        return ParquetTable(read_file(path, MAX_FILE_BYTES)).frame({})
    if kind != ".csv":
        raise ValueError("its name ends neither in .csv nor in .parquet")
    content = read_file(path, MAX_CSV_BYTES)
    table = arrow_csv.read_csv(
        pa.BufferReader(content),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(column_types=dict.fromkeys(_TEXT, pa.string())),
    )
    if len(set(table.column_names)) < len(table.column_names):
        raise ValueError("a column is there twice")
    if table.num_rows > MAX_ROWS:
        raise ValueError(f"{table.num_rows:,} rows; at most {MAX_ROWS:,} are read")
    return table.to_pandas()


def _scores(frame: pd.DataFrame) -> Scores:
    """The rows as arrays. Raises ValueError for what is missing or wrong."""
    missing = [name for name in _NEEDED if name not in frame.columns]
    if missing:
        raise ValueError(f"column '{missing[0]}' is missing; model, image, member and a score are needed")
    names = [str(name) for name in frame.columns if name not in {*_NEEDED, "file"}]
    _check_sizes(frame, names)
    model, models = pd.factorize(_labels(frame, "model"))
    image, images = pd.factorize(_labels(frame, "image"))
    m, n = len(models), len(images)
    if m < FEWEST_MODELS:
        raise ValueError(
            f"{m} models; at least {FEWEST_MODELS} are needed, each trained on a part of the images"
        )
    if n < FEWEST_IMAGES:
        raise ValueError(f"{n} images; at least {FEWEST_IMAGES} are needed to tell how much they differ")
    _check_grid(model, models, image, images)
    values, member = np.empty((m, n, len(names))), np.empty((m, n), dtype=bool)
    member[model, image] = _members(frame)
    for k, name in enumerate(names):
        values[model, image, k] = _numbers(frame, name)
    _check_members(member, images)
    files = np.full(n, "", dtype=object)
    if "file" in frame.columns:
        files[image] = _labels(frame, "file", empty=True)
    return Scores(tuple(map(str, images)), tuple(map(str, files)), tuple(names), values, member)


def _check_sizes(frame: pd.DataFrame, names: Sequence[str]) -> None:
    if not 1 <= len(names) <= MAX_SCORES:
        raise ValueError(f"{len(names)} columns of scores; from 1 to {MAX_SCORES} are needed")
    if not len(frame):
        raise ValueError("it has no rows")
    if (models := frame["model"].nunique()) > MAX_MODELS:
        raise ValueError(f"{models:,} models; at most {MAX_MODELS:,} are taken")
    if len(frame) * len(names) > MAX_VALUES:
        raise ValueError(f"{len(frame) * len(names):,} scores; at most {MAX_VALUES:,} are taken")


def _labels(frame: pd.DataFrame, name: str, empty: bool = False) -> NDArray[Any]:
    """The names in a column, numbers as text."""
    column = frame[name]
    if pd.api.types.is_numeric_dtype(column) and not column.isna().all():
        return np.array([f"{value:.15g}" for value in _numbers(frame, name)], dtype=object)
    text = column.astype("object").fillna("").astype(str)
    if (where := np.flatnonzero(text.str.len() > _LONGEST_NAME)).size:
        raise ValueError(f"row {where[0] + 1}: {name} has more than {_LONGEST_NAME:,} characters")
    found: NDArray[Any] = text.to_numpy(dtype=object)
    if not empty and (where := np.flatnonzero(found == "")).size:
        raise ValueError(f"row {where[0] + 1} names no {name}")
    return found


def _numbers(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    column = frame[name]
    if not (pd.api.types.is_numeric_dtype(column) or column.isna().all()):
        raise ValueError(f"column '{_short(name)}' holds something else than numbers")
    found: NDArray[np.float64] = column.to_numpy(dtype=np.float64, na_value=math.nan)
    if (where := np.flatnonzero(~np.isfinite(found))).size:
        raise ValueError(f"row {where[0] + 1} has no finite number as '{_short(name)}'")
    return found


def _members(frame: pd.DataFrame) -> NDArray[np.bool_]:
    found = _numbers(frame, "member")
    if (where := np.flatnonzero((found != 0) & (found != 1))).size:
        raise ValueError(f"row {where[0] + 1} has {found[where[0]]:g} as member; it is 1 or 0")
    return np.asarray(found == 1)


def _check_grid(
    model: NDArray[np.int64], models: NDArray[Any], image: NDArray[np.int64], images: NDArray[Any]
) -> None:
    """Raise ValueError unless every model has every image once."""
    cells, counts = np.unique(model * len(images) + image, return_counts=True)
    if counts.max() > 1:
        k, i = divmod(int(cells[counts.argmax()]), len(images))
        raise ValueError(f"model '{_short(models[k])}' has image '{_short(images[i])}' twice")
    if len(cells) < len(models) * len(images):
        gaps = np.flatnonzero(cells != np.arange(len(cells)))
        k, i = divmod(int(gaps[0]) if len(gaps) else len(cells), len(images))
        raise ValueError(f"model '{_short(models[k])}' lacks image '{_short(images[i])}'; score every image")


def _check_members(member: NDArray[np.bool_], images: NDArray[Any]) -> None:
    """Raise ValueError for an image that hardly any model was trained on, or hardly any was not."""
    for kinds, words in ((member, "was trained on by"), (~member, "was left out by")):
        few = np.flatnonzero(kinds.sum(axis=0) < 2)
        if len(few):
            name, count = _short(images[few[0]]), int(kinds[:, few[0]].sum())
            raise ValueError(
                f"image '{name}' {words} {count} of the models; at least 2 of either kind are needed"
            )


def _short(name: object) -> str:
    return printable(f"{name:.80}")


# --- what it leaves -------------------------------------------------------------------------------


def write_tables(audits: Sequence[Audit], gate: Answer | None, folder: Path) -> None:
    """Write audit.json and audit.csv. Raises OSError where they cannot be written."""
    text = json.dumps(to_json(audits, gate), indent=2, allow_nan=False)
    write_text(folder / "audit.json", text + "\n")
    write_text(folder / "audit.csv", to_csv(audits))


def to_json(audits: Sequence[Audit], gate: Answer | None = None) -> dict[str, Any]:
    """The audits of one set of images as plain data; docs/audit.md says what each key means."""
    return {
        "schema": JSON_SCHEMA,
        "version": version("pareto-amb"),
        "lower_bound": LOWER_BOUND,
        "gate": None if gate is None else dict(vars(gate)),
        "audits": [_plain_audit(audit) for audit in audits],
        "comparison": _plain_comparison(*audits) if len(audits) == 2 else None,
    }


def _plain_comparison(before: Audit, after: Audit) -> dict[str, list[str]]:
    images = before.scores.images
    return {key: [printable(images[i]) for i in found] for key, found in compare(before, after).items()}


def _plain_audit(audit: Audit) -> dict[str, Any]:
    m, n = audit.scores.member.shape
    found = audit.influence
    return {
        "name": printable(audit.name),
        "verdict": verdict(audit),
        "models": m,
        "images": n,
        "scores": [printable(name) for name in audit.scores.names],
        "attacks": {attack.key: _plain_attack(attack) for attack in audit.attacks},
        "mem": {
            "mean": float(found.mem.mean()),
            "significant": len(audit.at_risk),
            "false_discovery_rate": FALSE_DISCOVERY_RATE,
            "smallest_p_value": found.smallest_p,
            "mean_by_score": {printable(k): float(each.mem.mean()) for k, each in audit.by_score.items()},
        },
        "copies": None if audit.copies is None else _plain_copies(audit.copies),
        "at_risk": [printable(audit.scores.images[i]) for i in audit.at_risk],
        "notes": remarks(audit),
    }


def _plain_copies(found: Influence) -> dict[str, Any]:
    return {"mean": float(found.mem.mean()), "significant": int((found.significant & (found.mem > 0)).sum())}


def _plain_attack(attack: Attack) -> dict[str, Any]:
    at = thinned(attack.roc)
    return {
        "auc": dict(vars(attack.auc)),
        "tpr_at_fpr": [{"fpr": rate, **vars(found)} for rate, found in attack.tpr.items()],
        "epsilon_at_least": {
            "value": attack.epsilon.value,
            "delta": attack.epsilon.delta,
            "confidence": attack.epsilon.confidence,
            "tpr": dict(vars(attack.epsilon.tpr)),
            "fpr": dict(vars(attack.epsilon.fpr)),
        },
        "roc": {"fpr": attack.roc.fpr[at].tolist(), "tpr": attack.roc.tpr[at].tolist()},
    }


def to_csv(audits: Sequence[Audit]) -> str:
    """One row for each audit and image, in the order of the images.

    Names are printable; one that a spreadsheet would take for a formula begins with an apostrophe.
    """
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    names = list(dict.fromkeys(name for audit in audits for name in audit.scores.names))
    figures = [f"{figure}_{_cell(name)}" for name in names for figure in ("mem", "standard_error")]
    table.writerow([*COLUMNS, *figures])
    for audit in audits:
        _write_rows(table, audit, names)
    return lines.getvalue()


def _write_rows(table: Any, audit: Audit, names: Sequence[str]) -> None:
    scores, found = audit.scores, audit.influence
    inside = scores.member.sum(axis=0)
    risky = set(audit.at_risk)
    each = [audit.by_score.get(name) for name in names]
    for i, image in enumerate(scores.images):
        table.writerow(
            [
                _cell(audit.name),
                _cell(image),
                _cell(scores.files[i]),
                inside[i],
                len(scores.member) - inside[i],
            ]
            + [f"{value:.6g}" for value in (found.mem[i], found.standard_error[i], found.p_value[i])]
            + [int(i in risky), f"{audit.found_out[i]:.6g}", *_pair(audit.copies, i)]
            + [text for one in each for text in _pair(one, i)]
        )


def _pair(found: Influence | None, i: int) -> tuple[str, str]:
    return ("", "") if found is None else (f"{found.mem[i]:.6g}", f"{found.standard_error[i]:.6g}")


def _cell(text: str) -> str:
    found = printable(text)
    return f"'{found}" if found.startswith(("=", "+", "-", "@")) else found
