"""What a sweep costs, told before it begins."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from pareto_amb.config import SweepConfig
from pareto_amb.declared import Declared
from pareto_amb.search.early_stopping import FrontierRungs

MEASURED_SECONDS = 30.0
"""A dry run measures for so long, at most, how fast this machine trains."""

N_SIMULATED = 100
N_WORKERS = 4
NOISE = 0.5


def planned_trainings(config: SweepConfig, declared: Declared) -> tuple[int, int, int]:
    """How many trainings a sweep begins at most, how many repeat its best, and their controls."""
    search, sizes = config.search, len(config.space.train_size)
    searched = (search.baseline_seeds + sum(config.n_trials(declared).values())) * sizes
    return searched, config.n_confirmations(declared) * sizes, config.n_controls(declared) * sizes


def expected_trainings(config: SweepConfig, declared: Declared) -> float:
    """How many full trainings a sweep costs on average, baselines included.

    What follows the search is counted in full: it is not known yet where the best trainings stop. Branched
    trials cost what is left from the first rung that they may be branched at: a later one is not known yet.
    """
    counts = list(config.n_trials(declared).values())
    costs = {count: count * _expected_share(config, count) for count in set(counts)}
    searched = sum(costs[count] for count in counts)
    repeated = config.n_confirmations(declared) + config.n_controls(declared)
    return (config.search.baseline_seeds + searched + repeated) * len(config.space.train_size)


def planned_samples(config: SweepConfig, declared: Declared) -> int:
    """How many images a sweep generates at most."""
    sizes, evaluation = len(config.space.train_size), config.evaluation
    searched, repeated, controls = planned_trainings(config, declared)
    scratch = config.n_from_scratch(declared) * sizes
    measured = (searched + scratch) * len(config.full_rung_images()) + repeated - scratch + controls
    generated = measured * evaluation.n_samples
    if evaluation.final_samples is not None:
        finals = config.search.baseline_seeds * sizes + repeated + controls
        generated += finals * (evaluation.final_samples - evaluation.n_samples)
    return generated


def _expected_share(config: SweepConfig, trials: int) -> float:
    """What a trial of so many costs on average, in full trainings."""
    rungs, start = config.full_rung_images(), _branched_at(config)
    if not config.search.early_stopping:
        return 1.0 - start / rungs[-1]
    count = min(trials, N_SIMULATED)
    shape = (count, len(config.search.objectives))
    ahead, seeds = [images for images in rungs if images > start], range(-(-N_SIMULATED // count))
    return float(np.mean([_simulated_share(ahead, shape, seed, start) for seed in seeds]))


def _branched_at(config: SweepConfig) -> int:
    """The fewest images after which trials go on from a baseline; 0 from scratch."""
    rungs = config.branching_rungs()
    return config.rung_images()[rungs[0] - 1] if rungs else 0


def describe_plan(config: SweepConfig, declared: Declared) -> list[str]:
    """What a sweep will do and cost, in lines for people."""
    sizes, search, rungs = config.space.train_size, config.search, config.full_rung_images()
    searched, repeated, controls = planned_trainings(config, declared)
    trainings = searched + repeated + controls
    seen = round(expected_trainings(config, declared) * rungs[-1])
    scratch = config.n_from_scratch(declared) * len(sizes)
    generated = planned_samples(config, declared)
    some, about, at_most = "", "", ""
    if search.early_stopping:
        some, about, at_most = " that runs to the end", "about ", "at most "
    methods = ", ".join(f"{count} of {method}" for method, count in config.n_trials(declared).items())
    lines = [
        f"{trainings} trainings: for each of the train sizes {', '.join(map(str, sizes))},",
        f"  {search.baseline_seeds} DDPM baselines, {methods}",
    ]
    if search.sampler == "grid":
        in_full = "; all to the end with search.early_stopping=false" if some else ""
        lines.append(f"  a grid: every combination of the listed values{in_full}")
    if search.branch_from is not None:
        lines.append(f"  {_branching(config)};")
        lines.append(f"  {search.confirm.points} of them are then trained from scratch, and count")
    if repeated > scratch:
        best, seeds = search.confirm.candidates, search.confirm.seeds
        lines.append(f"  and after the search the best {best} again, each with {seeds} fresh seeds")
    if controls:
        lines.append("  and beside each of these its control, on clean images at the same noise levels")
    final = config.evaluation.final_samples
    if final is not None:
        measured = search.baseline_seeds * len(sizes) + repeated + controls
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


def _branching(config: SweepConfig) -> str:
    images = [config.rung_images()[rung - 1] for rung in config.branching_rungs()]
    if config.search.branch_from == "auto":
        return f"trials go on from a baseline, at {images[0]:,} to {images[-1]:,} images, before it memorizes"
    return f"trials go on from a baseline at {images[0]:,} images"


def _simulated_share(rungs: Sequence[float], shape: tuple[int, int], seed: int, start: float = 0.0) -> float:
    """What a trial costs on average, in full trainings, where trials by objectives (n, m) are stopped early.

    They begin at `start`, before the first of `rungs`. The rule itself is tried, on N_WORKERS trials at a
    time. Nothing is known of them yet: what they come to is drawn from the unit interval. On the way there
    the first objective falls and the others rise, as FID and copying do, and all are shown with noise.
    """
    rng, search = np.random.default_rng(seed), FrontierRungs(len(rungs))
    shares = np.asarray(rungs)[:, None] / rungs[-1]
    ends, steps = rng.random(shape), np.diff(rungs, prepend=start)
    new, running, spent = deque(range(len(ends))), deque[tuple[int, int]](), 0.0
    shown = np.concatenate([ends[:, None, :1] + 1 - shares, ends[:, None, 1:] * shares], axis=-1)
    shown += NOISE * rng.standard_normal(shown.shape)
    while True:
        while len(running) < N_WORKERS and (found := search.candidates()):
            rung, name = found[0]
            search.go_on(name)
            running.append((int(name), rung + 1))
        while len(running) < N_WORKERS and new:
            running.append((new.popleft(), 1))
        if not running:
            return float(spent / (len(ends) * rungs[-1]))
        trial, rung = running.popleft()
        spent += steps[rung - 1]
        goes_on = search.report(str(trial), rung, shown[trial, rung - 1].tolist())
        if goes_on and rung < len(rungs):
            running.append((trial, rung + 1))
