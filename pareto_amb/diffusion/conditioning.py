"""What a class-conditional or masked denoiser is told: of training images, and of the images it samples."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pareto_amb.data.subsets import TrainingSet
from pareto_amb.diffusion.denoiser import Conditioning, Denoiser
from pareto_amb.randomness import uniform_per_item

SamplingConditioning = Callable[[int, Sequence[int]], Conditioning]
"""Maps a base seed and the seeds of some images to the conditioning of these images, on any device."""


def training_conditioning(training_set: TrainingSet) -> dict[str, Tensor]:
    """What is told of each image of a training set: its class, where there are classes, its caption."""
    if training_set.labels is None:
        return dict(training_set.told)
    return {"labels": _one_hot(training_set.labels, training_set.n_classes), **training_set.told}


def copies_conditioning(denoiser: Denoiser, images: TrainingSet, hidden: float = 0.0) -> SamplingConditioning:
    """What `denoiser` is told of noisy copies of known images: number k is of image k modulo their count.

    `hidden` is that of `sampling_conditioning`.
    """
    known, tell_mask = training_conditioning(images), sampling_conditioning(denoiser, hidden)

    def tell(base_seed: int, numbers: Sequence[int]) -> Conditioning:
        index = torch.tensor(numbers) % images.n_images
        of_images = {name: value[index] for name, value in known.items()}
        return {**tell_mask(base_seed, numbers), **of_images}

    return tell


def sampling_conditioning(
    denoiser: Denoiser, hidden: float = 0.0, captions: Sequence[str] = ()
) -> SamplingConditioning:
    """What `denoiser` is told of the images it samples: balanced classes, and a mask or caption for each.

    A class-conditional denoiser draws the image of seed i from class i mod label_dim. With `hidden` > 0 a
    fixed mask, a function of the base seed and i, hides that share of an image's pixels (see
    `methods.Masking`). One that knows captions draws the image of seed i by caption i mod their number, and
    by none where there are none.
    """
    label_dim = denoiser.architecture.get("label_dim", 0)
    mask_shape = (1, *denoiser.space.shape[1:])

    def tell(base_seed: int, seeds: Sequence[int]) -> Conditioning:
        told: dict[str, Tensor] = {}
        if captions:
            told |= denoiser.tell([captions[seed % len(captions)] for seed in seeds])
        if label_dim:
            told["labels"] = _one_hot(torch.tensor(seeds) % label_dim, label_dim)
        if hidden:
            drawn = uniform_per_item(base_seed, "sampling masks", seeds, mask_shape)
            told["mask"] = (drawn >= hidden).float()
        return told

    return tell


def _one_hot(classes: Tensor, label_dim: int) -> Tensor:
    return F.one_hot(classes, label_dim).float()
