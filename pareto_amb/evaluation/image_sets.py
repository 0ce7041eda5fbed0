"""From image sets to one report: which generated images are copies, how many, how sure."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from pareto_amb.config import EvaluationConfig
from pareto_amb.data.captions import captions_in, captions_of
from pareto_amb.data.stream import ImageSource, ImageStream, NamedImages, open_stream
from pareto_amb.diffusion.parallel import best_device
from pareto_amb.environment import describe_environment
from pareto_amb.errors import UserError
from pareto_amb.evaluation import fidelity, memorization
from pareto_amb.evaluation.caption_copies import CaptionReport, copy_shares, count_copies
from pareto_amb.evaluation.encoders import Encoder, Preprocessing, load_encoder
from pareto_amb.evaluation.features import (
    EncodedImages,
    FeatureCache,
    QualityReference,
    encode_images,
    is_feature_file,
    load_reference,
)
from pareto_amb.evaluation.frechet import fit_gaussian
from pareto_amb.evaluation.intervals import Estimate, bootstrap, wilson
from pareto_amb.evaluation.judges import BATCH_SIZE, ClipJudge, load_clip
from pareto_amb.evaluation.pixels import stream_l2_ratio, why_no_l2_ratio
from pareto_amb.evaluation.report import (
    CAPTIONS,
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
from pareto_amb.reading import expand
from pareto_amb.terminal import counting

ROLES = ("generated", "train", "heldout", "reference")
Source = ImageSource | NamedImages
AUTO_CAPTIONS = "auto"
"""The captions that stand beside the images."""
CLOSEST = 12
"""Pairs kept as pictures, the most similar first."""
BORDERLINE = 6
"""Pairs kept as pictures from just above the threshold, and from just below."""

_NAMED = 3
_MIN_FOR_KID = 4


@dataclass(frozen=True, eq=False)
class _ImageSet:
    """One opened image set in the features of every encoder; `names` (N,) are those of its rows."""

    stream: ImageStream
    encoded: list[EncodedImages]
    names: tuple[str, ...]
    skipped: tuple[str, ...]


def evaluate_image_sets(
    generated: str | Source,
    train: str | Source,
    heldout: str | Source | None = None,
    reference: str | Source | None = None,
    encoders: str | Encoder | Sequence[str | Encoder] | None = None,
    threshold: float | None = None,
    preprocessing: Preprocessing = "standard",
    seed: int = 0,
    *,
    quantile: float = EvaluationConfig().calibration_quantile,
    captions: str | Path | None = None,
    clip_model: str | None = None,
    skip_corrupt: bool = False,
    device: torch.device | str | None = None,
    cache: FeatureCache | None = None,
    console: Console | None = None,
) -> EvaluationReport:
    """Measure generated images against training images, in each of `encoders`.

    Image sets are folders, zips, or uint8 tensors and arrays (`ImageSource`); `reference`, which quality is
    measured against, may be a file of features or statistics. Encoders are given by name, by default those
    of a sweep, or loaded. `threshold` is the similarity above which an image is a copy in the first encoder.
    Without it, and in the other encoders, it is calibrated on every second held-out image, as their
    `quantile`; without those, figures that need one are unknown. `seed` draws the resamples of the intervals
    and random subsets. The device is the best there is; without a console nothing is printed.

    `captions` are those of the generated images: `auto`, which stand beside them, or a file of lines as in
    metadata.jsonl. Where the training images have captions too, copies are counted by them. `clip_model`, a
    folder or a name of the hub, scores the generated images by theirs.

    Raises UserError, naming the culprit, for images or captions that cannot be used, sets of different sizes
    or of fewer than 2 images, held-out images that are also training images, and features of another encoder.
    """
    started = time.monotonic()
    _check_threshold(threshold)
    if clip_model is not None and captions is None:
        raise UserError("--clip-model scores images by their captions: give --captions")
    sources, reference_file = _sort_sources(heldout, train, generated, reference)
    console = console or Console(quiet=True, force_jupyter=False)
    with ExitStack() as stack:
        streams = _open_streams(stack, sources, skip_corrupt)
        told = None if captions is None else _read_captions(captions, sources, streams)
        clip = None if clip_model is None else load_clip(clip_model, "--clip-model")
        loaded = _load_encoders(encoders, preprocessing, console)
        given = load_reference(reference_file, loaded, streams["generated"].size) if reference_file else None
        device = device or best_device()
        sets = _encode_sets(streams, loaded, console, device, cache)
        with console.status("comparing"):
            thresholds = [threshold, *[None] * (len(loaded) - 1)]
            reports = [_measure(sets, k, given, value, quantile, seed) for k, value in enumerate(thresholds)]
        report = _report(sets, tuple(reports), given, console)
        if told is not None:
            captions_found = _about_captions(report, told)
            if clip is not None:
                scores = _clip_scores(clip, sets["generated"], told.generated, device, console)
                captions_found = _scored(captions_found, scores, clip_model, clip.fingerprint, seed)
            notes = (*report.notes, *_on_captions(report, told))
            report = replace(report, captions=captions_found, notes=notes)
    took = {"seconds": round(time.monotonic() - started, 1)}
    return replace(report, environment={**report.environment, **took})


# --- reading --------------------------------------------------------------------------------------


def _check_threshold(threshold: float | None) -> None:
    if threshold is not None and not -1 <= threshold < 1:
        raise UserError(f"--threshold {threshold:g}: a cosine similarity is at least -1 and below 1")


def _sort_sources(
    heldout: str | Source | None,
    train: str | Source,
    generated: str | Source,
    reference: str | Source | None,
) -> tuple[dict[str, Source], Path | None]:
    """The sets that are images, by role, in the order in which they are encoded; and the reference file.

    The latter is the reference where it is a file of features or statistics. Raises UserError for a file of
    features where images are needed.
    """
    named = {"heldout": heldout, "train": train, "generated": generated, "reference": reference}
    sources: dict[str, Source] = {}
    for role, given in named.items():
        source = Path(given) if isinstance(given, str) else given
        if isinstance(source, Path) and is_feature_file(source):
            if role == "reference":
                return sources, source
            raise UserError(
                f"{source}: features, where the {role} images are needed; name a folder or zip of them "
                "(features serve as --reference)"
            )
        if source is not None:
            sources[role] = source
    return sources, None


def _load_encoders(
    wanted: str | Encoder | Sequence[str | Encoder] | None, preprocessing: Preprocessing, console: Console
) -> list[Encoder]:
    """The encoders, each once; by default those of a sweep."""
    default = EvaluationConfig()
    names = [wanted] if isinstance(wanted, (str, Encoder)) else wanted
    names = names or [default.similarity_encoder, default.fid_encoder]
    with console.status("loading encoders"):
        return [
            load_encoder(encoder, preprocessing) if isinstance(encoder, str) else encoder
            for encoder in dict.fromkeys(names)
        ]


def _open_streams(
    stack: ExitStack, sources: Mapping[str, Source], skip_corrupt: bool
) -> dict[str, ImageStream]:
    """The sets by role, open until `stack` is closed; UserError where counts or sizes do not fit."""
    streams = {
        role: stack.enter_context(open_stream(source, skip_corrupt, role)) for role, source in sources.items()
    }
    expected = streams["generated"].size
    for role, stream in streams.items():
        _require_two(role, stream, len(stream.names))
        if stream.size != expected:
            raise UserError(
                f"{stream.source}: the {role} images have {_size(stream.size)} pixels, the generated ones "
                f"{_size(expected)}; bring both to one size (see pareto-amb data prepare --help)"
            )
    return streams


def _require_two(role: str, stream: ImageStream, count: int) -> None:
    if count < 2:
        raise UserError(f"{stream.source}: {count} {role} image, at least 2 are needed")


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"


def _encode_sets(
    streams: Mapping[str, ImageStream],
    encoders: Sequence[Encoder],
    console: Console,
    device: torch.device | str,
    cache: FeatureCache | None,
) -> dict[str, _ImageSet]:
    """All sets in features, by role; held-out images that are training images are refused early."""
    sets: dict[str, _ImageSet] = {}
    for role, stream in streams.items():
        sets[role] = _encode_set(role, stream, encoders, console, device, cache)
        if role == "train" and "heldout" in sets:
            _refuse_overlap(sets["heldout"], sets["train"])
    return sets


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
    names = stream.names
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
            f"{heldout.stream.source}: {len(shared):,} of {len(heldout.names):,} held-out images are also "
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


@dataclass(frozen=True)
class _Told:
    """The captions of images by name, "" where there is none; of the training images None without any."""

    generated: Mapping[str, str]
    train: Mapping[str, str] | None


def _read_captions(
    given: str | Path, sources: Mapping[str, Source], streams: Mapping[str, ImageStream]
) -> _Told:
    """The captions of the generated images, and of the training images where they have any.

    Raises UserError where those of the generated images cannot be had.
    """
    generated, train = streams["generated"], streams["train"]
    if given == AUTO_CAPTIONS:
        captions = _beside(sources["generated"])
    else:
        captions = captions_in(expand(str(given)), generated.names)
    if captions is None or not any(captions):
        raise UserError(
            f"{generated.source}: no generated image has a caption; add a metadata.jsonl with file_name and "
            "text, or a.txt beside a.png, or name such a file by --captions"
        )
    theirs = _beside(sources["train"])
    return _Told(
        dict(zip(generated.names, captions, strict=True)),
        None if theirs is None else dict(zip(train.names, theirs, strict=True)),
    )


def _beside(source: Source) -> tuple[str, ...] | None:
    """The captions that stand beside images, None where there are none."""
    return captions_of(source) if isinstance(source, Path) else None


# --- measuring ------------------------------------------------------------------------------------


def _measure(
    sets: Mapping[str, _ImageSet],
    number: int,
    given: QualityReference | None,
    threshold: float | None,
    quantile: float,
    seed: int,
) -> EncoderReport:
    """All figures in the features of encoder `number`."""
    generated, train = sets["generated"].encoded[number], sets["train"].encoded[number]
    similarity, neighbour = memorization.nearest_neighbours(generated.features, train.features)
    yardstick = _yardstick(sets, number, threshold, quantile)
    unseen = yardstick.similarity
    metrics = unknown_metrics((*COPYING, *QUALITY))
    metrics |= _similarity_metrics(similarity, unseen, seed)
    threshold = next(iter(yardstick.thresholds), None)
    if threshold is not None:
        metrics |= _copy_estimates(similarity, neighbour, unseen, threshold, len(train.features))
    metrics["authpct"] = memorization.authpct(generated.features, train.features)
    reference, likeness = given or _reference_of(sets, number), None
    metrics |= _fidelity_metrics(generated.features, reference, seed)
    if "heldout" in sets:
        heldout = sets["heldout"].encoded[number].features
        metrics["c_t"] = memorization.c_t(generated.features, heldout, train.features)
        metrics |= _real_metrics(sets, number, reference, seed)
        likeness = fidelity.like_for_like(generated.features, heldout, seed)
    made_by = generated.provenance
    return EncoderReport(
        encoder=made_by.encoder,
        preprocessing=made_by.preprocessing,
        fingerprint=made_by.encoder_fingerprint,
        threshold=threshold,
        calibrated=yardstick.calibrated,
        metrics=metrics,
        similarity=similarity,
        neighbour=neighbour,
        heldout_similarity=unseen,
        likeness=likeness,
    )


def _yardstick(
    sets: Mapping[str, _ImageSet], number: int, threshold: float | None, quantile: float
) -> memorization.Yardstick:
    """The threshold, given or calibrated where there are held-out images, and their similarities."""
    given = None if threshold is None else (threshold,)
    if "heldout" not in sets:
        return memorization.Yardstick(given or (), torch.empty(0), calibrated=False)
    heldout, train = sets["heldout"].encoded[number], sets["train"].encoded[number]
    try:
        return memorization.measure_yardstick(heldout.features, train.features, given, quantile)
    except UserError as error:
        source, encoder = sets["heldout"].stream.source, heldout.provenance.encoder
        raise UserError(f"{source}: in {encoder}, {error}; or give a --threshold") from error


def _similarity_metrics(similarity: Tensor, unseen: Tensor, seed: int) -> dict[str, Estimate]:
    return {
        "similarity_mean": bootstrap(similarity, memorization.mean_similarity, seed=seed),
        "similarity_p95": bootstrap(similarity, memorization.similarity_p95, seed=seed),
        "heldout_similarity_mean": bootstrap(unseen, memorization.mean_similarity, seed=seed),
        "heldout_similarity_p95": bootstrap(unseen, memorization.similarity_p95, seed=seed),
    }


def _copy_estimates(
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


def _reference_of(sets: Mapping[str, _ImageSet], number: int) -> QualityReference:
    features = sets[_reference_role(sets)].encoded[number].features
    return QualityReference(fit_gaussian(features), features)


def _reference_role(sets: Mapping[str, _ImageSet]) -> str:
    return next(role for role in ("reference", "heldout", "train") if role in sets)


def _fidelity_metrics(generated: Tensor, reference: QualityReference, seed: int) -> dict[str, Estimate]:
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


# --- what real images reach -----------------------------------------------------------------------


def _real_metrics(
    sets: Mapping[str, _ImageSet], number: int, reference: QualityReference, seed: int
) -> dict[str, Estimate]:
    """The Fréchet distance of held-out images from the reference; none where there are too few."""
    rows, others = _yardstick_rows(sets, reference, seed)
    if len(rows) < 2:
        return {}
    features = sets["heldout"].encoded[number].features
    statistics = reference.statistics if others is None else fit_gaussian(features[others])
    return {"heldout_fid": fidelity.fid(features[rows], statistics)}


def _yardstick_rows(
    sets: Mapping[str, _ImageSet], reference: QualityReference, seed: int
) -> tuple[Tensor, Tensor | None]:
    """Held-out images, by position, whose Fréchet distance is measured, and those it is measured from.

    As many as there are generated ones, or all where there are fewer; none that are reference images too.
    Where the held-out images are the reference themselves, they are every second one, and the others stand
    for the reference; else None does, and the reference stays what it is.
    """
    rows, others = torch.arange(len(sets["heldout"].names)), None
    if not reference.source and _reference_role(sets) == "heldout":
        rows, others = (rows[1::2], rows[0::2]) if len(rows) > 3 else (rows[:0], None)
    return fidelity.draw(rows[~_in_reference(sets)[rows]], len(sets["generated"].names), seed), others


def _in_reference(sets: Mapping[str, _ImageSet]) -> Tensor:
    """Which of the held-out images, bool (M,), are among the images of --reference."""
    known = _positions_by_digest(sets["reference"]) if "reference" in sets else {}
    return torch.tensor([digest in known for digest in _digests(sets["heldout"])])


def _on_real_metrics(sets: Mapping[str, _ImageSet], reference: QualityReference) -> list[str]:
    """What to know when the Fréchet distance is compared with that of held-out images."""
    if "heldout" not in sets:
        return ["what Fréchet distance real images reach is unknown without --heldout"]
    rows, others = _yardstick_rows(sets, reference, 0)
    if len(rows) < 2:
        return ["what Fréchet distance real images reach is unknown: too few held-out images for it"]
    found = []
    if left_out := int(_in_reference(sets).sum()):
        found.append(
            f"{left_out:,} held-out images are reference images too: the Fréchet distance of held-out images "
            "is that of the others"
        )
    n, total = reference.statistics.n, len(sets["generated"].names)
    m = n if others is None else len(others)
    if (len(rows), m) != (total, n):
        found.append(
            f"the Fréchet distance of held-out images is that of {_against(len(rows), m)}, the one of "
            f"generated images that of {_against(total, n)}: fewer images make it larger, so compare them "
            "like for like"
        )
    return found


def _against(count: int, reference: int | None) -> str:
    return f"{count:,}" if reference is None else f"{count:,} against {reference:,}"


# --- the report -----------------------------------------------------------------------------------


def _report(
    sets: Mapping[str, _ImageSet],
    reports: tuple[EncoderReport, ...],
    given: QualityReference | None,
    console: Console,
) -> EvaluationReport:
    generated, train = sets["generated"], sets["train"]
    known = _positions_by_digest(train)
    identical = np.array([digest in known for digest in _digests(generated)])
    pixel_metrics, why_no_ratio = _pixel_metrics(generated, train, identical, console)
    ranking = _Ranking(generated, train, reports[0], identical)
    return EvaluationReport(
        image_sets={role: _summary(sets[role]) for role in ROLES if role in sets},
        reference=_describe_reference(given, sets),
        encoders=reports,
        pixel_metrics=pixel_metrics,
        copies=ranking.copies(),
        closest=ranking.closest(),
        borderline=ranking.borderline(),
        notes=tuple(_notes(sets, reports, given, why_no_ratio)),
        environment=describe_environment(),
    )


class _Ranking:
    """The generated images by their similarity to a training image, highest first."""

    def __init__(
        self, generated: _ImageSet, train: _ImageSet, found: EncoderReport, identical: NDArray[np.bool_]
    ) -> None:
        self._generated, self._train, self._found, self._identical = generated, train, found, identical
        self._order = torch.argsort(found.similarity, descending=True, stable=True).tolist()
        self._copied = torch.zeros(len(found.similarity), dtype=torch.bool)
        if found.threshold is not None:
            self._copied = memorization.is_copy(found.similarity, found.threshold)
        self._n_copies = int(self._copied.sum())

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
        train = self._train.names[int(self._found.neighbour[i])]
        return Copy(
            generated=self._generated.names[i],
            train=train,
            similarity=float(self._found.similarity[i]),
            identical=bool(self._identical[i]),
            train_original=self._train.stream.originals.get(train, ""),
        )

    def _pair(self, i: int) -> Pair:
        names = self._copy(i)
        return Pair(
            names=names,
            copied=bool(self._copied[i]),
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


def _about_captions(report: EvaluationReport, told: _Told) -> CaptionReport:
    """The copies by caption; unknown without a threshold."""
    metrics = unknown_metrics(CAPTIONS)
    if report.encoders[0].threshold is None:
        return CaptionReport((), metrics)
    copies, theirs = {copy.generated: copy.train for copy in report.copies}, told.train or {}
    left_out = set(report.image_sets["generated"].skipped)
    names = [name for name in told.generated if name not in left_out]
    prompts = count_copies(
        [told.generated[name] for name in names],
        [name in copies for name in names],
        [theirs.get(copies.get(name, ""), "") for name in names],
        list(theirs.values()),
    )
    return CaptionReport(prompts, metrics | copy_shares(prompts, told.train is not None))


def _clip_scores(
    clip: ClipJudge,
    images: _ImageSet,
    captions: Mapping[str, str],
    device: torch.device | str,
    console: Console,
) -> Tensor:
    """The CLIP scores (M,) of the images that have a caption."""
    scores: list[Tensor] = []
    pixels: list[NDArray[np.uint8]] = []
    words: list[str] = []

    def score() -> None:
        if pixels:
            scores.append(clip.score(torch.from_numpy(np.stack(pixels)), words, device))
        pixels.clear()
        words.clear()

    with counting(console, "generated: scoring captions") as show:
        for done, image in enumerate(images.stream.images(), start=1):
            if image.pixels is not None and captions[image.name]:
                pixels.append(image.pixels)
                words.append(captions[image.name])
            if len(pixels) == BATCH_SIZE:
                score()
            show(done, len(images.stream.names))
        score()
    return torch.cat(scores) if scores else torch.empty(0)


def _scored(
    found: CaptionReport, scores: Tensor, clip_model: str | None, fingerprint: str, seed: int
) -> CaptionReport:
    """With the mean of the CLIP scores."""
    mean = bootstrap(scores, lambda values: values.mean(-1), seed=seed)
    metrics = {**found.metrics, "clip_score": mean}
    return replace(found, metrics=metrics, clip_model=clip_model, clip_fingerprint=fingerprint)


def _on_captions(report: EvaluationReport, told: _Told) -> list[str]:
    """What the reader of the captions' figures must know."""
    found = []
    for role, captions in (("generated", told.generated), ("train", told.train or {})):
        if missing := list(captions.values()).count(""):
            found.append(f"{role}: {missing:,} of {len(captions):,} images have no caption")
    if told.train is None:
        found.append(
            "the training images have no captions: whether copies are of the image with that very caption is "
            "unknown"
        )
    if report.encoders[0].threshold is None:
        found.append("which captions trigger copies is unknown without --heldout or --threshold")
    return found


