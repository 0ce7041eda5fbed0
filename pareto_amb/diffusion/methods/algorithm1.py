"""Algorithm 1 of the paper, and DDPM, its sigma_tn = 0 case."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pareto_amb.declared import Parameter
from pareto_amb.diffusion.losses import algorithm1_loss
from pareto_amb.diffusion.methods.ambient import draw_ambient, nature_copies
from pareto_amb.diffusion.methods.base import Augment, Batch, Method
from pareto_amb.diffusion.noise import NoiseDistribution, natural_mix_ratio
from pareto_amb.diffusion.theory import auto_range_of

SIGMA_TN = Parameter(
    "sigma_tn",
    label="σ_tn",
    description="noise level above which the model sees noisy copies only, in EDM units; a range for all "
    "train sizes, or auto",
    kind="level",
    default="auto",
    log=True,
    auto_meaning="one range for each train size, from the collapse level of its images, written into "
    "RUN_DIR/sweep.yaml",
    auto=auto_range_of,
)

MIX_RATIO = Parameter(
    "mix_ratio",
    label="mix ratio",
    description="share of each batch that is drawn from the noisy copies; a range, or a list of choices",
    kind="share",
    default=["natural"],
    words={"natural": "P(sigma >= sigma_tn)"},
    unit="of each batch is noisy",
    plain="mix ratio",
)


@dataclass(frozen=True)
class Algorithm1(Method):
    """Algorithm 1 of the paper: clean images below sigma_tn, one fixed noisy copy of each above it.

    `mix_ratio` is the probability that an example is a noisy one. `sigma_tn` = 0 is plain EDM training
    (DDPM).
    """

    sigma_tn: float = 0.0
    mix_ratio: float = 0.0

    name = "algorithm1"
    label = "Algorithm 1"
    color = "#0072B2"
    parameters: ClassVar[tuple[Parameter, ...]] = (SIGMA_TN, MIX_RATIO)
    control = "control"

    @classmethod
    def create(cls, parameters: Mapping[str, float], sigma_max: float) -> "Algorithm1":
        """Algorithm 1; plain training unless sigma_tn has levels on both sides of it."""
        sigma_tn = parameters["sigma_tn"]
        return cls(sigma_tn, parameters["mix_ratio"]) if 0 < sigma_tn < sigma_max else cls()

    @classmethod
    def resolve(cls, chosen: Mapping[str, Any], noise: NoiseDistribution) -> dict[str, float]:
        """The mix ratio `natural` is P(sigma >= sigma_tn)."""
        if chosen["mix_ratio"] != "natural":
            return dict(chosen)
        return {**chosen, "mix_ratio": natural_mix_ratio(noise, chosen["sigma_tn"])}

    def material(self, clean: Tensor, ids: Sequence[int], seed: int) -> Tensor:
        """S and S_tn: (2, N, C, H, W)."""
        return torch.stack([clean, nature_copies(clean, ids, seed, self.sigma_tn)])

    def draw(
        self,
        material: Tensor,
        index: Tensor,
        noise: NoiseDistribution,
        generator: torch.Generator,
        augment: Augment,
    ) -> Batch:
        """Draw each example's side of sigma_tn, its level on that side, and its noise (L3-6)."""
        nature = torch.rand(len(index), generator=generator, device=index.device) < self.mix_ratio
        images = material[nature.long(), index]
        return draw_ambient(images, nature, self.sigma_tn, noise, generator, augment)

    def loss(self, denoised: Tensor, batch: Batch, sigma_data: float) -> Tensor:
        """Compare the denoised image with x_0, or its prediction of x_tn with x_tn (L7-11)."""
        return algorithm1_loss(
            denoised, batch.noisy, batch.target, batch.sigma, batch.nature, self.sigma_tn, sigma_data
        )


class DDPM(Algorithm1):
    """Plain diffusion training (EDM) on clean images: Algorithm 1 at sigma_tn = 0."""

    name = "ddpm"
    label = "DDPM"
    color = "#D55E00"
    parameters = ()
    recommended = False
    control = ""

    @classmethod
    def create(cls, parameters: Mapping[str, float], sigma_max: float) -> Algorithm1:
        """Algorithm 1 without noisy copies, whose checkpoints it shares."""
        return Algorithm1()

    @classmethod
    def resolve(cls, chosen: Mapping[str, Any], noise: NoiseDistribution) -> dict[str, float]:
        """Nothing was chosen."""
        return {}
