"""The kernel of the Gaussian processes, and functions drawn from the posterior of one."""

import itertools

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

from pareto_amb.search.extrapolation import Array
from pareto_amb.search.one_thread import one_thread

LENGTHS = (0.1, 0.2, 0.4, 0.8)
"""Length scales to choose from for a range of the unit interval."""
AMPLITUDES = (0.3, 0.6, 1.2, 2.4)
"""Standard deviations of the function to choose from, in units of the spread that was seen."""
LEVEL = 3.0
"""Standard deviation of the level that the function varies around, in units of the spread that was seen."""
_MAX_SEPARATE_LENGTHS = 3  # parameters; more of them share one length scale: the grid stays small
_JITTER = 1e-8


def squared_exponential(a: Array, b: Array, lengths: Array) -> Array:
    """The kernel between the rows of `a` (n, d) and of `b` (m, d), a length scale a column (d,): (n, m)."""
    kernel: Array = np.exp(-0.5 * (((a[:, None] - b[None]) / lengths) ** 2).sum(-1))
    return kernel


def length_prior(lengths: tuple[float, ...]) -> float:
    """The logarithm of the prior of length scales, up to a constant: log-normal around 0.4."""
    return float(-0.25 * sum(np.log(length / 0.4) ** 2 for length in lengths))


@one_thread()
def draw_functions(
    x: Array, y: Array, noise: Array, at: Array, n_draws: int, rng: np.random.Generator, spread: float
) -> Array:
    """Functions that `y` (n,), measured at `x` (n, d) with standard deviations `noise` (n,), leave possible.

    Returns their values at the rows of `at` (g, d), jointly drawn and without noise: (n_draws, g). Places lie
    in the unit cube. The kernel and the prior of its length scales are those of `ehvi.GaussianProcess`; here
    they are not chosen but drawn by their posterior, with the amplitude, so that few points leave them as
    open as they are. `spread` is the scale of the functions, which a single point does not show.
    """
    mean, unit = y.mean(), max(spread, 1e-12)
    z, sd = (y - mean) / unit, noise / unit
    fits = [_Fit(x, z, sd, *setting) for setting in _settings(x.shape[1])]
    evidence = np.array([fit.evidence for fit in fits])
    weights = np.exp(evidence - evidence.max())
    counts = rng.multinomial(n_draws, weights / weights.sum())
    drawn = [fit.draw(at, int(count), rng) for fit, count in zip(fits, counts, strict=True) if count]
    return np.asarray(rng.permutation(np.concatenate(drawn)) * unit + mean)


def _settings(d: int) -> list[tuple[Array, float]]:
    """Length scales (d,) and amplitude."""
    separate = d <= _MAX_SEPARATE_LENGTHS
    lengths = itertools.product(LENGTHS, repeat=d) if separate else ((length,) * d for length in LENGTHS)
    return [(np.array(scales), amplitude) for scales, amplitude in itertools.product(lengths, AMPLITUDES)]


class _Fit:
    """The posterior for one setting of the kernel."""

    def __init__(self, x: Array, z: Array, sd: Array, lengths: Array, amplitude: float) -> None:
        self._x, self._lengths, self._amplitude = x, lengths, amplitude
        covariance = self._kernel(x, x) + np.diag(sd**2 + _JITTER)
        self._factor = np.linalg.cholesky(covariance)
        self._weights = cho_solve((self._factor, True), z)
        self.evidence = float(
            -0.5 * z @ self._weights
            - np.log(np.diag(self._factor)).sum()
            + length_prior(tuple(lengths.tolist()))
            - 0.5 * np.log(amplitude) ** 2
        )

    def _kernel(self, a: Array, b: Array) -> Array:
        return self._amplitude**2 * squared_exponential(a, b, self._lengths) + LEVEL**2

    def draw(self, at: Array, count: int, rng: np.random.Generator) -> Array:
        cross = self._kernel(at, self._x)
        explained = solve_triangular(self._factor, cross.T, lower=True)
        covariance = self._kernel(at, at) - explained.T @ explained
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        return np.asarray(cross @ self._weights + rng.standard_normal((count, len(at))) @ root.T)
