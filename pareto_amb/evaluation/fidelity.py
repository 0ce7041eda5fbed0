"""How well generated images match real ones: Fréchet and kernel distance, precision and coverage.

Every function takes features (N, D), one row an image, and reads them in blocks. All intervals are
95% and say how much a value would move with other images drawn in the same way.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pareto_amb.errors import UserError
from pareto_amb.evaluation.frechet import (
    GaussianStatistics,
    fit_gaussian,
    frechet_distance,
    frechet_influence,
)
from pareto_amb.evaluation.intervals import UNKNOWN, Z95, Estimate, bootstrap, wilson
from pareto_amb.evaluation.likeness import Likeness
from pareto_amb.evaluation.neighbours import block_rows, closest
from pareto_amb.randomness import make_generator

PRECISION_K = 3
"""Neighbours that make the balls of precision and recall (Kynkäänniemi et al. 2019)."""
COVERAGE_K = 5
"""Neighbours that make the balls of density and coverage (Naeem et al. 2020)."""
FID_INFINITY_RATIO = 5
"""Images a feature dimension that FID∞ needs."""
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000

_ROUNDING = 1e-6  # error of a float32 squared distance, on the scale of the squared lengths


def fid(generated: Tensor, reference: GaussianStatistics) -> Estimate:
    """The Fréchet distance of `generated` (N, D) from `reference`, in squared units of the features.

    Resampling with replacement repeats images, which shrinks the covariance and moves every
    bootstrap value upwards. The interval is therefore not a percentile interval: it is the
    full-sample value plus and minus 1.96 standard errors, the spread of the bootstrap of the
    linearised distance (infinitesimal jackknife), which needs no resampling. It tells how the value
    varies between sets of N generated images; the bias of the value, which falls with 1/N, is not in
    it (`fid_infinity`), nor is the choice of the reference images.
    """
    statistics = fit_gaussian(generated)
    value = frechet_distance(statistics, reference)
    influence = frechet_influence(generated, statistics, reference)
    spread = Z95 * float(influence.square().mean() / len(influence)) ** 0.5
    return Estimate(value, max(value - spread, 0.0), value + spread)


def fid_infinity(generated: Tensor, reference: GaussianStatistics, seed: int = 0) -> Estimate:
    """FID∞, the Fréchet distance extrapolated to infinitely many images (Chong & Forsyth 2020).

    The bias of the distance is nearly linear in 1/N: it is twice as large for half the images. So the
    distances of two random halves of the images (N, D) are averaged, and the line through that and
    the distance of all of them is drawn on to 1/N = 0. Every image being in one of the halves, the
    line follows the bias and not the luck of a subset, and the interval of the distance holds for
    FID∞ as well. It may be slightly negative.

    Unknown for fewer than 5·D images, where the bias is no longer linear.
    """
    n, dim = generated.shape
    if n < FID_INFINITY_RATIO * dim:
        return UNKNOWN
    full = fid(generated, reference)
    order = torch.randperm(n, generator=make_generator(seed, "fid_infinity"))
    halves = [frechet_distance(fit_gaussian(generated[rows]), reference) for rows in order.chunk(2)]
    value = 2.0 * full.value - sum(halves) / 2
    spread = full.high - full.value
    return Estimate(value, value - spread, value + spread)


def kernel_distance(generated: Tensor, real: Tensor, seed: int = 2020) -> Estimate:
    """The squared maximum mean discrepancy with the kernel (x·y/D + 1)³ (KID, Bińkowski et al. 2018).

    The mean of the unbiased estimate over 100 pairs of random subsets of 1,000 images, or of half the
    smaller set where that has fewer than 2,000; torch-fidelity draws them and computes it. Can be
    slightly negative when the sets are alike. `generated` is (N, D), `real` (M, D).

    Raises UserError for fewer than 4 images on a side.
    """
    from torch_fidelity.metric_kid import kid_features_to_metric

    smaller = min(len(generated), len(real))
    if smaller < 4:
        raise UserError(f"a kernel distance needs at least 4 images on each side, got {smaller}")
    size = min(KID_SUBSET_SIZE, smaller // 2)
    found = kid_features_to_metric(
        generated.float(), real.float(), kid_subsets=KID_SUBSETS, kid_subset_size=size,
        rng_seed=seed, verbose=False,
    )  # fmt: skip
    value = found["kernel_inception_distance_mean"]
    if not math.isfinite(value):
        raise UserError("the features hold NaN or infinity: the encoder's weights are not usable")
    variance = found["kernel_inception_distance_std"] ** 2
    spread = Z95 * math.sqrt(variance * (size / (smaller - size) + 1 / KID_SUBSETS))
    return Estimate(value, value - spread, value + spread)


@dataclass(frozen=True)
class PRDC:
    """Precision, recall and coverage are shares in [0, 1]; density is unbounded, about 1 when equal."""

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def prdc(generated: Tensor, real: Tensor) -> PRDC:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    A set's manifold is the union of closed balls, one around each image, that reach to its k-th
    nearest neighbour in its own set (Euclidean; k = 3 for the first two, k = 5 for the others).
    Precision: share of `generated` (N, D) in the manifold of `real` (M, D). Recall: share of `real`
    in the manifold of `generated`. Density: balls of `real` around a generated image, in units of k.
    Coverage: share of the balls of `real` that hold a generated image.

    Raises UserError for fewer than 6 real or 4 generated images.
    """
    if len(real) <= COVERAGE_K or len(generated) <= PRECISION_K:
        raise UserError(
            f"precision and coverage need at least {COVERAGE_K + 1} real and {PRECISION_K + 1} generated "
            f"images, got {len(real)} and {len(generated)}"
        )
    radii = closest(real, real, COVERAGE_K + 1)[0].square().float()  # the nearest is the image itself
    generated_radii = closest(generated, generated, PRECISION_K + 1)[0].square().float()
    found = _balls(generated, real, generated_radii[:, -1], radii[:, PRECISION_K], radii[:, COVERAGE_K])
    precise, around, recalled, covered = found
    return PRDC(
        precision=_share(precise),
        recall=_share(recalled),
        density=bootstrap(around / COVERAGE_K, lambda values: values.mean(1)),
        coverage=_share(covered),
    )


