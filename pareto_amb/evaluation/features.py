"""Image sets as features: encoded while they stream by, kept on disk, and written for reuse.

A file of features is safetensors or NumPy's npz. It holds `features` (N, D) float32, `pixel_digests`
(N, 32) uint8, and `provenance`, a JSON text that says what was encoded and by what. Reading one runs
no code from it.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pareto_amb.data.image_set import describe_changes
from pareto_amb.data.stream import ImageStream, content_fingerprint
from pareto_amb.errors import UserError
from pareto_amb.evaluation.encoders import Encoder
from pareto_amb.evaluation.frechet import GaussianStatistics, fit_gaussian, gaussian_from_covariance
from pareto_amb.printable import printable, reason
from pareto_amb.storage import replace_file
from pareto_amb.terminal import ShowCount, counting
from pareto_amb.untrusted import read_arrays

CACHE_VARIABLE = "PARETO_AMB_CACHE"
CACHE_VERSION = 1
"""Raised when images are read, prepared or encoded in another way, so that old features are not used."""

BATCH_SIZE = 128
BATCH_PIXELS = BATCH_SIZE * 256**2
"""Images larger than 256 x 256 are encoded in smaller batches, so that memory stays the same."""

SUFFIXES = (".npz", ".safetensors")

MAX_UNPACKED = 2**31
"""Bytes that a compressed file may unpack to."""

_UNUSABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError, SafetensorError)
"""What reading a damaged or hostile file of features raises, by where the damage is."""


class Provenance(BaseModel):
    """What features were made of, and by what.

    `skipped` are the positions, among the files in order of name, of broken images left out; `changes`
    counts what was changed on decoding. Features of two sets can be compared when their
    `encoder_fingerprint`, which covers weights and preprocessing, is the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    content_fingerprint: str
    encoder: str
    preprocessing: str
    encoder_fingerprint: str
    height: int
    width: int
    count: int
    skipped: tuple[int, ...] = ()
    changes: dict[str, int] = {}


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """An image set in the features of one encoder.

    `features` is (N, D) float32; `pixel_digests` (N, 32) uint8 holds the SHA-256 of each image's pixels.
    """

    features: Tensor
    pixel_digests: Tensor
    provenance: Provenance

    def notes(self) -> tuple[str, ...]:
        """Lines for the user on what was done to the images on the way."""
        return describe_changes(Counter(self.provenance.changes), self.provenance.count)


def encode_images(
    stream: ImageStream,
    encoders: Sequence[Encoder],
    console: Console,
    label: str,
    device: torch.device | str = "cpu",
    cache: "FeatureCache | None" = None,
) -> list[EncodedImages]:
    """The features of a stream in each of `encoders`, from the cache where they are known.

    `label` is what the console calls the images.

    Memory: the features, and a fixed number of images, however many there are. Raises UserError when
    an image cannot be used (`ImageStream.images`), is too small for an encoder, or changes meanwhile.
    """
    fingerprint = None
    if cache is not None:
        with counting(console, f"{label}: reading") as show:
            fingerprint = stream.fingerprint(show)
    found = []
    for encoder in encoders:
        encoded = cache.load(fingerprint, encoder, console) if cache and fingerprint else None
        if encoded is None or (encoded.provenance.skipped and not stream.skip_corrupt):
            with counting(console, f"{label}: encoding with {encoder.name}") as show:
                encoded = _encode(stream, encoder, device, show)
            count = encoded.provenance.count
            console.print(f"{label}: {count:,} images encoded with {encoder.name}", markup=False)
            if cache is not None:
                cache.store(encoded, console)
        found.append(encoded)
    return found


@dataclass
class _Seen:
    """What is noted of the images as they stream by."""

    contents: list[bytes] = field(default_factory=list)
    pixels: list[bytes] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)


def _encode(
    stream: ImageStream, encoder: Encoder, device: torch.device | str, show: ShowCount
) -> EncodedImages:
    total, seen, count = len(stream.names), _Seen(), 0
    features = torch.empty(0, 0)
    for encoded in encoder.encode_batches(_batches(stream, seen), device):
        if count == 0:
            features = _allocate(total, encoded.shape[1], encoder)
        features[count : count + len(encoded)] = encoded
        count += len(encoded)
        show(len(seen.contents), total)
    height, width = stream.size
    return EncodedImages(
        features=features if count == total else features[:count].clone(),
        pixel_digests=torch.frombuffer(bytearray(b"".join(seen.pixels)), dtype=torch.uint8).view(-1, 32),
        provenance=Provenance(
            content_fingerprint=content_fingerprint(seen.contents),
            encoder=encoder.name,
            preprocessing=encoder.preprocessing,
            encoder_fingerprint=encoder.fingerprint,
            height=height,
            width=width,
            count=count,
            skipped=tuple(seen.skipped),
            changes=dict(seen.changes),
        ),
    )


