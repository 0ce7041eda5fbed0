"""Data that others may have made: its size is known before memory is given to it, and nothing of it runs."""

import json
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

DEEPEST = 40
"""JSON nested further than this is refused."""

_DIRECTORY = 2**17
"""Bytes of the longest directory of an archive: some thousand members."""

_MAX_HEADER = 10_000
_PART = 2**24
_KINDS = "biufU"
"""Booleans, whole and real numbers, text: neither objects, which are pickles, nor complex numbers."""

_CORRUPT = (
    OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, RuntimeError, OverflowError,
    MemoryError, SyntaxError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What zipfile and NumPy raise, by where the damage is."""


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says. ValueError where it is none, or nested deeper than DEEPEST."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST} levels") from None
    level: list[Any] = [found]
    for _ in range(DEEPEST + 1):
        level = [child for node in level for child in _children(node)]
        if not level:
            return found
    raise ValueError(f"nested deeper than {DEEPEST} levels")


def _children(node: Any) -> Iterable[Any]:
    return node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def read_arrays(file: BinaryIO, names: Iterable[str], limit: int) -> dict[str, NDArray[Any]]:
    """Those of the arrays `names` that an npz holds, in the byte order of this machine.

    Type and shape are looked at before memory is set aside, of which all of them together get `limit` bytes
    at most. Raises ValueError where the file is no npz, is damaged, or holds something else than numbers and
    text there.
    """
    found: dict[str, NDArray[Any]] = {}
    try:
        bounded = _Bounded(file)
        with zipfile.ZipFile(bounded) as archive:
            bounded.longest = _PART + _DIRECTORY
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            for name in names:
                if name in members:
                    found[name] = _read_array(archive, members[name], limit)
                    limit -= found[name].nbytes
    except _CORRUPT as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return found


class _Bounded:
    """A file that hands out no more than `longest` bytes at once."""

    def __init__(self, file: BinaryIO) -> None:
        self.longest = _DIRECTORY
        self.seek, self.tell, self.seekable = file.seek, file.tell, lambda: True
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if size > self.longest:
            raise ValueError("its directory is too long")
        content = self._file.read(self.longest + 1 if size < 0 else size)
        if len(content) > self.longest:
            raise ValueError("its directory is too long")
        return content


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> NDArray[Any]:
    with archive.open(info) as member:
        if npy.read_magic(member) != (1, 0):
            raise ValueError(f"{info.filename} is no array of numbers")
        shape, fortran, dtype = npy.read_array_header_1_0(member, max_header_size=_MAX_HEADER)
        if dtype.kind not in _KINDS or dtype.shape:
            raise ValueError(f"{info.filename} holds {_called(dtype)}, not real numbers")
        size = math.prod(shape) * dtype.itemsize
        if size > limit:
            raise ValueError(f"{info.filename} has the shape {shape}, more than {limit:,} bytes")
        if size != info.file_size - member.tell():
            raise ValueError(f"{info.filename} is not as long as its shape {shape} says")
        flat = np.empty(math.prod(shape), dtype)
        content = flat.view(np.uint8) if size else flat
        for start in range(0, size, _PART):
            content[start : start + _PART] = np.frombuffer(member.read(min(_PART, size - start)), np.uint8)
        member.read(1)  # its checksum is compared at the end
    return flat.reshape(shape, order="F" if fortran else "C").astype(dtype.newbyteorder("="), copy=False)


def _called(dtype: np.dtype[Any]) -> str:
    """A type in words."""
    if dtype.hasobject:
        return "pickled objects"
    return "complex numbers" if dtype.kind == "c" else f"the type {dtype}"
