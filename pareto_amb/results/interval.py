"""How well the trials settle the main parameter: what the policy takes of all functions that they allow."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pareto_amb.config import Choice, Range, SpaceConfig
from pareto_amb.declared import BASELINE, MethodInfo, Objective, Parameter
from pareto_amb.evaluation.shares import share_posterior
from pareto_amb.results.baseline import NOISE_DEVIATIONS
from pareto_amb.results.noise import redraw
from pareto_amb.results.policies import Candidates, Policy
from pareto_amb.results.size import SizeResults
from pareto_amb.search.surrogate import draw_functions

Array = NDArray[np.float64]

N_DRAWS = 1000
N_GRID = 81
_FEWEST = 50
"""Of the draws, that the policy must serve for an interval to be read off them."""


@dataclass(frozen=True)
class Picked:
    """The middle 90% of what the policy takes of the main parameter, None where that is not searched.

    `served` is the share of draws in which the policy admits anything at all.
    """

    interval: tuple[float, float] | None
    served: float


def searched_of(space: SpaceConfig | None, name: str, train_size: int) -> Range | tuple[Choice, ...]:
    """Where a parameter was searched; no choices where that is not known."""
    if space is None or name not in (space.__pydantic_extra__ or {}) or space[name] == "auto":
        return ()
    return space.searched(name, train_size)


def pick_everywhere(
    size: SizeResults,
    policy: Policy,
    method: MethodInfo,
    chosen: "pd.Series[float]",
    space: SpaceConfig | None,
) -> Picked:
    """What `policy` takes along the main parameter of `method`, the others being those `chosen`.

    A Gaussian process over the parameters of the method is fitted to its points at the chosen stopping point,
    one for each objective, with the noise of the points. Functions are drawn from it on a grid over the range
    that `space` searches (without it, over the values tried), DDPM's mean and deviation with their own noise,
    and the policy is applied to each draw. Where it serves hardly any, the interval is the whole range. It
    holds the chosen value, and is never a point: a place of the grid stands for all that is nearest to it.
    """
    there = size.points.images_seen == chosen.images_seen
    points = size.points[there & (size.points.method == method.name)]
    axes = [_Axis.of(p, points[p.name], space, size.train_size) for p in method.parameters]
    main = axes[0]
    if not main.high > main.low:
        return Picked(None, 1.0)
    rng = np.random.default_rng(0)
    grid = main.grid(float(chosen[main.parameter.name]))
    searched = [axis for axis in axes if axis.high > axis.low]
    x = np.stack([axis.place(points[axis.parameter.name].to_numpy(np.float64)) for axis in searched], axis=1)
    at = np.stack(
        [
            axis.place(grid if axis is main else np.full(len(grid), float(chosen[axis.parameter.name])))
            for axis in searched
        ],
        axis=1,
    )
    values = np.stack([_draw_objective(size, o, points, x, at, rng) for o in size.objectives], axis=-1)
    worst = _draw_worst(size, rng)
    taken = [
        policy.pick(Candidates(drawn, limit, size.objectives))
        for drawn, limit in zip(values, worst, strict=True)
    ]
    places = np.array([k for k in taken if k is not None], dtype=np.int64)
    return Picked(main.interval(grid, places, float(chosen[main.parameter.name])), len(places) / N_DRAWS)


@dataclass(frozen=True)
class _Axis:
    """A parameter and where it was searched, or tried."""

    parameter: Parameter
    low: float
    high: float

    @classmethod
    def of(
        cls, parameter: Parameter, tried: "pd.Series[float]", space: SpaceConfig | None, train_size: int
    ) -> "_Axis":
        ends = [float(tried.min()), float(tried.max())]
        searched = searched_of(space, parameter.name, train_size)
        if isinstance(searched, Range):
            ends += [searched.low, searched.high]
        else:
            ends += [float(choice) for choice in searched if not isinstance(choice, str)]
        return cls(parameter, min(ends), max(ends))

    @property
    def _log(self) -> bool:
        return self.parameter.log and self.low > 0

    def place(self, values: Array) -> Array:
        """Where `values` lie in the range, from 0 to 1, on the parameter's own scale."""
        scale = np.log if self._log else np.asarray
        low, high = scale(self.low), scale(self.high)
        return np.asarray((scale(values) - low) / (high - low), dtype=np.float64)

    def grid(self, chosen: float) -> Array:
        """Values over the whole range, evenly on its scale, with the chosen one among them."""
        even = np.geomspace if self._log else np.linspace
        return np.unique([*even(self.low, self.high, N_GRID).tolist(), chosen])

    def interval(self, grid: Array, places: NDArray[np.int64], chosen: float) -> tuple[float, float]:
        """The values that the middle 90% of `places` on the grid stand for."""
        if len(places) < _FEWEST:
            return self.low, self.high
        first, last = np.quantile(places, [0.05, 0.95], method="inverted_cdf")
        between = np.sqrt(grid[:-1] * grid[1:]) if self._log else (grid[:-1] + grid[1:]) / 2
        ends = np.concatenate([[self.low], between, [self.high]])
        return min(float(ends[int(first)]), chosen), max(float(ends[int(last) + 1]), chosen)


