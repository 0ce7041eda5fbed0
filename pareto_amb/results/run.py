"""A run as it lies on disk, read once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
from pydantic import ValidationError

from pareto_amb.config import SweepConfig
from pareto_amb.config_file import read_yaml
from pareto_amb.errors import UserError
from pareto_amb.notebook import html_list, html_table
from pareto_amb.results.recommend import Recommendation
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.results.size import Results, SizeResults
from pareto_amb.storage import Storage


@dataclass(frozen=True)
class Run:
    """A run as it lies on disk; `recommendations` is None when none was written yet.

    `stopped` says why the search ended itself, it is empty in most runs.
    """

    directory: RunDirectory
    config: SweepConfig
    results: Results
    policy: str
    recommendations: dict[int, Recommendation] | None
    environment: list[tuple[str, str]]
    stopped: str
    storage: Storage

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a run directory.

        Raises UserError naming the file when the sweep file or the results table is missing or
        unusable, or when an optional file is there but cannot be used.
        """
        directory = RunDirectory(path)
        results = directory.load()
        config = directory.config(results.declared)
        policy, recommendations = _read_recommendations(directory.recommendation, results)
        return cls(
            directory=directory,
            config=config,
            results=results,
            policy=policy,
            recommendations=recommendations,
            environment=flatten(directory.read_environment()),
            stopped=directory.why_stopped(),
            storage=Storage(directory.storage_uri(config)),
        )

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.directory.name

    @property
    def frame(self) -> pd.DataFrame:
        """The results table: one row per (trial, rung)."""
        return self.results.frame

    def train_sizes(self) -> list[int]:
        """The train sizes asked for and those measured, rising."""
        return sorted({*self.results.sizes(), *self.config.space.train_size})

    def size(self, train_size: int) -> SizeResults:
        """The results of one train size."""
        return self.results.size(train_size)

    def _repr_html_(self) -> str:
        found = [entry.summary for entry in (self.recommendations or {}).values()]
        statuses = self.frame.drop_duplicates("trial_id").status.value_counts()
        rows = [[status, f"{count:,}"] for status, count in statuses.items()]
        table = html_table(f"{self.name}: trainings", ("status", "trainings"), rows)
        return table + html_list(found or ["No recommendation was written yet."])


def _read_recommendations(path: Path, results: Results) -> tuple[str, dict[int, Recommendation] | None]:
    if not path.exists():
        return "", None
    values = read_yaml(path)
    entries = values.get("recommendations")
    if not isinstance(entries, list):
        raise UserError(f"{path}: key 'recommendations' must be a list; run recommend again")
    try:
        found = [_recommendation(entry, results) for entry in entries]
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise UserError(f"{path}: recommendations.{key}: {problem['msg']}; run recommend again") from error
    except KeyError as error:
        raise UserError(f"{path}: recommendations.{error.args[0]} is missing; run recommend again") from error
    return str(values.get("policy", "")), {entry.train_size: entry for entry in found}


def _recommendation(entry: Any, results: Results) -> Recommendation:
    """An entry of the file, without what it holds for a production run.

    Older versions wrote the parameters beside each other and not below `parameters`. Raises KeyError where a
    parameter of its method or a figure of an objective is missing.
    """
    if isinstance(entry, Mapping):
        entry = {key: value for key, value in entry.items() if key not in {"caution", "training"}}
    found = Recommendation.model_validate(entry)
    names = results.declared.method(found.method).parameter_names
    known = {**entry, **found.parameters}
    for objective in results.declared.objectives:
        found[objective], found.baseline[objective]
        if found.early_stop:
            found.early_stop[objective]
        if found.confirmation:
            found.confirmation.searched(objective)
    return found.model_copy(update={"parameters": {name: known[name] for name in names}})


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as dotted keys, lists joined with commas."""
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            pairs += flatten(value, f"{name}.")
        elif isinstance(value, list):
            pairs.append((name, ", ".join(str(item) for item in value)))
        else:
            pairs.append((name, "" if value is None else str(value)))
    return pairs
