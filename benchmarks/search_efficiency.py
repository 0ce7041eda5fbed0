"""How much training a search needs before it holds the frontier: ours, and the peers', on the same tables.

    pip install syne-tune
    python benchmarks/search_efficiency.py

A table holds, for every point of a grid and several seeds, the figures at every rung: recorded from real
trainings (benchmarks/curves, made by record_curves.py) or synthetic. A search is replayed on simulated
asynchronous workers: it proposes parameters, the nearest point of the grid and a seed drawn at random answer.
The cost is what was trained until then, in full trainings, trials under way included. A search holds a point
once it trained it in full; points count with their mean over seeds, so luck does not pay. Printed are the
mean cost and its 90% interval until the points held have 95% and 99% of the hypervolume of the whole table,
below twice DDPM's FID and DDPM's memorization. A repetition that does not get there counts with --limit, and
is counted.
"""

import argparse
import heapq
import itertools
import platform
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import NSGAIISampler, RandomSampler

from pareto_amb.config import SearchConfig
from pareto_amb.search.halving import ParetoRungs
from pareto_amb.search.pareto import hypervolume
from pareto_amb.search.proposals import ParetoSampler, make_sampler

LEVELS = (0.95, 0.99)
Params = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Curves on a grid: `values` (points, seeds, rungs, metrics), the first two metrics the objectives."""

    name: str
    points: list[Params]
    values: NDArray[np.float64]
    shares: NDArray[np.float64]  # of the budget, at each rung
    reference: NDArray[np.float64]

    @property
    def truth(self) -> NDArray[np.float64]:
        return self.values[:, :, -1, :2].mean(axis=1)

    @property
    def searched(self) -> dict[str, BaseDistribution]:
        sigmas = [p["sigma_tn"] for p in self.points]
        mixes = sorted({p["mix_ratio"] for p in self.points})
        return {
            "sigma_tn": FloatDistribution(min(sigmas), max(sigmas), log=True),
            "mix_ratio": CategoricalDistribution(mixes),
        }

    def nearest(self, params: Params) -> int:
        distance = [
            abs(np.log(p["sigma_tn"] / params["sigma_tn"]))
            if p["mix_ratio"] == params["mix_ratio"]
            else np.inf
            for p in self.points
        ]
        return int(np.argmin(distance))

    def from_rung(self, share: float) -> "Table":
        """The table without the rungs before `share` of the budget."""
        kept = self.shares >= share
        return Table(self.name, self.points, self.values[:, :, kept], self.shares[kept], self.reference)


def recorded(path: Path) -> Table:
    """A table of benchmarks/record_curves.py; its sigma_tn 0 rows are DDPM."""
    frame = pd.read_parquet(path).sort_values("rung")
    full = frame[frame.rung == frame.rung.max()]
    ddpm = full[full.sigma_tn == 0][["fid", "memorization"]].mean().to_numpy()
    frame = frame[frame.sigma_tn > 0]
    metrics = ["fid", "memorization", "similarity_mean"]
    curves = {key: rows[metrics].to_numpy() for key, rows in frame.groupby(["sigma_tn", "mix", "seed"])}
    points = sorted({(sigma, mix) for sigma, mix, _ in curves})
    seeds = sorted({seed for _, _, seed in curves})
    values = np.array([[curves[sigma, mix, seed] for seed in seeds] for sigma, mix in points])
    shares = np.sort(frame.images_seen.unique()) / frame.images_seen.max()
    named = [{"sigma_tn": sigma, "mix_ratio": mix} for sigma, mix in points]
    return Table(path.stem, named, values, shares, ddpm * [2, 1])


def synthetic(kind: str, n_sigma: int = 20, n_seeds: int = 3) -> Table:
    """`parallel`: a trial's rank is visible early. `crossing`: what learns fast ends badly."""
    rng = np.random.default_rng(0)
    sigmas = np.geomspace(0.05, 5, n_sigma)
    mixes = ["0.3", "0.5", "0.8", "natural"]
    shares = np.array([0.125, 0.25, 0.5, 0.75, 1.0])
    points, values = [], []
    for (sigma, u), (k, mix) in itertools.product(
        zip(sigmas, np.linspace(0, 1, n_sigma), strict=True), enumerate(mixes)
    ):
        fid = 20 + 60 * (u - 0.2 - 0.1 * k) ** 2 + 15 * u * (k == 1)
        copied = 0.02 + 0.3 * (u - 0.55 + 0.05 * k) ** 2 + 0.1 * (k == 3)
        speed = 3.0 if kind == "parallel" else 1.5 + 5 * (u - 0.5) ** 2 + k / 2
        curve = np.stack(
            [
                fid * (1 + 3 * np.exp(-speed * 3 * shares)) / (1 + 3 * np.exp(-speed * 3)),
                copied * shares ** (1 if kind == "parallel" else 1 + 2 * u),
            ],
            axis=1,
        )
        noise = 1 + 0.03 * rng.standard_normal((n_seeds, 1, 2)) + 0.01 * rng.standard_normal((n_seeds, 5, 2))
        points.append({"sigma_tn": float(sigma), "mix_ratio": mix})
        values.append(curve * noise)
    return Table(kind, points, np.array(values), shares, np.array([60.0, 0.3]))


