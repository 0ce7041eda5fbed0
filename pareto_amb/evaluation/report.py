"""What one evaluation found: figures with intervals, in words, as a table and as JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from pareto_amb.evaluation.caption_copies import CaptionReport
from pareto_amb.evaluation.gate import Gate, judge
from pareto_amb.evaluation.intervals import UNKNOWN, Z95, Estimate
from pareto_amb.evaluation.likeness import Likeness
from pareto_amb.printable import printable

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
        "The first less the second. Above 0 with its whole interval: more copies than chance explains.",
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
        "Are generated images nearer to the training images than held-out ones are (Meehan et al. 2020)? "
        "Below −1.96: nearer than by chance. That is copying if they are as varied and as rich in detail as "
        "real ones; bland images lie nearer to every image. Above 1.96: farther away.",
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
        "heldout_fid", "… of held-out images", "number",
        "The same for real images the model never saw: what real images reach. Where the held-out images are "
        "the reference, every second one is measured against the others.",
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
        "Generated images that lie among the reference images: quality (Kynkäänniemi et al. 2019). Images "
        "without detail can lie there too: their density is far above 1, their recall near 0.",
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

LIKENESS = tuple(
    metric for metric in QUALITY if metric.key in ("fid", "precision", "recall", "density", "coverage")
)
"""The figures in which generated and held-out images are compared like for like."""

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

CAPTIONS = (
    Metric(
        "clip_score", "CLIP score", "number",
        "Cosine of the embeddings of image and caption, averaged over the generated images. Higher: they "
        "show more of what their captions say. It depends on the CLIP model.",
    ),
    Metric(
        "trained_prompt_copies", "Copies, by a training caption", "share",
        "Copies among the generated images whose caption is that of a training image. The interval takes "
        "images for independent: where many are of one caption it is too narrow.",
    ),
    Metric(
        "own_image_copies", "… of an image with that very caption", "share",
        "Of the same images, those that copy a training image of their very caption.",
    ),
    Metric(
        "other_prompt_copies", "Copies, by other captions", "share",
        "Copies among the generated images whose caption no training image has. Fewer than by training "
        "captions: captions trigger the copies.",
    ),
    Metric(
        "prompts_with_copies", "Captions that trigger copies", "share",
        "Distinct captions with at least one copy.",
    ),
)  # fmt: skip
"""What captions have to do with it."""

SHOWN_PROMPTS = 20
"""Captions that trigger copies, as many at most, in a table."""


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
    any. `threshold` is None where none was given and none could be calibrated. `likeness` is None where
    there are too few images, or none that were held out.
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
    likeness: Likeness | None = None


@dataclass(frozen=True)
class Copy:
    """A generated image, its nearest training image, and whether the two have the same pixels.

    `train_original` is the file that the latter was made of, empty where that is not known.
    """

    generated: str
    train: str
    similarity: float
    identical: bool
    train_original: str = ""


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
    the threshold; `copies` all above it. `captions` is None where they were not asked for. `reference` says
    what Fréchet distance, precision and the like were measured against.
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
    captions: CaptionReport | None = None

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
    def n_identical(self) -> int:
        """How many generated images have exactly the pixels of a training image."""
        return round(self.identical.value * self.image_sets["generated"].count)

    @property
    def excess_at_least(self) -> float:
        """The lowest excess copy rate there may be: no held-out image has the pixels of a training image."""
        return float(np.nanmax([self.excess.low, self.identical.low, 0.0]))

    @property
    def excess_at_most(self) -> float:
        """The highest excess copy rate there may be; NaN where nothing says what is normal."""
        return float(np.maximum(self.excess.high, self.identical.value))

    @property
    def likeness(self) -> Literal["alike", "unlike", "unsure", "unknown"]:
        """Whether the generated images are like real ones, in the first encoder."""
        found = self.encoders[0].likeness
        return "unknown" if found is None else found.outcome

    @property
    def unlikeness(self) -> str:
        """What sets the generated images apart from real ones, or why that is not known; empty if nothing."""
        found = self.encoders[0].likeness
        return "at least 12 held-out and 4 generated images are needed" if found is None else str(found)

    @property
    def finding(self) -> Literal["copies", "normal", "inconclusive", "not-comparable", "unknown"]:
        """Whether more images are copies than is normal, by more than chance; identical ones always are.

        `not-comparable` where few are, but the images are so unlike real ones that this says nothing.
        """
        if self.identical.value > 0 or self.excess.low > 0:
            return "copies"
        if math.isnan(self.excess.low):
            return "unknown"
        if self.likeness == "unlike":
            return "not-comparable"
        return "normal" if self.excess.high <= UNSURE_ABOVE and self.likeness == "alike" else "inconclusive"

    def gate(
        self,
        limit: float | None = None,
        *,
        fail_on_identical: bool = True,
        require_conclusive: bool = False,
    ) -> Gate:
        """Whether these images may be released; see `pareto_amb.evaluation.gate.judge`."""
        return judge(self, limit, fail_on_identical=fail_on_identical, require_conclusive=require_conclusive)


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
    return f"{value:,.0f}" if kind == "count" or abs(value) >= 1000 else f"{value:#.4g}"


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
    words = _about_identical(report)
    if first.threshold is None:
        return (
            f"{words}How many generated images are copies cannot be said without a threshold: give "
            "--heldout, images the model never saw, to calibrate one, or --threshold."
        )
    if report.finding == "not-comparable":
        words += (
            f"The generated images are unlike real images of this kind ({report.unlikeness}): that few of "
            "them are copies says nothing. "
        )
    words += (
        f"{format_value(copied.value, 'share')} of the generated images are copies of training "
        f"images, 95% interval {format_interval(copied, 'share')}."
    )
    if math.isnan(normal.value):
        return f"{words} What is normal for held-out images is unknown: give --heldout."
    words += f" {format_value(normal.value, 'share')} is normal for images the model never saw"
    conclusions = {
        "copies": _if_copies(report),
        "inconclusive": f": too few images to tell{_of_what(report)}.",
        "normal": ": no more than chance explains.",
        "not-comparable": ".",
    }
    return f"{words}; the excess is {_excess_words(report.excess)}{conclusions[report.finding]}"


def _if_copies(report: EvaluationReport) -> str:
    if not report.excess.low > 0:
        return "."
    if report.likeness == "unlike" and not report.n_identical:
        return (
            ": more than chance explains, but in images unlike real ones; look whether the pairs are copies."
        )
    return ": the model copies."


def _of_what(report: EvaluationReport) -> str:
    """What there are too few images for."""
    if report.excess.high > UNSURE_ABOVE:
        return ", give more of the generated and --heldout ones"
    return f" whether the generated ones are like real ones of this kind ({report.unlikeness})"


def _excess_words(excess: Estimate) -> str:
    return f"{format_value(excess.value, 'points')} ({format_interval(excess, 'points')})"


def _about_identical(report: EvaluationReport) -> str:
    if not report.n_identical:
        return ""
    return (
        f"{format_value(report.identical.value, 'share')} of the generated images have exactly the pixels of "
        "a training image: these are copies. "
    )


def remarks(report: EvaluationReport) -> list[str]:
    """What the reader must know besides the verdict: cautions, then notes on what was measured."""
    return [*cautions(report), *report.notes]


def cautions(report: EvaluationReport) -> list[str]:
    """Where figures seem to say something else than the verdict: what that can mean."""
    first, found = report.encoders[0], []
    if report.finding == "copies" and report.likeness == "unlike":
        found.append(
            f"as a whole the generated images are unlike real images of this kind ({report.unlikeness}): the "
            "share of copies says little of a model whose images are like them"
        )
    if report.finding != "copies":
        found += [
            f"in {e.encoder} the excess copy rate is {_excess_words(e.metrics['excess_copy_rate'])}, more "
            f"than chance explains: look at the pairs; the verdict is that of {first.encoder}"
            for e in report.encoders[1:]
            if e.metrics["excess_copy_rate"].low > 0
        ]
        found += [_about_c_t(report, e) for e in report.encoders if e.metrics["c_t"].value < -Z95]
    return found


def _about_c_t(report: EvaluationReport, encoder: EncoderReport) -> str:
    nearer = (
        f"C_T is {format_value(encoder.metrics['c_t'].value, 'number')} in {encoder.encoder}: as a whole the "
        "generated images are nearer to the training images than held-out ones are"
    )
    if report.finding == "not-comparable":
        return (
            f"{nearer}. That need not be copying: images without detail can lie in the middle of the "
            "features, nearer to every image than real images are to each other"
        )
    return (
        f"{nearer}, though the share of copies shows no excess. Either many images copy in part and stay "
        "below the threshold, or they are blander or less varied than real ones: compare density and recall "
        "with those of held-out images, and look at the most similar pairs"
    )


def tables(report: EvaluationReport) -> list[Table]:
    """The figures for a terminal: of each encoder, like for like, and of pixels."""
    found = []
    for e in report.encoders:
        found.append(_table(_encoder_title(e), (COPYING, QUALITY), e.metrics, e.encoder))
        if e.likeness is not None:
            found.append(_likeness_table(e, e.likeness))
    found.append(_table("pixels", (PIXEL_METRICS,), report.pixel_metrics, ""))
    if report.captions is not None:
        found.append(_table("captions", (CAPTIONS,), report.captions.metrics, ""))
    return [*found, *_prompt_tables(report)]


PROMPT_HEADS = ("caption", "images", "copies", "of its own image")


def prompts_title(captions: CaptionReport) -> str:
    """What the rows of `prompt_rows` are."""
    total = len(captions.triggers)
    most = f"; the {SHOWN_PROMPTS} with most are shown" if total > SHOWN_PROMPTS else ""
    return f"{total:,} of {len(captions.prompts):,} captions trigger copies{most}"


def prompt_rows(captions: CaptionReport, longest: int) -> list[tuple[str, str, str, str]]:
    """A row of PROMPT_HEADS for each caption that triggers copies, the worst ones first, cut to `longest`."""
    return [
        (
            shorten(prompt.caption, longest),
            f"{prompt.images:,}",
            f"{prompt.copies:,}",
            "–" if prompt.own is None else f"{prompt.own:,}",
        )
        for prompt in captions.triggers[:SHOWN_PROMPTS]
    ]


def shorten(text: str, longest: int) -> str:
    """A text from outside, cut to `longest` printable characters."""
    shown = printable(text)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _prompt_tables(report: EvaluationReport) -> list[Table]:
    """The captions that trigger copies, as they are, where there are any."""
    if report.captions is None or not report.captions.triggers:
        return []
    table = Table(title=prompts_title(report.captions), title_justify="left")
    for head in PROMPT_HEADS:
        table.add_column(head, justify="left" if head == PROMPT_HEADS[0] else "right")
    for caption, *counts in prompt_rows(report.captions, 60):
        table.add_row(Text(caption), *counts)
    return [table]


def likeness_title(likeness: Likeness) -> str:
    """What is compared like for like."""
    return (
        f"{likeness.images:,} generated and {likeness.images:,} held-out images, each against "
        f"{likeness.reference_images:,} other held-out ones"
    )


def likeness_rows(encoder: str, likeness: Likeness) -> list[tuple[str, str, str]]:
    """Label, value of generated images and value of held-out images."""
    return [
        (
            metric_label(metric, encoder),
            format_value(likeness.generated[metric.key].value, metric.kind),
            format_value(likeness.heldout[metric.key].value, metric.kind),
        )
        for metric in LIKENESS
    ]


def _likeness_table(encoder: EncoderReport, likeness: Likeness) -> Table:
    title = f"{encoder.encoder}, like for like: {likeness_title(likeness)}"
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("generated", justify="right")
    table.add_column("held-out", justify="right")
    for row in likeness_rows(encoder.encoder, likeness):
        table.add_row(*row)
    return table


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
    """The verdict, the remarks and the figures, for a notebook; names are escaped."""
    parts = [f"<p>{escape(verdict(report))}</p>"]
    lines = remarks(report)
    if lines:
        parts.append(f"<ul>{''.join(f'<li>{escape(printable(line))}</li>' for line in lines)}</ul>")
    heads = ("metric", "value", "95% interval")
    for e in report.encoders:
        cells = [_cells(metric, e.metrics, e.encoder) for metric in (*COPYING, *QUALITY)]
        parts.append(_html_table(_encoder_title(e), heads, cells))
        if e.likeness is not None:
            rows = likeness_rows(e.encoder, e.likeness)
            title = f"{e.encoder}, like for like: {likeness_title(e.likeness)}"
            parts.append(_html_table(title, ("metric", "generated", "held-out"), rows))
    cells = [_cells(metric, report.pixel_metrics, "") for metric in PIXEL_METRICS]
    parts.append(_html_table("pixels", heads, cells))
    if (captions := report.captions) is not None:
        cells = [_cells(metric, captions.metrics, "") for metric in CAPTIONS]
        parts.append(_html_table("captions", heads, cells))
        if captions.triggers:
            parts.append(_html_table(prompts_title(captions), PROMPT_HEADS, prompt_rows(captions, 200)))
    return "\n".join(parts)


def _html_table(title: str, heads: tuple[str, ...], cells: Sequence[tuple[str, ...]]) -> str:
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in (heads, *cells)]
    lines[0] = lines[0].replace("td>", "th>")
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><caption>{escape(title)}</caption>{rows}</table>"


def to_json(report: EvaluationReport, gate: Gate | None = None) -> dict[str, Any]:
    """The report, and what its gate said, as plain data: NaN becomes null, shares stay between 0 and 1."""
    first = report.encoders[0]
    return {
        "schema": JSON_SCHEMA,
        "verdict": verdict(report),
        "finding": report.finding,
        "gate": None if gate is None else dict(vars(gate)),
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
                "likeness": None if e.likeness is None else _plain_likeness(e.likeness),
            }
            for e in report.encoders
        ],
        "pixels": {metric.key: _plain(report.pixel_metrics[metric.key]) for metric in PIXEL_METRICS},
        "captions": None if report.captions is None else _plain_captions(report.captions),
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
        "notes": remarks(report),
        "environment": dict(report.environment),
    }


def _plain(estimate: Estimate) -> dict[str, float | None]:
    return {
        name: value if math.isfinite(value) else None
        for name, value in (("value", estimate.value), ("low", estimate.low), ("high", estimate.high))
    }


def _plain_captions(captions: CaptionReport) -> dict[str, Any]:
    return {
        "clip_model": captions.clip_model,
        "clip_fingerprint": captions.clip_fingerprint,
        "metrics": {metric.key: _plain(captions.metrics[metric.key]) for metric in CAPTIONS},
        "prompts": [dict(vars(prompt)) for prompt in captions.prompts],
    }


def _plain_likeness(likeness: Likeness) -> dict[str, Any]:
    figures = {
        role: {metric.key: _plain(found[metric.key]) for metric in LIKENESS}
        for role, found in (("generated", likeness.generated), ("heldout", likeness.heldout))
    }
    counts = {"images": likeness.images, "reference_images": likeness.reference_images}
    return {"outcome": likeness.outcome, **counts, **figures}


def unknown_metrics(metrics: tuple[Metric, ...]) -> dict[str, Estimate]:
    """Each of `metrics`, unknown."""
    return {metric.key: UNKNOWN for metric in metrics}
