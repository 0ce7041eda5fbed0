"""Training on noisy copies alone, with the levels below theirs learnt from consistency."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pareto_amb.diffusion.losses import consistency_loss, reverse_step
from pareto_amb.diffusion.methods.ambient import add_noise
from pareto_amb.diffusion.methods.base import Augment, Batch, Denoise
from pareto_amb.diffusion.methods.noise_only import NoiseOnly
from pareto_amb.diffusion.noise import NoiseDistribution, draw_sigma

STEP = 1.5
"""Ratio of the two levels that D is held consistent between, and of the first level to sigma_tn."""

DESCENT = 4
"""Steps of the model from the first level to the upper of the two."""


@dataclass(frozen=True)
class NoiseOnlyConsistent(NoiseOnly):
    """Noise only, with levels below sigma_tn learnt from consistency (Daras et al. 2024, arXiv 2404.10177).

    To the loss of Eq. 6, which teaches levels from `sigma_tn` up, comes the squared gap in
    D(x, t') = E[D(x_t'', t'') | x_t' = x], which carries what is known there downwards. t'' is drawn as the
    noise levels below `sigma_tn` are, t' = STEP t''. x_t' comes from x_t, t = STEP sigma_tn, a noisy copy
    with more noise, by DESCENT steps of the model; from it two independent steps lead to t''. D at t'' is
    moved, D at t' and the points are not: what is known, or nearer to it, is the target, and its dropout
    adds no bias. Sampling then goes down to 0.
    """

    name = "noise_only_consistent"
    label = "Noise only, consistent"
    color = "#999933"

    @property
    def sigma_stop(self) -> float:
        return 0.0

    def draw(
        self,
        material: Tensor,
        index: Tensor,
        noise: NoiseDistribution,
        generator: torch.Generator,
        augment: Augment,
    ) -> Batch:
        """The examples of noise only, x_t, and for each a level t'' and the noise of all steps."""
        batch = super().draw(material, index, noise, generator, augment)
        lower = draw_sigma(noise, torch.zeros_like(batch.nature), self.sigma_tn, generator)
        tn = torch.full_like(lower, self.sigma_tn)
        first = add_noise(batch.target, tn, STEP * tn, generator)
        shape = (len(index), DESCENT + 2, *batch.target.shape[1:])
        eps = torch.randn(shape, generator=generator, device=lower.device)
        return replace(batch, drawn={"lower": lower, "first": first, "eps": eps})

    def losses(
        self, denoise: Denoise, batch: Batch, sigma_data: float, memory: Mapping[str, Tensor]
    ) -> Tensor:
        """The loss of noise only, and the consistency."""
        losses = super().losses(denoise, batch, sigma_data, memory)
        return losses + self.consistency(denoise, batch, sigma_data)

    def consistency(self, denoise: Denoise, batch: Batch, sigma_data: float) -> Tensor:
        """The squared gap between t' and t'', from the product of two steps' differences."""
        told, lower, x = batch.conditioning, batch.drawn["lower"], batch.drawn["first"]
        *descent, eps_1, eps_2 = batch.drawn["eps"].unbind(1)
        start = torch.full_like(lower, STEP * self.sigma_tn)
        down = (lower / self.sigma_tn) ** (1 / DESCENT)
        with torch.no_grad():
            for step, eps in enumerate(descent):
                level, next_level = start * down**step, start * down ** (step + 1)
                x = reverse_step(x, denoise(x, level, told), level, next_level, eps)
            upper = start * down**DESCENT
            target = denoise(x, upper, told)
            points = [reverse_step(x, target, upper, lower, eps) for eps in (eps_1, eps_2)]
        first, second = (denoise(point, lower, told) for point in points)
        return consistency_loss(first, second, target, lower, sigma_data)
