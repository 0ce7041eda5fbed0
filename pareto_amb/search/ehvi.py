"""A Gaussian process for each objective, and an Optuna sampler that proposes by them.

The sampler maximises the expected hypervolume improvement below (1, 1, ...): objectives are handed to it with
the ideal at 0 and the reference point at 1. A trial may stop at any of its rungs, so what it adds to the
frontier is what the best of them adds. Optuna's own GPSampler finds points as good and takes some thirty
times as long; scikit-learn's Gaussian process with the same posterior takes 9 to 16 times as long as this one
(docs/search.md).
"""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState
from scipy.linalg import cho_solve, solve_triangular

from pareto_amb.search.extrapolation import Array
from pareto_amb.search.one_thread import one_thread
from pareto_amb.search.pareto import expected_growth, front_below, hypervolume_growth
from pareto_amb.search.surrogate import LENGTHS, length_prior, squared_exponential

CATEGORY_LENGTHS = (0.5, 1.5)
"""Length scales for a choice of words, which are at distance sqrt(2) from each other."""
NOISES = (0.02, 0.1, 0.3)
"""Shares of the variance that may be noise."""
N_CANDIDATES = 300
N_SHORTLISTED = 60
"""Candidates whose expected growth is worked out: those that would add most if all came out better by
one standard deviation."""
N_DRAWS = 16
CLIP = 1.5
"""Objectives that are farther from the ideal than so are taken for this value: how bad does not matter."""
Params = Mapping[str, Any]

CURVE = "curve"
"""The user attribute of a trial that has its objectives at every rung (R, m); by default its values."""


class GaussianProcess:
    """A posterior over functions on the rows of `x` (n, d) given noisy `y`, (n,) or, of c functions, (n, c).

    Squared-exponential kernel with a length scale a group of columns, noise as a share of the variance; both
    are those of highest marginal likelihood on a small grid, weighed by a prior that prefers smoothness, and
    the same for all functions.
    """

    def __init__(
        self,
        x: Array,
        y: Array,
        groups: Sequence[tuple[slice, tuple[float, ...]]],
        noises: tuple[float, ...] = NOISES,
    ) -> None:
        """`groups`: which columns share a length scale, and the scales that it is chosen from."""
        self._x, self._mean, self._scale = x, y.mean(axis=0), y.std(axis=0) + 1e-6
        z = (y - self._mean) / self._scale
        gaps = [((x[:, None, part] - x[None, :, part]) ** 2).sum(-1) for part, _ in groups]
        best = -np.inf
        for lengths in itertools.product(*(choices for _, choices in groups)):
            kernel = np.exp(-0.5 * sum(g / length**2 for g, length in zip(gaps, lengths, strict=True)))
            for noise in noises:
                factor = np.linalg.cholesky(kernel + noise * np.eye(len(x)))
                weights = cho_solve((factor, True), z)
                likelihood = -0.5 * (z * weights).sum() - z[0].size * np.log(np.diag(factor)).sum()
                if likelihood + length_prior(lengths) > best:
                    best = likelihood + length_prior(lengths)
                    self._lengths, self._noise = lengths, noise
                    self._factor, self._weights = factor, weights
        self._parts = [part for part, _ in groups]
        self._columns = np.concatenate(
            [
                np.full(x[:, part].shape[1], length)
                for (part, _), length in zip(groups, self._lengths, strict=True)
            ]
        )

    def refit(self, x: Array, y: Array) -> "GaussianProcess":
        """A posterior given other rows, with the length scales and the noise of this one."""
        groups = [(part, (length,)) for part, length in zip(self._parts, self._lengths, strict=True)]
        return GaussianProcess(x, y, groups, (self._noise,))

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the noiseless functions at `x` (m, d): (m,) or (m, c)."""
        kernel = squared_exponential(x, self._x, self._columns)
        explained = solve_triangular(self._factor, kernel.T, lower=True)
        deviation = np.sqrt(np.maximum(1.0 - (explained**2).sum(0), 1e-9))
        return kernel @ self._weights * self._scale + self._mean, np.multiply.outer(deviation, self._scale)


class EHVISampler(BaseSampler):
    """Optuna sampler for two or more minimised objectives, 0 at their ideal and 1 at their reference point.

    Trials have as many rungs as the user attribute CURVE has rows, the same for all. Running trials are taken
    to come out as the model expects, so that parallel workers spread.
    """

    def __init__(self, seed: int, log: Collection[str] = ()) -> None:
        """`log` names the parameters whose listed values lie on a logarithmic scale; ranges say so."""
        self._rng, self._log = np.random.default_rng(seed), frozenset(log)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return IntersectionSearchSpace().calculate(study)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if not complete or not search_space:
            return _draw(search_space, self._rng)
        curves = np.array([t.user_attrs.get(CURVE, [t.values]) for t in complete])
        pending = [t.params for t in running if t.params]
        return self.propose(search_space, [t.params for t in complete], curves, pending)

    @one_thread()
    def propose(
        self,
        searched: Mapping[str, BaseDistribution],
        params: Sequence[Params],
        curves: Array,
        running: Sequence[Params],
    ) -> dict[str, Any]:
        """What to try next, given trials with `params` (n) and what they have at every rung (n, R, m).

        The same as through a study, which copies every trial that it is shown.
        """
        in_order = dict(sorted(searched.items()))  # as Optuna has them
        candidates = [_draw(in_order, self._rng) for _ in range(N_CANDIDATES)]
        parts = _parts(in_order, self._log)
        x, y = _encode(params, parts), np.minimum(curves, CLIP)
        groups, objectives = _groups(parts), range(y.shape[-1])
        models = [GaussianProcess(x, y[..., k], groups) for k in objectives]
        if running:
            pending = _encode(running, parts)
            x = np.concatenate([x, pending])
            y = np.concatenate([y, np.stack([model(pending)[0] for model in models], axis=-1)])
            models = [model.refit(x, y[..., k]) for k, model in enumerate(models)]
        chosen = candidates[self._most_promising(models, x, _encode(candidates, parts))]
        return {name: chosen[name] for name in searched}

    def _most_promising(self, models: list[GaussianProcess], seen: Array, x: Array) -> int:
        """The row of `x` (m, d) at which a trial, by its best rung, is expected to add most hypervolume.

        The frontier that is to grow is that of the expected values at the rows of `seen`, not of the
        measured ones, whose best are lucky draws.
        """
        expected = np.stack([model(seen)[0] for model in models], axis=-1).reshape(-1, len(models))
        mean, deviation = (np.stack(part, axis=-1) for part in zip(*(m(x) for m in models), strict=True))
        front = front_below(expected)
        hoped = hypervolume_growth(front, np.maximum(mean - deviation, 0.0)).max(axis=-1)
        shortlist = np.argsort(-hoped, kind="stable")[:N_SHORTLISTED]
        growth = expected_growth(front, mean[shortlist], deviation[shortlist], self._rng, N_DRAWS)
        return int(shortlist[growth.argmax()])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return _draw({param_name: param_distribution}, self._rng)[param_name]


def _draw(space: Mapping[str, BaseDistribution], rng: np.random.Generator) -> dict[str, Any]:
    return {name: at_quantile(distribution, float(rng.random())) for name, distribution in space.items()}


def at_quantile(distribution: BaseDistribution, u: float) -> Any:
    """The value below which a share u of the distribution lies; u in [0, 1)."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(u * len(distribution.choices))]
    assert isinstance(distribution, FloatDistribution)
    low, high = distribution.low, distribution.high
    return low * (high / low) ** u if distribution.log else low + u * (high - low)


