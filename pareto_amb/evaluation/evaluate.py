"""One evaluation of a set of generated images, and what all evaluations of a sweep share.

Statistics of the real images, features of the training images and the similarity thresholds are
worked out once per sweep and train size (`build_references`) and handed to every trial.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pareto_amb.config import EvaluationConfig
from pareto_amb.errors import UserError
from pareto_amb.evaluation.encoders import Encoder
from pareto_amb.evaluation.frechet import (
    GaussianStatistics,
    fit_gaussian,
    frechet_distance,
    frechet_standard_error,
)
from pareto_amb.evaluation.memorization import (
    calibrate_threshold,
    nearest_neighbours,
    share_above,
)
from pareto_amb.evaluation.neighbours import normalize
from pareto_amb.evaluation.shares import share_posterior


@dataclass(frozen=True)
class Reference:
    """What every trial of one train size is measured against. Holds tensors and numbers only."""

    statistics: GaussianStatistics  # of the real images, in the features of the FID encoder
    train_features: Tensor  # (N, D) float32, rows of length 1, of the similarity encoder
    train_images: Tensor  # (N, C, H, W) uint8
    thresholds: tuple[float, ...]  # similarities above which an image counts as a copy
    primary: int  # position in `thresholds` of the one that `memorization` uses
    heldout: dict[str, float]  # the yardstick: the same figures for real images never trained on


@dataclass(frozen=True)
class Evaluation:
    """The figures of one set of samples, and the nearest training image of each sample."""

    metrics: dict[str, float | int]
    similarity: Tensor  # (N,) float32, to the nearest training image
    neighbour: Tensor  # (N,) int64, its position in Reference.train_images


def build_references(
    images: Tensor,
    splits: Mapping[int, tuple[Tensor, Tensor]],
    fid_encoder: Encoder,
    similarity_encoder: Encoder,
    config: EvaluationConfig,
    device: torch.device | str = "cpu",
) -> dict[int, Reference]:
    """Measure the real images: one Reference per train size. Each encoder sees each image once.

    `images` is the whole set, uint8 (N, C, H, W); `splits` maps a train size to the row numbers of
    its training and held-out images, the latter in random order: the first `max_heldout` are used.

    Without given thresholds, one is calibrated on every second held-out image and the yardstick
    (`Reference.heldout`) is measured on the others, so that it is not true by construction. With
    given thresholds it rests on all of them, and is NaN when there are none.

    Raises UserError, naming the train size, when it leaves too few held-out images or when they are
    copies of training images.
    """
    fid_features, similarity_features = _encode_with_both(
        images, fid_encoder, similarity_encoder, config.batch_size, device
    )
    full = fit_gaussian(fid_features) if config.reference == "full" else None
    references = {}
    for train_size, (train, heldout) in splits.items():
        if full is None and len(heldout) < 2:
            raise UserError(
                f"train_size {train_size} leaves {len(heldout)} images for the FID reference, at "
                "least 2 are needed; lower it or set evaluation.reference to full"
            )
        bank = normalize(similarity_features[train])
        unseen = similarity_features[heldout[: config.max_heldout]]
        thresholds, yardstick = _thresholds_and_yardstick(unseen, bank, train_size, config)
        references[train_size] = Reference(
            statistics=full or fit_gaussian(fid_features[heldout]),
            train_features=bank,
            train_images=images[train],
            thresholds=thresholds,
            primary=config.primary_threshold,
            heldout=_prefixed(_copy_metrics(yardstick, thresholds, config.primary_threshold)),
        )
    return references


def evaluate_samples(
    samples: Tensor,
    reference: Reference,
    fid_encoder: Encoder,
    similarity_encoder: Encoder,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """FID and memorization of `samples`, uint8 (N, C, H, W), against `reference`.

    `fid_se` and `memorization_se` are their standard deviations over sets of N samples of the same model.
    The encoders are the ones the reference was built with; when both are the same, the samples are
    encoded once. Raises UserError for fewer than 2 samples.
    """
    fid_features, similarity_features = _encode_with_both(
        samples, fid_encoder, similarity_encoder, batch_size, device
    )
    statistics = fit_gaussian(fid_features)
    similarity, neighbour = nearest_neighbours(similarity_features, reference.train_features)
    copying = _copy_metrics(similarity, reference.thresholds, reference.primary)
    metrics: dict[str, float | int] = {
        "n_samples": len(samples),
        "fid": frechet_distance(statistics, reference.statistics),
        "fid_se": frechet_standard_error(fid_features, statistics, reference.statistics),
        "threshold": reference.thresholds[reference.primary],
        "memorization_se": float(share_posterior(copying["memorization"], len(samples))[1]),
        **copying,
        **reference.heldout,
    }
    return Evaluation(metrics, similarity, neighbour)


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


def calibrate_on_half(heldout_similarity: Tensor, quantile: float) -> tuple[float, Tensor]:
    """A threshold from every second held-out image, and the similarities (M/2,) of the others.

    The others are the yardstick: measured on the images that made the threshold, it would be
    1 - `quantile` by construction. `heldout_similarity` is (M,), in an order that is no pattern.

    Raises UserError, without a remedy, for fewer than 4 images or when too many are copies.
    """
    if len(heldout_similarity) < 4:
        raise UserError(
            f"{len(heldout_similarity)} held-out images, at least 4 are needed to calibrate the threshold"
        )
    threshold = calibrate_threshold(heldout_similarity[0::2], quantile)
    if threshold > 1.0 - 1e-6:
        raise UserError(
            f"more than {1 - quantile:.1%} of the held-out images are copies of training images, so no "
            "threshold tells copies apart: remove duplicates from the data"
        )
    return threshold, heldout_similarity[1::2]


def _thresholds_and_yardstick(
    unseen: Tensor, bank: Tensor, train_size: int, config: EvaluationConfig
) -> tuple[tuple[float, ...], Tensor]:
    """The thresholds, and the similarities (M,) that the yardstick rests on."""
    similarity, _ = nearest_neighbours(unseen, bank) if len(unseen) else (torch.empty(0), None)
    if config.thresholds is not None:
        return config.thresholds, similarity
    try:
        threshold, yardstick = calibrate_on_half(similarity, config.calibration_quantile)
    except UserError as error:
        raise UserError(
            f"train_size {train_size}: {error}; or lower it, or set evaluation.thresholds"
        ) from error
    return (threshold,), yardstick


def _copy_metrics(similarity: Tensor, thresholds: tuple[float, ...], primary: int) -> dict[str, float]:
    """Shares above the thresholds and summary of `similarity` (N,); all NaN when it is empty."""
    empty = len(similarity) == 0
    return {
        "memorization": share_above(similarity, thresholds[primary]),
        "similarity_mean": float(similarity.double().mean()),
        "similarity_p95": math.nan if empty else float(similarity.double().quantile(0.95)),
        **{f"memorization_at_{t:.3f}": share_above(similarity, t) for t in thresholds},
    }


def _prefixed(metrics: dict[str, float]) -> dict[str, float]:
    return {f"heldout_{key}": value for key, value in metrics.items()}
