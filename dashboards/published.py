"""The figures that the paper publishes, beside those of a run that says it trains on the same images.

`data.published` in the sweep file is that statement: presets make it, no name of a file or folder does. It is
believed where the run recorded as many images as the set has, at its resolution. Published figures are
compared at a similarity threshold that both measured, never at a near one.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict

from pareto_amb.config import SweepConfig
from pareto_amb.dashboards.answer import stop_of, stops_early
from pareto_amb.dashboards.formats import count
from pareto_amb.dashboards.wording import called
from pareto_amb.declared import BASELINE
from pareto_amb.redaction import redact
from pareto_amb.results.recommendation import FinalFigures, Recommendation
from pareto_amb.results.size import SizeResults
from pareto_amb.results.words import joined

Reading = float | str | bool | None

LABELS = {
    "evaluation.fid_encoder": "FID in features of",
    "evaluation.similarity_encoder": "similarity in features of",
    "evaluation.preprocessing": "preprocessing for DINOv2",
    "data.conditional": "trained with class labels",
    "training.network.name": "network",
    "training.images": "images seen in training",
    "training.batch_size": "batch size",
    "training.optimizer": "optimizer",
    "training.learning_rate": "learning rate",
    "training.lr_warmup_images": "learning-rate warm-up, images seen",
    "training.weight_decay": "weight decay",
    "training.augment_probability": "probability of augmentation",
    "training.horizontal_flip": "mirrored images",
    "training.noise.kind": "distribution of training noise levels",
    "training.init_from": "first weights",
    "sampling.solver": "sampler",
    "sampling.steps": "sampling steps",
}
"""What the conditions of a published set are called."""

SAMPLES = "samples a measurement"
"""What the number of generated images is called among the differences, which final figures do not have."""


class _Published(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Cell(_Published):
    """What is published of one method: memorization in percent, at each threshold of its set."""

    fid: float
    memorization: tuple[float, ...]


class PublishedSet(_Published):
    """What is published of one image set; see the head of paper_results.yaml."""

    label: str
    table: str
    images: int
    resolution: int
    reference_images: int
    thresholds: tuple[float, ...]
    conditions: dict[str, Reading | dict[str, Reading]]
    figures: dict[int, dict[str, Cell]]


class PaperResults(_Published):
    """All of paper_results.yaml; `samples` are those of every measurement."""

    source: str
    samples: int
    sets: dict[str, PublishedSet]


@cache
def paper_results() -> PaperResults:
    """The published figures that ship with the package."""
    text = Path(__file__).with_name("paper_results.yaml").read_text(encoding="utf-8")
    return PaperResults.model_validate(yaml.safe_load(text))


@dataclass(frozen=True)
class Point:
    """A published training at one threshold; `memorization` is a share."""

    method: str
    fid: float
    memorization: float


@dataclass(frozen=True)
class Difference:
    """One condition in which the two measurements differ, or may differ."""

    what: str
    published: str
    here: str


@dataclass(frozen=True)
class Row:
    """A row of the table: a training's FID, and its memorization at each published threshold."""

    who: str
    fid: float
    memorization: list[float]


@dataclass(frozen=True)
class Comparison:
    """One train size of a run beside the published figures for it.

    `measured` are the published thresholds that the run measured, too. Where nothing can be compared,
    `reason` says why and all that follows it is empty.
    """

    reason: str = ""
    basis: str = ""
    table: str = ""
    label: str = ""
    thresholds: tuple[float, ...] = ()
    measured: tuple[float, ...] = ()
    cells: Mapping[str, Cell] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    cautions: tuple[str, ...] = ()

    @property
    def citation(self) -> str:
        return f"{paper_results().source}, {self.table}"

    def points(self, threshold: float) -> list[Point]:
        """The published trainings at a threshold, none where the two share it not."""
        if threshold not in self.measured:
            return []
        place = self.thresholds.index(threshold)
        return [
            Point(method, cell.fid, cell.memorization[place] / 100) for method, cell in self.cells.items()
        ]


