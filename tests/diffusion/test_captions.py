"""Mitigations for text-to-image models: what they change, and that they change nothing at zero."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pareto_amb.config import NetworkConfig, ScheduleConfig, TrainingConfig
from pareto_amb.data import TrainingSet
from pareto_amb.diffusion.checkpoint import unpack
from pareto_amb.diffusion.denoiser import Conditioning
from pareto_amb.diffusion.methods import (
    METHODS,
    S23,
    W24,
    Algorithm1,
    Batch,
    Control,
    S23Captions,
    S23Tokens,
)
from pareto_amb.diffusion.methods.captions import OBSERVED_STEPS
from pareto_amb.diffusion.networks import build_denoiser
from pareto_amb.diffusion.noise import Steps, schedule_levels
from pareto_amb.diffusion.text.prepare import with_text
from pareto_amb.diffusion.text.small import SmallOptions, small_model
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.errors import UserError
from pareto_amb.schedule import Schedule

pytest.importorskip("diffusers")

CAPTIONS = ("one two three", "four", "five six", "seven eight nine ten")
MODEL = small_model(CAPTIONS, 1, 8, SmallOptions(channels=(8, 8), text_width=16), ScheduleConfig())
CONFIG = TrainingConfig(
    network=NetworkConfig(name="captioned", options={"channels": [8, 8], "text_width": 16}),
    noise=ScheduleConfig(),
    images=32,
    batch_size=8,
    caption_dropout=0.1,
)
MITIGATIONS = [method for method in METHODS.values() if method.captioned]


def mitigated(kind: Any, sigma_tn: float, mix_ratio: float) -> Algorithm1:
    """What `kind` would be without its mitigation."""
    return (Control if issubclass(kind, Control) else Algorithm1)(sigma_tn, mix_ratio)


def trainer(method: Algorithm1) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 1, 8, 8), generator=generator, dtype=torch.uint8)
    training_set = with_text(TrainingSet(images, [0, 1, 2, 3], None, 0, CAPTIONS), MODEL)
    return Trainer(training_set, CONFIG, method, seed=0, text_model=MODEL)


def trained(method: Algorithm1) -> dict[str, Tensor]:
    made = trainer(method)
    made.train(32)
    return unpack(made.checkpoint(), "")[1]


@pytest.mark.parametrize("kind", MITIGATIONS, ids=lambda kind: kind.name)
def test_a_mitigation_of_nothing_is_what_it_mitigates_bit_for_bit(kind: Any) -> None:
    sides = (0.3, 0.5) if "sigma_tn" in kind.info().parameter_names else (0.0, 0.0)
    plain = mitigated(kind, *sides)
    ours = trained(kind(plain.sigma_tn, plain.mix_ratio))
    theirs = trained(plain)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("kind", MITIGATIONS, ids=lambda kind: kind.name)
def test_a_mitigation_is_made_from_its_parameters_and_changes_the_training(kind: Any) -> None:
    names = kind.info().parameter_names
    values = {name: {"sigma_tn": 0.3, "mix_ratio": 0.5}.get(name, 0.4) for name in names}
    chosen = {**values, **({"mix_ratio": "natural"} if "mix_ratio" in values else {})}
    noise = Steps(schedule_levels(Schedule("scaled_linear", 0.00085, 0.012, 1000)))
    resolved = kind.resolve(chosen, noise)
    assert resolved.keys() == values.keys()
    method = kind.create(values, 14.6)
    assert type(method) is kind
    assert (method.sigma_tn, method.mix_ratio) == ((0.3, 0.5) if "sigma_tn" in names else (0, 0))
    if not isinstance(method, W24):
        plain = trained(mitigated(kind, method.sigma_tn, method.mix_ratio))
        assert not all(torch.equal(value, plain[name]) for name, value in trained(method).items())


def test_noise_on_the_text_has_the_deviation_that_was_asked_for() -> None:
    made = trainer(S23(text_noise=0.7))
    denoiser: Any = made.denoiser
    told = made._tell(torch.arange(4).repeat(500))
    clean = {name: value for name, value in told.items() if name != "text_noise"}
    added = denoiser.text(told, 2000) - denoiser.text(clean, 2000)
    assert float(added.detach().std()) == pytest.approx(0.7, rel=0.02)
    assert "text_noise" not in trainer(Algorithm1())._tell(torch.arange(4))


def words_of(tokens: Tensor) -> Tensor:
    return ~torch.isin(tokens, MODEL.tokens([""]))


@pytest.mark.parametrize("kind", [S23Captions, S23Tokens])
def test_words_are_replaced_by_others_as_often_as_asked(kind: Any) -> None:
    tokens = MODEL.tokens(CAPTIONS).repeat(4000, 1)
    told: Conditioning = {"tokens": tokens, "text": torch.zeros(len(tokens), 1), "other": tokens}
    untold = {"tokens": MODEL.tokens([""])}
    generator = torch.Generator().manual_seed(0)
    method = kind(**{kind.parameters[0].name: 0.3})
    found = method.tell(told, untold, generator)
    assert found.keys() == {"tokens", "other"}  # what the encoder made of the caption is no longer true
    words = words_of(tokens)
    assert torch.equal(words_of(found["tokens"]), words)
    assert torch.equal(found["tokens"][~words], tokens[~words])
    changed = (found["tokens"] != tokens)[words].double().mean()
    kept_by_chance = 1 / 10  # of ten words
    assert float(changed) == pytest.approx(0.3 * (1 - kept_by_chance), abs=0.01)
    if kind is S23Captions:
        long = (words.sum(1) == 4).nonzero().flatten()
        share = (found["tokens"][long] != tokens[long]).any(1).double().mean()
        assert float(share) == pytest.approx(0.3, abs=0.02)


def test_w24_skips_what_exceeds_the_limit_of_the_first_steps() -> None:
    method = W24(skip_share=0.25)
    memory = method.first_memory()
    magnitudes = torch.tensor([0.1, 0.2, 0.3, 0.4])
    batch = Batch(
        noisy=torch.zeros(4, 1, 2, 2),
        sigma=torch.full((4,), 0.5),
        target=torch.ones(4, 1, 2, 2),
        nature=torch.zeros(4, dtype=torch.bool),
        conditioning={"tokens": torch.zeros(4, 1)},
    )
    moved = torch.zeros(4)

    def denoise(x: Tensor, sigma: Tensor, told: Conditioning) -> Tensor:
        shift = moved if told else torch.zeros(4)
        return (shift * sigma).view(-1, 1, 1, 1).expand_as(x)

    def losses(moved_by: Tensor) -> Tensor:
        nonlocal moved
        moved = moved_by
        return method.losses(denoise, batch, 1.0, memory)

    for _ in range(OBSERVED_STEPS):
        assert (losses(magnitudes) > 0).all()
    assert float(memory["magnitudes"].sum()) == 4 * OBSERVED_STEPS
    found = losses(magnitudes)
    plain = Algorithm1().losses(denoise, batch, 1.0, {})
    assert (found == 0).tolist() == [False, False, False, True]
    assert torch.equal(found[:3], plain[:3])
    assert (losses(magnitudes * 10) == 0).all()
    assert (losses(magnitudes / 10) > 0).all()
    assert float(memory["magnitudes"].sum()) == 4 * OBSERVED_STEPS


def test_w24_remembers_across_a_checkpoint() -> None:
    whole, cut, resumed = (trainer(W24(skip_share=0.3)) for _ in range(3))
    whole.train(32)
    cut.train(16)
    resumed.restore(cut.checkpoint())
    resumed.train(32)
    first, second = unpack(whole.checkpoint(), "")[1], unpack(resumed.checkpoint(), "")[1]
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert float(first["memory.steps"]) == 4


def test_a_mitigation_without_captions_is_refused() -> None:
    with pytest.raises(UserError, match="method s23 is for models that are told captions"):
        build_denoiser(TrainingConfig(), (1, 8, 8), 0, S23)
