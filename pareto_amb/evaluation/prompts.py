"""What triggers copies: a model's samples by captions that it was trained with, shuffled ones, and others.

A text-to-image model that has memorized an image often shows it to its own caption alone (section 5.2). How
far a caption moves what the model predicts of pure noise tells which captions those are (Wen et al. 2024,
arXiv 2407.21720).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pareto_amb.diffusion.denoiser import Denoiser
from pareto_amb.randomness import make_generator, normal_per_item

DRAWS = 4
"""Noises that a caption's magnitude is the mean over."""


@dataclass(frozen=True)
class Prompts:
    """Captions to sample by: of the training images, those with their words in another order, and others.

    `unseen` are captions of held-out images that no training image has; there may be none.
    """

    training: tuple[str, ...]
    shuffled: tuple[str, ...]
    unseen: tuple[str, ...]

    def others(self) -> dict[str, tuple[str, ...]]:
        """Those beside the training captions that there are, by the ending of their figures' names."""
        found = {"shuffled_captions": self.shuffled, "unseen_captions": self.unseen}
        return {name: captions for name, captions in found.items() if captions}


def make_prompts(training: Sequence[str], heldout: Sequence[str], seed: int) -> Prompts:
    """The prompts of training images and held-out ones with these captions."""
    generator = make_generator(seed, "shuffled captions")
    shuffled = []
    for caption in training:
        words = caption.split()
        shuffled.append(" ".join(words[k] for k in torch.randperm(len(words), generator=generator).tolist()))
    known = set(training)
    unseen = tuple(dict.fromkeys(caption for caption in heldout if caption not in known))
    return Prompts(tuple(training), tuple(shuffled), unseen)


@torch.inference_mode()
def caption_magnitudes(
    denoiser: Denoiser,
    captions: Sequence[str],
    sigma: float,
    seed: int,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> Tensor:
    """How far each caption moves the noise that is predicted at level `sigma`: (N,) float64.

    The root mean square of eps(x, caption) - eps(x, nothing) over the values of x = sigma eps and DRAWS
    noises, the same for every caption and model.
    """
    shape, total = denoiser.space.shape, torch.zeros(len(captions), dtype=torch.float64)
    noises = normal_per_item(seed, "caption magnitudes", range(DRAWS), shape).to(device) * sigma
    untold = denoiser(noises, torch.full((DRAWS,), sigma, device=device), {})
    for start in range(0, len(captions), batch_size):
        some = captions[start : start + batch_size]
        told = denoiser.read_once({name: value.to(device) for name, value in denoiser.tell(some).items()})
        level = torch.full((len(some),), sigma, device=device)
        for noise, plain in zip(noises, untold, strict=True):
            moved = (denoiser(noise.expand(len(some), *shape), level, told) - plain) / sigma
            total[start : start + len(some)] += moved.double().square().flatten(1).mean(1).cpu()
    return (total / DRAWS).sqrt()


def detection_auc(magnitudes: Tensor, triggers: Tensor) -> float:
    """How well magnitudes (N,) tell captions that trigger copies, `triggers` (N,), from others.

    The area under the ROC curve, 0.5 for no better than chance; NaN where all or none do.
    """
    n, positive = len(triggers), int(triggers.sum())
    if positive in (0, n):
        return float("nan")
    from scipy.stats import rankdata  # which every worker would load

    ranks = rankdata(magnitudes.numpy())
    above = float(ranks[triggers.numpy()].sum()) - positive * (positive + 1) / 2
    return above / (positive * (n - positive))
