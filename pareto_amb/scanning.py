"""How many training images the best possible denoiser still averages, over noise levels and train sizes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pareto_amb.config import AutoRange, DataConfig, SamplingConfig
from pareto_amb.config_file import parse
from pareto_amb.data import ImageSet, load_images, split
from pareto_amb.data.image_set import from_pixels
from pareto_amb.data.stream import ImageSource, channels_first
from pareto_amb.diffusion.theory import COLLAPSED, HIGH_SHARE, LOW_SHARE, TrainingPosterior, auto_range
from pareto_amb.errors import UserError
from pareto_amb.notebook import html_table

USUAL_SIZES = (100, 300, 1000, 3000)


@dataclass(frozen=True)
class SizeScan:
    """One train size: its distinct images, what `auto` searches, and the effective number at each sigma."""

    train_size: int
    distinct: int
    searched: AutoRange
    effective_numbers: tuple[float, ...]

    @property
    def levels(self) -> tuple[float, float, float]:
        """The collapse level, and the lowest and highest sigma_tn that `auto` searches."""
        return self.searched.collapse_level or math.nan, self.searched.low, self.searched.high


@dataclass(frozen=True)
class Scan:
    """An image set under noise.

    Every size is measured at the same `sigmas`, which rise, in EDM units; `round_sigmas` are those of them
    that suffice for a table. `shape` is (C, H, W). Where the effective number is at most `collapsed`, the
    posterior has collapsed; `auto` searches the `shares` of the level below which it has. `fingerprint` is
    that of the images.
    """

    name: str
    total: int
    shape: tuple[int, ...]
    sigmas: tuple[float, ...]
    round_sigmas: tuple[float, ...]
    sizes: tuple[SizeScan, ...]
    collapsed: float = COLLAPSED
    shares: tuple[float, float] = (LOW_SHARE, HIGH_SHARE)
    fingerprint: str = ""

    def _repr_html_(self) -> str:
        heads = ("training images", "collapse level", "auto searches sigma_tn from", "to")
        rows = [[f"{size.train_size:,}", *(f"{level:g}" for level in size.levels)] for size in self.sizes]
        return html_table(f"{self.name}: {self.total:,} images", heads, rows)


def source_of(
    images: str | ImageSource | ImageSet, resolution: int | None = None, channels: int | None = None
) -> ImageSet:
    """The images that are to be scanned: a folder or zip, the word digits or cifar10, or uint8 pixels.

    Shapes that are not given are the source's own, 64 x 64 in colour for files. UserError for images that
    cannot be used.
    """
    if isinstance(images, ImageSet):
        return images
    if not isinstance(images, (str, Path)):
        return from_pixels(channels_first(images, "images"), "images in memory")
    data = str(images)
    named = {"digits": {"resolution": 8, "channels": 1}, "cifar10": {"resolution": 32}}
    place = {"source": data, **named[data]} if data in named else {"source": "images", "path": data}
    given = {"resolution": resolution, "channels": channels}
    shape = {key: value for key, value in given.items() if value is not None}
    hint = "give a folder or zip of images, or the word digits or cifar10"
    return load_images(parse(DataConfig, {**place, **shape, "origin": hint}, "scan"))


def scan_images(image_set: ImageSet, train_sizes: Sequence[int] | None = None, seed: int = 0) -> Scan:
    """Scan the training images that a sweep without class labels draws with this seed, for each train size.

    Without `train_sizes`, those of USUAL_SIZES that leave images to hold out, else the whole set.
    Raises UserError when a size is more than the images there are, or when the images are all the same.
    """
    total = len(image_set.images)
    if train_sizes is not None and min(train_sizes, default=2) < 2:
        raise UserError(f"train size {min(train_sizes)}: at least 2 images are needed to compare")
    sizes = sorted(set(train_sizes or [size for size in USUAL_SIZES if size < total] or [total]))
    if sizes[-1] > total:
        raise UserError(f"--train-size {sizes[-1]}: more than the {total:,} images of {image_set.name}")
    parts = {size: split(image_set, size, seed, conditional=False) for size in sizes}
    training = {size: image_set.images[part.train] for size, part in parts.items()}
    posteriors = {size: TrainingPosterior(images, seed) for size, images in training.items()}
    sigma_max = SamplingConfig().sigma_max
    ranges = {size: auto_range(found.collapse_level(), sigma_max) for size, found in posteriors.items()}
    levels = [level for searched in ranges.values() if (level := searched.collapse_level) is not None]
    sigmas = ladder(min(searched.low for searched in ranges.values()), 20 * max(levels), steps=3)
    return Scan(
        name=image_set.name,
        fingerprint=image_set.fingerprint,
        total=total,
        shape=tuple(image_set.images.shape[1:]),
        sigmas=sigmas,
        round_sigmas=ladder(min(levels) / 4, 10 * max(levels)),
        sizes=tuple(
            SizeScan(size, found.n_images, ranges[size], tuple(map(found.effective_number, sigmas)))
            for size, found in posteriors.items()
        ),
    )


def ladder(low: float, high: float, steps: int = 1) -> tuple[float, ...]:
    """The levels 1, 1.5, 2, 3, 5 and 7 of every decade and, between neighbours, `steps` - 1 more.

    Those within [low, high], rising.
    """
    marks = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    levels = [
        float(f"{start * 10.0**decade * (end / start) ** (step / steps):.4g}")
        for decade in decades
        for start, end in pairwise(marks)
        for step in range(steps)
    ]
    return tuple(level for level in levels if low <= level <= high)
