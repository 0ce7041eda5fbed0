"""What one evaluation found: figures with intervals, in words, as a table and as JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from pareto_amb.evaluation.intervals import UNKNOWN, Estimate

if TYPE_CHECKING:
    from torch import Tensor

JSON_SCHEMA = 1
"""Raised when a key of evaluation.json changes its meaning."""

UNSURE_ABOVE = 0.05
"""An excess copy rate whose interval reaches beyond this is not called normal: too few images to tell."""

Kind = Literal["share", "points", "number", "count"]


@dataclass(frozen=True)
class Metric:
    """How a figure is called, written and explained."""

    key: str
    label: str
    kind: Kind
    explanation: str


COPYING = (
    Metric(
        "memorization", "Memorization (share of copies)", "share",
        "Generated images whose similarity to the nearest training image is above the threshold.",
    ),
    Metric(
        "heldout_memorization", "… of held-out images", "share",
        "The same for real images the model never saw: what is normal.",
    ),
    Metric(
        "excess_copy_rate", "Excess copy rate", "points",
        "The first less the second. Above 0 with its whole interval: the model copies.",
    ),
    Metric(
        "similarity_mean", "Mean similarity", "number",
        "Cosine similarity to the nearest training image, averaged over the generated images.",
    ),
    Metric(
        "heldout_similarity_mean", "… of held-out images", "number",
        "The same for the held-out images that the threshold was not calibrated on.",
    ),
    Metric(
        "similarity_p95", "95th percentile of similarity", "number",
        "One generated image in twenty is more similar to a training image than this.",
    ),
    Metric(
        "heldout_similarity_p95", "… of held-out images", "number",
        "The same for the held-out images that the threshold was not calibrated on.",
    ),
    Metric(
        "copied_training_share", "Training images copied", "share",
        "Training images that at least one generated image is a copy of.",
    ),
    Metric(
        "most_copied", "Copies of the most copied one", "count",
        "How many generated images are copies of one and the same training image, at most.",
    ),
    Metric(
        "authpct", "AuthPct", "share",
        "Generated images farther from their nearest training image than that one is from its own "
        "nearest (Alaa et al. 2022). Higher: more authentic.",
    ),
    Metric(
        "c_t", "C_T", "number",
        "Are generated images closer to the training images than held-out ones are (Meehan et al. 2020)? "
        "Below −1.96: closer than by chance, so copied.",
    ),
)  # fmt: skip
"""How alike generated and training images are, image by image."""

QUALITY = (
    Metric(
        "fid", "Fréchet distance", "number",
        "How far the generated images are from the reference as a whole. Lower is better; it depends on "
        "the encoder and on the number of images.",
    ),
    Metric(
        "fid_infinity", "… of infinitely many images", "number",
        "The Fréchet distance without the part that comes from having few images (FID∞, Chong & Forsyth "
        "2020). Needs 5 images a feature.",
    ),
    Metric(
        "kid", "Kernel distance", "number",
        "Like the Fréchet distance, without its bias for few images (KID, Bińkowski et al. 2018). Lower is "
        "better.",
    ),
    Metric(
        "precision", "Precision", "share",
        "Generated images that lie among the reference images: quality (Kynkäänniemi et al. 2019).",
    ),
    Metric(
        "recall", "Recall", "share",
        "Reference images that lie among the generated images: variety (Kynkäänniemi et al. 2019).",
    ),
    Metric(
        "density", "Density", "number",
        "How densely reference images surround generated ones, about 1 when alike (Naeem et al. 2020).",
    ),
    Metric(
        "coverage", "Coverage", "share",
        "Reference images with a generated image near them (Naeem et al. 2020).",
    ),
)  # fmt: skip
"""How alike generated and reference images are, as a whole."""

PIXEL_METRICS = (
    Metric(
        "identical_share", "Identical to a training image", "share",
        "Generated images with exactly the pixels of a training image.",
    ),
    Metric(
        "l2_ratio_share", "l2 ratio below 1/3", "share",
        "Generated images three times closer, in pixels, to their nearest training image than to the "
        "second nearest (Gu et al. 2023).",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class ImageSetSummary:
    """One image set: where it came from, how many images were used, which were left out as broken."""

    path: str
    count: int
    height: int
    width: int
    fingerprint: str
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class EncoderReport:
    """What was found in the features of one encoder.

    `similarity` (N,) is that of each generated image to the nearest training image, number `neighbour`
    (N,); `heldout_similarity` (M,) is that of the held-out images the yardstick rests on, empty without
    any. `threshold` is None where none was given and none could be calibrated.
    """

    encoder: str
    preprocessing: str
    fingerprint: str
    threshold: float | None
    calibrated: bool
    metrics: Mapping[str, Estimate]
    similarity: "Tensor"
    neighbour: "Tensor"
    heldout_similarity: "Tensor"


@dataclass(frozen=True)
class Copy:
    """A generated image, its nearest training image, and whether the two have the same pixels."""

    generated: str
    train: str
    similarity: float
    identical: bool


@dataclass(frozen=True, eq=False)
class Pair:
    """The two images of a `Copy`, uint8 (3, H, W), and whether they are above the threshold at all."""

    names: Copy
    copied: bool
    generated_pixels: NDArray[np.uint8]
    train_pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """One evaluation. The first of `encoders` gives the verdict, `copies` and the pairs.

    `closest` are the most similar pairs, highest first; `borderline` those just above and just below
    the threshold; `copies` all above it. `reference` says what Fréchet distance, precision and the like
    were measured against.
    """

    image_sets: Mapping[str, ImageSetSummary]
    reference: str
    encoders: tuple[EncoderReport, ...]
    pixel_metrics: Mapping[str, Estimate]
    copies: tuple[Copy, ...]
    closest: tuple[Pair, ...]
    borderline: tuple[Pair, ...]
    notes: tuple[str, ...]
    environment: Mapping[str, Any]

    def _repr_html_(self) -> str:
        return to_html(self)

    @property
    def excess(self) -> Estimate:
        """The excess copy rate in the first encoder; unknown without held-out images or threshold."""
        return self.encoders[0].metrics["excess_copy_rate"]

    @property
    def identical(self) -> Estimate:
        """The share of generated images with exactly the pixels of a training image: copies for certain."""
        return self.pixel_metrics["identical_share"]

    @property
    def excess_at_least(self) -> float:
        """The lowest excess copy rate there may be: no held-out image has the pixels of a training image."""
        return float(np.nanmax([self.excess.low, self.identical.low, 0.0]))

    @property
    def finding(self) -> Literal["copies", "normal", "inconclusive", "unknown"]:
        """Whether more images are copies than is normal, by more than chance; identical ones always are."""
        if self.identical.value > 0 or self.excess.low > 0:
            return "copies"
        if math.isnan(self.excess.low):
            return "unknown"
        return "inconclusive" if self.excess.high > UNSURE_ABOVE else "normal"


def metric_label(metric: Metric, encoder: str) -> str:
    """The name of a figure in one encoder: the Fréchet distance of Inception-v3 is the FID."""
    if metric.key == "fid":
        known = {"inception_v3": "FID"}
        short = known.get(encoder, "FD-DINOv2" if encoder.startswith("dinov2") else "")
        return f"{metric.label} ({short})" if short else metric.label
    if metric.key == "kid" and encoder == "inception_v3":
        return f"{metric.label} (KID)"
    return metric.label


def format_value(value: float, kind: Kind) -> str:
    """A figure for people; a dash where it is unknown."""
    if not math.isfinite(value):
        return "–"
    if kind == "share":
        return f"{100 * value:.1f}%"
    if kind == "points":
        return f"{100 * value:+.1f} points"
    return f"{value:,.0f}" if kind == "count" or abs(value) >= 10_000 else f"{value:#.4g}"


def format_interval(estimate: Estimate, kind: Kind) -> str:
    """The 95% interval of a figure as "low to high"; empty where there is none."""
    if kind == "count" or not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return ""
    if kind == "points":
        return f"{100 * estimate.low:+.1f} to {100 * estimate.high:+.1f}"
    return f"{format_value(estimate.low, kind)} to {format_value(estimate.high, kind)}"


def verdict(report: EvaluationReport) -> str:
    """The answer in words: how many are copies, how sure, next to what is normal."""
    first = report.encoders[0]
    copied, normal = first.metrics["memorization"], first.metrics["heldout_memorization"]
    identical = ""
    if report.identical.value > 0:
        identical = f"{format_value(report.identical.value, 'share')} of the generated images have exactly "
        identical += "the pixels of a training image: these are copies. "
    if first.threshold is None:
        return (
            f"{identical}How many generated images are copies cannot be said without a threshold: give "
            "--heldout, images the model never saw, to calibrate one, or --threshold."
        )
    words = (
        f"{identical}{format_value(copied.value, 'share')} of the generated images are copies of training "
        f"images, 95% interval {format_interval(copied, 'share')}."
    )
    if math.isnan(normal.value):
        return f"{words} What is normal for held-out images is unknown: give --heldout."
    words += f" {format_value(normal.value, 'share')} is normal for images the model never saw"
    excess = f"{format_value(report.excess.value, 'points')} ({format_interval(report.excess, 'points')})"
    conclusions = {
        "copies": ": the model copies." if report.excess.low > 0 else ".",
        "inconclusive": ": too few images to tell, give more of the generated and --heldout ones.",
        "normal": ": no more than chance explains.",
    }
    return f"{words}; the excess is {excess}{conclusions[report.finding]}"


def tables(report: EvaluationReport) -> list[Table]:
    """The figures for a terminal, a table an encoder and one of pixels."""
    found = [_table(_encoder_title(e), (COPYING, QUALITY), e.metrics, e.encoder) for e in report.encoders]
    return [*found, _table("pixels", (PIXEL_METRICS,), report.pixel_metrics, "")]


def _encoder_title(encoder: EncoderReport) -> str:
    threshold = "" if encoder.threshold is None else f", threshold {encoder.threshold:.4f}"
    how = " (calibrated)" if encoder.calibrated else ""
    return f"{encoder.encoder}, {encoder.preprocessing} preprocessing{threshold}{how}"


def _table(
    title: str, groups: tuple[tuple[Metric, ...], ...], found: Mapping[str, Estimate], encoder: str
) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95% interval", justify="right")
    for group in groups:
        for metric in group:
            table.add_row(*_cells(metric, found, encoder))
        table.add_section()
    return table


def _cells(metric: Metric, found: Mapping[str, Estimate], encoder: str) -> tuple[str, str, str]:
    """Label, value and interval of a figure."""
    estimate = found[metric.key]
    return (
        metric_label(metric, encoder),
        format_value(estimate.value, metric.kind),
        format_interval(estimate, metric.kind),
    )


def to_html(report: EvaluationReport) -> str:
    """The verdict, the notes and the figures, for a notebook; names are escaped."""
    parts = [f"<p>{escape(verdict(report))}</p>"]
    if report.notes:
        parts.append(f"<ul>{''.join(f'<li>{escape(printable(note))}</li>' for note in report.notes)}</ul>")
    parts += [
        _html_table(_encoder_title(e), (*COPYING, *QUALITY), e.metrics, e.encoder) for e in report.encoders
    ]
    parts.append(_html_table("pixels", PIXEL_METRICS, report.pixel_metrics, ""))
    return "\n".join(parts)


def _html_table(title: str, metrics: tuple[Metric, ...], found: Mapping[str, Estimate], encoder: str) -> str:
    cells = [("metric", "value", "95% interval"), *(_cells(metric, found, encoder) for metric in metrics)]
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in cells]
    lines[0] = lines[0].replace("td>", "th>")
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><caption>{escape(title)}</caption>{rows}</table>"


def printable(text: str) -> str:
    """Text that can be written as UTF-8: a file name may hold bytes that are none."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def to_json(report: EvaluationReport) -> dict[str, Any]:
    """The report as plain data: NaN becomes null, shares stay between 0 and 1."""
    first = report.encoders[0]
    return {
        "schema": JSON_SCHEMA,
        "verdict": verdict(report),
        "finding": report.finding,
        **{key: _plain(first.metrics[key]) for key in ("memorization", "heldout_memorization")},
        "excess_copy_rate": _plain(report.excess),
        "encoders": [
            {
                "encoder": e.encoder,
                "preprocessing": e.preprocessing,
                "fingerprint": e.fingerprint,
                "threshold": e.threshold,
                "threshold_calibrated": e.calibrated,
                "metrics": {metric.key: _plain(e.metrics[metric.key]) for metric in (*COPYING, *QUALITY)},
            }
            for e in report.encoders
        ],
        "pixels": {metric.key: _plain(report.pixel_metrics[metric.key]) for metric in PIXEL_METRICS},
        "reference": report.reference,
        "images": {
            role: {
                "path": images.path,
                "count": images.count,
                "height": images.height,
                "width": images.width,
                "fingerprint": images.fingerprint,
                "skipped_corrupt": list(images.skipped),
            }
            for role, images in report.image_sets.items()
        },
        "copies": [dict(vars(copy)) for copy in report.copies],
        "notes": list(report.notes),
        "environment": dict(report.environment),
    }


def _plain(estimate: Estimate) -> dict[str, float | None]:
    return {
        name: value if math.isfinite(value) else None
        for name, value in (("value", estimate.value), ("low", estimate.low), ("high", estimate.high))
    }


def unknown_metrics(metrics: tuple[Metric, ...]) -> dict[str, Estimate]:
    """Each of `metrics`, unknown."""
    return {metric.key: UNKNOWN for metric in metrics}
