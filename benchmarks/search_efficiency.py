"""How much training a search needs before it holds the frontier, and what its recommendation is worth.

    pip install syne-tune botorch
    python benchmarks/search_efficiency.py

A table holds, for every point of a grid and several seeds, the figures at every rung: recorded from real
trainings (benchmarks/tables, made by record_curves.py) or synthetic. A search is replayed on simulated
asynchronous workers: it proposes parameters, the nearest point of the grid and a seed drawn at random answer.
The cost is what was trained until then, in full trainings, trials under way included. Ours and the peers
(search_peers.py) are asked for the same two things, over all stopping points and at full budget alone:

- The frontier. A search holds a stopping point once it trained that far; it counts with its mean over seeds,
  so luck does not pay. Printed is the cost until those held have 95% and 99% of the hypervolume of the whole
  table, below twice DDPM's FID and DDPM's memorization.
- The recommendation: of what the search has measured, the fewest copies at an FID no worse than DDPM's where
  it is best, by a standard deviation of its seeds. Its regret is the memorization there of the seeds that the
  search has not seen, above the least that the table has at such an FID. Printed is the cost until it is
  within a standard deviation of a seed for the first time, with an FID of those seeds that is no worse by
  more than such a deviation; the mean regret after --costs; and how often the FID was worse. Both once more
  where the last two trainings repeat the two best points with another seed, and the mean of both seeds
  decides, as a sweep's confirmation has it; a third seed judges.

A repetition that does not get there counts with --limit, and is counted. Means and 90% intervals.

With --trials N, what ours of N trials costs and holds in the end is printed instead, to tell what early
stopping saves.
"""

import argparse
import heapq
import itertools
import platform
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from search_peers import MAX_REPETITIONS, PEERS, Params, Search

from pareto_amb.config import SearchConfig
from pareto_amb.search.early_stopping import FrontierRungs
from pareto_amb.search.pareto import hypervolume, non_dominated
from pareto_amb.search.proposals import ParetoSampler, make_sampler

LEVELS = (0.95, 0.99)
CANDIDATES = 2
"""Points of which a recommendation has another seed, where it is confirmed."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Curves on a grid: `values` (points, seeds, rungs, metrics), the first two metrics the objectives.

    `ddpm` (seeds, rungs, metrics) are its curves. At the first `n_probe_rungs` the objectives are NaN. With
    `full` the last rung alone is a point where one may stop.
    """

    name: str
    points: list[Params]
    values: Array
    shares: Array  # of the budget, at each rung
    ddpm: Array
    n_probe_rungs: int = 0
    full: bool = False

    @property
    def without_probes(self) -> "Table":
        """The table as peers see it, which know of objectives alone."""
        n = self.n_probe_rungs
        return replace(
            self,
            values=self.values[:, :, n:, :2],
            shares=self.shares[n:],
            ddpm=self.ddpm[:, n:, :2],
            n_probe_rungs=0,
        )

    @property
    def reference(self) -> Array:
        return np.asarray(self.ddpm[:, -1, :2].mean(axis=0) * [2, 1])

    @cached_property
    def stops(self) -> list[int]:
        """The rungs, from 0, that a training may stop at."""
        rungs = range(self.n_probe_rungs, len(self.shares))
        return [*rungs[-1:]] if self.full else [*rungs]

    @cached_property
    def truth(self) -> Array:
        """The mean over seeds: (points, rungs, 2)."""
        return np.asarray(self.values[..., :2].mean(axis=1))

    @cached_property
    def volume(self) -> float:
        return hypervolume(self.truth[:, self.stops].reshape(-1, 2), self.reference)

    @cached_property
    def worst_fid(self) -> float:
        """That of DDPM where it is best, and a standard deviation of its seeds."""
        fid = self.ddpm[:, self.stops, 0]
        best = fid.mean(axis=0).argmin()
        return float(fid[:, best].mean() + fid[:, best].std(ddof=1))

    @cached_property
    def least(self) -> tuple[float, Array]:
        """The fewest copies at an FID no worse, and the standard deviations of a seed around there (2,).

        The latter are means over the ten best such points.
        """
        fid, copies = np.moveaxis(self.truth[:, self.stops].reshape(-1, 2), -1, 0)
        scatter = self.values[..., :2].std(axis=1, ddof=1)[:, self.stops].reshape(-1, 2)
        best = np.argsort(np.where(fid <= self.worst_fid, copies, np.inf), kind="stable")[:10]
        return float(copies[best[0]]), np.asarray(scatter[best].mean(axis=0))

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


