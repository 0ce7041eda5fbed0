"""The U-Nets of the paper's experiments (KAAL22 Table 7) and a small one of the same family for CPUs.

One `UNet` covers all of them: DDPM++ (`ddpmpp`), NCSN++ (`ncsnpp`), ADM (`adm`) and `tiny` differ in the
numbers of `Architecture`, not in code.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Literal, get_type_hints

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from pareto_amb.config import TEXT_NETWORKS, TrainingConfig, nearest
from pareto_amb.diffusion.augment import AUGMENT_DIM
from pareto_amb.diffusion.denoiser import Denoiser, PixelSpace
from pareto_amb.diffusion.methods.base import Method
from pareto_amb.diffusion.precondition import EDMDenoiser
from pareto_amb.diffusion.text.build import build_text_denoiser, check_options, create_text_denoiser
from pareto_amb.diffusion.text.parts import TextModel
from pareto_amb.errors import UserError
from pareto_amb.printable import reason

MAX_PARAMETERS = 10**10


@dataclass(frozen=True)
class Architecture:
    """What tells one network of the family from another."""

    model_channels: Annotated[int, Field(ge=1, le=4096)]
    channel_mult: Annotated[
        tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=12)
    ]
    num_blocks: Annotated[int, Field(ge=1, le=64)]
    attn_resolutions: Annotated[tuple[Annotated[int, Field(ge=1, le=8192)], ...], Field(max_length=12)] = ()
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    embedding: Literal["positional", "positional_open", "fourier"] = "positional"
    embedding_channels_mult: Annotated[int, Field(ge=1, le=64)] = 1
    filter_taps: Annotated[
        tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(min_length=2, max_length=16)
    ] = (
        1,
        1,
    )
    residual_encoder: bool = False
    adaptive_scale: bool = False
    channels_per_head: Annotated[int, Field(ge=0, le=4096)] = 0
    skip_scale: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = math.sqrt(0.5)
    attention_everywhere: bool = False


ARCHITECTURES: dict[str, Architecture] = {
    "tiny": Architecture(model_channels=24, channel_mult=(1, 2), num_blocks=1),
    "ddpmpp": Architecture(
        model_channels=128,
        channel_mult=(2, 2, 2),
        num_blocks=4,
        attn_resolutions=(16,),
        dropout=0.10,
    ),
    "ncsnpp": Architecture(
        model_channels=128,
        channel_mult=(1, 2, 2, 2),
        num_blocks=4,
        attn_resolutions=(16,),
        dropout=0.10,
        embedding="fourier",
        embedding_channels_mult=2,
        filter_taps=(1, 3, 3, 1),
        residual_encoder=True,
    ),
    "adm": Architecture(
        model_channels=192,
        channel_mult=(1, 2, 3, 4),
        num_blocks=3,
        attn_resolutions=(32, 16, 8),
        dropout=0.10,
        embedding="positional_open",
        adaptive_scale=True,
        channels_per_head=64,
        skip_scale=1.0,
        attention_everywhere=True,
    ),
}


def build_denoiser(
    config: TrainingConfig,
    image_shape: tuple[int, int, int],
    label_dim: int,
    method: type[Method],
    text_model: TextModel | None = None,
) -> Denoiser:
    """The denoiser that `method` trains on images of `image_shape` (C, H, W), as before its first step.

    `label_dim` is the number of classes it is told of; 0: none. One that is told captions is made of
    `text_model`. Raises what `create_network` raises.
    """
    if text_model is not None:
        if method.masked:
            raise UserError(
                f"method {method.name} hides pixels, of which network '{config.network.name}' is not told; "
                "take it out of search.methods"
            )
        return build_text_denoiser(config, image_shape, text_model)
    if method.captioned:
        raise UserError(
            f"method {method.name} is for models that are told captions: take it out of search.methods, or "
            "set data.captions, and training.network.name to captioned or pipeline"
        )
    channels, resolution = image_shape[0], image_shape[-1]
    return create_network(
        config.network.name,
        resolution,
        channels,
        label_dim,
        AUGMENT_DIM if config.augment_probability else 0,
        mask_channels=1 if method.masked else 0,
        **config.network.options,
    )


def create_denoiser(architecture: Mapping[str, Any], text_model: TextModel | None) -> Denoiser:
    """The denoiser that a checkpoint describes, as before its first step.

    `text_model` is its `described_text_model`. Raises UserError, KeyError, TypeError or ValueError where
    `architecture` is none.
    """
    if text_model is not None:
        return create_text_denoiser(architecture, text_model)
    return create_network(**architecture)


def create_network(
    name: str,
    resolution: int,
    channels: int,
    label_dim: int = 0,
    augment_dim: int = 0,
    mask_channels: int = 0,
    **overrides: Any,
) -> EDMDenoiser:
    """Return an EDM-preconditioned denoiser of pixels.

    `name` is one of ARCHITECTURES; `overrides` replace fields of its `Architecture`, e.g. `dropout=0.05`.
    Weights are drawn from torch's global generator: seed it, or fork it, around the call.

    Raises UserError for an unknown name or field, a value that the field does not allow, or a resolution
    that cannot be halved often enough.
    """
    overrides = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
    architecture = resolve_architecture(name, overrides)
    _check_halvings(name, architecture, resolution)
    described = {
        "name": name,
        "resolution": resolution,
        "channels": channels,
        "label_dim": label_dim,
        "augment_dim": augment_dim,
        "mask_channels": mask_channels,
        **overrides,
    }
    network = UNet(architecture, resolution, channels, label_dim, augment_dim, mask_channels)
    return EDMDenoiser(network, PixelSpace((channels, resolution, resolution)), described)


def resolve_architecture(name: str, overrides: Mapping[str, Any]) -> Architecture:
    """A named architecture with some of its fields replaced.

    Raises UserError for an unknown name or field, or a value that is not what the field declares.
    """
    if name not in ARCHITECTURES:
        raise UserError(f"unknown network '{name}': choose one of {', '.join(ARCHITECTURES)}")
    declared = get_type_hints(Architecture, include_extras=True)
    values: dict[str, Any] = {}
    for field, value in overrides.items():
        if field not in declared:
            raise UserError(f"network '{name}' has no option '{field}': {nearest(field, declared)}")
        given = tuple(value) if isinstance(value, list) else value
        try:
            values[field] = TypeAdapter(declared[field]).validate_python(given, strict=True)
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise UserError(f"network '{name}', option {field}: {message} (got {value!r:.80})") from error
    return replace(ARCHITECTURES[name], **values)


def _check_halvings(name: str, architecture: Architecture, resolution: int) -> None:
    halvings = len(architecture.channel_mult) - 1
    if resolution % 2**halvings:
        raise UserError(
            f"network '{name}' halves the image {halvings} times: resolution {resolution} must be "
            f"divisible by {2**halvings}"
        )


@lru_cache(maxsize=64)
def check_buildable(name: str, options: str, resolution: int, channels: int) -> None:
    """Raise UserError where a network with these `options`, as JSON, cannot be applied to such images.

    It is built and applied without memory for its weights, unless the dropout rate alone is changed.
    """
    overrides = json.loads(options)
    if name in TEXT_NETWORKS:
        check_options(name, overrides)
        return
    _check_halvings(name, resolve_architecture(name, overrides), resolution)
    if not set(overrides) - {"dropout"}:
        return
    try:
        with torch.device("meta"), torch.no_grad():
            denoiser = create_network(name, resolution, channels, **overrides)
            denoiser(torch.empty(1, channels, resolution, resolution), torch.ones(1), {})
        parameters = sum(parameter.numel() for parameter in denoiser.parameters())
        if parameters > MAX_PARAMETERS:
            raise ValueError(f"{parameters:,} parameters, more than {MAX_PARAMETERS:,}")
    except (RuntimeError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"network '{name}' cannot be built with options {options:.200} ({reason(error)})"
        ) from error


def weight_shapes(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of a denoiser's `architecture` that decides the shapes of its weights, defaults included.

    Raises KeyError or TypeError for what is no architecture. The dropout rate is left out: it has no weights.
    """
    fields = dict(architecture)
    if fields.get("name") in TEXT_NETWORKS:
        return fields
    named = ("name", "resolution", "channels", "label_dim", "augment_dim", "mask_channels")
    shape = {key: fields.pop(key) for key in named}
    overrides: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    resolved = asdict(replace(ARCHITECTURES[shape["name"]], **overrides))
    resolved.pop("dropout")
    return {**shape, **resolved}


