"""What noise does to an image set: which image it was, how many kinds there are, what a noisy copy tells."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pareto_amb.config import AutoRange, DataConfig, SamplingConfig
from pareto_amb.config_file import parse
from pareto_amb.data import ImageSet, load_images, split
from pareto_amb.data.image_set import from_pixels
from pareto_amb.data.stream import ImageSource, channels_first
from pareto_amb.diffusion.parallel import best_device
from pareto_amb.diffusion.text.denoiser import space_of
from pareto_amb.diffusion.text.pipeline import load_pipeline
from pareto_amb.diffusion.text.prepare import encode_images
from pareto_amb.diffusion.theory import (
    COLLAPSED,
    HIGH_SHARE,
    LOW_SHARE,
    START_SHARE,
    TrainingPosterior,
    as_points,
    auto_range,
)
from pareto_amb.errors import UserError
from pareto_amb.evaluation.encoders import load_encoder
from pareto_amb.notebook import html_table
from pareto_amb.printable import printable
from pareto_amb.schedule import Schedule
from pareto_amb.theory.leakage import leakage, leakage_bound, spectrum
from pareto_amb.theory.merging import MergingCurve, cluster, merging_curve, subpopulations

USUAL_SIZES = (100, 300, 1000, 3000)

EPSILON = 0.5
"""Subpopulations within this total variation are one."""

DRAWS = 10
"""So many draws of DDPM are compared with the one noisy copy of Algorithm 1."""

MAX_COMPARED = 3_000
"""Of more training images, subpopulations are not compared; nor is the covariance measured on more."""

_CLUSTER_SIZE = 5
_PIXELS_AT_ONCE = 4096


@dataclass(frozen=True)
class SizeScan:
    """One train size: its distinct images, what `auto` searches, and what holds at each sigma.

    `merging` is None where there are more than MAX_COMPARED images. `recommended` is a sigma_tn that a
    sweep has recommended, if one is known.
    """

    train_size: int
    distinct: int
    searched: AutoRange
    effective_numbers: tuple[float, ...]
    merging: MergingCurve | None
    recommended: float | None = None

    @property
    def levels(self) -> tuple[float, float, float]:
        """The collapse level, and the lowest and highest sigma_tn that `auto` searches."""
        return self.searched.collapse_level or math.nan, self.searched.low, self.searched.high

    @property
    def tried_first(self) -> float:
        """The sigma_tn around which a sweep with `auto` begins."""
        return min(START_SHARE * self.levels[0], self.searched.high)


@dataclass(frozen=True, eq=False)
class LeakageCurve:
    """What noisy images tell of the training image that they were made from, in nats; (S,) each.

    `copy` is of one noisy copy with noise sigma, from which Algorithm 1 with that sigma_tn makes all its
    samples above it; `drawn` of `draws` draws of DDPM at that level, `bound` the paper's figure for them.
    The covariance was measured on `n_images` images of `dimension` numbers each. Where it has its full rank
    the first two are upper bounds, whatever the images are like; else they miss what lies beside the images.
    """

    copy: NDArray[np.float64]
    drawn: NDArray[np.float64]
    bound: NDArray[np.float64]
    n_images: int
    dimension: int
    draws: int = DRAWS

    @property
    def caution(self) -> str:
        """What to know beside the figures, empty where they are upper bounds."""
        if self.n_images > self.dimension:
            return ""
        return (
            f"the covariance of {self.n_images:,} images spans {self.n_images - 1:,} of {self.dimension:,} "
            "directions; the true figures are larger, most at low noise"
        )


@dataclass(frozen=True)
class Scan:
    """An image set under noise.

    Every size is measured at the same `sigmas`, which rise, in EDM units; `round_sigmas` are those of them
    that suffice for a table. `shape` is (C, H, W), `latents` that of what a pipeline denoises in their place.
    Where the effective number is at most `collapsed`, the posterior has collapsed; `auto` searches the
    `shares` of the level below which it has. `grouped_by` is what subpopulations are; those
    within `epsilon` of total variation are one. The leakage is one image's, whatever the train size.
    `fingerprint` is that of the images; `schedule` are the steps that the pipeline knows.
    """

    name: str
    total: int
    shape: tuple[int, ...]
    sigmas: tuple[float, ...]
    round_sigmas: tuple[float, ...]
    sizes: tuple[SizeScan, ...]
    leakage: LeakageCurve
    grouped_by: str = "clusters of pixels"
    latents: tuple[int, ...] | None = None
    collapsed: float = COLLAPSED
    shares: tuple[float, float] = (LOW_SHARE, HIGH_SHARE)
    epsilon: float = EPSILON
    fingerprint: str = ""
    schedule: Schedule | None = None

    def steps(self, *sigmas: float) -> str:
        """The pipeline's steps of noise levels: `steps 25 to 100`; empty without a pipeline."""
        return self.schedule.words(*sigmas) if self.schedule else ""

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


