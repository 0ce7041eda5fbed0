"""From image sets on disk to one report: which generated images are copies, how many, how sure."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from pareto_amb.config import EvaluationConfig
from pareto_amb.data.stream import ImageStream, open_stream
from pareto_amb.environment import describe_environment
from pareto_amb.errors import UserError
from pareto_amb.evaluation import fidelity, memorization
from pareto_amb.evaluation.encoders import Encoder
from pareto_amb.evaluation.evaluate import calibrate_on_half
from pareto_amb.evaluation.features import (
    EncodedImages,
    FeatureCache,
    Reference,
    encode_images,
    is_feature_file,
    load_reference,
)
from pareto_amb.evaluation.frechet import fit_gaussian
from pareto_amb.evaluation.intervals import Estimate, bootstrap, wilson
from pareto_amb.evaluation.pixels import stream_l2_ratio, why_no_l2_ratio
from pareto_amb.evaluation.report import (
    COPYING,
    PIXEL_METRICS,
    QUALITY,
    Copy,
    EncoderReport,
    EvaluationReport,
    ImageSetSummary,
    Pair,
    unknown_metrics,
)
from pareto_amb.terminal import counting

ROLES = ("generated", "train", "heldout", "reference")
CLOSEST = 12
"""Pairs kept as pictures, the most similar first."""
BORDERLINE = 6
"""Pairs kept as pictures from just above the threshold, and from just below."""

_NAMED = 3
_MIN_FOR_KID = 4


@dataclass(frozen=True)
class Sources:
    """Where the images lie: folders or zips; `reference` may be a file of features or statistics.

    Without `reference`, quality is measured against `heldout`, and without that against `train`.
    """

    generated: Path
    train: Path
    reference: Path | None = None
    heldout: Path | None = None

    def image_sets(self) -> dict[str, Path]:
        """The sets that are images, by role, in the order in which they are encoded."""
        named = {"heldout": self.heldout, "train": self.train, "generated": self.generated}
        if self.reference is not None and not is_feature_file(self.reference):
            named["reference"] = self.reference
        return {role: path for role, path in named.items() if path is not None}


@dataclass(frozen=True, eq=False)
class _ImageSet:
    """One opened image set in the features of every encoder; `names` (N,) are those of its rows."""

    stream: ImageStream
    encoded: list[EncodedImages]
    names: tuple[str, ...]
    skipped: tuple[str, ...]


def evaluate_image_sets(
    sources: Sources,
    encoders: Sequence[Encoder],
    console: Console,
    *,
    threshold: float | None = None,
    skip_corrupt: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    cache: FeatureCache | None = None,
) -> EvaluationReport:
    """Measure generated images against training images, in each of `encoders`.

    `threshold` is the similarity above which an image is a copy in the first encoder. Without it, and
    in the other encoders, it is calibrated on every second held-out image; without those, figures that
    need one are unknown. `seed` draws the resamples of the intervals and random subsets.

    Raises UserError, naming the culprit, for images that cannot be used, sets of different sizes or of
    fewer than 2 images, held-out images that are also training images, and features of another encoder.
    """
    for role, path in sources.image_sets().items():
        if is_feature_file(path):
            raise UserError(
                f"{path}: features, where the {role} images are needed; name a folder or zip of them "
                "(features serve as --reference)"
            )
    with ExitStack() as stack:
        streams = {
            role: stack.enter_context(open_stream(path, skip_corrupt))
            for role, path in sources.image_sets().items()
        }
        _check_counts_and_sizes(streams)
        given = _read_reference(sources, encoders, streams["generated"])
        sets: dict[str, _ImageSet] = {}
        for role, stream in streams.items():
            sets[role] = _encode_set(role, stream, encoders, console, device, cache)
            if role == "train" and "heldout" in sets:
                _refuse_overlap(sets["heldout"], sets["train"])
        with console.status("comparing"):
            reports = tuple(
                _measure(sets, number, given, threshold if number == 0 else None, seed)
                for number in range(len(encoders))
            )
        return _report(sources, sets, reports, given, console)


# --- reading --------------------------------------------------------------------------------------


def _check_counts_and_sizes(streams: Mapping[str, ImageStream]) -> None:
    expected = streams["generated"].size
    for role, stream in streams.items():
        _require_two(role, stream, len(stream.files.names))
        if stream.size != expected:
            raise UserError(
                f"{stream.path}: the {role} images have {_size(stream.size)} pixels, the generated ones "
                f"{_size(expected)}; bring both to one size (see pareto-amb data prepare --help)"
            )


def _require_two(role: str, stream: ImageStream, count: int) -> None:
    if count < 2:
        raise UserError(f"{stream.path}: {count} {role} image, at least 2 are needed")


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"


def _read_reference(
    sources: Sources, encoders: Sequence[Encoder], generated: ImageStream
) -> Reference | None:
    """The reference where it is a file of features or statistics, else None."""
    if sources.reference is None or not is_feature_file(sources.reference):
        return None
    return load_reference(sources.reference, encoders, generated.size)


def _encode_set(
    role: str,
    stream: ImageStream,
    encoders: Sequence[Encoder],
    console: Console,
    device: torch.device | str,
    cache: FeatureCache | None,
) -> _ImageSet:
    encoded = encode_images(stream, encoders, console, role, device, cache)
    left_out = set(encoded[0].provenance.skipped)
    names = stream.files.names
    found = _ImageSet(
        stream,
        encoded,
        names=tuple(name for position, name in enumerate(names) if position not in left_out),
        skipped=tuple(names[position] for position in sorted(left_out)),
    )
    _require_two(role, stream, len(found.names))
    return found


def _refuse_overlap(heldout: _ImageSet, train: _ImageSet) -> None:
    """Raise UserError when a held-out image has the pixels of a training image."""
    known = _positions_by_digest(train)
    shared = [
        (name, known[digest])
        for name, digest in zip(heldout.names, _digests(heldout), strict=True)
        if digest in known
    ]
    if shared:
        name, position = shared[0]
        raise UserError(
            f"{heldout.stream.path}: {len(shared):,} of {len(heldout.names):,} held-out images are also "
            f"training images, such as {name!r:.200} (there: {train.names[position]!r:.200}); remove them "
            "from one of the two, the yardstick would be wrong"
        )


def _digests(images: _ImageSet) -> list[bytes]:
    """The SHA-256 of each image's pixels."""
    return [row.tobytes() for row in images.encoded[0].pixel_digests.numpy()]


