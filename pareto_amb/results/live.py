"""What a sweep says of itself while it runs: how each trial is going, and what has happened.

`heartbeats.json` is replaced every few seconds and is gone when the sweep ends; `events.jsonl` grows by a
line an event. Like every file of a run they may come from anyone.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pareto_amb.errors import UserError
from pareto_amb.reading import open_regular, read_file
from pareto_amb.results.checks import LARGEST, TRIAL_ID
from pareto_amb.terminal import format_duration, format_speed
from pareto_amb.untrusted import parse_json

MAX_BEATS_BYTES = 2**22
MAX_EVENTS_BYTES = 2**18
"""The end of `events.jsonl` that is read."""

Kind = Literal[
    "started", "branched", "promoted", "paused", "resumed", "complete", "retried", "interrupted", "failed",
    "stopped",
]  # fmt: skip
"""`promoted`: was measured and goes on. `stopped`: the search ended itself, of no trial."""

_MOST = 10**15


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Heartbeat(_Said):
    """How a running trial is going. `rung` is the one it trains to or measures, of the `rungs` it has.

    Speed, loss and time left are None while they are not known, and while it measures. `seconds_left` is of
    training to the trial's end, measurements apart; the loss is the mean since the last measurement.
    """

    trial_id: str = Field(pattern=f"^{TRIAL_ID.pattern}$")
    worker: str = Field(max_length=200)
    doing: Literal["training", "measuring"]
    rung: int = Field(ge=0, le=1000)
    rungs: int = Field(ge=0, le=1000)
    step: int = Field(ge=0, le=_MOST)
    steps: int = Field(ge=0, le=_MOST)
    images_seen: int = Field(ge=0, le=_MOST)
    images: int = Field(ge=0, le=_MOST)
    images_per_second: float | None = Field(default=None, ge=0, le=LARGEST)
    loss: float | None = Field(default=None, ge=-LARGEST, le=LARGEST)
    seconds_left: float | None = Field(default=None, ge=0, le=1e12)


class Heartbeats(_Said):
    """All running trials, as the sweep wrote them down at `at`, seconds since 1970.

    `done` of `total` trials have ended or paused; `seconds_left` is the sweep's estimate for all of them.
    """

    at: float = Field(ge=0, le=1e12)
    done: int = Field(ge=0, le=_MOST)
    total: int = Field(ge=0, le=_MOST)
    seconds_left: float | None = Field(default=None, ge=0, le=1e12)
    trials: list[Heartbeat] = Field(max_length=10_000)


class Event(_Said):
    """Something that happened, in words, at `at`, seconds since 1970; without a trial id it is of none.

    `sampled` says whether figures of samples stand in the words.
    """

    at: float = Field(ge=0, le=1e12)
    kind: Kind
    trial_id: str = Field(default="", max_length=200)
    words: str = Field(max_length=10_000)
    sampled: bool = False


def read_heartbeats(path: Path) -> Heartbeats | None:
    """The trials that run, None where no sweep writes them down. UserError where they cannot be read."""
    if not path.exists():
        return None
    try:
        return Heartbeats.model_validate(parse_json(read_file(path, MAX_BEATS_BYTES)))
    except ValueError as error:
        raise UserError(f"{path.name}: says nothing of running trials; it is written anew") from error


def read_events(path: Path) -> list[Event]:
    """What happened lately, the latest last. Lines that are no events, or half of one, are left out.

    UserError where the file cannot be read.
    """
    if not path.exists():
        return []
    with open_regular(path) as file:
        start = max(os.fstat(file.fileno()).st_size - MAX_EVENTS_BYTES, 0)
        file.seek(start)
        lines = file.read(MAX_EVENTS_BYTES).split(b"\n")
    found = []
    for line in lines[1:] if start else lines:
        try:
            found.append(Event.model_validate(parse_json(line)))
        except (ValueError, ValidationError):
            continue
    return found


def in_words(beat: Heartbeat) -> str:
    """`step 1,200 of 4,000, 431 images/s, loss 0.1234, 2m05s left`; or that it measures."""
    step, speed, loss, left = going(beat)
    where = f"step {step.replace('/', ' of ')}"
    if beat.doing == "measuring":
        return f"{where}, measures rung {beat.rung} of {beat.rungs}"
    words = [where, speed and f"{speed} images/s", loss and f"loss {loss}", left and f"{left} left"]
    return ", ".join(filter(None, words))


def going(beat: Heartbeat | None) -> tuple[str, str, str, str]:
    """Step, images a second, loss and time left, each empty while it is not known."""
    if beat is None:
        return "", "", "", ""
    speed, loss, left = beat.images_per_second, beat.loss, beat.seconds_left
    return (
        f"{beat.step:,}/{beat.steps:,}",
        "" if speed is None else format_speed(speed),
        "" if loss is None else f"{loss:.4f}",
        "measures" if beat.doing == "measuring" else "" if left is None else format_duration(left),
    )
