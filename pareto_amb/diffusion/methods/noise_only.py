"""Training on noisy copies alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pareto_amb.diffusion.losses import algorithm1_loss
from pareto_amb.diffusion.methods.algorithm1 import SIGMA_TN
from pareto_amb.diffusion.methods.ambient import draw_ambient, nature_copies
from pareto_amb.diffusion.methods.base import Augment, Batch, Method
from pareto_amb.diffusion.noise import NoiseDistribution


@dataclass(frozen=True)
class NoiseOnly(Method):
    """Ambient score matching (Daras et al. 2024, "Consistent Diffusion Meets Tweedie", arXiv 2404.10177).

    The model sees S_tn only and learns levels from `sigma_tn` up, by the loss of Eq. 6. The consistency
    term with which that work also learns the levels below is left out (`NoiseOnlyConsistent` has it), so
    sampling stops at `sigma_tn` and returns the posterior mean E[x_0 | x] there.
    """

    sigma_tn: float

    name = "noise_only"
    label = "Noise only"
    color = "#E69F00"
    parameters = (SIGMA_TN,)
    constants: ClassVar[Mapping[str, float]] = {"mix_ratio": 1.0}
    recommended = False

    @property
    def sigma_stop(self) -> float:
        return self.sigma_tn

    def material(self, clean: Tensor, ids: Sequence[int], seed: int) -> Tensor:
        """S_tn: (N, C, H, W), the same noisy copies as Algorithm 1's."""
        return nature_copies(clean, ids, seed, self.sigma_tn)

    def draw(
        self,
        material: Tensor,
        index: Tensor,
        noise: NoiseDistribution,
        generator: torch.Generator,
        augment: Augment,
    ) -> Batch:
        """Bring noisy copies up from sigma_tn to levels above it."""
        nature = torch.ones_like(index, dtype=torch.bool)
        return draw_ambient(material[index], nature, self.sigma_tn, noise, generator, augment)

    def loss(self, denoised: Tensor, batch: Batch, sigma_data: float) -> Tensor:
        """Compare the prediction of x_tn with x_tn, at every level (Eq. 6)."""
        return algorithm1_loss(
            denoised, batch.noisy, batch.target, batch.sigma, batch.nature, self.sigma_tn, sigma_data
        )
