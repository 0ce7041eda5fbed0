"""Measured values with their 95% intervals.

Every worker imports this: scipy.stats would take it as long as a third of torch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from pareto_amb.randomness import make_generator

if TYPE_CHECKING:
    from torch import Tensor

Z95 = float(special.ndtri(0.975))

_RESAMPLED_AT_ONCE = 4_000_000  # values, 8 bytes each


@dataclass(frozen=True)
class Estimate:
    """A value and its 95% interval; NaN where it is unknown."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


def wilson(share: float, n: int) -> Estimate:
    """A share observed on n independent images, with its score interval (Wilson 1927) in [0, 1].

    Unknown when n is 0.
    """
    if n == 0:
        return UNKNOWN
    observed, doubt = round(share * n) / n, Z95**2 / n
    centre = (observed + doubt / 2) / (1 + doubt)
    reach = math.sqrt(observed * (1 - observed) * doubt + doubt**2 / 4) / (1 + doubt)
    low = centre - reach if observed > 0 else 0.0
    return Estimate(share, low, centre + reach if observed < 1 else 1.0)


def clopper_pearson(
    count: ArrayLike, n: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The exact interval of shares observed as `count` of `n` independent trials (Clopper and Pearson 1934).

    Two-sided: each end is missed with probability (1 - `confidence`) / 2 at most. The arguments broadcast.
    """
    k, n = np.asarray(count, dtype=np.float64), np.asarray(n, dtype=np.float64)
    tail = (1 - confidence) / 2
    low = np.where(k > 0, special.betaincinv(k, n - k + 1, tail), 0.0)
    high = np.where(k < n, special.betainccinv(k + 1, n - k, tail), 1.0)
    return low, high


def ratio_of_means(values: ArrayLike, others: ArrayLike) -> Estimate:
    """The mean of `values` (N,) over that of `others` (M,), all above 0 and independent.

    The interval is that of the logarithm, by the delta method. Unknown where one has fewer than 2.
    """
    each = [np.asarray(x, dtype=np.float64) for x in (values, others)]
    if min(map(len, each)) < 2:
        return UNKNOWN
    means = [float(x.mean()) for x in each]
    spread = math.sqrt(sum(x.var(ddof=1) / len(x) / mean**2 for x, mean in zip(each, means, strict=True)))
    ratio, reach = means[0] / means[1], math.exp(Z95 * spread)
    return Estimate(ratio, ratio / reach, ratio * reach)


def difference(one: Estimate, other: Estimate) -> Estimate:
    """`one` − `other`, two shares with their Wilson intervals: Newcombe 1998, method 10."""
    value = one.value - other.value
    down = math.hypot(one.value - one.low, other.high - other.value)
    up = math.hypot(one.high - one.value, other.value - other.low)
    return Estimate(value, value - down, value + up)


def bootstrap(
    values: "Tensor", statistic: "Callable[[Tensor], Tensor]", resamples: int = 1000, seed: int = 0
) -> Estimate:
    """`statistic` of `values` (N,), with its percentile bootstrap interval (Efron 1979).

    `statistic` maps (B, N) to (B,): it is worked out for many resamples in one call. The same seed
    gives the same interval. Unknown when there are no values.
    """
    import torch

    n = len(values)
    if n == 0:
        return UNKNOWN
    values = values.double()
    generator = make_generator(seed, "bootstrap")
    at_once = max(1, _RESAMPLED_AT_ONCE // n)
    found = []
    for done in range(0, resamples, at_once):
        shape = (min(at_once, resamples - done), n)
        found.append(statistic(values[torch.randint(n, shape, generator=generator)]))
    low, high = torch.cat(found).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(float(statistic(values[None])), low, high)
