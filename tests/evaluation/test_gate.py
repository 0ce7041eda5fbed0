"""The gate's three outcomes, and that nothing said of an evaluation contradicts another thing said of it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pareto_amb.dashboards.evaluation import FINDINGS
from pareto_amb.errors import ExitCode, UserError
from pareto_amb.evaluation.gate import Gate, judge
from pareto_amb.evaluation.intervals import UNKNOWN, Estimate, difference, wilson
from pareto_amb.evaluation.likeness import Likeness
from pareto_amb.evaluation.report import (
    COPYING,
    PIXEL_METRICS,
    QUALITY,
    EncoderReport,
    EvaluationReport,
    ImageSetSummary,
    cautions,
    to_json,
    unknown_metrics,
    verdict,
)

SURE = {name: Estimate(0.7, 0.65, 0.75) for name in ("fid", "precision", "recall", "coverage")}
REAL = SURE | {"density": Estimate(1.0, 0.9, 1.1)}
NOISE = REAL | {"recall": Estimate(0.0, 0.0, 0.02), "density": Estimate(8.0, 7.5, 8.5)}
PERHAPS = REAL | {"recall": Estimate(0.05, 0.01, 0.2)}
LIKE = {"alike": REAL, "unlike": NOISE, "unsure": PERHAPS}


def report_of(
    copies: int,
    count: int,
    normal: int = 0,
    heldout: int = 200,
    identical: int = 0,
    like: str | None = "alike",
    c_t: float = 0.0,
) -> EvaluationReport:
    """`copies` of `count` generated images, and `normal` of `heldout` held-out ones, are similar enough."""
    ours = wilson(copies / count, count)
    theirs = wilson(normal / heldout if heldout else 0.0, heldout)
    metrics = unknown_metrics((*COPYING, *QUALITY)) | {
        "memorization": ours,
        "heldout_memorization": theirs,
        "excess_copy_rate": difference(ours, theirs),
        "c_t": Estimate(c_t, c_t, c_t) if heldout else UNKNOWN,
    }
    encoder = EncoderReport(
        "pixels", "standard", "abc", 0.9, True, metrics, torch.zeros(count), torch.zeros(count),
        torch.zeros(heldout), Likeness(100, 100, LIKE[like], REAL) if like and heldout else None,
    )  # fmt: skip
    sets = {"generated": ImageSetSummary("g", count, 8, 8, "f"), "train": ImageSetSummary("t", 50, 8, 8, "f")}
    if heldout:
        sets["heldout"] = ImageSetSummary("h", 2 * heldout, 8, 8, "f")
    pixels = unknown_metrics(PIXEL_METRICS) | {"identical_share": wilson(identical / count, count)}
    return EvaluationReport(sets, "r", (encoder,), pixels, (), (), (), (), {})


@pytest.mark.parametrize(
    ("report", "limit", "outcome", "words"),
    [
        (report_of(0, 1000), 0.05, "pass", "at most 0.4%"),
        (report_of(20, 1000, heldout=2000), 0.05, "pass", "more images are copies than is normal, but"),
        (report_of(200, 1000), 0.05, "fail", "at least 17.0%"),
        (report_of(60, 1000), 0.05, "inconclusive", "would settle it"),
        (report_of(0, 12), 0.05, "inconclusive", "62 more generated images"),
        (report_of(1, 11, identical=1), 0.05, "fail", "1 of 11 generated images has exactly the pixels"),
        (report_of(0, 1000, heldout=0), 0.05, "inconclusive", "give --heldout"),
        (report_of(0, 1000, like="unlike"), 0.05, "inconclusive", "unlike real images"),
        (report_of(0, 1000, like="unsure"), 0.05, "inconclusive", "(recall 5.0%, where held-out"),
        (report_of(0, 1000, like=None), 0.05, "inconclusive", "at least 12 held-out"),
        (report_of(500, 1000, like="unlike"), 0.05, "fail", "at least"),
        (report_of(0, 1000, identical=1, like="unlike"), 0.99, "fail", "1 of 1,000"),
        (report_of(0, 1000), 0.0, "inconclusive", "no number of images settles it"),
        (report_of(0, 5, heldout=0), None, "pass", "none of 5 generated images"),
        (report_of(0, 1000, like="unlike"), None, "inconclusive", "unlike real images"),
    ],
)  # fmt: skip
def test_what_the_gate_says(report: EvaluationReport, limit: float | None, outcome: str, words: str) -> None:
    found = report.gate(limit)
    assert (found.outcome, found.limit) == (outcome, limit)
    assert words in found.reason
    assert to_json(report, found)["gate"] == {
        "outcome": outcome, "limit": limit, "fail_on_identical": True, "reason": found.reason,
    }  # fmt: skip


def test_each_outcome_has_its_exit_code() -> None:
    codes = [Gate(outcome, 0.1, "", True).exit_code for outcome in ("pass", "fail", "inconclusive")]
    assert codes == [0, ExitCode.FAILED, ExitCode.INCONCLUSIVE] == [0, 1, 3]


def test_what_must_be_conclusive_fails_when_it_is_not() -> None:
    found = judge(report_of(0, 12), 0.05, require_conclusive=True)
    assert (found.outcome, found.exit_code) == ("fail", 1)
    assert str(found).startswith("failed: inconclusive, which counts as failed here: ")
    assert judge(report_of(0, 1000), 0.05, require_conclusive=True).outcome == "pass"


def test_identical_images_may_be_allowed_and_still_count_as_copies() -> None:
    assert judge(report_of(1, 1000, identical=1), 0.05, fail_on_identical=False).outcome == "pass"
    assert judge(report_of(0, 1000, identical=100), 0.05, fail_on_identical=False).outcome == "fail"
    assert judge(report_of(0, 10, identical=1), 0.09, fail_on_identical=False).outcome == "inconclusive"


def test_what_cannot_be_meant_is_refused() -> None:
    report = report_of(0, 10)
    for limit in (-0.1, 1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="a share from 0 to below 1"):
            judge(report, limit)
    with pytest.raises(UserError, match="nothing to look for"):
        judge(report, fail_on_identical=False)


def test_the_images_asked_for_settle_it() -> None:
    for copies, count, normal in ((0, 12, 0), (60, 1000, 0), (3, 40, 1), (4, 40, 2)):
        report = report_of(copies, count, normal)
        found = report.gate(0.05)
        assert found.outcome == "inconclusive"
        asked = found.reason.partition("about ")[2].split()
        numbers = [int(word.replace(",", "")) for word in asked if word[0].isdigit()]
        more = count + numbers[0]
        assert "more generated" in found.reason
        heldout = 200 + (numbers[1] // 2 if "held-out" in found.reason else 0)
        grown = report_of(round(copies / count * more), more, round(normal / 200 * heldout), heldout)
        assert grown.gate(0.05).outcome != "inconclusive"


reports = st.builds(
    lambda count, copied, heldout, normal, identical, like, c_t: report_of(
        max(round(copied * count), round(identical * count)), count, round(normal * heldout), heldout,
        round(identical * count), like, c_t,
    ),
    st.integers(2, 5000),
    st.sampled_from([0.0, 0.003, 0.02, 0.1, 1.0]),
    st.sampled_from([0, 2, 10, 100, 2000]),
    st.sampled_from([0.0, 0.01, 0.2]),
    st.sampled_from([0.0, 0.0, 0.001, 0.1]),
    st.sampled_from([None, "alike", "unlike", "unsure"]),
    st.floats(-40, 40),
)  # fmt: skip
limits = st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.2, 0.6, 0.99])


@settings(max_examples=150, deadline=None)
@given(reports, limits, st.booleans(), st.booleans())
def test_nothing_passes_that_may_be_above_the_limit(
    report: EvaluationReport, limit: float, fail_on_identical: bool, require_conclusive: bool
) -> None:
    found = report.gate(limit, fail_on_identical=fail_on_identical, require_conclusive=require_conclusive)
    if found.outcome == "pass":
        assert report.excess.high <= limit
        assert report.identical.value <= limit
        assert not (fail_on_identical and report.n_identical)
        assert report.likeness == "alike"
    if require_conclusive:
        assert found.outcome != "inconclusive"
    elif found.outcome == "fail":
        assert report.n_identical or report.excess.low > limit
    assert "\n" not in str(found)


@settings(max_examples=100, deadline=None)
@given(reports, limits, limits, st.booleans())
def test_a_higher_limit_is_never_stricter(
    report: EvaluationReport, one: float, other: float, fail_on_identical: bool
) -> None:
    order = ["fail", "inconclusive", "pass"]
    low, high = (
        order.index(report.gate(limit, fail_on_identical=fail_on_identical).outcome)
        for limit in sorted((one, other))
    )
    assert low <= high


@settings(max_examples=150, deadline=None)
@given(reports)
def test_verdict_finding_and_cautions_agree(report: EvaluationReport) -> None:
    said, found = verdict(report), report.finding
    assert found in FINDINGS
    assert ("the model copies" in said) <= (found == "copies")
    assert ("no more than chance explains" in said) == (found == "normal")
    assert ("says nothing" in said) == (found == "not-comparable")
    assert ("too few images to tell" in said) == (found == "inconclusive")
    assert bool(report.n_identical) == ("exactly the pixels" in said)
    if found == "normal":
        assert report.likeness == "alike"
        cautioned = any("C_T is" in line for line in cautions(report))
        assert cautioned == (report.encoders[0].metrics["c_t"].value < -1.96)
    if found == "copies":
        assert not any("C_T is" in line for line in cautions(report))
