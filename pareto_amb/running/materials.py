"""What a sweep is made of, loaded and checked on the driver before Ray starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from rich.console import Console
from torch import Tensor

from pareto_amb.config import AutoRange, ScheduleConfig, SweepConfig
from pareto_amb.data import ImageSet, Split, TrainingSet, load_images, split, take_training_set
from pareto_amb.data.encoded import EncodedFiles
from pareto_amb.declared import BASELINE, Declared
from pareto_amb.diffusion.checkpoint import read_initial_weights
from pareto_amb.diffusion.conditioning import training_conditioning
from pareto_amb.diffusion.methods import METHODS, Method
from pareto_amb.diffusion.networks import build_denoiser
from pareto_amb.diffusion.parallel import best_device
from pareto_amb.diffusion.speed import require_compiler
from pareto_amb.diffusion.text.build import make_text_model
from pareto_amb.diffusion.text.parts import TextModel
from pareto_amb.diffusion.text.prepare import is_encoded, with_text
from pareto_amb.diffusion.theory import TrainingPosterior
from pareto_amb.diffusion.trainer import OPTIMIZERS, VERSION, noise_distribution
from pareto_amb.errors import UserError
from pareto_amb.evaluation.encoders import Encoder, load_encoder
from pareto_amb.evaluation.judges import Judge, load_judge
from pareto_amb.evaluation.probes import N_PROBES, Probes, make_probes
from pareto_amb.evaluation.prompts import Prompts, make_prompts
from pareto_amb.printable import reason
from pareto_amb.randomness import make_generator
from pareto_amb.schedule import Schedule
from pareto_amb.search.proposals import distributions
from pareto_amb.sweep_file import trained_methods


@dataclass(frozen=True)
class LoadedImages:
    """The images, how they are split for each train size, and what a model of text is made of.

    `training_sets` are what is trained on, `heldout_probes` the held-out images whose denoising is probed.
    `files` has what was encoded of both, once it was.
    """

    image_set: ImageSet
    splits: dict[int, Split]
    training_sets: dict[int, TrainingSet]
    heldout_probes: dict[int, TrainingSet]
    text_model: TextModel | None
    files: EncodedFiles | None = field(default=None, kw_only=True)

    @property
    def unencoded(self) -> bool:
        """Whether images or captions are still to be encoded, by networks that are not trained."""
        return self.text_model is not None and is_encoded(self.text_model) and self.files is None

    def told(self, model: TextModel) -> "LoadedImages":
        """The same with what the model encodes, and its captions, worked out in this process."""
        training, heldout = (
            {size: with_text(images, model, best_device()) for size, images in sets.items()}
            for sets in (self.training_sets, self.heldout_probes)
        )
        return replace(self, training_sets=training, heldout_probes=heldout)


@dataclass(frozen=True)
class Materials(LoadedImages):
    """The images, the encoders, and who judges how well images show their captions."""

    fid_encoder: Encoder
    similarity_encoder: Encoder
    judge: Judge | None

    def collapse_levels(self, config: SweepConfig) -> dict[int, float]:
        """The collapse level of the training images of each train size, EDM units."""
        return {
            size: _known_level(config, size)
            or TrainingPosterior(where_denoised(images), config.seed).collapse_level()
            for size, images in self.training_sets.items()
        }

    def probes(self, config: SweepConfig, collapse_levels: Mapping[int, float]) -> dict[int, Probes]:
        """What the trials of each train size denoise, around its collapse level."""
        return {
            size: make_probes(train, self.heldout_probes[size], collapse_levels[size], config.seed)
            for size, train in self.training_sets.items()
        }

    def prompts(self, config: SweepConfig) -> dict[int, Prompts]:
        """The captions that the trials of each train size are sampled by; none without captions."""
        known, found = self.image_set.captions or (), {}
        for size, part in self.splits.items() if known else ():
            train, heldout = ([known[k] for k in index.tolist()] for index in (part.train, part.heldout))
            found[size] = make_prompts(train, heldout, config.seed)
        return found

    def schedule(self, config: SweepConfig) -> Schedule | None:
        """The steps that the network's noise levels come in, None where it takes any level."""
        noise = self.text_model.schedule if self.text_model else config.training.noise
        return noise.schedule if isinstance(noise, ScheduleConfig) else None

    def fingerprints(self) -> dict[str, Any]:
        """What identifies data, encoders and the training: a resumed sweep must find the same."""
        encoders = {"fid": self.fid_encoder, "similarity": self.similarity_encoder}
        return {
            "data": {
                "name": self.image_set.name,
                "images": len(self.image_set.images),
                "fingerprint": self.image_set.fingerprint,
                "notes": list(self.image_set.notes),
            },
            "encoders": {
                role: {
                    "name": e.name,
                    "preprocessing": e.preprocessing,
                    "fingerprint": e.fingerprint,
                }
                for role, e in encoders.items()
            }
            | ({"judge": {"fingerprint": self.judge.fingerprint}} if self.judge else {}),
            "training": {"version": VERSION, **self._pipeline()},
        }

    def _pipeline(self) -> dict[str, str]:
        """What identifies the pretrained pipeline that is trained, if any."""
        fingerprint = self.text_model.fingerprint if self.text_model else ""
        return {"pipeline": fingerprint} if fingerprint else {}


