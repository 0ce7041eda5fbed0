"""A model's images against those of the run that it came from: what was trained on, and what was held out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from torch import Tensor

from pareto_amb.config import DataConfig, SweepConfig
from pareto_amb.data import ImageSet, Split, load_images, split
from pareto_amb.data.prepare import write_subset
from pareto_amb.data.stream import NamedImages
from pareto_amb.errors import UserError
from pareto_amb.evaluation.features import FeatureCache
from pareto_amb.evaluation.image_sets import Source, evaluate_image_sets
from pareto_amb.evaluation.report import EvaluationReport
from pareto_amb.production import draw_images, recorded_training
from pareto_amb.results.run_directory import RunDirectory


@dataclass(frozen=True, eq=False)
class Parts:
    """An image set, and what of it a model of `train_size` images was trained on."""

    image_set: ImageSet
    split: Split
    train_size: int

    def named(self, part: str, most: int | None = None) -> NamedImages:
        """The images of the `part` train or heldout, at most so many, with the names of their files."""
        index: Tensor = getattr(self.split, part)[:most]
        names = self.image_set.names
        called = f"the {part} images of {self.image_set.name}"
        chosen = tuple(names[k] for k in index.tolist()) if names else ()
        return NamedImages(self.image_set.images[index], called, chosen)


def take_parts(data: DataConfig, sizes: Sequence[int], seed: int, train_size: int | None) -> Parts:
    """The images of a sweep or a training, split as those do; of several `sizes` one must be named.

    UserError where the images cannot be used, or it is not clear which size is meant.
    """
    size = sizes[0] if train_size is None and len(sizes) == 1 else train_size
    if size is None or size not in sizes:
        raise UserError(f"choose one of its train sizes with --train-size: {', '.join(map(str, sizes))}")
    image_set = load_images(data)
    return Parts(image_set, split(image_set, size, seed, data.conditional), size)


def export_part(config: SweepConfig, part: str, train_size: int | None, output: Path) -> int:
    """Write the images that a sweep trains on, or holds out, to the zip `output`; how many these are.

    Raises UserError as `take_parts` does, where the part is empty, and for an output that cannot be written.
    """
    found = take_parts(config.data, config.space.train_size, config.seed, train_size)
    index = getattr(found.split, part).tolist()
    if not index:
        raise UserError(f"train size {found.train_size} leaves no image of {found.image_set.name} held out")
    return write_subset(found.image_set, index, output)


def check_run(
    run: RunDirectory,
    generated: Source | None,
    checkpoint: Path | None,
    *,
    train_size: int | None = None,
    count: int | None = None,
    skip_corrupt: bool = False,
    seed: int = 0,
    cache: FeatureCache | None = None,
    console: Console,
) -> EvaluationReport:
    """Evaluate `generated` images, or `count` that are drawn from `checkpoint`, against the images of a run.

    Encoders, preprocessing, threshold, resolution and the split are the run's; the threshold is calibrated
    where the run's was, on the same images. A checkpoint of `train` says itself how many images it was
    trained on. Raises UserError where a run, its images or a checkpoint cannot be used, or do not fit.
    """
    config = run.config()
    parts = _parts_of(run, config, checkpoint, train_size)
    evaluation = config.evaluation
    if checkpoint is not None:
        if config.data.captions:
            raise UserError(
                "--checkpoint: a text-to-image model is asked by captions; draw images by pareto-amb sample "
                "--prompt, and give them as --generated"
            )
        drawn = draw_images(checkpoint, count or evaluation.n_samples, seed, console)
        generated = NamedImages(drawn, f"samples of {run.name}")
    if generated is None:
        raise UserError("--run needs images to judge: give --generated, or --checkpoint to draw them from")
    found = evaluate_image_sets(
        generated,
        parts.named("train"),
        parts.named("heldout", evaluation.max_heldout),
        None,
        [evaluation.similarity_encoder, evaluation.fid_encoder],
        evaluation.thresholds[evaluation.primary_threshold] if evaluation.thresholds else None,
        evaluation.preprocessing,
        seed,
        quantile=evaluation.calibration_quantile,
        skip_corrupt=skip_corrupt,
        cache=cache,
        console=console,
    )
    source = () if checkpoint is None else (f"the generated images were drawn from {checkpoint}",)
    return _compared(replace(found, notes=(*source, *found.notes)), run, parts.train_size)


def _parts_of(
    run: RunDirectory, config: SweepConfig, checkpoint: Path | None, train_size: int | None
) -> Parts:
    """The images of the run, as the checkpoint, or a trial of that size, was trained on them."""
    trained = None if checkpoint is None else recorded_training(checkpoint)
    if trained is None:
        parts = take_parts(config.data, config.space.train_size, config.seed, train_size)
    else:
        if trained.train_size is None:
            raise UserError(f"{checkpoint}: trained on the whole set, so that no image was held out")
        parts = take_parts(trained.data, [trained.train_size], trained.seed, train_size)
    recorded = run.read_environment().get("data", {}).get("fingerprint")
    if recorded is not None and recorded != parts.image_set.fingerprint:
        raise UserError(
            f"{parts.image_set.name}: not the images of the run {run.name}; restore them, or name both image "
            "sets by --train and --heldout"
        )
    return parts


def _compared(found: EvaluationReport, run: RunDirectory, train_size: int) -> EvaluationReport:
    """The evaluation with a note where its threshold is another than the run's."""
    if not run.results.exists():
        return found
    rows = run.load().frame
    used = rows[rows.train_size == train_size].threshold.dropna()
    threshold = found.encoders[0].threshold
    if used.empty or threshold is None or abs(float(used.iloc[0]) - threshold) < 1e-4:
        return found
    note = f"the threshold of the run is {float(used.iloc[0]):.4f}, that of this evaluation {threshold:.4f}"
    return replace(found, notes=(note, *found.notes))
