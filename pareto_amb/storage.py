"""Files that appear whole: written beside their final name, then renamed."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pareto_amb.errors import UserError


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; when the block succeeds it replaces `path`.

    A reader, or a process killed at any moment, sees the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


class Storage:
    """A place that every node of a cluster reaches, by local path or URI (s3://, gs://, hdfs://, file://).

    Written files appear whole: locally by rename, in object stores because a put is atomic.
    """

    def __init__(self, uri: str) -> None:
        """Raises UserError when no file system is known for the URI."""
        from pyarrow import ArrowInvalid
        from pyarrow.fs import FileSystem, LocalFileSystem

        self.uri = uri
        try:
            if "://" in uri:
                self._fs, self._root = FileSystem.from_uri(uri)
            else:
                self._fs, self._root = LocalFileSystem(), str(Path(uri).resolve())
        except (ArrowInvalid, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"storage '{uri}': cannot be opened ({reason})") from error
        self._local = isinstance(self._fs, LocalFileSystem)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes | None:
        """The content of a file, or None when there is no such file."""
        try:
            with self._fs.open_input_file(self._path(name)) as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all, making its folders as needed."""
        path = self._path(name)
        if self._local:
            with replace_file(Path(path)) as temporary:
                temporary.write_bytes(content)
        else:
            self._fs.create_dir(path.rpartition("/")[0], recursive=True)
            with self._fs.open_output_stream(path) as file:
                file.write(content)
