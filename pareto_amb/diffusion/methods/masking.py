"""Training on images with missing pixels, in two weightings."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pareto_amb.declared import Parameter
from pareto_amb.diffusion.losses import masked_loss
from pareto_amb.diffusion.methods.ambient import add_noise
from pareto_amb.diffusion.methods.base import Augment, Batch, Method
from pareto_amb.diffusion.noise import NoiseDistribution, draw_sigma
from pareto_amb.randomness import uniform_per_item

FURTHER_CORRUPTION = 0.1
"""Share of the kept pixels that `Masking` hides anew from each training example."""

CORRUPTION = Parameter(
    "corruption",
    label="missing pixels",
    description="share of the pixels missing from each training image; a range, or a list of choices",
    kind="share",
    default={"low": 0.1, "high": 0.9},
    plain="corruption",
    phrase="{value} of pixels missing",
)


@dataclass(frozen=True)
class Masking(Method):
    """Ambient Diffusion with random missing pixels (Daras et al. 2023, arXiv 2305.19256).

    A fixed mask A hides each pixel of an image with probability `corruption`, in all channels. Each
    training example hides further ones, A~ = A B, with probability `further`: the network is given
    A~ (x_0 + sigma eps) and A~, and is compared with x_0 where A keeps it. It cannot tell which of the
    pixels missing from A~ it will be asked for, so it learns E[x_0 | A~ x_sigma, A~] at all of them.

    Sampling uses the "fixed mask" sampler: one mask A~ an image, of the rate seen in training, is kept
    from the first step to the last. The full mask never occurs in training.
    """

    corruption: float
    further: float = FURTHER_CORRUPTION

    name = "masking"
    label = "Masking"
    color = "#CC79A7"
    parameters = (CORRUPTION,)
    recommended = False
    masked = True

    @property
    def hidden(self) -> float:
        return 1 - (1 - self.corruption) * (1 - self.further)

    def material(self, clean: Tensor, ids: Sequence[int], seed: int) -> Tensor:
        """The masked images A x_0, and A as one more channel: (N, C + 1, H, W)."""
        kept = uniform_per_item(seed, "masks", ids, (1, *clean.shape[2:])) >= self.corruption
        mask = kept.to(clean)
        return torch.cat([clean * mask, mask], dim=1)

    def draw(
        self,
        material: Tensor,
        index: Tensor,
        noise: NoiseDistribution,
        generator: torch.Generator,
        augment: Augment,
    ) -> Batch:
        """Hide further pixels, and bring the image up to its noise level.

        A mask moves with its image, by whole pixels: there is no half-hidden pixel.
        """
        nature = torch.zeros_like(index, dtype=torch.bool)
        sigma = draw_sigma(noise, nature, 0.0, generator)
        images, told = augment(material[index], ~nature)
        target, kept = images[:, :-1], images[:, -1:]
        stays = torch.rand(kept.shape, generator=generator, device=kept.device) >= self.further
        shown = kept * stays
        noisy = shown * add_noise(target, torch.zeros_like(sigma), sigma, generator)
        return Batch(noisy, sigma, target, nature, {**told, "mask": shown}, kept)

    def loss(self, denoised: Tensor, batch: Batch, sigma_data: float) -> Tensor:
        """Compare with x_0 where A keeps it."""
        assert batch.kept is not None
        return masked_loss(denoised, batch.target, batch.sigma, batch.kept, sigma_data)


class MaskingReweighted(Masking):
    """Masking, with pixels that the network is not shown weighted as infinitely noisy ones.

    EDM's weight grows like 1/sigma^2 where sigma is small, which for a pixel that is not shown is no more
    than a large weight on guessing. The minimiser is that of `Masking`; docs/results.md has the measurement.
    """

    name = "masking_reweighted"
    label = "Masking, reweighted"
    color = "#882255"

    def loss(self, denoised: Tensor, batch: Batch, sigma_data: float) -> Tensor:
        """Compare with x_0 where A keeps it, at the weight of infinite noise where A~ does not show it."""
        assert batch.kept is not None
        return masked_loss(
            denoised, batch.target, batch.sigma, batch.kept, sigma_data, batch.conditioning["mask"]
        )
