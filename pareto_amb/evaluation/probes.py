"""Denoising probes: how well a model denoises training images, and held-out ones, at fixed noise.

Where, and from when, a model memorizes, its errors on training images fall below those on held-out images,
long before its samples are copies. Nothing is sampled or encoded.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pareto_amb.config import N_PROBED_LEVELS, PROBED_LEVELS
from pareto_amb.data.subsets import TrainingSet
from pareto_amb.diffusion.conditioning import copies_conditioning
from pareto_amb.diffusion.denoiser import Denoiser
from pareto_amb.randomness import normal_per_item

N_PROBES = 256
"""Noisy images denoised at each level, of either kind; images that are fewer come with several noises."""


@dataclass(frozen=True, eq=False)
class Probes:
    """What every trial of one train size denoises.

    `train` and `heldout` have at most N_PROBES images each. `levels` are noise levels, EDM units, rising.
    """

    train: TrainingSet
    heldout: TrainingSet
    levels: tuple[float, ...]
    seed: int

    @torch.inference_mode()
    def errors(
        self,
        denoiser: Denoiser,
        hidden: float = 0.0,
        batch_size: int = 256,
        device: torch.device | str = "cpu",
    ) -> tuple[list[float], list[float]]:
        """Mean squared errors at each level, of training and of held-out images: (L,) each.

        Empty of a kind without images. Of E[x_0 | x_sigma], over images, noises and the values of an image in
        the denoiser's space. Image and noise k are the same for every model; the batch size changes the
        rounding only. `hidden`: of `Method`.
        """
        train, heldout = (
            self._errors(denoiser, kind, part, hidden, batch_size, device)
            for kind, part in (("train", self.train), ("heldout", self.heldout))
        )
        return train, heldout

    def _errors(
        self,
        denoiser: Denoiser,
        kind: str,
        part: TrainingSet,
        hidden: float,
        batch_size: int,
        device: torch.device | str,
    ) -> list[float]:
        n = part.n_images
        if not n:
            return []
        total = torch.zeros(len(self.levels), dtype=torch.float64, device=device)
        numbers = range(-(-N_PROBES // n) * n)
        given = (part, self.levels, self.seed, f"probes/{kind}", numbers, hidden, batch_size, device)
        for _, k, errors in _each_error(denoiser, *given):
            total[k] += errors.sum()
        return [float(value) for value in total / len(numbers)]


@torch.inference_mode()
def image_errors(
    denoiser: Denoiser,
    part: TrainingSet,
    levels: Sequence[float],
    seed: int,
    draws: int,
    hidden: float = 0.0,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Mean squared errors of each image at each level, over `draws` noises: float64 (N, L).

    As of `Probes.errors`: the noises are the same for every model.
    """
    n = part.n_images
    total = torch.zeros((n, len(levels)), dtype=torch.float64)
    given = (part, levels, seed, "audit", range(draws * n), hidden, batch_size, device)
    for index, k, errors in _each_error(denoiser, *given):
        total[:, k].index_add_(0, index, errors.cpu())
    return total / draws


def _each_error(
    denoiser: Denoiser,
    part: TrainingSet,
    levels: Sequence[float],
    seed: int,
    name: str,
    numbers: range,
    hidden: float,
    batch_size: int,
    device: torch.device | str,
) -> Iterator[tuple[Tensor, int, Tensor]]:
    """The images of a batch (B,), the position of a level, and the squared errors at it, float64 (B,).

    Image `number` modulo their count is denoised with the noise of that number.
    """
    tell = copies_conditioning(denoiser, part, hidden)
    for start in range(0, len(numbers), batch_size):
        chunk = numbers[start : start + batch_size]
        index = torch.tensor(chunk) % part.n_images
        encoded = part.encoded or denoiser.space.encode(part.images[index].to(device))
        clean = (encoded.mean[index] if part.encoded else encoded.mean).to(device)
        noise = normal_per_item(seed, name, chunk, denoiser.space.shape).to(device)
        told = {key: value.to(device) for key, value in tell(seed, chunk).items()}
        for k, level in enumerate(levels):
            sigma = torch.full((len(chunk),), level, device=device)
            denoised = denoiser(clean + level * noise, sigma, told)
            yield index, k, (denoised.double() - clean).square().flatten(1).mean(dim=1)


def make_probes(train: TrainingSet, heldout: TrainingSet, collapse_level: float, seed: int) -> Probes:
    """The probes of a train size: the first N_PROBES images of either kind, and their levels."""
    return Probes(train.first(N_PROBES), heldout.first(N_PROBES), probe_levels(collapse_level), seed)


def probe_levels(collapse_level: float, count: int = N_PROBED_LEVELS) -> tuple[float, ...]:
    """So many noise levels around `collapse_level`, all in EDM units, to three digits.

    None where that is infinite: the training images are all the same.
    """
    if math.isinf(collapse_level):
        return ()
    shares: Sequence[float] = np.geomspace(*PROBED_LEVELS, count).tolist()
    return tuple(float(f"{share * collapse_level:.3g}") for share in shares)
