"""Files that are handed in: regular ones alone, and none that is larger than it can honestly be."""

import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from pareto_amb.errors import UserError
from pareto_amb.printable import printable, reason

_SHARDS = re.compile(r"([^{}]*)\{(\d{1,6})\.\.(\d{1,6})\}([^{}]*\.tar)", re.IGNORECASE)

_GROWS_BY = 2**20
"""Bytes that a file may hold beyond the size it says it has, as those of /proc do."""


def look_at(path: Path) -> os.stat_result | None:
    """What is at `path`, behind links; None where nothing is. UserError where that cannot be told."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        raise _unreadable(path, error) from error


def shards_of(path: Path) -> list[Path]:
    """The files that a pattern such as `images-{000..127}.tar` stands for; none for any other path."""
    found = _SHARDS.fullmatch(str(path))
    if found is None:
        return []
    before, first, last, after = found.groups()
    width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
    return [Path(f"{before}{number:0{width}}{after}") for number in range(int(first), int(last) + 1)]


def is_there(path: Path) -> bool:
    """Whether a file or a folder is at `path`, or the first of the files that it stands for."""
    return any(look_at(each) is not None for each in (path, *shards_of(path)[:1]))


def is_folder(path: Path) -> bool:
    """Whether there is a folder at `path`. UserError where that cannot be told."""
    found = look_at(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def is_regular(path: Path) -> bool:
    """Whether there is a regular file at `path`. UserError where that cannot be told."""
    found = look_at(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def expand(text: str) -> Path:
    """The path that `text` stands for, ~ being the home. UserError for the home of nobody."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{printable(text)}: there is no such home; write the path out") from error


def open_regular(path: Path) -> BinaryIO:
    """A regular file, opened for reading; never waits for a pipe or a device.

    UserError names what is missing, unreadable or no regular file.
    """
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UserError(f"{printable(path)}: not a regular file; name one")
    return file


def read_file(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes; never waits for a pipe or a device.

    UserError names a file that is missing, unreadable, no regular one, larger, or written meanwhile.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            # Not `limit`: a buffer of that size would be set aside first.
            content = file.read(min(size + _GROWS_BY, limit) + 1) if size <= limit else b""
        except (OSError, MemoryError) as error:
            raise _unreadable(path, error) from error
    if max(size, len(content)) > limit:
        raise UserError(f"{printable(path)}: larger than {limit:,} bytes; is it really the file you meant?")
    if len(content) > size + _GROWS_BY:
        raise UserError(f"{printable(path)}: grows while it is read; try again when it is whole")
    return content


def read_text(path: Path, limit: int) -> str:
    """As `read_file`, decoded. UserError also where it is no UTF-8."""
    try:
        return read_file(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{printable(path)}: not a text file in UTF-8 ({reason(error)})") from error


def _unreadable(path: Path, error: BaseException) -> UserError:
    return UserError(f"{printable(path)}: cannot be read ({reason(error)}); check the path")
