"""Pictures of a run: generated images beside the training image each is closest to."""

import base64
import io
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pareto_amb.errors import UserError
from pareto_amb.results.run_directory import samples_name
from pareto_amb.storage import Storage

CLOSEST = 12
"""Pairs shown of each training."""

PLAIN = 30
"""Samples shown in the plain grid."""


_CORRUPT = (
    OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, NotImplementedError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What numpy raises, by where the damage is."""


@dataclass(frozen=True)
class Samples:
    """One stored set of samples: images (m, channels, height, width) uint8, figures (m,)."""

    samples: NDArray[np.uint8]
    neighbours: NDArray[np.uint8]
    similarity: NDArray[np.float32]
    copied: NDArray[np.bool_]


@dataclass(frozen=True)
class Pair:
    """A sample and its nearest training image, as PNG data URIs."""

    sample: str
    neighbour: str
    similarity: float
    copied: bool


@dataclass(frozen=True)
class Gallery:
    """The pictures of one training, ready for the page."""

    kept: int
    copies: int
    closest: list[Pair]
    plain: list[str]


def read_samples(storage: Storage, trial_id: str, rung: int) -> Samples | None:
    """The stored samples of a trial's rung, None when there are none.

    Raises UserError naming the file when it cannot be read or holds something else.
    """
    name = samples_name(trial_id, rung)
    try:
        content = storage.read(name)
        if content is None:
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = Samples(
                samples=_images(arrays["samples"]),
                neighbours=_images(arrays["neighbours"]),
                similarity=np.asarray(arrays["similarity"], dtype=np.float32),
                copied=np.asarray(arrays["copied"], dtype=bool),
            )
        _check_lengths(found)
    except _CORRUPT as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{storage.uri}/{name}: not a file of samples ({reason}); delete it and report again"
        ) from error
    return found


def build_gallery(stored: Samples) -> Gallery:
    """The closest pairs first, highest similarity first, then the first samples as they came."""
    order = np.argsort(-np.nan_to_num(stored.similarity, nan=-np.inf), kind="stable")
    closest = [
        Pair(
            sample=data_uri(stored.samples[index]),
            neighbour=data_uri(stored.neighbours[index]),
            similarity=float(stored.similarity[index]),
            copied=bool(stored.copied[index]),
        )
        for index in order[:CLOSEST]
    ]
    return Gallery(
        kept=len(stored.samples),
        copies=int(stored.copied.sum()),
        closest=closest,
        plain=[data_uri(image) for image in stored.samples[:PLAIN]],
    )


def data_uri(image: NDArray[np.uint8]) -> str:
    """A (channels, height, width) uint8 image, channels 1 or 3, as a PNG data URI."""
    pixels = image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _images(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    shaped = array.ndim == 4 and array.shape[1] in (1, 3) and 0 not in array.shape
    if array.dtype != np.uint8 or not shaped:
        raise ValueError(f"expected uint8 images, got {array.dtype} of shape {array.shape}")
    return array.astype(np.uint8, copy=False)


def _check_lengths(stored: Samples) -> None:
    lengths = {len(stored.samples), len(stored.neighbours)}
    if len(lengths) > 1 or {stored.similarity.shape, stored.copied.shape} != {(lengths.pop(),)}:
        raise ValueError("its arrays differ in length")
