"""The one exception a user is meant to read, and what the command line exits with."""

import os
import shutil
import sys
import tempfile
import textwrap
import traceback
from contextlib import suppress
from enum import IntEnum
from pathlib import Path

from pareto_amb.printable import printable, reason
from pareto_amb.redaction import redact, redact_arguments


class ExitCode(IntEnum):
    """What the command line exits with, beside 0."""

    FAILED = 1
    """What was asked for was tried and failed: a gate, all trials of a sweep, Ray; or a fault of ours."""
    BAD_INPUT = 2
    """Something handed in cannot be used; nothing was made."""
    INCONCLUSIVE = 3
    """A gate's answer where there are too few images, or too poor ones, to tell."""
    INTERRUPTED = 130
    """Ctrl-C, as shells count it: 128 + SIGINT."""
    TERMINATED = 143
    """128 + SIGTERM."""


class UserError(Exception):
    """Something the user handed in cannot be used.

    The message is one line: it names the culprit (a key, a file, a value) and the remedy.
    The command line prints it to stderr and exits with `exit_code`, without a traceback. Secrets of URIs in
    the message are hidden, wherever it is shown.
    """

    exit_code = ExitCode.BAD_INPUT

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


def print_error(error: UserError) -> None:
    """Print the one line of a UserError to stderr, without secrets and control characters."""
    _say(f"error: {redact(printable(error))}")


def _say(line: str) -> None:
    with suppress(OSError):  # nobody listens: the exit code is all that is left to say
        said = f"pareto-amb: {line}"
        if sys.stderr.isatty():  # which would break words
            width = shutil.get_terminal_size().columns
            said = textwrap.fill(said, width, break_long_words=False, break_on_hyphens=False)
        print(said, file=sys.stderr, flush=True)


def print_fault(fault: BaseException) -> None:
    """Print one line on a fault of ours to stderr, and where the traceback was written for a report of it."""
    said = redact(reason(fault))
    place = _write_log(fault)
    details = f"details in {printable(place)}" if place else "details could not be written anywhere"
    _say(f"internal error: {said}; {details}; please report it")


def _write_log(fault: BaseException) -> Path | None:
    """The traceback, without secrets, in a file of the user's alone; None where no place can be written."""
    lines = [f"pareto-amb {' '.join(redact_arguments(sys.argv[1:]))}\n", *traceback.format_exception(fault)]
    content = redact("".join(lines)).encode("utf-8", "backslashreplace")
    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "pareto-amb"
    for folder in (state, Path(tempfile.gettempdir())):
        try:
            place = folder.expanduser()
            place.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix="error-", suffix=".log", dir=place)  # its owner's alone
            with os.fdopen(handle, "wb") as file:
                file.write(content)
        except (OSError, RuntimeError):  # without a home, ~ is a RuntimeError
            continue
        return Path(name)
    return None
