"""The seam between a model and all that trains it, stores it and samples from it.

Trainer, checkpoints, samplers and probes know a `Denoiser` and the `Space` its images live in, and nothing of
the network behind it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pareto_amb.data.subsets import Encoded

Conditioning = Mapping[str, Tensor]
"""What a denoiser is told beside x and sigma, by name; row k of every tensor belongs to example k."""


class Space(Protocol):
    """Where images are noised and denoised."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image there: (C, H, W)."""

    @property
    def sigma_data(self) -> float:
        """The standard deviation of images there, as preconditioning and loss weight take it to be."""

    def encode(self, images: Tensor) -> Encoded:
        """Bring images, uint8 (N, any, any, any), into the space, on their device."""

    def decode(self, x: Tensor) -> Tensor:
        """Bring x (N, *shape) back to images, uint8."""


@dataclass(frozen=True)
class PixelSpace:
    """The pixels themselves, in [-1, 1]."""

    shape: tuple[int, int, int]
    sigma_data: float = 0.5

    def encode(self, images: Tensor) -> Encoded:
        """Map uint8 to float32 in [-1, 1], the inverse of `decode`."""
        return Encoded(images.float() / 127.5 - 1)

    def decode(self, x: Tensor) -> Tensor:
        """Map [-1, 1] to uint8, rounding to the nearest level and clipping the rest."""
        return (x.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


class Denoiser(nn.Module, ABC):
    """E[x_0 | x_sigma], x_sigma = x_0 + sigma * eps (EDM units), for images in `space`.

    `architecture` is what `networks.create_network` builds the same denoiser from, as JSON has it; a
    checkpoint stores it, so that the denoiser can be rebuilt without the configuration of the run.
    """

    def __init__(self, space: Space, architecture: dict[str, Any]) -> None:
        super().__init__()
        self.space = space
        self.architecture = architecture

    @property
    def untold(self) -> Conditioning:
        """What an example is told of which nothing is said: (1, ...) each, of what may be said of one."""
        return {}

    def tell(self, captions: Sequence[str]) -> Conditioning:
        """What stands for captions in a conditioning, on the CPU; ValueError where it reads none."""
        raise ValueError("this denoiser is told no captions")

    def read_once(self, conditioning: Conditioning) -> Conditioning:
        """The same with all worked out that does not depend on x and sigma, for many evaluations."""
        return conditioning

    def stored(self) -> dict[str, Tensor]:
        """The state that a checkpoint holds: all but the parameters that are not trained."""
        frozen = {name for name, p in self.named_parameters() if not p.requires_grad}
        return {name: value for name, value in self.state_dict().items() if name not in frozen}

    @abstractmethod
    def forward(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Denoise `x` (B, *space.shape) at levels `sigma` (B,); the result has the shape of `x`.

        What of `conditioning` is missing counts as not told.
        """