class Search(Protocol):
    """What is simulated. `next` gives a trial, its parameters and the rung, from 1, that it is trained to."""

    def next(self) -> tuple[int, Params, int] | None: ...

    def report(self, trial: int, rung: int, values: NDArray[np.float64]) -> bool: ...


class ParetoAmb:
    """Ours, as `config` sets it."""

    def __init__(self, table: Table, seed: int, config: SearchConfig) -> None:
        self._n_rungs = len(table.shares)
        self._box = np.zeros(2), table.reference
        searched = table.searched
        self._sampler = ParetoSampler(
            searched,
            make_sampler(config, seed),
            n_objectives=2,
            n_startup=config.startup_trials,
            n_rungs=self._n_rungs,
            seed=seed,
        )
        self._rungs = (
            ParetoRungs(self._n_rungs, config.reduction_factor, n_objectives=2, extrapolate=True)
            if config.reduction_factor
            else None
        )
        self._params: list[Params] = []
        self._reached: list[int] = []

    def next(self) -> tuple[int, Params, int]:
        resumed = self._rungs.promotable() if self._rungs else None
        trial = len(self._params) if resumed is None else int(resumed)
        if resumed is None:
            self._params.append(self._sampler.propose(self._box))
            self._reached.append(0)
            self._sampler.begin(trial, self._params[trial])
        return trial, self._params[trial], self._reached[trial] + 1

    def report(self, trial: int, rung: int, values: NDArray[np.float64]) -> bool:
        self._reached[trial] = rung
        self._sampler.report(trial, rung, values.tolist())
        return self._rungs is None or self._rungs.report(str(trial), rung, values.tolist())


class ToTheEnd:
    """A search without early stopping: `ask` gives parameters, `tell` takes the objectives at the end."""

    def __init__(self, n_rungs: int, ask: Callable[[int], Params | None], tell: Callable[..., None]) -> None:
        self._n_rungs, self._ask, self._tell, self._count = n_rungs, ask, tell, itertools.count()

    def next(self) -> tuple[int, Params, int] | None:
        trial = next(self._count)
        params = self._ask(trial)
        return None if params is None else (trial, params, 1)

    def report(self, trial: int, rung: int, values: NDArray[np.float64]) -> bool:
        if rung == self._n_rungs:
            self._tell(trial, values)
        return True


def grid(table: Table, seed: int) -> Search:
    """Every point once, in random order."""
    order = np.random.default_rng(seed).permutation(len(table.points))
    return ToTheEnd(
        len(table.shares),
        lambda k: table.points[order[k]] if k < len(order) else None,
        lambda trial, values: None,
    )


def random_search(table: Table, seed: int) -> Search:
    study = optuna.create_study(sampler=RandomSampler(seed=seed))
    return ToTheEnd(len(table.shares), lambda k: study.ask(table.searched).params, lambda trial, values: None)


def ray_optuna(table: Table, seed: int, nsga2: bool = False) -> Search:
    """Ray's OptunaSearch as its documentation shows it for several metrics."""
    from ray.tune.search.optuna import OptunaSearch

    sampler: dict[str, Any] = {"sampler": NSGAIISampler(seed=seed)} if nsga2 else {"seed": seed}
    searcher = OptunaSearch(table.searched, metric=["fid", "memorization"], mode=["min", "min"], **sampler)

    def tell(trial: int, values: NDArray[np.float64]) -> None:
        searcher.on_trial_complete(str(trial), {"fid": values[0], "memorization": values[1]})

    return ToTheEnd(len(table.shares), lambda k: searcher.suggest(str(k)), tell)


