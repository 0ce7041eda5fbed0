"""What was worked out of many images, in files of a storage: written a part at a time, mapped into memory."""

import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from pareto_amb.errors import UserError
from pareto_amb.printable import printable, reason
from pareto_amb.storage import Storage
from pareto_amb.untrusted import parse_json

FOLDER = "encoded"
"""Where they lie in a run's storage."""

_NOTE = f"{FOLDER}/encoded.json"
_TYPES = ("float16", "float32")
_RESTORE = "begin a new run"


@dataclass(frozen=True)
class EncodedFiles:
    """Arrays of `count` rows, an npy file each, that lie in a storage as a whole.

    `of` is what they were worked out of, `mark` tells one time of doing so from another; `arrays` has the
    type of each, and the shape of a row.
    """

    of: str
    mark: str
    count: int
    arrays: Mapping[str, tuple[str, tuple[int, ...]]]

    def open(self, storage: Storage) -> dict[str, Tensor]:
        """The arrays, (count, *row) each, mapped from files of this machine: in memory is what is read.

        From a storage that is no folder each is fetched once a machine. OSError where one cannot be had,
        UserError where it is something else.
        """
        return {name: self._open(storage, name) for name in self.arrays}

    def _open(self, storage: Storage, name: str) -> Tensor:
        kind, row = self.arrays[name]
        path = self._here(storage, name)
        try:
            # Copied where it is written to, which nothing does: PyTorch knows no tensors that are read alone.
            found = np.load(path, mmap_mode="c", allow_pickle=False)
            if found.dtype != np.dtype(kind) or found.shape != (self.count, *row):
                raise ValueError(f"it holds {found.dtype} {found.shape}")
        except (ValueError, EOFError) as error:
            raise UserError(
                f"{printable(path)}: not what the sweep left there ({printable(reason(error))}); {_RESTORE}"
            ) from error
        return torch.from_numpy(found)

    def _here(self, storage: Storage, name: str) -> Path:
        """A file of this machine that holds an array."""
        if storage.folder is not None:
            return storage.folder / _file_name(self.of, name)
        path = _cache() / f"{self.mark}-{name}.npy"
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                storage.fetch(_file_name(self.of, name), path)
        return path


def read_note(storage: Storage, of: str) -> EncodedFiles | None:
    """The files in a storage that were worked out of that; None where they are not there as a whole."""
    content = storage.read(_NOTE)
    if content is None:
        return None
    try:
        match parse_json(content):
            case {"of": str(found), "mark": str(mark), "count": int(count), "arrays": dict(arrays)}:
                if found == of and mark.isalnum():
                    described = {name: _array(name, each) for name, each in arrays.items()}
                    return EncodedFiles(of, mark, count, described)
    except ValueError:
        pass  # they are worked out again, and the note is written anew
    return None


def _array(name: str, found: Any) -> tuple[str, tuple[int, ...]]:
    match found:
        case [str(kind), list(row)] if name.isidentifier() and kind in _TYPES:
            if all(type(side) is int and side > 0 for side in row):
                return kind, tuple(row)
    raise ValueError(name)


def write_encoded(
    storage: Storage, of: str, count: int, parts: Iterable[Mapping[str, Tensor]]
) -> Iterator[int]:
    """Write `parts` of so many rows in all, one after the other; yield after each how many are written.

    The note of them comes last, so that they are there as a whole or not at all. OSError where they cannot be
    written.
    """
    files: dict[str, BinaryIO] = {}
    arrays: dict[str, tuple[str, tuple[int, ...]]] = {}
    done = 0
    with ExitStack() as stack:
        for part in parts:
            for name, tensor in part.items():
                rows = tensor.numpy()
                if name not in files:
                    arrays[name] = (str(rows.dtype), rows.shape[1:])
                    files[name] = _begin(stack, storage, _file_name(of, name), rows, count)
                files[name].write(np.ascontiguousarray(rows).data)
            done += len(next(iter(part.values())))
            yield done
    note = EncodedFiles(of, secrets.token_hex(8), count, arrays)
    storage.write(_NOTE, json.dumps(asdict(note)).encode())


def _begin(stack: ExitStack, storage: Storage, name: str, rows: NDArray[Any], count: int) -> BinaryIO:
    file = stack.enter_context(stack.enter_context(storage.writing(name)).open("wb"))
    shape = (count, *rows.shape[1:])
    header = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file


def _file_name(of: str, name: str) -> str:
    return f"{FOLDER}/{of[:32]}-{name}.npy"


def _cache() -> Path:
    """A folder of this machine for what other machines wrote, that nobody else may change."""
    path = Path(tempfile.gettempdir(), f"pareto-amb-{os.getuid()}")
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UserError(f"{printable(path)}: is not a folder of yours alone; remove it, or set TMPDIR")
    return path
