"""What trainings from scratch will show, from what cheaper, biased ones have shown.

Linear autoregressive co-kriging (Kennedy and O'Hagan 2000): high(x) = rho * low(x) + delta(x). The prior is
that the cheap figures are the true ones, rho 1 and delta 0, and few points that have both move it little.
"""

import numpy as np

from pareto_amb.search.extrapolation import Array
from pareto_amb.search.one_thread import one_thread
from pareto_amb.search.surrogate import squared_exponential

LEVEL, SLOPE, LOCAL, NOISE = 1.0, 0.5, 0.5, 0.3
"""Prior standard deviations, in units of the spread of the cheap figures.

Of the level of delta, of rho, of how delta varies over the parameters, and of what another seed changes.
"""
LENGTH = 0.4
"""Length scale of delta over the parameters, each on the unit interval."""


def co_kriging(x: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """What trainings at the rows of `x` (n, d) have from scratch: mean and one standard error (n, R, m) each.

    `low` and `high` (n, R, m) are the cheap and the true figures at R stopping points, NaN where there are
    none; each stopping point and each of the m figures is a problem of its own. NaN where `low` is.
    """
    mean, error = np.full_like(low, np.nan), np.full_like(low, np.nan)
    for rung, figure in np.ndindex(low.shape[1:]):
        known = np.isfinite(low[:, rung, figure])
        if known.any():
            found = _co_kriging(x[known], low[known, rung, figure], high[known, rung, figure])
            mean[known, rung, figure], error[known, rung, figure] = found
    return mean, error


@one_thread()
def _co_kriging(x: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """The same of one figure (n,) at one stopping point, where all of `low` is known."""
    unit = max(float(low.std()), 1e-12)
    z, both = (low - low.mean()) / unit, np.isfinite(high)
    covariance = LEVEL**2 + SLOPE**2 * np.outer(z, z)
    covariance += LOCAL**2 * squared_exponential(x, x, np.full(x.shape[1], LENGTH))
    seen = covariance[:, both]
    weights = np.linalg.solve(seen[both] + NOISE**2 * np.eye(int(both.sum())), seen.T).T
    variance = np.diag(covariance) - (weights * seen).sum(axis=1)
    return low + weights @ (high - low)[both], unit * np.sqrt(np.maximum(variance, 0.0))
