"""Image encoders: uint8 images in, one feature vector an image out.

A new encoder is one entry in `ENCODERS`, how its network is built from its tensors and how images are
prepared for it, and one in `weights.PUBLISHED`, where those are published. Its libraries are imported when
it is loaded.

Files are read as safetensors or with `torch.load(weights_only=True)`: reading one runs no code.
"""

import difflib
import hashlib
import io
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pareto_amb.errors import UserError
from pareto_amb.reading import expand, is_regular
from pareto_amb.weights import PUBLISHED, fetch

Preprocessing = Literal["standard", "paper"]
State = Mapping[str, Tensor]
Prepare = Callable[[Tensor], Tensor]

PATCH = 14  # side in pixels of a DINOv2 patch
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Encoder(nn.Module):
    """A network with its preparation of images.

    `fingerprint` is the sha256, in hex, of name, preprocessing and every weight: two encoders with
    the same fingerprint compute the same features. `dim` is the length of a feature vector, None
    for `pixels`, where it depends on the images.
    """

    def __init__(
        self,
        name: str,
        preprocessing: Preprocessing,
        prepare: Prepare,
        network: nn.Module,
        dim: int | None,
    ) -> None:
        super().__init__()
        self.name = name
        self.preprocessing = preprocessing
        self.prepare = prepare
        self.network = network.eval().requires_grad_(False)
        self.dim = dim
        self.fingerprint = _fingerprint(name, preprocessing, network)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, dim) of uint8 images (B, C, H, W) on the device of the weights."""
        features: Tensor = self.network(self.prepare(images))
        return features.float()

    def encode(self, images: Tensor, batch_size: int = 128, device: torch.device | str = "cpu") -> Tensor:
        """Features (N, dim), float32 on the CPU, of uint8 `images` (N, C, H, W), C = 1 or 3.

        Grey images are repeated to 3 channels (not for `pixels`). The weights are on `device` during the
        call only, so that they take no memory from a training on the same GPU.

        Raises ValueError when there are no images or they are not uint8 (N, C, H, W), UserError
        when they are too small for the encoder or a feature is not finite.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            shape = tuple(images.shape)
            raise ValueError(f"expected uint8 images (N, 1 or 3, H, W), got {images.dtype} {shape}")
        if len(images) == 0:
            raise ValueError("there are no images to encode")
        return torch.cat(list(self.encode_batches(torch.split(images, batch_size), device)))

    def encode_batches(
        self, batches: Iterable[Tensor], device: torch.device | str = "cpu"
    ) -> Iterator[Tensor]:
        """Features (B, dim), float32 on the CPU, of each batch of uint8 images (B, C, H, W).

        The weights are on `device` until the last batch is taken. Raises UserError as `encode` does.
        """
        self.to(device)
        try:
            for batch in batches:
                with torch.inference_mode():
                    encoded = self(batch.to(device)).cpu()
                if not torch.isfinite(encoded).all():
                    raise UserError(f"{self.name}: features are not finite; its weights file is not usable")
                yield encoded.clone()  # an ordinary tensor again, outside inference mode
        finally:
            self.to("cpu")


def load_encoder(
    name: str, preprocessing: Preprocessing = "standard", weights: str | Path | None = None
) -> Encoder:
    """Load an encoder by name, with its weights from `weights` or the places that `pareto_amb.weights` names.

    `paper` is the preprocessing of the paper's code and differs for DINOv2 only: the other encoders
    have a single preprocessing, and `paper` is the same as `standard`.

    Raises UserError for an unknown name or preprocessing, weights that cannot be had, or a file that does
    not fit.
    """
    entry = ENCODERS.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, ENCODERS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"unknown encoder '{name}': {hint}known are {', '.join(ENCODERS)}")
    if preprocessing not in get_args(Preprocessing):
        raise UserError(f"preprocessing '{preprocessing}': give {' or '.join(get_args(Preprocessing))}")
    prepare = entry.prepare if preprocessing == "standard" else entry.prepare_paper or entry.prepare
    if name not in PUBLISHED:
        if weights is not None:
            raise UserError(f"{weights}: the encoder {name} takes no weights")
        network, dim = entry.build({})
        return Encoder(name, preprocessing, prepare, network, dim)
    path = _find_weights(name, weights)
    try:
        network, dim = entry.build(_read_state(path))
    except (RuntimeError, KeyError) as error:  # what load_state_dict and timm's conversion raise
        raise UserError(f"{path}: not the weights of {name}: {_first_problem(error)}") from error
    return Encoder(name, preprocessing, prepare, network, dim)


