"""Which model is trained on which images: halves, drawn for each image by itself, then balanced."""

import numpy as np
from numpy.typing import NDArray

from pareto_amb.errors import UserError
from pareto_amb.randomness import derive_seed

FEWEST_MODELS = 8
"""With fewer, four models of either kind would not be there for an image."""

FEWEST_IMAGES = 20
"""With fewer, how much images differ cannot be told, and intervals would be too narrow."""


def balanced_halves(n_models: int, n_images: int, seed: int) -> NDArray[np.bool_]:
    """Which of `n_images` images each of `n_models` models is trained on: bool (n_models, n_images).

    Every image is in exactly half of the models, and every model has half of the images, one more or less
    where their number is odd. The models of each image are drawn by themselves, then as few as possible are
    exchanged until the models are equally large: what an image is in hardly tells what another one is in, as
    it would in halves that come in pairs. The draw depends on the three arguments alone.

    Raises UserError for an odd number of models, fewer than FEWEST_MODELS, or fewer than 2 images.
    """
    if n_models < FEWEST_MODELS or n_models % 2:
        raise UserError(
            f"{n_models} models: an audit needs an even number, {FEWEST_MODELS} at least, so that each image "
            "is in half of them"
        )
    if n_images < 2:
        raise UserError(f"{n_images} images: too few to halve; give at least 2")
    generator = np.random.default_rng(derive_seed(seed, "audit halves"))
    order = generator.random((n_models, n_images)).argsort(axis=0)
    member = order < n_models // 2
    while True:
        sizes = member.sum(axis=1)
        large, small = int(sizes.argmax()), int(sizes.argmin())
        if sizes[large] - sizes[small] <= 1:
            return member
        image = generator.choice(np.flatnonzero(member[large] & ~member[small]))
        member[[large, small], image] = False, True
