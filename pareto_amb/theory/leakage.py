"""How much samples tell of the training points that they were made from, in nats (Lemmas 4.2 and C.1).

The training points are independent draws x_0 ~ N(mu, Sigma). A draw at noise level sigma (EDM units) is
x_0 + sigma * eps. In the paper's units it is sqrt(1 - s^2) x_0 + s eps; both have the signal-to-noise ratio
rho = 1 / sigma^2 = (1 - s^2) / s^2, on which alone the mutual information depends.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from pareto_amb.errors import UserError


def leakage(covariance: ArrayLike, sigma: ArrayLike, draws: int = 1) -> NDArray[np.float64]:
    """I(x_0; `draws` noisy draws of it), in nats: 1/2 log det(I + draws * Sigma / sigma^2) (Lemma 4.2).

    The draws are independent given x_0 alone, and together tell what their mean tells: one draw at the level
    sigma / sqrt(draws). With one draw and sigma = sigma_tn this bounds all that any number of samples of
    Algorithm 1 tells of x_0 above sigma_tn, since they are made from the one noisy copy.

    `covariance` is Sigma, (d, d), or its eigenvalues (k,), those that are 0 left out; the result has the
    shape of `sigma`. Whatever x_0 is drawn from, as long as Sigma is its covariance, this is an upper bound:
    at a given covariance the Gaussian is what a noisy draw tells most of.

    Raises UserError for a matrix that is no covariance, a level that is not above 0, or `draws` below 0.
    """
    variances = _variances(covariance)
    return _leakage(variances, _levels(sigma), np.array([_count(draws, "draws", 0)]))[..., 0]


def leakage_bound(covariance: ArrayLike, sigma: ArrayLike, draws: int) -> NDArray[np.float64]:
    """The paper's figure for `draws` draws of DDPM, in nats: `draws` times that of one (Lemma 4.2).

    It would be exact for draws that are independent without x_0 being given; here it is an upper bound of
    `leakage`, and exact for one draw. It bounds the leakage of a whole training set as well (Lemma C.1).
    Shapes and errors are those of `leakage`.
    """
    return _count(draws, "draws", 0) * leakage(covariance, sigma)


def set_leakage(
    covariance: ArrayLike, sigma: ArrayLike, n_points: int, draws: int | None = None
) -> NDArray[np.float64]:
    """The most that samples tell of a whole training set of `n_points` points, in nats (Lemma C.1).

    Without `draws`: of Algorithm 1, however many samples are drawn. They are made from S_tn, which tells
    n_points * leakage(Sigma, sigma_tn) in all.

    With `draws`: of so many draws of DDPM at level sigma, each x_j + sigma * eps of a training point x_j that
    is chosen anew. Exact for somebody who is told which point each draw was made from: point j occurs
    B ~ Binomial(draws, 1 / n_points) times, so that it is n_points * E[leakage(Sigma, sigma, B)]. Who is not
    told learns no more.

    Shapes and errors are those of `leakage`; UserError also for `n_points` below 1.
    """
    variances, levels = _variances(covariance), _levels(sigma)
    _count(n_points, "n_points", 1)
    if draws is None:
        return n_points * _leakage(variances, levels, np.array([1]))[..., 0]
    times = binom(_count(draws, "draws", 0), 1 / n_points)
    counts = np.arange(times.ppf(1e-15), times.isf(1e-15) + 1).clip(0)
    return np.asarray(n_points * (_leakage(variances, levels, counts) @ times.pmf(counts)))


def spectrum(points: ArrayLike) -> NDArray[np.float64]:
    """The eigenvalues of the covariance of `points` (M, d): (min(M, d),), rising; all others are 0.

    Raises UserError for fewer than 2 points, or what is not finite.
    """
    rows = np.asarray(points, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 2 or not np.isfinite(rows).all():
        raise UserError(f"points: at least 2 rows of finite numbers are needed, not {rows.shape}")
    rows = rows - rows.mean(axis=0)
    products = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    return np.linalg.eigvalsh(products / (len(rows) - 1)).clip(min=0)


def _leakage(
    variances: NDArray[np.float64], levels: NDArray[np.float64], draws: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Nats for each level and number of draws: (*levels.shape, len(draws))."""
    ratio = draws / levels[..., None] ** 2
    total = np.zeros_like(ratio)
    for variance in variances:
        total += np.log1p(ratio * variance) / 2
    return total


def _variances(covariance: ArrayLike) -> NDArray[np.float64]:
    """The eigenvalues of a covariance (d, d), or they themselves (k,), none below 0."""
    matrix = np.asarray(covariance, dtype=np.float64)
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
    if not (square or matrix.ndim == 1) or not np.isfinite(matrix).all():
        raise UserError(f"covariance: a square matrix of finite numbers is needed, not {matrix.shape}")
    if square and not np.allclose(matrix, matrix.T):
        raise UserError("covariance: the matrix is not symmetric; give that of np.cov")
    variances = np.linalg.eigvalsh(matrix) if square else matrix
    if variances.min(initial=0) < -1e-8 * np.abs(variances).max(initial=0):
        raise UserError(f"covariance: it has the negative variance {variances.min():.3g}")
    return variances.clip(min=0)


def _levels(sigma: ArrayLike) -> NDArray[np.float64]:
    levels = np.asarray(sigma, dtype=np.float64)
    if not (levels > 0).all():
        raise UserError("sigma: noise levels must be above 0: without noise a draw is the training point")
    return levels


def _count(value: int, name: str, least: int) -> int:
    if value < least:
        raise UserError(f"{name}: {value} is below {least}")
    return value
