"""One evaluation of a trial's samples, and what all evaluations of a sweep share.

Statistics of the real images, features of the training images and the similarity thresholds are
worked out once per sweep and train size (`build_references`) and handed to every trial.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pareto_amb.config import EvaluationConfig
from pareto_amb.declared import Objective
from pareto_amb.errors import UserError
from pareto_amb.evaluation.encoders import Encoder
from pareto_amb.evaluation.frechet import GaussianStatistics, fit_gaussian, frechet_distance
from pareto_amb.evaluation.judges import Judge
from pareto_amb.evaluation.memorization import (
    is_copy,
    mean_similarity,
    measure_yardstick,
    nearest_neighbours,
    share_above,
    similarity_p95,
)
from pareto_amb.evaluation.neighbours import normalize


@dataclass(frozen=True)
class TrialReference:
    """What every trial of one train size is measured against. Holds tensors and numbers only."""

    statistics: GaussianStatistics  # of the real images, in the features of the FID encoder
    train_features: Tensor  # (N, D) float32, rows of length 1, of the similarity encoder
    train_images: Tensor  # (N, C, H, W) uint8
    thresholds: tuple[float, ...]  # similarities above which an image counts as a copy
    primary: int  # position in `thresholds` of the one that `memorization` uses
    heldout: dict[str, float]  # the yardstick: the same figures for real images never trained on

    @property
    def threshold(self) -> float:
        """The similarity above which an image counts as a copy."""
        return self.thresholds[self.primary]


@dataclass(frozen=True, eq=False)
class MeasuredSamples:
    """What an objective may look at: N samples of one trial, in features, beside the training images."""

    samples: Tensor  # (N, C, H, W) uint8; fewer where shipped objectives alone, which look at none, measure
    fid_features: Tensor  # (N, D1) float32, of the FID encoder
    similarity_features: Tensor  # (N, D2) float32, of the similarity encoder
    similarity: Tensor  # (N,) float32, cosine similarity to the nearest training image
    neighbour: Tensor  # (N,) int64, its position in `reference.train_images`
    copied: Tensor  # (N,) bool, whether the similarity is above `reference.threshold`
    reference: TrialReference
    alignment: Tensor | None = None  # (N,) float32, how well each shows its caption; None without a judge

    @property
    def n_samples(self) -> int:
        return len(self.similarity)


@dataclass(frozen=True, eq=False)
class EncodedSamples:
    """N samples of one trial in the features of both encoders."""

    samples: Tensor  # (N, C, H, W) uint8, or the first ones
    fid_features: Tensor  # (N, D1) float32
    similarity_features: Tensor  # (N, D2) float32
    alignment: Tensor | None = None  # (N,) float32, how well each shows its caption; None without a judge

    def without_pixels(self) -> "EncodedSamples":
        """The features and scores alone."""
        return replace(self, samples=self.samples[:0])

    def joined(self, more: Sequence["EncodedSamples"]) -> "EncodedSamples":
        """These samples, then `more` of the same trial."""
        parts = [self, *more]
        same = self.similarity_features is self.fid_features
        fid_features = torch.cat([part.fid_features for part in parts])
        similarity_features = (
            fid_features if same else torch.cat([part.similarity_features for part in parts])
        )
        scores = [part.alignment for part in parts if part.alignment is not None]
        return EncodedSamples(
            torch.cat([part.samples for part in parts]),
            fid_features,
            similarity_features,
            torch.cat(scores) if scores else None,
        )


@dataclass(frozen=True)
class Evaluation:
    """The figures of one set of samples, and the nearest training image of each sample."""

    metrics: dict[str, float | int]
    similarity: Tensor  # (N,) float32, to the nearest training image
    neighbour: Tensor  # (N,) int64, its position in TrialReference.train_images
    copied: Tensor  # (N,) bool, whether the sample counts as a copy


def build_references(
    images: Tensor,
    splits: Mapping[int, tuple[Tensor, Tensor]],
    fid_encoder: Encoder,
    similarity_encoder: Encoder,
    config: EvaluationConfig,
    device: torch.device | str = "cpu",
) -> dict[int, TrialReference]:
    """Measure the real images: one TrialReference per train size. Each encoder sees each image once.

    `images` is the whole set, uint8 (N, C, H, W); `splits` maps a train size to the row numbers of
    its training and held-out images, the latter in random order: the first `max_heldout` are used.

    Without given thresholds, one is calibrated on every second held-out image and the yardstick
    (`TrialReference.heldout`) is measured on the others, so that it is not true by construction. With
    given thresholds it rests on all of them, and is NaN when there are none. FID's yardstick, `heldout_fid`,
    is that of `n_samples` held-out images from the reference images that are not among them, NaN where there
    are too few.

    Raises UserError, naming the train size, when it leaves too few held-out images or when they are
    copies of training images.
    """
    fid_features, similarity_features = _encode_with_both(
        images, fid_encoder, similarity_encoder, config.batch_size, device
    )
    full = fit_gaussian(fid_features) if config.reference == "full" else None
    references = {}
    for train_size, (train, heldout) in splits.items():
        statistics = full or _heldout_statistics(fid_features[heldout], train_size)
        bank = normalize(similarity_features[train])
        unseen = similarity_features[heldout[: config.max_heldout]]
        thresholds, yardstick = _thresholds_and_yardstick(unseen, bank, train_size, config)
        references[train_size] = TrialReference(
            statistics=statistics,
            train_features=bank,
            train_images=images[train],
            thresholds=thresholds,
            primary=config.primary_threshold,
            heldout={**yardstick, "heldout_fid": _heldout_fid(fid_features, heldout, config)},
        )
    return references


def evaluate_samples(
    samples: Tensor,
    reference: TrialReference,
    objectives: Mapping[str, Objective],
    fid_encoder: Encoder,
    similarity_encoder: Encoder,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """`evaluate_encoded` of `samples`, uint8 (N, C, H, W), once they are encoded."""
    encoded = encode_samples(samples, fid_encoder, similarity_encoder, batch_size, device)
    return evaluate_encoded(encoded, reference, objectives)


def encode_samples(
    samples: Tensor,
    fid_encoder: Encoder,
    similarity_encoder: Encoder,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    judge: Judge | None = None,
    captions: Sequence[str] = (),
) -> EncodedSamples:
    """`samples`, uint8 (N, C, H, W), in the features of the encoders that their reference was built with.

    A batch at a time, and once where both encoders are the same. A `judge` scores them by their N `captions`.
    """
    features = _encode_with_both(samples, fid_encoder, similarity_encoder, batch_size, device)
    scores = None if judge is None else judge.score(samples, captions, device)
    return EncodedSamples(samples, *features, alignment=scores)


def evaluate_encoded(
    encoded: EncodedSamples, reference: TrialReference, objectives: Mapping[str, Objective]
) -> Evaluation:
    """The objectives and the copying of encoded samples against `reference`.

    Each objective is measured once and gives the figures `name` and, where it has a standard error,
    `name_se`. Raises UserError for fewer than 2 samples, and when an objective gives no finite number.
    """
    similarity, neighbour = nearest_neighbours(encoded.similarity_features, reference.train_features)
    measured = MeasuredSamples(
        samples=encoded.samples,
        fid_features=encoded.fid_features,
        similarity_features=encoded.similarity_features,
        similarity=similarity,
        neighbour=neighbour,
        copied=is_copy(similarity, reference.threshold),
        reference=reference,
        alignment=encoded.alignment,
    )
    figures: dict[str, float | int] = {"n_samples": measured.n_samples}
    for objective in objectives.values():
        figures |= _measure(objective, measured)
    copying = _copy_figures(similarity, reference.thresholds, reference.primary)
    metrics = {**figures, "threshold": reference.threshold, **copying, **reference.heldout, **figures}
    return Evaluation(metrics, similarity, neighbour, measured.copied)


def _encode_with_both(
    images: Tensor,
    fid_encoder: Encoder,
    similarity_encoder: Encoder,
    batch_size: int,
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """Features of `images` for the FID (N, D1) and for the similarity (N, D2)."""
    fid_features = fid_encoder.encode(images, batch_size, device)
    if similarity_encoder.fingerprint == fid_encoder.fingerprint:
        return fid_features, fid_features
    return fid_features, similarity_encoder.encode(images, batch_size, device)


def _heldout_statistics(features: Tensor, train_size: int) -> GaussianStatistics:
    if len(features) < 2:
        raise UserError(
            f"train_size {train_size} leaves {len(features)} images for the FID reference, at "
            "least 2 are needed; lower it or set evaluation.reference to full"
        )
    return fit_gaussian(features)


def _heldout_fid(features: Tensor, heldout: Tensor, config: EvaluationConfig) -> float:
    """The FID of as many held-out images as a trial has samples, from the rest of the reference images.

    `features` (N, D) are those of the whole set, `heldout` (M,) row numbers. NaN where there are too few.
    """
    measured = heldout[: config.n_samples]
    rest = torch.ones(len(features), dtype=torch.bool)
    if config.reference == "heldout":
        rest[:] = False
        rest[heldout] = True
    rest[measured] = False
    if len(measured) < config.n_samples or rest.sum() < 2:
        return math.nan
    return frechet_distance(fit_gaussian(features[measured]), fit_gaussian(features[rest]))


def _thresholds_and_yardstick(
    unseen: Tensor, bank: Tensor, train_size: int, config: EvaluationConfig
) -> tuple[tuple[float, ...], dict[str, float]]:
    """The thresholds, and the figures of the held-out images, each named `heldout_...`."""
    try:
        found = measure_yardstick(unseen, bank, config.thresholds, config.calibration_quantile)
    except UserError as error:
        raise UserError(
            f"train_size {train_size}: {error}; or lower it, or set evaluation.thresholds"
        ) from error
    figures = _copy_figures(found.similarity, found.thresholds, config.primary_threshold)
    named = {f"heldout_{name}": value for name, value in figures.items()}
    return found.thresholds, {**named, "heldout_images": float(len(found.similarity))}


def _measure(objective: Objective, measured: MeasuredSamples) -> dict[str, float]:
    """The columns of one objective: its figure and, where it gives one, its standard error."""
    if objective.measure is None:
        raise UserError(f"objective {objective.name}: has no measure; pass the code that declares it")
    found = objective.measure(measured)
    values = found if isinstance(found, tuple) else (found,)
    if len(values) not in (1, 2):
        raise UserError(
            f"objective {objective.name}: measured {len(values)} values; return a number, or a number and "
            "its standard error"
        )
    names = (objective.name, objective.error_column)
    return {name: _finite(objective, value) for name, value in zip(names, values, strict=False)}


def _finite(objective: Objective, number: object) -> float:
    """A measured number as a float; UserError when it is none, or not finite."""
    try:
        value = math.nan if isinstance(number, (str, bool)) else float(number)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # what tensors and arrays of several values raise
        value = math.nan
    if not math.isfinite(value):
        shown = " ".join(repr(number).split())
        raise UserError(f"objective {objective.name}: measured {shown:.80}, not a finite number; correct it")
    return value


def _copy_figures(similarity: Tensor, thresholds: tuple[float, ...], primary: int) -> dict[str, float]:
    """Shares above the thresholds and summary of `similarity` (N,); all NaN when it is empty."""
    return {
        "memorization": share_above(similarity, thresholds[primary]),
        "similarity_mean": float(mean_similarity(similarity)),
        "similarity_p95": float(similarity_p95(similarity)),
        **{f"memorization_at_{t:.3f}": share_above(similarity, t) for t in thresholds},
    }
