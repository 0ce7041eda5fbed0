"""An image set of any length as a stream: decoded a little ahead of its reader, never held whole.

Nothing is cropped or resized here: all images of a set must have one size.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pareto_amb.data.decoding import decode_uncropped
from pareto_amb.data.files import ImageFiles, open_files, read_originals
from pareto_amb.errors import UserError
from pareto_amb.reading import is_there

PIXELS_AHEAD = 2 * 128 * 256**2
"""Pixels, of all images together, that wait decoded for the reader: 48 MiB."""

CHUNK = 16
"""Small images are handed to the threads so many at a time: one by one costs more than decoding them."""


ImageSource = Path | Tensor | NDArray[Any]
"""A folder, zip or tars of images, or uint8 ones in memory: (N, C, H, W), (N, H, W, C) or grey (N, H, W)."""


@dataclass(frozen=True, eq=False)
class NamedImages:
    """uint8 images in memory (N, C, H, W), what they are `called`, and the file of each, "" where unknown."""

    images: Tensor
    called: str
    names: tuple[str, ...] = ()


Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class StreamedImage:
    """One image: `pixels` is uint8 (3, H, W), None when it is broken, and `problem` then says how.

    `content_digest` is the SHA-256 of the file, or of shape and pixels of an image in memory;
    `pixel_digest` is that of the pixels; `changes` are phrases that follow "12 of 300 images were".
    """

    name: str
    content_digest: bytes
    pixels: NDArray[np.uint8] | None
    pixel_digest: bytes = b""
    changes: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, eq=False)
class ImageStream:
    """The images of one source in the order of `names`; `size` is (height, width).

    `source` is what messages and reports call it: its path, where it has one. `read` loads one image and
    `digest` gives its `content_digest` alone, both from several threads; `notes` say what was left out;
    `originals` are the files that images were made of, by name, where that is known.
    """

    source: str
    names: tuple[str, ...]
    size: tuple[int, int]
    read: Callable[[str], StreamedImage]
    digest: Callable[[str], bytes]
    notes: tuple[str, ...] = ()
    skip_corrupt: bool = False
    originals: Mapping[str, str] = field(default_factory=dict)

    def images(self) -> Iterator[StreamedImage]:
        """Decode all images, in order, on all cores.

        Raises UserError, naming the image, when one has another size, or is broken and broken images
        are not to be skipped.
        """
        workers = os.cpu_count() or 1
        ahead = max(PIXELS_AHEAD // (self.size[0] * self.size[1]), workers)
        chunk = max(min(CHUNK, ahead // (2 * workers)), 1)
        for decoded in _in_order(self.load, self.names, chunk, workers, ahead // chunk):
            if decoded.problem and not self.skip_corrupt:
                raise UserError(f"{decoded.problem}, or leave it out with --skip-corrupt")
            if decoded.pixels is not None and decoded.pixels.shape[1:] != self.size:
                raise UserError(self._of_another_size(decoded))
            yield decoded

    def load(self, name: str) -> StreamedImage:
        """Read and decode one image; may be called from several threads."""
        return self.read(name)

    def fingerprint(self, progress: Callable[[int, int], None]) -> str:
        """What `content_fingerprint` gives for all images; `progress(done, total)` after each of them."""
        workers = os.cpu_count() or 1
        digests = []
        for digest in _in_order(self.digest, self.names, CHUNK, workers, 4 * workers):
            digests.append(digest)
            progress(len(digests), len(self.names))
        return content_fingerprint(digests)

    def _of_another_size(self, image: StreamedImage) -> str:
        assert image.pixels is not None
        height, width = image.pixels.shape[1:]
        return (
            f"{self.source}: {image.name!r:.200} has {width} x {height} pixels, the first image has "
            f"{self.size[1]} x {self.size[0]}; all must have one size (see pareto-amb data prepare --help)"
        )


def content_fingerprint(digests: Sequence[bytes]) -> str:
    """The SHA-256, in hex, of the images' own SHA-256 in order: names and dates do not count."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


@contextmanager
def open_stream(
    source: ImageSource | NamedImages, skip_corrupt: bool = False, role: str = ""
) -> Iterator[ImageStream]:
    """Yield the images of a folder, a zip, a tensor or an array, to be read inside the block only.

    `role` is what images in memory are called; their names are their numbers. The first image that can be
    decoded gives the size. Raises UserError, naming the culprit, when there is nothing at a path, it cannot
    be read or is hostile, it holds no image, or the first is broken and broken images are not to be
    skipped; and for images in memory of another type or shape.
    """
    if isinstance(source, NamedImages):
        originals = {str(k): name for k, name in enumerate(source.names) if name}
        yield replace(_in_memory(source.images, source.called), originals=originals)
        return
    if not isinstance(source, Path):
        yield _in_memory(source, f"{role} array".strip())
        return
    if not is_there(source):
        raise UserError(f"{str(source)!r}: nothing there; name a folder or zip of images")
    with open_files(source) as files:
        yield _of_files(source, files, skip_corrupt)


