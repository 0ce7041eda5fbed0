"""DDPM over its seeds: what every other training is held against."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import special

from pareto_amb.declared import Objective

NOISE_DEVIATIONS = 2.0
"""A figure is no worse than DDPM's while it lies within so many standard deviations of DDPM's seeds."""

COVERAGE = 0.95
"""The share of cases in which the interval of a figure is to hold it."""


class Spread(BaseModel):
    """A figure, its 95% interval, and its standard deviation from one training to the next.

    Where nothing is known of its noise there is no deviation, and the interval is the figure itself.
    """

    value: float
    low: float
    high: float
    deviation: float | None = None


class Figures(BaseModel):
    """A model that holds a `Spread` for each objective, under the objective's name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Spread]

    def __getitem__(self, objective: str) -> Spread:
        """The figure of an objective. KeyError for one that is not there."""
        found: Spread = (self.__pydantic_extra__ or {})[objective]
        return found

    def objectives(self) -> list[str]:
        """The names of the objectives, in their order."""
        return list(self.__pydantic_extra__ or {})


class Baseline(Figures):
    """DDPM over its seeds: at full budget or, where all stopping points compete, at its best one."""

    seeds: int
    images_seen: int | None = None
    """None in files of older versions: at its full budget."""
    similarity_excess: float | None = None
    """As of `Recommendation`."""


def quantile_of_noise(seeds: int) -> float:
    """How many standard deviations an interval reaches when `seeds` trainings of DDPM show the noise.

    That of Student's t with as many degrees of freedom as there are seeds: see `spread_over_seeds`.
    """
    return float(special.stdtrit(seeds, 0.5 + COVERAGE / 2))


def spread_over_seeds(values: "pd.Series[float]", sampling: float, objective: Objective) -> Spread:
    """Mean of `values` (n,), one a seed, and the interval that holds another seed's value in 95% of cases.

    `sampling` is the standard error of measuring one and the same model: no deviation is below it, that of
    two seeds that happen to agree neither. The standard deviation of few seeds is itself uncertain, so the
    variance is inferred, with a scaled inverse chi-square prior of one degree of freedom around sampling^2:
    what one more seed would tell that scattered by the sampling error alone. With the variance s^2 of the
    seeds the value of a further one then has Student's t distribution, n degrees of freedom and the scale

        sqrt(v (1 + 1/n)),   v = (sampling^2 + (n - 1) s^2) / n, at least sampling^2.

    `deviation` is s, at least `sampling`. Where both are 0 nothing is known of the noise.
    """
    n, mean = len(values), float(values.mean())
    variance = float(values.var(ddof=1)) if n > 1 else 0.0
    inferred = max((sampling**2 + (n - 1) * variance) / n, sampling**2)
    deviation = max(math.sqrt(variance), sampling)
    margin = quantile_of_noise(n) * math.sqrt(inferred * (1 + 1 / n))
    return spread(objective, mean, margin, deviation)


def spread(objective: Objective, value: float, margin: float, deviation: float) -> Spread:
    """A figure and its interval, within what its objective can be; `deviation` 0 stands for not known."""
    low, high = objective.limits
    return Spread(
        value=value,
        low=min(max(value - margin, low), value),
        high=max(min(value + margin, high), value),
        deviation=deviation or None,
    )


def no_worse_than(found: Spread, objective: Objective) -> float:
    """The worst figure that is no worse than `found`, DDPM's, within its noise or what is tolerated."""
    return found.value + objective.sign * allowance(found.value, found.deviation or 0.0, objective)


def allowance(value: float, deviation: float, objective: Objective) -> float:
    """How much worse than DDPM's `value` still counts as no worse.

    Two standard deviations of its noise or, where that is more, the share of it that the objective tolerates.
    """
    return max(NOISE_DEVIATIONS * deviation, objective.tolerance * abs(value))


def only_tolerated(value: float, ddpm: Spread, objective: Objective) -> bool:
    """Whether a figure is worse than DDPM's beyond its noise, and no worse within what is tolerated."""
    noise, worse = NOISE_DEVIATIONS * (ddpm.deviation or 0.0), objective.sign * (value - ddpm.value)
    return noise < worse <= allowance(ddpm.value, ddpm.deviation or 0.0, objective)


def limits(
    baseline: Baseline, objectives: Sequence[Objective]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The worst figures that are no worse than DDPM's (m,), the first that are better (m,).

    All minimised: maximised objectives times -1. That the noise is uncertain counts against either claim:
    what is better lies beyond the whole interval, what is no worse within two standard deviations, or within
    the objective's tolerance.
    """
    worst = [o.sign * no_worse_than(baseline[o.name], o) for o in objectives]
    better = [baseline[o.name].low if o.sign > 0 else -baseline[o.name].high for o in objectives]
    return np.array(worst), np.array(better)