def where_denoised(images: TrainingSet) -> Tensor:
    """Training images (N, C, H, W) where the model denoises them: uint8 pixels, or latents."""
    return images.images if images.encoded is None else images.encoded.mean


def _known_level(config: SweepConfig, train_size: int) -> float | None:
    """The collapse level of the training images where `auto` has measured it."""
    ranges = [
        found[train_size]
        for found in (config.space.__pydantic_extra__ or {}).values()
        if isinstance(found, dict)
    ]
    return next((found.collapse_level for found in ranges if found.collapse_level is not None), None)


def load_materials(
    config: SweepConfig,
    console: Console,
    methods: Mapping[str, type[Method]] = METHODS,
    fetch: bool = True,
) -> Materials:
    """Load images and encoders, and check that the network fits each of the methods that are compared.

    What a model of text encodes is left to a worker. Without `fetch` no model is fetched that the
    configuration names by its name on the hub.
    UserError names what cannot be used.
    """
    images = _load_images(config, console, fetch)
    _check_training(config, images.image_set, methods, images.text_model)
    evaluation = config.evaluation
    with console.status("loading encoders"):
        fid = load_encoder(evaluation.fid_encoder, evaluation.preprocessing)
        similarity = fid
        if evaluation.similarity_encoder != evaluation.fid_encoder:
            similarity = load_encoder(evaluation.similarity_encoder, evaluation.preprocessing)
        judge = _load_judge(config, images, fetch)
    return Materials(**vars(images), fid_encoder=fid, similarity_encoder=similarity, judge=judge)


def _load_judge(config: SweepConfig, images: LoadedImages, fetch: bool) -> Judge | None:
    """The judge of the sweep, which may learn from images that no trial is trained on."""
    if config.evaluation.judge != "digits":
        return load_judge(config.evaluation, images.image_set.images[:0], (), fetch)
    unseen, captions = images.splits[max(images.splits)].heldout, images.image_set.captions or ()
    known = [captions[k] for k in unseen.tolist()]
    return load_judge(config.evaluation, images.image_set.images[unseen], known)


def load_training_images(config: SweepConfig, console: Console, fetch: bool = True) -> LoadedImages:
    """Load the images and split them for each train size; for a model of text, encode them in this process.

    UserError names what cannot be used.
    """
    images = _load_images(config, console, fetch)
    if images.text_model is None or not images.unencoded:
        return images
    with console.status("encoding images and captions"):
        return images.told(images.text_model)


def _load_images(config: SweepConfig, console: Console, fetch: bool) -> LoadedImages:
    with console.status("loading images"):
        image_set = load_images(config.data)
    for note in image_set.notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    sizes, conditional = config.space.train_size, config.data.conditional
    splits = {size: split(image_set, size, config.seed, conditional) for size in sizes}
    return take_images(config, image_set, splits, console, fetch)


def take_images(
    config: SweepConfig,
    image_set: ImageSet,
    splits: Mapping[int, Split],
    console: Console,
    fetch: bool = True,
) -> LoadedImages:
    """The training images of each train size and held-out ones to probe, not yet encoded.

    UserError where a model of text cannot be had.
    """
    conditional = config.data.conditional
    training = {size: take_training_set(image_set, part.train, conditional) for size, part in splits.items()}
    heldout = {
        size: take_training_set(image_set, part.heldout[:N_PROBES], conditional)
        for size, part in splits.items()
    }
    text_model = make_text_model(config, image_set.captions or (), fetch)
    images = LoadedImages(image_set, dict(splits), training, heldout, text_model)
    return images if text_model is None or images.unencoded else images.told(text_model)


def resolve_auto(
    config: SweepConfig, declared: Declared, training_sets: Mapping[int, TrainingSet]
) -> SweepConfig:
    """The configuration with a range for each train size in the place of each `auto` in `space`.

    A range, or what an earlier call put there, stays as it is. Raises UserError where no range can be set.
    """
    space, sigma_max = config.space, config.sampling.sigma_max
    for name in space.auto_parameters():
        find = declared.parameters[name].auto
        if find is None:
            raise UserError(f"space.{name}: auto means nothing here; give a range")
        ranges = {
            size: AutoRange.model_validate(
                find(where_denoised(images), config.seed, sigma_max), from_attributes=True
            )
            for size, images in training_sets.items()
        }
        space = space.with_ranges(name, ranges)
    return config.model_copy(update={"space": space})


