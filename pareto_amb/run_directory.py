"""The files of one run, by name."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pareto_amb.config import SweepConfig, parse, read_yaml
from pareto_amb.errors import UserError


@dataclass(frozen=True)
class RunDirectory:
    """runs/<name>-<time>/ and what lies in it."""

    path: Path

    @property
    def sweep(self) -> Path:
        return self.path / "sweep.yaml"

    @property
    def results(self) -> Path:
        return self.path / "results.parquet"

    @property
    def study(self) -> Path:
        return self.path / "study.db"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def recommendation(self) -> Path:
        return self.path / "recommendation.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def stopped(self) -> Path:
        """Why the search ended itself; there is no such file in most runs."""
        return self.path / "stopped.txt"

    @property
    def lock(self) -> Path:
        return self.path / ".lock"

    def config(self) -> SweepConfig:
        """The resolved configuration. UserError when this is not a run directory."""
        if not self.sweep.is_file():
            raise UserError(f"{self.path}: not a run directory, it holds no sweep.yaml")
        return parse(SweepConfig, read_yaml(self.sweep), str(self.sweep))

    def storage_uri(self, config: SweepConfig) -> str:
        """Where checkpoints and samples lie: the configured storage, or this directory."""
        return config.storage or str(self.path.resolve())

    def why_stopped(self) -> str:
        """Why the search ended itself, empty when it did not."""
        return self.stopped.read_text(encoding="utf-8").strip() if self.stopped.exists() else ""

    def read_environment(self) -> dict[str, Any]:
        """The content of environment.json, empty when there is none. UserError when it is not JSON."""
        if not self.environment.exists():
            return {}
        try:
            loaded = json.loads(self.environment.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.environment}: not readable as JSON ({error})") from error
        return loaded if isinstance(loaded, dict) else {}
