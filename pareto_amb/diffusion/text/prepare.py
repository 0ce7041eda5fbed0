"""What is worked out once for all trainings of a text-to-image model: latents, tokens and embeddings."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pareto_amb.data.subsets import Encoded, TrainingSet
from pareto_amb.diffusion.denoiser import Space
from pareto_amb.diffusion.text.denoiser import space_of
from pareto_amb.diffusion.text.parts import TextModel

_AT_ONCE = 64
"""Captions that are read, or images that are encoded, at once."""


def with_text(images: TrainingSet, model: TextModel, device: torch.device | str = "cpu") -> TrainingSet:
    """The same images, encoded where the model denoises them, and with their captions.

    All that is added lies on the CPU.
    """
    tokens = model.tokens(images.captions or ())
    parts = list(encode_rows(images.images, tokens, model, device))
    return with_rows(images, tokens, {name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def is_encoded(model: TextModel) -> bool:
    """Whether images or captions of a model are encoded, by networks that are not trained."""
    return model.vae is not None or model.text_encoder.weights is not None


def bytes_of_a_row(model: TextModel, shape: Sequence[int]) -> int:
    """Bytes of what `encode_rows` makes of one image of `shape` (C, H, W) and its caption."""
    latents = 0 if model.vae is None else 2 * 4 * math.prod(space_of(model, shape).shape)
    if model.text_encoder.weights is None:
        return latents
    tokens, width = int(model.tokenizer.model_max_length), int(model.text_encoder.config["hidden_size"])
    return latents + 2 * tokens * width


@torch.inference_mode()
def encode_rows(
    images: Tensor, tokens: Tensor, model: TextModel, device: torch.device | str = "cpu"
) -> Iterator[dict[str, Tensor]]:
    """What is worked out once of images (N, C, H, W) and of their captions' `tokens` (N, L), some at a time.

    On the CPU, float32 `mean` and `deviation` (M, *latent shape) where there is an autoencoder, and `text`
    (M, L, width) of a text encoder that is not trained: in half precision, as pipelines are trained with it.
    """
    space = None if model.vae is None else space_of(model, images.shape[1:])
    encoder = None if model.text_encoder.weights is None else model.text_encoder.build().to(device).eval()
    for some, told in zip(torch.split(images, _AT_ONCE), torch.split(tokens, _AT_ONCE), strict=True):
        part: dict[str, Tensor] = {}
        if space is not None:
            encoded = encode_images(some, space, device)
            assert encoded.deviation is not None
            part |= {"mean": encoded.mean, "deviation": encoded.deviation}
        if encoder is not None:
            part["text"] = encoder(told.to(device), return_dict=False)[0].half().cpu()
        yield part


def with_rows(images: TrainingSet, tokens: Tensor, rows: Mapping[str, Tensor]) -> TrainingSet:
    """The same images with what `encode_rows` made of them."""
    encoded = Encoded(rows["mean"], rows["deviation"]) if "mean" in rows else None
    told = {"text": rows["text"]} if "text" in rows else {}
    return replace(images, encoded=encoded, told={"tokens": tokens, **told})


def encode_images(images: Tensor, space: Space, device: torch.device | str) -> Encoded:
    """Images (N, C, H, W) in a latent space, on the CPU, some at a time on the `device`."""
    means, deviations = [], []
    for some in torch.split(images, _AT_ONCE):
        found = space.encode(some.to(device))
        assert found.deviation is not None
        means.append(found.mean.cpu())
        deviations.append(found.deviation.cpu())
    return Encoded(torch.cat(means), torch.cat(deviations))
