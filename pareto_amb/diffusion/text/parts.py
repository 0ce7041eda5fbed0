"""A text-to-image model in parts, as plain data: what travels to workers, and denoisers are built from."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pareto_amb.config import ScheduleConfig
from pareto_amb.pretrained import library

CLASSES = {
    "UNet2DConditionModel": "diffusers",
    "AutoencoderKL": "diffusers",
    "CLIPTextModel": "transformers",
}
"""The classes that a part may be of, and their libraries."""


@dataclass(frozen=True, eq=False)
class Part:
    """A network of one of CLASSES: its configuration, and its weights; None: fresh ones, to be trained."""

    kind: str
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor] | None = None

    def build(self) -> nn.Module:
        """The network; fresh weights are drawn from torch's global generator."""
        made = getattr(library(CLASSES[self.kind]), self.kind)
        # A configuration may be anyone's: it must not choose an implementation, which may be fetched.
        config = {k: v for k, v in self.config.items() if not k.startswith("_") and "attn_impl" not in k}
        if self.kind == "CLIPTextModel":
            network = made(library("transformers").CLIPTextConfig(**config))
        else:
            network = made.from_config(config)
        if self.weights is not None and next(network.parameters()).device.type != "meta":
            network.load_state_dict(self.weights)
        assert isinstance(network, nn.Module)
        return network.requires_grad_(self.weights is None)


@dataclass(frozen=True, eq=False)
class TextModel:
    """The parts of a text-to-image model.

    `prediction` is what the U-Net predicts, `schedule` the noise of its steps. Without `vae` its images are
    pixels. `origin` is where it was read from, None for one that is made here, and `fingerprint` the SHA-256,
    in hex, of what was read there. `tokenizer` is one of transformers.
    """

    unet: Part
    text_encoder: Part
    vae: Part | None
    tokenizer: Any
    prediction: str
    schedule: ScheduleConfig
    origin: str | None = None
    fingerprint: str = ""

    def __deepcopy__(self, memo: dict[int, object]) -> "TextModel":
        """Itself: its weights are never changed, and copying a denoiser must not copy them."""
        return self

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """The captions as token numbers, cut or filled up to one length: int64 (N, L)."""
        if not captions:
            return torch.zeros(0, self.tokenizer.model_max_length, dtype=torch.int64)
        read = self.tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        found: Tensor = read["input_ids"]
        return found

    def fingerprinted(self) -> "TextModel":
        """The same model with the SHA-256 of its weights, its tokenizer, and how they are used."""
        digest = hashlib.sha256(f"{self.prediction} {self.schedule!r}".encode())
        digest.update(json.dumps(sorted(self.tokenizer.get_vocab().items())).encode())
        for part in filter(None, (self.unet, self.text_encoder, self.vae)):
            digest.update(json.dumps(dict(part.config), sort_keys=True, default=str).encode())
            for name, tensor in sorted((part.weights or {}).items()):
                digest.update(name.encode())
                digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        return replace(self, fingerprint=digest.hexdigest())