def recorded(path: Path, first: float) -> Table:
    """A table of benchmarks/record_curves.py; sigma_tn 0 is DDPM.

    Rungs before the share `first` of the budget are probe rungs, or left out where nothing was probed.
    """
    frame = pd.read_parquet(path).sort_values("rung")
    if "branched_at" in frame:
        frame = frame[frame.branched_at == 0]
    probes = [name for name in frame if name.startswith(("probe_train_", "probe_heldout_"))]
    frame[probes] = np.log(frame[probes])
    early = frame.images_seen < first * frame.images_seen.max()
    metrics = ["fid", "memorization", "similarity_mean", *probes]
    frame.loc[early, metrics[:3]] = np.nan
    if not probes:
        frame = frame[~early]
    n_probe_rungs = frame.rung[frame.fid.isna()].nunique()
    ddpm = [rows[metrics] for _, rows in frame[frame.sigma_tn == 0].groupby("seed")]
    frame = frame[frame.sigma_tn > 0]
    curves = {key: rows[metrics].to_numpy() for key, rows in frame.groupby(["sigma_tn", "mix", "seed"])}
    points = sorted({(sigma, mix) for sigma, mix, _ in curves})
    seeds = sorted({seed for _, _, seed in curves})
    values = np.array([[curves[sigma, mix, seed] for seed in seeds] for sigma, mix in points])
    shares = np.sort(frame.images_seen.unique()) / frame.images_seen.max()
    named = [{"sigma_tn": sigma, "mix_ratio": mix} for sigma, mix in points]
    return Table(path.stem, named, values, shares, np.array(ddpm), n_probe_rungs)


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
    ddpm = np.stack([30 * (1 + 3 * np.exp(-4 * shares)), 0.3 * shares], axis=1)
    seeds = 1 + 0.03 * rng.standard_normal((n_seeds, 1, 2))
    return Table(kind, points, np.array(values), shares, ddpm * seeds)


class ParetoAmb:
    """Ours, as `config` sets it. It begins `n_trials` trials at most, and knows DDPM's curves."""

    def __init__(self, table: Table, seed: int, config: SearchConfig, n_trials: float = np.inf) -> None:
        n_rungs = len(table.shares)
        self._box = np.zeros(2), table.reference
        self._sampler = ParetoSampler(
            table.searched,
            make_sampler(config, seed, ["sigma_tn"]),
            n_objectives=2,
            n_startup=config.startup_trials,
            n_rungs=n_rungs,
            n_probe_rungs=table.n_probe_rungs,
            seed=seed,
        )
        rungs = FrontierRungs(n_rungs, n_objectives=2, n_probe_rungs=table.n_probe_rungs)
        self._rungs = rungs if config.early_stopping else None
        for k, curve in enumerate(table.ddpm):
            for rung, values in enumerate(curve.tolist(), 1):
                self._sampler.report(f"ddpm{k}", rung, values)
                rungs.enter(f"ddpm{k}", rung, values)
        self._n_trials = n_trials
        self._params: list[Params] = []
        self._reached: list[int] = []

    def next(self) -> tuple[int, Params, int] | None:
        resumed = self._rungs.promotable() if self._rungs else None
        if resumed is None and len(self._params) >= self._n_trials:
            return None
        trial = len(self._params) if resumed is None else int(resumed)
        if resumed is None:
            self._params.append(self._sampler.propose(self._box))
            self._reached.append(0)
            self._sampler.begin(trial, self._params[trial])
        return trial, self._params[trial], self._reached[trial] + 1

    def report(self, trial: int, rung: int, values: Array) -> bool:
        self._reached[trial] = rung
        self._sampler.report(trial, rung, values.tolist())
        return self._rungs is None or self._rungs.report(str(trial), rung, values.tolist())


@dataclass(frozen=True)
class Measured:
    """What a search has seen: the rung, from 0, of a point and a seed of the table, at a cost."""

    cost: float
    point: int
    seed: int
    rung: int


def replay(search: Search, table: Table, workers: int, limit: float, seed: int) -> Iterator[Measured]:
    """All that a search measures until the cost is `limit`."""
    rng = np.random.default_rng(seed)
    steps = np.diff(table.shares, prepend=0.0)
    drawn: dict[int, tuple[int, int]] = {}
    queue: list[tuple[float, int, int]] = []
    before = cost = 0.0

    def start(now: float) -> None:
        if (found := search.next()) is not None:
            trial, params, rung = found
            if trial not in drawn:
                drawn[trial] = table.nearest(params), int(rng.integers(table.values.shape[1]))
            heapq.heappush(queue, (now + steps[rung - 1] * rng.uniform(0.9, 1.1), trial, rung))

    for _ in range(workers):
        start(0.0)
    while queue and cost < limit:
        cost += (queue[0][0] - before) * len(queue)
        before, trial, rung = heapq.heappop(queue)
        goes_on = search.report(trial, rung, table.values[*drawn[trial], rung - 1])
        yield Measured(cost, *drawn[trial], rung - 1)
        if goes_on and rung < len(steps):
            heapq.heappush(queue, (before + steps[rung] * rng.uniform(0.9, 1.1), trial, rung + 1))
        else:
            start(before)


