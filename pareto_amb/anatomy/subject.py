"""What `pareto-amb explain` looks at: the images of a run, and the models that it left."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from rich.console import Console
from torch import Tensor

from pareto_amb.config import SweepConfig, TrainingRun
from pareto_amb.data import ImageSet, Split, TrainingSet, load_images, split, take_training_set
from pareto_amb.declared import BASELINE
from pareto_amb.diffusion.checkpoint import SamplingOptions, load_denoiser, sampling_options, unpack
from pareto_amb.diffusion.denoiser import Denoiser, PixelSpace
from pareto_amb.diffusion.parallel import World, best_device
from pareto_amb.errors import UserError
from pareto_amb.evaluation.encoders import Encoder, load_encoder
from pareto_amb.printable import printable, reason
from pareto_amb.production import train_model
from pareto_amb.reading import read_file
from pareto_amb.redaction import redact
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.run import Run
from pareto_amb.results.run_directory import checkpoint_name
from pareto_amb.results.size import SizeResults
from pareto_amb.storage import MAX_OBJECT_BYTES, Storage


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model. `key` is ddpm, other or more; the last is one of more data, from FILE where given."""

    key: str
    denoiser: Denoiser
    asked: SamplingOptions
    images_seen: int | None = None
    method: str = BASELINE
    parameters: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    trial_id: str = ""
    train_size: int | None = None
    file: str = ""

    @property
    def sigma_tn(self) -> float:
        """Above which level it saw noisy copies only; 0 for a method without one."""
        return self.parameters.get("sigma_tn", 0.0)


@dataclass(frozen=True, eq=False)
class Subject:
    """A run's images of one train size, its DDPM first among the `models`, and how copies are told.

    `trial_id` is the trial that the second model is of, whose row the curves are of; empty where there is
    none. `notes` are what a reader must know of the choice. `more` is a model of much more data.
    """

    run: Run
    size: SizeResults
    recommendation: Recommendation
    image_set: ImageSet
    parts: Split
    models: Sequence[Model]
    trial_id: str
    notes: Sequence[str]
    encoder: Encoder
    threshold: float
    device: torch.device
    more: Model | None = None

    @property
    def config(self) -> SweepConfig:
        return self.run.config

    @cached_property
    def train(self) -> TrainingSet:
        """What the models were trained on."""
        return take_training_set(self.image_set, self.parts.train, self.config.data.conditional)

    @cached_property
    def heldout(self) -> TrainingSet:
        """What none of them has seen."""
        return take_training_set(self.image_set, self.parts.heldout, self.config.data.conditional)

    def last_heldout(self, count: int) -> TrainingSet:
        """The held-out images that more training data takes in last."""
        n = len(self.heldout.images)
        return self.heldout.at(torch.arange(max(n - count, 0), n))

    @cached_property
    def clean(self) -> Tensor:
        """The training images (N, C, H, W) in [-1, 1], on the device."""
        return self.models[0].denoiser.space.encode(self.train.images.to(self.device)).mean

    def encode(self, images: Tensor) -> Tensor:
        """Features (B, D) of uint8 images, in which copies are told."""
        return self.encoder.encode(images, self.config.evaluation.batch_size, self.device)


def read_subject(path: Path, train_size: int | None, trust: bool, console: Console) -> Subject:
    """What there is to explain of a run directory, for `train_size`, or for the only one.

    Raises UserError, before images are loaded, for a run of text-to-image models, one without a
    recommendation or checkpoints, or whose storage lies elsewhere while it is not to `trust`; later for
    images or encoders that are not those of the run, or images of which none is held out.
    """
    run = Run.read(path, trust)
    shown = printable(path)
    if run.config.data.captions:
        raise UserError(f"{shown}: trained on captions; explain is for models of pixels")
    recommendation = _recommendation(run, train_size, shown)
    size, device = run.size(recommendation.train_size), best_device()
    checkpoints = _Checkpoints.of(run, shown, device)
    ddpm = _baseline(size, checkpoints)
    other, trial_id, notes = _other(size, recommendation, checkpoints)
    image_set = _images(run, shown, console)
    parts = split(image_set, size.train_size, run.config.seed, run.config.data.conditional)
    if not len(parts.heldout):
        raise UserError(
            f"{shown}: no image is held out at train size {size.train_size}; nothing to compare with"
        )
    models = [ddpm, *([other] if other else [])]
    for model in models:
        _check_shape(model, image_set, checkpoint_name(model.trial_id))
    with console.status("loading the encoder"):
        encoder = _encoder(run, shown)
    return Subject(
        run=run,
        size=size,
        recommendation=recommendation,
        image_set=image_set,
        parts=parts,
        models=models,
        trial_id=trial_id,
        notes=notes,
        encoder=encoder,
        threshold=float(size.full.threshold.iloc[0]),
        device=device,
    )


