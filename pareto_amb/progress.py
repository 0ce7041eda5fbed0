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
    """Follows a sweep; use it as a context manager around the run."""

    def __init__(
        self, console: Console, results: ResultsTable, total: int, finished: int, n_rungs: int
    ) -> None:
        self._console, self._results = console, results
        self._total, self._finished, self._n_rungs = total, finished, n_rungs
        self._trained = 0.0  # by this process, in full trainings
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
        self._running[trial["trial_id"]] = dict(trial)

    def row(self, row: dict[str, Any]) -> None:
        """A trial has reached a rung."""
        trial = self._running.setdefault(row["trial_id"], {})
        self._trained += row["budget"] - trial.get("budget", 0.0)
        trial.update(row)
        if row["status"] == "complete":
            self._fronts = self._frontiers()
            self._end(row["trial_id"], f"{_describe(row)}: FID {_figures(row)}")

    def failed(self, trial: dict[str, Any], error: str) -> None:
        """A trial has failed for good."""
        self._end(trial["trial_id"], f"{_describe(trial)}: FAILED, {error}")

    def retried(self, trial: dict[str, Any]) -> None:
        """A trial has failed and will be tried again."""
        self._say(f"{trial['trial_id']}: failed, trying again from its last checkpoint")

    def _end(self, trial_id: str, line: str) -> None:
        self._finished += 1
        self._running.pop(trial_id, None)
        self._say(f"[{self._finished}/{self._total}] {line} ({self._clock()})")

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True, highlight=False)

    def _clock(self) -> str:
        elapsed = time.monotonic() - self._started
        clock = f"{format_duration(elapsed)} elapsed"
        if self._trained:
            under_way = sum(trial.get("budget", 0.0) for trial in self._running.values())
            left = elapsed / self._trained * (self._total - self._finished - under_way)
            clock += f", about {format_duration(left)} left"
        return clock

    def _render(self) -> Group:
        running = Table(title=f"trials done: {self._finished} of {self._total}  ({self._clock()})")
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
    return f"{row['fid']:.4g}, memorization {row['memorization']:.3f}"


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)
