"""Pictures of a run: generated images beside the training image each is closest to."""

import base64
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pareto_amb.dashboards.page import PICTURE_BYTES
from pareto_amb.errors import UserError
from pareto_amb.printable import printable, reason
from pareto_amb.reading import read_file
from pareto_amb.redaction import redact
from pareto_amb.results.run_directory import samples_name
from pareto_amb.storage import Storage
from pareto_amb.untrusted import read_arrays

CLOSEST = 12
"""Pairs shown of each training."""

PLAIN = 30
"""Samples shown in the plain grid."""

SHOWN = 2 * CLOSEST + PLAIN
"""Pictures of each training."""

LARGEST = 512
"""Larger pictures are shown with this many pixels a side."""

SMALLEST = 48
"""No picture is shrunk below so many pixels a side, whatever it takes."""

LONGEST_CAPTION = 120
"""Characters shown of a caption."""

MAX_BYTES = 2**30
MAX_SAMPLES = 100_000

_ARRAYS = ("samples", "neighbours", "similarity", "copied", "seed", "prompt", "caption", "asked")


@dataclass(frozen=True)
class Samples:
    """One stored set of samples: images (m, channels, height, width) uint8, figures (m,).

    A selection: the `first` samples of a measurement as they came, then the most similar of the others.
    Those of a text-to-image model have the `prompts` they were made by, and their neighbours' `captions`;
    `asked` (first, channels, height, width) are the training images whose captions made the first ones.
    """

    first: int
    samples: NDArray[np.uint8]
    neighbours: NDArray[np.uint8]
    similarity: NDArray[np.float32]
    copied: NDArray[np.bool_]
    prompts: NDArray[np.str_] | None = None
    captions: NDArray[np.str_] | None = None
    asked: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Pair:
    """A sample and its nearest training image, as data URIs, and what was said of them, if anything."""

    sample: str
    neighbour: str
    similarity: float
    copied: bool
    prompt: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Gallery:
    """The pictures of one training, ready for the page.

    `total` samples were measured, `copies` of them are copies, None where that is unknown; `kept` were kept
    as pictures.
    """

    kept: int
    total: int
    copies: int | None
    closest: list[Pair]
    plain: list[str]


def read_samples(place: Path | Storage, trial_id: str, rung: int) -> Samples | None:
    """The stored samples of a trial's rung, None when there are none.

    `place` is a run directory, of which nothing is read that lies outside it, or a storage that is trusted.
    Raises UserError naming the file when it cannot be read, is too large or holds something else.
    """
    name = samples_name(trial_id, rung)
    shown = printable(redact(f"{place.uri if isinstance(place, Storage) else place}/{name}"))
    content = _content(place, name, shown)
    if content is None:
        return None
    try:
        arrays = read_arrays(io.BytesIO(content), _ARRAYS, MAX_BYTES)
        found = Samples(
            first=_first(arrays),
            samples=_images(arrays["samples"]),
            neighbours=_images(arrays["neighbours"]),
            similarity=_figures(arrays["similarity"]).astype(np.float32),
            copied=_figures(arrays["copied"]).astype(bool),
            prompts=_texts(arrays.get("prompt")),
            captions=_texts(arrays.get("caption")),
            asked=_images(arrays["asked"]) if "asked" in arrays else None,
        )
        _check_lengths(found)
    except KeyError as error:
        raise UserError(f"{shown}: not a file of samples (it lacks {error}); {_REMEDY}") from error
    except ValueError as error:
        raise UserError(f"{shown}: not a file of samples ({reason(error)}); {_REMEDY}") from error
    return found


_REMEDY = "delete it and report again"


def _content(place: Path | Storage, name: str, shown: str) -> bytes | None:
    if isinstance(place, Storage):
        try:
            return place.read(name)
        except (OSError, ValueError) as error:
            raise UserError(f"{shown}: cannot be read ({redact(reason(error))}); try again") from error
    path = Path(os.path.realpath(place / name))
    if not path.is_relative_to(os.path.realpath(place)):
        raise UserError(f"{shown}: lies outside the run directory; give --trust-run if the run is your own")
    return read_file(path, MAX_BYTES) if path.exists() else None