class SyneTuneMOASHA:
    """Syne Tune's MOASHA with its default reduction factor, from the first rung on."""

    def __init__(self, table: Table, seed: int) -> None:
        from syne_tune.config_space import choice, loguniform
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        np.random.seed(seed)  # MOASHA draws from the global generator
        random.seed(seed)
        sigma, mix = table.searched["sigma_tn"], table.searched["mix_ratio"]
        assert isinstance(sigma, FloatDistribution)
        assert isinstance(mix, CategoricalDistribution)
        self._time = table.shares / table.shares[0]
        self._moasha = MOASHA(
            {"sigma_tn": loguniform(sigma.low, sigma.high), "mix_ratio": choice(list(mix.choices))},
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

    def report(self, trial: int, rung: int, values: NDArray[np.float64]) -> bool:
        shown = {"fid": values[0], "memorization": values[1], "time": self._time[rung - 1]}
        return bool(self._moasha.on_trial_result(self._trials[trial], shown) == "CONTINUE")


def replay(search: Search, table: Table, workers: int, limit: float, seed: int) -> list[float]:
    """The cost at which each of LEVELS was reached; `limit` where it was not."""
    rng = np.random.default_rng(seed)
    steps = np.diff(table.shares, prepend=0.0)
    seeds: dict[int, tuple[int, int]] = {}
    queue: list[tuple[float, int, int]] = []
    truth, whole = table.truth, hypervolume(table.truth, table.reference)
    held: list[int] = []
    before, cost, reached = 0.0, 0.0, [limit] * len(LEVELS)

    def start(now: float) -> None:
        if (found := search.next()) is not None:
            trial, params, rung = found
            if trial not in seeds:
                seeds[trial] = table.nearest(params), int(rng.integers(table.values.shape[1]))
            heapq.heappush(queue, (now + steps[rung - 1] * rng.uniform(0.9, 1.1), trial, rung))

    for _ in range(workers):
        start(0.0)
    while queue and cost < limit and reached[-1] == limit:
        cost += (queue[0][0] - before) * len(queue)
        before, trial, rung = heapq.heappop(queue)
        point, drawn = seeds[trial]
        goes_on = search.report(trial, rung, table.values[point, drawn, rung - 1])
        if rung == len(steps):
            held.append(point)
            share = hypervolume(truth[held], table.reference) / whole
            reached = [
                min(r, cost) if share >= level else r for r, level in zip(reached, LEVELS, strict=True)
            ]
        if goes_on and rung < len(steps):
            heapq.heappush(queue, (before + steps[rung] * rng.uniform(0.9, 1.1), trial, rung + 1))
        else:
            start(before)
    return reached


def searches(grace: float) -> dict[str, tuple[Callable[[Table, int], Search], float]]:
    """Name -> how to make it, and the share of the budget before which it does not look."""

    def ours(**settings: Any) -> Callable[[Table, int], Search]:
        return lambda table, seed: ParetoAmb(table, seed, SearchConfig(**settings))

    return {
        "grid, random order": (grid, 1.0),
        "random": (random_search, 1.0),
        "Ray OptunaSearch, TPE": (ray_optuna, 1.0),
        "Ray OptunaSearch, NSGA-II": (lambda t, s: ray_optuna(t, s, nsga2=True), 1.0),
        "Syne Tune MOASHA": (SyneTuneMOASHA, 0.0),
        "ours: gp, halving": (ours(sampler="gp"), grace),
        "ours: gp, to the end": (ours(sampler="gp", reduction_factor=None), 1.0),
        "ours: tpe, halving": (ours(sampler="tpe"), grace),
        "ours: tpe, to the end": (ours(sampler="tpe", reduction_factor=None), 1.0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    curves = Path(__file__).parent / "curves"
    parser.add_argument("--recorded", type=Path, nargs="*", default=sorted(curves.glob("*.parquet")))
    parser.add_argument("--synthetic", nargs="*", default=["parallel", "crossing"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repetitions", type=int, default=50)
    parser.add_argument("--limit", type=float, default=60.0, help="full trainings, at most")
    parser.add_argument("--grace", type=float, default=0.5, help="ours stops no trial before this share")
    parser.add_argument("--only", default="", help="searches whose name contains this")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(f"optuna {optuna.__version__}, {platform.machine()}, {options.repetitions} repetitions")
    tables = [recorded(path) for path in options.recorded] + [synthetic(kind) for kind in options.synthetic]
    for table in tables:
        print(f"\n{table.name}: {len(table.points)} points, {table.values.shape[1]} seeds\n", flush=True)
        levels = " | ".join(f"{level:.0%} of the hypervolume | not reached" for level in LEVELS)
        print(f"| search | workers | {levels} |\n|---|---:|{'---:|' * 2 * len(LEVELS)}")
        for (name, (make, grace)), workers in itertools.product(
            searches(options.grace).items(), options.workers
        ):
            if options.only in name:
                seen = table.from_rung(grace)
                costs = np.array(
                    [
                        replay(make(seen, seed), seen, workers, options.limit, seed)
                        for seed in range(options.repetitions)
                    ]
                )
                print(
                    f"| {name} | {workers} | {' | '.join(_summary(c, options.limit) for c in costs.T)} |",
                    flush=True,
                )


def _summary(costs: NDArray[np.float64], limit: float) -> str:
    low, high = np.quantile(costs, [0.05, 0.95])
    return f"{costs.mean():.1f} ({low:.1f} to {high:.1f}) | {(costs >= limit).sum()}"


if __name__ == "__main__":
    main()