def _recommendation(run: Run, train_size: int | None, shown: str) -> Recommendation:
    found = run.recommendations
    if not found:
        raise UserError(f"{shown}: holds no recommendation; make one with pareto-amb recommend {shown}")
    if train_size is None and len(found) == 1:
        train_size = next(iter(found))
    if train_size not in found:
        known = ", ".join(map(str, found))
        raise UserError(f"{shown}: choose one of its train sizes with --train-size: {known}")
    return found[train_size]


@dataclass(frozen=True)
class _Checkpoints:
    """The models that a run left, loaded onto `device`; of files, only those inside `folder` where given."""

    storage: Storage
    folder: Path | None
    device: torch.device

    @classmethod
    def of(cls, run: Run, shown: str, device: torch.device) -> Self:
        """Those of a run; UserError where they lie in a storage, and the run is not to be trusted."""
        place = run.pictures
        if place is None:
            elsewhere = printable(redact(run.config.storage or ""))
            raise UserError(f"{shown}: its checkpoints lie elsewhere, in {elsewhere}; {_TRUST}")
        return (
            cls(place, None, device)
            if isinstance(place, Storage)
            else cls(Storage(str(place)), place, device)
        )

    def model(self, key: str, row: Mapping[str, Any], parameters: Sequence[str] = ()) -> Model | None:
        """The model of a trial with `parameters`, of which `row` is a row of the table; None without one."""
        trial_id = str(row["trial_id"])
        origin, content = checkpoint_name(trial_id), self._read(checkpoint_name(trial_id))
        if content is None:
            return None
        seen = unpack(content, origin)[0].get("images_seen")
        return Model(
            key=key,
            denoiser=load_denoiser(content, origin, self.device),
            asked=sampling_options(content, origin),
            images_seen=seen if isinstance(seen, int) else None,
            method=str(row["method"]),
            parameters={name: float(row[name]) for name in parameters},
            seed=int(row["seed"]),
            trial_id=trial_id,
        )

    def _read(self, name: str) -> bytes | None:
        place = printable(redact(f"{self.storage.uri}/{name}"))
        if self.folder is not None:
            path, folder = os.path.realpath(self.folder / name), os.path.realpath(self.folder)
            if not Path(path).is_relative_to(folder):
                raise UserError(f"{place}: lies outside the run directory; {_TRUST}")
        try:
            return self.storage.read(name)
        except (OSError, ValueError) as error:
            raise UserError(f"{place}: cannot be read ({redact(reason(error))}); try again") from error

    def missing(self, what: str) -> UserError:
        """Says that no checkpoint of something is left."""
        place = printable(redact(f"{self.storage.uri}/checkpoints"))
        return UserError(
            f"{place}: no checkpoint of {printable(what)} is left; restore it, or sweep again: what is "
            "explained are the models themselves"
        )


_TRUST = "give --trust-run if the run is your own"


def _baseline(size: SizeResults, checkpoints: _Checkpoints) -> Model:
    """The first seed of DDPM at full budget whose checkpoint is there."""
    rows = size.full[size.full.method == BASELINE].sort_values("seed")
    for row in rows.to_dict("records"):
        model = checkpoints.model("ddpm", {str(name): value for name, value in row.items()})
        if model is not None:
            return model
    raise checkpoints.missing(f"DDPM with {size.train_size} training images")


def _other(
    size: SizeResults, recommendation: Recommendation, checkpoints: _Checkpoints
) -> tuple[Model | None, str, list[str]]:
    """The recommended model, the trial that it is of, and what is to be said of it.

    Where DDPM stopped early is recommended, the best full training of another method takes its place: the
    model of that stop is not kept.
    """
    trial_id, stop, notes = recommendation.trial_id, recommendation.images_seen or size.full_images, []
    if recommendation.method == BASELINE:
        said = f"Recommended is DDPM itself, after {stop:,} images"
        trial_id, stop = _best_full(size, recommendation), size.full_images
        if not trial_id:
            return None, "", [f"{said}; no full training of another method competes with it."]
        notes.append(
            f"{said}; the model of that stop is not kept. Beside DDPM stands what the policy takes among "
            "full trainings."
        )
    model = _at_stop(size, trial_id, stop, checkpoints)
    if model.images_seen != stop:
        notes.append(
            f"The model of {trial_id} at the stop that is meant, {stop:,} images, is not kept; the one shown "
            f"has seen {model.images_seen or 0:,}."
        )
    return model, trial_id, notes


