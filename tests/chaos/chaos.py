"""Faults at random moments of a sweep, again and again, and whether its results are those of a quiet one.

    python tests/chaos/chaos.py --faults 100 --output chaos.jsonl

One line of JSON for each fault, as it happens, then a summary by kind. A sweep is resumed until it is done;
several are run where one is over before all faults have happened.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

VICTIMS = {
    "driver": "",
    "worker": "ray::ResourceTrainable",
    "raylet": "raylet/raylet ",
    "GCS": "gcs/gcs_server",
}
"""What a process is called by ps; the driver is the command itself."""

KINDS = [
    ("driver", "SIGKILL"), ("driver", "SIGTERM"), ("driver", "SIGINT"), ("worker", "SIGKILL"),
    ("worker", "SIGTERM"), ("raylet", "SIGKILL"), ("GCS", "SIGKILL"),
]  # fmt: skip

SWEEP = [
    "smoke", "--trials", "4", "--set", "search.startup_trials=4", "--set", "search.baseline_seeds=1",
    "--set", "search.branch_from=0.125", "--set", "search.confirm.points=1",
    "--set", "search.early_stopping=false",
    "--set", "search.max_retries=20", "--set", "training.images=6400",
    "--set", "evaluation.n_samples=40", "--set", "evaluation.fid_encoder=pixels",
    "--set", "evaluation.similarity_encoder=pixels",
]  # fmt: skip
"""Its trials are the same in whatever order they end, so that a disturbed sweep has those of a quiet one."""

LONGEST = 600.0
"""Seconds within which a sweep that is left alone must be done."""

TIMES = ("train_seconds", "eval_seconds", "recorded_at")


@dataclass(frozen=True)
class Fault:
    """A signal, after so many seconds of a command, when the table had so many rows."""

    sweep: int
    victim: str
    signal: str
    after: float
    rows: int


@contextmanager
def started(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command that begins or resumes the sweep of a folder; it is killed with the block."""
    run = folder / "run"
    how = ["--resume", "run"] if (run / "sweep.yaml").exists() else [*SWEEP, "--output", "run"]
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pareto_amb", "sweep", *how],
            cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def quiet(folder: Path) -> tuple[pd.DataFrame, float]:
    """The table of a sweep that nothing disturbs, and its seconds. RuntimeError where it fails."""
    began = time.monotonic()
    _left_alone(folder)
    return pd.read_parquet(folder / "run" / "results.parquet"), time.monotonic() - began


def disturbed(
    folder: Path, kinds: Sequence[tuple[str, str]], draw: random.Random, seconds: float, number: int = 0
) -> Iterator[Fault]:
    """Run a sweep of about so many `seconds`, and send signals at random moments of it, one after another.

    Ends where the sweep does, be it before all signals were sent. RuntimeError where it fails by itself.
    """
    waiting = list(kinds)
    while waiting:
        with started(folder) as process:
            began = time.monotonic()
            while waiting:
                if not _lives(process, draw.uniform(0, seconds)):
                    return _check(process.returncode, folder)
                victim, name = waiting[0]
                pid = process.pid if victim == "driver" else _below(process.pid, VICTIMS[victim])
                if pid is None:  # Ray has not started yet
                    continue
                rows = _rows(folder)
                os.kill(pid, getattr(signal, name))
                yield Fault(number, *waiting.pop(0), round(time.monotonic() - began, 1), rows)
                if victim != "worker":
                    process.wait(LONGEST)
                    break
            else:
                return _check(process.wait(LONGEST), folder)
    _left_alone(folder)


def _lives(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a process still runs after so many seconds."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.poll() is None


def _left_alone(folder: Path) -> None:
    """Run the sweep of a folder to its end, whatever a fault has left. RuntimeError where it fails."""
    with started(folder) as process:
        _check(process.wait(LONGEST), folder)


def _check(code: int, folder: Path) -> None:
    if code:
        raise RuntimeError(f"a sweep ended with {code}: {(folder / 'log').read_text()}")


def _below(ancestor: int, called: str) -> int | None:
    """A process that descends from one and is called so."""
    parents, names = dict[int, int](), dict[int, str]()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            stat = (place / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if stat[0] != "Z":
                parents[int(place.name)] = int(stat[1])
                names[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    inside = {ancestor}
    for _ in range(6):
        inside |= {pid for pid, parent in parents.items() if parent in inside}
    return next((pid for pid in sorted(inside) if called in names.get(pid, "")), None)


def _rows(folder: Path) -> int:
    path = folder / "run" / "results.parquet"
    return len(pd.read_parquet(path)) if path.exists() else 0


def differences(found: pd.DataFrame, wanted: pd.DataFrame) -> list[str]:
    """What a table lacks of another, or has otherwise, times apart: `trial rung column`."""
    key = ["trial_id", "rung"]
    both = wanted.merge(found, on=key, how="outer", suffixes=("", "_found"), indicator="where")
    lone = both[both["where"] != "both"]
    said = [f"{row.trial_id} {row.rung} {row.where}" for row in lone.itertuples()]
    common = both[both["where"] == "both"]
    for name in wanted.columns.difference([*key, *TIMES], sort=False):
        ours, theirs = map(str, common[name]), map(str, common[f"{name}_found"])
        unlike = [one != other for one, other in zip(ours, theirs, strict=True)]
        said += [f"{row.trial_id} {row.rung} {name}" for row in common[unlike].itertuples()]
    return said


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--each", type=int, default=4, help="of one sweep, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("chaos.jsonl"))
    options = parser.parse_args()
    draw, happened, number = random.Random(options.seed), list[Fault](), 0
    with tempfile.TemporaryDirectory() as place, options.output.open("a") as file:
        wanted, seconds = quiet(_folder(Path(place) / "quiet"))
        print(f"a quiet sweep takes {seconds:.0f} s", flush=True)
        spent = 0.0
        while len(happened) < options.faults:
            folder, number = _folder(Path(place) / str(number)), number + 1
            kinds = draw.choices(KINDS, k=min(options.each, options.faults - len(happened)))
            began, before = time.monotonic(), len(happened)
            for fault in disturbed(folder, kinds, draw, seconds, number):
                happened.append(fault)
                file.write(json.dumps(asdict(fault)) + "\n")
                file.flush()
            took = time.monotonic() - began
            spent += took - seconds
            found = pd.read_parquet(folder / "run" / "results.parquet")
            wrong = differences(found, wanted)
            print(
                f"sweep {number}: {len(happened) - before} faults, {took:.0f} s, {wrong or 'all alike'}",
                flush=True,
            )
    for (victim, name), count in sorted(Counter((f.victim, f.signal) for f in happened).items()):
        print(f"{victim} {name}: {count}")
    print(f"{spent / len(happened):.0f} s a fault beyond the quiet sweep's")


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


if __name__ == "__main__":
    main()
