"""Where the figures of a page come from: what made them, and what tells them from others."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pareto_amb.printable import printable
from pareto_amb.reading import open_regular
from pareto_amb.results.branching import first_baseline
from pareto_amb.results.run import flatten
from pareto_amb.terminal import format_duration

UNKNOWN = "not recorded"

TOLD = ("command", "python", "platform", "cpus", "gpus", "git_revision", "versions.pareto-amb", "seconds")
"""Keys of an environment that have a line of their own; so have its fingerprints."""

Pairs = list[tuple[str, str]]


def provenance(environment: Mapping[str, str], duration: str, results: Pairs) -> Pairs:
    """What made the figures, as pairs of a name and its value.

    `environment` is that of `describe_environment` with dotted keys, `results` has files and their SHA-256.
    What is not there is said to be not recorded.
    """
    version, revision = environment.get("versions.pareto-amb", UNKNOWN), environment.get("git_revision")
    return [
        ("Command", environment.get("command") or UNKNOWN),
        ("Version", f"pareto-amb {version}, git revision {revision or UNKNOWN}"),
        ("Hardware", _hardware(environment)),
        ("System", f"{environment.get('platform', UNKNOWN)}, Python {environment.get('python', UNKNOWN)}"),
        ("Duration", duration or UNKNOWN),
        *_fingerprints(environment),
        *((f"SHA-256 of {name}", checksum) for name, checksum in results),
    ]


def made_here(environment: Mapping[str, Any], doing: str, results: Pairs) -> Pairs:
    """`provenance` of what this process made in the `seconds` of an environment with nested keys."""
    flat = dict(flatten(environment))
    seconds = flat.get("seconds")
    return provenance(flat, f"{format_duration(float(seconds))} of {doing}" if seconds else "", results)


def remaining(environment: Mapping[str, str]) -> Pairs:
    """What an environment has beside what `provenance` tells."""
    return [
        (key, value)
        for key, value in environment.items()
        if key not in TOLD and not key.endswith("fingerprint")
    ]


def checksum(path: Path) -> tuple[str, str]:
    """The name of a file and its SHA-256, as sha256sum prints it. UserError where it cannot be read."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(2**20):
            digest.update(block)
    return printable(path.name), digest.hexdigest()


def duration_of(rows: pd.DataFrame) -> str:
    """How long the trials of a results table took; empty where the table does not say."""
    last = rows.sort_values("rung").groupby("trial_id").tail(1)
    seconds = float((last.train_seconds - _before_branching(last, rows)).sum())
    began = (rows.recorded_at - rows.train_seconds.fillna(0) - rows.eval_seconds.fillna(0)).min()
    whole = float(rows.recorded_at.max() - began)
    if not (seconds > 0 and math.isfinite(whole)):
        return ""
    return (
        f"{format_duration(whole)} from the first training to the last measurement, pauses included; of all "
        f"trials together {format_duration(seconds)} of training and "
        f"{format_duration(float(rows.eval_seconds.sum()))} of measuring"
    )


def _before_branching(last: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """The seconds of another training that the last row of each trial counts too: those of its trunk."""
    ends = zip(rows.trial_id, rows.images_seen, strict=True)
    spent = dict(zip(ends, rows.train_seconds, strict=True))
    trunks = zip(map(first_baseline, last.train_size), last.branched_at, strict=True)
    return pd.Series([spent.get(trunk, 0.0) if trunk[1] else 0.0 for trunk in trunks], last.index)


def _hardware(environment: Mapping[str, str]) -> str:
    if "cpus" not in environment:
        return UNKNOWN
    gpus = f"; {environment['gpus'] or 'no GPU'}" if "gpus" in environment else ""
    return f"{environment['cpus']} CPUs{gpus}"


def _fingerprints(environment: Mapping[str, str]) -> Pairs:
    """What identifies the images and the encoders."""
    return [
        (f"Fingerprint of {key.removesuffix('.fingerprint').replace('.', ', ')}", value)
        for key, value in environment.items()
        if key.endswith(".fingerprint")
    ]