def scan_images(
    image_set: ImageSet,
    train_sizes: Sequence[int] | None = None,
    seed: int = 0,
    *,
    by_label: bool = False,
    encoder: str | None = None,
    pipeline: str | None = None,
    recommended: Mapping[int, float] | None = None,
) -> Scan:
    """Scan the training images that a sweep without class labels draws with this seed, for each train size.

    Without `train_sizes`, those of USUAL_SIZES that leave images to hold out, else the whole set. Images are
    compared by their pixels, or by the latents of a `pipeline`'s autoencoder: its folder, or its name on the
    hub. Subpopulations are clusters of that, or of an `encoder`'s features, or `by_label` the labels.
    `recommended` is the sigma_tn to be marked, by train size.

    Raises UserError when a size is more than the images there are, when the images are all the same, when
    they have no labels to be grouped by, or when the encoder or pipeline cannot be used for them.
    """
    sizes = _sizes(image_set, train_sizes)
    order = split(image_set, sizes[-1], seed, conditional=False).train  # smaller ones are its beginnings
    what = "pixels" if pipeline is None else "latents"
    kinds, grouped_by = _kinds(image_set, order[:MAX_COMPARED], by_label, encoder, what)
    images, sigma_max, schedule = image_set.images[order], SamplingConfig().sigma_max, None
    if pipeline is not None:
        images, schedule = _latents(images, pipeline)
        sigma_max = math.floor(schedule.levels[-1] * 100) / 100
    posteriors = {size: TrainingPosterior(images[:size], seed) for size in sizes}
    ranges = {size: auto_range(found.collapse_level(), sigma_max) for size, found in posteriors.items()}
    levels = [level for searched in ranges.values() if (level := searched.collapse_level) is not None]
    sigmas = ladder(min(searched.low for searched in ranges.values()), 20 * max(levels), steps=3)
    compared = images[:MAX_COMPARED]
    points, dimension = _coordinates(compared), compared[0].numel()
    return Scan(
        name=image_set.name,
        fingerprint=image_set.fingerprint,
        total=len(image_set.images),
        shape=tuple(image_set.images.shape[1:]),
        sigmas=sigmas,
        round_sigmas=ladder(min(levels) / 4, 10 * max(levels)),
        sizes=tuple(
            SizeScan(
                size,
                found.n_images,
                ranges[size],
                tuple(map(found.effective_number, sigmas)),
                _merge(points, dimension, points if kinds is None else kinds, size, sigmas),
                (recommended or {}).get(size),
            )
            for size, found in posteriors.items()
        ),
        leakage=_leak(points, dimension, sigmas),
        grouped_by=grouped_by,
        latents=None if pipeline is None else tuple(images.shape[1:]),
        schedule=schedule,
    )


def _sizes(image_set: ImageSet, train_sizes: Sequence[int] | None) -> list[int]:
    """The train sizes to scan, rising. UserError for one that cannot be."""
    total = len(image_set.images)
    if train_sizes is not None and min(train_sizes, default=2) < 2:
        raise UserError(f"train size {min(train_sizes)}: at least 2 images are needed to compare")
    sizes = sorted(set(train_sizes or [size for size in USUAL_SIZES if size < total] or [total]))
    if sizes[-1] > total:
        raise UserError(f"--train-size {sizes[-1]}: more than the {total:,} images of {image_set.name}")
    return sizes


