"""What a sweep of thousands of trials costs its driver: Ray, searcher, table, screen and MLflow, simulated.

    python benchmarks/cluster_scale.py --before 10000 --trials 100 --workers 8
    python benchmarks/cluster_scale.py --trials 10000 --workers 256 --mlflow sqlite:////tmp/mlflow.db

A sweep is opened whose table holds so many rows before, and goes on through the real Ray Tune, searcher,
results table and MLflow thread; only the trainings are made up: they sleep and return a row. CPU seconds are
those of the driver's threads. Prints one row of a Markdown table, and where the driver's time went.
"""

import argparse
import math
import random
import resource
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.tune import Trainable
from rich.console import Console

from pareto_amb import search_spaces
from pareto_amb.config import SweepConfig
from pareto_amb.config_file import to_yaml
from pareto_amb.declared import Declared
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.results.probes import PROBES, log_errors
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.results.table import ResultsTable, columns, shipped, trial_columns
from pareto_amb.running.cluster import _environment
from pareto_amb.running.follower import Follower
from pareto_amb.running.pace import Slots
from pareto_amb.running.progress import SweepProgress
from pareto_amb.running.scheduler import ParetoHalving
from pareto_amb.running.searcher import ParetoSearcher
from pareto_amb.running.state import SweepState
from pareto_amb.running.sweep import make_tuner
from pareto_amb.running.tracker import Tracker
from pareto_amb.running.tracking import Ending, Mirror, Tracked
from pareto_amb.storage import Storage
from pareto_amb.sweep_file import parse_sweep, trained_methods
from pareto_amb.trial import Trial

PROBE_LEVELS = [0.125, 0.5]


def made_up_row(trial: Trial, declared: Declared, rung: int, rungs: Sequence[int]) -> dict[str, Any]:
    """A row whose objectives trade off along sigma_tn, without anything that was trained."""
    budget = rung / len(rungs)
    luck = random.Random(f"{trial.id} {rung}")
    u = math.log(trial.parameters.get("sigma_tn", 0.05))
    numbers = {name: luck.random() for name, column in columns(declared).items() if column.dtype == "float64"}
    errors = [luck.random(), luck.random()]
    return {
        **numbers,
        **trial_columns(trial, declared),
        "rung": rung,
        "images_seen": rungs[rung - 1],
        "budget": budget,
        "n_samples": 100,
        "fid": 100 + 10 * u**2 + luck.random() + 20 / rung,
        "memorization": min(math.exp(-u) * budget / 20 + 0.1 * luck.random(), 1.0),
        "probe_levels": PROBE_LEVELS,
        "probe_train": errors,
        "probe_heldout": errors,
        "status": "complete" if rung == len(rungs) else "running",
        "error": "",
        "recorded_at": time.time(),
    }


class MadeUpTraining(Trainable):
    """A trial that sleeps from rung to rung."""

    def setup(self, config: dict[str, Any], assets: Any) -> None:
        self._assets = assets
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._trial = Trial.from_config(new_config)
        return True

    def step(self) -> dict[str, Any]:
        time.sleep(self._assets.seconds)
        rung, declared = self._trial.measured + 1, self._assets.declared
        row = made_up_row(self._trial, declared, rung, self._assets.rungs)
        self._trial = self._trial.after(rung)
        told = (*declared.reported, "rung", "images_seen", "status")
        figures = {name: row[name] for name in told} | {PROBES: log_errors(row)}
        return {"row": row, **figures, "done": rung == len(self._assets.rungs)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "measured").write_text(str(self._trial.measured), encoding="utf-8")

    def load_checkpoint(self, checkpoint: str) -> None:
        measured = Path(checkpoint, "measured").read_text(encoding="utf-8")
        self._trial = self._trial.after(int(measured))


