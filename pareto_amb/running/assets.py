"""What all trials of a sweep share, made on the cluster before the first of them."""

from dataclasses import replace

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayTaskError

from pareto_amb.config import SweepConfig
from pareto_amb.data import TrainingSet
from pareto_amb.errors import UserError
from pareto_amb.evaluation.trial import TrialReference, build_references
from pareto_amb.running.materials import Materials


def measure_references(config: SweepConfig, materials: Materials, gpus: float) -> dict[int, TrialReference]:
    """Encode the real images, once a sweep, where a trial would run that occupies `gpus`; without pixels.

    Where that is this machine's CPU and no other's, this process does it: another would first load torch.
    UserError where they are no reference.
    """
    needed = replace(materials, training_sets={}, heldout_probes={}, text_model=None, judge=None)
    if not gpus and sum(node["Alive"] for node in ray.nodes()) == 1:
        threads = torch.get_num_threads()
        try:
            return _bare_references(config, needed, "cpu")
        finally:
            torch.set_num_threads(threads)
    measure = ray.remote(num_cpus=config.resources.cpus_per_trial, num_gpus=gpus)(_bare_references)
    try:
        found: dict[int, TrialReference] = ray.get(measure.remote(config, needed, "cuda" if gpus else "cpu"))
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from error
        raise
    return found


def training_pixels(materials: Materials) -> NDArray[np.uint8]:
    """The pixels of the largest train size, (N, C, H, W), which begin with those of every smaller one.

    As an array, which all trials of a machine share in Ray's memory.
    """
    largest = materials.splits[max(materials.splits)]
    pixels: NDArray[np.uint8] = materials.image_set.images[largest.train].numpy()
    return pixels


def bare_training_sets(materials: Materials) -> dict[int, TrainingSet]:
    """What is trained on, without pixels and without what lies in files."""
    return {
        size: replace(
            images.without_pixels(),
            encoded=None,
            told={name: value for name, value in images.told.items() if name == "tokens"},
        )
        for size, images in materials.training_sets.items()
    }


def _bare_references(config: SweepConfig, materials: Materials, device: str) -> dict[int, TrialReference]:
    found = references_of(config, materials, device)
    return {size: replace(each, train_images=each.train_images[:0].clone()) for size, each in found.items()}


def references_of(
    config: SweepConfig, materials: Materials, device: str = "cpu"
) -> dict[int, TrialReference]:
    """What the trials of each train size are measured against, worked out in this process."""
    torch.set_num_threads(config.resources.cpus_per_trial)
    return build_references(
        materials.image_set.images,
        {size: (part.train, part.heldout) for size, part in materials.splits.items()},
        materials.fid_encoder,
        materials.similarity_encoder,
        config.evaluation,
        device,
    )
