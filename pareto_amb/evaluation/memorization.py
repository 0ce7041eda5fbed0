"""How close each image is to its nearest training image, and what share counts as copies.

The measure of the paper's Tables 1 and 2: the highest cosine similarity to any training image, and
the share of generated images above a threshold. Trials and image sets are measured by the same functions.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pareto_amb.errors import UserError
from pareto_amb.evaluation.intervals import Z95, Estimate, difference, wilson
from pareto_amb.evaluation.neighbours import closest, most_similar

GU_RATIO = 1 / 3
"""Below this ratio of the distances to the nearest and second nearest training image: a copy."""


def nearest_neighbours(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """The most similar row of `bank` (N, D) for each row of `queries` (Q, D).

    Returns the cosine similarity, float32 (Q,) in [-1, 1], and the row number, int64 (Q,). Ties go
    to the lowest row number; a row of zeros has similarity 0 to everything.

    Raises ValueError when `bank` is empty, UserError for features that are not finite.
    """
    similarity, index = most_similar(queries, bank)
    return similarity[:, 0].float(), index[:, 0]


def mean_similarity(similarity: Tensor) -> Tensor:
    """The mean of each row of `similarity` (..., N), float64 (...); NaN where N is 0."""
    return similarity.double().mean(-1)


def similarity_p95(similarity: Tensor) -> Tensor:
    """The 95th percentile, interpolated, of each row of `similarity` (..., N), float64 (...).

    NaN where N is 0.
    """
    if similarity.shape[-1] == 0:
        return torch.full(similarity.shape[:-1], math.nan, dtype=torch.float64)
    return similarity.double().quantile(0.95, dim=-1)


def is_copy(similarity: Tensor, threshold: float) -> Tensor:
    """Which of `similarity`, of any shape, lie strictly above `threshold`: bool, compared in float64.

    The one rule for what a copy is: compared in float32, a threshold would first be rounded, and images
    next to it would be copies in one place and not in another.
    """
    return similarity.double() > threshold


# --- the threshold, and what is normal ------------------------------------------------------------


def calibrate_threshold(heldout_similarity: Tensor, quantile: float) -> float:
    """The similarity that a share 1 - `quantile` of real, unseen images exceeds.

    `heldout_similarity` (N,) is their similarity to the nearest training image. The threshold lies at
    place quantile·(N + 1) of the ordered similarities, above which a further image falls with
    probability 1 - quantile: the usual place, 1 + quantile·(N - 1), would let twice as many pass for
    N = 100. Too few images, N < quantile / (1 - quantile), give the highest similarity, which a share
    1 / (N + 1) exceeds. Raises ValueError when there are none.
    """
    if len(heldout_similarity) == 0:
        raise ValueError("no held-out images to calibrate the threshold on")
    return float(np.quantile(heldout_similarity.double().numpy(), quantile, method="weibull"))


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Above which similarities an image counts as a copy, and how similar real, unseen images are.

    `thresholds` is empty where none was given and none could be calibrated; `similarity` (M,), to the
    nearest training image, is that of the held-out images on which nothing was calibrated, empty without
    any.
    """

    thresholds: tuple[float, ...]
    similarity: Tensor
    calibrated: bool


def measure_yardstick(
    heldout: Tensor, train: Tensor, thresholds: tuple[float, ...] | None, quantile: float
) -> Yardstick:
    """The yardstick from features of held-out images (M, D), in random order, and of training images (N, D).

    Without `thresholds`, one is calibrated on every second held-out image, so that a share 1 - `quantile`
    of unseen images exceeds it, and the yardstick is measured on the others: on the images that made the
    threshold it would be true by construction. With thresholds it rests on all of them.

    Raises UserError, without a remedy, when one is to be calibrated and there are fewer than 4 held-out
    images or too many of them are copies.
    """
    similarity = nearest_neighbours(heldout, train)[0] if len(heldout) else torch.empty(0)
    if thresholds is not None:
        return Yardstick(thresholds, similarity, calibrated=False)
    if len(similarity) < 4:
        raise UserError(
            f"{len(similarity)} held-out images, at least 4 are needed to calibrate the threshold"
        )
    threshold = calibrate_threshold(similarity[0::2], quantile)
    if threshold > 1.0 - 1e-6:
        raise UserError(
            f"more than {1 - quantile:.1%} of the held-out images are copies of training images, so no "
            "threshold tells copies apart: remove duplicates from the data"
        )
    return Yardstick((threshold,), similarity[1::2], calibrated=True)


# --- shares of copies -----------------------------------------------------------------------------


def share_above(similarity: Tensor, threshold: float) -> float:
    """The share of `similarity` (N,) strictly above `threshold`; NaN when there are none."""
    return float(is_copy(similarity, threshold).double().mean())


def copy_share(similarity: Tensor, threshold: float) -> Estimate:
    """The share of `similarity` (N,) strictly above `threshold`, with its Wilson interval."""
    return wilson(share_above(similarity, threshold), len(similarity))


