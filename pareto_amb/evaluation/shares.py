"""Shares observed on independent images."""

import numpy as np
from numpy.typing import NDArray


def share_posterior(
    share: NDArray[np.float64] | float, n: NDArray[np.float64] | int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the share behind one observed on n images.

    Those of its posterior under Jeffreys' prior, Beta(k + 1/2, n - k + 1/2) with k = share * n: unlike the
    binomial standard error they do not claim certainty when none or all of the images count.
    """
    mean = (np.multiply(share, n) + 0.5) / np.add(n, 1.0)
    return mean, np.sqrt(mean * (1.0 - mean) / np.add(n, 2.0))
