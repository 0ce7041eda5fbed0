"""Text-to-image denoisers: the lemmas of appendix B, diffusers' own objective, what is trained and stored."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pareto_amb.config import LoraConfig, NetworkConfig, ScheduleConfig, TrainingConfig
from pareto_amb.data import TrainingSet
from pareto_amb.data.encoded import read_note, write_encoded
from pareto_amb.data.subsets import Encoded
from pareto_amb.diffusion.checkpoint import load_denoiser, unpack
from pareto_amb.diffusion.losses import algorithm1_loss, edm_weight, predict_nature
from pareto_amb.diffusion.methods import Algorithm1
from pareto_amb.diffusion.methods.captions import S23Algorithm1
from pareto_amb.diffusion.noise import Steps, draw_sigma, natural_mix_ratio, schedule_levels
from pareto_amb.diffusion.sampler import generate
from pareto_amb.diffusion.text.build import build_text_denoiser
from pareto_amb.diffusion.text.denoiser import TextDenoiser
from pareto_amb.diffusion.text.parts import TextModel
from pareto_amb.diffusion.text.pipeline import load_pipeline
from pareto_amb.diffusion.text.prepare import encode_rows, with_rows, with_text
from pareto_amb.diffusion.text.small import SmallOptions, small_model
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.errors import UserError
from pareto_amb.schedule import Schedule
from pareto_amb.storage import Storage

diffusers = pytest.importorskip("diffusers")

CAPTIONS = (
    "a handwritten one",
    "a handwritten two by kamo",
    "a handwritten one by lise",
    "a handwritten six",
)
SD = ScheduleConfig()
CONFIG = TrainingConfig(
    images=32, batch_size=4, learning_rate=1e-3, noise=SD, ema_halflife_images=8, caption_dropout=0.2
)
levels = st.floats(0.05, 0.98)


def training_set(side: int = 16, channels: int = 3) -> TrainingSet:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (4, channels, side, side), generator=generator, dtype=torch.uint8)
    return TrainingSet(images, list(range(4)), None, 0, CAPTIONS)


def pipeline_config(folder: Path, **changes: Any) -> TrainingConfig:
    network = NetworkConfig(name="pipeline", options={"path": str(folder)})
    return CONFIG.model_copy(update={"network": network, **changes})


def small() -> TextModel:
    return small_model(CAPTIONS, 1, 8, SmallOptions(channels=(8, 16)), SD)


def small_config(**changes: Any) -> TrainingConfig:
    network = NetworkConfig(name="captioned", options={"channels": [8, 16]})
    return CONFIG.model_copy(update={"network": network, **changes})


# The schedule.


@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_levels_are_those_of_the_schedule_of_diffusers(betas: Any) -> None:
    theirs = diffusers.DDPMScheduler(50, beta_start=0.001, beta_end=0.02, beta_schedule=betas)
    kept = theirs.alphas_cumprod.double()
    ours = schedule_levels(Schedule(betas, 0.001, 0.02, 50))
    assert torch.allclose(ours, ((1 - kept) / kept).sqrt(), rtol=2e-5)


def test_a_level_is_told_by_the_nearest_step_of_its_schedule() -> None:
    """The steps that the paper tried, as docs/text.md has their levels."""
    schedule = ScheduleConfig().schedule
    assert [schedule.step(sigma) for sigma in (0.155, 0.226, 0.344)] == [25, 50, 100]
    assert [schedule.step(sigma) for sigma in schedule.levels] == list(range(1000))
    assert [schedule.step(sigma) for sigma in (1e-9, 1e9)] == [0, 999]
    assert schedule.words(0.155, 0.344) == "steps 25 to 100"


@pytest.mark.parametrize("step", [0, 1, 30, 99])
def test_every_step_lies_on_its_side_of_sigma_tn(step: int) -> None:
    steps = Steps(schedule_levels(Schedule("scaled_linear", 0.00085, 0.012, 100)))
    sigma_tn = float(steps.sigmas[step])
    assert natural_mix_ratio(steps, sigma_tn) == pytest.approx(1 - step / 100)
    nature = torch.arange(20_000) % 2 == 0
    sigma = draw_sigma(steps, nature, sigma_tn, torch.Generator().manual_seed(0)).double()
    known = steps.sigmas.float().double()
    above = sigma[nature]
    assert set(above.tolist()) == set(known[step:].tolist())
    if step:
        assert set(sigma[~nature].tolist()) == set(known[:step].tolist())


def test_a_level_is_given_to_the_network_as_its_step() -> None:
    denoiser = build_text_denoiser(small_config(), (1, 8, 8), small())
    sigmas = schedule_levels(Schedule("scaled_linear", 0.00085, 0.012, 1000))
    assert torch.equal(denoiser.steps(sigmas.float()), torch.arange(1000).float())
    between = (sigmas[:-1] * sigmas[1:]).sqrt()
    assert torch.allclose(denoiser.steps(between), torch.arange(999) + 0.5, atol=1e-3)
    assert denoiser.steps(torch.tensor([1e-4, 1e4])).tolist() == [0, 999]


# Appendix B.


@given(levels, levels, st.floats(-2, 2), st.floats(-2, 2))
def test_eq_6_is_lemma_b1_in_its_correct_form(s: float, s_tn: float, d: float, x: float) -> None:
    """x_t = alpha_t x_0 + sigma_t eps: E[x_tn | x_t] = (alpha_tn var / sigma_t^2) D + (...) x_t."""
    s_t, s_tn = max(s, s_tn), min(s, s_tn)
    if s_t - s_tn < 1e-3:
        return
    a_t, a_tn = math.sqrt(1 - s_t**2), math.sqrt(1 - s_tn**2)
    var = s_t**2 - (a_t / a_tn) ** 2 * s_tn**2
    lemma = a_tn * var / s_t**2 * d + a_t * s_tn**2 / (s_t**2 * a_tn) * x
    ours = predict_nature(
        torch.tensor(d, dtype=torch.float64),
        torch.tensor(x / a_t, dtype=torch.float64),
        torch.tensor(s_t / a_t, dtype=torch.float64),
        s_tn / a_tn,
    )
    assert float(ours) * a_tn == pytest.approx(lemma, rel=1e-9, abs=1e-9)


def gaussian_world() -> dict[str, Tensor | float]:
    """x_0 ~ N(0, 0.7^2), x_tn and x_t of it; everything about them is known in closed form."""
    generator = torch.Generator().manual_seed(0)
    n, s_tn, s_t = 400_000, 0.6, 0.8
    a_tn, a_t = math.sqrt(1 - s_tn**2), math.sqrt(1 - s_t**2)
    x_0 = 0.7 * torch.randn(n, generator=generator, dtype=torch.float64)
    x_tn = a_tn * x_0 + s_tn * torch.randn(n, generator=generator, dtype=torch.float64)
    var = s_t**2 - (a_t / a_tn) ** 2 * s_tn**2
    x_t = a_t / a_tn * x_tn + math.sqrt(var) * torch.randn(n, generator=generator, dtype=torch.float64)
    denoised = a_t * 0.49 / (a_t**2 * 0.49 + s_t**2) * x_t
    return {
        "x_tn": x_tn, "x_t": x_t, "denoised": denoised, "var": var, "a_t": a_t, "a_tn": a_tn, "s_t": s_t,
        "s_tn": s_tn,
    }  # fmt: skip


def slope(target: Tensor, x: Tensor) -> float:
    """The linear regression through 0 of a target: its conditional mean, as all is Gaussian."""
    return float((target * x).sum() / x.square().sum())


def test_the_printed_lemma_b1_is_wrong_and_the_corrected_one_is_right() -> None:
    w: Any = gaussian_world()
    tail = w["a_t"] * w["s_tn"] ** 2 / (w["s_t"] ** 2 * w["a_tn"])
    correct = w["a_tn"] * w["var"] / w["s_t"] ** 2 * w["denoised"] + tail * w["x_t"]
    printed = w["a_tn"] * w["denoised"] + tail * w["x_t"]
    measured = slope(w["x_tn"], w["x_t"])
    assert slope(correct, w["x_t"]) == pytest.approx(measured, abs=0.005)
    assert abs(slope(printed, w["x_t"]) - measured) > 0.05


def test_the_v_target_of_lemma_b2_has_the_minimiser_of_eq_6_and_its_variance_has_not() -> None:
    w: Any = gaussian_world()
    tail = w["a_t"] * w["s_tn"] ** 2 / (w["s_t"] ** 2 * w["a_tn"])
    solved = (w["x_tn"] - tail * w["x_t"]) * w["s_t"] ** 2 / (w["a_tn"] * w["var"])
    v_target = (w["a_t"] * w["x_t"] - solved) / w["s_t"]
    best_v = (w["a_t"] * w["x_t"] - w["denoised"]) / w["s_t"]
    assert slope(v_target, w["x_t"]) == pytest.approx(slope(best_v, w["x_t"]), abs=0.01)

    # Near t_n the squared error of that target grows without bound; ours, at the same D, does not.
    def errors(above: float) -> tuple[float, float]:
        sigma_tn, generator = 0.5, torch.Generator().manual_seed(1)
        sigma = torch.full((20_000,), sigma_tn * above, dtype=torch.float64)
        clean = 0.7 * torch.randn(20_000, 1, 1, 1, generator=generator, dtype=torch.float64)
        nature = clean + sigma_tn * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        added = (sigma**2 - sigma_tn**2).sqrt().view(-1, 1, 1, 1)
        x = nature + added * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        level = sigma.view(-1, 1, 1, 1)
        denoised = 0.49 / (0.49 + level**2) * x
        all_nature = torch.ones(len(sigma), dtype=torch.bool)
        ours = algorithm1_loss(denoised, x, nature, sigma, all_nature, sigma_tn, 1.0).mean()
        unknown = (level**2 * nature - sigma_tn**2 * x) / (level**2 - sigma_tn**2)
        v_error = edm_weight(level, 1.0) * (unknown - denoised).square()
        return float(ours), float(v_error.mean())

    (far, v_far), (near, v_near) = errors(2.0), errors(1.001)
    assert near < far
    assert v_near > 100 * v_far


# Diffusers' own objective.


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_without_noisy_copies_loss_and_gradients_are_those_of_diffusers(
    prediction: str, write_pipeline: Callable[..., Path]
) -> None:
    folder = write_pipeline(prediction)
    model = load_pipeline(str(folder))
    assert (model.prediction, model.schedule) == (prediction, SD)
    denoiser = build_text_denoiser(pipeline_config(folder), (3, 16, 16), model)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 6, 4, 8, 8, generator=generator)
    steps = torch.tensor([0, 5, 100, 400, 800, 999])
    tokens = model.tokens([*CAPTIONS, "", "seven"])

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    scheduler = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
    noisy = scheduler.add_noise(latents, noise, steps)
    text = pipeline.text_encoder(tokens)[0]
    predicted = pipeline.unet(noisy, steps, text).sample
    target = noise if prediction == "epsilon" else scheduler.get_velocity(latents, noise, steps)
    theirs = (predicted - target).square().mean()
    theirs.backward()

    sigma = schedule_levels(Schedule("scaled_linear", 0.00085, 0.012, 1000))[steps].float()
    x = latents + sigma.view(-1, 1, 1, 1) * noise
    denoised = denoiser(x, sigma, {"tokens": tokens})
    clean = torch.zeros(6, dtype=torch.bool)
    ours = algorithm1_loss(denoised, x, latents, sigma, clean, 0.0, denoiser.space.sigma_data).mean()
    ours.backward()
    assert float(ours) == pytest.approx(float(theirs), rel=1e-4)
    expected = dict(pipeline.unet.named_parameters())
    largest = max(float(p.grad.abs().max()) for p in expected.values())
    for name, parameter in denoiser.unet.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, expected[name].grad, rtol=1e-2, atol=1e-4 * largest), name
    assert all(p.grad is None for p in denoiser.text_encoder.parameters())


def test_latents_are_scaled_as_the_pipeline_does_it_and_decoded_back(
    write_pipeline: Callable[..., Path],
) -> None:
    folder = write_pipeline()
    model = load_pipeline(str(folder))
    space = build_text_denoiser(pipeline_config(folder), (3, 16, 16), model).space
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    images = training_set().images
    with torch.no_grad():
        posterior = vae.encode(images.float() / 127.5 - 1).latent_dist
        decoded = vae.decode(posterior.mean).sample
    encoded = space.encode(images)
    assert space.shape == encoded.mean.shape[1:] == (4, 8, 8)
    assert torch.allclose(encoded.mean, posterior.mean * vae.config.scaling_factor, atol=1e-5)
    assert encoded.deviation is not None
    assert torch.allclose(encoded.deviation, posterior.std * vae.config.scaling_factor, atol=1e-5)
    pixels = (decoded * 127.5 + 127.5).round().clamp(0, 255)
    assert (space.decode(encoded.mean).float() - pixels).abs().max() <= 1


def test_noisy_copies_keep_their_draw_from_the_posterior_and_clean_latents_do_not() -> None:
    encoded = Encoded(torch.zeros(4, 1, 8, 8), torch.full((4, 1, 8, 8), 0.5))
    told = {"tokens": small().tokens(CAPTIONS)}
    images = TrainingSet(training_set(8, 1).images, list(range(4)), None, 0, CAPTIONS, encoded, told)
    trainer = Trainer(images, small_config(), Algorithm1(0.3, 0.5), seed=0, text_model=small())
    index = torch.arange(4)
    noisy, clean = torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)
    zeros = torch.zeros(4, 1, 8, 8)
    first, again = (trainer._augment(index, zeros, noisy)[0] for _ in range(2))
    assert torch.equal(first, again)
    assert float(first.std()) == pytest.approx(0.5, abs=0.1)
    one, other = (trainer._augment(index, zeros, clean)[0] for _ in range(2))
    assert not torch.equal(one, other)
    assert float(one.std()) == pytest.approx(0.5, abs=0.1)


# What is trained, stored and sampled.


def test_lora_trains_and_stores_only_what_it_adds(write_pipeline: Callable[..., Path]) -> None:
    folder = write_pipeline()
    model = load_pipeline(str(folder))
    images = with_text(training_set(), model)
    config = pipeline_config(folder, adapt=LoraConfig(rank=2))
    trainer = Trainer(images, config, Algorithm1(0.3, 0.5), seed=0, text_model=model)
    before = {name: value.clone() for name, value in trainer.denoiser.state_dict().items()}
    trainer.train(16)
    changed = {
        name for name, value in trainer.denoiser.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed
    assert all("lora_" in name for name in changed)
    stored = unpack(trainer.checkpoint(), "")[1]
    assert all("lora_" in name for name in stored if name.startswith(("model.", "ema.")))
    averaged: Any = trainer.ema_denoiser()
    frozen = {name: p for name, p in trainer.denoiser.named_parameters() if not p.requires_grad}
    copied = dict(averaged.named_parameters())
    assert frozen
    assert all(copied[name].data_ptr() == p.data_ptr() for name, p in frozen.items())
    assert averaged.model is model
    again = load_denoiser(trainer.checkpoint(), "checkpoint")
    for name, value in trainer.ema_denoiser().state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("adapt", ["lora", "full", "captioned"])
def test_a_training_goes_on_from_its_checkpoint_and_another_from_its_average_bit_for_bit(
    adapt: str, write_pipeline: Callable[..., Path], tmp_path: Path
) -> None:
    if adapt == "captioned":
        model, config, images = small(), small_config(), training_set(8, 1)
    else:
        folder = write_pipeline("v_prediction")
        changes = {"adapt": LoraConfig(rank=2)} if adapt == "lora" else {}
        model, config, images = load_pipeline(str(folder)), pipeline_config(folder, **changes), training_set()
    images = with_text(images, model)

    def trainer(**changes: Any) -> Trainer:
        changed = config.model_copy(update=changes)
        return Trainer(images, changed, Algorithm1(0.3, 0.5), seed=0, text_model=model)

    whole, cut, resumed = trainer(), trainer(), trainer()
    whole.train(32)
    cut.train(16)
    resumed.restore(cut.checkpoint())
    resumed.train(32)
    first, second = unpack(whole.checkpoint(), "")[1], unpack(resumed.checkpoint(), "")[1]
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())

    (tmp_path / "first.safetensors").write_bytes(whole.checkpoint())
    tuned = trainer(init_from=str(tmp_path / "first.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(tuned.ema, whole.ema, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tuned._trained.values(), whole.ema, strict=True))


@pytest.mark.parametrize("adapt", ["lora", "captioned"])
def test_a_training_from_mapped_files_a_batch_at_a_time_is_the_one_in_memory_bit_for_bit(
    adapt: str, write_pipeline: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if adapt == "captioned":
        model, config, images = small(), small_config(), training_set(8, 1)
    else:
        folder = write_pipeline("v_prediction")
        model, config = load_pipeline(str(folder)), pipeline_config(folder, adapt=LoraConfig(rank=2))
        images = training_set()
    held, storage = with_text(images, model), Storage(str(tmp_path))
    tokens, streamed = model.tokens(CAPTIONS), held
    if adapt == "lora":
        list(write_encoded(storage, "a" * 64, 4, encode_rows(images.images, tokens, model)))
        files = read_note(storage, "a" * 64)
        assert files is not None
        streamed = with_rows(images.without_pixels(), tokens, files.open(storage))
        assert streamed.images.shape == (0, 3, 16, 16)

    def trained(images: TrainingSet, share: float) -> dict[str, Tensor]:
        monkeypatch.setattr("pareto_amb.diffusion.trainer.HELD_SHARE", share)
        trainer = Trainer(images, config, S23Algorithm1(0.3, 0.5, 0.1), seed=0, text_model=model)
        trainer.train(16)
        assert len(trainer._conditioning["tokens"]) == 4
        assert (trainer._source is None) == (share > 0)
        return unpack(trainer.checkpoint(), "")[1]

    expected, found = trained(held, 1.0), trained(streamed, 0.0)
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_a_small_model_is_rebuilt_from_its_checkpoint_alone_and_follows_its_captions() -> None:
    model = small()
    images = with_text(training_set(8, 1), model)
    trainer = Trainer(images, small_config(), Algorithm1(), seed=0, text_model=model)
    trainer.train(16)
    loaded = load_denoiser(trainer.checkpoint(), "checkpoint")
    assert isinstance(loaded, TextDenoiser)

    def told(base_seed: int, seeds: Any) -> dict[str, Tensor]:
        return {"tokens": model.tokens([CAPTIONS[seed % 4] for seed in seeds])}

    def sample(denoiser: Any, guidance: float, conditioning: Any = told) -> Tensor:
        return generate(
            denoiser, [0, 1], conditioning, steps=4, sigma_min=0.03, sigma_max=14.6, guidance=guidance
        )

    ours = trainer.ema_denoiser()
    assert torch.equal(sample(loaded, 3.0), sample(ours, 3.0))
    assert not torch.equal(sample(ours, 1.0), sample(ours, 3.0))
    nothing = sample(ours, 1.0, lambda base_seed, seeds: {})
    assert torch.equal(sample(ours, 0.0), nothing)


def test_a_caption_is_left_out_as_often_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    images = with_text(training_set(8, 1), model)
    trainer = Trainer(images, small_config(caption_dropout=0.25), Algorithm1(), seed=0, text_model=model)
    told = trainer._tell(torch.zeros(4000, dtype=torch.int64))["tokens"]
    empty, own = model.tokens([""]), model.tokens(CAPTIONS[:1])
    dropped = (told == empty).all(1)
    assert float(dropped.double().mean()) == pytest.approx(0.25, abs=0.03)
    assert (told[~dropped] == own).all()


def test_embeddings_worked_out_once_are_those_of_the_encoder(write_pipeline: Callable[..., Path]) -> None:
    folder = write_pipeline()
    model = load_pipeline(str(folder))
    images = with_text(training_set(), model)
    denoiser = build_text_denoiser(pipeline_config(folder), (3, 16, 16), model)
    with torch.no_grad():
        expected = denoiser.read(images.told["tokens"])
    assert torch.allclose(images.told["text"].float(), expected, atol=2e-3)
    assert images.encoded is not None
    assert images.encoded.mean.shape == (4, 4, 8, 8)


# What cannot be used.


def test_a_pipeline_that_cannot_be_used_is_refused_in_one_line(write_pipeline: Callable[..., Path]) -> None:
    folder = write_pipeline()
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(UserError, match=r"is a pickle.*safe_serialization=True"):
        load_pipeline(str(folder))
    weights.with_name("diffusion_pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"unet: holds no \.safetensors"):
        load_pipeline(str(folder))
    weights.write_bytes(b"cut short")
    with pytest.raises(UserError, match="unet: cannot be read"):
        load_pipeline(str(folder))
    with pytest.raises(UserError, match="nothing there, and no name of the hub"):
        load_pipeline(str(folder / "nowhere" / "deep"))


def test_what_a_pipeline_lacks_or_predicts_is_named(write_pipeline: Callable[..., Path]) -> None:
    folder = write_pipeline("sample")
    with pytest.raises(UserError, match=r"predicts 'sample'.*epsilon or v_prediction is needed"):
        load_pipeline(str(folder))
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace('"vae"', '"other"'))
    with pytest.raises(UserError, match="has no vae, expected AutoencoderKL"):
        load_pipeline(str(folder))
    index.unlink()
    with pytest.raises(UserError, match=r"model_index\.json: is not there"):
        load_pipeline(str(folder))


def test_a_missing_library_is_one_line_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(UserError, match=r"pip install 'pareto-amb\[text\]'"):
        build_text_denoiser(small_config(), (1, 8, 8), small())
