"""Algorithm 1 without its noisy copies: what its noise levels alone change."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pareto_amb.diffusion.losses import algorithm1_loss
from pareto_amb.diffusion.methods.algorithm1 import Algorithm1
from pareto_amb.diffusion.methods.ambient import add_noise
from pareto_amb.diffusion.methods.base import Augment, Batch
from pareto_amb.diffusion.noise import NoiseDistribution, draw_sigma


@dataclass(frozen=True)
class Control(Algorithm1):
    """Clean images on both sides of sigma_tn, at the noise levels of Algorithm 1: its control.

    A share `mix_ratio` of the examples lies at levels from `sigma_tn` up, as in Algorithm 1 of the same
    seed, whose images, sides, levels and noise it draws. What Algorithm 1 does better is due to the noisy
    copies; what this does better than DDPM is due to the levels.
    """

    name = "control"
    label = "Control (clean images)"
    color = "#44AA99"
    recommended = False
    control = ""

    def material(self, clean: Tensor, ids: Sequence[int], seed: int) -> Tensor:
        """The images: (N, C, H, W)."""
        return clean

    def draw(
        self,
        material: Tensor,
        index: Tensor,
        noise: NoiseDistribution,
        generator: torch.Generator,
        augment: Augment,
    ) -> Batch:
        """Draw each example's side of sigma_tn, its level on that side, and its noise."""
        upper = torch.rand(len(index), generator=generator, device=index.device) < self.mix_ratio
        sigma = draw_sigma(noise, upper, self.sigma_tn, generator)
        clean = torch.zeros_like(upper)
        target, told = augment(material[index], clean)
        return Batch(add_noise(target, torch.zeros_like(sigma), sigma, generator), sigma, target, clean, told)

    def loss(self, denoised: Tensor, batch: Batch, sigma_data: float) -> Tensor:
        """Compare the denoised image with x_0."""
        return algorithm1_loss(
            denoised, batch.noisy, batch.target, batch.sigma, batch.nature, 0.0, sigma_data
        )