def build_gallery(stored: Samples, total: int, copies: int | None, limit: int = PICTURE_BYTES) -> Gallery:
    """The closest pairs first, highest similarity first, then the first samples as they came.

    `total` and `copies` are those of the measurement, of which `stored` is a selection; a picture takes at
    most `limit` bytes.
    """
    order = np.argsort(-np.nan_to_num(stored.similarity, nan=-np.inf), kind="stable")
    closest = [_pair(stored, index, limit) for index in order[:CLOSEST]]
    return Gallery(
        kept=len(stored.samples),
        total=total,
        copies=copies,
        closest=closest,
        plain=[data_uri(image, limit) for image in stored.samples[: min(stored.first, PLAIN)]],
    )


def _pair(stored: Samples, index: int, limit: int) -> Pair:
    said = [
        shortened(texts[index]) if texts is not None else "" for texts in (stored.prompts, stored.captions)
    ]
    return Pair(
        data_uri(stored.samples[index], limit),
        data_uri(stored.neighbours[index], limit),
        float(stored.similarity[index]),
        bool(stored.copied[index]),
        *said,
    )


def shortened(caption: str) -> str:
    """A caption as a page shows it."""
    text = printable(caption)
    return text if len(text) <= LONGEST_CAPTION else f"{text[: LONGEST_CAPTION - 1]}…"


def data_uri(image: NDArray[np.uint8], limit: int = PICTURE_BYTES, largest: int = LARGEST) -> str:
    """A (channels, height, width) uint8 image, channels 1 or 3, as a data URI of at most `limit` bytes.

    PNG, of at most `largest` pixels a side; where that takes more, WebP, and of fewer pixels while it must.
    """
    pixels = image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    found = _encoded(picture, "png", optimize=True)
    while len(found) > limit:
        found = _encoded(picture, "webp", quality=80)
        if max(picture.size) <= SMALLEST:
            break
        side = 0.7 * max(picture.size)
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return found


def _encoded(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind.upper(), **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _first(arrays: Mapping[str, NDArray[np.generic]]) -> int:
    """How many samples come first as they were made: from seed 0 on, without a gap."""
    if "seed" not in arrays:
        return len(arrays["samples"])
    seeds = arrays["seed"].ravel()
    apart = np.flatnonzero(seeds != np.arange(len(seeds)))
    return int(apart[0]) if len(apart) else len(seeds)


def _images(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    shaped = array.ndim == 4 and array.shape[1] in (1, 3) and 0 not in array.shape
    if array.dtype != np.uint8 or not shaped:
        raise ValueError(f"expected uint8 images, got {array.dtype} of shape {array.shape}")
    return array.astype(np.uint8, copy=False)


def _texts(array: NDArray[np.generic] | None) -> NDArray[np.str_] | None:
    if array is None:
        return None
    if array.dtype.kind != "U" or array.ndim != 1:
        raise ValueError(f"expected a text for each image, got {array.dtype} of shape {array.shape}")
    return array.astype(np.str_, copy=False)


def _figures(array: NDArray[np.generic]) -> NDArray[np.generic]:
    if array.dtype.kind not in "biuf" or array.ndim != 1:
        raise ValueError(f"expected a number for each image, got {array.dtype} of shape {array.shape}")
    return array


def _check_lengths(stored: Samples) -> None:
    lengths = {len(stored.samples), len(stored.neighbours)}
    if len(lengths) > 1 or {stored.similarity.shape, stored.copied.shape} != {(lengths.pop(),)}:
        raise ValueError("its arrays differ in length")
    if any(
        texts is not None and len(texts) != len(stored.samples) for texts in (stored.prompts, stored.captions)
    ):
        raise ValueError("its captions are not as many as its images")
    if stored.asked is not None and len(stored.asked) != stored.first:
        raise ValueError("its images of captions are not as many as its first samples")
    if len(stored.samples) > MAX_SAMPLES:
        raise ValueError(f"more than {MAX_SAMPLES:,} images")
