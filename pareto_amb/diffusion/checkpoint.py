"""Checkpoints: one safetensors file that holds a whole training, or just what sampling needs of it."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from pareto_amb.diffusion.denoiser import Denoiser
from pareto_amb.diffusion.networks import create_denoiser, weight_shapes
from pareto_amb.diffusion.text.build import described_text_model
from pareto_amb.errors import UserError
from pareto_amb.printable import printable, reason
from pareto_amb.reading import read_file
from pareto_amb.untrusted import parse_json

FORMAT = "pareto-amb checkpoint 1"

MAX_BYTES = 2**35
"""No checkpoint is larger."""


def pack(header: dict[str, Any], tensors: dict[str, Tensor]) -> bytes:
    """Serialise tensors and a JSON-able header into one safetensors file."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    return save_tensors(contiguous, {"pareto_amb": json.dumps({"format": FORMAT, **header})})


def unpack(content: bytes, origin: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header and the tensors of a checkpoint; nothing in it is ever executed.

    Raises UserError, starting with `origin`, when the content is cut short or something else.
    """
    try:
        tensors = load_tensors(content)
        length = int.from_bytes(content[:8], "little")
        header = parse_json(parse_json(content[8 : 8 + length])["__metadata__"]["pareto_amb"])
        found = header["format"]
    except _CORRUPT as error:
        raise refusal(origin, f"not a pareto-amb checkpoint, or cut short ({reason(error)})") from error
    if found != FORMAT:
        raise refusal(origin, f"checkpoint format {found!r:.80}, expected '{FORMAT}'")
    return header, tensors


_CORRUPT = (SafetensorError, ValueError, KeyError, TypeError, IndexError, RuntimeError, MemoryError)


def refusal(origin: str, why: str) -> UserError:
    """Why a checkpoint cannot be used, and what to do."""
    return UserError(f"{printable(origin)}: {why}; name another, or delete it to train anew")


@dataclass(frozen=True)
class SamplingOptions:
    """What the training method asks of the sampler: `Method.sigma_stop` and `Method.hidden`."""

    sigma_stop: float
    hidden: float


def sampling_options(content: bytes, origin: str) -> SamplingOptions:
    """How the model of a checkpoint is sampled.

    Raises UserError, starting with `origin`, when the content is not a checkpoint.
    """
    asked = unpack(content, origin)[0].get("sampling", {})
    if not isinstance(asked, dict):
        raise refusal(origin, "says nothing that a sampler understands")
    sigma_stop, hidden = asked.get("sigma_stop", 0.0), asked.get("hidden", 0.0)
    if not (is_number(sigma_stop) and 0 <= sigma_stop < _HIGHEST_LEVEL):
        raise refusal(origin, f"sigma_stop {sigma_stop!r:.80} is no noise level to sample down to")
    if not (is_number(hidden) and 0 <= hidden < 1):
        raise refusal(origin, f"hidden {hidden!r:.80} is no share of the pixels")
    return SamplingOptions(float(sigma_stop), float(hidden))


_HIGHEST_LEVEL = 1e6


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under names that start with `prefix`."""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def load_denoiser(content: bytes, origin: str, device: torch.device | str = "cpu") -> Denoiser:
    """Rebuild the averaged (EMA) denoiser of a checkpoint, ready to sample from.

    Raises UserError, starting with `origin`, when the content is not a usable checkpoint.
    """
    header, tensors = unpack(content, origin)
    weights = under_prefix("model.", tensors) | under_prefix("ema.", tensors)
    denoiser = _create(header.get("architecture"), weights, origin)
    denoiser.load_state_dict(weights, strict=False)
    return denoiser.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)


def _create(architecture: Any, weights: dict[str, Tensor], origin: str) -> Denoiser:
    """The network of an `architecture` that has exactly these `weights`; UserError otherwise.

    It is built and applied once without memory before it gets some.
    """
    try:
        _check_size(architecture, len(weights))
        text_model = described_text_model(architecture)
        with torch.device("meta"), torch.no_grad():
            likeness = create_denoiser(architecture, text_model)
            images = torch.empty(1, *likeness.space.shape)
            mask = {"mask": images[:, :1]} if architecture.get("mask_channels") else {}
            likeness(images, torch.ones(1), mask)
        check_tensors(weights, likeness.stored())
        return create_denoiser(architecture, text_model)
    except UserError as error:
        raise refusal(origin, str(error)) from error
    except (*_CORRUPT, ArithmeticError, AttributeError) as error:
        raise refusal(origin, f"does not hold the network it names ({reason(error)})") from error


def _check_size(architecture: Any, n_weights: int) -> None:
    """Raise ValueError for an `architecture` that is none, or that `n_weights` tensors cannot be of."""
    if not isinstance(architecture, dict):
        raise ValueError("no architecture")
    for name, value in _entries(architecture):
        numbers = value if isinstance(value, list) else [value]
        most = n_weights if name in _COUNTS or name.endswith("layers_per_block") else _LARGEST
        if any(isinstance(each, (list, dict)) for each in numbers):
            raise ValueError(f"{name} is {value!r:.80}")
        if len(numbers) > _LONGEST or any(is_number(each) and not 0 <= each <= most for each in numbers):
            raise ValueError(f"{name} is {value!r:.80}")
    if not 1 <= architecture["resolution"] <= _MAX_RESOLUTION:
        raise ValueError(f"resolution is {architecture['resolution']!r:.80}")


def _entries(architecture: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The entries of an architecture and of the mappings in it."""
    for name, value in architecture.items():
        if isinstance(value, dict):
            yield from _entries(value)
        else:
            yield name, value


_COUNTS = {"num_blocks", "channel_mult", "num_hidden_layers"}
"""What of an architecture multiplies its layers."""

_LARGEST, _LONGEST, _MAX_RESOLUTION = 2**20, 64, 8192


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the tensors are finite and named, typed and shaped as those `expected`."""
    if found.keys() != expected.keys():
        name = min(found.keys() ^ expected.keys())
        raise ValueError(f"tensor {name:.80} is {'missing' if name in expected else 'none of its own'}")
    for name, like in expected.items():
        tensor = found[name]
        if tensor.shape != like.shape or tensor.dtype != like.dtype:
            theirs = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise ValueError(f"tensor {name} is {theirs:.80}, not {like.dtype} {tuple(like.shape)}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"tensor {name} holds NaN or infinity")


def read_initial_weights(path: str, architecture: dict[str, Any]) -> dict[str, Tensor]:
    """The averaged (EMA) weights in the checkpoint at `path`, for a network of `architecture`.

    `architecture` is a denoiser's. Nothing in the file is executed. The dropout rate may differ: it has no
    weights.

    Raises UserError when the file cannot be read, is not a checkpoint or is of another network; the
    message names the first difference.
    """
    origin = f"init_from: {path}"
    try:
        content = read_file(Path(path), MAX_BYTES)
    except UserError as error:
        raise UserError(f"init_from: {error}") from error
    header, tensors = unpack(content, origin)
    try:
        theirs, mine = weight_shapes(header["architecture"]), weight_shapes(architecture)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{printable(origin)}: names no network of this program") from error
    for key, value in mine.items():
        if theirs.get(key) != value:
            found = theirs.get(key)
            raise UserError(f"{printable(origin)}: {key} is {found!r:.80} there and {value} in this training")
    weights = under_prefix("model.", tensors) | under_prefix("ema.", tensors)
    try:
        text_model = described_text_model(architecture)
        with torch.device("meta"):
            check_tensors(weights, create_denoiser(architecture, text_model).stored())
    except ValueError as error:
        raise refusal(origin, reason(error)) from error
    return weights
