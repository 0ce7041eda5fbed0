"""What listens to Ray while a sweep runs: results go to the table, MLflow and the screen.

Callbacks only tell; they change neither a trial's configuration nor its results.
"""

import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ray import cloudpickle, tune
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial as RayTrial
from ray.tune.progress_reporter import TrialProgressCallback

from pareto_amb.printable import printable
from pareto_amb.results.stall import describe_stall, has_stalled
from pareto_amb.results.table import ResultsTable
from pareto_amb.running.progress import SweepProgress
from pareto_amb.running.scheduler import ParetoHalving
from pareto_amb.running.state import SweepState
from pareto_amb.running.tracker import Tracker
from pareto_amb.storage import write_text
from pareto_amb.trainables.faults import FULL, MachineError, describe, fault_of, number_of
from pareto_amb.trial import Trial


class SilentRay(TrialProgressCallback):
    """In the place of the one that Ray adds, which prints of ended trials whatever the verbosity."""

    def _print(self, msg: str) -> None:
        """Say nothing: `SweepProgress` does."""


class Followed(Protocol):
    """What a follower writes into: a sweep under way, or an audit."""

    @property
    def results(self) -> ResultsTable: ...

    @property
    def halving(self) -> ParetoHalving | None: ...

    def end(self, trial: Trial, error: str, interrupted: bool) -> None:
        """Record that a trial has ended without a result."""

    def show(self, trial_id: str) -> None:
        """Show elsewhere what the table has of a trial."""


class Follower(tune.Callback):
    """Carries each result from Ray to the results table and the screen, and tells MLflow's thread, if any."""

    def __init__(self, state: Followed, tracker: Tracker | None, progress: SweepProgress) -> None:
        self._state, self._results, self._halving = state, state.results, state.halving
        self._tracker, self._progress = tracker, progress

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles callbacks for a restore of its own, which is never used: leave everything out."""
        return {}

    def _tell(self) -> None:
        if self._tracker is not None:
            self._tracker.changed()

    def on_trial_start(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: Any) -> None:
        started = Trial.from_config(trial.config)
        row = self._results.last_row(started.id)
        if row is not None and row["status"] in {"paused", "interrupted"}:
            resumed = {**row, "status": "running", "error": ""}
            self._results.record(resumed)
            self._state.show(started.id)
            self._tell()
            if row["status"] == "paused":
                self._progress.resumed(resumed)
        self._progress.started(started)

    def on_trial_result(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: dict[str, Any], **_: Any
    ) -> None:
        row = dict(result["row"])
        if self._halving and self._halving.is_paused(trial):
            row["status"] = "paused"
        self._results.record(row)
        self._state.show(row["trial_id"])
        self._progress.row(row)
        self._tell()

    def on_trial_recover(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: Any) -> None:
        self._progress.retried(Trial.from_config(trial.config), latest_failure(trial).reason)
        if trial.pickled_error_file:  # Ray would leave it beside an error of another kind
            Path(trial.pickled_error_file).unlink(missing_ok=True)

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: Any) -> None:
        ended, failure = Trial.from_config(trial.config), latest_failure(trial)
        self._state.end(ended, failure.reason, failure.interrupted)
        self._progress.failed(ended, failure.reason, failure.interrupted)
        self._tell()
        if failure.full:
            raise MachineError(failure.reason, errno.ENOSPC)


class PatienceWatch(tune.Callback):
    """Ends the search when its frontier has stopped growing, and leaves the reason in the run directory."""

    def __init__(self, state: SweepState, progress: SweepProgress) -> None:
        self._state, self._progress = state, progress

    def __getstate__(self) -> dict[str, Any]:
        """As for `Follower`."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: dict[str, Any], **_: Any
    ) -> None:
        state, patience = self._state, self._state.config.search.patience
        done = result["status"] == "complete" and not Trial.from_config(trial.config).follows
        if patience is None or not done or state.run.stopped.exists():
            return
        results = state.results.results()
        if all(has_stalled(results.size(size), patience) for size in state.config.space.train_size):
            reason = describe_stall(patience)
            write_text(state.run.stopped, reason)
            state.searcher.stop()
            self._progress.stopped(reason, state.n_planned)


@dataclass(frozen=True)
class Failure:
    """Why a trial has ended, on one line, and whether the machine is to blame, or a full disk of it."""

    reason: str
    interrupted: bool
    full: bool = False


def latest_failure(trial: RayTrial) -> Failure:
    """What a trial's latest failure was, from what Ray keeps of it in a folder of this process's.

    Ray keeps the exceptions of a trial's code and of its worker; without one, it was an error of Ray's own.
    """
    error = _kept_exception(trial)
    fault = error and fault_of(error)
    if fault is None and isinstance(error, RayTaskError):
        # Around a step Ray moves notes to and from the storage: what fails there is not the trial's code.
        moving = re.search(r"ray::[\w.]*\.(save|restore)\(\)", str(error))
        fault = error.cause if moving and isinstance(error.cause, OSError) else None
    if fault is not None:
        return Failure(describe(fault), True, number_of(fault) in FULL)
    text = "" if trial.error_file is None else _text(Path(trial.error_file))
    return Failure(printable(text.rpartition("\n")[2].strip()) or "the worker died", error is None)


def _kept_exception(trial: RayTrial) -> BaseException | None:
    """What Ray has just written for this process. Its folders are open to all users of a machine, so a link,
    and a file that another user owns or everybody may write, is not unpickled.
    """
    try:
        with os.fdopen(os.open(trial.pickled_error_file, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.getuid() or status.st_mode & stat.S_IWOTH:
                return None
            kept = cloudpickle.loads(file.read())
    except (OSError, TypeError):  # none was kept
        return None
    except Exception as error:  # one of the trial's own code, which does what it likes
        return error
    return kept if isinstance(kept, BaseException) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
