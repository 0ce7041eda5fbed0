"""The Fréchet distance between two sets of features (FID, when they are Inception-v3 features).

A covariance C is kept as a factor F with C = F Fᵀ. The term that makes FID slow and fragile, the
trace of (C₁C₂)^½, is then the sum of the singular values of F₁ᵀF₂: no matrix square root, no
complex numbers, and singular covariances (fewer images than features) need no special care.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import get_blas_funcs
from torch import Tensor

from pareto_amb.errors import UserError

# Below this ratio of the smallest to the largest squared singular value the eigenvalue route loses
# digits that show in the sum, and the slower singular value decomposition is taken.
_MIN_EIGENVALUE_RATIO = 1e-13

# The smallest squared to the largest squared pivot, likewise, below which a Cholesky factor loses digits.
_MIN_PIVOT_RATIO = 1e-10

# Likewise for the directions of the linear map between two Gaussians, in float32.
_MIN_TRANSPORT_RATIO = 1e-6

_BLOCK = 1024  # rows of features that are taken to float64 at once


@dataclass(frozen=True)
class GaussianStatistics:
    """Mean and covariance of n feature vectors of length D, float64.

    `mean` is (D,); `factor` is (D, K) with covariance = factor @ factor.T and K ≤ D. `n` is None where
    it is not known.
    """

    mean: Tensor
    factor: Tensor
    n: int | None

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
    values = features.detach().cpu()
    mean = torch.from_numpy(values.numpy().mean(0, dtype=np.float64))
    if not torch.isfinite(mean).all():
        raise UserError("the features hold NaN or infinity: the encoder's weights are not usable")
    if n - 1 <= dim:
        factor = _drop_the_mean_row(_centred(values, mean)).T.contiguous()
    else:
        factor = _factor_of_many(values, mean)
    return GaussianStatistics(mean, factor.div_((n - 1) ** 0.5), n)


def _centred(features: Tensor, mean: Tensor) -> Tensor:
    return features.to(torch.float64, copy=True).sub_(mean)


def _factor_of_many(features: Tensor, mean: Tensor) -> Tensor:
    """A factor (D, D) of the sum of the outer products of the N > D rows less their mean.

    The Cholesky factor where all its digits can be had from the sum; the triangle of a QR
    decomposition, which loses none, where directions are (nearly) constant.
    """
    dim = len(mean)
    products = np.zeros((dim, dim), order="F")
    for block in torch.split(features, _BLOCK):
        products = _add_gram(products, _centred(block, mean))
    factor = _cholesky(torch.from_numpy(products))
    if factor is not None:
        return factor
    triangle = torch.zeros((0, dim), dtype=torch.float64)
    for block in torch.split(features, max(_BLOCK, 2 * dim)):
        triangle = torch.linalg.qr(torch.cat([triangle, _centred(block, mean)]), mode="r")[1]
    return triangle.T.contiguous()


def _cholesky(covariance: Tensor) -> Tensor | None:
    """The Cholesky factor of a matrix (D, D), None where it would lose digits or there is none.

    Only the lower triangle of the matrix is read.
    """
    factor, failed = torch.linalg.cholesky_ex(covariance)
    pivots = factor.diagonal().square()
    lossless = not failed and bool(pivots.min() > _MIN_PIVOT_RATIO * pivots.max())
    return factor if lossless else None


def _gram(rows: Tensor) -> Tensor:
    """The lower triangle of rowsᵀ rows (D, D), which is all that eigh reads; half the work of a product."""
    dim = rows.shape[1]
    return torch.from_numpy(_add_gram(np.zeros((dim, dim), rows.numpy().dtype, order="F"), rows))


def _add_gram(total: NDArray[Any], rows: Tensor) -> NDArray[Any]:
    """`total` (D, D), in column order, with rowsᵀ rows added to its lower triangle in place."""
    array = rows.contiguous().numpy().T
    added: NDArray[Any] = get_blas_funcs("syrk", (total, array))(
        1.0, array, beta=1.0, c=total, lower=1, overwrite_c=1
    )
    return added


def gaussian_from_covariance(mean: Tensor, covariance: Tensor, n: int | None = None) -> GaussianStatistics:
    """Statistics from a mean (D,) and a covariance (D, D), which may be singular, of n images.

    Raises UserError when they are not a mean and a covariance of the same length.
    """
    mean, covariance = mean.to("cpu", torch.float64), covariance.to("cpu", torch.float64)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        shapes = f"{tuple(mean.shape)} and {tuple(covariance.shape)}"
        raise UserError(f"not a mean (D,) and a covariance (D, D): their shapes are {shapes}")
    if not (torch.isfinite(mean).all() and torch.isfinite(covariance).all()):
        raise UserError("the mean or the covariance holds NaN or infinity")
    allowed = 1e-6 * float(covariance.diagonal().abs().max())  # they may have been stored in float32
    if (covariance - covariance.T).abs().max() > allowed:
        raise UserError("the covariance is not symmetric")
    factor = _cholesky(covariance)
    if factor is None:
        values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
        if values[0] < -allowed:
            raise UserError("the covariance has negative eigenvalues")
        factor = vectors * values.clamp(min=0.0).sqrt()
    return GaussianStatistics(mean, factor, n)


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
    eigenvalues: Tensor = torch.linalg.eigvalsh(_gram(wide.T))  # ascending
    if eigenvalues[0] > _MIN_EIGENVALUE_RATIO * eigenvalues[-1]:
        return eigenvalues.sqrt().sum()
    singular: Tensor = torch.linalg.svdvals(wide)
    return singular.sum()


def frechet_influence(features: Tensor, a: GaussianStatistics, b: GaussianStatistics) -> Tensor:
    """How each row of `features` (N, D) pulls at frechet_distance(a, b): float32 (N,), mean 0.

    `a` is fitted to `features`. It is N times the derivative of the distance by the weight of a row:
    2 (μ₁ − μ₂)·(x − μ₁) + (x − μ₁)ᵀ (1 − T) (x − μ₁)·N/(N − 1) less its mean, where
    T = C₂^½ (C₂^½ C₁ C₂^½)^-½ C₂^½ is the linear map that takes the first Gaussian to the second.
    Good to three digits, which is enough for an interval.
    """
    factor = b.factor.float()
    squared, vectors = _squared_singular(a.factor.T.float() @ factor)
    kept = squared > _MIN_TRANSPORT_RATIO * squared.max()
    transport = factor @ (vectors[:, kept] * squared[kept] ** -0.25)
    shift = 2.0 * (a.mean - b.mean).float()
    mean, unbiased = a.mean.float(), len(features) / (len(features) - 1)
    parts = []
    for block in torch.split(features.cpu(), _BLOCK):
        centred = block.float() - mean
        pull = centred.square().sum(1) - (centred @ transport).square().sum(1)
        parts.append(unbiased * pull + centred @ shift)
    influence = torch.cat(parts)
    return influence - influence.mean()


def _squared_singular(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The squared singular values (K,) of `matrix` and its right singular vectors, as columns."""
    try:
        values, vectors = torch.linalg.eigh(_gram(matrix))
    except RuntimeError:  # it does not converge where many eigenvalues are equal: features that hardly vary
        _, singular, rows = torch.linalg.svd(matrix.double(), full_matrices=False)
        return singular.square().to(matrix.dtype), rows.T.to(matrix.dtype)
    return values, vectors


def frechet_standard_error(features: Tensor, a: GaussianStatistics, b: GaussianStatistics) -> float:
    """The standard deviation of frechet_distance(a, b) over sets of N images like `features` (N, D).

    That of the linearised distance (infinitesimal jackknife, Efron 1982): what a bootstrap estimates,
    without its draws, which repeat images, shrink the covariance and, with fewer images than features,
    spread the distance about twice too far. The distance's bias, which falls with 1/N, is not in it.
    """
    influence = frechet_influence(features, a, b)
    return math.sqrt(float(influence.square().mean()) / len(influence))