def excess_copy_rate(similarity: Tensor, heldout_similarity: Tensor, threshold: float) -> Estimate:
    """The copy share of generated images (N,) less that of real images never trained on (M,).

    Real images above the threshold are what chance and duplicates in the world make; the interval is
    that of a difference of two shares (Newcombe 1998, method 10). Unknown without held-out images.
    """
    return difference(copy_share(similarity, threshold), copy_share(heldout_similarity, threshold))


@dataclass(frozen=True)
class CopiedTraining:
    """Which training images were copied, and how often."""

    share: Estimate  # of the training images, copied at least once
    counts: Tensor  # (n_train,) int64: copies of each training image

    @property
    def most_copied(self) -> int:
        """The number of copies of the most copied training image."""
        return int(self.counts.max())


def copied_training_images(
    similarity: Tensor, neighbour: Tensor, threshold: float, n_train: int
) -> CopiedTraining:
    """Training images that are the nearest neighbour of at least one copy.

    `similarity` (N,) and `neighbour` (N,) are what `nearest_neighbours` returns.
    """
    counts = torch.bincount(neighbour[is_copy(similarity, threshold)], minlength=n_train)
    return CopiedTraining(wilson(int((counts > 0).sum()) / n_train, n_train), counts)


# --- other measures -------------------------------------------------------------------------------


def l2_ratio(generated: Tensor, train: Tensor) -> Tensor:
    """Distance to the nearest training image over that to the second nearest: float64 (N,) in [0, 1].

    Gu et al. 2023 count a generated image as a copy where this is below `GU_RATIO`. `generated`
    (N, D) and `train` (M, D) are pixels scaled to [-1, 1], which is what the encoder `pixels` gives.
    Where both distances are 0, the image being an exact copy of two equal training images, it is 0.

    Raises UserError for fewer than 2 training images.
    """
    if len(train) < 2:
        raise UserError("the l2 ratio needs at least 2 training images, got 1")
    distance, _ = closest(generated, train, 2)
    return distance[:, 0] / distance[:, 1].where(distance[:, 1] > 0, 1.0)


def l2_ratio_share(ratio: Tensor) -> Estimate:
    """The share of l2 ratios (N,) below 1/3, with its Wilson interval."""
    return wilson(float((ratio < GU_RATIO).double().mean()), len(ratio))


def authpct(generated: Tensor, train: Tensor) -> Estimate:
    """AuthPct, the share in [0, 1] of authentic images (Alaa et al. 2022), with its Wilson interval.

    An image is authentic when it lies farther from its nearest training image than that one lies
    from its own nearest neighbour among the training images. Euclidean distance between features
    `generated` (N, D) and `train` (M, D).

    Raises UserError for fewer than 2 training images.
    """
    if len(train) < 2:
        raise UserError("AuthPct needs at least 2 training images, got 1")
    distance, neighbour = closest(generated, train)
    spacing = closest(train, train, 2)[0][:, 1]
    authentic = distance[:, 0] > spacing[neighbour[:, 0]]
    return wilson(float(authentic.double().mean()), len(generated))


def c_t(generated: Tensor, heldout: Tensor, train: Tensor) -> Estimate:
    """C_T, the three-sample test for copying of Meehan et al. 2020, over the whole space (one cell).

    The z-score of the Mann-Whitney U of the distances generated -> nearest training image against
    held-out -> nearest training image, Euclidean between features (N, D), (M, D) and (T, D).
    Negative: generated images lie closer to the training images than unseen real ones do, so
    copying; below -1.96 by more than chance would. Positive: they lie farther away, underfitting.

    The interval is that of U's expectation (DeLong et al. 1988), in the same unit.

    Raises UserError for fewer than 2 generated or held-out images.
    """
    if min(len(generated), len(heldout)) < 2:
        raise UserError("C_T needs at least 2 generated and 2 held-out images")
    generated_distance = closest(generated, train)[0][:, 0]
    heldout_distance = closest(heldout, train)[0][:, 0]
    return _mann_whitney_z(generated_distance, heldout_distance)


def _mann_whitney_z(a: Tensor, b: Tensor) -> Estimate:
    """z-score of the Mann-Whitney U of `a` (N,) over `b` (M,), ties counting half."""
    n, m = len(a), len(b)
    a_above = _share_below(a, b)  # (N,) of b below each of a
    b_below = 1.0 - _share_below(b, a)  # (M,) of a above each of b
    area = float(a_above.mean())  # U / (n m)
    null = math.sqrt((n + m + 1) / (12 * n * m))
    spread = Z95 * math.sqrt(float(a_above.var()) / n + float(b_below.var()) / m)
    return Estimate((area - 0.5) / null, (area - spread - 0.5) / null, (area + spread - 0.5) / null)


def _share_below(values: Tensor, others: Tensor) -> Tensor:
    """For each of `values` (N,), the share of `others` (M,) below it, equal ones counting half."""
    ordered = others.sort().values
    below = torch.searchsorted(ordered, values)
    not_above = torch.searchsorted(ordered, values, right=True)
    return (below + not_above).double() / (2 * len(others))
