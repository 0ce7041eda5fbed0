"""How noise makes subpopulations one, and what then is rare (Lemmas 4.5, A.4 to A.6).

Subpopulation k is N(mu_k, variance * I). With noise of level sigma (EDM units) it is
N(mu_k, (variance + sigma^2) I). Two that have come close in total variation no longer are two.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.special import erf, erfinv

from pareto_amb.errors import UserError
from pareto_amb.theory.frequencies import tau, weight

_ROUNDING = 1e-9
"""Frequencies that are sums may miss the ends of the heavy tail by so much."""


def total_variation(distance: ArrayLike, sigma: ArrayLike, variance: float = 1.0) -> NDArray[np.float64]:
    """The total variation, 0 to 1, of two subpopulations at noise level `sigma`, exactly (Lemma 4.5).

    2 Phi(distance / (2 sqrt(variance + sigma^2))) - 1, where `distance` >= 0 is that of their means. At unit
    variance this is the paper's 2 Phi(sqrt(1 - s^2) distance / 2) - 1, s being sigma in its units. The
    arguments broadcast.

    Raises UserError for a negative variance, or one of 0 without noise.
    """
    spread = _spread(sigma, variance)
    return np.asarray(erf(np.asarray(distance) / (np.sqrt(8) * spread)))


def merging_level(distance: ArrayLike, epsilon: float, variance: float = 1.0) -> NDArray[np.float64]:
    """The least noise level at which two subpopulations are within `epsilon` of total variation.

    sqrt(max(0, (distance / 2q)^2 - variance)) with 2 Phi(q) - 1 = epsilon; `distance` is that of their means.

    Raises UserError for a negative variance, or an `epsilon` outside 0 to 1.
    """
    _spread(1.0, variance)
    half = np.asarray(distance, dtype=np.float64) / _furthest(epsilon)
    return np.asarray(np.sqrt(np.maximum(half**2 - variance, 0)))


@dataclass(frozen=True, eq=False)
class Subpopulations:
    """Subpopulations of one spread: `means` (K, d), `frequencies` (K,) of sum 1, `variance` per dimension."""

    means: NDArray[np.float64]
    frequencies: NDArray[np.float64]
    variance: float


def subpopulations(features: ArrayLike, labels: ArrayLike) -> Subpopulations:
    """The subpopulations of examples with labels.

    `features` is (M, d), pixels or an encoder's; `labels` (M,), any values that can be sorted. The variance
    is that around the means, pooled, divided by M - K; 0 where every example is a subpopulation of its own.

    Raises UserError where features and labels do not fit together or are not finite.
    """
    points, given = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if points.ndim != 2 or not points.size or given.shape != points.shape[:1]:
        raise UserError(f"labels: one per row of features is needed; got {given.shape} and {points.shape}")
    if not np.isfinite(points).all():
        raise UserError("features: numbers are missing or infinite")
    _, which, counts = np.unique(given, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), points.shape[1]))
    np.add.at(means, which, points)
    means /= counts[:, None]
    free = (len(points) - len(counts)) * points.shape[1]
    variance = float(np.square(points - means[which]).sum() / free) if free else 0.0
    return Subpopulations(means, counts / len(points), variance)


def cluster(features: ArrayLike, min_cluster_size: int = 5) -> NDArray[np.int64]:
    """Labels by HDBSCAN for examples that have none: (M,), from 0 on.

    `features` is (M, d). What HDBSCAN leaves in no cluster is a subpopulation of its own: it is the rare
    points that the theory is about. Needs memory for all pairs of the M examples.

    Raises UserError with fewer examples than a cluster needs, or a `min_cluster_size` below 2.
    """
    from sklearn.cluster import HDBSCAN

    points = np.asarray(features, dtype=np.float64)
    if not 2 <= min_cluster_size <= len(points):
        raise UserError(
            f"min_cluster_size: {min_cluster_size} does not fit {len(points)} examples; choose from 2 to that"
        )
    tree = HDBSCAN(min_cluster_size=min_cluster_size, metric="precomputed", copy=False)
    labels = tree.fit_predict(_distances(points)).astype(np.int64)
    alone = labels < 0
    labels[alone] = labels.max() + 1 + np.arange(alone.sum())
    return np.asarray(labels)


@dataclass(frozen=True, eq=False)
class MergingCurve:
    """What is left of the subpopulations at each of `sigma` (S,), EDM units; every field is (S,).

    `number` counts them, `heavy_tail` is the weight of the frequencies 1/2n to 1/n, and `tau_1` the expected
    frequency of one that is seen once: NaN where none can be.
    """

    sigma: NDArray[np.float64]
    number: NDArray[np.int64]
    heavy_tail: NDArray[np.float64]
    tau_1: NDArray[np.float64]


def merging_curve(found: Subpopulations, sigma: ArrayLike, n: int, epsilon: float) -> MergingCurve:
    """Merge what is within `epsilon` of total variation at each noise level, for `n` training points.

    Pairs within `epsilon` merge, and so do those that a chain of such pairs joins; frequencies add. Needs
    memory for all pairs of the K means.

    Raises UserError for levels below 0, all of no variance, `n` below 1 or an `epsilon` outside 0 to 1.
    """
    levels = np.atleast_1d(np.asarray(sigma, dtype=np.float64))
    if n < 1:
        raise UserError(f"n: {n} training points are too few")
    reach = _furthest(epsilon) * _spread(levels, found.variance)
    pairs = squareform(_distances(found.means), checks=False)
    chains = linkage(pairs, "single") if len(found.means) > 1 else None
    rows = []
    for distance in reach:
        joined = [0] if chains is None else fcluster(chains, distance, "distance") - 1
        added = np.bincount(joined, weights=found.frequencies)
        merged = added / added.sum()
        tail = weight(merged, (1 - _ROUNDING) / (2 * n), (1 + _ROUNDING) / n)
        rows.append((len(merged), tail, tau(merged, n)))
    number, heavy_tail, tau_1 = (np.array(column) for column in zip(*rows, strict=True))
    return MergingCurve(levels, number, heavy_tail, tau_1)


def _distances(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The distances between all rows of (M, d): (M, M). By one matrix product: quick for many pixels.

    Squares are rounded to 1e-12 of the largest norm's, so that equal distances stay equal on any machine.
    """
    rows = points - points.mean(axis=0)
    norms = np.square(rows).sum(axis=1)
    squares = norms[:, None] + norms - 2 * rows @ rows.T
    unit = float(norms.max()) or 1.0
    return np.asarray(np.sqrt(np.round(squares / unit, 12).clip(min=0.0) * unit))


def _furthest(epsilon: float) -> float:
    """Two means at this many standard deviations have the total variation `epsilon`."""
    if not 0 < epsilon < 1:
        raise UserError(f"epsilon: {epsilon} is no total variation between 0 and 1")
    return float(np.sqrt(8) * erfinv(epsilon))


def _spread(sigma: ArrayLike, variance: float) -> NDArray[np.float64]:
    """The standard deviation of subpopulations at noise level `sigma`."""
    levels = np.asarray(sigma, dtype=np.float64)
    if not variance >= 0 or not (levels >= 0).all() or not (variance + levels**2 > 0).all():
        raise UserError(f"variance: {variance:g} and the noise level must not be negative, nor both 0")
    return np.sqrt(variance + levels**2)
