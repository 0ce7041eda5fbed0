"""Files that appear whole: written beside their final name, then renamed."""

import errno
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pareto_amb.errors import UserError
from pareto_amb.printable import printable, reason
from pareto_amb.reading import is_folder, look_at, read_file
from pareto_amb.redaction import redact

MAX_OBJECT_BYTES = 64 * 2**30
"""No checkpoint or picture is larger."""

ATTEMPTS, PATIENT_ATTEMPTS = 5, 12
"""How often an object store that fails is asked: for 8 seconds in the mean, or for 2 minutes."""

_LONGEST_CHAIN = 40
"""Links that lead to a file, at most; Linux counts as many."""


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block succeeds it replaces `path`.

    A reader, or a process killed at any moment, sees the old file or the new one, never a part. A link stays
    one: the file that it points to is replaced, and keeps its permissions. Raises UserError where something
    other than a regular file is there, and OSError where it cannot be written.
    """
    path = _behind_links(path)
    mode = _mode_of(path)
    if mode is not None and not stat.S_ISREG(mode):
        raise UserError(f"{printable(path)}: {_kind(mode)}, which a file cannot replace; name another")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name[:40]}.{secrets.token_hex(4)}"
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if mode is not None:
            shutil.copymode(path, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all; into a device, a pipe or an open file as into any.

    Raises UserError for a folder or a socket, OSError where it cannot be written: also where a named pipe
    has no reader, for which it does not wait.
    """
    stream = _open_stream(path)
    if stream is not None:
        with os.fdopen(stream, "wb") as file:
            file.write(content)
        return
    _require_room(path, len(content))
    with replace_file(path) as temporary:
        temporary.write_bytes(content)


def _require_room(path: Path, size: int) -> None:
    """Raise the OSError of a full disk where so many bytes do not fit, before a part of them is written."""
    usage = shutil.disk_usage(existing_folder(path.parent))
    if usage.total and usage.free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path.absolute()))