def compare(config: SweepConfig, environment: Mapping[str, str], size: SizeResults) -> Comparison | None:
    """What is published for a train size of a run, None where the run does not ask or has finished nothing.

    `environment` is the run's environment.json, flattened.
    """
    name = config.data.published
    if name is None or size.full.empty:
        return None
    paper = paper_results().sets[name]
    measured = tuple(t for t in paper.thresholds if _is_measured(t, config, size.full))
    reason = _why_not(paper, config, environment, size.train_size) or _no_threshold(paper, measured, config)
    if reason:
        return Comparison(reason)
    images = f"{count(paper.images)} images of {paper.resolution}×{paper.resolution} pixels"
    return Comparison(
        basis=f"Compared because the run says that its images are {paper.label} (data.published), and there "
        f"are as many of them: {images}. Their content was not checked.",
        table=paper.table,
        label=paper.label,
        thresholds=paper.thresholds,
        measured=measured,
        cells=paper.figures[size.train_size],
        differences=tuple(_differences(paper, measured, config, size)),
        cautions=tuple(_cautions(paper, config)),
    )


def shared_threshold(rows: pd.DataFrame) -> float:
    """The threshold that memorization rests on in all `rows`, NaN where they have no common one."""
    found = rows.threshold.dropna().unique()
    return float(found[0]) if len(found) == 1 else math.nan


def share_column(threshold: float) -> str:
    """The column of the results table with the share of samples above a threshold."""
    return f"memorization_at_{threshold:.3f}"


def comparable_final(
    comparison: Comparison, size: SizeResults, recommendation: Recommendation | None
) -> FinalFigures | None:
    """The answer's final figures where they rest on as many samples as published, at a shared threshold."""
    final = None if recommendation is None else recommendation.final
    if final is None or final.n_samples != paper_results().samples:
        return None
    return final if shared_threshold(size.full) in comparison.measured else None


def table_rows(comparison: Comparison, size: SizeResults, recommendation: Recommendation | None) -> list[Row]:
    """The published trainings, DDPM here at full budget, and the recommended training wherever it stops.

    With their final figures where these rest on as many samples as published.
    """
    rows = [
        Row(
            f"published: {size.declared.method(method).label}", cell.fid, [m / 100 for m in cell.memorization]
        )
        for method, cell in comparison.cells.items()
    ]
    final = comparable_final(comparison, size, recommendation)
    if recommendation is not None and final is not None:
        threshold = shared_threshold(size.full)
        named = (("DDPM", final.ddpm), (called(recommendation).lower(), final.training))
        for name, figures in ((name, figures) for name, figures in named if figures is not None):
            fid, share = figures["fid"].value, figures["memorization"].value
            shares = [share if t == threshold else math.nan for t in comparison.thresholds]
            rows.append(Row(f"this run: {name}, final measurement", fid, shares))
        return rows
    seeds = size.full[size.full.method == BASELINE]
    if len(seeds):
        noun = "1 seed" if len(seeds) == 1 else f"mean of {len(seeds)} seeds"
        rows.append(_own_row(f"this run: DDPM, {noun}", seeds, comparison))
    if recommendation is not None:
        points, stop = size.over(recommendation.budget).configurations, stop_of(recommendation, size)
        points = points[(points.trial_id == recommendation.trial_id) & (points.images_seen == stop)]
        if len(points) == 1 and math.isclose(points.fid.iloc[0], recommendation["fid"].value):
            label = size.declared.method(recommendation.method).label
            after = f", stopped after {count(stop)} images" if stops_early(recommendation, size) else ""
            rows.append(
                _own_row(f"this run: {label}, {called(recommendation).lower()}{after}", points, comparison)
            )
    return rows


def _own_row(who: str, rows: pd.DataFrame, comparison: Comparison) -> Row:
    shares = [_share(rows, t) if t in comparison.measured else math.nan for t in comparison.thresholds]
    return Row(who, float(rows.fid.mean()), shares)


def _share(rows: pd.DataFrame, threshold: float) -> float:
    if shared_threshold(rows) == threshold:
        return float(rows.memorization.mean())
    return float(rows[share_column(threshold)].mean())


def _why_not(
    paper: PublishedSet, config: SweepConfig, environment: Mapping[str, str], train_size: int
) -> str:
    """Why the run's images are not believed to be the set, or nothing is published for them."""
    says, data = f"the run says that its images are {paper.label} (data.published)", config.data
    if data.resolution != paper.resolution:
        side = paper.resolution
        return f"{says}, but they have {data.resolution} pixels a side where the paper’s have {side}"
    if data.channels != 3:
        return f"{says}, but they are grey"
    images = environment.get("data.images", "")
    if not re.fullmatch("[0-9]{1,12}", images):
        return f"{says}, but environment.json does not record how many there are"
    if int(images) != paper.images:
        return f"{says}, but there are {count(int(images))} where {paper.label} has {count(paper.images)}"
    if train_size not in paper.figures:
        sizes = joined([count(size) for size in paper.figures])
        return f"the paper has figures for {sizes} training images of {paper.label}, not for this size"
    return ""


