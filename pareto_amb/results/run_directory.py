"""The files of one run, by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pareto_amb.config import SweepConfig
from pareto_amb.config_file import parse, read_yaml
from pareto_amb.declared import Declared
from pareto_amb.errors import UserError
from pareto_amb.printable import printable, reason
from pareto_amb.reading import is_regular, read_file, read_text
from pareto_amb.redaction import redact_values
from pareto_amb.results.names import check_names
from pareto_amb.results.size import Results
from pareto_amb.results.table import load_results, recent_path, shipped
from pareto_amb.untrusted import parse_json

MAX_NOTE_BYTES = 10_000
MAX_ENVIRONMENT_BYTES = 1_000_000


def checkpoint_name(trial_id: str) -> str:
    """Where a trial's checkpoint lies in the run's storage."""
    return f"checkpoints/{trial_id}.safetensors"


def samples_name(trial_id: str, rung: int) -> str:
    """Where the pictures of a trial's rung lie in the run's storage, each with its nearest training image."""
    return f"samples/{trial_id}/rung-{rung}.npz"


def grid_name(trial_id: str, rung: int) -> str:
    """Where one picture of a trial's first samples lies in the run's storage."""
    return f"samples/{trial_id}/rung-{rung}.png"


def answers_name(trial_id: str) -> str:
    """Where a model of an audit says, in the run's storage, what it makes of each image."""
    return f"answers/{trial_id}.npz"


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
    def recent(self) -> Path:
        """The rows that changed last in a long sweep under way; there is no such file in a finished one."""
        return recent_path(self.results)

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
    def audit(self) -> Path:
        """What an audit does; there is no such file in a sweep."""
        return self.path / "audit.yaml"

    @property
    def stopped(self) -> Path:
        """Why the search ended itself; there is no such file in most runs."""
        return self.path / "stopped.txt"

    @property
    def ray_log(self) -> Path:
        """What Ray says in the driver."""
        return self.path / "ray.log"

    @property
    def heartbeats(self) -> Path:
        """How each running trial is going; there only while a sweep runs."""
        return self.path / "heartbeats.json"

    @property
    def events(self) -> Path:
        """What happened, a line an event."""
        return self.path / "events.jsonl"

    @property
    def lock(self) -> Path:
        return self.path / ".lock"

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.resolve().name

    def config(self, declared: Declared | None = None) -> SweepConfig:
        """The resolved configuration. UserError when this is not a run directory.

        It is checked against what is `declared`: by default what the results table says of its sweep, or, in
        a run that has no table yet, what ships.
        """
        self._check()
        known = declared or (self.load().declared if self.results.exists() else shipped())
        values = _without_probes(read_yaml(self.sweep))
        return parse(SweepConfig, values, str(self.sweep), {"declared": known})

    def load(self) -> Results:
        """The results table. UserError when this is not a run directory, or its table cannot be used."""
        self._check()
        results = load_results(self.results)
        try:
            check_names(results.declared)
        except UserError as error:
            raise UserError(f"{printable(self.results)}: not a results table, {error}") from error
        return results

    def _check(self) -> None:
        if not is_regular(self.sweep):
            raise UserError(f"{printable(self.path)}: not a run directory, it holds no sweep.yaml")

    def storage_uri(self, config: SweepConfig) -> str:
        """Where checkpoints and samples lie: the configured storage, or this directory."""
        return config.storage or str(self.path.resolve())

    def why_stopped(self) -> str:
        """Why the search ended itself, on one line, empty when it did not. UserError when unreadable."""
        if not self.stopped.exists():
            return ""
        return printable(read_text(self.stopped, MAX_NOTE_BYTES).strip())

    def read_environment(self) -> dict[str, Any]:
        """The content of environment.json, secrets hidden, empty when there is none.

        UserError when it is not JSON.
        """
        if not self.environment.exists():
            return {}
        content, shown = read_file(self.environment, MAX_ENVIRONMENT_BYTES), printable(self.environment)
        try:
            found = parse_json(content)
        except ValueError as error:
            raise UserError(f"{shown}: not readable as JSON ({reason(error)}); {_RESTORE}") from error
        if not isinstance(found, dict):
            raise UserError(f"{shown}: holds no keys; {_RESTORE}")
        redacted: dict[str, Any] = redact_values(found)
        return redacted


def _without_probes(values: Any) -> Any:
    """The content of a sweep.yaml, which has every key but those of newer versions: it had no probe rungs."""
    evaluation = values.get("evaluation") if isinstance(values, Mapping) else None
    if not isinstance(evaluation, Mapping) or "probes" in evaluation:
        return values
    return {**values, "evaluation": {**evaluation, "probes": []}}


_RESTORE = "restore what the sweep wrote, or delete it"
