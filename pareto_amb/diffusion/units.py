"""The unit of sigma, and the conversion between the two in use.

Sigma without a suffix is the variance-exploding level of KAAL22: x_sigma = x_0 + sigma * eps, images
in [-1, 1]. The paper's equations are variance-preserving: x = sqrt(1 - s^2) * x_0 + s * eps, s in [0, 1).
"""

import math


def sigma_from_vp(sigma_vp: float) -> float:
    """Convert a variance-preserving level in [0, 1) to the EDM level in [0, inf)."""
    if not 0 <= sigma_vp < 1:
        raise ValueError(f"sigma_vp must lie in [0, 1), got {sigma_vp}")
    return sigma_vp / math.sqrt((1 - sigma_vp) * (1 + sigma_vp))


def sigma_to_vp(sigma: float) -> float:
    """Convert an EDM level in [0, inf) to the variance-preserving level in [0, 1)."""
    if not sigma >= 0:
        raise ValueError(f"sigma must be at least 0, got {sigma}")
    return sigma / math.hypot(1.0, sigma)