def quantile_of(distribution: FloatDistribution, value: float) -> float:
    """The share of a range that lies below `value`, in [0, 1]: the inverse of `at_quantile`."""
    scale = np.log if distribution.log else float
    low, high = scale(distribution.low), scale(distribution.high)
    return float((scale(value) - low) / (high - low)) if high > low else 0.0


@dataclass(frozen=True)
class _Part:
    """Columns of a parameter that share a length scale, one of `lengths`: `place` maps a value to them."""

    name: str
    width: int
    lengths: tuple[float, ...]
    place: Callable[[Any], list[float]]


def _parts(space: Mapping[str, BaseDistribution], log: Collection[str] = ()) -> list[_Part]:
    """How the values of each parameter become columns.

    Ranges and listed numbers lie on the unit interval, on the parameter's own scale. Words are indicators,
    and numbers listed beside them have one in common.
    """
    found = []
    for name, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            words = [choice for choice in distribution.choices if isinstance(choice, str)]
            numbers = sorted({float(c) for c in distribution.choices if isinstance(c, (int, float))})
            if words:
                found.append(_indicators(name, words, bool(numbers)))
            if len(numbers) > 1 or not words:
                on_log = name in log and numbers[0] > 0
                found.append(_interval(name, FloatDistribution(numbers[0], numbers[-1], log=on_log)))
        else:
            assert isinstance(distribution, FloatDistribution)
            found.append(_interval(name, distribution))
    return found


def _interval(name: str, between: FloatDistribution) -> _Part:
    """One column: where a value lies; a word is as far from the one end as from the other."""
    return _Part(
        name, 1, LENGTHS, lambda value: [0.5 if isinstance(value, str) else quantile_of(between, value)]
    )


def _indicators(name: str, words: list[str], numbers: bool) -> _Part:
    """A column for each word and, with `numbers`, one for all of these."""
    width = len(words) + numbers
    return _Part(
        name,
        width,
        CATEGORY_LENGTHS if width > 1 else LENGTHS,
        lambda value: [float(value == w) for w in words] + [float(not isinstance(value, str))] * numbers,
    )


def _groups(parts: list[_Part]) -> list[tuple[slice, tuple[float, ...]]]:
    """The columns of each part in `_encode`, with its length scales."""
    ends = itertools.accumulate(part.width for part in parts)
    return [(slice(end - part.width, end), part.lengths) for end, part in zip(ends, parts, strict=True)]


def _encode(params: Sequence[Params], parts: list[_Part]) -> Array:
    """Parameters as points (n, d)."""
    rows = [[column for part in parts for column in part.place(row[part.name])] for row in params]
    return np.array(rows, dtype=np.float64)
