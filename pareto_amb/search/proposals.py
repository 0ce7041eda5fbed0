"""Which parameters a search tries next: one search a train size and method, steered by an Optuna sampler."""

import warnings
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import optuna
from numpy.typing import ArrayLike
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy import stats
from scipy.stats import qmc

from pareto_amb.config import SearchConfig
from pareto_amb.declared import MethodInfo
from pareto_amb.search.ehvi import EHVISampler, at_quantile, quantile_of
from pareto_amb.search.extrapolation import MIN_FINISHED, Array, LearningCurves, Rows
from pareto_amb.search.pareto import best_first

warnings.filterwarnings("ignore", category=ExperimentalWarning)  # multivariate TPE, constant liar

MAX_OBSERVED = 60
"""A sampler models at most so many trials: its cost does not grow with the sweep."""


SPREAD = 1.0
"""Standard deviation of the logarithm of what startup points have, around what is expected to be good."""

Box = tuple[Array, Array]
"""The ideal (m,) and the reference point (m,) of minimised objectives: between them lies what counts."""


class Range(Protocol):
    """What a parameter is searched in."""

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


class Space(Protocol):
    """The search space of a sweep."""

    def searched(self, name: str, train_size: int) -> Range | tuple[float | str, ...]:
        """Where a parameter is searched at a train size: a range, or choices."""
        ...


def distributions(method: MethodInfo, space: Space, train_size: int) -> dict[str, BaseDistribution]:
    """What is searched of a method's parameters at a train size, in Optuna's terms.

    A range is uniform on the parameter's own scale; choices are equally likely.
    """
    found: dict[str, BaseDistribution] = {}
    for parameter in method.parameters:
        searched = space.searched(parameter.name, train_size)
        if isinstance(searched, tuple):
            found[parameter.name] = CategoricalDistribution(searched)
        else:
            found[parameter.name] = FloatDistribution(searched.low, searched.high, log=parameter.log)
    return found