def _at_stop(size: SizeResults, trial_id: str, stop: int, checkpoints: _Checkpoints) -> Model:
    """The model of a trial, or of a repeat, that has seen `stop` images; else the trial's own, or a repeat's.

    A repeat comes first: the trial was picked for its figures. UserError where no checkpoint is left.
    """
    rows = size.frame[(size.frame.trial_id == trial_id) | (size.frame.confirms == trial_id)]
    names = size.declared.method(str(rows.method.iloc[0])).parameter_names
    found = []
    for name in [*rows.trial_id[rows.confirms == trial_id].unique(), trial_id]:
        model = checkpoints.model("other", rows[rows.trial_id == name].iloc[-1].to_dict(), list(names))
        if model is not None:
            found.append(model)
            if model.images_seen == stop:
                return model
    if not found:
        raise checkpoints.missing(trial_id)
    return found[-1]


def _best_full(size: SizeResults, recommendation: Recommendation) -> str:
    """The trial that the policy takes among full trainings, empty where it is DDPM."""
    best = recommendation.equal_budget
    if best is None or best.method == BASELINE:
        return ""
    rows = size.full[(size.full.method == best.method) & (size.full.controls == "")]
    for name, value in best.chosen.items():
        rows = rows[(rows[name] - value).abs() <= 1e-9 * abs(value)]
    return str(rows.confirms.where(rows.confirms != "", rows.trial_id).iloc[0]) if len(rows) else ""


def _images(run: Run, shown: str, console: Console) -> ImageSet:
    """The images of the run, which must be the ones that it was trained on."""
    with console.status("loading images"):
        image_set = load_images(run.config.data)
    known = dict(run.environment).get("data.fingerprint")
    if known not in (None, image_set.fingerprint):
        raise UserError(
            f"{shown}: {printable(image_set.name)} has changed since the sweep; restore the images that it "
            "was trained on"
        )
    return image_set


def _encoder(run: Run, shown: str) -> Encoder:
    evaluation = run.config.evaluation
    encoder = load_encoder(evaluation.similarity_encoder, evaluation.preprocessing)
    known = dict(run.environment).get("encoders.similarity.fingerprint")
    if known not in (None, encoder.fingerprint):
        raise UserError(
            f"{shown}: {encoder.name} has other weights than in the sweep, by which its threshold was set; "
            "restore them"
        )
    return encoder


def _check_shape(model: Model, image_set: ImageSet, origin: str) -> None:
    space, shape = model.denoiser.space, tuple(image_set.images.shape[1:])
    if not isinstance(space, PixelSpace) or space.shape != shape:
        raise UserError(
            f"{printable(origin)}: its model is of other images than the run's, which are {shape}"
        )


def with_checkpoint(subject: Subject, path: Path) -> Subject:
    """The subject with the model of a checkpoint beside its own. UserError where it is of other images."""
    content = read_file(path, MAX_OBJECT_BYTES)
    denoiser = load_denoiser(content, str(path), subject.device)
    model = Model("more", denoiser, sampling_options(content, str(path)), file=path.name)
    _check_shape(model, subject.image_set, str(path))
    classes = denoiser.architecture.get("label_dim", 0)
    if classes not in (0, subject.models[0].denoiser.architecture.get("label_dim", 0)):
        raise UserError(f"{printable(path)}: its model is of other classes than the run's")
    return replace(subject, more=model)


def check_more_data(subject: Subject, count: int, shown: int) -> None:
    """Raise UserError unless `count` is more than the train size, and leaves the last `shown` images out."""
    everything = split(
        subject.image_set, len(subject.image_set.images), subject.config.seed, subject.config.data.conditional
    )
    kept = set(subject.last_heldout(shown).ids)
    most = next(k for k, each in enumerate(everything.train.tolist()) if each in kept)
    if not subject.size.train_size < count <= most:
        raise UserError(
            f"--more-data {count}: give more than the {subject.size.train_size} images of the run and at "
            f"most {most}, so that images are held out to be shown"
        )


def with_more_data(subject: Subject, count: int, folder: Path, console: Console) -> Subject:
    """The subject with DDPM, trained on `count` images as the run trains, in `folder`, beside its models.

    A training that is there is taken, or gone on with. Raises what `train_model` raises.
    """
    config = subject.config
    training = TrainingRun(
        data=config.data,
        train_size=count,
        method=BASELINE,
        parameters={},
        seed=config.seed,
        training=config.training,
        sampling=config.sampling,
    )
    console.print(f"training DDPM on {count:,} images")
    checkpoint = train_model(training, folder, console, World(device=subject.device))
    found = with_checkpoint(subject, checkpoint)
    assert found.more is not None
    return replace(found, more=replace(found.more, train_size=count, file=""))
