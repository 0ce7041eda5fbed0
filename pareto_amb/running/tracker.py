"""MLflow beside a sweep: a thread of its own, so that no server that is slow or gone holds up a trial."""

import threading
from collections.abc import Callable
from typing import TypeVar

from pareto_amb.running.machine_metrics import MachineMetrics
from pareto_amb.running.tracking import Ending, Mirror, Missing, why

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds between an attempt that failed and the next one: doubling from the first to the longest."""

SHARE = 0.1
"""Of the thread's time, at most, goes into reading the table: the sweep shares its interpreter."""

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds that the end of a sweep waits for MLflow while nothing advances."""

PATIENCE_WITH_A_FILE = 60.0
"""The same where MLflow is a SQLite file, which it takes long to set up on a slow machine."""


class Tracker:
    """Keeps MLflow up to date with a run while it is written. Its methods return at once but for `finish`."""

    def __init__(self, mirror: Mirror, connected: Callable[[], object] = lambda: None) -> None:
        """`connected` is called once, by the thread, when MLflow has first answered."""
        self.problem = ""
        """Why the last attempt failed, empty when it did not."""
        self._mirror = mirror
        self._changed, self._hurry, self._done = threading.Event(), threading.Event(), threading.Event()
        self._connected, self._machine = connected, MachineMetrics(mirror.uri)
        self._stopped = False
        self._ending: Ending | None = None
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)

    @property
    def link(self) -> str:
        """As of the mirror."""
        return self._mirror.link

    def start(self) -> None:
        """Begin with what MLflow lacks already."""
        self._changed.set()
        self._thread.start()

    def changed(self) -> None:
        """The results table has changed."""
        self._changed.set()

    def finish(self, ending: Ending, patience: float | None = None) -> Missing:
        """Catch up, log the end, and return what MLflow lacks then.

        Waits as long as there is progress, and `patience` seconds beyond the last.
        """
        if patience is None:
            patience = PATIENCE_WITH_A_FILE if self._mirror.is_file else PATIENCE
        self._ending = ending
        self._hurry.set()
        self._changed.set()
        steps = -1
        while not self._done.wait(patience) and self._mirror.steps != steps:
            steps = self._mirror.steps
        self._stopped = True
        return self._mirror.missing()

    def _run(self) -> None:
        wait = rest = 0.0
        while not self._stopped:
            self._changed.wait()
            self._hurry.wait(max(wait, rest))
            self._changed.clear()
            ending, steps = self._ending, self._mirror.steps
            self.problem = _failure(self._mirror.update, lambda: not self._stopped)
            advanced = self._mirror.steps > steps
            if not self.problem:
                self._follow(ending)
            if ending is not None and not (self.problem and advanced):
                self.problem = _failure(self._mirror.end, ending) or self.problem
                break
            rest = self._mirror.reading_seconds * (1 / SHARE - 1)
            wait = _longer(0.0 if advanced else wait) if self.problem else 0.0
            if self.problem:
                self._changed.set()
        self._done.set()
        self._machine.stop()

    def _follow(self, ending: Ending | None) -> None:
        """What goes with a parent run that is there: its link, once, and the metrics of the machine."""
        tell, self._connected = self._connected, lambda: None
        tell()
        if ending is None:
            _failure(self._machine.follow, self._mirror.parent)  # no results are missed without
        else:
            self._machine.stop()


def _longer(wait: float) -> float:
    return min(max(2 * wait, FIRST_WAIT), LONGEST_WAIT)


def _failure(attempt: Callable[[T], object], argument: T) -> str:
    """Why an attempt failed, empty when it did not."""
    try:
        attempt(argument)
    except Exception as error:  # of MLflow, its server, database, artifact store, driver or disk
        return why(error)
    return ""
