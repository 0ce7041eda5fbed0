"""Ends what is left of Ray when the process that started it is gone, which Ray notices a minute later.

Linux kills raylet and GCS with the driver, and workers end with their raylet; the agents of a raylet first
try to tell the GCS, and a worker that is just starting waits for its raylet. A small process waits for the
end of a pipe from the driver, then kills what is left.
"""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GRACE_SECONDS = 2.0
"""What ends by itself has so long, when the driver was killed."""

FIRST_SECONDS = 120.0
"""A raylet has started its agents by then."""

LOOK_SECONDS = 0.5


@contextmanager
def reaper() -> Iterator[None]:
    """Have a process wait for the end of this one, or of the block, to kill what Ray has left."""
    pipe = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with suppress(OSError, subprocess.TimeoutExpired):
            pipe.communicate(b"over", timeout=5)


def wait_and_reap(driver: int) -> None:
    """Look what a raylet of `driver` starts until standard input ends, then kill what is left of it."""
    started: set[tuple[int, str]] = set()
    sessions: set[bytes] = set()
    until, over = time.monotonic() + FIRST_SECONDS, False
    while not over:
        looking = time.monotonic() < until
        over = bool(select.select([sys.stdin], [], [], LOOK_SECONDS if looking else None)[0])
        if looking:
            started |= _started_by_raylet(driver)
            sessions |= _sessions(driver)
    if not sys.stdin.buffer.read():  # the driver was killed
        time.sleep(GRACE_SECONDS)
    for pid, since in started:
        with suppress(OSError, IndexError):
            if _stat(pid)[2] == since:
                os.kill(pid, signal.SIGKILL)
    for pid in _processes():
        with suppress(OSError):
            if any(session in _command(pid) for session in sessions):
                os.kill(pid, signal.SIGKILL)


def _started_by_raylet(driver: int) -> set[tuple[int, str]]:
    """The processes below a raylet that `driver` has started, each with the time it started at."""
    found: dict[int, tuple[str, int, str]] = {}
    for pid in _processes():
        with suppress(OSError, IndexError):
            found[pid] = _stat(pid)
    above = {pid for pid, (name, parent, _) in found.items() if name == "raylet" and parent == driver}
    below = {pid for pid, (_, parent, _) in found.items() if parent in above}
    below |= {pid for pid, (_, parent, _) in found.items() if parent in below}
    return {(pid, found[pid][2]) for pid in below}


def _sessions(driver: int) -> set[bytes]:
    """The folders of the Ray that `driver` has started, which all that belongs to it is started with."""
    found: set[bytes] = set()
    for pid in _processes():
        with suppress(OSError, IndexError):
            name, parent, _ = _stat(pid)
            if name == "raylet" and parent == driver:
                found |= set(re.findall(rb"/session_[\w-]+/", _command(pid)))
    return found


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _stat(pid: int) -> tuple[str, int, str]:
    """A process's name, its parent, and the time it started at, which another of its number has not."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return name, int(fields[1]), fields[19]


if __name__ == "__main__":
    wait_and_reap(os.getppid())
