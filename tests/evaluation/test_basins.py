"""Basins against loops over single images, and where they are known."""

import pytest
import torch
from torch import Tensor

from pareto_amb.config import SamplingConfig
from pareto_amb.data.subsets import TrainingSet
from pareto_amb.diffusion.denoiser import Conditioning, Denoiser, PixelSpace
from pareto_amb.diffusion.sampler import karras_sigmas, sample_heun
from pareto_amb.diffusion.theory import OptimalDenoiser
from pareto_amb.evaluation.basins import return_shares, sample_from
from pareto_amb.evaluation.encoders import load_encoder
from pareto_amb.randomness import normal_per_item

LEVELS = (0.05, 0.6, 30.0)


def images(n: int, seed: int = 0, labels: Tensor | None = None) -> TrainingSet:
    drawn = torch.randint(0, 256, (n, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
    return TrainingSet(drawn.to(torch.uint8), list(range(n)), labels, 3 if labels is not None else 0)


def optimum(part: TrainingSet) -> OptimalDenoiser:
    return OptimalDenoiser(part.images.float() / 127.5 - 1)


def test_every_start_ends_where_it_does_alone() -> None:
    part = images(5)
    denoiser, done = optimum(part), []
    found = sample_from(denoiser, part, LEVELS, 3, 12, SamplingConfig(batch_size=7), progress=done.append)
    assert found.shape == (3, 12, 1, 4, 4)
    assert sum(done) == 3 * 12
    for k in range(12):
        clean = part.images[k % 5 : k % 5 + 1].float() / 127.5 - 1
        for level, ends in zip(LEVELS, found, strict=True):
            x = clean + level * normal_per_item(3, "basins", [k], (1, 4, 4))
            x = sample_heun(lambda x, s: denoiser(x, s, {}), x, karras_sigmas(18, 0.002, level, 7.0))
            assert (ends[k].int() - denoiser.space.decode(x)[0].int()).abs().max() <= 1


def test_the_optimum_returns_to_training_images_alone_and_from_low_noise_alone() -> None:
    part, other, encoder = images(20), images(20, seed=1), load_encoder("pixels")

    def shares(starts: TrainingSet) -> list[float]:
        ends = sample_from(optimum(part), starts, LEVELS, 0, 60, SamplingConfig())
        found = return_shares([encoder.encode(each) for each in ends], encoder.encode(starts.images), 0.999)
        return [each.value for each in found]

    ours, theirs = shares(part), shares(other)
    assert ours[0] == 1
    assert ours[1] > 0.9
    assert ours[2] < 0.3, "from pure noise it ends on any of them"
    assert theirs == [0, 0, 0]


def test_a_share_is_that_of_a_loop() -> None:
    features = torch.randn(11, 6, generator=torch.Generator().manual_seed(0))
    origins = features[:4] + 0.4 * torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    alike = [torch.cosine_similarity(features[k], origins[k % 4], dim=0) > 0.5 for k in range(11)]
    found = return_shares([features], origins, 0.5)[0]
    assert 0 < sum(alike) < 11
    assert found.value == pytest.approx(sum(alike) / 11)
    assert found.low < found.value < found.high


def test_a_class_conditional_model_is_told_the_class_of_each_image() -> None:
    told = []

    class Listening(Denoiser):
        def __init__(self) -> None:
            super().__init__(PixelSpace((1, 4, 4)), {"label_dim": 3})

        def forward(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
            told.append(conditioning["labels"])
            return x

    sample_from(Listening(), images(2, labels=torch.tensor([2, 0])), (1.0,), 0, 4, SamplingConfig(steps=2))
    assert told[0].argmax(dim=1).tolist() == [2, 0, 2, 0]