@dataclass(frozen=True)
class Score:
    """Costs at which LEVELS and a small regret were reached, `limit` where not; the regret after `costs`, and
    whether the FID did not hold then; both again where the best candidates were confirmed.
    """

    reached: list[float]
    regret: list[float]
    broken: list[bool]
    confirmed: list[tuple[float, bool]]


def score(events: list[Measured], table: Table, limit: float, costs: list[float]) -> Score:
    """What `events` come to."""
    least, scatter = table.least
    reached, held, best = [limit] * (len(LEVELS) + 1), np.empty((0, 2)), (True, np.inf, np.inf)
    regret, broken = np.full(len(costs), np.nan), np.ones(len(costs), dtype=bool)
    for event in (e for e in events if e.rung in table.stops):
        held = np.vstack([held, table.truth[event.point, event.rung]])
        held = held[non_dominated(held)]
        share = hypervolume(held, table.reference) / table.volume
        fid, copies = table.values[event.point, event.seed, event.rung, :2].tolist()
        shown = _rank(table, fid, copies)
        if shown < best:
            best = shown
            unseen = np.delete(table.values[event.point, :, event.rung, :2], event.seed, axis=0).mean(axis=0)
            later = np.array(costs) >= event.cost
            over = np.array([unseen[0] - table.worst_fid, unseen[1] - least])
            regret[later], broken[later] = over[1], over[0] > scatter[0]
        small = (over <= scatter).all()
        for k, good in enumerate((*(share >= level for level in LEVELS), small)):
            reached[k] = min(reached[k], event.cost) if good else reached[k]
    again = [confirmed(events, table, cost) for cost in costs if table.values.shape[1] > 2]
    return Score(reached, regret.tolist(), broken.tolist(), again)


def _rank(table: Table, fid: float, copies: float) -> tuple[bool, float, float]:
    """By what the recommendation is chosen: the least of it."""
    return fid > table.worst_fid, copies if fid <= table.worst_fid else fid, fid


def confirmed(events: list[Measured], table: Table, cost: float) -> tuple[float, bool]:
    """The regret at `cost`, and whether the FID did not hold, where the last trainings repeat the best.

    These are CANDIDATES, with one other seed each; the best is taken by the mean of both seeds, and judged by
    seeds that neither was: the table has three. NaN where nothing was measured.
    """
    n_seeds, (least, scatter) = table.values.shape[1], table.least
    known = [e for e in events if e.rung in table.stops and e.cost <= cost - CANDIDATES]
    if not known:
        return np.nan, True
    figures = table.values[..., :2]
    best: dict[int, Measured] = {}
    for event in sorted(known, key=lambda e: _rank(table, *figures[e.point, e.seed, e.rung].tolist())):
        best.setdefault(event.point, event)
    repeated = [(e.point, e.rung, [e.seed, (e.seed + 1) % n_seeds]) for e in [*best.values()][:CANDIDATES]]
    means = [
        _rank(table, *figures[point, seeds, rung].mean(axis=0).tolist()) for point, rung, seeds in repeated
    ]
    point, rung, seeds = repeated[means.index(min(means))]
    fid, copies = np.delete(figures[point, :, rung], seeds, axis=0).mean(axis=0).tolist()
    return copies - least, fid - table.worst_fid > scatter[0]


def searches() -> dict[str, Callable[[Table, int], Search]]:
    """Name -> how to make it."""

    def peer(name: str) -> Callable[[Table, int], Search]:
        make, _ = PEERS[name]
        return lambda table, seed: make(table.searched, table.shares, table.points, table.reference, seed)

    def ours(**settings: Any) -> Callable[[Table, int], Search]:
        return lambda table, seed: ParetoAmb(table, seed, SearchConfig(**settings))

    return {
        **{name: peer(name) for name in PEERS},
        "ours: gp": ours(sampler="gp"),
        "ours: gp, to the end": ours(sampler="gp", early_stopping=False),
        "ours: tpe": ours(sampler="tpe"),
    }


