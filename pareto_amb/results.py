"""The results table: one row per (trial, rung), the only thing the analysis and the report read.

Columns that every row has are in SCHEMA. Further metrics may follow as extra float columns, among them
`memorization_at_T` and `heldout_memorization_at_T`, the shares above each similarity threshold T, and
`fid_se` and `memorization_se`, the standard deviations of fid and memorization over sets of n_samples
images of the same model (how far another training would move them is not in it).
"""

import math
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from pareto_amb.errors import UserError
from pareto_amb.storage import replace_file

Status = Literal["running", "complete", "pruned", "failed"]

SCHEMA: dict[str, str] = {
    "trial_id": "str",  # unique in the run, e.g. n100-algorithm1-0007 or n100-ddpm-s2
    "method": "str",  # one of PARAMETERS
    "train_size": "int64",  # images in the training set
    "sigma_tn": "float64",  # EDM units; 0 for ddpm
    "mix_ratio": "float64",  # share of noisy examples in a batch, `natural` resolved; 0 for ddpm
    "corruption": "float64",  # share of the pixels missing from each training image; 0 but for masking
    "seed": "int64",
    "rung": "int64",  # 1 .. number of rungs; 0 for a trial that failed before its first
    "images_seen": "int64",
    "budget": "float64",  # images_seen / images of a full training, in (0, 1]
    "n_samples": "int64",  # generated images that fid and memorization rest on
    "fid": "float64",  # Frechet distance in the features of fid_encoder
    "memorization": "float64",  # share of samples with similarity above `threshold`
    "threshold": "float64",
    "similarity_mean": "float64",  # of each sample to its nearest training image
    "similarity_p95": "float64",
    "heldout_memorization": "float64",  # the same figures for real images never trained on
    "heldout_similarity_mean": "float64",
    "heldout_similarity_p95": "float64",
    "train_loss": "float64",  # mean since the previous rung
    "train_seconds": "float64",  # whole training up to this rung
    "eval_seconds": "float64",  # this rung's evaluation
    "status": "str",  # of the trial: running, complete, pruned (paused, may resume), failed
    "error": "str",  # why it failed, one line
    "confirms": "str",  # trial_id of the trial that this one repeats with a fresh seed; empty for others
    "recorded_at": "float64",  # seconds since 1970 at which the row was first written
}

DEFAULTS: dict[str, Any] = {"confirms": "", "recorded_at": math.nan}
"""What stands for a column of SCHEMA in tables written before there was one."""

PARAMETERS: dict[str, tuple[str, ...]] = {
    "ddpm": (),
    "algorithm1": ("sigma_tn", "mix_ratio"),
    "masking": ("corruption",),
    "noise_only": ("sigma_tn",),
}
"""The columns that a method's trials differ in; they hold 0, or 1 for a mix ratio without clean examples,
in the rows of the others."""


def parameters_of(method: str) -> tuple[str, ...]:
    """The columns that the trials of a method differ in; those of Algorithm 1 for a method unknown here."""
    return PARAMETERS.get(method, PARAMETERS["algorithm1"])


def describe_trial(trial: Mapping[str, Any]) -> str:
    """What was chosen for a trial, e.g. `sigma_tn 0.3, mix ratio 0.50`; empty for DDPM."""
    names = parameters_of(trial["method"])
    return ", ".join(f"{name.replace('mix_ratio', 'mix ratio')} {trial[name]:.3g}" for name in names)


class ResultsTable:
    """The rows of a run, written whole to a parquet file after every change."""

    def __init__(self, path: Path) -> None:
        """Open the table at `path`, an empty one if there is none yet; UserError when unreadable."""
        self.path = path
        self._trials: dict[str, dict[int, dict[str, Any]]] = {}
        if path.exists():
            for row in load_results(path).to_dict("records"):
                self._trials.setdefault(row["trial_id"], {})[row["rung"]] = dict(row)
        else:
            self._write()

    def record(self, row: dict[str, Any]) -> None:
        """Add a row, or replace the one of the same trial and rung; its status holds for the trial."""
        rungs = self._trials.setdefault(row["trial_id"], {})
        new = {**DEFAULTS, "recorded_at": time.time()}
        rungs[row["rung"]] = {**new, **rungs.get(row["rung"], {}), **row}
        for known in rungs.values():
            known["status"], known["error"] = row["status"], row.get("error", "")
        self._write()

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
        """The rows, SCHEMA's columns first, ordered by train size, trial and rung."""
        frame = pd.DataFrame([row for rungs in self._trials.values() for row in rungs.values()])
        frame = frame.reindex(columns=[*SCHEMA, *(c for c in frame.columns if c not in SCHEMA)])
        frame = frame.astype(SCHEMA)
        return frame.sort_values(["train_size", "trial_id", "rung"], ignore_index=True)

    def _write(self) -> None:
        with replace_file(self.path) as temporary:
            self.frame().to_parquet(temporary, index=False)


def load_results(path: Path) -> pd.DataFrame:
    """Read a results table. Raises UserError when it is missing, unreadable or lacks a column."""
    try:
        frame = pd.read_parquet(BytesIO(path.read_bytes()))  # Arrow opens a path twice: two files in a sweep
    except FileNotFoundError as error:
        raise UserError(f"{path}: no results table there; is this a run directory?") from error
    except Exception as error:  # pyarrow raises a dozen types for a corrupt file
        raise UserError(f"{path}: not a results table ({' '.join(str(error).split())[:120]})") from error
    missing = [column for column in SCHEMA if column not in frame.columns]
    for column in missing:
        if column not in DEFAULTS:
            raise UserError(f"{path}: not a results table, column '{column}' is missing")
        frame[column] = DEFAULTS[column]
    return frame.astype({column: SCHEMA[column] for column in missing})
