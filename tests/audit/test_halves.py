import numpy as np
import pytest

from pareto_amb.audit.halves import balanced_halves
from pareto_amb.errors import UserError


@pytest.mark.parametrize(("m", "n"), [(8, 2), (8, 300), (16, 301)])
def test_every_image_is_in_half_of_the_models_and_every_model_has_half_of_the_images(m: int, n: int) -> None:
    member = balanced_halves(m, n, seed=0)
    assert (member.sum(axis=0) == m // 2).all()
    assert set(member.sum(axis=1).tolist()) <= {n // 2, n - n // 2}
    assert len(np.unique(member, axis=0)) == m or n < 10


def test_the_draw_follows_from_the_seed() -> None:
    assert (balanced_halves(8, 50, 1) == balanced_halves(8, 50, 1)).all()
    assert (balanced_halves(8, 50, 1) != balanced_halves(8, 50, 2)).any()


@pytest.mark.parametrize(
    ("m", "n", "words"), [(6, 100, "6 models"), (9, 100, "9 models"), (8, 1, "too few to halve")]
)
def test_what_cannot_be_halved_is_refused(m: int, n: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        balanced_halves(m, n, seed=0)
