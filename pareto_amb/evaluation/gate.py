"""The gate for releases: pass, fail, or too little to tell.

What copies for certain fails, whatever else is unknown; only what surely stays below the limit passes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pareto_amb.errors import ExitCode, UserError
from pareto_amb.evaluation.intervals import difference, wilson

if TYPE_CHECKING:
    from pareto_amb.evaluation.report import EvaluationReport

Outcome = Literal["pass", "fail", "inconclusive"]

_STEP, _STEPS = 1.1, 73  # of the search for a number of images: up to a thousand times as many


@dataclass(frozen=True)
class Answer:
    """What a gate says: `reason` tells why, and what would settle what it leaves open.

    `limit` is the highest figure that passes, None where there is none.
    """

    outcome: Outcome
    limit: float | None
    reason: str

    @property
    def exit_code(self) -> int:
        """0, ExitCode.FAILED or ExitCode.INCONCLUSIVE."""
        codes = {"pass": 0, "fail": int(ExitCode.FAILED), "inconclusive": int(ExitCode.INCONCLUSIVE)}
        return codes[self.outcome]

    def __str__(self) -> str:
        word = {"pass": "passed", "fail": "failed", "inconclusive": "inconclusive"}[self.outcome]
        return f"{word}: {self.reason}"


@dataclass(frozen=True)
class Gate(Answer):
    """What a gate says of an evaluation; the figure is the excess copy rate.

    `limit` is None where only identical images were looked for.
    """

    fail_on_identical: bool


def judge(
    report: "EvaluationReport",
    limit: float | None = None,
    *,
    fail_on_identical: bool = True,
    require_conclusive: bool = False,
) -> Gate:
    """Whether the images of `report` may be released.

    It fails where a generated image has exactly the pixels of a training image (`fail_on_identical`), however
    few there are, and where the excess copy rate is above `limit` even at the low end of its interval. It
    passes where the high end is not above `limit`. Everything else is inconclusive, also where nothing says
    what is normal, or where the images are none of this kind; with `require_conclusive` that is a failure.
    Without a limit only identical images are looked for.

    Raises UserError for a limit that is no share, or where nothing is asked for.
    """
    check_limit(limit)
    if limit is None and not fail_on_identical:
        raise UserError("the gate has nothing to look for: give a limit, or let identical images fail it")
    outcome, reason = _judge(report, limit, fail_on_identical)
    if outcome == "inconclusive" and require_conclusive:
        outcome, reason = "fail", f"inconclusive, which counts as failed here: {reason}"
    return Gate(outcome, limit, reason, fail_on_identical)


def check_limit(limit: float | None, name: str = "limit") -> None:
    """Raise UserError, with the `name` by which it was given, for a limit that is no share."""
    if limit is not None and not 0 <= limit < 1:
        raise UserError(f"{name} {limit:g}: a share from 0 to below 1, such as 0.05")


def _judge(report: "EvaluationReport", limit: float | None, fail_on_identical: bool) -> tuple[Outcome, str]:
    count = report.image_sets["generated"].count
    if fail_on_identical and report.n_identical:
        have = "has" if report.n_identical == 1 else "have"
        return "fail", (
            f"{report.n_identical:,} of {count:,} generated images {have} exactly the pixels of a training "
            "image"
        )
    least, most = report.excess_at_least, report.excess_at_most
    if limit is not None and least > limit:
        return "fail", (
            f"the excess copy rate is at least {least:.1%} (low end of its 95% interval), above the limit of "
            f"{limit:.1%}"
        )
    if report.likeness == "unlike":
        return "inconclusive", (
            f"the generated images are unlike real images of this kind ({report.unlikeness}), so that few "
            "copies among them say nothing; give images of a better model"
        )
    if limit is None:
        return "pass", (
            f"none of {count:,} generated images has exactly the pixels of a training image; nothing else "
            "was asked for"
        )
    if math.isnan(most):
        return "inconclusive", (
            "there is nothing to compare with; give --heldout, real images that the model never saw"
        )
    if most > limit:
        return "inconclusive", (
            f"the excess copy rate is between {least:.1%} and {most:.1%} (95% interval), not surely on one "
            f"side of the limit of {limit:.1%}; {_what_settles(report, limit)}"
        )
    if report.likeness != "alike":
        return "inconclusive", (
            "there are too few images to tell whether the generated ones are like real images of this kind "
            f"({report.unlikeness}); give more of the generated and of the held-out ones"
        )
    copying = "more images are copies than is normal, but " if report.finding == "copies" else ""
    return "pass", (
        f"{copying}the excess copy rate is at most {most:.1%} (high end of its 95% interval), not above the "
        f"limit of {limit:.1%}"
    )


# --- what would settle it -------------------------------------------------------------------------


def _what_settles(report: "EvaluationReport", limit: float) -> str:
    """Roughly how many more images, at the shares found, would take the limit out of the interval."""
    metrics = report.encoders[0].metrics
    shares = metrics["memorization"].value, metrics["heldout_memorization"].value
    yardstick = len(report.encoders[0].heldout_similarity)
    counts = report.image_sets["generated"].count, yardstick
    for more in _growing(counts):
        if _is_settled(shares, more, limit):
            per_yardstick = report.image_sets["heldout"].count / yardstick  # half of them may calibrate
            added = (more[0] - counts[0], (more[1] - counts[1]) * per_yardstick)
            named = zip(added, ("generated", "held-out"), strict=True)
            words = " and ".join(f"{_rounded_up(n):,} more {name}" for n, name in named if n > 0)
            return f"about {words} images, at the same rates, would settle it"
    return "the excess is so near to the limit that no number of images settles it: choose another limit"


def _growing(counts: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """More generated images; more held-out ones; more of both."""
    n, m = counts
    factors = [_STEP**k for k in range(1, _STEPS)]
    yield from ((math.ceil(n * factor), m) for factor in factors)
    yield from ((n, math.ceil(m * factor)) for factor in factors)
    yield from ((math.ceil(n * factor), math.ceil(m * factor)) for factor in factors)


def _is_settled(shares: tuple[float, float], counts: tuple[int, int], limit: float) -> bool:
    ours, theirs = (wilson(share, count) for share, count in zip(shares, counts, strict=True))
    excess = difference(ours, theirs)
    return excess.high <= limit or excess.low > limit


def _rounded_up(number: float) -> int:
    """To two digits."""
    unit = int(10 ** max(math.floor(math.log10(number)) - 1, 0))
    return math.ceil(number / unit) * unit
