"""Models that are not trained: scores drawn as those of models would be."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pareto_amb.audit.halves import balanced_halves

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def draw_scores(gain: float, m: int = 16, n: int = 100, d: int = 1, seed: int = 0) -> tuple[Floats, Mask]:
    """Losses (m, n, d) that fall by `gain` standard deviations on images that a model was trained on.

    Images differ far more from each other than models do on one of them.
    """
    generator = np.random.default_rng(seed)
    member = balanced_halves(m, n, seed)
    losses = 3 * generator.normal(size=(n, d)) + generator.normal(size=(m, n, d))
    return losses - gain * member[:, :, None], member


@pytest.fixture(scope="session")
def scores_of() -> Callable[..., tuple[Floats, Mask]]:
    return draw_scores