# --- files ----------------------------------------------------------------------------------------

_UNREADABLE = hashlib.sha256(b"unreadable").digest()


def _of_files(path: Path, files: ImageFiles, skip_corrupt: bool) -> ImageStream:
    problem = ""
    for name in files.names:
        first = _load(path, files, name)
        problem = problem or first.problem
        if first.pixels is not None:
            return ImageStream(
                source=str(path),
                names=files.names,
                size=(first.pixels.shape[1], first.pixels.shape[2]),
                read=lambda name: _load(path, files, name),
                digest=lambda name: _content_digest(files, name),
                notes=files.notes,
                skip_corrupt=skip_corrupt,
                originals=read_originals(files),
            )
        if not skip_corrupt:
            raise UserError(f"{first.problem}, or leave it out with --skip-corrupt")
    raise UserError(f"{path}: none of its {len(files.names)} images can be decoded; {problem}")


def _load(path: Path, files: ImageFiles, name: str) -> StreamedImage:
    try:
        content = files.read(name)
    except UserError as error:
        return StreamedImage(name, _UNREADABLE, None, problem=str(error))
    digest = hashlib.sha256(content).digest()
    try:
        pixels, changes = decode_uncropped(content, f"{path}: {name!r:.200}")
    except UserError as error:
        return StreamedImage(name, digest, None, problem=str(error))
    return StreamedImage(name, digest, pixels, hashlib.sha256(pixels.data).digest(), changes)


def _content_digest(files: ImageFiles, name: str) -> bytes:
    try:
        return hashlib.sha256(files.read(name)).digest()
    except UserError:
        return _UNREADABLE


# --- images in memory -----------------------------------------------------------------------------


def _in_memory(images: Tensor | NDArray[Any], called: str) -> ImageStream:
    """A stream of uint8 images; UserError says what to do with others."""
    array = channels_first(images, called)

    def pixels(name: str) -> NDArray[np.uint8]:
        image = array[int(name)]
        return np.array(np.broadcast_to(image, (3, *image.shape[1:])), order="C")

    def digest(name: str) -> bytes:
        return _pixels_digest(pixels(name))

    def read(name: str) -> StreamedImage:
        image = pixels(name)
        return StreamedImage(name, _pixels_digest(image), image, hashlib.sha256(image.data).digest())

    names = tuple(map(str, range(len(array))))
    return ImageStream(called, names, (array.shape[2], array.shape[3]), read, digest)


def channels_first(images: Tensor | NDArray[Any], called: str) -> NDArray[np.uint8]:
    """A view (N, 1 or 3, H, W) of uint8 images in one of the shapes of ImageSource; channels first wins.

    UserError says what to do with others.
    """
    array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.dtype != np.uint8:
        raise UserError(
            f"{called}: {array.dtype} values, uint8 from 0 to 255 is needed; convert with "
            "(x * 255).round() where x is in [0, 1], (x * 127.5 + 127.5).round() where it is in [-1, 1], "
            "then clip to 0 and 255 and change the type to uint8"
        )
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3):
        array = np.moveaxis(array, -1, 1)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape:
        raise UserError(
            f"{called}: shape {array.shape}, expected (N, C, H, W) or (N, H, W, C) with 1 or 3 channels, or "
            "(N, H, W), of at least one image"
        )
    return array


def _pixels_digest(pixels: NDArray[np.uint8]) -> bytes:
    """The SHA-256 of shape and pixels (3, H, W)."""
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(pixels.data)
    return digest.digest()


# --- threads --------------------------------------------------------------------------------------


def _in_order(
    work: Callable[[str], Result], names: Sequence[str], chunk: int, workers: int, ahead: int
) -> Iterator[Result]:
    """The results of `work`, in the order of `names`, on threads that are `ahead` chunks in front."""

    def work_on(start: int) -> list[Result]:
        return [work(name) for name in names[start : start + chunk]]

    pending: deque[Future[list[Result]]] = deque()
    executor = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for start in range(0, len(names), chunk):
            pending.append(executor.submit(work_on, start))
            if len(pending) > ahead:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)
