"""The training methods: what each lets the model see, what it compares, and how its models are sampled.

A method is a small frozen dataclass of its parameters. The trainer keeps the optimizer, the average, the
clock and the checkpoints, and asks the method for the rest. The paper's Table 2 compares these:
`Algorithm1` (DDPM is its sigma_tn = 0 case), `Masking` and `NoiseOnly`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from pareto_amb.diffusion.losses import algorithm1_loss, masked_loss
from pareto_amb.diffusion.noise import NoiseDistribution, draw_sigma
from pareto_amb.randomness import normal_per_item, uniform_per_item

FURTHER_CORRUPTION = 0.1
"""Share of the kept pixels that `Masking` hides anew from each training example."""


Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""Moves the pixels of images (B, any, H, W) about, by whole pixels where the second argument (B,) is True;
returns the images and, where the network is told, what was done (B, 9)."""


@dataclass(frozen=True)
class Batch:
    """Training examples: what the network is given, and what its answer is compared with.

    `noisy` (B, C, H, W) lies at the levels `sigma` (B,). `target` (B, C, H, W) is x_0, or x_tn where
    `nature` (B,) is True. Masks are float (B, 1, H, W), 1 where a pixel counts: the network sees the
    `shown` ones, the loss compares the `kept` ones; None stands for all of them.
    """

    noisy: Tensor
    sigma: Tensor
    target: Tensor
    nature: Tensor
    augment_labels: Tensor | None = None
    shown: Tensor | None = None
    kept: Tensor | None = None

    def part(self, rows: slice) -> "Batch":
        """The examples in `rows`."""
        given = {name: value[rows] for name, value in vars(self).items() if value is not None}
        return replace(self, **given)


class Method(Protocol):
    """What tells one training method from another: a dataclass, whose fields a checkpoint must agree with."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str:
        """The method's name in configurations and results."""

    @property
    def sigma_stop(self) -> float:
        """Sampling goes no lower than this level, and then takes E[x_0 | x] in one step."""

    @property
    def hidden(self) -> float:
        """Share of the pixels that a fixed mask hides from the network while sampling; 0: no mask."""

    def material(self, clean: Tensor, ids: Sequence[int], seed: int) -> Tensor:
        """All that training will ever see of the images: stored per image, dimension -4, never redrawn.

        `clean` is float (N, C, H, W) in [-1, 1]; the result depends on it, `ids` (N) and `seed` alone.
        """

    def draw(
        self,
        material: Tensor,
        index: Tensor,
        noise: NoiseDistribution,
        generator: torch.Generator,
        augment: Augment,
    ) -> Batch:
        """Make training examples of the images at `index` (B,).

        `augment` is called once, before noise is added.
        """

    def loss(self, denoised: Tensor, batch: Batch) -> Tensor:
        """The loss of each example, (B,), given the network's estimate of x_0."""


@dataclass(frozen=True)
class Algorithm1:
    """Algorithm 1 of the paper: clean images below sigma_tn, one fixed noisy copy of each above it.

    `mix_ratio` is the probability that an example is a noisy one. `sigma_tn` = 0 is plain EDM training
    (DDPM).
    """

    sigma_tn: float = 0.0
    mix_ratio: float = 0.0

    name = "algorithm1"
    sigma_stop = 0.0
    hidden = 0.0

    @classmethod
    def within(cls, sigma_max: float, sigma_tn: float, mix_ratio: float) -> Self:
        """The method for sampling from `sigma_max`: plain, unless `sigma_tn` has levels on both sides."""
        return cls(sigma_tn, mix_ratio) if 0 < sigma_tn < sigma_max else cls()

    def material(self, clean: Tensor, ids: Sequence[int], seed: int) -> Tensor:
        """S and S_tn: (2, N, C, H, W)."""
        return torch.stack([clean, _nature_copies(clean, ids, seed, self.sigma_tn)])

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
        return _draw_ambient(images, nature, self.sigma_tn, noise, generator, augment)

    def loss(self, denoised: Tensor, batch: Batch) -> Tensor:
        """Compare the denoised image with x_0, or its prediction of x_tn with x_tn (L7-11)."""
        return algorithm1_loss(denoised, batch.noisy, batch.target, batch.sigma, batch.nature, self.sigma_tn)


