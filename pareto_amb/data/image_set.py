"""Image sets: every source ends as one uint8 tensor with a fingerprint."""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from itertools import compress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pareto_amb.config import DataConfig
from pareto_amb.data.captioned_digits import caption_digits
from pareto_amb.data.captions import Uncaptioned, read_captions
from pareto_amb.data.decoding import decode, fit
from pareto_amb.data.files import open_files, read_labels, read_originals
from pareto_amb.errors import UserError
from pareto_amb.needs import DATA_VARIABLE, find_data, origin_of
from pareto_amb.printable import reason
from pareto_amb.reading import expand, is_folder

Progress = Callable[[int, int], None]
Changes = tuple[str, ...]
AreClasses = Callable[[Sequence[str]], bool]
"""Whether the first folder of each name is its class, where there is no dataset.json."""


@dataclass(frozen=True)
class Pictures:
    """An image set that is decoded one image at a time.

    `load(index)` returns uint8 pixels (C, H, W) and what was changed on the way; it may be called from
    several threads. `names` are those of the files, or of the files that those were made of, empty where
    there are none; `captions` is None where they are not wanted, or the set has none.
    """

    name: str
    total: int
    load: Callable[[int], tuple[NDArray[np.uint8], Changes]]
    labels: Sequence[int] | None
    notes: tuple[str, ...] = ()
    names: Sequence[str] = ()
    captions: Sequence[str] | None = None


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A whole image set in memory.

    `images` is uint8 (N, C, H, W) and `labels` int64 (N,), or None when the set has none;
    `n_classes` is 0 without labels. Labels are there whether or not training is to use them: that
    is `data.conditional`. `captions` has N lines; None unless `data.captions`. `fingerprint` is the SHA-256,
    in hex, of shape, pixels, labels and captions; `notes` are lines for the user about what was done to the
    images; `names` those of their files, empty where there are none.
    """

    images: Tensor
    labels: Tensor | None
    n_classes: int
    name: str
    fingerprint: str
    notes: tuple[str, ...] = ()
    captions: tuple[str, ...] | None = None
    names: Sequence[str] = ()


def load_images(config: DataConfig, progress: Progress | None = None) -> ImageSet:
    """Load the set that `config` names, at its resolution and channels.

    `progress(done, total)` is called from this thread as images become ready.

    Raises UserError, naming the culprit, when the data is missing, unreadable, broken or hostile,
    or has no labels although `config.conditional` asks for them, or no captions although
    `config.captions` does.
    """
    rule = Uncaptioned(config.skip_uncaptioned, "data.skip_uncaptioned=true") if config.captions else None
    with open_pictures(config, lambda names: config.conditional, rule) as pictures:
        if config.captions and pictures.captions is None:
            raise UserError(
                f"data.captions is true but {pictures.name} has no captions; add a metadata.jsonl with "
                'file_name and text, "captions" in dataset.json, or a.txt beside a.png, or set it to false'
            )
        pixels, changes = _fill(pictures, config, progress or _ignore)
    counts = Counter(change for image_changes in changes for change in image_changes)
    notes = (*pictures.notes, *describe_changes(counts, pictures.total))
    image_set = _image_set(pictures.name, pixels, pictures.labels, notes, pictures.captions, pictures.names)
    if config.conditional and image_set.labels is None:
        raise UserError(
            f"data.conditional is true but {image_set.name} has no labels; "
            "put each class in a folder of its own, add a dataset.json, or set it to false"
        )
    return image_set


def _ignore(done: int, total: int) -> None:
    pass


@contextmanager
def open_pictures(
    config: DataConfig, are_classes: AreClasses, uncaptioned: Uncaptioned | None
) -> Iterator[Pictures]:
    """Yield the images that `config` names, not yet decoded; they can be loaded inside the block only.

    Captions are read unless `uncaptioned` is None, and images without one are treated as it says.

    Raises UserError, naming the culprit, when the data is missing, unreadable or hostile.
    """
    with _SOURCES[config.source](config, are_classes, uncaptioned) as pictures:
        yield pictures


@contextmanager
def _open_digits(
    config: DataConfig, are_classes: AreClasses, uncaptioned: Uncaptioned | None
) -> Iterator[Pictures]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    captions = None if uncaptioned is None else caption_digits(digits.target)
    yield _from_arrays("digits", pixels, digits.target, config, captions)


@contextmanager
def _open_files(
    config: DataConfig, are_classes: AreClasses, uncaptioned: Uncaptioned | None
) -> Iterator[Pictures]:
    path = find_data(config)
    with open_files(path, captions=uncaptioned is not None) as files:
        labels: Sequence[int] | None = read_labels(path, files, from_folders=are_classes(files.names))
        captions: Sequence[str] | None = read_captions(path, files, uncaptioned) if uncaptioned else None
        names, notes = files.names, files.notes
        if captions is not None and not all(captions):
            notes = (*notes, f"images without a caption are left out: {captions.count('')} of {len(names)}")
            names = tuple(compress(names, captions))
            labels = None if labels is None else tuple(compress(labels, captions))
            captions = tuple(filter(None, captions))

        def load(index: int) -> tuple[NDArray[np.uint8], Changes]:
            name = names[index]
            shown = f"{path}: {name!r:.200}"
            return decode(files.read(name), shown, config.resolution, config.channels)

        originals = read_originals(files)
        called = [originals.get(name, name) for name in names]
        yield Pictures(path.name, len(names), load, labels, notes, called, captions)


@contextmanager
def _open_cifar10(
    config: DataConfig, are_classes: AreClasses, uncaptioned: Uncaptioned | None
) -> Iterator[Pictures]:
    if config.path is None:
        root = expand(os.environ.get(DATA_VARIABLE) or "~/.cache/pareto-amb")
    else:
        root = find_data(config)
        if not is_folder(root) or _holds_images(root):
            with _open_files(config, are_classes, uncaptioned) as pictures:
                yield pictures
            return
    if config.captions:
        raise UserError(
            "data.captions is true but cifar10 has no captions; set it to false, or data.path to a folder or "
            "zip with captions"
        )

    from torchvision.datasets import CIFAR10

    try:
        # CIFAR10 unpickles its batches, but only after each has matched the MD5 that torchvision
        # ships, so no pickle from elsewhere is ever opened.
        cifar10 = CIFAR10(str(root), train=True, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        raise UserError(
            f"cifar10: cannot be fetched from {CIFAR10.url} into {root} ({reason(error)}); put "
            f"{CIFAR10.filename} there by hand, or set data.path to a folder or zip of its images"
            + origin_of(config)
        ) from error
    yield _from_arrays("cifar10", cifar10.data, cifar10.targets, config)


Source = Callable[[DataConfig, AreClasses, Uncaptioned | None], AbstractContextManager[Pictures]]

_SOURCES: dict[str, Source] = {
    "digits": _open_digits,
    "images": _open_files,
    "cifar10": _open_cifar10,
}


def _holds_images(root: Path) -> bool:
    """False for a folder that torchvision may fill, or has filled, with its own files."""
    try:
        names = [entry.name for entry in root.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{root}: cannot be read ({reason(error)})") from error
    return bool(names) and not any(name.startswith("cifar-10-") for name in names)


def _from_arrays(
    name: str,
    arrays: NDArray[np.uint8],
    labels: Sequence[int],
    config: DataConfig,
    captions: Sequence[str] | None = None,
) -> Pictures:
    """The images of uint8 arrays (N, H, W) or (N, H, W, 3)."""

    def load(index: int) -> tuple[NDArray[np.uint8], Changes]:
        return fit(Image.fromarray(arrays[index]), config.resolution, config.channels)

    return Pictures(name, len(arrays), load, labels, captions=captions)


def _fill(
    pictures: Pictures, config: DataConfig, progress: Progress
) -> tuple[NDArray[np.uint8], list[Changes]]:
    """Load all images on all cores: pixels (total, C, H, W), and changes in order."""
    total = pictures.total
    shape = (total, config.channels, config.resolution, config.resolution)
    try:
        if math.prod(shape) > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
            raise MemoryError
        pixels = np.empty(shape, dtype=np.uint8)
    except MemoryError as error:
        raise UserError(
            f"data.resolution: {total} images of {config.resolution} pixels a side need "
            f"{math.prod(shape) / 2**30:,.0f} GiB of memory; lower it, or use fewer images"
        ) from error

    workers = os.cpu_count() or 1
    # Small images would spend longer in the hands of the pool than in Pillow, hence batches.
    batch = min(max(total // (8 * workers), 1), 64)

    def work(start: int) -> list[Changes]:
        changes = []
        for index in range(start, min(start + batch, total)):
            pixels[index], changed = pictures.load(index)
            changes.append(changed)
        return changes

    all_changes: list[Changes] = []
    executor = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for changes in executor.map(work, range(0, total, batch)):
            all_changes += changes
            progress(len(all_changes), total)
    finally:
        executor.shutdown(cancel_futures=True)
    return pixels, all_changes


def describe_changes(counts: Counter[str], total: int) -> tuple[str, ...]:
    """One line for each kind of change, e.g. "12 of 300 images were grey: converted to RGB"."""
    return tuple(
        f"{count} of {total} images {'was' if count == 1 else 'were'} {change}"
        for change, count in counts.items()
    )


def from_pixels(pixels: NDArray[np.uint8], name: str) -> ImageSet:
    """A set without labels and captions of images that are in memory, (N, C, H, W)."""
    return _image_set(name, np.ascontiguousarray(pixels), None, (), None)


def _image_set(
    name: str,
    pixels: NDArray[np.uint8],
    labels: Sequence[int] | None,
    notes: tuple[str, ...],
    captions: Sequence[str] | None,
    names: Sequence[str] = (),
) -> ImageSet:
    numbers = None if labels is None else np.asarray(labels, dtype=np.int64)
    return ImageSet(
        images=torch.from_numpy(pixels),
        labels=None if numbers is None else torch.from_numpy(numbers),
        n_classes=0 if numbers is None else int(numbers.max()) + 1,
        name=name,
        fingerprint=_fingerprint(pixels, numbers, captions),
        notes=notes,
        captions=None if captions is None else tuple(captions),
        names=tuple(names),
    )


def _fingerprint(
    pixels: NDArray[np.uint8], labels: NDArray[np.int64] | None, captions: Sequence[str] | None
) -> str:
    digest = hashlib.sha256(f"{pixels.shape} {labels is not None}".encode())
    digest.update(pixels.data)
    if labels is not None:
        digest.update(labels.astype("<i8").data)
    if captions is not None:
        digest.update("\n".join(["captions", *captions]).encode())
    return digest.hexdigest()
