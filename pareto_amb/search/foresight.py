"""What trials that have not finished will come to, as the finished ones let expect it."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MIN_FINISHED = 4
"""From so many finished trials on, others can be foreseen."""


def foresee(before: Array, after: Array, shown: Array) -> Array:
    """What trials that have shown `shown` (k, f) will come to: (k, m), never below 0.

    A ridge regression on the trials that showed `before` (n, f) and came to `after` (n, m). Its penalty, one
    observation's weight, draws towards the mean what they do not tell.
    """
    mean, scale = before.mean(axis=0), before.std(axis=0) + 1e-12
    z = (before - mean) / scale
    weights = np.linalg.solve(z.T @ z + np.eye(z.shape[1]), z.T @ (after - after.mean(axis=0)))
    return np.asarray(np.maximum((shown - mean) / scale @ weights + after.mean(axis=0), 0.0))
