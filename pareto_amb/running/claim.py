"""A run directory is one sweep's alone, and is gone again when that sweep is refused."""

import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pareto_amb.data.encoded import FOLDER
from pareto_amb.errors import UserError
from pareto_amb.printable import printable, reason
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.storage import check_folder


class Claim:
    """A run directory that no other process writes into.

    Until `keep` is called, an error takes back all that was made for a new run.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.kept = False

    def keep(self) -> None:
        """Nothing can be refused any more: what is in the directory stays."""
        self.kept = True


@contextmanager
def claimed(path: Path, resumed: bool) -> Iterator[Claim]:
    """Hold the run directory at `path`, which is new or empty unless it is `resumed`.

    Raises UserError when another sweep holds it, it is not empty or cannot be written. The lock dies with
    its process.
    """
    run = RunDirectory(path)
    claim = Claim(run)
    made: list[Path] = []
    with _refusing(path):
        locked_before = run.lock.exists()
    try:
        if not resumed:
            made = _make_folders(path)
            _check_empty(run)
        with _locked(run):
            if not resumed:
                _check_empty(run)  # another sweep may have come and gone
            try:
                yield claim
            except BaseException:
                if not claim.kept:
                    _take_back(run, resumed, locked_before)
                raise
    finally:
        if not (resumed or claim.kept):
            _remove(made)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn what the file system says of a path into a UserError; a NUL, or half a letter, is a ValueError."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(
            f"{printable(path)}: cannot be written ({reason(error)}); name another --output"
        ) from error


def _make_folders(path: Path) -> list[Path]:
    """Make a folder and those above it, or none; return those that were not there, the highest first."""
    check_folder(path)
    made: list[Path] = []
    try:
        with _refusing(path):
            absent = [folder for folder in (path, *path.parents) if not folder.exists()]
            for folder in reversed(absent):
                with suppress(FileExistsError):  # another process was faster
                    folder.mkdir()
                    made.append(folder)
            path.mkdir(exist_ok=True)
    except BaseException:
        _remove(made)
        raise
    return made


def _remove(folders: Sequence[Path]) -> None:
    """Remove folders that were made, the lowest first, as far as no other process has begun to use them."""
    for folder in reversed(folders):
        with suppress(OSError):
            folder.rmdir()


def _check_empty(run: RunDirectory) -> None:
    with _refusing(run.path):
        known = {run.lock, run.ray_log, run.path / FOLDER}  # of one that was killed before it began
        found = [entry for entry in run.path.iterdir() if entry not in known]
    if found:
        named = printable(shlex.quote(str(run.path)))
        raise UserError(
            f"{printable(run.path)}: is not empty; name another --output, or use --resume {named}"
        )


@contextmanager
def _locked(run: RunDirectory) -> Iterator[None]:
    lock = FileLock(run.lock)
    busy = UserError(f"{printable(run.path)}: another sweep is running in it")
    with _refusing(run.path):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:  # which is an OSError
            raise busy from error
    try:
        if not run.lock.exists():  # another process took its claim back between our opening and locking it
            raise busy
        yield
    finally:
        lock.release()


def _take_back(run: RunDirectory, resumed: bool, locked_before: bool) -> None:
    """Leave a run as it was found: a new one empty, a resumed one without a lock that it had not."""
    for entry in run.path.iterdir() if not resumed else [run.lock][locked_before:]:
        with suppress(OSError):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()
