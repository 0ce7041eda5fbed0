"""What a sweep shows while it runs: a live table on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pareto_amb.results import ResultsTable, describe_trial
from pareto_amb.search.frontier import frontier

REFRESH_SECONDS = 0.5


def format_duration(seconds: float) -> str:
    """Seconds as `42s`, `3m05s` or `2h07m`."""
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


class SweepProgress:
    """Follows a sweep; use it as a context manager around the run.

    `total` trials, of which `finished` have ended or paused; `trainings` is what all of them will cost
    together, in full trainings.
    """

    def __init__(
        self,
        console: Console,
        results: ResultsTable,
        total: int,
        finished: int,
        n_rungs: int,
        trainings: float,
    ) -> None:
        self._console, self._results = console, results
        self._total, self._finished, self._n_rungs = total, finished, n_rungs
        self._paused = self._count_paused()
        self._trained = 0.0  # by this process, in full trainings
        rows = (results.last_row(trial_id) for trial_id in results.trial_ids())
        self._each = trainings / total
        self._left = trainings - sum(row["budget"] for row in rows if row)
        self._running: dict[str, dict[str, Any]] = {}
        self._fronts = self._frontiers()
        self._started = time.monotonic()
        self._live = (
            Live(console=console, get_renderable=self._render, refresh_per_second=1 / REFRESH_SECONDS)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def started(self, trial: dict[str, Any]) -> None:
        """A trial occupies a worker now."""
        self._running[trial["trial_id"]] = {**trial, **(self._results.last_row(trial["trial_id"]) or {})}

    def row(self, row: dict[str, Any]) -> None:
        """A trial has reached a rung."""
        trial = self._running.setdefault(row["trial_id"], {})
        step = row["budget"] - trial.get("budget", 0.0)
        self._trained, self._left = self._trained + step, self._left - step
        trial.update(row)
        if row["status"] == "complete":
            self._fronts = self._frontiers()
            self._end(row, f"{_describe(row)}: {_figures(row)}")
        elif row["status"] == "pruned":
            self._paused += 1
            self._end(row, f"{_describe(row)}: paused {self._place(row)}, {_figures(row)}")

    def resumed(self, row: dict[str, Any]) -> None:
        """A paused trial goes on from where `row` was measured."""
        self._finished, self._paused = self._finished - 1, self._paused - 1
        self._say(f"{row['trial_id']}: resumed {self._place(row)}")

    def stopped(self, reason: str, total: int) -> None:
        """The search has ended itself: there will be `total` trials."""
        self._left -= (self._total - total) * self._each
        self._total = total
        self._say(reason)

    def failed(self, trial: dict[str, Any], error: str) -> None:
        """A trial has failed for good."""
        trained = self._running.get(trial["trial_id"], {}).get("budget", 0.0)
        self._left -= max(self._each - trained, 0.0)
        self._end(trial, f"{_describe(trial)}: FAILED, {error}")

    def retried(self, trial: dict[str, Any]) -> None:
        """A trial has failed and will be tried again."""
        self._say(f"{trial['trial_id']}: failed, trying again from its last checkpoint")

    def _place(self, row: dict[str, Any]) -> str:
        return f"at rung {row['rung']} of {self._n_rungs}"

    def _end(self, trial: dict[str, Any], line: str) -> None:
        self._finished += 1
        self._running.pop(trial["trial_id"], None)
        self._say(f"[{self._finished}/{self._total}] {line} ({self._clock()})")

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True, highlight=False)

    def _clock(self) -> str:
        elapsed = time.monotonic() - self._started
        clock = f"{format_duration(elapsed)} elapsed"
        if self._trained:
            clock += f", about {format_duration(elapsed / self._trained * self._left)} left"
        return clock

    def _render(self) -> Group:
        paused = f", {self._paused} of them paused" if self._paused else ""
        running = Table(title=f"trials done: {self._finished} of {self._total}{paused}  ({self._clock()})")
        for heading in ("running trial", "chosen", "rung", "FID", "memorization"):
            running.add_column(heading, justify="left" if heading in {"running trial", "chosen"} else "right")
        for trial in list(self._running.values()):
            running.add_row(
                trial["trial_id"],
                describe_trial(trial),
                f"{trial.get('rung', 0)}/{self._n_rungs}",
                _number(trial.get("fid"), ".4g"),
                _number(trial.get("memorization"), ".3f"),
            )
        return Group(running, *self._fronts)

    def _count_paused(self) -> int:
        statuses = [self._results.status(trial_id) for trial_id in self._results.trial_ids()]
        return statuses.count("pruned")

    def _frontiers(self) -> list[Table]:
        tables = []
        results = self._results.frame()
        for size in sorted(set(results.train_size)):
            table = Table(title=f"frontier so far, {size:,} training images")
            for heading in ("trial", "chosen", "FID", "memorization"):
                table.add_column(heading, justify="left" if heading in {"trial", "chosen"} else "right")
            for _, point in frontier(results, int(size)).iterrows():
                table.add_row(
                    point.trial_id if point.seeds == 1 else f"{point.trial_id}, mean of {point.seeds} seeds",
                    describe_trial(point),
                    f"{point.fid:.4g}",
                    f"{point.memorization:.3f}",
                )
            if table.row_count:
                tables.append(table)
        return tables


def _describe(trial: dict[str, Any]) -> str:
    chosen = describe_trial(trial)
    return f"{trial['trial_id']} ({chosen})" if chosen else str(trial["trial_id"])


def _figures(row: dict[str, Any]) -> str:
    return f"FID {row['fid']:.4g}, memorization {row['memorization']:.3f}"


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)