def _positions_by_digest(images: _ImageSet) -> dict[bytes, int]:
    """The first position of each image, by its pixels."""
    found: dict[bytes, int] = {}
    for position, digest in enumerate(_digests(images)):
        found.setdefault(digest, position)
    return found


# --- measuring ------------------------------------------------------------------------------------


def _measure(
    sets: Mapping[str, _ImageSet], number: int, given: Reference | None, threshold: float | None, seed: int
) -> EncoderReport:
    """All figures in the features of encoder `number`."""
    generated, train = sets["generated"].encoded[number], sets["train"].encoded[number]
    heldout = sets["heldout"].encoded[number].features if "heldout" in sets else None
    similarity, neighbour = memorization.nearest_neighbours(generated.features, train.features)
    unseen = torch.empty(0)
    if heldout is not None:
        unseen, _ = memorization.nearest_neighbours(heldout, train.features)
    calibrated = threshold is None and heldout is not None
    if calibrated:
        threshold, unseen = _calibrate(unseen, sets["heldout"].stream.path, generated.provenance.encoder)
    metrics = unknown_metrics((*COPYING, *QUALITY))
    metrics |= _similarity_metrics(similarity, unseen, seed)
    if threshold is not None:
        metrics |= _copy_metrics(similarity, neighbour, unseen, threshold, len(train.features))
    metrics["authpct"] = memorization.authpct(generated.features, train.features)
    if heldout is not None:
        metrics["c_t"] = memorization.c_t(generated.features, heldout, train.features)
    reference = given or _reference_of(sets, number)
    metrics |= _fidelity_metrics(generated.features, reference, seed)
    made_by = generated.provenance
    return EncoderReport(
        encoder=made_by.encoder,
        preprocessing=made_by.preprocessing,
        fingerprint=made_by.encoder_fingerprint,
        threshold=threshold,
        calibrated=calibrated,
        metrics=metrics,
        similarity=similarity,
        neighbour=neighbour,
        heldout_similarity=unseen,
    )


