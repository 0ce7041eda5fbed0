"""Captions to sample by, and which of them are memorized."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from pareto_amb.diffusion.denoiser import Conditioning, Denoiser, PixelSpace
from pareto_amb.evaluation.prompts import caption_magnitudes, detection_auc, make_prompts

TRAINING = ("a cat on a mat", "one", "a dog by the sea", "one")


def test_prompts_are_the_captions_their_words_in_another_order_and_those_never_seen() -> None:
    prompts = make_prompts(TRAINING, ("one", "a bird", "a fish", "a bird"), 0)
    assert prompts.training == TRAINING
    assert prompts.unseen == ("a bird", "a fish")
    for shuffled, caption in zip(prompts.shuffled, TRAINING, strict=True):
        assert Counter(shuffled.split()) == Counter(caption.split())
    assert prompts.shuffled[0] != TRAINING[0]
    assert prompts == make_prompts(TRAINING, ("one", "a bird", "a fish", "a bird"), 0)
    assert make_prompts(TRAINING, ("one",), 0).others().keys() == {"shuffled_captions"}


class Mover(Denoiser):
    """Moves its prediction of the noise by as much as a caption is long."""

    def __init__(self) -> None:
        super().__init__(PixelSpace((1, 4, 4)), {})

    def tell(self, captions: Sequence[str]) -> Conditioning:
        return {"tokens": torch.tensor([float(len(caption)) for caption in captions])}

    def forward(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        moved = conditioning.get("tokens", torch.zeros(len(x)))
        return 0.3 * x - (sigma * moved).view(-1, 1, 1, 1)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_magnitude_is_how_far_a_caption_moves_the_predicted_noise(batch_size: int) -> None:
    found = caption_magnitudes(Mover(), ["", "abc", "a", "abcdefg"], 5.0, 0, batch_size)
    assert torch.allclose(found, torch.tensor([0.0, 3.0, 1.0, 7.0], dtype=torch.float64), atol=1e-5)


def test_detection_is_the_area_under_the_roc_curve() -> None:
    generator = torch.Generator().manual_seed(0)
    magnitudes = torch.randint(0, 20, (200,), generator=generator).double()
    triggers = magnitudes + 10 * torch.randn(200, generator=generator) > 12
    assert detection_auc(magnitudes, triggers) == pytest.approx(roc_auc_score(triggers, magnitudes))
    assert math.isnan(detection_auc(magnitudes, torch.zeros(200, dtype=torch.bool)))