def _no_threshold(paper: PublishedSet, measured: tuple[float, ...], config: SweepConfig) -> str:
    if measured:
        return ""
    theirs = joined([f"{t:g}" for t in paper.thresholds])
    ours = config.evaluation.thresholds
    here = f"at {joined([f'{t:g}' for t in ours])}" if ours else "at one calibrated on held-out images"
    return f"the paper’s memorization is at the similarity thresholds {theirs}, this run’s {here}"


def _is_measured(threshold: float, config: SweepConfig, rows: pd.DataFrame) -> bool:
    """Whether every one of `rows` has its share above exactly this threshold."""
    if shared_threshold(rows) == threshold:
        return True
    column = share_column(threshold)
    alike = [t for t in config.evaluation.thresholds or () if share_column(t) == column]
    return alike == [threshold] and column in rows and bool(rows[column].notna().all())


def _differences(
    paper: PublishedSet, measured: tuple[float, ...], config: SweepConfig, size: SizeResults
) -> list[Difference]:
    """All that differs, or may: conditions of which the paper's text and its script say different things."""
    which = f"which {count(size.train_size)} images are trained on"
    found = [Difference(which, "a draw of its own", f"drawn with seed {config.seed}")]
    if config.recipe is not None:
        found.append(Difference("recipe", "text or released: not told", redact(config.recipe)))
    found += _of_the_measurement(paper, measured, config, size)
    values = config.model_dump()
    for key, published in paper.conditions.items():
        here, readings = _look_up(values, key), _readings(published)
        if key == "evaluation.preprocessing" and "dino" not in config.evaluation.similarity_encoder:
            here = "not used"
        if any(reading != here for reading in readings.values()):
            texts = [f"{_text(value)}{f' ({said})' if said else ''}" for said, value in readings.items()]
            found.append(Difference(LABELS[key], ", ".join(texts), _text(here)))
    return found


def _of_the_measurement(
    paper: PublishedSet, measured: tuple[float, ...], config: SweepConfig, size: SizeResults
) -> list[Difference]:
    found, samples = [], paper_results().samples
    counts = sorted({int(value) for value in size.full.n_samples})
    if counts != [samples]:
        here, final = ", ".join(count(value) for value in counts), config.evaluation.final_samples
        if final is not None:
            here = f"{here}; {count(final)} in the final measurement"
        found.append(Difference(SAMPLES, count(samples), here))
    reference = "images left out of training"
    if config.evaluation.reference == "full":
        reference = f"{count(paper.images)} images of the set"
    published = f"{count(paper.reference_images)} images of the set"
    if reference != published:
        found.append(Difference("FID against", published, reference))
    if measured != paper.thresholds:
        theirs, ours = (", ".join(f"{t:g}" for t in found) for found in (paper.thresholds, measured))
        found.append(Difference("similarity thresholds", theirs, f"of these {ours}"))
    seeds = int((size.full.method == BASELINE).sum())
    found.append(
        Difference("seeds", "not told, one number a cell", f"DDPM: {seeds}; its mean is in the table")
    )
    return found


def _cautions(paper: PublishedSet, config: SweepConfig) -> list[str]:
    """What the reader must not conclude, where other features were used."""
    theirs, ours = paper.conditions, config.evaluation
    found = []
    if ours.fid_encoder != theirs["evaluation.fid_encoder"]:
        found.append(
            f"FID is in features of {ours.fid_encoder} here and of {theirs['evaluation.fid_encoder']} there: "
            "the two have no common scale."
        )
    if ours.similarity_encoder != theirs["evaluation.similarity_encoder"]:
        found.append(
            f"Similarity is in features of {ours.similarity_encoder} here and of "
            f"{theirs['evaluation.similarity_encoder']} there: equal thresholds do not mean equal likeness."
        )
    return found


def _readings(published: Reading | dict[str, Reading]) -> dict[str, Reading]:
    return published if isinstance(published, dict) else {"": published}


def _look_up(values: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key. KeyError where there is none."""
    found: Any = values
    for part in key.split("."):
        found = found[part]
    return found


def _text(value: Any) -> str:
    if value is None:
        return "random"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return count(value) if value >= 1000 else f"{value:g}"
    return redact(str(value))
