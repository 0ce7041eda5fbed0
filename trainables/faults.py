"""Failures of the machines a trial runs on, told from failures of the training itself.

A trial that a full disk, a dead worker or a lack of memory stopped would have gone on elsewhere: it is taken
up again by a resumed sweep. One whose loss diverged, or whose method raised, would fail again.
"""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from ray.exceptions import RayError, RayTaskError, UnserializableException, UserCodeException

from pareto_amb.printable import reason

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""What a disk says that takes no more until somebody makes room."""

_MACHINE = FULL | {
    errno.EIO, errno.ENOMEM, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.EMFILE, errno.ENFILE,
    errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNREFUSED,
    errno.ECONNRESET, errno.ECONNABORTED, errno.ETIMEDOUT, errno.EPIPE,
}  # fmt: skip

_DATABASE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}

_CODE_OF_ITS_OWN = (RayTaskError, UserCodeException, UnserializableException)
"""Errors of Ray's that carry one of the code it ran."""

_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""How PyTorch says so, in a plain RuntimeError."""

_ACCELERATOR_ERROR: Any = getattr(torch, "AcceleratorError", ())
"""PyTorch before 2.8 has no such error."""

_LOST_GPU = {2, 46, 100, 101, 214, 719, 802}
"""CUDA's own numbers: no memory, no or a busy device, an uncorrectable memory error, a lost launch."""


class MachineError(Exception):
    """A trial was stopped by what it ran on, not by what it did. The message is one line."""

    def __init__(self, why: str, number: int = 0) -> None:
        """`number` is an error number of the system, 0 where there is none."""
        super().__init__(why, number)
        self.number = number

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def machine_told_apart() -> Iterator[None]:
    """Raise a MachineError in the place of an error of the block that the machine is to blame for.

    What an error was raised from does not travel from a worker to the driver: it is looked at here.
    """
    try:
        yield
    except Exception as error:
        fault = fault_of(error)
        if fault is None or isinstance(error, MachineError):
            raise
        raise MachineError(describe(fault), number_of(fault)) from error


@contextmanager
def storing() -> Iterator[None]:
    """Blame any OSError of the block on the machine: what is read and written there is the storage."""
    try:
        yield
    except OSError as error:
        raise MachineError(describe(error), number_of(error)) from error


def fault_of(error: BaseException, any_file: bool = False) -> BaseException | None:
    """What the machine did among `error`, its causes and contexts; None where the code itself is to blame.

    With `any_file` every OSError is the machine's: of code that reads and writes what it made itself.
    """
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop(0)
        if found is None or any(found is known for known in seen):
            continue
        seen.append(found)
        if _is_fault(found) or (any_file and isinstance(found, OSError)):
            return found
        context = None if found.__suppress_context__ else found.__context__
        waiting += [getattr(found, "cause", None), found.__cause__, context]
    return None


def number_of(fault: BaseException) -> int:
    """The system's number for a fault, 0 where there is none; a full database has that of a full disk."""
    if isinstance(fault, MachineError):
        return fault.number
    if isinstance(fault, sqlite3.Error):
        code = _database_code(fault)
        return {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}.get(code, errno.EIO)
    return (fault.errno or 0) if isinstance(fault, OSError) else 0


def describe(fault: BaseException) -> str:
    """A fault on one line, with its kind."""
    if isinstance(fault, MachineError):
        return str(fault)
    if isinstance(fault, RayError):
        said = [line.strip() for line in str(fault).splitlines() if line.strip()]
        return f"{type(fault).__name__}: {reason(Exception(said[-1] if said else ''))}"
    return f"{type(fault).__name__}: {reason(fault)}"


def _is_fault(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _MACHINE or isinstance(error, ConnectionError)
    if isinstance(error, sqlite3.Error):
        return _database_code(error) in _DATABASE
    if isinstance(error, RayError):
        return type(error) is not RayError and not isinstance(error, _CODE_OF_ITS_OWN)
    if isinstance(error, _ACCELERATOR_ERROR):
        return getattr(error, "error_code", None) in _LOST_GPU
    out_of_memory = isinstance(error, RuntimeError) and _NO_MEMORY in str(error)
    return out_of_memory or isinstance(error, (MachineError, MemoryError, torch.OutOfMemoryError))


def _database_code(error: sqlite3.Error) -> int:
    """SQLite's number without what it adds for details."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
