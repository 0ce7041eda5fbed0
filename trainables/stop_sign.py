"""The sign that a sweep is to stop: a Ray actor that the driver raises and every trial looks at.

Trials also say there how they are going.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

if TYPE_CHECKING:
    from pareto_amb.results.live import Heartbeat

LOOK_SECONDS = 0.5
"""A trial looks at the sign about so often."""

HOLD_SECONDS = 60.0
"""A trial that has written its checkpoint waits so long for its end, then goes on."""


class StopSign:
    """A Ray actor that takes no CPU: whether to stop, and which trials would lose something by it.

    All its methods are coroutines, so that any number of trials can wait at once.
    """

    def __init__(self) -> None:
        self._raised, self._saved = asyncio.Event(), asyncio.Event()
        self._saved.set()
        self._training: set[str] = set()
        self._beats: dict[str, Mapping[str, Any]] = {}

    async def wait(self) -> None:
        """Return when the sign is raised."""
        await self._raised.wait()

    async def stop(self) -> None:
        """Raise the sign; return when no trial would lose anything any more."""
        self._raised.set()
        await self._saved.wait()

    async def training(self, trial_id: str) -> None:
        """A trial is ahead of its checkpoint from now on."""
        self._training.add(trial_id)
        self._saved.clear()

    async def saved(self, trial_id: str) -> None:
        """A trial has written its checkpoint and trains no further."""
        self._training.discard(trial_id)
        if not self._training:
            self._saved.set()

    async def beat(self, trial_id: str, beat: Mapping[str, Any]) -> None:
        """Where a trial is."""
        self._beats[trial_id] = beat

    async def beats(self) -> dict[str, Mapping[str, Any]]:
        """The last that every trial has said, by its id."""
        return dict(self._beats)


class Lookout:
    """One worker's view of the sign. It never waits for an answer: a question is always under way.

    `sign` is the handle of a `StopSign`; a sign that is gone was never raised. A SIGTERM to this process is a
    sign for it alone: its machine is about to be taken away. A second one ends it, as Ray has it.
    """

    def __init__(self, sign: Any) -> None:
        self._sign, self._answer = sign, sign.wait.remote()
        self._next = time.monotonic() + LOOK_SECONDS
        self._raised = self._warned = False
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._warn)

    def _warn(self, number: int, frame: FrameType | None) -> None:
        if self._warned:
            signal.signal(number, self._before)
            os.kill(os.getpid(), number)
        self._warned = True

    def raised(self) -> bool:
        """Whether the sweep is to stop, or this machine is about to go, as of a moment ago."""
        if self._warned:
            return True
        now = time.monotonic()
        if now >= self._next and not self._raised:
            self._next = now + LOOK_SECONDS
            ready, _ = ray.wait([self._answer], timeout=0)
            if ready:
                self._raised = _came(self._answer)
                self._next = now if self._raised else float("inf")
        return self._raised

    def training(self, trial_id: str) -> None:
        """The trial begins to train."""
        self._sign.training.remote(trial_id)

    def saved(self, trial_id: str) -> None:
        """The trial's checkpoint is up to date."""
        self._sign.saved.remote(trial_id)

    def beat(self, beat: "Heartbeat") -> None:
        """Say how the trial is going."""
        self._sign.beat.remote(beat.trial_id, beat.model_dump())

    def hold(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Do nothing that would be lost while the sweep ends, or the machine goes; then go on."""
        sleep(HOLD_SECONDS)
        self._warned = False


def _came(answer: Any) -> bool:
    try:
        ray.get(answer, timeout=1)
    except RayError:
        return False
    return True
