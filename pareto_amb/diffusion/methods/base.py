"""What tells one training method from another.

A method is a small frozen dataclass of its parameters, which it declares. The trainer keeps the optimizer,
the average, the clock and the checkpoints, and asks the method for the rest.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pareto_amb.declared import MethodInfo, Parameter
from pareto_amb.diffusion.denoiser import Conditioning
from pareto_amb.diffusion.noise import NoiseDistribution

Denoise = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""The denoiser in training: D (B, C, H, W), of x (B, C, H, W), sigma (B,) and what it is told."""

Augment = Callable[[Tensor, Tensor], tuple[Tensor, Conditioning]]
"""Moves the pixels of images (B, any, H, W) about, by whole pixels where the second argument (B,) is True;
returns the images and what the denoiser is told of it."""


@dataclass(frozen=True)
class Batch:
    """Training examples: what the denoiser is given, and what its answer is compared with.

    `noisy` (B, C, H, W) lies at the levels `sigma` (B,). `target` (B, C, H, W) is x_0, or x_tn where
    `nature` (B,) is True. `conditioning` is what else the denoiser is told. The loss compares the pixels
    that are 1 in `kept`, float (B, 1, H, W); None stands for all of them. `drawn` is what else `losses`
    needs, by name, row k of each tensor for example k.
    """

    noisy: Tensor
    sigma: Tensor
    target: Tensor
    nature: Tensor
    conditioning: Conditioning = field(default_factory=dict)
    kept: Tensor | None = None
    drawn: Mapping[str, Tensor] = field(default_factory=dict)

    def part(self, rows: slice) -> "Batch":
        """The examples in `rows`."""
        return Batch(
            self.noisy[rows],
            self.sigma[rows],
            self.target[rows],
            self.nature[rows],
            {name: value[rows] for name, value in self.conditioning.items()},
            None if self.kept is None else self.kept[rows],
            {name: value[rows] for name, value in self.drawn.items()},
        )

    def told(self, more: Conditioning) -> "Batch":
        """The same examples with `more` in their conditioning."""
        return replace(self, conditioning={**self.conditioning, **more})


class Method(ABC):
    """A training method: a frozen dataclass, whose fields a checkpoint must agree with.

    The class declares the method's name, label, colour (`#RRGGBB`) and parameters, what its rows hold of
    other methods' parameters, whether it may be recommended, and by name the method that is its control: one
    of no further parameters, which is trained beside the confirming trainings. The first line of its
    docstring describes it to users.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    name: ClassVar[str]
    label: ClassVar[str]
    color: ClassVar[str] = ""
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    constants: ClassVar[Mapping[str, float]] = {}
    recommended: ClassVar[bool] = True
    control: ClassVar[str] = ""
    masked: ClassVar[bool] = False
    """Whether its denoiser is told, in `mask`, which pixels it may see."""
    captioned: ClassVar[bool] = False
    """Whether it is for models that are told captions alone."""

    @classmethod
    def info(cls) -> MethodInfo:
        """The declaration without the code."""
        description = (cls.__doc__ or "").strip().partition("\n")[0]
        return MethodInfo(
            cls.name,
            cls.label,
            description,
            cls.color,
            cls.parameters,
            dict(cls.constants),
            cls.recommended,
            cls.control,
        )

    @classmethod
    def create(cls, parameters: Mapping[str, float], sigma_max: float) -> "Method":
        """The method at a trial's parameters, for a model that is sampled from `sigma_max` down."""
        return cls(**{parameter.name: parameters[parameter.name] for parameter in cls.parameters})

    @classmethod
    def resolve(cls, chosen: Mapping[str, Any], noise: NoiseDistribution) -> dict[str, float]:
        """The numbers that `chosen` stands for, where a choice may be one of its parameter's words."""
        return dict(chosen)

    @property
    def sigma_stop(self) -> float:
        """Sampling goes no lower than this level, and then takes E[x_0 | x] in one step."""
        return 0.0

    @property
    def hidden(self) -> float:
        """Share of the pixels that a fixed mask hides from the denoiser while sampling; 0: no mask."""
        return 0.0

    @abstractmethod
    def material(self, clean: Tensor, ids: Sequence[int], seed: int) -> Tensor:
        """All that training will ever see of the images: stored per image, dimension -4, never redrawn.

        `clean` is float (N, C, H, W), the images in the denoiser's space. What is stored of an image depends
        on it, its number in `ids` (N) and `seed` alone: of a large set it is made for each batch anew.
        """

    @abstractmethod
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

    def tell(self, told: Conditioning, untold: Conditioning, generator: torch.Generator) -> Conditioning:
        """What the denoiser is told of the images of a batch, of which `told` is known.

        `untold` is a `Denoiser`'s. Called once a batch, after `draw`.
        """
        return told

    @abstractmethod
    def loss(self, denoised: Tensor, batch: Batch, sigma_data: float) -> Tensor:
        """The loss of each example, (B,), given the estimate of x_0 and the `sigma_data` of its space."""

    def first_memory(self) -> dict[str, Tensor]:
        """What `losses` keeps from step to step, by name, before the first one; on the CPU.

        The trainer stores it with the model, and averages it over the processes of a training.
        """
        return {}

    def losses(
        self, denoise: Denoise, batch: Batch, sigma_data: float, memory: Mapping[str, Tensor]
    ) -> Tensor:
        """`loss` of each example, (B,), where D is needed at further points or steps are to be remembered.

        All that is random here was drawn by `draw` and `tell`, for the whole batch, of which this may be a
        part. What is in `memory` is changed in place.
        """
        return self.loss(denoise(batch.noisy, batch.sigma, batch.conditioning), batch, sigma_data)