ATTENTION_GAIN = math.sqrt(0.2)
CLOSING_GAIN = 1e-5


@torch.no_grad()
def _initialise(network: "UNet", a: Architecture) -> None:
    """Draw the first weights as the published networks do.

    DDPM++ and NCSN++: Xavier uniform, zero biases, attention's queries, keys and values by ATTENTION_GAIN
    and what closes a residual branch, or the network, by CLOSING_GAIN. ADM: Kaiming uniform, as PyTorch
    does, class embedding of unit variance, what closes a branch and the augmentation embedding zero.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    attentions = [module for module in network.modules() if isinstance(module, Attention)]
    closing: list[nn.Conv2d | nn.Linear] = [block.conv1 for block in blocks]
    closing += [*(module.out for module in attentions), network.out]
    if not a.adaptive_scale:
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        for module in attentions:
            module.qkv.weight *= ATTENTION_GAIN
        for layer in closing:
            layer.weight *= CLOSING_GAIN
        return
    if network.labels is not None:
        nn.init.normal_(network.labels.weight)
    for layer in [*closing, *([network.augment] if network.augment is not None else [])]:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


def _norm(channels: int, eps: float) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, max(channels // 4, 1)), channels, eps=eps)


class Resample(nn.Module):
    """Halve or double the resolution with a separable low-pass filter, `taps` normalised to sum 1.

    `padded`: the image has the filter's border already.
    """

    kernel: Tensor

    def __init__(self, taps: tuple[int, ...], up: bool, padded: bool = False) -> None:
        super().__init__()
        kernel = torch.tensor(taps, dtype=torch.float32)
        kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
        self.register_buffer("kernel", kernel * (4 if up else 1), persistent=False)
        self.box = tuple(taps) == (1, 1)
        self.pad = 0 if padded else _border(taps)
        self.up = up

    def forward(self, x: Tensor) -> Tensor:
        if self.box:
            return F.interpolate(x, scale_factor=2) if self.up else F.avg_pool2d(x, 2)
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        resample = F.conv_transpose2d if self.up else F.conv2d
        return resample(x, kernel, stride=2, padding=self.pad, groups=channels)


def _border(taps: tuple[int, ...]) -> int:
    """Pixels that a filter of `taps` reaches beyond the image on each side."""
    return (len(taps) - 2) // 2


class Attention(nn.Module):
    """Self-attention over the pixels, with a residual connection."""

    def __init__(self, channels: int, heads: int, eps: float, skip_scale: float) -> None:
        super().__init__()
        self.heads, self.skip_scale = heads, skip_scale
        self.norm = _norm(channels, eps)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).view(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(b, c, h, w)
        return torch.add(x, self.out(mixed)) * self.skip_scale


class Block(nn.Module):
    """Residual block: norm, convolution, noise embedding, norm, dropout, convolution; then attention."""

    def __init__(
        self,
        a: Architecture,
        c_in: int,
        c_out: int,
        emb_channels: int,
        *,
        resample: Literal["up", "down"] | None = None,
        attention: bool = False,
    ) -> None:
        super().__init__()
        eps = 1e-5 if a.adaptive_scale else 1e-6
        self.adaptive_scale, self.skip_scale = a.adaptive_scale, a.skip_scale
        self.norm0 = _norm(c_in, eps)
        self.resample = Resample(a.filter_taps, resample == "up") if resample else nn.Identity()
        self.conv0 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.affine = nn.Linear(emb_channels, c_out * (2 if a.adaptive_scale else 1))
        self.norm1 = _norm(c_out, eps)
        self.dropout = nn.Dropout(a.dropout)
        self.conv1 = nn.Conv2d(c_out, c_out, 3, padding=1)
        project = c_in != c_out or (resample is not None and not a.adaptive_scale)
        self.skip = nn.Conv2d(c_in, c_out, 1) if project else nn.Identity()
        heads = c_out // a.channels_per_head if a.channels_per_head else 1
        self.attention = Attention(c_out, heads, eps, a.skip_scale) if attention else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        y = self.conv0(self.resample(F.silu(self.norm0(x))))
        shift = self.affine(emb)[:, :, None, None]
        if self.adaptive_scale:
            scale, shift = shift.chunk(2, dim=1)
            y = F.silu(torch.addcmul(shift, self.norm1(y), scale + 1))
        else:
            y = F.silu(self.norm1(y + shift))
        y = self.conv1(self.dropout(y))
        y = (y + self.skip(self.resample(x))) * self.skip_scale
        return self.attention(y)  # type: ignore[no-any-return]


class NoiseEmbedding(nn.Module):
    """Sinusoidal features of c_noise, at random frequencies (`fourier`) or at geometric ones.

    These fall from 1 to 1/10,000, that being the last (`positional`) or the one after (`positional_open`).
    """

    frequencies: Tensor

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        half = channels // 2
        if kind == "fourier":
            frequencies = torch.randn(half) * 16 * 2 * math.pi
        else:
            steps = half if kind == "positional_open" else max(half - 1, 1)
            frequencies = 10000 ** (-torch.arange(half) / steps)
        self.register_buffer("frequencies", frequencies)

    def forward(self, c_noise: Tensor) -> Tensor:
        angles = torch.outer(c_noise, self.frequencies)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class UNet(nn.Module):
    """The raw network F(c_in x, c_noise, labels, augment_labels) -> (B, C, H, W).

    With `mask_channels` the input holds as many channels more than the output.
    """

    def __init__(
        self,
        a: Architecture,
        resolution: int,
        channels: int,
        label_dim: int,
        augment_dim: int,
        mask_channels: int = 0,
    ) -> None:
        super().__init__()
        emb_channels = self._add_embedding(a, label_dim, augment_dim)
        self.skip_scale = a.skip_scale

        widths = [a.model_channels * mult for mult in a.channel_mult]
        attends = [resolution >> level in a.attn_resolutions for level in range(len(widths))]
        c_image = channels + mask_channels
        self.stem = nn.Conv2d(c_image, widths[0] if a.adaptive_scale else a.model_channels, 3, padding=1)
        c, skips = self.stem.out_channels, [self.stem.out_channels]

        self.encoder = nn.ModuleList()
        self.residuals = nn.ModuleDict()
        for level, width in enumerate(widths):
            if level > 0:
                self.encoder.append(Block(a, c, c, emb_channels, resample="down"))
                skips.append(c)
                if a.residual_encoder:
                    self.residuals[str(len(self.encoder) - 1)] = nn.Sequential(
                        nn.Conv2d(c_image, c, 3, padding=1 + _border(a.filter_taps)),
                        Resample(a.filter_taps, up=False, padded=True),
                    )
                    c_image = c
            for _ in range(a.num_blocks):
                self.encoder.append(Block(a, c, width, emb_channels, attention=attends[level]))
                c = width
                skips.append(c)

        self.middle = nn.ModuleList(
            [Block(a, c, c, emb_channels, attention=True), Block(a, c, c, emb_channels)]
        )
        self.decoder = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            if level < len(widths) - 1:
                self.decoder.append(Block(a, c, c, emb_channels, resample="up"))
            for index in range(a.num_blocks + 1):
                attention = attends[level] and (a.attention_everywhere or index == a.num_blocks)
                self.decoder.append(Block(a, c + skips.pop(), width, emb_channels, attention=attention))
                c = width
        self.out_norm = _norm(c, 1e-5 if a.adaptive_scale else 1e-6)
        self.out = nn.Conv2d(c, channels, 3, padding=1)
        _initialise(self, a)

    def _add_embedding(self, a: Architecture, label_dim: int, augment_dim: int) -> int:
        """Add the layers that embed noise level, class and augmentation; return the embedding's channels."""
        noise_channels = a.model_channels * a.embedding_channels_mult
        emb_channels = a.model_channels * 4
        self.noise_embedding = NoiseEmbedding(a.embedding, noise_channels)
        # ADM adds the class to the finished embedding, the others to the noise features.
        self.late_labels = a.adaptive_scale
        label_channels = emb_channels if self.late_labels else noise_channels
        self.label_scale = 1.0 if self.late_labels else math.sqrt(label_dim)
        self.labels = nn.Linear(label_dim, label_channels, bias=not self.late_labels) if label_dim else None
        self.augment = nn.Linear(augment_dim, noise_channels, bias=False) if augment_dim else None
        self.emb0 = nn.Linear(noise_channels, emb_channels)
        self.emb1 = nn.Linear(emb_channels, emb_channels)
        return emb_channels

    def embed(self, c_noise: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """The embedding of noise level, class and augmentation that every block sees: (B, emb)."""
        emb = self.noise_embedding(c_noise)
        if self.labels is not None and labels is not None and not self.late_labels:
            emb = emb + self.labels(labels * self.label_scale)
        if self.augment is not None and augment_labels is not None:
            emb = emb + self.augment(augment_labels)
        emb = self.emb1(F.silu(self.emb0(emb)))
        if self.labels is not None and labels is not None and self.late_labels:
            emb = emb + self.labels(labels)
        return F.silu(emb)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        emb = self.embed(c_noise, labels, augment_labels)
        image = x
        x = self.stem(x)
        skips = [x]
        for index, block in enumerate(self.encoder):
            x = block(x, emb)
            if str(index) in self.residuals:
                image = self.residuals[str(index)](image)
                image = x = (x + image) * self.skip_scale
            skips.append(x)
        for block in self.middle:
            x = block(x, emb)
        for block in self.decoder:
            if isinstance(block.resample, nn.Identity):
                x = torch.cat([x, skips.pop()], dim=1)
            x = block(x, emb)
        return self.out(F.silu(self.out_norm(x)))  # type: ignore[no-any-return]
