"""What the rows of a results table may hold; a table may come from anyone."""

import math
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pandas as pd

from pareto_amb.declared import BASELINE, Declared
from pareto_amb.printable import printable
from pareto_amb.results.probes import HELDOUT, LEVELS, TRAIN

TRIAL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
"""A trial's id is part of the names of its files."""

METHOD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")

LARGEST = 1e30
"""Beyond it squares and sums of figures leave the range of numbers."""

_WHOLE = {
    "train_size": (1, 2**31 - 1),
    "seed": (0, 2**63 - 1),
    "rung": (0, 1000),
    "images_seen": (0, 10**15),
    "branched_at": (0, 10**15),
    "n_samples": (0, 10**9),
}
_REAL = {
    "train_seconds": (0.0, LARGEST),
    "eval_seconds": (0.0, LARGEST),
    "recorded_at": (0.0, 1e12),
    "heldout_memorization": (0.0, 1.0),
    "final_n_samples": (0.0, 1e9),
}
_SHARE = re.compile(r"(heldout_)?memorization_at_.*")


def check_rows(frame: pd.DataFrame, declared: Declared, statuses: Iterable[str]) -> None:
    """Raise ValueError, which names the column and the trial, for rows that no sweep leaves.

    `frame` has the columns of `table.columns`, in their types. Figures that are not known are NaN.
    """
    _check_words(frame, set(statuses))
    _check_numbers(frame, declared)
    _check_probes(frame)
    _check_parameters(frame, declared)
    _check_trials(frame)


def is_allowed(declared: Declared, name: str, value: Any) -> Any:
    """Whether a parameter may have a value, or each of a series of values."""
    parameter = declared.parameters[name]
    low, high = parameter.bounds
    above = value > low if parameter.kind == "level" or parameter.log else value >= low
    return above & (value <= high) & (abs(value) <= LARGEST)


def _refuse(frame: pd.DataFrame, column: str, wrong: "pd.Series[bool]", why: str) -> None:
    """Raise ValueError for the first row that is `wrong`."""
    if not wrong.any():
        return
    row = frame[wrong].iloc[0]
    trial = "" if column == "trial_id" else f", trial {row.trial_id}"
    raise ValueError(f"column '{column}'{trial}: {printable(row[column]):.80} {why}")


def _check_words(frame: pd.DataFrame, statuses: set[str]) -> None:
    known = frame.trial_id.str.fullmatch(TRIAL_ID.pattern).astype(bool)
    _refuse(frame, "trial_id", ~known, "is no plain word of at most 200 characters")
    named = frame.method.str.fullmatch(METHOD.pattern).astype(bool)
    _refuse(frame, "method", ~named, "is no name of a method")
    _refuse(frame, "status", ~frame.status.isin(statuses), f"is none of {', '.join(sorted(statuses))}")


def _check_numbers(frame: pd.DataFrame, declared: Declared) -> None:
    for name, (least, most) in _WHOLE.items():
        _refuse(frame, name, ~frame[name].between(least, most), f"does not lie between {least} and {most}")
    measured = (frame.rung > 0) & frame[list(declared.objectives)].notna().any(axis=1)
    _refuse(frame, "n_samples", measured & (frame.n_samples < 1), "samples cannot be measured")
    _refuse(frame, "budget", ~frame.budget.between(0.0, 1.0), "does not lie between 0 and 1")
    objectives = [o.name for o in declared.objectives.values() if o.kind == "share"]
    shares = {f"{prefix}{name}": (0.0, 1.0) for name in objectives for prefix in ("", "final_")}
    shares |= {str(name): (0.0, 1.0) for name in frame.columns if _SHARE.fullmatch(str(name))}
    errors = {str(name): (0.0, LARGEST) for name in frame.columns if str(name).endswith("_se")}
    ranges: dict[str, tuple[float, float]] = {**errors, **_REAL, **shares}
    for column in map(str, frame.columns):
        if frame[column].dtype == "float64" and column not in declared.parameters:
            low, high = ranges.get(column, (-LARGEST, LARGEST))
            wrong = frame[column].notna() & ~frame[column].between(low, high)
            _refuse(frame, column, wrong, f"does not lie between {low:g} and {high:g}")


def _check_probes(frame: pd.DataFrame) -> None:
    """Raise ValueError for errors that are not one at each of rising noise levels; NaN is one not known."""
    levels = frame[LEVELS].map(_are_levels).astype(bool)
    _refuse(frame, LEVELS, ~levels, f"are no noise levels that rise from above 0 to at most {LARGEST:g}")
    for name in (TRAIN, HELDOUT):
        known = frame[name].map(_are_errors).astype(bool)
        _refuse(frame, name, ~known, f"are no errors from 0 to {LARGEST:g}")
        counts, optional = frame[name].map(len), name == HELDOUT
        other = (counts != frame[LEVELS].map(len)) & ~(optional & (counts == 0))
        _refuse(frame, name, other, f"are not as many as {LEVELS}")


def _are_levels(values: list[float]) -> bool:
    return all(low < high for low, high in pairwise([0.0, *values])) and all(v <= LARGEST for v in values)


def _are_errors(values: list[float]) -> bool:
    return all(math.isnan(value) or 0 <= value <= LARGEST for value in values)


def _check_parameters(frame: pd.DataFrame, declared: Declared) -> None:
    for name in declared.parameters:
        wrong = ~(frame[name].abs() <= LARGEST)
        _refuse(frame, name, wrong, "is not a number that trials are made with")
    for method in declared.methods.values():
        ours = frame.method == method.name
        for name in method.parameter_names:
            outside = ~is_allowed(declared, name, frame[name])
            _refuse(frame, name, ours & outside, f"is no value for method {method.name}")


def _check_trials(frame: pd.DataFrame) -> None:
    """Raise ValueError where rows of a trial contradict each other, or it follows one that cannot be."""
    again = frame.duplicated(["trial_id", "rung"])
    _refuse(frame, "rung", again, "is there twice")
    first = frame.drop_duplicates("trial_id").set_index("trial_id")
    for name in ("method", "train_size", "confirms", "controls", "branched_at", "status"):
        other = frame.trial_id.map(first[name]) != frame[name]
        _refuse(frame, name, other, "is not what another row of this trial says")
    branched = first.index[first.branched_at > 0]
    follows = (frame.confirms != "") | (frame.controls != "") | (frame.method == BASELINE)
    _refuse(frame, "branched_at", follows & (frame.branched_at > 0), "is not that of a trial of the search")
    originals = first[((first.confirms == "") | first.confirms.isin(branched)) & (first.controls == "")]
    repeats, controls = frame.confirms != "", frame.controls != ""
    _refuse(frame, "confirms", repeats & ~frame.confirms.isin(originals.index), "is no trial that can repeat")
    _refuse(frame, "controls", controls & repeats, "is named by a trial that confirms one, too")
    compared = originals.index[originals.method != BASELINE]
    _refuse(frame, "controls", controls & ~frame.controls.isin(compared), "is no trial that has a control")
    for column, name in (("confirms", "method"), ("confirms", "train_size"), ("controls", "train_size")):
        other = (frame[column] != "") & (frame[column].map(originals[name]) != frame[name])
        _refuse(frame, column, other, f"has another {name}")
