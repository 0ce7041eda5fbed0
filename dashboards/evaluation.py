"""The page of one evaluation: did it copy, which images, how sure, next to what is normal."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from pareto_amb.dashboards import theme
from pareto_amb.dashboards.gallery import data_uri
from pareto_amb.dashboards.limits import limits_of_evaluation
from pareto_amb.dashboards.page import picture_bytes, render_page
from pareto_amb.dashboards.provenance import Pairs, provenance, remaining
from pareto_amb.evaluation.caption_copies import CaptionReport
from pareto_amb.evaluation.gate import Gate
from pareto_amb.evaluation.report import (
    CAPTIONS,
    COPYING,
    PIXEL_METRICS,
    PROMPT_HEADS,
    QUALITY,
    EncoderReport,
    EvaluationReport,
    ImageSetSummary,
    Metric,
    Pair,
    cautions,
    format_interval,
    format_value,
    likeness_rows,
    likeness_title,
    metric_label,
    prompt_rows,
    prompts_title,
    remarks,
    verdict,
)
from pareto_amb.printable import printable
from pareto_amb.results.run import flatten
from pareto_amb.storage import write_text
from pareto_amb.terminal import format_duration

TEMPLATE = "evaluation.html.jinja"
BINS = 60
LONGEST_CAPTION = 300
"""Characters of a caption on the page."""
SHOWN_SIDE = 256
"""Pixels: larger images are shrunk to this side on the page."""

ROLES = {
    "generated": "Generated images",
    "train": "Training images",
    "heldout": "Held-out images",
    "reference": "Reference images",
}


FINDINGS = {
    "copies": ("mixed", "Copies more than is normal"),
    "normal": ("good", "No more copies than is normal"),
    "inconclusive": ("", "Too few images to tell"),
    "not-comparable": ("mixed", "Unlike real images: few copies mean nothing"),
    "unknown": ("", "Nothing to compare with"),
}
"""Tone and words of each finding."""

GATES = {
    "pass": ("good", "Gate passed"),
    "fail": ("mixed", "Gate failed"),
    "inconclusive": ("", "Gate inconclusive"),
}
"""Tone and words of each outcome of a gate."""


@dataclass(frozen=True)
class Row:
    """One figure, in words."""

    label: str
    value: str
    interval: str
    explanation: str


@dataclass(frozen=True)
class Section:
    """What was found in the features of one encoder."""

    encoder: str
    key: str
    copying: list[Row]
    quality: list[Row]
    like_for_like: list[tuple[str, str, str]]
    like_for_like_title: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Captioned:
    """What was found by captions: the figures, and a table of the captions that trigger copies."""

    figures: list[Row]
    title: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class ShownPair:
    """A generated image beside its nearest training image, as data URIs."""

    generated: str
    train: str
    generated_name: str
    train_name: str
    similarity: str
    copied: bool
    identical: bool


def write_page(
    report: EvaluationReport,
    path: Path,
    gate: Gate | None = None,
    results: Pairs | None = None,
    redacted: bool = False,
) -> Path:
    """Write the page, whole or not at all, and return its path. Raises OSError when it cannot be."""
    write_text(path, render(report, gate, results, redacted))
    return path


def render(
    report: EvaluationReport,
    gate: Gate | None = None,
    results: Pairs | None = None,
    redacted: bool = False,
) -> str:
    """The page as text, with what a gate said of the report.

    `results` are files of the figures with their SHA-256. A `redacted` page has no paths of this machine.
    """
    first = report.encoders[0].metrics
    headline = {"memorization": "Copies", "heldout_memorization": "Normal for held-out images",
                "excess_copy_rate": "Excess"}  # fmt: skip
    metrics = {metric.key: metric for metric in COPYING}
    environment = dict(flatten(report.environment))
    limit = picture_bytes(2 * (len(report.closest) + len(report.borderline)))
    return render_page(
        TEMPLATE,
        True,
        redacted,
        report=report,
        name=printable(Path(report.image_sets["generated"].path).resolve().name),
        verdict=verdict(report),
        tone=_tone(report),
        finding=FINDINGS[report.finding][1],
        gate=gate,
        gate_tone=GATES[gate.outcome][0] if gate else "",
        gate_words=GATES[gate.outcome][1] if gate else "",
        headline=[(title, _row(metrics[key], first, "")) for key, title in headline.items()],
        points=[printable(note) for note in remarks(report)],
        closest=[_shown(pair, limit) for pair in report.closest],
        borderline=[_shown(pair, limit) for pair in report.borderline],
        sections=[_section(number, encoder) for number, encoder in enumerate(report.encoders)],
        captioned=None if report.captions is None else _captioned(report.captions),
        pixels=[_row(metric, report.pixel_metrics, "") for metric in PIXEL_METRICS],
        facts=_facts(report),
        reference=printable(report.reference),
        limits=_limits(report),
        provenance=provenance(environment, _duration(report), results or []),
        environment=remaining(environment),
    )


def _limits(report: EvaluationReport) -> list[str]:
    sets, encoders = report.image_sets, [found.encoder for found in report.encoders]
    return limits_of_evaluation(sets["generated"].count, encoders, "heldout" in sets)


def _duration(report: EvaluationReport) -> str:
    seconds = report.environment.get("seconds")
    return "" if seconds is None else f"{format_duration(seconds)} of reading, encoding and comparing"


def _tone(report: EvaluationReport) -> str:
    """Green only where no figure points to copying, in any encoder."""
    tone = FINDINGS[report.finding][0]
    return "" if tone == "good" and cautions(report) else tone


def _row(metric: Metric, found: Any, encoder: str) -> Row:
    estimate = found[metric.key]
    return Row(
        metric_label(metric, encoder),
        format_value(estimate.value, metric.kind),
        format_interval(estimate, metric.kind),
        metric.explanation,
    )


def _section(number: int, encoder: EncoderReport) -> Section:
    found = encoder.likeness
    return Section(
        encoder=encoder.encoder,
        key=f"similarity-{number}",
        copying=[_row(metric, encoder.metrics, encoder.encoder) for metric in COPYING],
        quality=[_row(metric, encoder.metrics, encoder.encoder) for metric in QUALITY],
        like_for_like=[] if found is None else likeness_rows(encoder.encoder, found),
        like_for_like_title="" if found is None else likeness_title(found),
        spec=json.loads(similarity_figure(encoder).to_json()),
    )


def _captioned(found: CaptionReport) -> Captioned:
    return Captioned(
        figures=[_row(metric, found.metrics, "") for metric in CAPTIONS],
        title=prompts_title(found),
        heads=PROMPT_HEADS,
        rows=list(prompt_rows(found, LONGEST_CAPTION)),
    )


def _shown(pair: Pair, limit: int) -> ShownPair:
    return ShownPair(
        generated=data_uri(pair.generated_pixels, limit, SHOWN_SIDE),
        train=data_uri(pair.train_pixels, limit, SHOWN_SIDE),
        generated_name=printable(pair.names.generated),
        train_name=printable(pair.names.train_original or pair.names.train),
        similarity=f"{pair.names.similarity:.3f}",
        copied=pair.copied,
        identical=pair.names.identical,
    )


def similarity_figure(encoder: EncoderReport) -> go.Figure:
    """How similar generated and held-out images are to their nearest training image."""
    generated, heldout = encoder.similarity.numpy(), encoder.heldout_similarity.numpy()
    everything = np.concatenate([generated, heldout])
    high = float(everything.max())
    edges = np.linspace(min(float(everything.min()), high - 0.01), high, BINS + 1)
    figure = go.Figure()
    top = 0.0
    for name, values, colour in (
        ("held-out images, never seen by the model", heldout, theme.HELDOUT),
        ("generated images", generated, theme.GENERATED),
    ):
        if len(values):
            shares = np.histogram(values, edges)[0] / len(values)
            top = max(top, float(shares.max()))
            figure.add_trace(_steps(name, edges, shares, colour))
    if encoder.threshold is not None:
        figure.add_trace(_threshold_line(encoder.threshold, top))
    figure.update_layout(template=theme.TEMPLATE, height=360)
    figure.update_xaxes(title_text="similarity to the nearest training image")
    figure.update_yaxes(title_text="share of images", tickformat="~%", rangemode="tozero")
    return figure


def _steps(name: str, edges: NDArray[np.float64], shares: NDArray[np.float64], colour: str) -> go.Scatter:
    outline = [0.0, *shares.tolist(), 0.0]
    return go.Scatter(
        x=[float(edges[0]), *edges.tolist()],
        y=outline,
        mode="lines",
        line={"shape": "hv", "width": 1.5, "color": colour},
        fill="tozeroy",
        fillcolor=theme.translucent(colour, 0.3),
        name=name,
        hovertemplate="%{x:.3f}: %{y:.1%}<extra></extra>",
    )


def _threshold_line(threshold: float, top: float) -> go.Scatter:
    return go.Scatter(
        x=[threshold, threshold],
        y=[0, top],
        mode="lines",
        line={"dash": "dash", "width": 2, "color": theme.INK},
        name=f"threshold {threshold:.4f}: copies lie to its right",
        hoverinfo="skip",
    )


def _facts(report: EvaluationReport) -> list[tuple[str, str]]:
    """What was used, as pairs of a name and its value."""
    sets = [(ROLES[role], _describe_set(images)) for role, images in report.image_sets.items()]
    encoders = [
        (f"Encoder {number}", f"{e.encoder}, {e.preprocessing} preprocessing, {_threshold_words(e)}; "
         f"fingerprint {e.fingerprint}")
        for number, e in enumerate(report.encoders, start=1)
    ]  # fmt: skip
    quality = ("Fréchet distance and the like", f"measured against {printable(report.reference)}")
    clip = []
    if report.captions is not None and report.captions.clip_model is not None:
        model, fingerprint = printable(report.captions.clip_model), report.captions.clip_fingerprint
        clip = [("CLIP model", f"{model}; fingerprint {fingerprint}")]
    return [*sets, *encoders, quality, *clip]


def _describe_set(images: ImageSetSummary) -> str:
    skipped = f", {len(images.skipped):,} broken ones left out" if images.skipped else ""
    return (
        f"{printable(images.path)}: {images.count:,} images of {images.width}×{images.height} "
        f"pixels{skipped}; fingerprint {images.fingerprint}"
    )


def _threshold_words(encoder: EncoderReport) -> str:
    if encoder.threshold is None:
        return "no threshold"
    how = "calibrated on every second held-out image" if encoder.calibrated else "given"
    return f"threshold {encoder.threshold:.4f} ({how})"
