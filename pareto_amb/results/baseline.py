"""DDPM over its seeds: what every other training is held against."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pareto_amb.declared import Objective

NOISE_DEVIATIONS = 2.0
"""Two figures differ when they are further apart than this many seed standard deviations of DDPM."""


class Spread(BaseModel):
    """A figure, its interval of twice the standard deviation, and this, where it is known."""

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
    """DDPM at full budget, over its seeds."""

    seeds: int


def describe_figure(objective: str, value: float) -> str:
    """A figure in a sentence or a line of a terminal: `FID 122.3`, `memorization 0.015`."""
    label = "FID" if objective == "fid" else objective
    return f"{label} {value:{'.3f' if objective == 'memorization' else '.4g'}}"


def spread_over_seeds(values: "pd.Series[float]") -> Spread:
    """Mean of `values` (n_seeds,) with twice their standard deviation, which one seed does not tell."""
    mean = float(values.mean())
    deviation = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    margin = NOISE_DEVIATIONS * deviation if len(values) > 1 else 0.0
    known = None if math.isnan(deviation) else deviation
    return Spread(value=mean, low=mean - margin, high=mean + margin, deviation=known)


def limits(
    baseline: Baseline, objectives: Sequence[Objective]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The worst figures that are no worse than DDPM's within its noise (m,), the first that are better (m,).

    All minimised: maximised objectives times -1.
    """
    ends = [(baseline[o.name].high, baseline[o.name].low) for o in objectives]
    worst = [high if o.sign > 0 else -low for o, (high, low) in zip(objectives, ends, strict=True)]
    better = [low if o.sign > 0 else -high for o, (high, low) in zip(objectives, ends, strict=True)]
    return np.array(worst), np.array(better)
