import math

import pytest
import torch
from torch import Tensor

from pareto_amb.diffusion.augment import (
    AUGMENT_DIM,
    TRANSLATE_STRENGTH,
    _flip_and_turn,
    _inverse_affine,
    _resample,
    augment,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(batch: int, side: int = 8, channels: int = 1) -> Tensor:
    return torch.randn(batch, channels, side, side, generator=rng(99))


def smooth(batch: int, side: int = 32) -> Tensor:
    """Images without the fine detail that resampling may lose."""
    coarse = torch.randn(batch, 2, 4, 4, generator=rng(7))
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")


def affine(**given: float) -> Tensor:
    names = ("scale", "angle", "stretch", "direction")
    values = [torch.tensor([given.get(name, 0.0)]) for name in names]
    shift = torch.tensor([[given.get("x", 0.0)], [given.get("y", 0.0)]])
    return _inverse_affine(*values, shift)


def test_probability_zero_changes_nothing() -> None:
    images = noise(50)
    out, labels = augment(images, 0.0, rng())
    assert torch.equal(out, images)
    assert torch.equal(labels, torch.zeros(50, AUGMENT_DIM))


def test_an_image_whose_labels_are_zero_is_untouched_and_any_other_is_not() -> None:
    images = noise(2000)
    out, labels = augment(images, 0.15, rng())
    assert labels.shape == (2000, AUGMENT_DIM)
    assert labels.isfinite().all()
    assert out.isfinite().all()
    alone = (labels == 0).all(1)
    same = (out == images).flatten(1).all(1)
    assert torch.equal(alone, same)
    # x-flip left out (1/2), and y-flip (p/2) and the four others (p) too
    assert float(alone.float().mean()) == pytest.approx(0.5 * (1 - 0.075) * 0.85**4, abs=0.035)


def test_each_transform_is_switched_on_as_often_as_it_should_be() -> None:
    labels = augment(noise(4000, side=2), 0.2, rng())[1]
    share = (labels != 0).float().mean(0)
    expected = torch.tensor([0.5, 0.1, *[0.2] * 7])
    assert torch.allclose(share, expected, atol=0.03)
    assert float(labels[labels[:, 2] != 0, 2].std()) == pytest.approx(1, abs=0.1)
    turned = labels[labels[:, 4] != 0]
    assert torch.allclose((turned[:, 3] + 1) ** 2 + turned[:, 4] ** 2, torch.ones(len(turned)), atol=1e-5)


def test_augmentation_is_a_function_of_the_generator() -> None:
    images = noise(64)
    first, again, other = (augment(images, 0.5, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_exact_transforms_permute_pixels_and_leave_the_noise_as_it_was() -> None:
    images = noise(400, side=16)
    out, labels = augment(images, 1.0, rng(), torch.ones(400, dtype=torch.bool))
    assert torch.equal(out.flatten(1).sort(1).values, images.flatten(1).sort(1).values)
    assert float(out.std()) == pytest.approx(float(images.std()), rel=0.01)
    neighbours = (out[..., 1:] * out[..., :-1]).mean()
    assert abs(float(neighbours)) < 0.02  # still white
    assert torch.equal(labels[:, [2, 5, 6, 7, 8]], torch.zeros(400, 5))
    assert len(labels.round().unique(dim=0)) == 16  # 2 x 2 flips, 4 turns


def test_resampling_would_have_smoothed_the_noise() -> None:
    images = noise(400, side=16)
    out, _ = augment(images, 1.0, rng())
    assert float(out.std()) < 0.9 * float(images.std())


def test_only_the_marked_images_are_restricted() -> None:
    images = noise(300)
    exact = torch.arange(300) % 3 == 0
    out, labels = augment(images, 0.8, rng(), exact)
    permuted = (out.flatten(1).sort(1).values == images.flatten(1).sort(1).values).all(1)
    assert permuted[exact].all()
    assert not permuted[~exact].all()
    assert (labels[~exact][:, 7:] != 0).any()


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_quarter_turn_and_the_rotation_by_its_angle_agree(quarters: int) -> None:
    images = smooth(3)
    no = torch.zeros(3, dtype=torch.bool)
    turned = _flip_and_turn(images, no, no, torch.full((3,), float(quarters)))
    rotated = _resample(images, affine(angle=quarters * math.pi / 2).expand(3, -1, -1))
    assert not torch.allclose(turned, images, atol=0.3)
    assert torch.allclose(turned, rotated, atol=0.02)


def test_flips_are_exact() -> None:
    images, yes, no = noise(2), torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    none = torch.zeros(2)
    assert torch.equal(_flip_and_turn(images, yes, no, none), images.flip(3))
    assert torch.equal(_flip_and_turn(images, no, yes, none), images.flip(2))
    assert torch.equal(_flip_and_turn(images, yes, yes, none), images.flip(2, 3))


def test_a_translation_moves_the_image_by_that_share_of_its_side() -> None:
    images = smooth(1)
    moved = _resample(images, affine(x=0.25 / TRANSLATE_STRENGTH))  # a quarter of 32 pixels to the right
    assert torch.allclose(moved[..., 8:], images[..., :-8], atol=0.02)
    assert torch.allclose(moved[..., :8], images[..., :8].flip(3), atol=0.02)  # continued by reflection


def test_scaling_enlarges_and_stretching_keeps_the_area() -> None:
    assert torch.allclose(affine(scale=5.0)[0, :, :2], torch.eye(2) / 2)
    stretch = affine(stretch=5.0, direction=0.7, angle=0.3)[0, :, :2]
    assert float(stretch.det()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(torch.linalg.svdvals(stretch), torch.tensor([2.0, 0.5]), atol=1e-5)


def test_images_that_are_not_square_are_refused() -> None:
    with pytest.raises(ValueError, match="square images only, got 4 x 6"):
        augment(torch.zeros(1, 1, 4, 6), 0.5, rng())
