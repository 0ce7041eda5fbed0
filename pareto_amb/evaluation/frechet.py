"""The Fréchet distance between two sets of features (FID, when they are Inception-v3 features).

A covariance C is kept as a factor F with C = F Fᵀ. The term that makes FID slow and fragile, the
trace of (C₁C₂)^½, is then the sum of the singular values of F₁ᵀF₂: no matrix square root, no
complex numbers, and singular covariances (fewer images than features) need no special care.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pareto_amb.errors import UserError

# Below this ratio of the smallest to the largest squared singular value the eigenvalue route loses
# digits that show in the sum, and the slower singular value decomposition is taken.
_MIN_EIGENVALUE_RATIO = 1e-13


@dataclass(frozen=True)
class GaussianStatistics:
    """Mean and covariance of n feature vectors of length D, float64.

    `mean` is (D,); `factor` is (D, K) with covariance = factor @ factor.T and K = min(D, n - 1).
    """

    mean: Tensor
    factor: Tensor
    n: int

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (D, D)."""
        return self.factor @ self.factor.T


def fit_gaussian(features: Tensor) -> GaussianStatistics:
    """Mean and unbiased covariance of `features` (N, D).

    Raises UserError for fewer than 2 rows or a value that is not finite.
    """
    n, dim = features.shape
    if n < 2:
        raise UserError(f"a Fréchet distance needs at least 2 images on each side, got {n}")
    values = features.detach().to("cpu", torch.float64)
    if not torch.isfinite(values).all():
        raise UserError("the features hold NaN or infinity: the encoder's weights are not usable")
    mean = values.mean(0)
    centred = (values - mean) / (n - 1) ** 0.5
    rows = _drop_the_mean_row(centred) if n - 1 <= dim else torch.linalg.qr(centred, mode="r")[1]
    return GaussianStatistics(mean, rows.T.contiguous(), n)


def _drop_the_mean_row(centred: Tensor) -> Tensor:
    """(N - 1, D) rows with the Gram matrix of the (N, D) rows given, whose columns sum to zero.

    A Householder reflection takes the direction (1, ..., 1) to the first axis; the first row of the
    result is then the columns' sum, zero, and is left out.
    """
    n = len(centred)
    direction = torch.full((n,), n**-0.5, dtype=centred.dtype)
    direction[0] += 1.0
    direction /= direction.norm()
    reflected = centred - 2.0 * torch.outer(direction, direction @ centred)
    return reflected[1:]


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """‖μ₁ − μ₂‖² + tr C₁ + tr C₂ − 2 tr (C₁C₂)^½, never negative.

    Raises ValueError when the two have different feature lengths.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of length {len(a.mean)} and {len(b.mean)} cannot be compared")
    between_means = (a.mean - b.mean).square().sum()
    traces = a.factor.square().sum() + b.factor.square().sum()
    distance = between_means + traces - 2.0 * _nuclear_norm(a.factor.T @ b.factor)
    return max(float(distance), 0.0)


def _nuclear_norm(matrix: Tensor) -> Tensor:
    """The sum of the singular values of `matrix` (K1, K2), from its smaller Gram matrix."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    eigenvalues: Tensor = torch.linalg.eigvalsh(wide @ wide.T)  # ascending
    if eigenvalues[0] > _MIN_EIGENVALUE_RATIO * eigenvalues[-1]:
        return eigenvalues.sqrt().sum()
    singular: Tensor = torch.linalg.svdvals(wide)
    return singular.sum()


def frechet_influence(features: Tensor, a: GaussianStatistics, b: GaussianStatistics) -> Tensor:
    """How each row of `features` (N, D) pulls at frechet_distance(a, b), float64 (N,), mean 0.

    `a` is fitted to `features`. It is N times the derivative of the distance by the weight of a row:
    2 (μ₁ − μ₂)·(x − μ₁) + (x − μ₁)ᵀ (1 − T) (x − μ₁) less its mean, where T = C₂^½ (C₂^½ C₁ C₂^½)^-½ C₂^½
    is the linear map that takes the first Gaussian to the second.
    """
    product = a.factor.T @ b.factor
    wide = product if product.shape[0] <= product.shape[1] else product.T
    squared, vectors = torch.linalg.eigh(wide @ wide.T)
    kept = squared > _MIN_EIGENVALUE_RATIO * squared[-1]
    squared, vectors = squared[kept], vectors[:, kept]
    right = wide.T @ (vectors * squared**-0.5) if wide is product else vectors
    transport = b.factor @ (right * squared**-0.25)
    shift = 2.0 * (a.mean - b.mean)
    parts = []
    for block in torch.split(features, 4096):
        centred = block.double() - a.mean
        parts.append(centred @ shift + centred.square().sum(1) - (centred @ transport).square().sum(1))
    influence = torch.cat(parts)
    return influence - influence.mean()


def frechet_standard_error(features: Tensor, a: GaussianStatistics, b: GaussianStatistics) -> float:
    """The standard deviation of frechet_distance(a, b) over sets of N images like `features` (N, D).

    That of the linearised distance (infinitesimal jackknife, Efron 1982): what a bootstrap estimates,
    without its draws, which repeat images, shrink the covariance and, with fewer images than features,
    spread the distance about twice too far. The distance's bias, which falls with 1/N, is not in it.
    """
    influence = frechet_influence(features, a, b)
    return math.sqrt(float(influence.square().mean()) / len(influence))
