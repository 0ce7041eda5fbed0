"""How well generated images match real ones: Fréchet and kernel distance, precision and coverage.

Every function takes features (N, D), one row an image, and reads them in blocks. All intervals are
95% and say how much a value would move with other images drawn in the same way.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pareto_amb.errors import UserError
from pareto_amb.evaluation.frechet import (
    GaussianStatistics,
    fit_gaussian,
    frechet_distance,
    frechet_influence,
)
from pareto_amb.evaluation.intervals import Z95, Estimate, bootstrap, wilson
from pareto_amb.evaluation.neighbours import BLOCK, closest
from pareto_amb.randomness import make_generator

PRECISION_K = 3
"""Neighbours that make the balls of precision and recall (Kynkäänniemi et al. 2019)."""
COVERAGE_K = 5
"""Neighbours that make the balls of density and coverage (Naeem et al. 2020)."""
FID_INFINITY_PARTS = (1, 2, 3, 4, 5)
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000

_ROUNDING = 1e-6  # of a float32 squared distance, on the scale of the squared lengths


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

    The distance is nearly linear in 1/N. The images are dealt at random into 1, 2, 3, 4 and 5 equal
    parts, the distances of the parts averaged, and a line through the five averages drawn on to
    1/N = 0.
    """
    order = torch.randperm(len(generated), generator=make_generator(seed, "fid_infinity"))
    inverse_sizes, distances = [], []
    for parts in FID_INFINITY_PARTS:
        size = len(generated) // parts
        some = [order[i * size : (i + 1) * size] for i in range(parts)]
        found = [frechet_distance(fit_gaussian(generated[rows]), reference) for rows in some]
        inverse_sizes.append(1 / size)
        distances.append(sum(found) / parts)
    value = float(np.polynomial.Polynomial.fit(inverse_sizes, distances, 1)(0.0))
    full = fid(generated, reference)
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
    n, m = len(generated), len(real)
    radii = closest(real, real, COVERAGE_K + 1)[0].square()
    narrow, wide = radii[:, PRECISION_K], radii[:, COVERAGE_K]
    generated_radii = closest(generated, generated, PRECISION_K + 1)[0][:, -1].square()
    mean = real.mean(0, dtype=torch.float64)
    precise, around = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.int64)
    recalled, covered = torch.zeros(m, dtype=torch.bool), torch.zeros(m, dtype=torch.bool)
    for i in range(0, n, BLOCK):
        for j in range(0, m, BLOCK):
            some, others = slice(i, i + BLOCK), slice(j, j + BLOCK)
            excess = _squared_distances(generated[some].double() - mean, real[others].double() - mean)
            precise[some] |= (excess <= narrow[others].float()).any(1)
            inside = excess <= wide[others].float()
            around[some] += inside.sum(1)
            covered[others] |= inside.any(0)
            recalled[others] |= (excess <= generated_radii[some, None].float()).any(0)
    return PRDC(
        precision=wilson(int(precise.sum()) / n, n),
        recall=wilson(int(recalled.sum()) / m, m),
        density=bootstrap(around / COVERAGE_K, lambda values: values.mean(1)),
        coverage=wilson(int(covered.sum()) / m, m),
    )


def _squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """Squared distances (N, M) of rows (N, D) and (M, D), float32, less their rounding error.

    A distance that rounding alone would put outside a ball counts as inside it.
    """
    a, b = one.square().sum(1).float(), other.square().sum(1).float()
    product = torch.addmm(b, one.float(), other.float().T, alpha=-2.0).add_(a[:, None])
    return product.sub_(_ROUNDING * (a[:, None] + b))
