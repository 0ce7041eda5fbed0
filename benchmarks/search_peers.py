"""The peers that search_efficiency.py replays beside ours, each as its own documentation shows it.

    pip install syne-tune botorch

Every one gets the same of a table: what is searched, the shares of the budget at its rungs, its points in
their order, the reference point of its hypervolume, and a seed. A name that is not in MAX_REPETITIONS is
cheap enough for any number of them.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from pareto_amb.search.ehvi import at_quantile, quantile_of
from pareto_amb.search.proposals import startup_point

Params = dict[str, Any]
Searched = dict[str, BaseDistribution]
Array = NDArray[np.float64]


class Search(Protocol):
    """What is simulated. `next` gives a trial, its parameters and the rung, from 1, that it is trained to.

    `report` takes FID, memorization and similarity_mean of a trial at a rung; it says whether it goes on.
    """

    def next(self) -> tuple[int, Params, int] | None: ...

    def report(self, trial: int, rung: int, values: Array) -> bool: ...


PLACES = 129
"""Where on a range BoTorch's acquisition function is looked at; a table has fewer points."""

Make = Callable[[Searched, Array, list[Params], Array, int], Search]
"""`searched`, `shares` (rungs,), `points`, `reference` (2,), `seed` -> a search."""


class ToTheEnd:
    """A search without early stopping: `ask` gives parameters, `tell` takes the two objectives at the end."""

    def __init__(
        self, n_rungs: int, ask: Callable[[int], Params | None], tell: Callable[[int, list[float]], None]
    ) -> None:
        self._n_rungs, self._ask, self._tell, self._count = n_rungs, ask, tell, itertools.count()

    def next(self) -> tuple[int, Params, int] | None:
        trial = next(self._count)
        params = self._ask(trial)
        return None if params is None else (trial, params, 1)

    def report(self, trial: int, rung: int, values: Array) -> bool:
        if rung == self._n_rungs:
            self._tell(trial, values[:2].tolist())
        return True


def _ignore(trial: int, values: list[float]) -> None: ...


def grid(searched: Searched, shares: Array, points: list[Params], reference: Array, seed: int) -> ToTheEnd:
    """Every point once, in the order of the table."""
    return ToTheEnd(len(shares), lambda k: points[k] if k < len(points) else None, _ignore)


def shuffled_grid(
    searched: Searched, shares: Array, points: list[Params], reference: Array, seed: int
) -> ToTheEnd:
    """Every point once, in random order."""
    order = np.random.default_rng(seed).permutation(len(points))
    return grid(searched, shares, [points[k] for k in order], reference, seed)


def random_search(
    searched: Searched, shares: Array, points: list[Params], reference: Array, seed: int
) -> ToTheEnd:
    study = optuna.create_study(sampler=RandomSampler(seed=seed))
    return ToTheEnd(len(shares), lambda k: study.ask(searched).params, _ignore)


def ray_optuna(make_sampler: Callable[[int], BaseSampler]) -> Make:
    """Ray's OptunaSearch as its documentation shows it for several metrics, with a sampler of Optuna's."""

    def make(
        searched: Searched, shares: Array, points: list[Params], reference: Array, seed: int
    ) -> ToTheEnd:
        from ray.tune.search.optuna import OptunaSearch

        searcher = OptunaSearch(
            searched, metric=["fid", "memorization"], mode=["min", "min"], sampler=make_sampler(seed)
        )

        def tell(trial: int, values: list[float]) -> None:
            searcher.on_trial_complete(str(trial), _named(values))

        return ToTheEnd(len(shares), lambda k: searcher.suggest(str(k)), tell)

    return make


def _named(values: list[float]) -> dict[str, float]:
    return {"fid": values[0], "memorization": values[1]}


def _syne_tune_space(searched: Searched, seed: int) -> dict[str, Any]:
    """What is searched, in Syne Tune's terms; seeds the global generators that it draws from."""
    from syne_tune.config_space import choice, loguniform

    np.random.seed(seed)
    random.seed(seed)
    space = {}
    for name, distribution in searched.items():
        if isinstance(distribution, CategoricalDistribution):
            space[name] = choice(list(distribution.choices))
        else:
            assert isinstance(distribution, FloatDistribution)
            assert distribution.log
            space[name] = loguniform(distribution.low, distribution.high)
    return space


class SyneTuneMOASHA:
    """Syne Tune's MOASHA with its default reduction factor, from the first rung on."""

    def __init__(
        self, searched: Searched, shares: Array, points: list[Params], reference: Array, seed: int
    ) -> None:
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        self._time = shares / shares[0]
        self._moasha = MOASHA(
            _syne_tune_space(searched, seed),
            metrics=["fid", "memorization"],
            time_attr="time",
            max_t=int(self._time[-1]),
            grace_period=1,
            random_seed=seed,
        )
        self._trials: list[Any] = []

    def next(self) -> tuple[int, Params, int]:
        from syne_tune.backend.trial_status import Trial

        number = len(self._trials)
        trial = Trial(number, self._moasha.suggest().config, datetime.now())
        self._trials.append(trial)
        self._moasha.on_trial_add(trial)
        return number, trial.config, 1

    def report(self, trial: int, rung: int, values: Array) -> bool:
        shown = {**_named(values[:2].tolist()), "time": self._time[rung - 1]}
        return bool(self._moasha.on_trial_result(self._trials[trial], shown) == "CONTINUE")


