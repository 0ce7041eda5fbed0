from collections.abc import Callable

import pytest
import torch

from pareto_amb.config import TrainingConfig
from pareto_amb.data.subsets import TrainingSet
from pareto_amb.diffusion.heart import Beat, Heart
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.diffusion.trainer import Trainer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets so many seconds go by."""
    now = [0.0]
    monkeypatch.setattr("pareto_amb.diffusion.heart.time.monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_a_heart_beats_when_it_is_time_and_says_how_fast_it_went_since(
    clock: Callable[[float], None],
) -> None:
    told: list[Beat] = []
    heart = Heart(told.append, seconds=5)
    for step, waits in enumerate([9.0, 2.0, 2.0, 2.0, 5.0, 1.0], start=1):
        heart.step(64 * step, torch.tensor(0.5 * step), step)
        clock(waits)
    assert told == [Beat(128, 64 / 9, 0.5), Beat(320, 192 / 6, 0.5), Beat(384, 64 / 5, 0.5)]


def test_a_loss_that_is_no_number_is_none(clock: Callable[[float], None]) -> None:
    told: list[Beat] = []
    heart = Heart(told.append, seconds=5)
    heart.step(64, torch.tensor(float("nan")), 1)
    clock(5)
    heart.step(128, torch.tensor(float("nan")), 2)
    assert [beat.loss for beat in told] == [None]


def test_a_training_tells_its_loss_so_far_and_is_the_same_one_with_a_heart() -> None:
    images = torch.arange(20 * 64).reshape(20, 1, 8, 8).remainder(256).to(torch.uint8)
    network = {"name": "tiny", "options": {"model_channels": 4}}
    config = TrainingConfig.model_validate({"network": network, "images": 64, "batch_size": 16})

    def trainer() -> Trainer:
        method = METHODS["ddpm"].create({}, 80.0)
        return Trainer(TrainingSet(images, list(range(20)), None, 0), config, method, seed=0)

    told: list[Beat] = []
    plain, watched = trainer(), trainer()
    loss = plain.train(64)
    assert watched.train(64, heart=Heart(told.append, seconds=0)) == loss
    assert watched.checkpoint()[-1000:] == plain.checkpoint()[-1000:]
    assert [beat.images_seen for beat in told] == [32, 48, 64]
    assert told[-1].loss == pytest.approx(loss)
