"""Trials that failed by themselves, taken up again where their user asks for it."""

from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from pareto_amb.results.table import ResultsTable
from pareto_amb.running.study import open_storage, sqlite_storage, study_errors
from pareto_amb.storage import replace_file


def retry_failed(results: ResultsTable, study: Path) -> None:
    """Let every failed trial be one that was interrupted, in the table and in study.db.

    A process killed in between leaves trials that failed: the table decides.
    """
    failed = [trial_id for trial_id in results.trial_ids() if results.status(trial_id) == "failed"]
    if failed and study.exists():
        with study_errors(study):
            _reopen(study)
    for trial_id in failed:
        results.record({**results.rows(trial_id)[-1], "status": "interrupted", "error": ""})


def _reopen(path: Path) -> None:
    """Write study.db anew, its failed trials running: Optuna does not change a finished trial."""
    before = open_storage(path)
    with replace_file(path) as temporary:
        after = sqlite_storage(temporary)
        for summary in optuna.get_all_study_summaries(before):
            study = optuna.create_study(
                study_name=summary.study_name, storage=after, directions=summary.directions
            )
            trials = optuna.load_study(study_name=summary.study_name, storage=before).get_trials()
            study.add_trials([_open(trial) for trial in trials])
        after.engine.dispose()
    before.engine.dispose()


def _open(trial: FrozenTrial) -> FrozenTrial:
    if trial.state != TrialState.FAIL:
        return trial
    return create_trial(
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs,
        state=TrialState.RUNNING,
    )
