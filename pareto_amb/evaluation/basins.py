"""Basins: from a known image at a noise level, where does the sampler end?

Below some level every model returns to the image, be it one it was trained on or not: little is hidden.
Where it still returns to training images, and no longer to held-out ones, they are attractors.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pareto_amb.config import SamplingConfig
from pareto_amb.data.subsets import TrainingSet
from pareto_amb.diffusion.conditioning import copies_conditioning
from pareto_amb.diffusion.denoiser import Denoiser
from pareto_amb.diffusion.sampler import finish
from pareto_amb.evaluation.intervals import Estimate, wilson
from pareto_amb.evaluation.memorization import is_copy
from pareto_amb.evaluation.neighbours import normalize
from pareto_amb.randomness import normal_per_item


@torch.inference_mode()
def sample_from(
    denoiser: Denoiser,
    part: TrainingSet,
    levels: Sequence[float],
    seed: int,
    starts: int,
    sampling: SamplingConfig,
    *,
    hidden: float = 0.0,
    sigma_stop: float = 0.0,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Sample on from noisy copies of the N images of `part`: uint8 (len(levels), starts, C, H, W).

    Start k is image k modulo N with the noise of that number, the same at every level and for every model.
    `levels` are above 0, in EDM units; `hidden` and `sigma_stop`: of `Method`. `progress` is called with the
    number of images that were made.
    """
    tell = copies_conditioning(denoiser, part, hidden)
    given = sampling.model_dump(exclude={"sigma_max", "batch_size"})
    ends = [[] for _ in levels]  # type: list[list[Tensor]]
    for start in range(0, starts, sampling.batch_size):
        numbers = range(start, min(start + sampling.batch_size, starts))
        index = torch.tensor(numbers) % len(part.images)
        clean = denoiser.space.encode(part.images[index].to(device)).mean
        noise = normal_per_item(seed, "basins", numbers, denoiser.space.shape).to(device)
        told = {name: value.to(device) for name, value in tell(seed, numbers).items()}
        for level, found in zip(levels, ends, strict=True):
            found.append(finish(denoiser, clean + level * noise, level, told, sigma_stop=sigma_stop, **given))
            if progress is not None:
                progress(len(numbers))
    return torch.stack([torch.cat(found) for found in ends])


def return_shares(ends: Sequence[Tensor], origins: Tensor, threshold: float) -> list[Estimate]:
    """The share of samples that are a copy of the image they began at, with its interval: one a level.

    `ends` are features (K, D) of the samples at each level, sample k of them begun at image k modulo N;
    `origins` (N, D) are the images'. A copy is what `is_copy` says. Starts count as independent.
    """
    shares = []
    for features in ends:
        own = normalize(origins).double()[torch.arange(len(features)) % len(origins)]
        similarity = (normalize(features).double() * own).sum(dim=1)
        shares.append(wilson(float(is_copy(similarity, threshold).double().mean()), len(features)))
    return shares
