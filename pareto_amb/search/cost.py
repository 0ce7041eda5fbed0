"""What a sweep costs, told before it begins."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from pareto_amb.config import SweepConfig
from pareto_amb.declared import Declared
from pareto_amb.search.halving import Brackets, ParetoRungs

N_SIMULATED = 100
N_WORKERS = 4
NOISE = 0.3


def planned_trainings(config: SweepConfig, declared: Declared) -> tuple[int, int, int]:
    """How many trainings a sweep begins at most, how many repeat its best, and their controls."""
    search, sizes = config.search, len(config.space.train_size)
    searched = (search.baseline_seeds + sum(config.n_trials(declared).values())) * sizes
    return searched, config.n_confirmations(declared) * sizes, config.n_controls(declared) * sizes


def expected_trainings(config: SweepConfig, declared: Declared) -> float:
    """How many full trainings a sweep costs on average, baselines included.

    What follows the search is counted in full: it is not known yet where the best trainings stop.
    """
    counts = list(config.n_trials(declared).values())
    costs = {count: count * _expected_share(config, count) for count in set(counts)}
    searched = sum(costs[count] for count in counts)
    repeated = config.n_confirmations(declared) + config.n_controls(declared)
    return (config.search.baseline_seeds + searched + repeated) * len(config.space.train_size)


def _expected_share(config: SweepConfig, trials: int) -> float:
    """What a trial of so many costs on average, in full trainings."""
    search = config.search
    if search.reduction_factor is None:
        return 1.0
    count = min(trials, N_SIMULATED)
    shape = (count, len(search.objectives))
    shares = [
        _simulated_share(config.full_rung_images(), search.reduction_factor, search.brackets, shape, seed)
        for seed in range(-(-N_SIMULATED // count))
    ]
    return float(np.mean(shares))


def describe_plan(config: SweepConfig, declared: Declared) -> list[str]:
    """What a sweep will do and cost, in lines for people."""
    sizes, search, rungs = config.space.train_size, config.search, config.full_rung_images()
    searched, repeated, controls = planned_trainings(config, declared)
    trainings = searched + repeated + controls
    seen = round(expected_trainings(config, declared) * rungs[-1])
    generated = (searched * len(rungs) + repeated + controls) * config.evaluation.n_samples
    some, about, at_most = "", "", ""
    if search.reduction_factor is not None:
        some, about, at_most = " that runs to the end", "about ", "at most "
    methods = ", ".join(f"{count} of {method}" for method, count in config.n_trials(declared).items())
    lines = [
        f"{trainings} trainings: for each of the train sizes {', '.join(map(str, sizes))},",
        f"  {search.baseline_seeds} DDPM baselines, {methods}",
    ]
    if search.sampler == "grid":
        in_full = "; all to the end with search.reduction_factor=null" if some else ""
        lines.append(f"  a grid: every combination of the listed values{in_full}")
    if repeated:
        best, seeds = search.confirm.candidates, search.confirm.seeds
        lines.append(f"  and after the search the best {best} again, each with {seeds} fresh seeds")
    if controls:
        lines.append("  and beside each of these its control, on clean images at the same noise levels")
    final = config.evaluation.final_samples
    if final is not None:
        measured = search.baseline_seeds * len(sizes) + repeated + controls
        generated += measured * (final - config.evaluation.n_samples)
        lines.append(f"  of them {measured}, baselines too, are measured on {final:,} images at their end")
    at_their_end = ", repeats at their end" if repeated else ""
    probed = ", ".join(f"{n:,}" for n in config.probe_images())
    return [
        *lines,
        f"{rungs[-1]:,} images seen by each{some}, {about}{seen:,} in all",
        *([f"probed at {probed} images seen, where nothing is generated,"] if probed else []),
        f"measured at {', '.join(f'{n:,}' for n in rungs)} images seen{at_their_end},",
        f"  {at_most}{generated:,} images generated in all",
    ]


def _simulated_share(
    rungs: Sequence[float], reduction_factor: float, brackets: int, shape: tuple[int, int], seed: int
) -> float:
    """What a trial costs on average, in full trainings, when trials by objectives (n, m) are halved.

    The rule itself is tried, on N_WORKERS trials at a time. Nothing is known of them yet: their objectives
    are drawn from the unit interval, and shown with noise before the last rung.
    """
    (n_trials, n_objectives), last = shape, len(rungs)
    rng, search = np.random.default_rng(seed), ParetoRungs(last, reduction_factor, extrapolate=True)
    ends, firsts = rng.random(shape), _first_rungs(Brackets(rungs, reduction_factor, brackets), n_trials)
    steps = np.diff(rungs, prepend=0.0)
    new = deque(range(n_trials))
    running: deque[tuple[int, int]] = deque()
    spent = 0.0
    while True:
        while len(running) < N_WORKERS and (found := search.candidates()):
            rung, name = found[0]
            search.go_on(name)
            running.append((int(name), rung + 1))
        while len(running) < N_WORKERS and new:
            running.append((new.popleft(), 1))
        if not running:
            return float(spent / (n_trials * rungs[-1]))
        trial, rung = running.popleft()
        spent += steps[rung - 1]
        if rung == last:
            search.enter(str(trial), rung, ends[trial].tolist())
            continue
        shown = (ends[trial] + NOISE * rng.standard_normal(n_objectives)).tolist()
        if rung < firsts[trial]:
            search.enter(str(trial), rung, shown)
            running.append((trial, rung + 1))
        elif search.report(str(trial), rung, shown):
            running.append((trial, rung + 1))


def _first_rungs(brackets: Brackets, n_trials: int) -> list[int]:
    """The rung from which each trial is judged."""
    firsts = []
    for _ in range(n_trials):
        firsts.append(brackets.next())
        brackets.begin(firsts[-1])
    return firsts