def _batches(stream: ImageStream, seen: _Seen) -> Iterator[Tensor]:
    """The images of a stream, uint8 (B, 3, H, W), batch by batch; fills `seen` on the way."""
    height, width = stream.size
    size = max(min(BATCH_SIZE, BATCH_PIXELS // (height * width)), 1)
    batch: list[NDArray[np.uint8]] = []
    for position, image in enumerate(stream.images()):
        seen.contents.append(image.content_digest)
        if image.pixels is None:
            seen.skipped.append(position)
            continue
        seen.pixels.append(image.pixel_digest)
        seen.changes.update(image.changes)
        batch.append(image.pixels)
        if len(batch) == size:
            yield torch.from_numpy(np.stack(batch))
            batch = []
    if batch:
        yield torch.from_numpy(np.stack(batch))


def _allocate(count: int, dim: int, encoder: Encoder) -> Tensor:
    try:
        return torch.empty(count, dim)
    except RuntimeError as error:  # what torch raises without memory
        needed = 4 * count * dim / 2**30
        raise UserError(
            f"{encoder.name}: {count:,} features of length {dim:,} need {needed:,.0f} GiB of memory; "
            "use another encoder, or fewer images"
        ) from error


# --- files ----------------------------------------------------------------------------------------


def save_features(encoded: EncodedImages, path: Path) -> None:
    """Write a file of features, whole or not at all; its suffix, one of SUFFIXES, decides the format.

    Raises OSError when it cannot be written.
    """
    features, digests = encoded.features, encoded.pixel_digests
    provenance = encoded.provenance.model_dump_json()
    with replace_file(path) as temporary:
        if path.suffix == ".safetensors":
            tensors = {"features": features, "pixel_digests": digests}
            save_file(tensors, temporary, metadata={"provenance": provenance})
        else:
            with temporary.open("wb") as file:
                np.savez(
                    file,
                    features=features.numpy(),
                    pixel_digests=digests.numpy(),
                    provenance=np.array(provenance),
                )


def load_features(path: Path) -> EncodedImages:
    """Read a file that `save_features` wrote; UserError, naming it, when it is anything else."""
    try:
        if path.suffix == ".safetensors":
            _check_regular(path)
            with safe_open(path, framework="pt") as file:
                provenance = (file.metadata() or {})["provenance"]
                features, digests = file.get_tensor("features"), file.get_tensor("pixel_digests")
        else:
            arrays = _read_npz(path, ("features", "pixel_digests", "provenance"))
            provenance = str(arrays["provenance"])
            features, digests = _numbers(arrays["features"]), _numbers(arrays["pixel_digests"])
        encoded = EncodedImages(features, digests, Provenance.model_validate_json(provenance))
        _check(encoded)
    except _UNUSABLE as error:
        why = _reason(error)
        raise UserError(
            f"{printable(path)}: not a file of features ({why}); encode the images again"
        ) from error
    return encoded


@dataclass(frozen=True, eq=False)
class QualityReference:
    """What generated images are measured against: statistics, and the features (M, D) where known.

    `source` is the file they are from, empty where they are of images.
    """

    statistics: GaussianStatistics
    features: Tensor | None = None
    source: str = ""
    note: str = ""


def is_feature_file(path: Path) -> bool:
    """Whether a path names a file of features or statistics, by its suffix."""
    return path.suffix in SUFFIXES and not path.is_dir()


def load_reference(path: Path, encoders: Sequence[Encoder], size: tuple[int, int]) -> QualityReference:
    """A reference from features that `save_features` wrote, or from an npz with `mu` and `sigma`.

    The latter, as other FID programs write them, are a mean (D,) and a covariance (D, D) and do not
    say where they are from. Raises UserError when the file cannot be used, or is of another encoder or
    preprocessing than each of `encoders`, or of images of another size than `size` (height, width).
    """
    statistics = _load_statistics(path) if path.suffix == ".npz" else None
    if statistics is not None:
        _check_length(path, len(statistics.statistics.mean), encoders, size)
        return statistics
    encoded = load_features(path)
    made_of = encoded.provenance
    for encoder in encoders:
        if encoder.fingerprint != made_of.encoder_fingerprint:
            raise UserError(
                f"{path}: features of {made_of.encoder} ({made_of.preprocessing}, "
                f"{made_of.encoder_fingerprint[:8]}), but {encoder.name} ({encoder.preprocessing}, "
                f"{encoder.fingerprint[:8]}) is used here: choose one --encoder and --preprocessing for both"
            )
    if (made_of.height, made_of.width) != size:
        raise UserError(
            f"{path}: features of images of {made_of.width} x {made_of.height} pixels, but the generated "
            f"ones have {size[1]} x {size[0]}; bring both to one size"
        )
    try:
        fitted = fit_gaussian(encoded.features)
    except UserError as error:
        raise UserError(f"{printable(path)}: {error}") from error
    return QualityReference(fitted, encoded.features, str(path))


def _check_length(path: Path, length: int, encoders: Sequence[Encoder], size: tuple[int, int]) -> None:
    for encoder in encoders:
        expected = encoder.dim or 3 * size[0] * size[1]
        if length != expected:
            raise UserError(
                f"{path}: statistics of features of length {length:,}, but {encoder.name} gives "
                f"{expected:,}; choose one --encoder for both"
            )


def _load_statistics(path: Path) -> QualityReference | None:
    """The mean and covariance of an npz; None when it holds other things."""
    try:
        arrays = _read_npz(path, ("mu", "sigma"))
        if not {"mu", "sigma"} <= arrays.keys():
            return None
        mean = _numbers(np.atleast_1d(arrays["mu"])).double()
        covariance = _numbers(arrays["sigma"]).double()
        if mean.ndim != 1 or not 1 <= len(mean) <= MAX_LENGTH:
            raise ValueError(f"mu has the shape {tuple(mean.shape)}")
        if max(float(mean.abs().max()), float(covariance.abs().max())) > LARGEST:
            raise ValueError(f"mu or sigma goes beyond {LARGEST:g}")
    except _UNUSABLE as error:
        raise UserError(
            f"{printable(path)}: cannot be read as statistics ({_reason(error)}); give an npz with "
            "mu and sigma, or what `encode` wrote"
        ) from error
    try:
        statistics = gaussian_from_covariance(mean, covariance)
    except (UserError, RuntimeError) as error:
        raise UserError(
            f"{printable(path)}: {reason(error)}; give the mean and covariance of features"
        ) from error
    note = (
        f"{path}: its encoder and preprocessing are not recorded and cannot be checked; without its "
        "features there is no kernel distance, precision, recall, density or coverage"
    )
    return QualityReference(statistics, source=str(path), note=note)


MAX_LENGTH = 50_000
"""Of a feature vector whose covariance is known."""

LARGEST = 1e30


def _read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Those of the arrays `names` in an npz. ValueError or OSError where it cannot be used."""
    _check_regular(path)
    with path.open("rb") as file:
        return read_arrays(file, names, max(path.stat().st_size, MAX_UNPACKED))


def _check_regular(path: Path) -> None:
    """Raise ValueError for a pipe or a device, which would be waited for."""
    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")


def _numbers(array: NDArray[Any]) -> Tensor:
    """An array as a tensor. ValueError where it holds text."""
    if array.dtype.kind not in "iuf":
        raise ValueError(f"holds {array.dtype}, not numbers")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return torch.from_numpy(array)


def _check(encoded: EncodedImages) -> None:
    """Raise ValueError unless the tensors are what the provenance says."""
    features, count = encoded.features, encoded.provenance.count
    if features.dtype != torch.float32 or features.ndim != 2 or len(features) != count:
        raise ValueError(f"features are {features.dtype} {tuple(features.shape)}, not float32 ({count}, D)")
    if encoded.pixel_digests.dtype != torch.uint8 or encoded.pixel_digests.shape != (count, 32):
        raise ValueError("pixel_digests do not belong to the features")
    if not torch.isfinite(features).all():
        raise ValueError("features hold NaN or infinity")


def _reason(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        return f"provenance {'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return reason(error)


# --- the cache ------------------------------------------------------------------------------------


class FeatureCache:
    """Features on disk, one file for each content and encoder, in a folder that may be deleted.

    Files appear whole under names that follow from what they hold, so that processes which write the
    same one at once, or are killed, do no harm.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def default(cls) -> "FeatureCache":
        """The cache in `$PARETO_AMB_CACHE`, or ~/.cache/pareto-amb."""
        root = os.environ.get(CACHE_VARIABLE) or "~/.cache/pareto-amb"
        return cls(Path(root).expanduser() / "features")

    def load(self, content: str, encoder: Encoder, console: Console) -> EncodedImages | None:
        """The features of the images with fingerprint `content`; None when they are not there.

        A file that cannot be used counts as not there, with a line on the console.
        """
        path = self._path(content, encoder.fingerprint)
        if not path.exists():
            return None
        try:
            encoded = load_features(path)
        except UserError as error:
            console.print(f"note: {error}", markup=False)
            return None
        made_of = encoded.provenance
        if (made_of.content_fingerprint, made_of.encoder_fingerprint) != (content, encoder.fingerprint):
            console.print(f"note: {path}: holds other features; encoding the images again", markup=False)
            return None
        return encoded

    def store(self, encoded: EncodedImages, console: Console) -> None:
        """Keep features; without room or permission, a line on the console says that they are not kept."""
        made_of = encoded.provenance
        path = self._path(made_of.content_fingerprint, made_of.encoder_fingerprint)
        try:
            save_features(encoded, path)
        except (OSError, SafetensorError) as error:
            console.print(f"note: {path}: cannot be written ({_reason(error)}); going on", markup=False)

    def _path(self, content: str, encoder: str) -> Path:
        versions = f"{CACHE_VERSION}/{version('pareto-amb')}/{version('pillow')}"
        key = hashlib.sha256(f"{versions}/{content}/{encoder}".encode()).hexdigest()
        return self.folder / f"{key}.safetensors"
