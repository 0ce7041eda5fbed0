"""The anatomy of a sweep's models: what DDPM, the recommended model and the best possible ones do with noise.

What `pareto-amb explain` shows. Everything is measured in batches, on the images that the run was trained on.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from pareto_amb.anatomy.subject import Model, Subject
from pareto_amb.data import TrainingSet
from pareto_amb.data.subsets import distinct
from pareto_amb.diffusion.conditioning import copies_conditioning
from pareto_amb.diffusion.denoiser import Denoiser
from pareto_amb.diffusion.methods.ambient import nature_copies
from pareto_amb.diffusion.theory import OptimalDenoiser, TrainingPosterior, sample_optimum
from pareto_amb.errors import UserError
from pareto_amb.evaluation.basins import return_shares, sample_from
from pareto_amb.evaluation.intervals import Estimate, ratio_of_means, wilson
from pareto_amb.evaluation.memorization import is_copy, nearest_neighbours
from pareto_amb.evaluation.neighbours import closest, normalize
from pareto_amb.evaluation.probes import image_errors, probe_levels
from pareto_amb.randomness import normal_per_item
from pareto_amb.terminal import counting

PORTRAITS = 2
"""Training images, and held-out ones, whose denoising is shown."""

PORTRAIT_LEVELS = 6
GAP_LEVELS = 13
NOISY_IMAGES = 256
"""Noisy images, at least, whose denoising error is measured at each level, of either kind."""

STARTS = 128
"""Noisy images that the sampler goes on from, at each level, of either kind."""

BASIN_LEVELS = (0.1, 10.0, 9)
LIMIT_LEVELS = (1 / 16, 8.0, 7)
"""From and to which level, in shares of the collapse level, and how many."""

LIMIT_SAMPLES = 200
WIDTHS = (0.0, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""How far smoothed training images reach, in shares of the distance to the nearest other one."""


@dataclass(frozen=True)
class Portrait:
    """One image under noise, and denoised: `rows` are uint8 (PORTRAIT_LEVELS, C, H, W), by what they show.

    `noisy` is what the models were given, in variance-preserving scale; the keys of others are those of
    models, or `optimal_ddpm` and `optimal_ambient`.
    """

    trained_on: bool
    image: NDArray[np.uint8]
    rows: Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class Basins:
    """Which share of samples are a copy of the image that they began at, by level."""

    train: list[Estimate]
    heldout: list[Estimate]


@dataclass(frozen=True)
class Limit:
    """The share of copies among samples of optimal denoisers: `shares[w][s]` of `widths[w]` and `sigmas[s]`.

    The first of `sigmas` is 0, DDPM. A sample of a smoothed image lies `widths` times `spacing` away from it
    (root mean square), where `spacing` is the median distance of an image to its nearest other one.
    """

    sigmas: tuple[float, ...]
    widths: tuple[float, ...]
    spacing: float
    shares: list[list[Estimate]]


@dataclass(frozen=True)
class Anatomy:
    """All of it for one train size. Levels are in EDM units; mappings go by the keys of `models`."""

    subject: Subject
    collapse_level: float
    portrait_levels: tuple[float, ...]
    portraits: list[Portrait]
    gap_levels: tuple[float, ...]
    gaps: Mapping[str, list[Estimate]]
    basin_levels: tuple[float, ...]
    basins: Mapping[str, Basins]
    limit: Limit
    starts: int = STARTS
    limit_samples: int = LIMIT_SAMPLES

    @property
    def compared(self) -> Sequence[Model]:
        """DDPM, and the model beside it."""
        return self.subject.models

    def opened(self, key: str) -> list[float]:
        """The levels, rising, at which a model's gap lies above 1 with its whole interval."""
        return [level for level, gap in zip(self.gap_levels, self.gaps[key], strict=True) if gap.low > 1]


def dissect(subject: Subject, console: Console) -> Anatomy:
    """Measure it all. Raises UserError where the training images are all the same."""
    level = TrainingPosterior(subject.train.images, subject.config.seed).collapse_level()
    if math.isinf(level):
        raise UserError("the training images are all the same: there is nothing to explain")
    portrait_levels, gap_levels = probe_levels(level, PORTRAIT_LEVELS), probe_levels(level, GAP_LEVELS)
    basin_levels = _levels(level, *BASIN_LEVELS)
    with _stage(console, "denoising a few images", 1) as advance:
        portraits = _portraits(subject, portrait_levels)
        advance(1)
    with _stage(console, "denoising training and held-out images", 2 * len(subject.models)) as advance:
        gaps = {model.key: _gaps(subject, model, gap_levels, advance) for model in subject.models}
    total = 2 * len(subject.models) * len(basin_levels) * STARTS
    with _stage(console, "sampling from noisy images on", total) as advance:
        basins = {model.key: _basins(subject, model, basin_levels, advance) for model in subject.models}
    sigmas = [0.0, *(s for s in _levels(level, *LIMIT_LEVELS) if s < subject.config.sampling.sigma_max)]
    with _stage(console, "sampling from optimal denoisers", len(sigmas) * len(WIDTHS)) as advance:
        limit = _limit(subject, tuple(sigmas), advance)
    return Anatomy(subject, level, portrait_levels, portraits, gap_levels, gaps, basin_levels, basins, limit)


def _levels(collapse_level: float, low: float, high: float, count: int) -> tuple[float, ...]:
    shares: list[float] = np.geomspace(low, high, count).tolist()
    return tuple(float(f"{share * collapse_level:.3g}") for share in shares)


