"""What study.db shows of the results table to people, in optuna-dashboard say. No search reads any of it."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from pareto_amb.declared import BASELINE, Declared, Objective
from pareto_amb.results.run_directory import grid_name

Rows = Sequence[Mapping[str, Any]]

_WAITS = {"paused", "interrupted"}


def open_named(storage: RDBStorage, name: str, objectives: Sequence[Objective]) -> optuna.Study:
    """The study of a name, a new one where there is none, its values called as the results table does."""
    directions = [StudyDirection.MINIMIZE if o.sign > 0 else StudyDirection.MAXIMIZE for o in objectives]
    study = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
    if study.directions != directions:
        raise ValueError("its studies have other objectives")
    names = [objective.name for objective in objectives]
    if study.metric_names != names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(names)
    return study


def show_searched(storage: RDBStorage, study_name: str, number: int, rows: Rows, declared: Declared) -> None:
    """Give trial `number` of a search the attributes of its rows; one that is paused or interrupted waits.

    Nothing is changed in a trial that has ended.
    """
    study_id = storage.get_study_id_from_name(study_name)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
    shown = storage.get_trial(trial_id)
    if shown.state.is_finished():
        return
    for name, value in _attributes(rows, declared).items():
        if shown.user_attrs.get(name) != value:
            storage.set_trial_user_attr(trial_id, name, value)
    state = TrialState.WAITING if rows[-1]["status"] in _WAITS else TrialState.RUNNING
    if shown.state != state:
        if state == TrialState.WAITING:  # there a dashboard looks for parameters
            storage.set_trial_system_attr(trial_id, "fixed_params", shown.params)
        storage.set_trial_state_values(trial_id, state)


def show_beside(storage: RDBStorage, train_size: int, rows: Rows, declared: Declared) -> None:
    """Add a training that no search has chosen, once it is complete, to a study of those of its size.

    Controls have one of their own: they explain others, and belong on no front.
    """
    objectives, last = list(declared.objectives.values()), rows[-1]
    values = [float(last.get(objective.name, math.nan)) for objective in objectives]
    if last["status"] != "complete" or not all(map(math.isfinite, values)):
        return
    kind = "controls" if last["controls"] else "baselines and repeats"
    study = open_named(storage, f"train_size={train_size}, {kind}", objectives)
    if any(
        trial.user_attrs.get("trial_id") == last["trial_id"] for trial in study.get_trials(deepcopy=False)
    ):
        return
    params, searched = _chosen(last, declared)
    study.add_trial(
        create_trial(
            params=params,
            distributions=searched,
            values=values,
            user_attrs=_attributes(rows, declared),
        )
    )


def _chosen(row: Mapping[str, Any], declared: Declared) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Who a training is and where it ended, as parameters: those are what a dashboard draws and sorts by."""
    method, images = str(row["method"]), int(row["images_seen"])
    params: dict[str, Any] = {"method": method, "images_seen": images}
    searched: dict[str, BaseDistribution] = {
        "method": CategoricalDistribution(sorted(declared.methods)),
        "images_seen": IntDistribution(images, images),
    }
    for name in declared.method(method).parameter_names if method != BASELINE else ():
        params[name] = float(row[name])
        searched[name] = FloatDistribution(params[name], params[name])
    return params, searched


def _attributes(rows: Rows, declared: Declared) -> dict[str, Any]:
    """What a person wants to know of a trial: its name and state, its figures and picture at every rung."""
    last, trial_id = rows[-1], str(rows[-1]["trial_id"])
    measured = [row for row in rows if row["rung"]]
    named = {name: str(last[name]) for name in ("confirms", "controls") if last[name]}
    branched = {"branched_at": int(last["branched_at"])} if last["branched_at"] else {}
    return {
        "trial_id": trial_id,
        "status": str(last["status"]),
        "seed": int(last["seed"]),
        **named,
        **branched,
        **{f"rung_{row['rung']}": _figures(row, declared) for row in measured},
    }


def _figures(row: Mapping[str, Any], declared: Declared) -> dict[str, Any]:
    """What was measured at a rung, and where its picture lies in the storage; JSON has no NaN."""
    counts = {"images_seen": int(row["images_seen"]), "n_samples": int(row["n_samples"])}
    figures = {name: float(f"{row[name]:.6g}") for name in declared.objectives if math.isfinite(row[name])}
    picture = {"picture": grid_name(str(row["trial_id"]), int(row["rung"]))} if row["n_samples"] else {}
    return {**counts, **figures, **picture}
