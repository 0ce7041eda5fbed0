"""A run that may still grow: its files are read again when they have changed."""

import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from pareto_amb.dashboards.report import Section, build_section
from pareto_amb.errors import UserError
from pareto_amb.results.live import Event, Heartbeats, read_events, read_heartbeats
from pareto_amb.results.points import Budget, taken_over
from pareto_amb.results.recommend import recommend
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.run import Run
from pareto_amb.results.run_directory import RunDirectory

SILENT_SECONDS = 60.0
"""A sweep that has written no heartbeats for so long is taken for killed."""

_PAUSE = 5.0
"""A run is left alone so many times as long as reading it, and working out what follows, took."""


@dataclass(frozen=True, eq=False)
class Now:
    """A run at a moment: `version` changes with its files.

    `run` is None while there is no table that can be read; `problem` says why the latest could not be.
    """

    version: int
    run: Run | None
    problem: str


@dataclass(frozen=True)
class Choice:
    """What is asked of the results of a train size."""

    train_size: int
    policy: str
    limit: float | None
    budget: Budget

    def recommendation(self, run: Run) -> tuple[Recommendation | None, str]:
        """What the policy takes by now; None, and why, where it takes nothing."""
        limit = self.limit if self.policy == "max-memorization" else None
        try:
            size = run.results.size(self.train_size)
            return recommend(size, self.policy, limit, run.config, run.stopped, self.budget), ""
        except UserError as error:
            why = str(error).removeprefix(f"train size {self.train_size}: ")
            return None, f"No recommendation yet: {why}."


class LiveRun:
    """Reads a run directory, and writes nothing. Any number of threads may ask."""

    def __init__(self, path: Path, trust: bool = False) -> None:
        self.directory, self._trust = RunDirectory(path), trust
        self._lock, self._working = threading.Lock(), threading.Lock()
        self._sections: dict[tuple[Now, Choice], Section | None] = {}
        self._stamp: object = None
        self._now, self._rest_until = Now(0, None, "no results yet"), 0.0

    def now(self) -> Now:
        """The run as of a moment ago. What cannot be read leaves what could be."""
        with self._lock:
            started = time.monotonic()
            stamp = self._look()
            if stamp != self._stamp and started >= self._rest_until:
                self._stamp = stamp
                self._now = self._read()
                self._rest(started)
            return self._now

    def section(self, now: Now, choice: Choice) -> Section | None:
        """What follows for a train size, worked out once while the files stay; None without results."""
        with self._working:
            if (now, choice) not in self._sections:
                started = time.monotonic()
                kept = {key: found for key, found in self._sections.items() if key[0] is now}
                self._sections = {**kept, (now, choice): _section(now, choice)}
                self._rest(started)
            return self._sections[now, choice]

    def _rest(self, started: float) -> None:
        """Read no further for a while, after work that began at `started`."""
        ended = time.monotonic()
        self._rest_until = max(self._rest_until, ended + _PAUSE * (ended - started))

    def _read(self) -> Now:
        version, before = self._now.version + 1, self._now.run
        if not self.directory.results.exists():
            return Now(version, before, "" if before else "no results yet")
        try:
            run = Run.read(self.directory.path, self._trust)
            pictures = before.pictures if before else run.pictures  # one storage, asked once for each picture
            return Now(version, replace(run, pictures=pictures), "")
        except (UserError, OSError) as error:
            return Now(version, before, str(error))

    def _look(self) -> object:
        """What changes with the files that are read."""
        run, found = self.directory, []
        for path in (run.sweep, run.results, run.recommendation, run.stopped, run.environment):
            try:
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                found.append((0, 0, 0))
        return found

    def heartbeats(self) -> Heartbeats | None:
        """How running trials are going; None where no sweep says so, or half of it."""
        try:
            return read_heartbeats(self.directory.heartbeats)
        except (UserError, OSError):
            return None

    def events(self) -> list[Event]:
        """What happened, the latest first."""
        try:
            return read_events(self.directory.events)[::-1]
        except (UserError, OSError):
            return []


def _section(now: Now, choice: Choice) -> Section | None:
    if now.run is None or choice.train_size not in now.run.train_sizes():
        return None
    found, missing = choice.recommendation(now.run)
    return build_section(now.run, now.run.results.size(choice.train_size), found, missing)


def cost_so_far(rows: pd.DataFrame) -> tuple[float, float, float]:
    """What the trials have cost: full trainings, seconds of training, seconds of measuring."""
    last = rows.sort_values("rung").groupby("trial_id").tail(1)
    trainings = float((last.budget - taken_over(last)).sum())
    return trainings, float(last.train_seconds.fillna(0).sum()), float(rows.eval_seconds.fillna(0).sum())