@contextmanager
def _stage(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Say what is being done; what is yielded is told of each part of `total` that was."""
    done = 0
    if not console.is_terminal:
        console.print(what)
    with counting(console, what) as show:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            show(done, total)

        yield advance


def _portraits(subject: Subject, levels: Sequence[float]) -> list[Portrait]:
    """Figure 3 of the paper: the last held-out images, which a model of more data has not seen either."""
    train, heldout = subject.train.first(PORTRAITS), subject.last_heldout(PORTRAITS)
    space = subject.models[0].denoiser.space
    optimal = _optimal(subject)
    shown = []
    for trained_on, part in ((True, train), (False, heldout)):
        clean = space.encode(part.images).mean
        noise = normal_per_item(subject.config.seed, f"portraits/{trained_on}", part.ids, space.shape)
        rows: dict[str, list[Tensor]] = {"noisy": []}
        for level in levels:
            x = clean + level * noise
            rows["noisy"].append(space.decode(x / math.sqrt(1 + level**2)))
            for model in [*subject.models, *([subject.more] if subject.more else [])]:
                rows.setdefault(model.key, []).append(_denoised(subject, model, part, x, level))
            for key, denoiser in optimal.items():
                sigma = torch.full((len(x),), level, device=subject.device)
                denoised = denoiser(x.to(subject.device), sigma, {})
                rows.setdefault(key, []).append(space.decode(denoised).cpu())
        stacked = {key: torch.stack(found, dim=1).numpy() for key, found in rows.items()}
        shown += [
            Portrait(trained_on, image.numpy(), {key: found[k] for key, found in stacked.items()})
            for k, image in enumerate(part.images)
        ]
    return shown


@torch.inference_mode()
def _denoised(subject: Subject, model: Model, part: TrainingSet, x: Tensor, level: float) -> Tensor:
    tell = copies_conditioning(model.denoiser, part, model.asked.hidden)
    told = {
        name: value.to(subject.device) for name, value in tell(subject.config.seed, range(len(x))).items()
    }
    sigma = torch.full((len(x),), level, device=subject.device)
    return model.denoiser.space.decode(model.denoiser(x.to(subject.device), sigma, told)).cpu()


def _optimal(subject: Subject) -> dict[str, Denoiser]:
    """The best possible denoisers of the training images, and of the noisy copies that a model saw."""
    clean, other = subject.clean, subject.models[-1]
    found: dict[str, Denoiser] = {"optimal_ddpm": OptimalDenoiser(clean)}
    if other.sigma_tn:
        copies = nature_copies(clean, subject.train.ids, other.seed, other.sigma_tn)
        found["optimal_ambient"] = OptimalDenoiser(clean, copies, other.sigma_tn)
    return {key: denoiser.to(subject.device) for key, denoiser in found.items()}


def _gaps(
    subject: Subject, model: Model, levels: Sequence[float], advance: Callable[[int], None]
) -> list[Estimate]:
    """How many times as large the error on held-out images is as on training images, at each level."""
    errors = []
    for part in (subject.train.first(NOISY_IMAGES), subject.heldout.first(NOISY_IMAGES)):
        errors.append(
            image_errors(
                model.denoiser,
                part,
                levels,
                subject.config.seed,
                -(-NOISY_IMAGES // len(part.images)),
                model.asked.hidden,
                subject.config.sampling.batch_size,
                subject.device,
            ).numpy()
        )
        advance(1)
    ours, theirs = errors
    return [ratio_of_means(theirs[:, k], ours[:, k]) for k in range(len(levels))]


def _basins(
    subject: Subject, model: Model, levels: Sequence[float], advance: Callable[[int], None]
) -> Basins:
    shares = []
    for part in (subject.train.first(STARTS), subject.heldout.first(STARTS)):
        ends = sample_from(
            model.denoiser,
            part,
            levels,
            subject.config.seed,
            STARTS,
            subject.config.sampling,
            hidden=model.asked.hidden,
            sigma_stop=model.asked.sigma_stop,
            device=subject.device,
            progress=advance,
        )
        features = torch.split(subject.encode(ends.flatten(0, 1)), STARTS)
        shares.append(return_shares(features, subject.encode(part.images), subject.threshold))
    return Basins(*shares)


def _limit(subject: Subject, sigmas: tuple[float, ...], advance: Callable[[int], None]) -> Limit:
    """Where the training of a perfect network ends, and one that sees each image blurred into a Gaussian."""
    clean, bank = subject.clean, normalize(subject.encode(subject.train.images))
    points = subject.models[0].denoiser.space.encode(distinct(subject.train.images)).mean.flatten(1)
    spacing = float(closest(points, points, 2)[0][:, 1].median())
    shape = (clean.shape[1], clean.shape[2], clean.shape[3])
    noise = normal_per_item(subject.config.seed, "sampling", range(LIMIT_SAMPLES), shape).to(subject.device)
    shares: list[list[Estimate]] = [[] for _ in WIDTHS]
    for sigma_tn in sigmas:
        copies = nature_copies(clean, subject.train.ids, subject.config.seed, sigma_tn) if sigma_tn else None
        images = []
        for width in WIDTHS:
            spread = width * spacing / math.sqrt(math.prod(shape))
            denoiser = OptimalDenoiser(clean, copies, sigma_tn, spread).to(subject.device)
            images.append(sample_optimum(denoiser, noise, sigma_max=subject.config.sampling.sigma_max))
            advance(1)
        similarity = nearest_neighbours(subject.encode(torch.cat(images)), bank)[0]
        of_each = torch.split(is_copy(similarity, subject.threshold), LIMIT_SAMPLES)
        for copied, found in zip(of_each, shares, strict=True):
            found.append(wilson(float(copied.double().mean()), len(copied)))
    return Limit(sigmas, WIDTHS, spacing, shares)
