"""What a report needs from a run directory."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from pareto_amb.config import SweepConfig, parse, read_yaml
from pareto_amb.errors import UserError
from pareto_amb.results import load_results
from pareto_amb.search.recommend import Recommendation
from pareto_amb.storage import Storage


@dataclass(frozen=True)
class Run:
    """A run as it lies on disk; `recommendations` is None when none was written yet.

    `stopped` says why the search ended itself, it is empty in most runs.
    """

    name: str
    config: SweepConfig
    results: pd.DataFrame
    policy: str
    recommendations: dict[int, Recommendation] | None
    environment: list[tuple[str, str]]
    stopped: str
    storage: Storage

    def train_sizes(self) -> list[int]:
        """The train sizes asked for and those measured, rising."""
        measured = {int(size) for size in self.results.train_size}
        return sorted(measured.union(self.config.space.train_size))


def read_run(run_dir: Path) -> Run:
    """Read a run directory.

    Raises UserError naming the file when the sweep file or the results table is missing or
    unusable, or when an optional file is there but cannot be used.
    """
    sweep_file = run_dir / "sweep.yaml"
    config = parse(SweepConfig, read_yaml(sweep_file), str(sweep_file))
    policy, recommendations = _read_recommendations(run_dir / "recommendation.yaml")
    return Run(
        name=run_dir.resolve().name,
        config=config,
        results=load_results(run_dir / "results.parquet"),
        policy=policy,
        recommendations=recommendations,
        environment=_read_environment(run_dir / "environment.json"),
        stopped=_read_text(run_dir / "stopped.txt"),
        storage=Storage(config.storage or str(run_dir)),
    )


def _read_recommendations(path: Path) -> tuple[str, dict[int, Recommendation] | None]:
    if not path.exists():
        return "", None
    values = read_yaml(path)
    entries = values.get("recommendations")
    if not isinstance(entries, list):
        raise UserError(f"{path}: key 'recommendations' must be a list; run recommend again")
    try:
        found = [Recommendation.model_validate(entry) for entry in entries]
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise UserError(f"{path}: recommendations.{key}: {problem['msg']}; run recommend again") from error
    return str(values.get("policy", "")), {entry.train_size: entry for entry in found}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a text file ({error}); delete it and report again") from error


def _read_environment(path: Path) -> list[tuple[str, str]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a JSON file ({reason}); delete it and report again") from error
    return flatten(values if isinstance(values, dict) else {"environment": values})


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
