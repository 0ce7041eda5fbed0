"""The pictures that a trial leaves at each rung: its first samples, and the most similar ones."""

import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from pareto_amb.evaluation.trial import Evaluation
from pareto_amb.results.run_directory import grid_name, samples_name

GRID_SIDE = 32
"""Pictures are enlarged to at least this many pixels a side in the stored grid."""


def pictures(
    trial_id: str,
    rung: int,
    samples: Tensor,
    evaluation: Evaluation,
    train_images: Tensor,
    count: int,
    captions: Sequence[str] | None = None,
) -> Iterator[tuple[str, bytes]]:
    """The files to store of `samples`, uint8 (N, C, H, W): a name and a content each.

    Of the first `count` samples and the `count` most similar ones, each with its nearest of
    `train_images`, uint8 (M, C, H, W); and a grid of the first ones. Where these have `captions`, sample i
    was made by caption i mod M, whose image is stored with each of the first samples.
    """
    first = torch.arange(min(count, len(samples)))
    closest = evaluation.similarity.argsort(descending=True)[:count]
    shown = torch.cat([first, closest[closest >= len(first)]])
    arrays, neighbour = io.BytesIO(), evaluation.neighbour[shown]
    told: dict[str, Any] = {}
    if captions is not None:
        told["prompt"] = np.array([captions[k % len(captions)] for k in shown.tolist()])
        told["asked"] = train_images[first % len(captions)].numpy()
        told["caption"] = np.array([captions[k] for k in neighbour.tolist()])
    np.savez_compressed(
        arrays,
        seed=shown.numpy(),
        samples=samples[shown].numpy(),
        neighbours=train_images[neighbour].numpy(),
        similarity=evaluation.similarity[shown].numpy(),
        copied=evaluation.copied[shown].numpy(),
        **told,
    )
    yield samples_name(trial_id, rung), arrays.getvalue()
    yield grid_name(trial_id, rung), _grid_png(samples[first])


def _grid_png(images: Tensor) -> bytes:
    enlarge = max(GRID_SIDE // images.shape[-1], 1)
    enlarged = images.repeat_interleave(enlarge, -1).repeat_interleave(enlarge, -2)
    grid = make_grid(enlarged, nrow=math.ceil(math.sqrt(len(images))), padding=2, pad_value=255)
    buffer = io.BytesIO()
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