def _latents(images: Tensor, pipeline: str) -> tuple[Tensor, Schedule]:
    """Images (N, C, H, W) where a pipeline denoises them, and the steps of its noise."""
    model = load_pipeline(pipeline, option="--pipeline")
    assert model.vae is not None
    shrinks = 2 ** (len(model.vae.config["block_out_channels"]) - 1)
    channels, height, width = images.shape[1:]
    wanted = int(model.vae.config["out_channels"])
    if channels != wanted or height % shrinks or width % shrinks:
        raise UserError(
            f"{printable(pipeline)}: encodes images of {wanted} channels and sides that are multiples of "
            f"{shrinks}, not {channels} x {height} x {width}; set --resolution and --channels to that"
        )
    encoded = encode_images(images, space_of(model, (channels, height, width)), best_device())
    return encoded.mean, model.schedule.schedule


def _coordinates(images: Tensor) -> NDArray[np.float64]:
    """Points (N, min(N, D)) that lie to each other as images (N, C, H, W) do, whose D may be many."""
    count, pixels = len(images), images.flatten(1)
    if count >= pixels.shape[1]:
        return np.asarray(as_points(images))
    products = torch.zeros(count, count, dtype=torch.float64)
    for start in range(0, pixels.shape[1], _PIXELS_AT_ONCE):
        some = as_points(pixels[:, start : start + _PIXELS_AT_ONCE])
        some -= some.mean(dim=0)
        products.addmm_(some, some.T)
    products.diagonal().add_(1e-10 * float(products.diagonal().max()))  # images may be alike
    return np.asarray(torch.linalg.cholesky(products))


def _kinds(
    image_set: ImageSet, compared: Tensor, by_label: bool, encoder: str | None, what: str
) -> tuple[NDArray[Any] | None, str]:
    """What tells kinds of the images at `compared` (N,) apart, and what they then are, in words.

    Labels (N,), or features to be clustered (N, F); None: `what` the images are compared by. UserError where
    that cannot be had.
    """
    if not by_label:
        if encoder is None:
            return None, f"clusters of {what}"
        features = load_encoder(encoder).encode(image_set.images[compared], device=best_device())
        return np.asarray(features.cpu().double()), f"clusters of {encoder} features"
    if encoder is not None:
        raise UserError("--by-label and --encoder: subpopulations are labels or clusters; leave one out")
    if image_set.labels is None:
        raise UserError(
            f"{image_set.name} has no labels to group images by; put each class in a folder of its own, add "
            "a dataset.json, or leave out --by-label"
        )
    return np.asarray(image_set.labels[compared]), "labels"


def _merge(
    points: NDArray[np.float64], dimension: int, kinds: NDArray[Any], size: int, sigmas: Sequence[float]
) -> MergingCurve | None:
    """How the subpopulations of the first `size` images merge, of `dimension` pixels; None for too many."""
    if size > len(points):
        return None
    points, groups = points[:size], kinds[:size]
    if groups.ndim == 2:
        groups = cluster(groups, _CLUSTER_SIZE) if size >= _CLUSTER_SIZE else np.arange(size)
    found = subpopulations(points, groups)
    found = replace(found, variance=found.variance * points.shape[1] / dimension)
    return merging_curve(found, sigmas, size, EPSILON)


def _leak(points: NDArray[np.float64], dimension: int, sigmas: Sequence[float]) -> LeakageCurve:
    """What noisy images tell of one of the images that were compared, of `dimension` pixels."""
    variances = spectrum(points)
    return LeakageCurve(
        copy=leakage(variances, sigmas),
        drawn=leakage(variances, sigmas, DRAWS),
        bound=leakage_bound(variances, sigmas, DRAWS),
        n_images=len(points),
        dimension=dimension,
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