def startup_point(
    searched: dict[str, BaseDistribution], number: int, seed: int, centres: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Point `number`, from 0, of a sequence that covers the space evenly wherever it ends (Sobol's).

    Each range is covered on its own scale. Those with a value in `centres` begin there, and are covered
    more densely around it: log-normally, SPREAD wide, as far as the range goes.
    """
    sobol = qmc.Sobol(d=len(searched), rng=seed)
    if number:  # SciPy fails on fast_forward(0)
        sobol.fast_forward(number)
    (row,) = sobol.random(1).tolist()
    point = {}
    for (name, distribution), u in zip(searched.items(), row, strict=True):
        if isinstance(distribution, FloatDistribution) and centres and name in centres:
            low, high = (
                np.log(end / centres[name]) / SPREAD for end in (distribution.low, distribution.high)
            )
            between = stats.truncnorm.ppf(u, low, high) if number else np.clip(0.0, low, high)
            point[name] = float(centres[name] * np.exp(SPREAD * between))
        else:
            point[name] = at_quantile(distribution, u)
    return point


def grid_point(searched: dict[str, BaseDistribution], number: int) -> dict[str, Any]:
    """Point `number`, from 0, of all combinations of the listed choices: the last parameter changes first.

    Raises ValueError where there are fewer of them.
    """
    choices: dict[str, Sequence[Any]] = {}
    for name, distribution in searched.items():
        assert isinstance(distribution, CategoricalDistribution)
        choices[name] = distribution.choices
    places = np.unravel_index(number, [len(listed) for listed in choices.values()])
    return {name: listed[int(k)] for (name, listed), k in zip(choices.items(), places, strict=True)}


def carry_over(
    params: dict[str, Any], source: dict[str, BaseDistribution], target: dict[str, BaseDistribution]
) -> dict[str, Any]:
    """The parameters that lie in the ranges of `target` where `params` lie in those of `source`."""
    carried = dict(params)
    for name, before in source.items():
        after = target[name]
        if isinstance(before, FloatDistribution) and isinstance(after, FloatDistribution):
            carried[name] = at_quantile(after, quantile_of(before, params[name]))
    return carried


def make_sampler(config: SearchConfig, seed: int, log: Collection[str] = ()) -> BaseSampler | None:
    """The Optuna sampler that steers once the startup points are spent; None for a grid, which none steers.

    `log` names the parameters whose own scale is logarithmic: the listed values of one lie on that scale.
    """
    seed %= 2**32
    if config.sampler == "grid":
        return None
    if config.sampler == "random":
        return RandomSampler(seed=seed)
    if config.sampler == "gp":
        return EHVISampler(seed, log)
    return TPESampler(
        n_startup_trials=config.startup_trials, multivariate=True, constant_liar=True, seed=seed
    )


class ParetoSampler:
    """One search: proposes the parameters of the next trial from what the earlier ones have shown so far.

    The startup points come first, and as long as nothing is known; then an Optuna sampler steers. Without
    one the points of the grid come in their order, whatever the trials show. Each rung is a point where a
    trial may stop, and it counts with all of them: those measured, and those that the finished trials let
    expect of one that has not come so far. The sampler sees a study made afresh for each proposal, because
    what is known of a trial changes while it runs, and a study takes the values of a trial only once.
    """

    def __init__(
        self,
        searched: dict[str, BaseDistribution],
        sampler: BaseSampler | None,
        *,
        n_objectives: int,
        n_startup: int,
        n_rungs: int,
        n_probe_rungs: int = 0,
        floor: ArrayLike = 0.0,
        seed: int = 0,
        centres: Mapping[str, float] | None = None,
    ) -> None:
        """`searched` as from `distributions`.

        At least `n_startup` startup points, drawn by `seed`, are proposed before the sampler is asked. They
        lie around `centres`, where a parameter has one. At the first `n_probe_rungs` no objective is
        measured: they are NaN. No objective is expected below `floor`, a number or one for each.
        """
        self._searched, self._sampler = searched, sampler
        self._n_startup, self._n_rungs, self._seed = n_startup, n_rungs, seed
        self._centres = centres
        self._start: dict[str, Any] | None = None
        self._floor = np.broadcast_to(np.asarray(floor, dtype=np.float64), n_objectives)
        self._curves: LearningCurves[Hashable] = LearningCurves(
            n_rungs, n_objectives, self._floor, n_probe_rungs=n_probe_rungs
        )
        self._params: dict[int, dict[str, Any]] = {}
        self._guests: set[int] = set()
        self.n_begun = 0

    def propose(self, box: Box | None = None) -> dict[str, Any]:
        """The parameters of a new trial, which is not yet part of the search: see `begin`.

        The sampler models the objectives with the ideal of `box` at 0 and its reference point at 1; by
        default these are the floor and the worst values seen. For one that models a single point of each
        trial that is its best rung, which alone dominates most.
        """
        if self._sampler is None:
            return grid_point(self._searched, self.n_begun)
        rows, curves = self._expected()
        if self.n_begun < self._n_startup or not len(rows):
            start, self._start = self._start, None
            return start or startup_point(self._searched, self.n_begun, self._seed, self._centres)
        curves = self._scaled(curves, box)
        best = _best_rungs(curves, np.ones(curves.shape[-1]))
        shown = _most_telling(best)
        waiting = np.setdiff1d(list(self._params), rows, assume_unique=True)[-MAX_OBSERVED:].tolist()
        if isinstance(self._sampler, EHVISampler):
            known, running = ([self._params[row] for row in k] for k in (rows[shown].tolist(), waiting))
            return self._sampler.propose(self._searched, known, curves[shown], running)
        study = optuna.create_study(directions=["minimize"] * best.shape[1], sampler=self._sampler)
        study.add_trials(
            [
                self._trial(row, values=best[i].tolist())
                for i, row in zip(shown, rows[shown].tolist(), strict=True)
            ]
        )
        study.add_trials([self._trial(row, state=TrialState.RUNNING) for row in waiting])
        return study.ask(self._searched).params

    def _scaled(self, curves: Array, box: Box | None) -> Array:
        """`curves` (n, R, m) with the ideal of `box` at 0 and its reference point at 1."""
        if box is None:
            ideal = np.where(np.isfinite(self._floor), self._floor, curves.min(axis=(0, 1)))
            curves = curves - ideal
            unit = curves.max(axis=(0, 1), initial=0.0)
        else:
            ideal, reference = box
            curves, unit = curves - ideal, reference - ideal
        scaled: Array = curves / np.where(unit > 0, unit, 1.0)
        return scaled

    def begin(self, key: Hashable, params: dict[str, Any]) -> None:
        """A trial has been started with `params`."""
        self._params[self._curves.row(key)] = params
        self.n_begun += 1

    def start_from(self, params: dict[str, Any]) -> None:
        """Propose `params` in the place of the next startup point."""
        self._start = params

    def best(self, box: Box | None = None) -> dict[str, Any] | None:
        """The finished parameters whose best rung dominates most below the reference point of `box`.

        By default that is the worst values at the end. Where none dominates anything there, the first of the
        frontier. None while fewer than MIN_FINISHED trials have finished.
        """
        finished = self._own(self._curves.at(self._n_rungs))
        if len(finished) < MIN_FINISHED:
            return None
        curves, _ = self._curves.completed(finished)
        corner = curves[:, -1].max(axis=0) if box is None else box[1]
        values = _best_rungs(curves, corner)
        dominated = np.maximum(corner - values, 0.0).prod(axis=1)
        chosen = dominated.argmax() if dominated.any() else best_first(values)[0]
        return self._params[int(finished[chosen])]

    def report(self, key: Hashable, rung: int, values: Sequence[float]) -> None:
        """A trial has reached `rung`, counted from 1, with `values`.

        The first are the objectives, all minimised; more may follow that help to extrapolate them. One that
        the search has not begun, as a baseline, tells what to expect of others.
        """
        row = self._curves.record(key, rung, values)
        if row not in self._params:
            self._guests.add(row)

    def forget(self, key: Hashable) -> None:
        """A trial has failed."""
        self._params.pop(self._curves.forget(key), None)

    def _expected(self) -> tuple[Rows, Array]:
        """The trials (n,) of which all full rungs are known or expected, and their objectives (n, R, m)."""
        rows = self._own(self._curves.begun())
        curves, _ = self._curves.completed(rows)
        known = np.isfinite(curves).all(axis=(1, 2))
        return rows[known], curves[known]

    def _own(self, rows: Rows) -> Rows:
        """Those of `rows` that are trials of the search."""
        return rows[~np.isin(rows, list(self._guests))]

    def _trial(self, row: int, **shown: Any) -> FrozenTrial:
        return create_trial(params=self._params[row], distributions=self._searched, **shown)


def _best_rungs(curves: Array, corner: Array) -> Array:
    """What each of `curves` (n, R, m) has at the rung that dominates most below `corner` (m,): (n, m).

    The last one where none dominates anything.
    """
    dominated = np.maximum(corner - curves, 0.0).prod(axis=-1)[:, ::-1]
    rungs = curves.shape[1] - 1 - dominated.argmax(axis=1)
    return np.asarray(curves[np.arange(len(curves)), rungs])


def _most_telling(values: Array) -> Rows:
    """At most MAX_OBSERVED rows of `values` (n, m): the best half of them, the others evenly by rank."""
    if len(values) <= MAX_OBSERVED:
        return np.arange(len(values))
    order = best_first(values)
    rest = np.linspace(MAX_OBSERVED // 2, len(values) - 1, MAX_OBSERVED - MAX_OBSERVED // 2)
    return np.concatenate([order[: MAX_OBSERVED // 2], order[rest.astype(np.int64)]])
