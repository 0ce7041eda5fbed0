"""Comparison in pixels, of images that stream by."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pareto_amb.data.stream import ImageStream
from pareto_amb.evaluation.encoders import load_encoder
from pareto_amb.evaluation.memorization import l2_ratio
from pareto_amb.terminal import ShowCount

MAX_TRAIN_BYTES = 2**30
"""Of the training images' pixels, which are held in memory as float32."""

_VALUES_AT_ONCE = 2**23


def why_no_l2_ratio(train: ImageStream) -> str:
    """Why the l2 ratio is left out for images like these; empty when it is not."""
    height, width = train.size
    if 4 * 3 * height * width * len(train.names) > MAX_TRAIN_BYTES:
        return f"the pixels of the training images need more than {MAX_TRAIN_BYTES / 2**30:.0f} GiB"
    return ""


def stream_l2_ratio(generated: ImageStream, train: ImageStream, show: ShowCount) -> Tensor:
    """`l2_ratio` of each generated image, float64 (N,).

    Memory: the pixels of the training images and of a fixed number of generated ones. Raises UserError
    as `ImageStream.images` does.
    """
    height, width = train.size
    bank, count = torch.empty(len(train.names), 3 * height * width), 0
    for block in _blocks(train):
        bank[count : count + len(block)] = block
        count += len(block)
    found: list[Tensor] = []
    for block in _blocks(generated):
        found.append(l2_ratio(block, bank[:count]))
        show(sum(map(len, found)), len(generated.names))
    return torch.cat(found)


def _blocks(stream: ImageStream) -> Iterator[Tensor]:
    """The images that can be decoded, as rows of pixels, float32 (B, 3·H·W)."""
    encoder = load_encoder("pixels")
    size = max(_VALUES_AT_ONCE // (3 * stream.size[0] * stream.size[1]), 1)
    block: list[NDArray[np.uint8]] = []
    for image in stream.images():
        if image.pixels is not None:
            block.append(image.pixels)
        if len(block) == size:
            yield encoder.encode(torch.from_numpy(np.stack(block)))
            block = []
    if block:
        yield encoder.encode(torch.from_numpy(np.stack(block)))
