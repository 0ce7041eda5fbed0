"""Which parameters a search tries next: one search a train size and method, steered by an Optuna sampler."""

import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.stats import qmc

from pareto_amb.config import SearchConfig, ShareRange, SpaceConfig
from pareto_amb.results import PARAMETERS
from pareto_amb.search.foresight import MIN_FINISHED, Array, Curves, Rows
from pareto_amb.search.frontier import OBJECTIVES, best_first
from pareto_amb.search.surrogate import FrontierSampler, at_quantile, quantile_of

warnings.filterwarnings("ignore", category=ExperimentalWarning)  # multivariate TPE, constant liar

MAX_OBSERVED = 60
"""A sampler models at most so many trials: its cost does not grow with the sweep."""


def distributions(space: SpaceConfig, train_size: int, method: str) -> dict[str, BaseDistribution]:
    """What is searched at a train size for a method, in Optuna's terms.

    sigma_tn is log-uniform, shares are uniform or a choice.
    """
    sigma_tn = space.sigma_range(train_size)
    mix: BaseDistribution
    if isinstance(space.mix_ratio, ShareRange):
        mix = FloatDistribution(space.mix_ratio.low, space.mix_ratio.high)
    else:
        mix = CategoricalDistribution(list(space.mix_ratio))
    known: dict[str, BaseDistribution] = {
        "sigma_tn": FloatDistribution(sigma_tn.low, sigma_tn.high, log=True),
        "mix_ratio": mix,
        "corruption": FloatDistribution(space.corruption.low, space.corruption.high),
    }
    return {name: known[name] for name in PARAMETERS[method]}


def startup_point(searched: dict[str, BaseDistribution], number: int, seed: int) -> dict[str, Any]:
    """Point `number`, from 0, of a sequence that covers the space evenly wherever it ends (Sobol's).

    Each range is covered on its own scale.
    """
    sobol = qmc.Sobol(d=len(searched), rng=seed)
    if number:  # SciPy fails on fast_forward(0)
        sobol.fast_forward(number)
    (row,) = sobol.random(1).tolist()
    return {
        name: at_quantile(distribution, u)
        for (name, distribution), u in zip(searched.items(), row, strict=True)
    }


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


def make_sampler(config: SearchConfig, seed: int) -> BaseSampler:
    """The Optuna sampler that steers once the startup points are spent."""
    seed %= 2**32
    if config.sampler == "random":
        return RandomSampler(seed=seed)
    if config.sampler == "gp":
        return FrontierSampler(seed)
    return TPESampler(
        n_startup_trials=config.startup_trials, multivariate=True, constant_liar=True, seed=seed
    )


class ParetoSampler:
    """One search: proposes the parameters of the next trial from what the earlier ones have shown so far.

    The startup points come first, and as long as nothing is known; then an Optuna sampler steers. A trial
    that was stopped early counts with what the finished ones let expect of it at full budget, never with
    what it had when it stopped. The sampler sees a study made afresh for each proposal, because what is
    known of a trial changes while it runs, and a study takes the values of a trial only once.
    """

    def __init__(
        self,
        searched: dict[str, BaseDistribution],
        sampler: BaseSampler,
        *,
        n_startup: int,
        n_rungs: int,
        seed: int = 0,
    ) -> None:
        """`searched` as from `distributions`.

        At least `n_startup` startup points, drawn by `seed`, are proposed before the sampler is asked.
        """
        self._searched, self._sampler = searched, sampler
        self._n_startup, self._n_rungs, self._seed = n_startup, n_rungs, seed
        self._start: dict[str, Any] | None = None
        self._curves: Curves[Hashable] = Curves(n_rungs, len(OBJECTIVES))
        self._params: dict[int, dict[str, Any]] = {}
        self.n_begun = 0

    def propose(self, reference: Sequence[float] | None = None) -> dict[str, Any]:
        """The parameters of a new trial, which is not yet part of the search: see `begin`.

        `reference` is the point whose units the sampler models the objectives in; by default the worst
        values seen.
        """
        rows, values = self._expected()
        if self.n_begun < self._n_startup or not len(rows):
            start, self._start = self._start, None
            return start or startup_point(self._searched, self.n_begun, self._seed)
        unit = np.asarray(reference) if reference is not None else values.max(axis=0, initial=0.0)
        values = values / np.where(unit > 0, unit, 1.0)
        trials = [self._trial(int(rows[i]), values=values[i].tolist()) for i in _most_telling(values)]
        waiting = np.setdiff1d(list(self._params), rows, assume_unique=True)[-MAX_OBSERVED:]
        trials += [self._trial(row, state=TrialState.RUNNING) for row in waiting.tolist()]
        study = optuna.create_study(directions=["minimize"] * len(OBJECTIVES), sampler=self._sampler)
        study.add_trials(trials)
        return study.ask(self._searched).params

    def begin(self, key: Hashable, params: dict[str, Any]) -> None:
        """A trial has been started with `params`."""
        self._params[self._curves.row(key)] = params
        self.n_begun += 1

    def start_from(self, params: dict[str, Any]) -> None:
        """Propose `params` in the place of the next startup point."""
        self._start = params

    def best(self, reference: Sequence[float] | None = None) -> dict[str, Any] | None:
        """The finished parameters that dominate most below `reference`, by default the worst values seen.

        Where none dominates anything there, the first of the frontier.
        None while fewer than MIN_FINISHED trials have finished.
        """
        finished = self._curves.at(-1)
        if len(finished) < MIN_FINISHED:
            return None
        values = self._curves.objectives(-1, finished)
        corner = np.asarray(reference) if reference is not None else values.max(axis=0)
        dominated = np.maximum(corner - values, 0.0).prod(axis=1)
        chosen = dominated.argmax() if dominated.any() else best_first(values)[0]
        return self._params[int(finished[chosen])]

    def report(self, key: Hashable, rung: int, values: Sequence[float]) -> None:
        """A trial has reached `rung`, rising from 0, with `values`.

        The first are the objectives, all minimised; more may follow that help to foresee them.
        """
        self._curves.record(key, rung, values)

    def forget(self, key: Hashable) -> None:
        """A trial has failed."""
        del self._params[self._curves.forget(key)]

    def _expected(self) -> tuple[Rows, Array]:
        """The trials that are finished or can be foreseen (n,), and their objectives at the end (n, 2)."""
        highest, finished = self._curves.highest(), self._curves.at(-1)
        rows, values = [finished], [self._curves.objectives(-1, finished)]
        for rung in range(self._n_rungs - 1):
            waiting = np.flatnonzero(highest == rung)
            if (foreseen := self._curves.foreseen(rung, waiting)) is not None:
                rows.append(waiting)
                values.append(foreseen)
        return np.concatenate(rows), np.concatenate(values).reshape(-1, len(OBJECTIVES))

    def _trial(self, row: int, **shown: Any) -> FrozenTrial:
        return create_trial(params=self._params[row], distributions=self._searched, **shown)


def _most_telling(values: Array) -> Rows:
    """At most MAX_OBSERVED rows of `values` (n, m): the best half of them, the others evenly by rank."""
    if len(values) <= MAX_OBSERVED:
        return np.arange(len(values))
    order = best_first(values)
    rest = np.linspace(MAX_OBSERVED // 2, len(values) - 1, MAX_OBSERVED - MAX_OBSERVED // 2)
    return np.concatenate([order[: MAX_OBSERVED // 2], order[rest.astype(np.int64)]])
