"""The image files of a folder, a zip or tars, their class labels, and the files that may hold captions.

Names and bytes, no pixels. An archive is never extracted. What it says about itself is not trusted: names,
sizes, compression and `dataset.json` are checked before a byte of an image is read.
"""

import json
import os
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pareto_amb.errors import UserError
from pareto_amb.printable import reason
from pareto_amb.reading import is_folder, look_at, open_regular, read_file, shards_of

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LABEL_FILE = "dataset.json"
METADATA_FILE = "metadata.jsonl"
MAX_IMAGE_BYTES = 256 * 2**20
MAX_LABEL_BYTES = 256 * 2**20
MAX_SIDECAR_BYTES = 64 * 2**10
MAX_CLASSES = 100_000
MAX_NAME = 4096
"""Characters of a file's name."""

_MAX_TAR_HEADER = 2**20
"""Bytes of what a tar may say of one entry, such as a long name."""

_ENCRYPTED = 0x1
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    MemoryError,
    RuntimeError,
    ValueError,
)
_BROKEN_TAR = (
    tarfile.TarError,
    struct.error,
    LookupError,
    OverflowError,
    MemoryError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class ImageFiles:
    """The images of one folder, zip or set of tars, sorted by POSIX path relative to it.

    `read` returns the bytes of one name and may be called from several threads; `label_file` holds
    the bytes of `dataset.json`, if there is one. `texts` are the names, to be read as well, of each
    `metadata.jsonl` and of the text files beside images; none where captions are not wanted.
    """

    names: tuple[str, ...]
    read: Callable[[str], bytes]
    label_file: bytes | None
    notes: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


@contextmanager
def open_files(path: Path, captions: bool = False) -> Iterator[ImageFiles]:
    """Yield the images of a folder (recursively), a zip or tars; hidden and other files are ignored.

    Tars are one, those of a folder that holds no images, or those of a pattern (`shards_of`); the images of
    all of them are one set. With `captions`, also the files that may hold those, which are then checked like
    the images.

    Raises UserError when `path` cannot be read, is not a whole zip or tar, holds an entry that points
    outside of it, or holds no image.
    """
    if is_folder(path):
        files = _list_folder(path, captions)
        shards = [] if files.names else _tars_in(path)
        yield _not_empty(path, _list_tars(shards, captions) if shards else files)
        return
    shards = [path] if path.name.lower().endswith(".tar") else []
    if look_at(path) is None:
        shards = shards_of(path) or shards
    if shards:
        yield _not_empty(path, _list_tars(shards, captions))
        return
    with open_regular(path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except OSError as error:
            raise _unreadable(path, error) from error
        except _BROKEN_ZIP as error:
            raise UserError(
                f"{path}: not a zip, or one cut short ({reason(error)}); copy it again, "
                "or name a folder, a zip or an uncompressed .tar of images"
            ) from error
        with archive:
            yield _not_empty(path, _list_zip(path, archive, captions))


def read_labels(path: Path, files: ImageFiles, from_folders: bool) -> tuple[int, ...] | None:
    """The class of each image of `files`, in its order; None when the set has no labels.

    `dataset.json` decides where there is one. Without it, and if `from_folders`, the first folder
    of each image is its class; classes are numbered in the order of the folders' names.

    Raises UserError when `dataset.json` cannot be used, or only some images are in folders.
    """
    if files.label_file is not None:
        return _labels_from_json(f"{path}: {LABEL_FILE}", files.label_file, files.names)
    if from_folders and any("/" in name for name in files.names):
        return _labels_from_folders(path, files.names)
    return None


def read_originals(files: ImageFiles) -> dict[str, str]:
    """The file that each image was made of, by its name, where `data prepare` wrote that down.

    What a damaged `dataset.json` says is left out: nothing depends on it but what an image is called.
    """
    try:
        pairs = parse_dataset_json("", files.label_file or b"{}").get("names")
    except UserError:
        return {}
    known, found = set(files.names), {}
    for pair in pairs if isinstance(pairs, list) else ():
        match pair:
            case [str(name), str(original)] if name in known and len(original) <= MAX_NAME:
                found[name] = original
    return found


def sidecar(name: str) -> str:
    """The text file that may hold the caption of an image: a.txt of a.png."""
    return name.rpartition(".")[0] + ".txt"


def listed(names: Sequence[str], most: int) -> str:
    """Names from outside within a line: the first `most`, quoted, and how many more there are."""
    shown = ", ".join(map(_shown, names[:most]))
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _not_empty(path: Path, files: ImageFiles) -> ImageFiles:
    if not files.names:
        raise UserError(f"no images in {path} (looked for {', '.join(EXTENSIONS)})")
    return files


def _is_image(name: str) -> bool:
    """True for a visible file with one of EXTENSIONS."""
    return name.lower().endswith(EXTENSIONS) and not _is_hidden(name)


def _is_hidden(name: str) -> bool:
    """True also for a file in a hidden folder."""
    return any(part.startswith(".") for part in name.split("/"))


def _find_texts(names: Sequence[str]) -> tuple[str, ...]:
    """Those of `names` that may hold captions: each visible metadata.jsonl, and text files beside images."""
    sidecars = {sidecar(name) for name in names if _is_image(name)}
    metadata = {name for name in names if name.rpartition("/")[2] == METADATA_FILE and not _is_hidden(name)}
    return tuple(sorted(metadata | sidecars.intersection(names)))


def _limit(name: str) -> int:
    """The most bytes that a file of this name may have."""
    if name.endswith(".txt"):
        return MAX_SIDECAR_BYTES
    return MAX_IMAGE_BYTES if _is_image(name) else MAX_LABEL_BYTES


def _list_folder(path: Path, captions: bool) -> ImageFiles:
    names: list[str] = []
    linked = 0
    for parent, folders, file_names in os.walk(path, onerror=_raise_unreadable):
        linked += sum(Path(parent, folder).is_symlink() for folder in folders)
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        relative = Path(parent).relative_to(path)
        names += ((relative / name).as_posix() for name in file_names)
    label_path = path / LABEL_FILE
    return ImageFiles(
        names=tuple(sorted(filter(_is_image, names))),
        read=lambda name: _read_file(path / name, _limit(name)),
        label_file=_read_file(label_path, MAX_LABEL_BYTES) if label_path.exists() else None,
        notes=(f"linked folders are not followed: {linked} left out",) if linked else (),
        texts=_find_texts(names) if captions else (),
    )


def _raise_unreadable(error: OSError) -> None:
    raise _unreadable(Path(error.filename), error) from error


def _read_file(path: Path, limit: int) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{_shown(path)}: not a regular file; remove it")
        _check_size(_shown(path), status.st_size, limit)
    except OSError as error:
        raise _unreadable(path, error) from error
    return read_file(path, limit)


def _list_zip(path: Path, archive: zipfile.ZipFile, captions: bool) -> ImageFiles:
    entries: dict[str, zipfile.ZipInfo] = {}
    texts = _find_texts(archive.namelist()) if captions else ()
    wanted = {LABEL_FILE, *texts}
    for entry in archive.infolist():
        name = entry.filename
        _check_inside(path, name, "zip")
        if entry.is_dir() or not (_is_image(name) or name in wanted):
            continue
        if name in entries:
            raise UserError(f"{path}: {_shown(name)} is in the zip twice; pack it again")
        _check_entry(path, entry)
        entries[name] = entry
    lock = threading.Lock()  # a ZipFile counts its open readers without one

    def read(name: str) -> bytes:
        with lock:
            return _read_entry(path, archive, entries[name])

    label_file = read(LABEL_FILE) if LABEL_FILE in entries else None
    return ImageFiles(tuple(sorted(filter(_is_image, entries))), read, label_file, texts=texts)


def _check_inside(path: Path, name: str, kind: str) -> None:
    parts = name.replace("\\", "/").split("/")
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    if absolute or PureWindowsPath(name).drive or ".." in parts:
        raise UserError(
            f"{path}: {_shown(name)} points outside of the {kind}; pack it again with relative names"
        )


def _check_entry(path: Path, entry: zipfile.ZipInfo) -> None:
    shown = f"{path}: {_shown(entry.filename)}"
    if entry.flag_bits & _ENCRYPTED:
        raise UserError(f"{shown} is encrypted; pack the zip again without a password")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(
            f"{shown} is compressed by method {entry.compress_type}; "
            "pack the zip again with 'deflate' or 'store'"
        )
    _check_size(shown, entry.file_size, _limit(entry.filename))


def _check_size(shown: str, size: int, limit: int) -> None:
    if size > limit:
        raise UserError(f"{shown} has {size:,} bytes, more than {limit:,}; shrink or remove it")


def _read_entry(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    shown = f"{path}: {_shown(entry.filename)}"
    try:
        with archive.open(entry) as file:
            # The bound holds even when the entry unpacks to more than its declared size.
            content = file.read(entry.file_size)
    except OSError as error:
        raise UserError(f"{shown} cannot be read ({reason(error)}); copy the zip again") from error
    except _BROKEN_ZIP as error:
        raise UserError(f"{shown} is damaged ({reason(error)}); copy the zip again") from error
    if len(content) != entry.file_size:
        raise UserError(f"{shown} is cut short; copy the zip again")
    return content


class _TarEntry(tarfile.TarInfo):
    """An entry whose header cannot make its reader go backwards, or fill the memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_TarEntry":
        found = super().frombuf(buf, encoding, errors)
        if found.size < 0 or (not found.isfile() and found.size > _MAX_TAR_HEADER):
            raise ValueError(f"a header of {found.size:,} bytes")
        return found


def _tars_in(path: Path) -> list[Path]:
    try:
        return sorted(each for each in path.iterdir() if each.suffix.lower() == ".tar")
    except OSError as error:
        raise _unreadable(path, error) from error


def _list_tars(shards: Sequence[Path], captions: bool) -> ImageFiles:
    """The images of tars, by their names there: which tar they lie in does not count."""
    entries: dict[str, tuple[Path, tarfile.TarInfo]] = {}
    twice: dict[str, Path] = {}
    for shard in shards:
        for entry in _tar_entries(shard):
            name = PurePosixPath(entry.name).as_posix()  # without the "./" that some begin with
            if not entry.isdir():
                if name in entries:
                    twice.setdefault(name, shard)
                entries.setdefault(name, (shard, entry))
    texts = _find_texts(list(entries)) if captions else ()
    wanted = {LABEL_FILE, *texts}
    entries = {name: found for name, found in entries.items() if _is_image(name) or name in wanted}
    for name, (shard, entry) in entries.items():
        if name in twice:
            where = "in the tar twice" if twice[name] == shard else f"in {twice[name]} too"
            raise UserError(f"{shard}: {_shown(name)} is {where}; pack it again")
        _check_tar_entry(shard, entry, _limit(name))

    def read(name: str) -> bytes:
        return _read_tar_entry(*entries[name])

    label_file = read(LABEL_FILE) if LABEL_FILE in entries else None
    return ImageFiles(tuple(sorted(filter(_is_image, entries))), read, label_file, texts=texts)


def _tar_entries(shard: Path) -> Iterator[tarfile.TarInfo]:
    """The entries of a tar that ends where it says. UserError for one that does not, or points outside."""
    with open_regular(shard) as file:
        try:
            archive = tarfile.open(fileobj=file, mode="r:", tarinfo=_TarEntry, encoding="utf-8")  # noqa: SIM115
            before = -1
            while (entry := archive.next()) is not None:
                if archive.offset <= before or entry.size < 0:
                    raise ValueError("its entries do not follow one another")
                before = archive.offset
                _check_inside(shard, entry.name, "tar")
                yield entry
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise ValueError("its end is missing")
        except OSError as error:
            raise _unreadable(shard, error) from error
        except _BROKEN_TAR as error:
            raise UserError(
                f"{shard}: not a tar, or one cut short ({reason(error)}); copy it again, uncompressed"
            ) from error


def _check_tar_entry(shard: Path, entry: tarfile.TarInfo, limit: int) -> None:
    shown = f"{shard}: {_shown(entry.name)}"
    if not entry.isfile() or entry.issparse():
        raise UserError(f"{shown} is a link, a device or has holes; pack the tar again with the file itself")
    _check_size(shown, entry.size, limit)


def _read_tar_entry(shard: Path, entry: tarfile.TarInfo) -> bytes:
    with open_regular(shard) as file:
        try:
            file.seek(entry.offset_data)
            content = file.read(entry.size)
        except OSError as error:
            raise _unreadable(shard, error) from error
    if len(content) != entry.size:
        raise UserError(f"{shard}: {_shown(entry.name)} is cut short; copy the tar again")
    return content


def parse_dataset_json(shown: str, content: bytes) -> dict[str, Any]:
    """What a `dataset.json` says. UserError, which begins with `shown`, where it is no mapping in JSON."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown} is not JSON ({reason(error)}); write it again") from error
    if not isinstance(parsed, dict):
        raise UserError(f'{shown} must be a mapping such as {{"labels": [["a.png", 0]]}}; correct it')
    return parsed


def _labels_from_json(shown: str, content: bytes, names: Sequence[str]) -> tuple[int, ...] | None:
    parsed = parse_dataset_json(shown, content)
    if parsed.get("labels") is None:
        return None
    labels = _label_table(shown, parsed["labels"])
    known = set(names)
    for name in labels:
        if name not in known:
            raise UserError(f"{shown} names {_shown(name)}, which is not there; remove that line")
    for name in names:
        if name not in labels:
            raise UserError(f"{shown} has no label for {_shown(name)}; add one, or null all labels")
    return tuple(labels[name] for name in names)


def _label_table(shown: str, pairs: Any) -> dict[str, int]:
    if not isinstance(pairs, list):
        raise UserError(f'{shown}: "labels" must be a list of [name, class] pairs, or null')
    table: dict[str, int] = {}
    for pair in pairs:
        match pair:
            # type(), because True is an int too
            case [str(name), label] if type(label) is int and 0 <= label < MAX_CLASSES:
                pass
            case _:
                raise UserError(
                    f"{shown}: {_shown(pair)} is not [name, class] "
                    f"with a whole number from 0 to {MAX_CLASSES - 1}; correct it"
                )
        if name in table:
            raise UserError(f"{shown} names {_shown(name)} twice; keep one line")
        table[name] = label
    return table


def _labels_from_folders(path: Path, names: Sequence[str]) -> tuple[int, ...]:
    for name in names:
        if "/" not in name:
            raise UserError(
                f"{path}: {_shown(name)} is in no class folder, other images are; "
                "move it into one, or set data.conditional to false"
            )
    folders = [name.partition("/")[0] for name in names]
    numbers = {folder: number for number, folder in enumerate(sorted(set(folders)))}
    if len(numbers) == 1:
        raise UserError(
            f"{path}: all images are in the folder {_shown(folders[0])}, so there is one class; "
            "make a folder for each class, or set data.conditional to false"
        )
    return tuple(numbers[folder] for folder in folders)


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{_shown(path)}: cannot be read ({reason(error)}); check its permissions")


def _shown(thing: object) -> str:
    """A name from outside on one line: quoted, line breaks escaped, not longer than a line."""
    text = str(thing) if isinstance(thing, Path) else thing
    return f"{text!r:.200}"
