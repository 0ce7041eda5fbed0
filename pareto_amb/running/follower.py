"""What listens to Ray while a sweep runs: results go to the table, MLflow and the screen.

Callbacks only tell; they change neither a trial's configuration nor its results.
"""

from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.progress_reporter import TrialProgressCallback

from pareto_amb.results.run_directory import grid_name
from pareto_amb.results.stall import describe_stall, has_stalled
from pareto_amb.results.table import trial_columns
from pareto_amb.running.progress import SweepProgress
from pareto_amb.running.state import SweepState
from pareto_amb.running.tracking import Tracker
from pareto_amb.storage import Storage, write_text
from pareto_amb.trial import Trial


class SilentRay(TrialProgressCallback):
    """In the place of the one that Ray adds, which prints of ended trials whatever the verbosity."""

    def _print(self, msg: str) -> None:
        """Say nothing: `SweepProgress` does."""


class Follower(tune.Callback):
    """Carries each result from Ray to the results table, then to MLflow and the screen."""

    def __init__(
        self, state: SweepState, tracker: Tracker, progress: SweepProgress, storage: Storage
    ) -> None:
        self._results, self._halving, self._declared = state.results, state.halving, state.declared
        self._tracker, self._progress, self._storage = tracker, progress, storage

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles callbacks for a restore of its own, which is never used: leave everything out."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: Any) -> None:
        started = Trial.from_config(trial.config)
        row = self._results.last_row(started.id)
        if row is not None and row["status"] == "paused":
            resumed = {**row, "status": "running"}
            self._results.record(resumed)
            self._progress.resumed(resumed)
            self._tracker.log_status(resumed)
        self._progress.started(started)

    def on_trial_result(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: dict[str, Any], **_: Any
    ) -> None:
        row = dict(result["row"])
        if self._halving and self._halving.is_paused(trial):
            row["status"] = "paused"
        self._results.record(row)
        self._progress.row(row)
        name = grid_name(row["trial_id"], row["rung"])
        picture = self._storage.read(name)
        self._tracker.log_row(row, {Path(name).name: picture} if picture else {})

    def on_trial_recover(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: Any) -> None:
        self._progress.retried(Trial.from_config(trial.config))

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: Any) -> None:
        failed, reason = Trial.from_config(trial.config), _failure_reason(trial)
        row = self._results.last_row(failed.id) or self._empty_row(failed)
        row = {**row, "status": "failed", "error": reason}
        self._results.record(row)
        self._progress.failed(failed, reason)
        self._tracker.log_row(row, {})

    def _empty_row(self, trial: Trial) -> dict[str, Any]:
        """The row of a trial that failed before its first rung."""
        start = {"rung": 0, "images_seen": 0, "budget": 0.0, "n_samples": 0}
        return {**trial_columns(trial, self._declared), **start}


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
        if patience is None or result["status"] != "complete" or state.run.stopped.exists():
            return
        results = state.results.results()
        if all(has_stalled(results.size(size), patience) for size in state.config.space.train_size):
            reason = describe_stall(patience)
            write_text(state.run.stopped, reason)
            state.searcher.stop()
            self._progress.stopped(reason, state.searcher.n_total + state.n_confirmations)


def _failure_reason(trial: RayTrial) -> str:
    """The last line of the traceback that Ray keeps of a trial's latest failure."""
    if trial.error_file is None:
        return "the worker died"
    text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace").strip()
    return text.rpartition("\n")[2].strip() or "the worker died"