def _draw_objective(
    size: SizeResults,
    objective: Objective,
    points: pd.DataFrame,
    x: Array,
    at: Array,
    rng: np.random.Generator,
) -> Array:
    """An objective at the rows of `at` (g, d), minimised: (N_DRAWS, g).

    The functions are smooth, and the noise even, on another scale than the objective's own: that of arcsin
    of the square root for a share of samples, else the logarithm of the distance from the ideal where there
    is one.
    """
    values = points[objective.name].to_numpy(np.float64)
    noise = points[f"{objective.name}_sd"].to_numpy(np.float64)
    ddpm = np.array([size.baseline[objective.name].value])
    if objective.noise == "share":
        n = points.n_samples.to_numpy(np.float64)
        share, _ = share_posterior(values, n)
        y, reference = np.arcsin(np.sqrt(share)), np.arcsin(np.sqrt(ddpm))
        noise = noise / (2 * np.sqrt(share * (1 - share)))
        drawn = draw_functions(x, y, noise, at, N_DRAWS, rng, _spread(y, reference, noise))
        return objective.sign * np.sin(np.clip(drawn, 0.0, np.pi / 2)) ** 2
    away, ddpm_away = (objective.sign * (figures - objective.ideal) for figures in (values, ddpm))
    if (away > 0).all() and (ddpm_away > 0).all():
        y, noise = np.log(away), noise / away
        drawn = np.exp(draw_functions(x, y, noise, at, N_DRAWS, rng, _spread(y, np.log(ddpm_away), noise)))
        return np.asarray(drawn + objective.sign * objective.ideal)
    y = objective.sign * values
    spread = _spread(y, objective.sign * ddpm, noise)
    return draw_functions(x, y, noise, at, N_DRAWS, rng, spread)


def _spread(y: Array, ddpm: Array, noise: Array) -> float:
    """How far a function goes: the standard deviation of its points and DDPM's, at least their noise."""
    return float(max(np.concatenate([y, ddpm]).std(), noise.mean()))


def _draw_worst(size: SizeResults, rng: np.random.Generator) -> Array:
    """What is no worse than DDPM, see `limits`, minimised: (N_DRAWS, m), its mean and deviation drawn."""
    ddpm = size.points[size.points.method == BASELINE]
    row = ddpm[ddpm.images_seen == size.baseline.images_seen]
    means = redraw(row, size.objectives, size.noise_at(row), N_DRAWS, rng)[:, 0]
    seeds = size.baseline.seeds
    deviation = _deviations(size, size.objectives) * np.sqrt(
        seeds / rng.chisquare(seeds, (N_DRAWS, len(size.objectives)))
    )
    tolerated = np.array([objective.tolerance for objective in size.objectives]) * np.abs(means)
    return np.asarray(means + np.maximum(NOISE_DEVIATIONS * deviation, tolerated))


def _deviations(size: SizeResults, objectives: Sequence[Objective]) -> Array:
    return np.array([size.baseline[o.name].deviation or 0.0 for o in objectives])