def _calibrate(heldout_similarity: Tensor, path: Path, encoder: str) -> tuple[float, Tensor]:
    quantile = EvaluationConfig().calibration_quantile
    try:
        return calibrate_on_half(heldout_similarity, quantile)
    except UserError as error:
        raise UserError(f"{path}: in {encoder}, {error}; or give a --threshold") from error


def _similarity_metrics(similarity: Tensor, unseen: Tensor, seed: int) -> dict[str, Estimate]:
    def mean(values: Tensor) -> Tensor:
        return values.mean(1)

    def p95(values: Tensor) -> Tensor:
        return values.quantile(0.95, dim=1)

    return {
        "similarity_mean": bootstrap(similarity, mean, seed=seed),
        "similarity_p95": bootstrap(similarity, p95, seed=seed),
        "heldout_similarity_mean": bootstrap(unseen, mean, seed=seed),
        "heldout_similarity_p95": bootstrap(unseen, p95, seed=seed),
    }


def _copy_metrics(
    similarity: Tensor, neighbour: Tensor, unseen: Tensor, threshold: float, n_train: int
) -> dict[str, Estimate]:
    copied = memorization.copied_training_images(similarity, neighbour, threshold, n_train)
    most = float(copied.most_copied)
    return {
        "memorization": memorization.copy_share(similarity, threshold),
        "heldout_memorization": memorization.copy_share(unseen, threshold),
        "excess_copy_rate": memorization.excess_copy_rate(similarity, unseen, threshold),
        "copied_training_share": copied.share,
        "most_copied": Estimate(most, most, most),
    }


def _reference_of(sets: Mapping[str, _ImageSet], number: int) -> Reference:
    features = sets[_reference_role(sets)].encoded[number].features
    return Reference(fit_gaussian(features), features)


def _reference_role(sets: Mapping[str, _ImageSet]) -> str:
    return next(role for role in ("reference", "heldout", "train") if role in sets)


def _fidelity_metrics(generated: Tensor, reference: Reference, seed: int) -> dict[str, Estimate]:
    """Quality and variety; a figure that needs more images than there are is left out."""
    found = {
        "fid": fidelity.fid(generated, reference.statistics),
        "fid_infinity": fidelity.fid_infinity(generated, reference.statistics, seed),
    }
    real = reference.features
    if real is None:
        return found
    if min(len(generated), len(real)) >= _MIN_FOR_KID:
        found["kid"] = fidelity.kernel_distance(generated, real, seed)
    if len(generated) > fidelity.PRECISION_K and len(real) > fidelity.COVERAGE_K:
        found |= vars(fidelity.prdc(generated, real))
    return found


# --- the report -----------------------------------------------------------------------------------


def _report(
    sources: Sources,
    sets: Mapping[str, _ImageSet],
    reports: tuple[EncoderReport, ...],
    given: Reference | None,
    console: Console,
) -> EvaluationReport:
    generated, train = sets["generated"], sets["train"]
    known = _positions_by_digest(train)
    identical = np.array([digest in known for digest in _digests(generated)])
    pixel_metrics, why_no_ratio = _pixel_metrics(generated, train, identical, console)
    ranking = _Ranking(generated, train, reports[0], identical)
    return EvaluationReport(
        image_sets={role: _summary(sets[role]) for role in ROLES if role in sets},
        reference=_describe_reference(sources, sets),
        encoders=reports,
        pixel_metrics=pixel_metrics,
        copies=ranking.copies(),
        closest=ranking.closest(),
        borderline=ranking.borderline(),
        notes=tuple(_notes(sources, sets, reports, given, why_no_ratio)),
        environment=describe_environment(),
    )


