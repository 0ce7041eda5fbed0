"""A diffusers U-Net that is told a caption, as a denoiser in EDM units."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pareto_amb.config import AdaptConfig, LoraConfig
from pareto_amb.diffusion.denoiser import Conditioning, Denoiser, PixelSpace, Space
from pareto_amb.diffusion.noise import schedule_levels
from pareto_amb.diffusion.text.latents import LatentSpace
from pareto_amb.diffusion.text.parts import TextModel
from pareto_amb.pretrained import library

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The layers of a U-Net that a low-rank addition is made to: those of its attention."""

_SNAP = 1e-3
"""A level this close to a step's, in steps, is that step's."""


class TextDenoiser(Denoiser):
    """E[x_0 | x_sigma, caption] of a U-Net that predicts eps or v on a variance-preserving schedule.

    x_sigma / sqrt(1 + sigma^2) is the network's input, at the step whose sigma_vp / alpha is sigma; between
    two steps it lies between their numbers, by ln sigma. With eps predicted, D = x - sigma eps; with v,
    D = x / (1 + sigma^2) - sigma v / sqrt(1 + sigma^2), EDM's preconditioning at sigma_data = 1.

    Of the conditioning, `tokens` (B, L) are the caption's, `text` (B, L, width) what the text encoder makes
    of them, where that was worked out already; neither: the empty caption. `text_noise` (B,) is the standard
    deviation of Gaussian noise that is added to it.
    """

    levels: Tensor
    empty: Tensor

    def __init__(
        self,
        model: TextModel,
        space: Space,
        architecture: dict[str, Any],
        adapt: AdaptConfig,
        gradient_checkpointing: bool = False,
    ) -> None:
        """Of `model`'s weights, those that `adapt` names are to be trained, and all that are fresh."""
        super().__init__(space, architecture)
        self.prediction, self.model = model.prediction, model
        self.unet, self.text_encoder = model.unet.build(), model.text_encoder.build()
        _make_trainable(self.unet, adapt)
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()  # type: ignore[operator]
        device = next(self.unet.parameters()).device  # on which libraries need not make everything
        levels = schedule_levels(model.schedule.schedule)
        self.register_buffer("levels", levels.log().to(device), persistent=False)
        self.register_buffer("empty", model.tokens([""]).to(device), persistent=False)

    def forward(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Denoise `x` (B, *space.shape) at levels `sigma` (B,)."""
        level = sigma.float().view(-1, 1, 1, 1)
        shrunk = (1 + level**2).rsqrt()
        text = self.text(conditioning, len(x))
        raw = self.unet(x * shrunk, self.steps(sigma), text, return_dict=False)[0].float()
        if self.prediction == "epsilon":
            denoised: Tensor = x - level * raw
        else:
            denoised = x * shrunk**2 - level * shrunk * raw
        return denoised

    @property
    def untold(self) -> Conditioning:
        """The empty caption, also as the text encoder reads it where that is not trained."""
        if any(p.requires_grad for p in self.text_encoder.parameters()):
            return {"tokens": self.empty}
        return {"tokens": self.empty, "text": self.read(self.empty)}

    @property
    def lowest_level(self) -> float:
        """The level of the schedule's first step, EDM units."""
        return float(self.levels[0].exp())

    @property
    def highest_level(self) -> float:
        """The level of the schedule's last step, EDM units."""
        return float(self.levels[-1].exp())

    def tell(self, captions: Sequence[str]) -> Conditioning:
        """What stands for captions in a conditioning, on the CPU."""
        return {"tokens": self.model.tokens(captions)}

    def read_once(self, conditioning: Conditioning) -> Conditioning:
        """What the text encoder makes of the tokens in their place."""
        if "tokens" not in conditioning or "text" in conditioning:
            return conditioning
        rest = {name: value for name, value in conditioning.items() if name != "tokens"}
        return {**rest, "text": self.read(conditioning["tokens"])}

    def steps(self, sigma: Tensor) -> Tensor:
        """The schedule's step at each of `sigma` (B,), from 0 to T - 1, between two steps a fraction."""
        wanted = sigma.double().log()
        above = torch.searchsorted(self.levels, wanted).clamp(1, len(self.levels) - 1)
        low, high = self.levels[above - 1], self.levels[above]
        step = (above - 1 + (wanted - low) / (high - low)).clamp(0, len(self.levels) - 1)
        whole = step.round()
        snapped: Tensor = torch.where((step - whole).abs() < _SNAP, whole, step)
        return snapped.float()

    def text(self, conditioning: Conditioning, count: int) -> Tensor:
        """What the U-Net is told of `count` examples: (count, L, width)."""
        text, tokens = conditioning.get("text"), conditioning.get("tokens")
        if text is None:
            text = self.read(self.empty if tokens is None else tokens).expand(count, -1, -1)
        text, noise = text.float(), conditioning.get("text_noise")
        if noise is None:
            return text
        return torch.addcmul(text, noise.view(-1, 1, 1), torch.randn_like(text))

    def read(self, tokens: Tensor) -> Tensor:
        """What the text encoder makes of tokens (B, L): (B, L, width)."""
        text: Tensor = self.text_encoder(tokens, return_dict=False)[0]
        return text


def space_of(model: TextModel, shape: Sequence[int]) -> Space:
    """Where a model's images of `shape` (C, H, W) live.

    As the loss weighs: sigma_data is 1 for a network that predicts v, which makes the weighted error that of
    v, and infinite for one that predicts eps.
    """
    sigma_data = float("inf") if model.prediction == "epsilon" else 1.0
    channels, height, width = shape
    if model.vae is None:
        return PixelSpace((channels, height, width), sigma_data)
    return LatentSpace(model.vae, (height, width), sigma_data)


def _make_trainable(unet: nn.Module, adapt: AdaptConfig) -> None:
    if not isinstance(adapt, LoraConfig):
        unet.requires_grad_(True)
        return
    lora = library("peft").LoraConfig(
        r=adapt.rank, lora_alpha=adapt.rank, init_lora_weights="gaussian", target_modules=list(ATTENTION)
    )
    unet.add_adapter(lora)  # type: ignore[operator]