def like_for_like(generated: Tensor, heldout: Tensor, seed: int = 0) -> Likeness | None:
    """Generated (N, D) and held-out images (M, D), as many of each, against the other half of the latter.

    Every second held-out image is the reference. Of the generated ones and of the other held-out ones the
    same number is drawn at random. None where there are too few.
    """
    reference, unseen = heldout[0::2], heldout[1::2]
    count = min(len(generated), len(unseen))
    if len(reference) <= COVERAGE_K or count <= PRECISION_K:
        return None
    statistics = fit_gaussian(reference)
    ours, theirs = (
        {"fid": fid(drawn, statistics), **vars(prdc(drawn, reference))}
        for drawn in (draw(generated, count, seed), draw(unseen, count, seed))
    )
    return Likeness(count, len(reference), ours, theirs)


def draw(rows: Tensor, count: int, seed: int) -> Tensor:
    """At most `count` of `rows` (N, ...), at random without repeats."""
    if len(rows) <= count:
        return rows
    return rows[torch.randperm(len(rows), generator=make_generator(seed, "draw"))[:count]]


def _share(which: Tensor) -> Estimate:
    return wilson(int(which.sum()) / len(which), len(which))


def _balls(
    generated: Tensor, real: Tensor, generated_radii: Tensor, narrow: Tensor, wide: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which images lie in which balls; radii are squared.

    Returns: generated images (N,) in a `narrow` ball of `real`; number of `wide` balls around each,
    float32; real images (M,) in a ball of `generated`; real images whose `wide` ball holds one.
    """
    n, m = len(generated), len(real)
    precise, around = torch.zeros(n, dtype=torch.bool), torch.zeros(n)
    recalled, covered = torch.zeros(m, dtype=torch.bool), torch.zeros(m, dtype=torch.bool)
    mean = real.mean(0)
    step = block_rows(real.shape[1])
    for j in range(0, m, step):
        others = slice(j, j + step)
        centred = (real[others] - mean).float()
        for i in range(0, n, step):
            some = slice(i, i + step)
            squared = _squared_distances((generated[some] - mean).float(), centred)
            precise[some] |= (squared <= narrow[others]).any(1)
            recalled[others] |= (squared <= generated_radii[some, None]).any(0)
            inside = squared <= wide[others]
            covered[others] |= inside.any(0)
            around[some] += inside.float().sum(1)
    return precise, around, recalled, covered


def _squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """Squared distances (N, M) of rows (N, D) and (M, D), float32, less what rounding may add.

    So an image on the edge of a ball counts as inside.
    """
    a, b = one.square().sum(1), other.square().sum(1)
    product = torch.addmm((1 - _ROUNDING) * b, one, other.T, alpha=-2.0)
    return product.add_((1 - _ROUNDING) * a[:, None])