def existing_folder(path: Path) -> Path:
    """A folder, or the nearest one above it that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8; what UTF-8 has no letter for is written as an escape."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a UserError that says that `path` cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{printable(path)}: cannot be written ({reason(error)})") from error


def check_output(path: Path, option: str = "--output") -> None:
    """Raise UserError where a file could not be written at `path`, before hours of work for it."""
    if _descriptor(path) is not None:
        return
    found = look_at(path)
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise UserError(f"{option} {printable(path)}: is a folder; name a file")
    check_folder(path.parent, option)
    there = next(folder for folder in path.absolute().parents if is_folder(folder))
    _check_name(path.name, there, f"{option} {printable(path)}")


def check_folder(folder: Path, option: str = "--output") -> None:
    """Raise UserError where files could not be written into a folder, be it there or still to be made."""
    shown = f"{option} {printable(folder)}"
    for there in (folder.absolute(), *folder.absolute().parents):
        found = look_at(there)
        if found is not None:
            break
    if found is None or not stat.S_ISDIR(found.st_mode):
        raise UserError(f"{shown}: {printable(there.name)} is a file; name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{shown}: cannot be written; name another folder")
    for part in folder.absolute().relative_to(there).parts:
        _check_name(part, there, shown)


def _check_name(name: str, there: Path, shown: str) -> None:
    longest = os.pathconf(there, "PC_NAME_MAX")
    if len(os.fsencode(name)) > longest:
        raise UserError(f"{shown}: a name of more than {longest} bytes; name another")


def _behind_links(path: Path) -> Path:
    """The file that is meant. OSError for what no file system takes as a name."""
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:  # a NUL, or half a letter
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from error


def _mode_of(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from error


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device"


def _open_stream(path: Path) -> int | None:
    """A descriptor that writes into what is at `path` and must stay what it is; None for other files.

    That are character devices, named pipes and, by names such as /dev/stdout, what this process has open.
    """
    descriptor = _descriptor(path)
    if descriptor is not None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # what was printed before comes before
        return os.dup(descriptor)
    mode = _mode_of(path)
    if mode is None or not (stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
        return None
    opened = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    os.set_blocking(opened, True)
    return opened


def _descriptor(path: Path) -> int | None:
    """The number of an open file of this process that `path` is a name of; None for other paths."""
    for _ in range(_LONGEST_CHAIN):
        folder = _behind_links(path.parent)
        if re.fullmatch(rf"/proc/{os.getpid()}(/task/\d+)?/fd", str(folder)) and path.name.isdecimal():
            return int(path.name)
        try:
            path = folder / (folder / path.name).readlink()
        except (OSError, ValueError):  # no link
            return None
    return None


class Storage:
    """A place that every node of a cluster reaches, by local path or URI (s3://, gs://, hdfs://, file://).

    Written files appear whole: locally by rename, in object stores because a put is atomic.
    """

    def __init__(self, uri: str, patient: bool = False) -> None:
        """With `patient` an outage of up to about two minutes delays and loses nothing: for what trains.

        Raises UserError when no file system is known for the URI.
        """
        from pyarrow import ArrowInvalid
        from pyarrow.fs import FileSystem, LocalFileSystem

        self.uri = uri
        try:
            if "://" in uri:
                from pareto_amb.object_store import retrying

                found, self._root = FileSystem.from_uri(uri)
                self._fs = retrying(found, PATIENT_ATTEMPTS if patient else ATTEMPTS)
            else:
                self._fs, self._root = LocalFileSystem(), str(Path(uri).resolve())
        except (ArrowInvalid, OSError, ValueError) as error:
            raise UserError(f"storage '{redact(uri)}': cannot be opened ({redact(reason(error))})") from error
        self._local = isinstance(self._fs, LocalFileSystem)

    @property
    def folder(self) -> Path | None:
        """The folder on this machine that it is; None for an object store."""
        return Path(self._root) if self._local else None

    @property
    def place(self) -> tuple[Any, str]:
        """Its pyarrow file system, and the path there."""
        return self._fs, self._root

    def probe(self) -> None:
        """Write a small file, and remove it where that is allowed. OSError where it cannot be written."""
        if self._local:
            root = Path(self._root)
            there = next(path for path in (root, *root.parents) if path.exists())
            with tempfile.TemporaryFile(dir=there) as file:  # refuses a file that is in the way
                file.write(b"pareto-amb")
                file.flush()
            return
        name = self._path(f"probe-{secrets.token_hex(8)}")
        with self._fs.open_output_stream(name) as stream:
            stream.write(b"pareto-amb")
        with suppress(OSError):  # a sweep itself deletes nothing, and may not be allowed to
            self._fs.delete_file(name)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes | None:
        """The content of a file, or None when there is no such file. UserError where it is no regular one."""
        if self._local:
            path = Path(self._path(name))
            return None if look_at(path) is None else read_file(path, MAX_OBJECT_BYTES)
        try:
            with self._fs.open_input_file(self._path(name)) as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all, making its folders as needed."""
        path = self._path(name)
        if self._local:
            write_bytes(Path(path), content)
        else:
            self._fs.create_dir(path.rpartition("/")[0], recursive=True)
            with self._fs.open_output_stream(path) as file:
                file.write(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a path on this machine; what the block writes there becomes the file, however large it is.

        When the block fails there is none.
        """
        path = self._path(name)
        if self._local:
            with replace_file(Path(path)) as temporary:
                yield temporary
            return
        with tempfile.TemporaryDirectory(prefix="pareto-amb-") as folder:
            temporary = Path(folder, "content")
            yield temporary
            self._fs.create_dir(path.rpartition("/")[0], recursive=True)
            self._copy(str(temporary), path, upload=True)

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file, however large, to `path`, where it appears whole. FileNotFoundError without one."""
        with replace_file(path) as temporary:
            self._copy(self._path(name), str(temporary), upload=False)

    def _copy(self, source: str, target: str, upload: bool) -> None:
        from pyarrow.fs import LocalFileSystem, copy_files

        here = LocalFileSystem()
        there = (here, self._fs) if upload else (self._fs, here)
        copy_files(source, target, *there, use_threads=False)
