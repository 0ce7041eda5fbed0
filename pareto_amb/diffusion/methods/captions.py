"""Mitigations of copying that change what a text-to-image model is told in training, or what it is shown.

Each comes alone, beside DDPM; with the noisy copies of Algorithm 1; and with clean images at its noise
levels, the control of the latter. Images are always sampled by their captions as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pareto_amb.declared import Parameter
from pareto_amb.diffusion.denoiser import Conditioning
from pareto_amb.diffusion.methods.algorithm1 import MIX_RATIO, SIGMA_TN, Algorithm1
from pareto_amb.diffusion.methods.base import Batch, Denoise
from pareto_amb.diffusion.methods.control import Control
from pareto_amb.diffusion.noise import NoiseDistribution

TEXT_NOISE = Parameter(
    "text_noise",
    label="text noise",
    description="standard deviation of the Gaussian noise that is added to the text embeddings in training",
    limits=(0.0, 1000.0),
    default=[0.1],
    unit="of noise on the text",
    plain="text noise",
)
CAPTION_REPLACEMENT = Parameter(
    "caption_replacement",
    label="caption replacement",
    description="share of the examples whose caption is replaced by words of others",
    kind="share",
    default=[0.1],
    unit="of the captions replaced",
    plain="caption replacement",
)
TOKEN_REPLACEMENT = Parameter(
    "token_replacement",
    label="token replacement",
    description="share of a caption's tokens that are replaced by those of others",
    kind="share",
    default=[0.1],
    unit="of the tokens replaced",
    plain="token replacement",
)
SKIP_SHARE = Parameter(
    "skip_share",
    label="skipped share",
    description="examples are skipped whose caption moves the predicted noise more than it does in such a "
    "share of the first examples",
    kind="share",
    default=[0.05],
    unit="of the first examples would have been skipped",
    plain="skipped share",
)


class _Captioned(Algorithm1):
    """Algorithm 1 or, without sigma_tn among its parameters, DDPM, with a mitigation of one parameter."""

    control = ""
    recommended = False
    captioned = True

    @classmethod
    def create(cls, parameters: Mapping[str, float], sigma_max: float) -> Algorithm1:
        """The method at a trial's parameters; DDPM where it has no sigma_tn with levels on both sides."""
        (own,) = (p.name for p in cls.parameters if p not in (SIGMA_TN, MIX_RATIO))
        sigma_tn = parameters.get("sigma_tn", 0.0)
        sides = (sigma_tn, parameters["mix_ratio"]) if 0 < sigma_tn < sigma_max else ()
        return cls(*sides, **{own: parameters[own]})

    @classmethod
    def resolve(cls, chosen: Mapping[str, Any], noise: NoiseDistribution) -> dict[str, float]:
        """The mix ratio `natural`, where there is one."""
        return super().resolve(chosen, noise) if "mix_ratio" in chosen else dict(chosen)


@dataclass(frozen=True)
class S23(_Captioned):
    """DDPM with Gaussian noise on the text embeddings (Somepalli et al. 2023)."""

    text_noise: float = 0.0

    name = "s23"
    label = "S23"
    color = "#332288"
    parameters: ClassVar[tuple[Parameter, ...]] = (TEXT_NOISE,)

    def tell(self, told: Conditioning, untold: Conditioning, generator: torch.Generator) -> Conditioning:
        """Ask the denoiser for the noise, which it draws as it draws dropout."""
        if not self.text_noise:
            return told
        tokens = told["tokens"]
        return {**told, "text_noise": torch.full((len(tokens),), self.text_noise, device=tokens.device)}


class S23Algorithm1(S23):
    """Algorithm 1 with Gaussian noise on the text embeddings (Somepalli et al. 2023)."""

    name = "s23_algorithm1"
    label = "S23 with Algorithm 1"
    color = "#8C6BB1"
    parameters = (SIGMA_TN, MIX_RATIO, TEXT_NOISE)
    recommended = True
    control = "s23_control"