def _fingerprint(name: str, preprocessing: str, network: nn.Module) -> str:
    digest = hashlib.sha256(f"{name}/{preprocessing}".encode())
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


# --- weights --------------------------------------------------------------------------------------


def _find_weights(name: str, weights: str | Path | None) -> Path:
    """The weights file of an encoder, that given or the published one. UserError where it cannot be had."""
    if weights is None:
        return fetch(name)
    path = expand(str(weights))
    if not is_regular(path):
        raise UserError(f"{path}: no such weights file (encoder {name})")
    return path


def _read_state(path: Path) -> State:
    """The named tensors of a .safetensors file or a PyTorch file, without running code from it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: cannot be read as a weights file ({reason})") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: not a weights file, which holds named tensors and nothing else")
    return dict(state)  # without the version notes that make load_state_dict stricter than needed


def _first_problem(error: Exception) -> str:
    """The first wrong tensor of a load_state_dict error."""
    text = " ".join(str(error).split())
    absent = re.search(r'(Missing|Unexpected) key\(s\) in state_dict: "([^"]+)"', text)
    if absent:
        return f"tensor '{absent[2]}' is {absent[1].lower()}"
    shape = re.search(r"size mismatch for ([^:]+):.*?(\[[^\]]*\]).*?(\[[^\]]*\])", text)
    if shape:
        return f"tensor '{shape[1]}' has shape {shape[2]}, expected {shape[3]}"
    return text[:200]


# --- DINOv2 ---------------------------------------------------------------------------------------


class _DINOv2(nn.Module):
    """The class token of a timm DINOv2, position embeddings resized as in Meta's own code.

    timm resizes them with antialiasing, which on the few patches of a small image gives other
    features than Meta's torch.hub model, the one that the paper's code uses.
    """

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D) of prepared images (B, 3, H, W), H and W multiples of 14."""
        vit: Any = self.vit
        patches = vit.patch_embed(images)  # (B, H/14, W/14, D)
        position = _resized_position(vit.pos_embed, patches.shape[1], patches.shape[2])
        class_token = vit.cls_token.expand(len(images), -1, -1)
        tokens = torch.cat([class_token, patches.flatten(1, 2)], dim=1) + position
        features: Tensor = vit.norm(vit.blocks(tokens))[:, 0]
        return features


