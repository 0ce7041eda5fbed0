"""SIGINT and SIGTERM: one line, how to continue, and an end in bounded time.

The command line owns its process: there a signal raises `Interrupted` wherever the program is. Work that
can end in order asks a `StopRequest` instead, between two of its steps. In a program of somebody else's
nothing changes but for the time of such a block.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from pareto_amb.errors import ExitCode
from pareto_amb.printable import printable

SIGNALS = (signal.SIGINT, signal.SIGTERM)

END_SECONDS = 10.0
"""After a first signal this process ends within so long, whatever it waits for."""

ORDER_SECONDS = 120.0
"""The same where the signal was noted, to end in order."""

AT_ONCE_SECONDS = 3.0
"""The same after a second signal."""

_SHOW_CURSOR = "\x1b[?25h"
"""What a live display leaves undone when its process ends at once."""


class Interrupted(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number

    @property
    def exit_code(self) -> ExitCode:
        """128 plus the number of the signal, as shells count it."""
        return ExitCode(128 + self.number)


class _Owner:
    """The command line's hold on its process: `hints` say how to continue, the innermost last."""

    def __init__(self) -> None:
        self.hints: list[Callable[[], str]] = []
        self.patience = END_SECONDS

    def stopped(self) -> str:
        """The one line of a command that a signal stopped."""
        hint = _first(self.hints)
        return printable(f"stopped; continue with: {hint}" if hint else "stopped")

    def end(self, line: str, code: int) -> None:
        """End the process now: say the line, past all buffers, and undo what a live display did."""
        with suppress(OSError, ValueError):
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), _SHOW_CURSOR.encode())
            os.write(sys.stderr.fileno(), f"{line}\n".encode(errors="backslashreplace"))
        os._exit(code)

    def end_after(self, seconds: float, line: Callable[[], str], code: int) -> threading.Timer:
        timer = threading.Timer(seconds, lambda: self.end(line(), code))
        timer.daemon = True
        timer.start()
        return timer


def _first(hints: list[Callable[[], str]]) -> str:
    """What the innermost says that says anything."""
    return next((text for hint in reversed(hints) if (text := hint())), "")


_owner: _Owner | None = None
_hints: list[Callable[[], str]] = []
"""Those of a program of somebody else's."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Own this process for the length of the block: the command line, on its main thread.

    A SIGINT or SIGTERM raises Interrupted. It ends the program with one line, and exit code 130 or 143;
    so does a KeyboardInterrupt. A program that does not end by itself is ended, also from within a call
    that never returns to Python.
    """
    global _owner
    owner = _owner = _Owner()
    try:
        with _handlers(_interrupt), _watched(owner):
            yield
    except (Interrupted, KeyboardInterrupt) as stop:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # it is ending
        with suppress(OSError):
            sys.stdout.flush()
        print(owner.stopped(), file=sys.stderr, flush=True)
        sys.exit(stop.exit_code if isinstance(stop, Interrupted) else ExitCode.INTERRUPTED)
    finally:
        _owner = None


def owned() -> bool:
    """Whether this process is the command line's own, to be ended and its output to be redirected."""
    return _owner is not None


@contextmanager
def continued_by(hint: Callable[[], str]) -> Iterator[None]:
    """Name the command that goes on with the work of the block, empty where there is nothing to go on with.

    In a process of the command line's it stays named when a signal ends the block, for the line that is
    printed then.
    """
    hints = _owner.hints if _owner else _hints
    hints.append(hint)
    try:
        yield
    except BaseException:
        if hints is _hints:
            hints.remove(hint)
        raise
    hints.remove(hint)


@contextmanager
def deadline(seconds: float, line: str, code: int) -> Iterator[None]:
    """End a process of the command line's with `line` when the block has not ended after `seconds`."""
    timer = _owner.end_after(seconds, lambda: line, code) if _owner else None
    try:
        yield
    finally:
        if timer:
            timer.cancel()


def end_soon(line: str, code: int) -> None:
    """End a process of the command line's with `line` a little later, should it not end by itself."""
    if _owner:
        _owner.end_after(AT_ONCE_SECONDS, lambda: line, code)


def hint() -> str:
    """The command that goes on with what runs now, empty where none was named."""
    return _first(_owner.hints if _owner else _hints)


class StopRequest:
    """What a signal asked for: `number` is 0 until one came."""

    def __init__(self) -> None:
        self.number = 0

    def __bool__(self) -> bool:
        return bool(self.number)


@contextmanager
def noted() -> Iterator[StopRequest]:
    """For the length of the block, note the first SIGINT or SIGTERM in place of acting on it.

    What was noted is acted on at the end, as it would have been without the block; so is a second signal, at
    once. A block that may end early raises Interrupted. Outside the main thread nothing is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        if request:
            act(before[number], number, frame)
        request.number = number

    try:
        with _patient(), _handlers(note):
            yield request
    except (Interrupted, Exception):
        if not request:
            raise
    if request:
        act(before[request.number], request.number)
        raise Interrupted(request.number)  # whoever handles it did not end the program


@contextmanager
def _patient() -> Iterator[None]:
    owner = _owner
    if owner:
        owner.patience = ORDER_SECONDS
    try:
        yield
    finally:
        if owner:
            owner.patience = END_SECONDS


@contextmanager
def own_handlers() -> Iterator[Callable[[], None]]:
    """At the end of the block, and when called, put back the handlers that a library has replaced."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    numbers = [*SIGNALS, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]
    before = {number: signal.getsignal(number) for number in numbers}

    def put_back() -> None:
        for number, handler in before.items():
            if handler is not None:  # None: not Python's, so not ours to put back
                signal.signal(number, handler)

    try:
        yield put_back
    finally:
        put_back()


@contextmanager
def _handlers(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    with own_handlers():
        for number in SIGNALS:
            signal.signal(number, handler)
        yield


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def act(handler: Any, number: int, frame: FrameType | None = None) -> None:
    """Do what a handler does, also the one that is no function; it is not heard of as a signal again."""
    if callable(handler):
        handler(number, frame)
    elif handler == signal.SIG_DFL:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


@contextmanager
def _watched(owner: _Owner) -> Iterator[None]:
    """Hear of signals in a thread of its own, which no call keeps from ending the process in time."""
    heard, told = os.pipe()
    os.set_blocking(told, False)
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def watch() -> None:
        came = False
        while number := os.read(heard, 1):
            if number[0] in SIGNALS:
                seconds = AT_ONCE_SECONDS if came else owner.patience
                owner.end_after(seconds, owner.stopped, 128 + number[0])
                came = True
        os.close(heard)

    threading.Thread(target=watch, daemon=True, name="signals").start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(told)  # ends the thread
