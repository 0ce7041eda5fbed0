"""The seam: a denoiser of a space of its own, told things of its own, trained, stored and sampled as any."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pareto_amb.config import NetworkConfig, TrainingConfig
from pareto_amb.data import TrainingSet
from pareto_amb.data.subsets import Encoded
from pareto_amb.diffusion import trainer as trainer_module
from pareto_amb.diffusion.conditioning import sampling_conditioning, training_conditioning
from pareto_amb.diffusion.denoiser import Conditioning, Denoiser, PixelSpace
from pareto_amb.diffusion.losses import edm_weight
from pareto_amb.diffusion.methods import METHODS, Algorithm1, Masking
from pareto_amb.diffusion.networks import build_denoiser
from pareto_amb.diffusion.sampler import generate
from pareto_amb.diffusion.trainer import Trainer

IMAGES = torch.randint(0, 256, (6, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
CONFIG = TrainingConfig(images=64, batch_size=16, horizontal_flip=True)


@dataclass(frozen=True)
class HalfSpace:
    """Two channels of half the resolution: the means of 2x2 pixels, and their negatives."""

    shape: tuple[int, int, int] = (2, 4, 4)
    sigma_data: float = 3.0

    def encode(self, images: Tensor) -> Encoded:
        small = nn.functional.avg_pool2d(images.float() / 255, 2)
        return Encoded(torch.cat([small, -small], dim=1))

    def decode(self, x: Tensor) -> Tensor:
        large = x[:, :1].repeat_interleave(2, -1).repeat_interleave(2, -2)
        return (large * 255).round().clamp(0, 255).to(torch.uint8)


class Constant(Denoiser):
    """Answers with one learned number, and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__(HalfSpace(), {})
        self.value = nn.Parameter(torch.full((1, 1, 1, 1), 0.2))
        self.seen: list[tuple[Tensor, Tensor, Conditioning]] = []

    def forward(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self.seen.append((x, sigma, conditioning))
        return self.value.expand_as(x)


def test_a_denoiser_of_another_space_is_trained_and_sampled_there(monkeypatch: pytest.MonkeyPatch) -> None:
    words = torch.randn(6, 5)
    monkeypatch.setattr(trainer_module, "build_denoiser", lambda *_: Constant())
    training_set = TrainingSet(IMAGES, list(range(6)), None, 0, told={"words": words})
    trainer = Trainer(training_set, CONFIG, Algorithm1(), seed=0)
    assert torch.equal(trainer._material[0], HalfSpace().encode(IMAGES).mean)
    loss = trainer.train(16)

    denoiser: Any = trainer.denoiser
    ((noisy, sigma, told),) = denoiser.seen
    assert noisy.shape == (16, 2, 4, 4)
    assert told.keys() == {"words"}
    # The words tell which image each example is of: the loss follows from it, up to a flip of the image.
    index = (told["words"].unsqueeze(1) == words).all(2).float().argmax(1)
    error = (0.2 - trainer._material[0][index]).square().flatten(1).mean(1)
    assert loss == pytest.approx(float((edm_weight(sigma, 3.0) * error).mean()), rel=1e-5)

    ema: Any = trainer.ema_denoiser()
    ema.seen.clear()

    def told_of(base_seed: int, seeds: Sequence[int]) -> Conditioning:
        return {"words": torch.tensor([[base_seed, seed] for seed in seeds])}

    images = generate(ema, [4, 9], told_of, steps=2, base_seed=1)
    assert images.shape == (2, 1, 8, 8)
    assert torch.equal(images, HalfSpace().decode(ema.value.expand(2, 2, 4, 4)))
    assert all(told["words"].tolist() == [[1, 4], [1, 9]] for _, _, told in ema.seen)


def test_pixel_values_round_trip() -> None:
    space = PixelSpace((1, 16, 16))
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    encoded = space.encode(levels).mean
    assert (float(encoded.min()), float(encoded.max())) == (-1, 1)
    assert torch.equal(space.decode(encoded), levels)
    assert space.decode(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_the_architecture_follows_configuration_data_and_method() -> None:
    network = NetworkConfig(options={"model_channels": 4})
    config = CONFIG.model_copy(update={"augment_probability": 0.1, "network": network})
    described = {"name": "tiny", "resolution": 8, "channels": 3, "label_dim": 5, "augment_dim": 9}
    for method in [each for each in METHODS.values() if not each.captioned]:
        denoiser = build_denoiser(config, (3, 8, 8), 5, method)
        channels = {"mask_channels": 1 if method.masked else 0}
        assert denoiser.architecture == described | channels | {"model_channels": 4}
        assert denoiser.space == PixelSpace((3, 8, 8))


def test_only_a_masked_method_hides_pixels_while_sampling() -> None:
    assert [name for name, method in METHODS.items() if method.masked] == ["masking", "masking_reweighted"]
    assert Masking(0.4).hidden > 0
    assert Algorithm1(0.3, 0.5).hidden == 0


def test_images_are_told_their_class() -> None:
    labels = torch.tensor([2, 0, 1])
    told = training_conditioning(TrainingSet(IMAGES[:3], [0, 1, 2], labels, 4))
    assert told["labels"].tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    assert training_conditioning(TrainingSet(IMAGES[:3], [0, 1, 2], None, 0)) == {}


def test_sampled_images_are_of_balanced_classes() -> None:
    denoiser = build_denoiser(CONFIG, (1, 8, 8), 3, Algorithm1)
    told = sampling_conditioning(denoiser)(0, [0, 5, 7])
    assert told["labels"].tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert told.keys() == {"labels"}
