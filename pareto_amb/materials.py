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
    with console.status("loading images"):
        image_set = load_images(config.data)
    for note in image_set.notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    splits = {size: split(image_set, size, config.seed) for size in config.space.train_size}
    _check_training(config, image_set)
    evaluation = config.evaluation
    with console.status("loading encoders"):
        fid = load_encoder(evaluation.fid_encoder, evaluation.preprocessing)
        similarity = fid
        if evaluation.similarity_encoder != evaluation.fid_encoder:
            similarity = load_encoder(evaluation.similarity_encoder, evaluation.preprocessing)
    return Materials(image_set, splits, fid, similarity)


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
