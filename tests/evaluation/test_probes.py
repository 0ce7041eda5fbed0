"""Denoising probes against closed forms."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from pareto_amb.config import N_PROBED_LEVELS
from pareto_amb.data.subsets import TrainingSet
from pareto_amb.diffusion.denoiser import Conditioning, Denoiser, PixelSpace
from pareto_amb.evaluation.probes import N_PROBES, image_errors, make_probes, probe_levels


class Shrink(Denoiser):
    """D = x times a factor: on x_0 + sigma eps its mean squared error is known."""

    def __init__(self, factor: float, **architecture: int) -> None:
        super().__init__(PixelSpace((1, 4, 4)), architecture)
        self.factor = factor
        self.told: list[Tensor] = []

    def forward(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self.told += [conditioning["labels"]] if "labels" in conditioning else []
        return self.factor * x


def some_images(n: int, value: int | None = None, labels: Tensor | None = None) -> TrainingSet:
    drawn = torch.randint(0, 256, (n, 1, 4, 4), generator=torch.Generator().manual_seed(n))
    images = (drawn if value is None else torch.full((n, 1, 4, 4), value)).to(torch.uint8)
    return TrainingSet(images, list(range(n)), labels, 3 if labels is not None else 0)


def test_the_error_is_that_of_the_closed_form() -> None:
    """(a - 1)^2 mean(x_0^2) + a^2 sigma^2, but for the noise of 512 * 16 draws."""
    probes = make_probes(some_images(8, value=255), some_images(600, value=0), 1.0, seed=0)
    train, heldout = probes.errors(Shrink(0.75))
    for level, ours, theirs in zip(probes.levels, train, heldout, strict=True):
        expected = 0.25**2 + (0.75 * level) ** 2
        assert ours == pytest.approx(expected, rel=0.05)
        assert theirs == pytest.approx(expected, rel=0.05)


def test_every_model_denoises_the_same_noise_whatever_the_batch() -> None:
    probes = make_probes(some_images(5), some_images(9), 0.7, seed=3)
    whole = probes.errors(Shrink(1.0), batch_size=10_000)
    parts = probes.errors(Shrink(1.0), batch_size=7)
    assert parts[0] == pytest.approx(whole[0], rel=1e-6)
    assert parts[1] == pytest.approx(whole[1], rel=1e-6)
    assert probes.errors(Shrink(1.0)) == probes.errors(Shrink(1.0))
    assert whole[0] != whole[1], "training and held-out images have noises of their own"
    assert make_probes(probes.train, probes.heldout, 0.7, seed=4).errors(Shrink(1.0))[0] != whole[0]


def test_a_model_that_knows_the_training_images_has_a_smaller_error_on_them() -> None:
    known = some_images(6)
    bank = PixelSpace((1, 4, 4)).encode(known.images).mean.flatten(1)

    class Posterior(Shrink):
        """The optimal denoiser of the training images: E[x_0 | x] over them."""

        def forward(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
            distance = torch.cdist(x.flatten(1), bank).square()
            weights = (-distance / (2 * sigma[:, None] ** 2)).softmax(dim=1)
            return (weights @ bank).view_as(x)

    train, heldout = make_probes(known, some_images(50), 1.0, seed=0).errors(Posterior(1.0))
    assert all(ours < theirs / 100 for ours, theirs in zip(train[:3], heldout[:3], strict=True))


def test_a_conditional_model_is_told_the_classes_of_the_images() -> None:
    labels = torch.tensor([2, 0, 1, 1])
    model = Shrink(1.0, label_dim=3)
    make_probes(some_images(4, labels=labels), some_images(4, labels=labels), 1.0, 0).errors(model)
    assert torch.equal(model.told[0][:4].argmax(dim=1), labels)


def test_levels_follow_the_collapse_level() -> None:
    levels = probe_levels(0.5)
    assert (levels[0], levels[-1]) == pytest.approx((0.025, 2.0))
    ratios = [b / a for a, b in pairwise(levels)]
    assert max(ratios) / min(ratios) == pytest.approx(1.0, abs=0.02)


def test_large_sets_are_probed_in_part() -> None:
    probes = make_probes(some_images(N_PROBES + 5), some_images(3), 1.0, seed=0)
    assert (len(probes.train.images), len(probes.heldout.images)) == (N_PROBES, 3)


def test_without_held_out_images_there_are_errors_on_training_images_alone() -> None:
    train, heldout = make_probes(some_images(4), some_images(0), 1.0, seed=0).errors(Shrink(1.0))
    assert (len(train), heldout) == (N_PROBED_LEVELS, [])


def test_images_that_are_all_the_same_are_not_probed() -> None:
    probes = make_probes(some_images(4, value=9), some_images(4), math.inf, seed=0)
    assert probes.errors(Shrink(1.0)) == ([], [])


def test_errors_of_each_image_are_those_of_the_closed_form_and_of_no_other_image() -> None:
    """Images all 1 and all 0 in the denoiser's space lose (a - 1)^2 mean(x_0^2) differently."""
    white, grey = some_images(1, value=255).images, some_images(1, value=128).images
    part = TrainingSet(torch.cat([white, grey, white]), [0, 1, 2], None, 0)
    found = image_errors(Shrink(0.5), part, (0.1, 0.3), seed=0, draws=200)
    assert found.shape == (3, 2)
    for k, level in enumerate((0.1, 0.3)):
        noise = (0.5 * level) ** 2
        assert found[:, k].tolist() == pytest.approx([0.25 + noise, noise, 0.25 + noise], rel=0.1)


def test_errors_of_each_image_do_not_depend_on_the_batch() -> None:
    given = (Shrink(0.9), some_images(7), (0.2, 0.5, 1.0), 3, 4)
    whole, parts = image_errors(*given), image_errors(*given, batch_size=5)
    assert torch.allclose(whole, parts, rtol=1e-6)
    assert not torch.equal(whole, image_errors(Shrink(0.9), some_images(7), (0.2, 0.5, 1.0), 4, 4))