def _resized_position(position: Tensor, height: int, width: int) -> Tensor:
    """Position embeddings (1, 1 + M*M, D) for a grid of height x width patches.

    Bicubic without antialiasing, the grid enlarged by a tenth of a patch: DINOv2's
    `interpolate_pos_encoding` with the settings of its published models.
    """
    side = int((position.shape[1] - 1) ** 0.5)
    if (height, width) == (side, side):
        return position
    grid = position[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = ((height + 0.1) / side, (width + 0.1) / side)
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
    return torch.cat([position[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def _build_dinov2(architecture: str, state: State) -> tuple[nn.Module, int]:
    """A DINOv2 from tensors in timm's or in Meta's naming; the latter has a mask token."""
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    vit: Any = timm.create_model(architecture, pretrained=False, num_classes=0, dynamic_img_size=True)
    if "mask_token" in state:
        state = checkpoint_filter_fn(dict(state), vit)
    vit.load_state_dict(state)
    return _DINOv2(vit), vit.num_features


def _prepare_dinov2(images: Tensor) -> Tensor:
    """To 224 x 224, bicubic, with ImageNet's mean and standard deviation."""
    values = _rgb(images).float() / 255
    values = F.interpolate(values, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    mean = values.new_tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    return (values - mean) / values.new_tensor(IMAGENET_STD).view(1, 3, 1, 1)


def _prepare_dinov2_paper(images: Tensor) -> Tensor:
    """Reflected outwards to a multiple of 14, values in [0, 1], as the paper's code does it.

    The padding is the same on both sides, an odd pixel going right and below.
    """
    height, width = images.shape[-2:]
    high, wide = -height % PATCH, -width % PATCH
    if (high + 1) // 2 >= height or (wide + 1) // 2 >= width:
        raise UserError(
            f"images of {height}x{width} pixels are too small to be reflected to a multiple of "
            f"{PATCH}; use the standard preprocessing"
        )
    padding = (wide // 2, wide - wide // 2, high // 2, high - high // 2)
    return F.pad(_rgb(images).float() / 255, padding, mode="reflect")


# --- the other encoders ---------------------------------------------------------------------------


class _Inception(nn.Module):
    """The 2048 pooled features of torch-fidelity's Inception-v3."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 2048) of uint8 images (B, 3, H, W); it resizes them to 299 x 299 itself."""
        features: Tensor = self.extractor(images)[0]
        return features


def _build_inception(state: State) -> tuple[nn.Module, int]:
    """torch-fidelity's FID network.

    Its constructor unpickles whatever file it is given. It gets a copy, in memory, of tensors that
    were already read safely.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    copy = io.BytesIO()
    torch.save(dict(state), copy)
    copy.seek(0)
    extractor = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=copy
    )
    return _Inception(extractor), 2048


def _build_efficientnet(state: State) -> tuple[nn.Module, int]:
    """EfficientNet-Lite0 from tensors named as in timm, or in timm's order under other names."""
    import timm

    model: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    if "conv_stem.weight" not in state:
        theirs = [(key, v) for key, v in state.items() if not key.endswith("num_batches_tracked")]
        ours = [key for key in model.state_dict() if not key.endswith("num_batches_tracked")]
        renamed = {key: value for key, (_, value) in zip(ours, theirs, strict=False)}
        state = renamed | dict(theirs[len(ours) :])
    model.load_state_dict(state)
    model.reset_classifier(0)
    return model.to(memory_format=torch.channels_last), model.num_features  # a quarter faster on CPU


def _prepare_efficientnet(images: Tensor) -> Tensor:
    """To at least 64 x 64, bilinear, values in [-1, 1]; larger sides are kept."""
    values = _rgb(images).float() / 127.5 - 1
    height, width = images.shape[-2:]
    if min(height, width) < 64:
        values = F.interpolate(values, (max(height, 64), max(width, 64)), mode="bilinear")
    return values.contiguous(memory_format=torch.channels_last)


def _build_pixels(state: State) -> tuple[nn.Module, None]:
    return nn.Flatten(), None


def _prepare_pixels(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def _rgb(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1)


# --- the registry ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncoderEntry:
    """What makes an encoder: see the module's page."""

    build: Callable[[State], tuple[nn.Module, int | None]]  # the network and its feature length
    prepare: Prepare  # uint8 (B, C, H, W) to the network's input
    prepare_paper: Prepare | None = None  # the paper's preprocessing, where it differs


def _dinov2(architecture: str) -> EncoderEntry:
    return EncoderEntry(partial(_build_dinov2, architecture), _prepare_dinov2, _prepare_dinov2_paper)


ENCODERS: dict[str, EncoderEntry] = {
    "dinov2_vits14": _dinov2("vit_small_patch14_dinov2.lvd142m"),
    "dinov2_vitb14": _dinov2("vit_base_patch14_dinov2.lvd142m"),
    "dinov2_vitl14": _dinov2("vit_large_patch14_dinov2.lvd142m"),
    "dinov2_vitg14": _dinov2("vit_giant_patch14_dinov2.lvd142m"),
    "inception_v3": EncoderEntry(_build_inception, _rgb),
    "efficientnet_lite0": EncoderEntry(_build_efficientnet, _prepare_efficientnet),
    "pixels": EncoderEntry(_build_pixels, _prepare_pixels),
}
"""The encoders that ship with pareto-amb, by name."""
