"""The points of one train size: which rows of a results table may share a frontier, and their means."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from pareto_amb.declared import BASELINE, Declared, Objective

_NOT_MEASURED = ["budget", "threshold", "recorded_at"]
"""Columns of numbers that are not measured on a training: its seeds share them, and no mean is taken."""

Budget = Literal["full", "any"]


def is_control(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Which of `rows` belong to the control of a confirmed trial: it explains a point, and is none itself."""
    return rows.controls != ""


def comparable(rows: pd.DataFrame, objectives: Sequence[Objective], budget: Budget = "full") -> pd.DataFrame:
    """Those of one train size's `rows` that may share a frontier.

    `full`: one row a completed trial, at its full budget: a trial that was stopped early copies less
    only because it trained less. `any`: every rung of every trial measured with the same number of
    samples as the last one, early stopping included. Failed trials, branched ones and controls appear in
    neither.
    """
    rows = measured(rows, objectives)
    rows = rows[~is_control(rows)]
    complete = finished(rows)
    if budget == "full":
        return complete
    return rows[rows.n_samples == complete.n_samples.max()] if len(complete) else rows


def measured(rows: pd.DataFrame, objectives: Sequence[Objective]) -> pd.DataFrame:
    """Those of one train size's `rows` that have every figure, failed and branched trials left out.

    None is of a probe rung. The training from scratch of a branched trial takes its place: it confirms none.
    """
    branched = rows.branched_at > 0
    first = rows.confirms.isin(rows.trial_id[branched])
    rows = rows.assign(confirms=rows.confirms.mask(first, ""))[~branched]
    rows = rows[rows[[objective.name for objective in objectives]].notna().all(axis=1)]
    return rows[rows.status != "failed"]


def taken_over(row: Any) -> Any:
    """The share of a full training that a branched trial has not trained itself; of one row, or of rows."""
    return row["budget"] * row["branched_at"] / np.maximum(row["images_seen"], 1)


def finished(rows: pd.DataFrame) -> pd.DataFrame:
    """Those of `rows` that a training ended with at its full budget."""
    return rows[(rows.status == "complete") & (rows.budget >= 1)]


def configuration(rows: pd.DataFrame) -> "pd.Series[str]":
    """What tells the configurations among `rows` of one train size apart.

    All seeds of DDPM are one, and so are a trial and its repeats with fresh seeds (column `confirms`).
    """
    original = rows.trial_id.where(rows.confirms == "", rows.confirms)
    return original.where(rows.method != BASELINE, BASELINE).rename("configuration")


def average_seeds(rows: pd.DataFrame, declared: Declared) -> pd.DataFrame:
    """One row a configuration and stopping point, from `rows` of one train size: the mean over its seeds.

    Where a trial was repeated with fresh seeds it is the mean of the repeats alone: its own figures are those
    that it was picked for. At other stopping points it counts with its own. `seeds` counts the trainings
    behind a row, `confirmed` says whether they are such repeats; the columns `NAME_se` are those of the
    means, `trial_id` is the trial repeated.
    """
    repeated = _stop(rows.confirms, rows)[rows.confirms != ""]
    kept = rows[~_stop(rows.trial_id, rows).isin(repeated)]
    key = _stop(configuration(kept), kept)
    groups = kept.groupby(key, sort=False)
    averaged = groups.first()
    means = kept.select_dtypes("float").columns.difference([*_NOT_MEASURED, *declared.parameters])
    averaged[means] = groups[means].mean()
    averaged["seeds"] = groups.size()
    averaged["confirmed"] = (kept.confirms != "").groupby(key).any()
    averaged["trial_id"] = averaged.trial_id.where(~averaged.confirmed, averaged.confirms)
    averaged["confirms"] = ""
    errors = [objective.error_column for objective in declared.objectives.values()]
    for name in [name for name in errors if name in kept]:
        averaged[name] = np.sqrt((kept[name] ** 2).groupby(key).mean() / averaged.seeds)
    return averaged.reset_index(drop=True)


def _stop(of: "pd.Series[str]", rows: pd.DataFrame) -> "pd.Series[str]":
    """`of` (n,), and where each of `rows` (n,) was measured, as one word."""
    return (of + "@" + rows.images_seen.astype(str)).rename("stop")


def similarity_excess(rows: pd.DataFrame) -> float | None:
    """How far the mean similarity of samples lies above held-out images', over `rows`; None if not known."""
    columns = ("similarity_mean", "heldout_similarity_mean")
    if not all(column in rows for column in columns):
        return None
    ours, heldout = (float(rows[column].mean()) for column in columns)
    return ours - heldout if math.isfinite(ours - heldout) else None
