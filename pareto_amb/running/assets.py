"""What all trials of a sweep share, made on the cluster before the first of them."""

from dataclasses import replace

import ray
import torch
from ray.exceptions import RayTaskError

from pareto_amb.config import SweepConfig
from pareto_amb.errors import UserError
from pareto_amb.evaluation.trial import TrialReference, build_references
from pareto_amb.running.materials import Materials


def measure_references(config: SweepConfig, materials: Materials, gpus: float) -> dict[int, TrialReference]:
    """Encode the real images, once a sweep, where a trial would run that occupies `gpus`.

    UserError where they are no reference.
    """
    measure = ray.remote(num_cpus=config.resources.cpus_per_trial, num_gpus=gpus)(references_of)
    needed = replace(materials, training_sets={}, heldout_probes={}, text_model=None, judge=None)
    try:
        found: dict[int, TrialReference] = ray.get(measure.remote(config, needed, "cuda" if gpus else "cpu"))
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from error
        raise
    return found


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
