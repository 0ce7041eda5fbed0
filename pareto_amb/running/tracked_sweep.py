"""What MLflow shows of a sweep as a whole: what was asked for, on which images, and how far it has come."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from pareto_amb.config import SweepConfig
from pareto_amb.declared import BASELINE
from pareto_amb.redaction import redact
from pareto_amb.results.size import SizeResults

_MAY_CHANGE = ("search.trials", "resources.")
"""Keys that a resumed sweep may change; MLflow keeps the first value of a parameter."""

_LONGEST_DIGEST, _LONGEST_NAME = 36, 500
"""Characters of a data set's digest and name that MLflow takes."""


def parameters(config: SweepConfig) -> dict[str, str]:
    """The keys of a sweep file that have a value, by their place, such as `training.batch_size`."""
    flat = dict(_flat(config.model_dump(mode="json"), ""))
    return {name: value for name, value in flat.items() if not name.startswith(_MAY_CHANGE)}


def _flat(values: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(value, f"{place}.{key}" if place else str(key))
    elif values not in (None, "", [], {}):
        yield place, values if isinstance(values, str) else json.dumps(values)


def dataset(config: SweepConfig, environment: Mapping[str, Any]) -> DatasetInput | None:
    """The images as MLflow lists them, with their fingerprint; None where the run does not know it."""
    data = environment.get("data")
    if not isinstance(data, Mapping) or not data.get("fingerprint"):
        return None
    profile = {"images": data.get("images"), "train_size": list(config.space.train_size)}
    found = Dataset(
        name=str(data.get("name") or config.data.source)[:_LONGEST_NAME],
        digest=str(data["fingerprint"])[:_LONGEST_DIGEST],
        source_type="local" if config.data.path else config.data.source,
        source=json.dumps({"uri": redact(str(config.data.path or config.data.source))}),
        profile=json.dumps(profile),
    )
    return DatasetInput(found, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])


def ended_trainings(size: SizeResults, config: SweepConfig) -> pd.DataFrame:
    """The `hypervolume_history` of a size; empty until its baselines have ended, on which that rests."""
    baselines = size.frame[(size.frame.method == BASELINE) & (size.frame.confirms == "")]
    ended = baselines[baselines.status.isin({"complete", "failed"})].trial_id.nunique()
    history = size.hypervolume_history
    return history if ended >= config.search.baseline_seeds else history.iloc[:0]


def points(size: SizeResults, history: pd.DataFrame, logged: int) -> Iterator[Metric]:
    """What is new in a `history` of which so many rows were logged; a step is a training that has ended.

    All of it is about full budgets.
    """
    names = {"hypervolume": "hypervolume_at_full_budget", "trainings": "cost_in_full_trainings"}
    names |= {f"best_{o.name}": f"best_{o.name}_at_full_budget" for o in size.objectives}
    for step, row in enumerate(history.iloc[logged:].to_dict("records"), start=logged + 1):
        for column, name in names.items():
            if not math.isnan(row[column]):  # where DDPM copies nothing
                when = int(row["recorded_at"] * 1000)
                yield Metric(f"n{size.train_size}/{name}", float(row[column]), when, step)
