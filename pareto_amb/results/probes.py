"""Denoising probes as a results table holds them: errors of a row, by noise level.

Where, and from when, a model memorizes, its error on held-out images is larger than that on training images.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import geometric_mean
from typing import Any

import pandas as pd

from pareto_amb.config import N_PROBED_LEVELS

LEVELS, TRAIN, HELDOUT = "probe_levels", "probe_train", "probe_heldout"
"""Columns of lists: noise levels in EDM units, and the mean squared errors at each."""

PROBES = "log_probe_errors"
"""What a search knows `log_errors` by."""

GAP = "probe_gap_at_"
"""Begins the name of a level's gap where a row is logged as plain numbers."""


def probe_columns(
    levels: Sequence[float], train: Sequence[float], heldout: Sequence[float]
) -> dict[str, list[float]]:
    """The columns of a row whose probes found these errors; one that is no finite number is NaN."""
    return {
        LEVELS: list(levels),
        TRAIN: [error if math.isfinite(error) else math.nan for error in train],
        HELDOUT: [error if math.isfinite(error) else math.nan for error in heldout],
    }


def log_errors(row: Mapping[str, Any]) -> list[float]:
    """The logarithms of a row's errors (2 * N_PROBED_LEVELS,): on training images, then on held-out ones.

    What a row has not is NaN. They tell what a training will come to before its samples do.
    """
    each = [
        [*row.get(name, ()), *[math.nan] * N_PROBED_LEVELS][:N_PROBED_LEVELS] for name in (TRAIN, HELDOUT)
    ]
    return [math.log(error) if error > 0 else math.nan for errors in each for error in errors]


def gaps(row: Mapping[str, Any]) -> dict[float, float]:
    """By noise level, how many times the held-out error is that on training images: 1 where they are alike.

    Levels at which a row has no such ratio are left out; without held-out images those are all.
    """
    levels, train, heldout = row[LEVELS], row[TRAIN], row[HELDOUT]
    if not len(levels) == len(train) == len(heldout):
        return {}
    each = zip(levels, train, heldout, strict=True)
    return {level: theirs / ours for level, ours, theirs in each if ours > 0 and theirs > 0}


def mean_gaps(rows: pd.DataFrame) -> dict[float, float]:
    """The gap at each level, the geometric mean over those of `rows` that have one there."""
    found: dict[float, list[float]] = {}
    for row in rows.to_dict("records"):
        for level, gap in gaps({str(key): value for key, value in row.items()}).items():
            found.setdefault(level, []).append(gap)
    return {level: geometric_mean(each) for level, each in sorted(found.items())}
