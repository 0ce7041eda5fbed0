"""An image set of any length as a stream: decoded a little ahead of its reader, never held whole.

Nothing is cropped or resized here: all images of a set must have one size.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pareto_amb.data.decoding import decode_uncropped
from pareto_amb.data.files import ImageFiles, open_files
from pareto_amb.errors import UserError

PIXELS_AHEAD = 2 * 128 * 256**2
"""Pixels, of all images together, that wait decoded for the reader: 48 MiB."""

CHUNK = 16
"""Small images are handed to the threads so many at a time: one by one costs more than decoding them."""

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class StreamedImage:
    """One image: `pixels` is uint8 (3, H, W), None when it is broken, and `problem` then says how.

    `content_digest` is the SHA-256 of the file, `pixel_digest` that of the pixels; `changes` are
    phrases that follow "12 of 300 images were".
    """

    name: str
    content_digest: bytes
    pixels: NDArray[np.uint8] | None
    pixel_digest: bytes = b""
    changes: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, eq=False)
class ImageStream:
    """The images of one folder or zip, in the order of their names; `size` is (height, width)."""

    path: Path
    files: ImageFiles
    size: tuple[int, int]
    skip_corrupt: bool

    def images(self) -> Iterator[StreamedImage]:
        """Decode all images, in order, on all cores.

        Raises UserError, naming the image, when one has another size, or is broken and broken images
        are not to be skipped.
        """
        workers = os.cpu_count() or 1
        ahead = max(PIXELS_AHEAD // (self.size[0] * self.size[1]), workers)
        chunk = max(min(CHUNK, ahead // (2 * workers)), 1)
        for decoded in _in_order(self.load, self.files.names, chunk, workers, ahead // chunk):
            if decoded.problem and not self.skip_corrupt:
                raise UserError(f"{decoded.problem}, or leave it out with --skip-corrupt")
            if decoded.pixels is not None and decoded.pixels.shape[1:] != self.size:
                raise UserError(self._of_another_size(decoded))
            yield decoded

    def load(self, name: str) -> StreamedImage:
        """Read and decode one image; may be called from several threads."""
        return _load(self.path, self.files, name)

    def fingerprint(self, progress: Callable[[int, int], None]) -> str:
        """What `content_fingerprint` gives for all files; `progress(done, total)` after each of them."""
        workers = os.cpu_count() or 1
        digests = []
        for digest in _in_order(self._content_digest, self.files.names, CHUNK, workers, 4 * workers):
            digests.append(digest)
            progress(len(digests), len(self.files.names))
        return content_fingerprint(digests)

    def _content_digest(self, name: str) -> bytes:
        try:
            return hashlib.sha256(self.files.read(name)).digest()
        except UserError:
            return _UNREADABLE

    def _of_another_size(self, image: StreamedImage) -> str:
        assert image.pixels is not None
        height, width = image.pixels.shape[1:]
        return (
            f"{self.path}: {image.name!r:.200} has {width} x {height} pixels, the first image has "
            f"{self.size[1]} x {self.size[0]}; all must have one size (see pareto-amb data prepare --help)"
        )


_UNREADABLE = hashlib.sha256(b"unreadable").digest()


def content_fingerprint(digests: Sequence[bytes]) -> str:
    """The SHA-256, in hex, of the files' own SHA-256 in order: names and dates do not count."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


@contextmanager
def open_stream(path: Path, skip_corrupt: bool = False) -> Iterator[ImageStream]:
    """Yield the images of a folder or zip, to be read inside the block only.

    The first image that can be decoded gives the size. Raises UserError, naming the culprit, when
    there is nothing at `path`, it cannot be read or is hostile, it holds no image, or the first is
    broken and broken images are not to be skipped.
    """
    if not path.exists():
        raise UserError(f"{str(path)!r}: nothing there; name a folder or zip of images")
    with open_files(path) as files:
        problem = ""
        for name in files.names:
            first = _load(path, files, name)
            problem = problem or first.problem
            if first.pixels is not None:
                yield ImageStream(path, files, _size(first.pixels), skip_corrupt)
                return
            if not skip_corrupt:
                raise UserError(f"{first.problem}, or leave it out with --skip-corrupt")
        raise UserError(f"{path}: none of its {len(files.names)} images can be decoded; {problem}")


def _size(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    return pixels.shape[1], pixels.shape[2]


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
