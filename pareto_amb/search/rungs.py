"""What a rule that stops trials early is asked: who goes on at a rung, and which paused trials may resume."""

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Rungs(ABC):
    """What trials that compete have shown at each rung, counted from 1, and which of them wait there."""

    @abstractmethod
    def enter(self, trial_id: str, rung: int, values: Sequence[float]) -> None:
        """Count the minimised `values` of a trial that goes on from `rung` in any case."""

    @abstractmethod
    def pause(self, trial_id: str, rung: int, values: Sequence[float]) -> None:
        """Count the minimised `values` of a trial that paused at `rung`; `candidates` decides on it."""

    @abstractmethod
    def report(self, trial_id: str, rung: int, values: Sequence[float]) -> bool:
        """Count the minimised `values` of a trial at `rung`: whether it goes on."""

    @abstractmethod
    def candidates(self) -> list[tuple[int, str]]:
        """(rung, trial) of the paused trials that may resume, highest rung first."""

    def promotable(self) -> str | None:
        """The first of `candidates`, None without one. It counts as resumed from then on."""
        for _, trial_id in self.candidates():
            self.go_on(trial_id)
            return trial_id
        return None

    def close(self) -> None:
        """No new trial will come. A rule that waits for more of them waits no longer."""
        return None

    @abstractmethod
    def last_choice(self) -> str | None:
        """The paused trial with the least hope."""

    @abstractmethod
    def go_on(self, trial_id: str) -> None:
        """Let a trial leave the highest rung it reached; it is no candidate any more, but still counts."""

    @abstractmethod
    def forget(self, trial_id: str) -> None:
        """Leave out a trial that failed: it will neither resume nor count."""
