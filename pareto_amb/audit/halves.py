"""Which model is trained on which images: halves, in pairs."""

import numpy as np
from numpy.typing import NDArray

from pareto_amb.errors import UserError
from pareto_amb.randomness import derive_seed

FEWEST_MODELS = 8
"""With fewer, four models of either kind would not be there for an image."""


def balanced_halves(n_models: int, n_images: int, seed: int) -> NDArray[np.bool_]:
    """Which of `n_images` images each of `n_models` models is trained on: bool (n_models, n_images).

    Models come in pairs: the second is trained on what the first is not. Every image is therefore in exactly
    half of the models, and every model has half of the images, one more or less where their number is odd.
    The draw depends on the three arguments alone.

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
    first = np.zeros((n_models // 2, n_images), dtype=bool)
    for row in first:
        row[generator.permutation(n_images)[: n_images // 2]] = True
    return np.stack([first, ~first], axis=1).reshape(n_models, n_images)
