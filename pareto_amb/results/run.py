"""A run as it lies on disk, read once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
from pydantic import ValidationError

from pareto_amb.config import SweepConfig
from pareto_amb.config_file import read_yaml
from pareto_amb.declared import BASELINE, Declared
from pareto_amb.errors import UserError
from pareto_amb.notebook import html_list, html_table
from pareto_amb.printable import printable, reason
from pareto_amb.results.checks import LARGEST, is_allowed
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.results.size import Results, SizeResults
from pareto_amb.results.verdict import assessed
from pareto_amb.storage import Storage


@dataclass(frozen=True)
class Run:
    """A run as it lies on disk; `recommendations` is None when none was written yet.

    Their verdicts and cautions are those that the table bears out, whatever version wrote the file.
    `pictures` is where those of its samples are read: the directory itself, or the storage of a run that is
    trusted. None where they lie elsewhere: a run may come from anyone, and its storage be anyone's server.

    `stopped` says why the search ended itself, it is empty in most runs.
    """

    directory: RunDirectory
    config: SweepConfig
    results: Results
    policy: str
    recommendations: dict[int, Recommendation] | None
    environment: list[tuple[str, str]]
    stopped: str
    pictures: Path | Storage | None

    @classmethod
    def read(cls, path: Path, trust: bool = False) -> Self:
        """Read a run directory, and nothing that its files name elsewhere unless the run is to `trust`.

        Raises UserError naming the file when the sweep file or the results table is missing or
        unusable, or when an optional file is there but cannot be used.
        """
        directory = RunDirectory(path)
        results = directory.load()
        config = directory.config(results.declared)
        policy, recommendations = _read_recommendations(directory.recommendation, results)
        stopped = directory.why_stopped()
        return cls(
            directory=directory,
            config=config,
            results=results,
            policy=policy,
            recommendations=recommendations
            and {
                size: assessed(found, results.size(size), config, stopped)
                for size, found in recommendations.items()
            },
            environment=flatten(directory.read_environment()),
            stopped=stopped,
            pictures=_pictures(directory, config, trust),
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
        found = [line for entry in (self.recommendations or {}).values() for line in entry.lines()]
        statuses = self.frame.drop_duplicates("trial_id").status.value_counts()
        rows = [[status, f"{count:,}"] for status, count in statuses.items()]
        table = html_table(f"{self.name}: trainings", ("status", "trainings"), rows)
        return table + html_list(found or ["No recommendation was written yet."])


_REMEDY = "run recommend again"


def _pictures(directory: RunDirectory, config: SweepConfig, trust: bool) -> Path | Storage | None:
    if trust:
        return Storage(directory.storage_uri(config))
    return None if config.storage else directory.path


def _read_recommendations(path: Path, results: Results) -> tuple[str, dict[int, Recommendation] | None]:
    if not path.exists():
        return "", None
    values, shown = read_yaml(path), printable(path)
    entries, policy = values.get("recommendations"), values.get("policy", "")
    if not isinstance(entries, list):
        raise UserError(f"{shown}: key 'recommendations' must be a list; {_REMEDY}")
    if not isinstance(policy, str):
        raise UserError(f"{shown}: key 'policy' must be a word; {_REMEDY}")
    try:
        found = [_recommendation(entry, results) for entry in entries]
    except ValidationError as error:
        problem = error.errors()[0]
        key = printable(".".join(str(part) for part in problem["loc"]))
        raise UserError(f"{shown}: recommendations.{key:.200}: {problem['msg']}; {_REMEDY}") from error
    except KeyError as error:
        raise UserError(f"{shown}: recommendations.{error.args[0]} is missing; {_REMEDY}") from error
    except ValueError as error:
        raise UserError(f"{shown}: recommendations.{reason(error)}; {_REMEDY}") from error
    return policy, {entry.train_size: entry for entry in found}


def _recommendation(entry: Any, results: Results) -> Recommendation:
    """An entry of the file, without what it holds for a production run or another version writes.

    Older versions wrote the parameters beside each other and not below `parameters`. Raises KeyError where a
    parameter of its method or a figure of an objective is missing, ValueError for a value that cannot be.
    """
    declared = results.declared
    if isinstance(entry, Mapping):
        known_keys = {*Recommendation.model_fields, "sigma_tn_interval", *declared.objectives}
        entry = {key: value for key, value in entry.items() if key in known_keys}
    found = Recommendation.model_validate(entry)
    known = found.method in declared.methods and declared.method(found.method).recommended
    if not known and found.method != BASELINE:
        raise ValueError(f"method: {found.method!r:.80} is none that the results table declares")
    names = declared.method(found.method).parameter_names
    if found.main != next(iter(names), ""):
        raise ValueError(f"main: {found.main!r:.80} is not the first parameter of {found.method}")
    values = {**entry, **found.parameters}
    parameters = {name: _allowed(declared, name, values[name]) for name in names}
    _check_figures(found, declared)
    return found.model_copy(update={"parameters": parameters})


def _allowed(declared: Declared, name: str, value: Any) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not is_allowed(declared, name, value)
    ):
        raise ValueError(f"{name}: {value!r:.80} is no value that trials are made with")
    return float(value)


def _check_figures(found: Recommendation, declared: Declared) -> None:
    """Raise KeyError for a figure that is missing, ValueError for one that is no number."""
    for name in declared.objectives:
        found[name], found.baseline[name]
        for other in (found.early_stop, found.equal_budget):
            if other:
                other[name]
        if found.gain:
            found.gain.ddpm[name], found.gain.control[name]
        if found.final:
            found.final.training[name], found.final.ddpm and found.final.ddpm[name]
        if found.confirmation:
            found.confirmation.searched(name), found.confirmation.change(name)
    figures = found.model_dump(exclude={"heldout_memorization"})  # tables of old versions may lack that one
    for name, value in _numbers(figures):
        if not abs(value) <= LARGEST:
            raise ValueError(f"{name}: {value} is no figure")


def _numbers(values: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """The numbers among nested values, each with the key that it lies below."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _numbers(value, str(key))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _numbers(value, name)
    elif isinstance(values, (int, float)):
        yield name, values


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
