"""What Ray says in this process goes to a file of the run: the terminal is for what a user should read."""

import io
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from pareto_amb import signals

LOGGERS = ("ray", "ray.tune", "ray.train")


class RayLog:
    """The open file. What Ray's native code and its threads print goes there too, in a process of ours."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._handler = logging.StreamHandler(file)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def take_loggers(self) -> None:
        """Give Ray's loggers this file alone; `ray.init` gives them others, so call it again after that."""
        for name in LOGGERS:
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [self._handler], False
            logger.setLevel(logging.WARNING)


@contextmanager
def ray_log(path: Path) -> Iterator[RayLog]:
    """Append to the file at `path` for the length of the block.

    Raises OSError where it cannot be opened.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(list(logger.handlers), logger.propagate, logger.level) for logger in loggers]
    with path.open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as file:
        log = RayLog(file)
        log.take_loggers()
        try:
            if signals.owned():
                with _native_output(file), _hooks(file):
                    yield log
            else:
                yield log
        finally:
            for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
                logger.handlers, logger.propagate = handlers, propagate
                logger.setLevel(level)


class _Ours(io.TextIOWrapper):
    """The terminal, but for what Ray's threads print."""

    log: TextIO

    def write(self, text: str) -> int:
        if threading.current_thread().name.startswith("ray_"):
            return self.log.write(text)
        return super().write(text)


@contextmanager
def _native_output(file: TextIO) -> Iterator[None]:
    """Point the process's descriptors 1 and 2 at `file`, and Python's own streams at what these were."""
    streams = (sys.stdout, sys.stderr)
    if None in streams:  # closed by whoever started this process
        yield
        return
    kept = [(number, os.dup(number)) for number in (1, 2)]
    for stream in streams:
        stream.flush()
    sys.stdout, sys.stderr = (_moved(*pair, file) for pair in zip(streams, kept, strict=True))
    for number, _ in kept:
        os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        for number, copy in kept:
            os.dup2(copy, number)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = streams
        for _, copy in kept:
            os.close(copy)


def _moved(stream: TextIO, kept: tuple[int, int], file: TextIO) -> TextIO:
    """The stream on the copy of its descriptor; itself where it writes elsewhere."""
    number, copy = kept
    try:
        if stream.fileno() != number:
            return stream
    except (OSError, ValueError):
        return stream
    moved = _Ours(
        io.BufferedWriter(io.FileIO(copy, "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=True,
    )
    moved.log = file
    return moved


@contextmanager
def _hooks(file: TextIO) -> Iterator[None]:
    """Write down what Python would print of errors that nobody waits for: those of threads and callbacks."""

    def note(raised: Any) -> None:
        traceback.print_exception(raised.exc_type, raised.exc_value, raised.exc_traceback, file=file)

    before = threading.excepthook, sys.unraisablehook
    threading.excepthook = sys.unraisablehook = note
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = before
