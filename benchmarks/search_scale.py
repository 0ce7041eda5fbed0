"""What a decision of the search costs as a sweep grows: early stopping and the sampler, simulated.

    python benchmarks/search_scale.py

Trials of 5 rungs run on simulated workers; every report of a rung, every promotion asked for and every
proposal is a decision, and only those are timed. Prints the mean cost of each kind.
"""

import argparse
import heapq
import platform
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from pareto_amb.config import SearchConfig
from pareto_amb.search.early_stopping import FrontierRungs
from pareto_amb.search.proposals import ParetoSampler, make_sampler

N_RUNGS = 5


class Clock:
    """Sums the CPU seconds of each kind of decision, which other programs do not lengthen."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.count: dict[str, int] = defaultdict(int)

    def timed(self, kind: str, decide: Callable[[], Any]) -> Any:
        started = time.process_time()
        decided = decide()
        self.seconds[kind] += time.process_time() - started
        self.count[kind] += 1
        return decided


def simulate(n_trials: int, workers: int) -> Clock:
    """A sweep of `n_trials` on a problem whose two objectives trade off along sigma_tn."""
    searched: dict[str, BaseDistribution] = {
        "sigma_tn": FloatDistribution(0.05, 5.0, log=True),
        "mix_ratio": CategoricalDistribution(["natural", 0.5]),
    }
    sampler = make_sampler(SearchConfig(), 0)
    search = ParetoSampler(searched, sampler, n_objectives=2, n_startup=8, n_rungs=N_RUNGS)
    rungs = FrontierRungs(N_RUNGS, n_objectives=2)
    rng, clock = np.random.default_rng(0), Clock()
    params: list[dict[str, Any]] = []
    reached: dict[str, int] = {}
    queue: list[tuple[float, str]] = []

    def start(now: float) -> None:
        resumed = clock.timed("promotion", rungs.promotable)
        if resumed is None and len(params) < n_trials:
            resumed = str(len(params))
            params.append(clock.timed("proposal", search.propose))
            search.begin(resumed, params[-1])
            reached[resumed] = 0
        if resumed is not None:
            heapq.heappush(queue, (now + rng.uniform(0.9, 1.1), resumed))

    for _ in range(workers):
        start(0.0)
    while queue:
        now, trial = heapq.heappop(queue)
        reached[trial] += 1
        u, rung = np.log(params[int(trial)]["sigma_tn"]), reached[trial]
        similarity = float(np.exp(-u))
        values = [
            100 + 10 * u**2 + rng.normal() + 20 / rung,
            similarity * rung / N_RUNGS + 0.1 * rng.random(),
            similarity,
        ]
        goes_on = clock.timed("report", lambda t=trial, r=rung, v=values: rungs.report(t, r, v))
        search.report(trial, rung, values)
        if goes_on and rung < N_RUNGS:
            heapq.heappush(queue, (now + rng.uniform(0.9, 1.1), trial))
        else:
            start(now)
    return clock


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--workers", type=int, default=16)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(f"optuna {optuna.__version__}, {platform.machine()}, {options.workers} simulated workers\n")
    print("| trials | decisions | CPU ms a decision | report | promotion | proposal |")
    print("|---:|---:|---:|---:|---:|---:|")
    for n_trials in options.trials:
        clock = simulate(n_trials, options.workers)
        total, count = sum(clock.seconds.values()), sum(clock.count.values())
        each = [1e3 * clock.seconds[k] / clock.count[k] for k in ("report", "promotion", "proposal")]
        figures = " | ".join(f"{ms:.2f}" for ms in (1e3 * total / count, *each))
        print(f"| {n_trials:,} | {count:,} | {figures} |")


if __name__ == "__main__":
    main()
