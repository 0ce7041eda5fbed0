"""What is worked out once for all trainings of a text-to-image model: latents, tokens and embeddings."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

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
    encoded = None
    if model.vae is not None:
        encoded = encode_images(images.images, space_of(model, images.images.shape[1:]), device)
    return replace(images, encoded=encoded, told=read_captions(images.captions or (), model, device))


def encode_images(images: Tensor, space: Space, device: torch.device | str) -> Encoded:
    """Images (N, C, H, W) in a latent space, on the CPU, some at a time on the `device`."""
    means, deviations = [], []
    for some in torch.split(images, _AT_ONCE):
        found = space.encode(some.to(device))
        assert found.deviation is not None
        means.append(found.mean.cpu())
        deviations.append(found.deviation.cpu())
    return Encoded(torch.cat(means), torch.cat(deviations))


def read_captions(
    captions: Sequence[str], model: TextModel, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """What a denoiser is told of captions: `tokens` (N, L) and, of an encoder that is not trained, `text`.

    The latter, (N, L, width), in half precision, as pipelines are trained with it.
    """
    tokens = model.tokens(captions)
    if model.text_encoder.weights is None:
        return {"tokens": tokens}
    encoder: nn.Module = model.text_encoder.build().to(device).eval()
    distinct, inverse = torch.unique(tokens, dim=0, return_inverse=True)
    with torch.inference_mode():
        parts = [
            encoder(some.to(device), return_dict=False)[0].half().cpu()
            for some in torch.split(distinct, _AT_ONCE)
        ]
    return {"tokens": tokens, "text": torch.cat(parts)[inverse].clone()}
