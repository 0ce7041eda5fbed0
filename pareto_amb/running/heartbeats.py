"""What a running sweep writes down for those who watch it: how its trials are going, and what happens."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from pydantic import ValidationError
from ray import tune
from ray.exceptions import RayError

from pareto_amb.diffusion.heart import BEAT_SECONDS
from pareto_amb.results.live import Event, Heartbeat
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.running.progress import SweepProgress
from pareto_amb.storage import write_text


class Journal:
    """Adds a line to the run's `events.jsonl` for each event; one that cannot be written is left out."""

    def __init__(self, run: RunDirectory) -> None:
        self._path = run.events

    def hear(self, event: Event) -> None:
        with suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(event.model_dump_json() + "\n")


class HeartbeatWatch(tune.Callback):
    """Asks the trials' sign how they are going, shows it and keeps it in `heartbeats.json`.

    It never waits for the answer: it looks for it between two steps of Ray Tune's loop.
    """

    def __init__(self, sign: Any, progress: SweepProgress, run: RunDirectory) -> None:
        self._sign, self._progress, self._path = sign, progress, run.heartbeats
        self._answer: Any = None
        self._next = time.monotonic() + BEAT_SECONDS

    def __getstate__(self) -> dict[str, Any]:
        """As for `Follower`."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        now = time.monotonic()
        if self._answer is None and now >= self._next:
            self._next, self._answer = now + BEAT_SECONDS, self._sign.beats.remote()
        elif self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            answer, self._answer = self._answer, None
            with suppress(RayError, ValidationError):
                said = ray.get(answer, timeout=1)
                self._keep({trial_id: Heartbeat.model_validate(beat) for trial_id, beat in said.items()})

    def _keep(self, beats: dict[str, Heartbeat]) -> None:
        text = self._progress.beats(beats).model_dump_json()
        with suppress(OSError):
            write_text(self._path, text)


@contextmanager
def heartbeats(sign: Any, progress: SweepProgress, run: RunDirectory) -> Iterator[tune.Callback]:
    """Show and keep how the trials of the block are going, by a callback that Ray Tune must be given."""
    try:
        yield HeartbeatWatch(sign, progress, run)
    finally:
        with suppress(OSError):
            run.heartbeats.unlink(missing_ok=True)