@dataclass(frozen=True)
class S23Control(Control, S23):
    """The control of Algorithm 1 with Gaussian noise on the text embeddings."""

    name = "s23_control"
    label = "S23, control (clean images)"
    parameters = (SIGMA_TN, MIX_RATIO, TEXT_NOISE)


@dataclass(frozen=True)
class S23Captions(_Captioned):
    """DDPM with some captions replaced by random words (Somepalli et al. 2023).

    The words are drawn from the captions of the batch.
    """

    caption_replacement: float = 0.0

    name = "s23_captions"
    label = "S23, captions replaced"
    color = "#AA4499"
    parameters: ClassVar[tuple[Parameter, ...]] = (CAPTION_REPLACEMENT,)

    def tell(self, told: Conditioning, untold: Conditioning, generator: torch.Generator) -> Conditioning:
        """Replace all words of some captions."""
        if not self.caption_replacement:
            return told
        tokens = told["tokens"]
        draws = torch.rand(len(tokens), 1, generator=generator, device=tokens.device)
        return replace_tokens(told, untold, draws < self.caption_replacement, generator)


class S23CaptionsAlgorithm1(S23Captions):
    """Algorithm 1 with some captions replaced by random words (Somepalli et al. 2023)."""

    name = "s23_captions_algorithm1"
    label = "S23, captions replaced, with Algorithm 1"
    color = "#661100"
    parameters = (SIGMA_TN, MIX_RATIO, CAPTION_REPLACEMENT)
    recommended = True
    control = "s23_captions_control"


@dataclass(frozen=True)
class S23CaptionsControl(Control, S23Captions):
    """The control of Algorithm 1 with some captions replaced by random words."""

    name = "s23_captions_control"
    label = "S23, captions replaced, control (clean images)"
    parameters = (SIGMA_TN, MIX_RATIO, CAPTION_REPLACEMENT)


@dataclass(frozen=True)
class S23Tokens(_Captioned):
    """DDPM with some tokens of each caption replaced by random ones (Somepalli et al. 2023).

    They are drawn from the captions of the batch.
    """

    token_replacement: float = 0.0

    name = "s23_tokens"
    label = "S23, tokens replaced"
    color = "#DDCC77"
    parameters: ClassVar[tuple[Parameter, ...]] = (TOKEN_REPLACEMENT,)

    def tell(self, told: Conditioning, untold: Conditioning, generator: torch.Generator) -> Conditioning:
        """Replace some words of each caption."""
        if not self.token_replacement:
            return told
        tokens = told["tokens"]
        draws = torch.rand(tokens.shape, generator=generator, device=tokens.device)
        return replace_tokens(told, untold, draws < self.token_replacement, generator)


class S23TokensAlgorithm1(S23Tokens):
    """Algorithm 1 with some tokens of each caption replaced by random ones (Somepalli et al. 2023)."""

    name = "s23_tokens_algorithm1"
    label = "S23, tokens replaced, with Algorithm 1"
    color = "#6699CC"
    parameters = (SIGMA_TN, MIX_RATIO, TOKEN_REPLACEMENT)
    recommended = True
    control = "s23_tokens_control"


@dataclass(frozen=True)
class S23TokensControl(Control, S23Tokens):
    """The control of Algorithm 1 with some tokens of each caption replaced."""

    name = "s23_tokens_control"
    label = "S23, tokens replaced, control (clean images)"
    parameters = (SIGMA_TN, MIX_RATIO, TOKEN_REPLACEMENT)


def replace_tokens(
    told: Conditioning, untold: Conditioning, where: Tensor, generator: torch.Generator
) -> Conditioning:
    """Captions whose words are replaced, `where` (B, L) or (B, 1), by words of all captions of the batch.

    What an empty caption is made of, such as its end, is no word. What was worked out of the captions before
    is no longer told.
    """
    tokens = told["tokens"]
    words = ~torch.isin(tokens, untold["tokens"])
    known = tokens[words]
    if not len(known):
        return told
    drawn = torch.randint(len(known), tokens.shape, generator=generator, device=tokens.device)
    others = {name: value for name, value in told.items() if name not in ("tokens", "text")}
    return {**others, "tokens": torch.where(words & where, known[drawn], tokens)}


