"""What a sweep shows while it runs: a live table on a terminal, plain lines elsewhere."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pareto_amb.declared import Objective
from pareto_amb.results.live import Event, Heartbeat, Heartbeats, Kind, going, in_words
from pareto_amb.results.points import taken_over
from pareto_amb.results.table import ResultsTable, trial_columns
from pareto_amb.terminal import format_duration
from pareto_amb.trial import Trial

REFRESH_SECONDS = 0.5

SHARE = 0.05
"""Of the time of a sweep, at most, goes into the frontier on the screen, which takes long in a long table."""
LINE_SECONDS = 60.0
"""Off a terminal a line says so often how the running trials are going."""

_LONGEST = 10_000
"""Characters kept of an event's words."""


def _trained(row: Mapping[str, Any]) -> float:
    """What a training has cost up to a row, in full trainings; 0 before its first."""
    return float(row["budget"] - taken_over(row)) if "budget" in row else 0.0


class SweepProgress:
    """Follows a sweep; use it as a context manager around the run.

    `total` trials, of which `finished` have ended or paused; `trainings` is what all of them will cost
    together, in full trainings. `listeners` hear of all that happens.
    """

    def __init__(
        self,
        console: Console,
        results: ResultsTable,
        total: int,
        finished: int,
        n_rungs: int,
        trainings: float,
        listeners: Sequence[Callable[[Event], None]] = (),
    ) -> None:
        self._listeners, self._beats, self._told = listeners, dict[str, Heartbeat](), time.monotonic()
        self._console, self._results, self._declared = console, results, results.declared
        self._objectives = list(results.declared.objectives.values())
        self._total, self._finished, self._n_rungs = total, finished, n_rungs
        self._paused = self._count_paused()
        self._trained = 0.0  # by this process, in full trainings
        rows = (results.last_row(trial_id) for trial_id in results.trial_ids())
        self._each = trainings / total
        self._left = trainings - sum(_trained(row) for row in rows if row)
        self._running: dict[str, dict[str, Any]] = {}
        self._fronts: list[Table] = []
        self._started = self._look_at = time.monotonic()
        self._live = (
            Live(console=console, get_renderable=self._render, refresh_per_second=1 / REFRESH_SECONDS)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._look()
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._look()
            self._live.stop()

    def started(self, trial: Trial) -> None:
        """A trial occupies a worker now."""
        row = self._results.last_row(trial.id) or {}
        ends = {"last": trial.last or self._n_rungs}
        self._running[trial.id] = {**trial_columns(trial, self._declared), **row, **ends}
        kind: Kind = "branched" if trial.branched_at and not row else "started"
        self._tell(kind, trial.id, f"{self._describe(self._running[trial.id])}: begins to train")

    def row(self, row: Mapping[str, Any]) -> None:
        """A trial has reached a rung."""
        trial = self._running.setdefault(row["trial_id"], {})
        step = _trained(row) - _trained(trial)
        self._trained, self._left = self._trained + step, self._left - step
        trial.update(row)
        if row["status"] == "complete":
            if self._live and time.monotonic() >= self._look_at:
                self._look()
            place = f"stopped {self._place(row)}, " if row["rung"] < self._n_rungs else ""
            self._end("complete", row, f"{place}{self._figures(row)}")
        elif row["status"] == "paused":
            self._paused += 1
            self._end("paused", row, f"paused {self._place(row)}, {self._figures(row)}")
        else:
            words = f"{self._describe(row)}: goes on {self._place(row)}, {self._figures(row)}"
            self._tell("promoted", row["trial_id"], words, bool(row["n_samples"]))

    def resumed(self, row: Mapping[str, Any]) -> None:
        """A paused trial goes on from where `row` was measured."""
        self._finished, self._paused = self._finished - 1, self._paused - 1
        self._say("resumed", row["trial_id"], f"{row['trial_id']}: resumed {self._place(row)}")

    def stopped(self, reason: str, total: int) -> None:
        """The search has ended itself: there will be `total` trials."""
        self._left -= (self._total - total) * self._each
        self._total = total
        self._say("stopped", "", reason)

    def following(self, trials: int, total: int, trainings: float) -> None:
        """The search is over, and of `total` trials there are left so many; their cost in full trainings."""
        self._total, self._finished, self._left = total, total - trials, trainings
        self._each = trainings / max(trials, 1)

    def failed(self, trial: Trial, error: str, interrupted: bool = False) -> None:
        """A trial has failed for good, or was `interrupted` and goes on in a resumed sweep."""
        trained = _trained(self._running.get(trial.id, {}))
        self._left -= max(self._each - trained, 0.0)
        described = self._describe(trial_columns(trial, self._declared))
        if interrupted:
            self._running.pop(trial.id, None)
            self._say("interrupted", trial.id, f"{described}: interrupted, {error}")
        else:
            self._end("failed", trial_columns(trial, self._declared), f"FAILED, {error}")

    def retried(self, trial: Trial, error: str) -> None:
        """A trial has failed and will be tried again."""
        self._say("retried", trial.id, f"{trial.id}: failed ({error}), trying again from its last checkpoint")

    def beats(self, beats: Mapping[str, Heartbeat]) -> Heartbeats:
        """How trials are going, by id; those that run are shown, and returned as they are to be kept."""
        self._beats = {trial_id: beats[trial_id] for trial_id in self._running if trial_id in beats}
        now = time.monotonic()
        if self._beats and not self._live and now - self._told >= LINE_SECONDS:
            self._told = now
            going = "; ".join(f"{beat.trial_id} {in_words(beat)}" for beat in self._beats.values())
            self._print(f"{going} ({self._clock()})")
        return Heartbeats(
            at=time.time(),
            done=self._finished,
            total=self._total,
            seconds_left=self._seconds_left(),
            trials=list(self._beats.values()),
        )

    def _place(self, row: Mapping[str, Any]) -> str:
        return f"at rung {row['rung']} of {self._n_rungs}"

    def _end(self, kind: Kind, row: Mapping[str, Any], what: str) -> None:
        self._finished += 1
        self._running.pop(row["trial_id"], None)
        line = f"{self._describe(row)}: {what}"
        self._print(f"[{self._finished}/{self._total}] {line} ({self._clock()})")
        self._tell(kind, row["trial_id"], line, bool(row.get("n_samples")))

    def _say(self, kind: Kind, trial_id: str, line: str) -> None:
        self._print(line)
        self._tell(kind, trial_id, line)

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True, highlight=False)

    def _tell(self, kind: Kind, trial_id: str, words: str, sampled: bool = False) -> None:
        event = Event(at=time.time(), kind=kind, trial_id=trial_id, words=words[:_LONGEST], sampled=sampled)
        for listener in self._listeners:
            listener(event)

    def _seconds_left(self) -> float | None:
        """What the sweep will take yet; None before anything was measured."""
        elapsed = time.monotonic() - self._started
        return max(elapsed / self._trained * self._left, 0.0) if self._trained else None

    def _clock(self) -> str:
        clock, left = f"{format_duration(time.monotonic() - self._started)} elapsed", self._seconds_left()
        return clock if left is None else f"{clock}, about {format_duration(left)} left"

    def _render(self) -> Group:
        paused = f", {self._paused} of them paused" if self._paused else ""
        running = Table(title=f"trials done: {self._finished} of {self._total}{paused}  ({self._clock()})")
        self._add_columns(running, "running trial", "rung", "step", "images/s", "loss", "left")
        for row in list(self._running.values()):
            running.add_row(
                row["trial_id"],
                self._chosen(row),
                f"{row.get('rung', 0)}/{row.get('last', self._n_rungs)}",
                *going(self._beats.get(row["trial_id"])),
                *(self._figure(objective, row) for objective in self._objectives),
            )
        return Group(running, *self._fronts)

    def _count_paused(self) -> int:
        statuses = [self._results.status(trial_id) for trial_id in self._results.trial_ids()]
        return statuses.count("paused")

    def _look(self) -> None:
        """Show the frontiers as they are now."""
        started = time.monotonic()
        self._fronts = self._frontiers()
        ended = time.monotonic()
        self._look_at = ended + (ended - started) * (1 / SHARE - 1)

    def _frontiers(self) -> list[Table]:
        tables = []
        results = self._results.results()
        for size in results.sizes():
            table = Table(title=f"frontier at full budget so far, {size:,} training images")
            self._add_columns(table, "trial")
            for point in results.size(size).frontier.to_dict("records"):
                repeated = f", mean of {point['seeds']} seeds" if point["seeds"] > 1 else ""
                table.add_row(
                    f"{point['trial_id']}{repeated}",
                    self._declared.describe(point["method"], point),
                    *(objective.text(point[objective.name]) for objective in self._objectives),
                )
            if table.row_count:
                tables.append(table)
        return tables

    def _add_columns(self, table: Table, first: str, *numbers: str) -> None:
        """Columns for a trial, what was chosen for it, `numbers`, and the objectives."""
        table.add_column(first)
        table.add_column("chosen")
        for heading in (*numbers, *(objective.label for objective in self._objectives)):
            table.add_column(heading, justify="right")

    def _describe(self, row: Mapping[str, Any]) -> str:
        chosen = self._chosen(row)
        return f"{row['trial_id']} ({chosen})" if chosen else str(row["trial_id"])

    def _chosen(self, row: Mapping[str, Any]) -> str:
        said = [self._declared.describe(row["method"], row), "branched" if row["branched_at"] else ""]
        return ", ".join(word for word in said if word)

    def _figure(self, objective: Objective, row: Mapping[str, Any]) -> str:
        value = row.get(objective.name, math.nan)
        return "" if math.isnan(value) else objective.text(value)

    def _figures(self, row: Mapping[str, Any]) -> str:
        if not row["n_samples"]:
            return "by its denoising errors, nothing sampled yet"
        return ", ".join(f"{o.label} {o.text(row[o.name])}" for o in self._objectives)
