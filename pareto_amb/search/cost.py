"""What a sweep costs, told before it begins."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from pareto_amb.config import SweepConfig
from pareto_amb.search.halving import ParetoRungs, expected_budget

N_SIMULATED = 100
N_WORKERS = 4
NOISE = 0.3


def expected_trainings(config: SweepConfig) -> float:
    """How many full trainings a sweep costs on average, baselines and confirmation included."""
    search, rungs, share = config.search, config.rung_images(), 1.0
    if search.reduction_factor is not None:
        count = min(search.trials, N_SIMULATED)
        shares = [
            _simulated_share(rungs, search.reduction_factor, search.brackets, count, seed)
            for seed in range(-(-N_SIMULATED // count))
        ]
        share = float(np.mean(shares))
    searched = search.trials * len(search.methods) * share
    return (search.baseline_seeds + searched + search.n_confirmations()) * len(config.space.train_size)


def _simulated_share(
    rungs: Sequence[float], reduction_factor: float, brackets: int, n_trials: int, seed: int
) -> float:
    """What a trial costs on average, in full trainings, when `n_trials` are halved.

    The rule itself is tried, on N_WORKERS trials at a time. Nothing is known of them yet: their two
    objectives are drawn from the unit interval, and shown with noise before the last rung.
    """
    rng, search = np.random.default_rng(seed), ParetoRungs(len(rungs), reduction_factor, foresee=True)
    steps, last = np.diff(rungs, prepend=0.0), len(rungs) - 1
    ends, firsts = rng.random((n_trials, 2)), _first_rungs(rungs, reduction_factor, brackets, n_trials)
    new = deque(range(n_trials))
    running: deque[tuple[int, int]] = deque()
    spent = 0.0
    while True:
        while len(running) < N_WORKERS and (found := search.candidates()):
            rung, name = found[0]
            search.go_on(name)
            running.append((int(name), rung + 1))
        while len(running) < N_WORKERS and new:
            running.append((new.popleft(), 0))
        if not running:
            return float(spent / (n_trials * rungs[-1]))
        trial, rung = running.popleft()
        spent += steps[rung]
        if rung == last:
            search.enter(str(trial), rung, ends[trial].tolist())
            continue
        shown = (ends[trial] + NOISE * rng.standard_normal(2)).tolist()
        if rung < firsts[trial]:
            search.enter(str(trial), rung, shown)
            running.append((trial, rung + 1))
        elif search.report(str(trial), rung, shown):
            running.append((trial, rung + 1))


def _first_rungs(rungs: Sequence[float], reduction_factor: float, brackets: int, n_trials: int) -> list[int]:
    """The rung from which each trial is judged: every bracket gets the same budget."""
    costs = [expected_budget(rungs, reduction_factor, first) for first in range(brackets)]
    begun, firsts = [0] * brackets, []
    for _ in range(n_trials):
        first = min(range(brackets), key=lambda bracket: begun[bracket] * costs[bracket])
        begun[first] += 1
        firsts.append(first)
    return firsts