@dataclass(frozen=True)
class NoiseOnly:
    """Ambient score matching (Daras et al. 2024, "Consistent Diffusion Meets Tweedie", arXiv 2404.10177).

    The model sees S_tn only and learns levels from `sigma_tn` up, by the loss of Eq. 6. The consistency
    term with which that work also learns the levels below is left out, so sampling stops at `sigma_tn`
    and returns the posterior mean E[x_0 | x] there.
    """

    sigma_tn: float

    name = "noise_only"
    hidden = 0.0

    @property
    def sigma_stop(self) -> float:
        return self.sigma_tn

    def material(self, clean: Tensor, ids: Sequence[int], seed: int) -> Tensor:
        """S_tn: (N, C, H, W), the same noisy copies as Algorithm 1's."""
        return _nature_copies(clean, ids, seed, self.sigma_tn)

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
        return _draw_ambient(material[index], nature, self.sigma_tn, noise, generator, augment)

    def loss(self, denoised: Tensor, batch: Batch) -> Tensor:
        """Compare the prediction of x_tn with x_tn, at every level (Eq. 6)."""
        return algorithm1_loss(denoised, batch.noisy, batch.target, batch.sigma, batch.nature, self.sigma_tn)


@dataclass(frozen=True)
class Masking:
    """Ambient Diffusion (Daras et al. 2023, "Learning Clean Distributions from Corrupted Data",
    arXiv 2305.19256) with random missing pixels.

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
    sigma_stop = 0.0

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
        images, augment_labels = augment(material[index], ~nature)
        target, kept = images[:, :-1], images[:, -1:]
        stays = torch.rand(kept.shape, generator=generator, device=kept.device) >= self.further
        shown = kept * stays
        noisy = shown * _add_noise(target, torch.zeros_like(sigma), sigma, generator)
        return Batch(noisy, sigma, target, nature, augment_labels, shown, kept)

    def loss(self, denoised: Tensor, batch: Batch) -> Tensor:
        """Compare with x_0 where A keeps it."""
        assert batch.shown is not None
        assert batch.kept is not None
        return masked_loss(denoised, batch.target, batch.sigma, batch.shown, batch.kept)


def _nature_copies(clean: Tensor, ids: Sequence[int], seed: int, sigma_tn: float) -> Tensor:
    """S_tn: x_tn = x_0 + sigma_tn eps with one eps an image, a function of `seed` and its number."""
    eps = normal_per_item(seed, "S_tn", ids, tuple(clean.shape[1:])).to(clean.device)
    return torch.add(clean, eps, alpha=sigma_tn)


def _draw_ambient(
    images: Tensor,
    nature: Tensor,
    sigma_tn: float,
    noise: NoiseDistribution,
    generator: torch.Generator,
    augment: Augment,
) -> Batch:
    """Bring x_tn (where `nature`) up to levels from sigma_tn on, and x_0 to levels below it (L4-6)."""
    sigma = draw_sigma(noise, nature, sigma_tn, generator)
    target, augment_labels = augment(images, nature)
    noisy = _add_noise(target, nature * sigma_tn, sigma, generator)
    return Batch(noisy, sigma, target, nature, augment_labels)


def _add_noise(target: Tensor, start: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """Bring images from the levels `start` (B,) up to `sigma` (B,)."""
    added = (sigma**2 - start**2).sqrt().view(-1, 1, 1, 1)
    eps = torch.randn(target.shape, generator=generator, device=target.device)
    return torch.addcmul(target, added, eps)