class _Ranking:
    """The generated images by their similarity to a training image, highest first."""

    def __init__(
        self, generated: _ImageSet, train: _ImageSet, found: EncoderReport, identical: NDArray[np.bool_]
    ) -> None:
        self._generated, self._train, self._found, self._identical = generated, train, found, identical
        self._order = torch.argsort(found.similarity, descending=True, stable=True).tolist()
        self._n_copies = 0
        if found.threshold is not None:
            self._n_copies = int((found.similarity.double() > found.threshold).sum())

    def copies(self) -> tuple[Copy, ...]:
        """All above the threshold, and those with the pixels of a training image wherever it lies."""
        rest = [i for i in self._order[self._n_copies :] if self._identical[i]]
        return tuple(map(self._copy, self._order[: self._n_copies] + rest))

    def closest(self) -> tuple[Pair, ...]:
        return tuple(map(self._pair, self._order[:CLOSEST]))

    def borderline(self) -> tuple[Pair, ...]:
        """The pairs around the threshold; none when they are all among the closest."""
        if self._found.threshold is None or self._n_copies + BORDERLINE <= CLOSEST:
            return ()
        start = max(self._n_copies - BORDERLINE, 0)
        return tuple(map(self._pair, self._order[start : self._n_copies + BORDERLINE]))

    def _copy(self, i: int) -> Copy:
        return Copy(
            generated=self._generated.names[i],
            train=self._train.names[int(self._found.neighbour[i])],
            similarity=float(self._found.similarity[i]),
            identical=bool(self._identical[i]),
        )

    def _pair(self, i: int) -> Pair:
        names, threshold = self._copy(i), self._found.threshold
        return Pair(
            names=names,
            copied=threshold is not None and names.similarity > threshold,
            generated_pixels=_pixels(self._generated, names.generated),
            train_pixels=_pixels(self._train, names.train),
        )


def _pixel_metrics(
    generated: _ImageSet, train: _ImageSet, identical: NDArray[np.bool_], console: Console
) -> tuple[dict[str, Estimate], str]:
    """The figures in pixels, and why there is no l2 ratio, empty when there is one."""
    found = unknown_metrics(PIXEL_METRICS)
    found["identical_share"] = wilson(float(identical.mean()), len(identical))
    why_none = why_no_l2_ratio(train.stream)
    if not why_none:
        with counting(console, "generated: comparing pixels") as show:
            ratio = stream_l2_ratio(generated.stream, train.stream, show)
        found["l2_ratio_share"] = memorization.l2_ratio_share(ratio)
    return found, why_none


def _pixels(images: _ImageSet, name: str) -> NDArray[np.uint8]:
    loaded = images.stream.load(name)
    if loaded.pixels is None:
        raise UserError(loaded.problem)
    return loaded.pixels


def _summary(images: _ImageSet) -> ImageSetSummary:
    made_of = images.encoded[0].provenance
    return ImageSetSummary(
        path=str(images.stream.path),
        count=made_of.count,
        height=made_of.height,
        width=made_of.width,
        fingerprint=made_of.content_fingerprint,
        skipped=images.skipped,
    )


def _describe_reference(sources: Sources, sets: Mapping[str, _ImageSet]) -> str:
    if sources.reference is not None:
        return str(sources.reference)
    return {"heldout": "the held-out images", "train": "the training images"}[_reference_role(sets)]


def _notes(
    sources: Sources,
    sets: Mapping[str, _ImageSet],
    reports: tuple[EncoderReport, ...],
    given: Reference | None,
    why_no_ratio: str,
) -> list[str]:
    """What the reader of the figures must know."""
    notes = []
    if sources.reference is None and "heldout" not in sets:
        notes.append(
            "FID, precision and the like are measured against the training images themselves: COPYING "
            "IMPROVES THEM; give --reference or --heldout"
        )
    if given is not None and given.note:
        notes.append(given.note)
    for role, images in sets.items():
        if images.skipped:
            named = ", ".join(f"{name!r:.100}" for name in images.skipped[:_NAMED])
            more = ", ..." if len(images.skipped) > _NAMED else ""
            notes.append(f"{role}: {len(images.skipped):,} broken images were left out: {named}{more}")
        notes += [f"{role}: {line}" for line in (*images.stream.files.notes, *images.encoded[0].notes())]
    if why_no_ratio:
        notes.append(f"the l2 ratio is left out: {why_no_ratio}")
    missing = [key for key in ("kid", "precision") if math.isnan(reports[0].metrics[key].value)]
    if missing and (given is None or given.features is not None):
        notes.append(f"too few images for {' and '.join(missing)} and the like")
    return notes