def main() -> None:
    options = parse_options()
    warnings.filterwarnings("ignore", category=UserWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(f"optuna {optuna.__version__}, {platform.machine()}, {options.repetitions} repetitions")
    tables = [recorded(path, options.first) for path in options.recorded]
    tables += [synthetic(kind) for kind in options.synthetic]
    for table in tables:
        n_points, n_seeds = table.values.shape[:2]
        print(f"\n{table.name}: {n_points} points, {n_seeds} seeds", flush=True)
        if options.trials:
            _print_savings(table, options)
            continue
        levels = [*(f"{level:.0%} of the hypervolume" for level in LEVELS), "small regret"]
        titles = [f"{level} | not reached" for level in levels]
        titles += [f"regret after {cost:g} | FID broken" for cost in options.costs]
        if n_seeds > 2:
            titles += [f"confirmed: regret after {cost:g} | FID broken" for cost in options.costs]
        print(f"\n| search | workers | stops | {' | '.join(titles)} |")
        print(f"|---|---:|---|{'---:|' * 2 * len(titles)}")
        chosen = [(n, make) for n, make in searches().items() if any(o in n for o in options.only)]
        for (name, make), workers in itertools.product(chosen, options.workers):
            seen = table if name.startswith("ours") else table.without_probes
            views = [seen, replace(seen, full=True)]
            runs = [
                [*replay(make(seen, seed), seen, workers, options.limit, seed)]
                for seed in range(min(options.repetitions, MAX_REPETITIONS.get(name, options.repetitions)))
            ]
            for view in views:
                scores = [score(events, view, options.limit, options.costs) for events in runs]
                stops = "the end" if view.full else "all"
                print(f"| {name} | {workers} | {stops} | {_summary(scores, options.limit)} |", flush=True)


def _print_savings(table: Table, options: argparse.Namespace) -> None:
    """What ours of a given number of trials costs, and the share of the hypervolume that it holds."""
    print("\n| trials | workers | early stopping | cost | share of the hypervolume |")
    print("|---:|---:|---|---:|---:|")
    figures = table.without_probes
    n = table.n_probe_rungs
    with_similarity = replace(figures, values=table.values[:, :, n:, :3], ddpm=table.ddpm[:, n:, :3])
    ways = {"by probes": (table, True), "by figures": (with_similarity, True), "none": (figures, False)}
    for trials, workers in itertools.product(options.trials, options.workers):
        for name, (seen, stops) in ways.items():
            costs, shares = [], []
            for seed in range(options.repetitions):
                search = ParetoAmb(seen, seed, SearchConfig(early_stopping=stops), trials)
                events = [*replay(search, seen, workers, np.inf, seed)]
                held = np.array([seen.truth[e.point, e.rung] for e in events if e.rung in seen.stops])
                costs.append(events[-1].cost)
                shares.append(hypervolume(held, seen.reference) / seen.volume)
            cost, share = float(np.mean(costs)), float(np.mean(shares))
            print(f"| {trials} | {workers} | {name} | {cost:.1f} | {share:.1%} |", flush=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tables = [Path(__file__).parent / "tables" / f"{name}.parquet" for name in ("digits50", "cifar50")]
    parser.add_argument("--recorded", type=Path, nargs="*", default=tables)
    parser.add_argument("--synthetic", nargs="*", default=["parallel", "crossing"])
    parser.add_argument("--first", type=float, default=0.25, help="the share of the budget measured first")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--limit", type=float, default=60.0, help="full trainings, at most")
    parser.add_argument("--costs", type=float, nargs="+", default=[8, 16, 32])
    parser.add_argument("--trials", type=int, nargs="+", default=[], help="compare searches of so many")
    parser.add_argument("--only", nargs="+", default=[""], help="searches whose name contains one of these")
    return parser.parse_args()


def _summary(scores: list[Score], limit: float) -> str:
    reached = np.array([s.reached for s in scores])
    low, high = np.quantile(reached, [0.05, 0.95], axis=0)
    cells = [
        f"{costs.mean():.1f} ({a:.1f} to {b:.1f}) | {(costs >= limit).sum()}"
        for costs, a, b in zip(reached.T, low, high, strict=True)
    ]
    regret, broken = np.array([s.regret for s in scores]), np.array([s.broken for s in scores])
    cells += [f"{np.nanmean(r):.3f} | {b.mean():.0%}" for r, b in zip(regret.T, broken.T, strict=True)]
    again = np.array([s.confirmed for s in scores], dtype=np.float64)
    cells += (
        [f"{np.nanmean(r):.3f} | {b.mean():.0%}" for r, b in again.transpose(1, 2, 0)] if again.size else []
    )
    return " | ".join(cells)


if __name__ == "__main__":
    main()