def describe_auto(config: SweepConfig, declared: Declared) -> list[str]:
    """What each `auto` became, one line a train size; none for ranges that were given."""
    return [
        f"{name}: auto: {_origin(size, found)}searched {found.low:g} to {found.high:g}"
        f"{parameter.at_step(found.low, found.high)}"
        for name, parameter in declared.parameters.items()
        if isinstance(ranges := config.space[name], dict)
        for size, found in ranges.items()
    ]


def _origin(train_size: int, found: AutoRange) -> str:
    level = f" collapse level {found.collapse_level:g} ->" if found.collapse_level is not None else ""
    return f"with {train_size:,} images{level} "


def rehearse(
    config: SweepConfig, declared: Declared, methods: Mapping[str, type[Method]], materials: Materials
) -> None:
    """Raise UserError where a method's first training step would fail, `auto` being resolved.

    Each makes examples of two images; the network and the optimizer are tried without memory for weights.
    """
    size, training_set = next(iter(materials.training_sets.items()))
    for name in trained_methods(config, methods):
        try:
            _first_step(config, declared, methods[name], size, training_set, materials.text_model)
        except UserError:
            raise
        except Exception as error:  # an own method raises what it likes
            raise UserError(
                f"method {name}: its first training step fails ({type(error).__name__}: {reason(error)}); "
                f"correct it, or {_without(name, config)}"
            ) from error


def _without(name: str, config: SweepConfig) -> str:
    """How a sweep is had without a method."""
    competes = name in (BASELINE, *config.search.methods)
    return f"take {name} out of search.methods" if competes else "set search.controls to false"


def _first_step(
    config: SweepConfig,
    declared: Declared,
    method: type[Method],
    size: int,
    training_set: TrainingSet,
    text_model: TextModel | None,
) -> None:
    training, seed = config.training, config.seed
    noise = noise_distribution(training)
    searched = (
        {} if method.name == BASELINE else distributions(declared.method(method.name), config.space, size)
    )
    chosen = {
        name: found.low if isinstance(found, FloatDistribution) else found.choices[0]
        for name, found in searched.items()
        if isinstance(found, (FloatDistribution, CategoricalDistribution))
    }
    tried = method.create(method.resolve(chosen, noise), config.sampling.sigma_max)
    training_set = training_set.first(2)
    channels, height, width = training_set.images.shape[1:]
    with torch.device("meta"):
        denoiser = build_denoiser(
            training, (channels, height, width), training_set.n_classes, method, text_model
        )
    OPTIMIZERS[training.optimizer](
        [p for p in denoiser.parameters() if p.requires_grad],
        lr=training.learning_rate,
        betas=training.betas,
        eps=training.eps,
        weight_decay=training.weight_decay,
    )
    encoded = training_set.encoded or denoiser.space.encode(training_set.images)
    material, told = tried.material(encoded.mean, training_set.ids, seed), training_conditioning(training_set)
    generator, index = make_generator(seed, "rehearsal"), torch.arange(training_set.n_images)
    examples = tried.draw(material, index, noise, generator, lambda moved, exact: (moved, {}))
    examples = examples.told(tried.tell(told, _untold(told), generator))
    with torch.no_grad():
        meta = {name: value.to("meta") for name, value in examples.conditioning.items()}
        denoiser(examples.noisy.to("meta"), examples.sigma.to("meta"), meta)
        memory, sigma_data = tried.first_memory(), denoiser.space.sigma_data
        tried.losses(lambda x, *_: torch.zeros_like(x), examples, sigma_data, memory).mean()


def _untold(told: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What stands for nothing said, in a rehearsal: of captions one of no words."""
    return {name: torch.zeros_like(value[:1]) for name, value in told.items() if name != "labels"}


def _check_training(
    config: SweepConfig,
    image_set: ImageSet,
    methods: Mapping[str, type[Method]],
    text_model: TextModel | None,
) -> None:
    """Raise UserError when a trial could not start: its network, first weights or compiler do not fit."""
    training, data = config.training, config.data
    shape = (data.channels, data.resolution, data.resolution)
    label_dim = image_set.n_classes if data.conditional else 0
    for name in trained_methods(config, methods):
        with torch.device("meta"):
            denoiser = build_denoiser(training, shape, label_dim, methods[name], text_model)
            plain = build_denoiser(training, shape, label_dim, methods[BASELINE], text_model)
        branches = config.search.branch_from is not None and name in config.search.methods
        if branches and denoiser.architecture != plain.architecture:
            raise UserError(
                f"search.branch_from: {name} trains another network than DDPM, which it cannot go on from; "
                f"set it to null, or {_without(name, config)}"
            )
        if training.init_from is not None:
            try:
                read_initial_weights(training.init_from, denoiser.architecture)
            except UserError as error:
                if name == BASELINE:
                    raise
                raise UserError(f"{error}; {_without(name, config)}") from error
    if training.compile:
        require_compiler()