@contextmanager
def _double_precision() -> Iterator[None]:
    """Without it Syne Tune mixes float32 with float64, which BoTorch's compiled kernel refuses."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.double)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def syne_tune_ehvi(
    searched: Searched, shares: Array, points: list[Params], reference: Array, seed: int
) -> ToTheEnd:
    """Syne Tune's EHVI, its newest search for several objectives and its only one with a model, as it ships.

    Its reference point is fixed at 2, of negated objectives, and results are paired with parameters in the
    order in which they arrive.
    """
    from syne_tune.backend.trial_status import Trial
    from syne_tune.optimizer.baselines import EHVI

    scheduler = EHVI(_syne_tune_space(searched, seed), metrics=["fid", "memorization"], random_seed=seed)
    trials: list[Trial] = []

    def ask(number: int) -> Params:
        with _double_precision():
            trials.append(Trial(number, scheduler.suggest().config, datetime.now()))
        return trials[-1].config

    def tell(trial: int, values: list[float]) -> None:
        scheduler.on_trial_complete(trials[trial], _named(values))

    return ToTheEnd(len(shares), ask, tell)


class BoTorch:
    """BoTorch's qLogNEHVI, set much as Ax does for a range and a choice of words.

    A Gaussian process an objective with a kernel for categories, outcomes standardized, hyperparameters
    fitted from those of the last fit. Sobol's points come first, `n_startup` of them, and until half as many
    have finished. Trials under way are pending points. The next point is the best on a fine grid.
    """

    def __init__(self, searched: Searched, reference: Array, seed: int, n_startup: int = 4) -> None:
        self._searched, self._reference, self._seed, self._n_startup = searched, reference, seed, n_startup
        self._rows: list[list[float]] = []
        self._finished: dict[int, list[float]] = {}
        self._categorical = [
            column
            for column, distribution in enumerate(searched.values())
            if isinstance(distribution, CategoricalDistribution)
        ]
        self._fitted: dict[str, Any] | None = None

    def ask(self, trial: int) -> Params:
        if trial < self._n_startup or len(self._finished) < self._n_startup / 2:
            params = startup_point(self._searched, trial, self._seed)
        else:
            params = self._proposed(trial)
        self._rows.append(
            [
                distribution.choices.index(params[name])
                if isinstance(distribution, CategoricalDistribution)
                else quantile_of(distribution, params[name])
                for name, distribution in self._searched.items()
            ]
        )
        return params

    def tell(self, trial: int, values: list[float]) -> None:
        self._finished[trial] = values

    def _proposed(self, trial: int) -> Params:
        import torch
        from botorch.optim import optimize_acqf_discrete
        from botorch.utils.sampling import manual_seed

        places = [
            np.arange(len(distribution.choices))
            if isinstance(distribution, CategoricalDistribution)
            else np.linspace(0, 1, PLACES)
            for distribution in self._searched.values()
        ]
        candidates = torch.tensor(list(itertools.product(*places)), dtype=torch.double)
        with manual_seed(self._seed * 1000 + trial):
            best, _ = optimize_acqf_discrete(self._acquisition(), q=1, choices=candidates)
        return {
            name: distribution.choices[round(value)]
            if isinstance(distribution, CategoricalDistribution)
            else at_quantile(distribution, value)
            for (name, distribution), value in zip(self._searched.items(), best[0].tolist(), strict=True)
        }

    def _acquisition(self) -> Any:
        """qLogNEHVI, to be maximised: the objectives change their sign."""
        import torch
        from botorch import fit_gpytorch_mll
        from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
        from botorch.models import MixedSingleTaskGP
        from gpytorch.mlls import ExactMarginalLogLikelihood

        x = torch.tensor(self._rows, dtype=torch.double)
        finished = list(self._finished)
        pending = [row for row in range(len(x)) if row not in self._finished]
        values = np.array(list(self._finished.values()))
        mean, std = values.mean(axis=0), values.std(axis=0) + 1e-12
        model = MixedSingleTaskGP(
            x[finished], torch.tensor((mean - values) / std), self._categorical, outcome_transform=None
        )
        if self._fitted is not None:
            model.load_state_dict(self._fitted)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        self._fitted = model.state_dict()
        return qLogNoisyExpectedHypervolumeImprovement(
            model,
            ref_point=((mean - self._reference) / std).tolist(),
            X_baseline=x[finished],
            X_pending=x[pending] if pending else None,
            prune_baseline=True,
        )


def botorch_qlognehvi(
    searched: Searched, shares: Array, points: list[Params], reference: Array, seed: int
) -> ToTheEnd:
    peer = BoTorch(searched, reference, seed)
    return ToTheEnd(len(shares), peer.ask, peer.tell)


PEERS: dict[str, tuple[Make, float]] = {
    "grid, in order": (grid, 1.0),
    "grid, random order": (shuffled_grid, 1.0),
    "random": (random_search, 1.0),
    "Ray OptunaSearch, TPE": (ray_optuna(lambda seed: TPESampler(seed=seed)), 1.0),
    "Ray OptunaSearch, NSGA-II": (ray_optuna(lambda seed: NSGAIISampler(seed=seed)), 1.0),
    "Ray OptunaSearch, GPSampler": (ray_optuna(lambda seed: GPSampler(seed=seed)), 1.0),
    "Syne Tune MOASHA": (SyneTuneMOASHA, 0.0),
    "Syne Tune EHVI": (syne_tune_ehvi, 1.0),
    "BoTorch qLogNEHVI": (botorch_qlognehvi, 1.0),
}
"""Name -> how to make it, and the share of the budget before which it does not look."""

MAX_REPETITIONS = {"Ray OptunaSearch, GPSampler": 50, "Syne Tune EHVI": 10, "BoTorch qLogNEHVI": 50}
"""Of those that take long to decide."""