def _pixels(images: _ImageSet, name: str) -> NDArray[np.uint8]:
    loaded = images.stream.load(name)
    if loaded.pixels is None:
        raise UserError(loaded.problem)
    return loaded.pixels


def _summary(images: _ImageSet) -> ImageSetSummary:
    made_of = images.encoded[0].provenance
    return ImageSetSummary(
        path=images.stream.source,
        count=made_of.count,
        height=made_of.height,
        width=made_of.width,
        fingerprint=made_of.content_fingerprint,
        skipped=images.skipped,
    )


def _describe_reference(given: QualityReference | None, sets: Mapping[str, _ImageSet]) -> str:
    if given is not None:
        return given.source
    role = _reference_role(sets)
    if role == "reference":
        return sets[role].stream.source
    return {"heldout": "the held-out images", "train": "the training images"}[role]


def _notes(
    sets: Mapping[str, _ImageSet],
    reports: tuple[EncoderReport, ...],
    given: QualityReference | None,
    why_no_ratio: str,
) -> list[str]:
    """What the reader of the figures must know."""
    notes = []
    if given is None and _reference_role(sets) == "train":
        notes.append(
            "FID, precision and the like are measured against the training images themselves: COPYING "
            "IMPROVES THEM; give --reference or --heldout"
        )
    if given is not None and given.note:
        notes.append(given.note)
    notes += _on_real_metrics(sets, given or _reference_of(sets, 0))
    for role, images in sets.items():
        if images.skipped:
            named = ", ".join(f"{name!r:.100}" for name in images.skipped[:_NAMED])
            more = ", ..." if len(images.skipped) > _NAMED else ""
            notes.append(f"{role}: {len(images.skipped):,} broken images were left out: {named}{more}")
        notes += [f"{role}: {line}" for line in (*images.stream.notes, *images.encoded[0].notes())]
    if why_no_ratio:
        notes.append(f"the l2 ratio is left out: {why_no_ratio}")
    missing = [key for key in ("kid", "precision") if math.isnan(reports[0].metrics[key].value)]
    if missing and (given is None or given.features is not None):
        notes.append(f"too few images for {' and '.join(missing)} and the like")
    return notes
