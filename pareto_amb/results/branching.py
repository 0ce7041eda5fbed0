"""Trials that go on from the first DDPM baseline of their size, and from where.

Such a trial shares what a training learns before it memorizes, and costs only the rest. It copies more than
the same training from scratch would, so it is no point of a frontier: it chooses what is trained so.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pareto_amb.config import SweepConfig
from pareto_amb.declared import BASELINE
from pareto_amb.evaluation.intervals import Estimate, difference, wilson
from pareto_amb.results.probes import gaps
from pareto_amb.results.run_directory import checkpoint_name

OPEN_GAP = 1.25
"""The probes' gap is open where it has grown by more than so many times since the first rung.

The ratio takes off by how much training and held-out images differ of themselves.
"""

Row = Mapping[str, Any]


def baseline_id(train_size: int, k: int) -> str:
    """The k-th DDPM baseline of a train size, from 0."""
    return f"n{train_size}-{BASELINE}-s{k}"


def first_baseline(train_size: int) -> str:
    """The trial that others of its size are branched from."""
    return baseline_id(train_size, 0)


def trunk_name(train_size: int, rung: int) -> str:
    """Where the first baseline's checkpoint of a rung lies in the run's storage."""
    return checkpoint_name(f"{first_baseline(train_size)}-r{rung}")


def branching_rung(config: SweepConfig, rows: Sequence[Row], ended: bool) -> int | None:
    """The rung from which the trials of a train size go on, 0 from scratch; None while it is not known yet.

    It follows from the `rows` of the size's first baseline, by rising rung, and from whether that has
    `ended`. With `auto` it is the last one before memorization begins there; of a baseline that fails before
    it is known, the last one that it reached.
    """
    allowed, rows = config.branching_rungs(), [row for row in rows if row["rung"] > 0]
    found = 0
    for row in rows:
        if config.search.branch_from == "auto" and memorizes(row, rows[0]):
            return found
        if row["rung"] in allowed:
            found = row["rung"]
    settled = ended or found == max(allowed, default=0)
    return found if settled else None


def memorizes(row: Row, first: Row) -> bool:
    """Whether a training has begun to memorize at a rung: it copies, or the probes' gap is open.

    It copies where more of its samples are copies than of held-out images, by more than chance.
    """
    start = gaps(first)
    grown = [gap / start[level] for level, gap in gaps(row).items() if level in start]
    return _excess(row).low > 0 or max(grown, default=1.0) > OPEN_GAP


def _excess(row: Row) -> Estimate:
    """How far a row's share of copies lies above that of held-out images; NaN at a probe rung."""
    ours = _share(row["memorization"], row["n_samples"])
    heldout = row.get("heldout_memorization", math.nan)  # a row just measured at a probe rung has none
    return difference(ours, _share(heldout, row.get("heldout_images", 0)))


def _share(share: float, images: float) -> Estimate:
    known = images > 0 and math.isfinite(share)
    return wilson(share, int(images)) if known else Estimate(share, share, share)
