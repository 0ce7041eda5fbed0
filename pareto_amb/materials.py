"""What a sweep is made of, loaded and checked on the driver before Ray starts."""

from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from pareto_amb.config import SweepConfig
from pareto_amb.data import ImageSet, Split, TrainingSet, load_images, split, take_training_set
from pareto_amb.diffusion.augment import AUGMENT_DIM
from pareto_amb.diffusion.checkpoint import read_initial_weights
from pareto_amb.diffusion.networks import create_network
from pareto_amb.diffusion.speed import require_compiler
from pareto_amb.evaluation.encoders import Encoder, load_encoder
from pareto_amb.theory import TrainingPosterior, auto_range


@dataclass(frozen=True)
class Materials:
    """The images, how they are split for each train size, and the encoders."""

    image_set: ImageSet
    splits: dict[int, Split]
    fid_encoder: Encoder
    similarity_encoder: Encoder

    def training_sets(self, conditional: bool) -> dict[int, TrainingSet]:
        """The training images of each train size."""
        return {
            size: take_training_set(self.image_set, part.train, conditional)
            for size, part in self.splits.items()
        }

    def fingerprints(self) -> dict[str, Any]:
        """What identifies the data and the encoders: a resumed sweep must find the same."""
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
            },
        }


def load_materials(config: SweepConfig, console: Console) -> Materials:
    """Load images and encoders, and check that the network fits. UserError names what cannot be used."""
    image_set, splits = load_splits(config, console)
    _check_training(config, image_set)
    evaluation = config.evaluation
    with console.status("loading encoders"):
        fid = load_encoder(evaluation.fid_encoder, evaluation.preprocessing)
        similarity = fid
        if evaluation.similarity_encoder != evaluation.fid_encoder:
            similarity = load_encoder(evaluation.similarity_encoder, evaluation.preprocessing)
    return Materials(image_set, splits, fid, similarity)


def load_splits(config: SweepConfig, console: Console) -> tuple[ImageSet, dict[int, Split]]:
    """Load the images and split them for each train size. UserError names what cannot be used."""
    with console.status("loading images"):
        image_set = load_images(config.data)
    for note in image_set.notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    return image_set, {size: split(image_set, size, config.seed) for size in config.space.train_size}


def resolve_sigma_tn(config: SweepConfig, image_set: ImageSet, splits: dict[int, Split]) -> SweepConfig:
    """The configuration with `space.sigma_tn: auto` replaced by a range for each train size.

    A range, or what an earlier call put there, stays as it is. Raises UserError where no range can be set.
    """
    if config.space.sigma_tn != "auto":
        return config
    ranges = {}
    for size, part in splits.items():
        posterior = TrainingPosterior(image_set.images[part.train], config.seed)
        ranges[size] = auto_range(posterior.collapse_level(), config.sampling.sigma_max)
    space = config.space.model_copy(update={"sigma_tn": ranges})
    return config.model_copy(update={"space": space})


def _check_training(config: SweepConfig, image_set: ImageSet) -> None:
    """Raise UserError when a trial could not start: its network, first weights or compiler do not fit."""
    training, data = config.training, config.data
    with torch.device("meta"):
        denoiser = create_network(
            training.network.name,
            data.resolution,
            data.channels,
            image_set.n_classes if data.conditional and image_set.labels is not None else 0,
            AUGMENT_DIM if training.augment_probability else 0,
            **training.network.options,
        )
    if training.init_from is not None:
        read_initial_weights(training.init_from, denoiser.architecture)
    if training.compile:
        require_compiler()