OBSERVED_STEPS = 500
"""For so many steps nothing is skipped: they show how far captions move the predicted noise."""

_BINS, _LOWEST, _HIGHEST = 400, -8.0, 2.0
"""Of the histogram of magnitudes, and its ends, in powers of ten."""


@dataclass(frozen=True)
class W24(_Captioned):
    """DDPM that skips examples whose caption moves the predicted noise too far (Wen et al. 2024).

    That is the root mean square, over the values of an image, of eps(x, caption) - eps(x, nothing), which is
    large where a prompt is memorized. Its limit is what a share `skip_share` of the examples exceeds in the
    first OBSERVED_STEPS steps, in which none is skipped.
    """

    skip_share: float = 0.0

    name = "w24"
    label = "W24"
    color = "#B22222"
    parameters: ClassVar[tuple[Parameter, ...]] = (SKIP_SHARE,)

    def first_memory(self) -> dict[str, Tensor]:
        """The steps that were seen, and a histogram of the magnitudes in the first ones."""
        return {"steps": torch.zeros(()), "magnitudes": torch.zeros(_BINS)} if self.skip_share else {}

    def losses(
        self, denoise: Denoise, batch: Batch, sigma_data: float, memory: Mapping[str, Tensor]
    ) -> Tensor:
        """The losses of the examples, 0 of those that are skipped."""
        if not self.skip_share:
            return super().losses(denoise, batch, sigma_data, memory)
        denoised = denoise(batch.noisy, batch.sigma, batch.conditioning)
        with torch.no_grad():
            untold = denoise(batch.noisy, batch.sigma, {})
            level = batch.sigma.view(-1, 1, 1, 1)
            magnitude = ((denoised - untold) / level).square().flatten(1).mean(1).sqrt()
            kept = (magnitude <= self._limit(memory)).float()
            _observe(memory, magnitude)
        return self.loss(denoised, batch, sigma_data) * kept

    def _limit(self, memory: Mapping[str, Tensor]) -> Tensor:
        """The magnitude above which an example is skipped; infinite as long as there is none."""
        seen = memory["magnitudes"]
        above = seen.flip(0).cumsum(0).flip(0) / seen.sum().clamp(min=1e-30)
        first = (above <= self.skip_share).float().argmax()  # a bin at whose lower end few enough lie above
        limit = 10 ** (_LOWEST + (_HIGHEST - _LOWEST) * first / _BINS)
        return torch.where(memory["steps"] >= OBSERVED_STEPS, limit, torch.inf)


def _observe(memory: Mapping[str, Tensor], magnitude: Tensor) -> None:
    """Add the magnitudes (B,) of a step, one of the first, to the histogram."""
    place = (magnitude.clamp(min=1e-30).log10() - _LOWEST) / (_HIGHEST - _LOWEST) * _BINS
    early = (memory["steps"] < OBSERVED_STEPS).float()
    memory["magnitudes"].index_add_(0, place.long().clamp(0, _BINS - 1), early.expand(len(magnitude)))
    memory["steps"].add_(1)


class W24Algorithm1(W24):
    """Algorithm 1 that skips examples whose caption moves the predicted noise too far (Wen et al. 2024)."""

    name = "w24_algorithm1"
    label = "W24 with Algorithm 1"
    color = "#117733"
    parameters = (SIGMA_TN, MIX_RATIO, SKIP_SHARE)
    recommended = True
    control = "w24_control"


@dataclass(frozen=True)
class W24Control(Control, W24):
    """The control of Algorithm 1 that skips examples whose caption moves the predicted noise too far."""

    name = "w24_control"
    label = "W24, control (clean images)"
    parameters = (SIGMA_TN, MIX_RATIO, SKIP_SHARE)
