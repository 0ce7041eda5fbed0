"""Checkpoints: one safetensors file that holds a whole training, or just what sampling needs of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from pareto_amb.diffusion.denoiser import Denoiser
from pareto_amb.diffusion.networks import create_network, weight_shapes
from pareto_amb.errors import UserError

FORMAT = "pareto-amb checkpoint 1"


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
        header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["pareto_amb"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{origin}: not a pareto-amb checkpoint, or cut short ({reason})") from error
    if header.get("format") != FORMAT:
        raise UserError(f"{origin}: checkpoint format {header.get('format')!r}, expected '{FORMAT}'")
    return header, tensors


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
    return SamplingOptions(float(asked.get("sigma_stop", 0.0)), float(asked.get("hidden", 0.0)))


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
    try:
        denoiser = create_network(**header["architecture"])
        weights = under_prefix("model.", tensors) | under_prefix("ema.", tensors)
        denoiser.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{origin}: does not hold the network it names ({reason})") from error
    return denoiser.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)


def read_initial_weights(path: str, architecture: dict[str, Any]) -> dict[str, Tensor]:
    """The averaged (EMA) weights in the checkpoint at `path`, for a network of `architecture`.

    `architecture` is a denoiser's. Nothing in the file is executed. The dropout rate may differ: it has no
    weights.

    Raises UserError when the file cannot be read, is not a checkpoint or is of another network; the
    message names the first difference.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"init_from: {path}: cannot be read ({error.strerror or error})") from error
    header, tensors = unpack(content, f"init_from: {path}")
    try:
        theirs, mine = weight_shapes(header["architecture"]), weight_shapes(architecture)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"init_from: {path}: names no network of this program") from error
    for key, value in mine.items():
        if theirs.get(key) != value:
            found = theirs.get(key)
            raise UserError(f"init_from: {path}: {key} is {found} there and {value} in this training")
    return under_prefix("model.", tensors) | under_prefix("ema.", tensors)