class Clock:
    """CPU seconds of the calling thread in each of the parts that are timed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = threading.local()

    def time(self, owner: Any, name: str, part: str) -> None:
        """Time a method of a class from now on; what is called in a part that is timed counts for that."""
        act: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if getattr(self._inside, "part", None):
                return act(*args, **kwargs)
            self._inside.part, started = part, time.thread_time()
            try:
                return act(*args, **kwargs)
            finally:
                self.seconds[part] += time.thread_time() - started
                self._inside.part = None

        setattr(owner, name, timed)


class Milestones(tune.Callback):
    """Says what rows have cost the loop since the last time, whenever so many trials more have ended."""

    def __init__(self, every: int) -> None:
        self._every, self._rows, self._ended = every, 0, 0
        self._cpu, self._wall = time.thread_time(), time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_result(self, *_: Any, **__: Any) -> None:
        self._rows += 1

    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        self._ended += 1
        if self._ended % self._every:
            return
        cpu, wall = time.thread_time(), time.monotonic()
        each, rate = 1e3 * (cpu - self._cpu) / self._rows, self._rows / (wall - self._wall)
        print(f"{self._ended:,} trials: {each:.1f} CPU ms a row, {rate:.1f} rows a second", flush=True)
        self._rows, self._cpu, self._wall = 0, cpu, wall


def timing() -> Clock:
    clock = Clock()
    clock.time(ResultsTable, "record", "table")
    for name in ("started", "row", "resumed"):
        clock.time(SweepProgress, name, "screen")
    for name in ("suggest", "on_trial_result", "on_trial_complete"):
        clock.time(ParetoSearcher, name, "search")
    for name in ("on_trial_add", "on_trial_result", "on_trial_complete", "choose_trial_to_run"):
        clock.time(ParetoHalving, name, "early stopping")
    for name in ("update", "end"):
        clock.time(Mirror, name, "MLflow thread")
    return clock


def sweep_of(n_trials: int, n_rungs: int, early_stopping: bool) -> SweepConfig:
    values = search_spaces.load("smoke")
    values["search"] |= {"trials": n_trials, "early_stopping": early_stopping, "baseline_seeds": 2}
    rungs = [k / n_rungs for k in range(1, n_rungs + 1)]
    values["evaluation"] |= {"rungs": rungs, "probes": []}
    return parse_sweep(values, "simulated")


def fill(run: RunDirectory, config: SweepConfig, declared: Declared, rows: int) -> None:
    """Let the table of a run hold the rows of trials that have ended."""
    table, rungs = ResultsTable(run.results, declared), config.rung_images()
    trials = [Trial(f"n50-ddpm-s{k}", "ddpm", 50, k) for k in range(2)]
    for k in range(max(rows // len(rungs) - 2, 0)):
        sigma = math.exp(random.Random(k).uniform(math.log(0.1), math.log(2)))
        parameters = {"sigma_tn": sigma, "mix_ratio": 0.5}
        trials.append(Trial(f"n50-algorithm1-{k:04d}", "algorithm1", 50, k, parameters))
    for trial in trials[: rows // len(rungs)]:
        found = {rung: made_up_row(trial, declared, rung, rungs) for rung in range(1, len(rungs) + 1)}
        for row in found.values():
            row["status"] = "complete"
        table._trials[trial.id] = found
    table._changed = dict.fromkeys(table._trials)
    table._write_whole()


def run_through(options: argparse.Namespace, folder: Path, clock: Clock) -> dict[str, float]:
    """Run the trials that are left; what it took, by name."""
    run, before = RunDirectory(folder / "run"), options.before // options.rungs
    run.path.mkdir()
    config = sweep_of(max(before - 2, 0) + options.trials, options.rungs, options.early_stopping)
    methods = {name: METHODS[name] for name in trained_methods(config, METHODS)}
    declared = shipped().training(list(methods))
    config = config.model_copy(update={"space": config.space.only(declared.parameters)})
    run.sweep.write_text(to_yaml(config))
    fill(run, config, declared, options.before)
    began = time.thread_time()
    SweepState.open(run, config, declared, methods)
    made = time.thread_time()
    state = SweepState.open(run, config, declared, methods)
    opened = time.thread_time()
    tracked = Tracked(options.mlflow, run, "0" * 32, "simulated", declared, Storage(str(run.path)))
    tracker = Tracker(Mirror(tracked)) if options.mlflow else None
    if tracker:
        tracker.start()
    assets = SimpleNamespace(
        config=config,
        declared=Declared.from_json(declared.to_json()),  # the methods' code would load torch
        rungs=config.rung_images(),
        storage_uri=str(run.path),
        seconds=options.seconds,
    )
    n_rows = len(state.results.frame())
    clock.seconds.clear()
    wall, cpu, loop = time.monotonic(), time.process_time(), time.thread_time()
    with SweepProgress(
        Console(quiet=True), state.results, state.n_planned, 0, options.rungs, 1.0
    ) as progress:
        follower = Follower(state, tracker, progress)
        searcher, halving = state.searcher, state.halving
        count, left = searcher.n_total, options.minutes * 60
        slots = Slots(config, 0.0, shared=False)
        callbacks = [follower, Milestones(options.every)]
        tuner = make_tuner(assets, searcher, halving, count, callbacks, slots, left, MadeUpTraining)
        with state.results.settled():
            tuner.fit()
    loop, cpu, wall = time.thread_time() - loop, time.process_time() - cpu, time.monotonic() - wall
    missing, waited = 0, time.monotonic()
    if tracker:
        missing = tracker.finish(Ending("FINISHED", {}, []), patience=1).rows
    waited = time.monotonic() - waited
    rows = len(state.results.frame()) - n_rows
    return {
        "made": made - began, "opened": opened - made, "rows": rows, "wall": wall, "cpu": cpu, "loop": loop,
        "missing": missing, "waited": waited, "file": run.results.stat().st_size,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=int, default=0, help="rows that the table holds already")
    parser.add_argument("--trials", type=int, default=100, help="to run now")
    parser.add_argument("--rungs", type=int, default=5, help="of each trial")
    parser.add_argument("--workers", type=int, default=8, help="at the same time; each is a process")
    parser.add_argument("--seconds", type=float, default=0.0, help="that a rung's training sleeps")
    parser.add_argument("--minutes", type=float, default=10.0, help="then the sweep is stopped")
    parser.add_argument("--mlflow", default="", help="URI of a tracking store; none without")
    parser.add_argument("--every", type=int, default=1000, help="trials: say then what rows cost")
    parser.add_argument("--early-stopping", action="store_true")
    options = parser.parse_args()
    clock = timing()
    with tempfile.TemporaryDirectory() as name, _environment():
        ray.init("local", num_cpus=options.workers, include_dashboard=False, log_to_driver=False)
        try:
            found = run_through(options, Path(name), clock)
        finally:
            ray.shutdown()
    rows, peak = max(found["rows"], 1), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parts = {**clock.seconds}
    beside = parts.pop("MLflow thread", 0.0)
    parts["Ray Tune"] = found["loop"] - sum(parts.values())
    each = 1e3 * found["loop"] / rows
    print("| rows before | rows now | resuming, CPU s | CPU ms a row | rows a s | peak MB | MLflow behind |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    print(
        f"| {options.before:,} | {found['rows']:,} | {found['opened']:.1f} | {each:.1f} "
        f"| {found['rows'] / found['wall']:.1f} | {peak:.0f} | {found['missing']:,} |"
    )
    for part, seconds in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"  {part}: {1e3 * seconds / rows:.2f} ms a row")
    print(
        f"  MLflow thread: {1e3 * beside / rows:.2f} ms a row, other threads: "
        f"{1e3 * (found['cpu'] - found['loop'] - beside) / rows:.2f}; waited {found['waited']:.0f} s"
    )
    print(f"  making study.db again: {found['made']:.1f} CPU s")
    print(f"  wall {found['wall']:.0f} s, results.parquet {found['file'] / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
