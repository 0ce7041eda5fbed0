"""What methods with noisy copies of the images share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pareto_amb.diffusion.methods.base import Augment, Batch
from pareto_amb.diffusion.noise import NoiseDistribution, draw_sigma
from pareto_amb.randomness import normal_per_item


def nature_copies(clean: Tensor, ids: Sequence[int], seed: int, sigma_tn: float) -> Tensor:
    """S_tn: x_tn = x_0 + sigma_tn eps with one eps an image, a function of `seed` and its number."""
    eps = normal_per_item(seed, "S_tn", ids, tuple(clean.shape[1:])).to(clean.device)
    return torch.add(clean, eps, alpha=sigma_tn)


def draw_ambient(
    images: Tensor,
    nature: Tensor,
    sigma_tn: float,
    noise: NoiseDistribution,
    generator: torch.Generator,
    augment: Augment,
) -> Batch:
    """Bring x_tn (where `nature`) up to levels from sigma_tn on, and x_0 to levels below it (L4-6)."""
    sigma = draw_sigma(noise, nature, sigma_tn, generator)
    target, told = augment(images, nature)
    noisy = add_noise(target, nature * sigma_tn, sigma, generator)
    return Batch(noisy, sigma, target, nature, told)


def add_noise(target: Tensor, start: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """Bring images from the levels `start` (B,) up to `sigma` (B,)."""
    added = (sigma**2 - start**2).sqrt().view(-1, 1, 1, 1)
    eps = torch.randn(target.shape, generator=generator, device=target.device)
    return torch.addcmul(target, added, eps)
