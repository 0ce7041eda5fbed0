from functools import partial
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from pareto_amb.config import NetworkConfig, TrainingConfig
from pareto_amb.data import TrainingSet
from pareto_amb.diffusion.checkpoint import load_denoiser, pack, unpack
from pareto_amb.diffusion.methods import Algorithm1
from pareto_amb.diffusion.methods import algorithm1 as methods_module
from pareto_amb.diffusion.noise import LogNormal, natural_mix_ratio
from pareto_amb.diffusion.trainer import Trainer, TrainingDivergedError
from pareto_amb.errors import UserError

CONFIG = TrainingConfig(
    network=NetworkConfig(options={"model_channels": 8, "dropout": 0.1}),
    images=320,
    batch_size=16,
    learning_rate=2e-3,
    lr_warmup_images=64,
    ema_halflife_images=100,
    horizontal_flip=True,
    checkpoint_seconds=1e-9,
)
IMAGES = torch.tensor(load_digits().images[:12, None] * 15.9).to(torch.uint8)


def as_set(images: Tensor, ids: list[int]) -> TrainingSet:
    return TrainingSet(images, ids, None, 0)


def make_trainer(sigma_tn: float = 0.3, mix_ratio: float = 0.5, seed: int = 0, **changes: object) -> Trainer:
    config = CONFIG.model_copy(update=changes)
    method = Algorithm1.create({"sigma_tn": sigma_tn, "mix_ratio": mix_ratio}, 80.0)
    return Trainer(as_set(IMAGES, list(range(12))), config, method, seed=seed)


def state(trainer: Trainer) -> dict[str, Tensor]:
    header, tensors = unpack(trainer.checkpoint(), "test")
    assert header["images_seen"] == trainer.images_seen
    return tensors


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_first_step_is_that_of_the_optimizer_on_the_summed_loss(optimizer: str) -> None:
    decay, rate, eps = 0.5, 2e-3, 1e-2
    network = NetworkConfig(options={"model_channels": 8})
    trainer = make_trainer(
        optimizer=optimizer,
        weight_decay=decay,
        eps=eps,
        lr_warmup_images=0,
        network=network,
        horizontal_flip=False,
    )
    generator = torch.Generator()
    generator.set_state(trainer._generator.get_state())
    before = [p.detach().clone() for p in trainer.denoiser.parameters()]

    index = torch.randint(12, (16,), generator=generator)
    augment = partial(trainer._augment, index)
    batch = trainer.method.draw(trainer._material, index, trainer._noise, generator, augment)
    denoised = trainer.denoiser(batch.noisy, batch.sigma, batch.conditioning)
    loss = trainer.method.loss(denoised, batch, 0.5).mean()
    gradients = torch.autograd.grad(64 * loss, list(trainer.denoiser.parameters()))  # 8 x 8 pixels

    assert trainer.train(16) == pytest.approx(loss.item())  # reported as a mean
    for weight, old, gradient in zip(trainer.denoiser.parameters(), before, gradients, strict=True):
        coupled = gradient + decay * old if optimizer == "adam" else gradient
        shrunk = old if optimizer == "adam" else old * (1 - rate * decay)
        assert torch.allclose(weight, shrunk - rate * coupled / (coupled.abs() + eps), atol=2e-6)


def test_a_resumed_training_continues_bit_for_bit() -> None:
    straight = make_trainer()
    straight_loss = straight.train(320)

    saved: list[bytes] = []
    first = make_trainer()
    first.train(160, lambda: saved.append(first.checkpoint()))
    assert len(saved) > 5
    resumed = make_trainer()
    resumed.restore(saved[4])
    assert 0 < resumed.images_seen < 160
    assert resumed.train(320) == straight_loss
    assert_same(state(straight), state(resumed))


def test_training_is_a_function_of_its_seed() -> None:
    runs = [make_trainer(seed=seed) for seed in (1, 1, 2)]
    for run in runs:
        run.train(64)
    assert_same(state(runs[0]), state(runs[1]))
    assert not torch.equal(runs[0].ema[0], runs[2].ema[0])


def test_training_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    make_trainer().train(32)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("sigma_tn", [0.0, 80.0, 1000.0])
def test_sigma_tn_at_either_end_is_plain_training(sigma_tn: float) -> None:
    plain, end = make_trainer(0.0, 0.0), make_trainer(sigma_tn, 0.5)
    assert plain.train(64) == end.train(64)
    assert_same(state(plain), state(end))


def test_the_fixed_noisy_copies_depend_on_seed_and_image_number_only() -> None:
    whole = make_trainer()
    part = Trainer(as_set(IMAGES[[7, 3]], [7, 3]), CONFIG, Algorithm1(0.3, 0.5), seed=0)
    assert torch.equal(part._material[1], whole._material[1][[7, 3]])
    assert not torch.equal(make_trainer(seed=1)._material[1], whole._material[1])
    before = whole._material[1].clone()
    whole.train(64)
    assert torch.equal(whole._material[1], before)
    noise = (whole._material[1] - whole._material[0]) / 0.3
    assert abs(float(noise.std()) - 1) < 0.1


def test_batches_mix_clean_and_noisy_examples_as_algorithm_1_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    real = methods_module.algorithm1_loss

    def spy(
        denoised: Tensor, noisy: Tensor, target: Tensor, sigma: Tensor, nature: Tensor, *more: float
    ) -> Tensor:
        seen.append((noisy, target, sigma, nature))
        return real(denoised, noisy, target, sigma, nature, *more)

    monkeypatch.setattr(methods_module, "algorithm1_loss", spy)
    trainer = make_trainer(mix_ratio=0.25, horizontal_flip=False, batch_size=500)
    trainer.train(8000)
    noisy, target, sigma, nature = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert abs(float(nature.float().mean()) - 0.25) < 0.02
    assert (sigma[nature] >= 0.3).all()
    assert (sigma[~nature] < 0.3).all()
    distance = (target.unsqueeze(1) - trainer._material[1].unsqueeze(0)).abs().flatten(2).amax(2)
    assert (distance[nature].amin(1) == 0).all()  # a noisy example is one of S_tn
    distance = (target.unsqueeze(1) - trainer._material[0].unsqueeze(0)).abs().flatten(2).amax(2)
    assert (distance[~nature].amin(1) == 0).all()  # a clean one is one of S
    start = torch.where(nature, 0.3, 0.0)
    added = (noisy - target) / (sigma**2 - start**2).sqrt().view(-1, 1, 1, 1)
    assert abs(float(added.mean())) < 0.01
    assert abs(float(added.std()) - 1) < 0.01


def test_the_natural_mix_ratio_of_the_default_noise() -> None:
    assert natural_mix_ratio(LogNormal(), 0.2) == pytest.approx(0.633, abs=1e-3)


def test_the_loss_falls_and_the_average_follows_the_weights() -> None:
    trainer = make_trainer(batch_size=64, horizontal_flip=False)
    first = trainer.train(640)
    later = [trainer.train(640 * k) for k in range(2, 6)]
    assert later[-1] < 0.8 * first
    for mean, weight in zip(trainer.ema, trainer.denoiser.parameters(), strict=True):
        assert (mean - weight).abs().mean() < 0.1


def test_ema_is_the_exponential_average_with_the_configured_half_life() -> None:
    trainer = make_trainer(ema_rampup_ratio=None, ema_halflife_images=48)
    expected = trainer.ema[0].clone()
    parameter = next(trainer.denoiser.parameters())
    for step in range(1, 6):
        trainer.train(16 * step)
        expected = expected.lerp(parameter.detach(), 1 - 0.5 ** (16 / 48))
    assert torch.allclose(trainer.ema[0], expected, atol=1e-7)


def test_the_learning_rate_warms_up_linearly() -> None:
    trainer = make_trainer()
    rates = []
    for step in range(1, 7):
        trainer.train(16 * step)
        rates.append(trainer._optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([5e-4, 1e-3, 1.5e-3, 2e-3, 2e-3, 2e-3])


def test_a_diverging_training_is_reported_before_it_is_saved() -> None:
    trainer = make_trainer(learning_rate=1e30, lr_warmup_images=0)
    saved: list[int] = []
    with pytest.raises(TrainingDivergedError, match="loss became"):
        trainer.train(320, lambda: saved.append(trainer.images_seen))
    assert 320 not in saved


def test_a_checkpoint_of_another_training_is_refused() -> None:
    saved = make_trainer(sigma_tn=0.2)
    saved.train(16)
    with pytest.raises(UserError, match="another training, sigma_tn differ"):
        make_trainer().restore(saved.checkpoint())


def test_a_checkpoint_of_before_trainings_changed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr("pareto_amb.diffusion.trainer.VERSION", 2)
        saved = make_trainer()
        saved.train(16)
        content = saved.checkpoint()
    with pytest.raises(UserError, match="another training, version differ"):
        make_trainer().restore(content)


def branched(sigma_tn: float = 0.3) -> Trainer:
    """A training of Algorithm 1 that is to go on from `trunk`, by another seed."""
    method = Algorithm1.create({"sigma_tn": sigma_tn, "mix_ratio": 0.5}, 80.0)
    return Trainer(as_set(IMAGES, list(range(12))), CONFIG, method, seed=5, branched_at=64)


def trunk(images: int = 64) -> Trainer:
    ddpm = make_trainer(sigma_tn=0.0)
    ddpm.train(images)
    return ddpm


def test_a_branch_begins_where_the_other_training_stands_and_draws_its_own() -> None:
    source, trainer = trunk(), branched()
    before = state(trainer)
    trainer.branch(source.checkpoint())
    assert trainer.images_seen == 64
    theirs, mine = state(source), state(trainer)
    taken = {name for name in theirs if name.startswith(("model.", "ema.", "optimizer."))}
    assert_same({name: mine[name] for name in taken}, {name: theirs[name] for name in taken})
    own = mine.keys() - taken
    assert_same({name: mine[name] for name in own}, {name: before[name] for name in own})


def test_a_branch_continues_bit_for_bit_from_its_own_checkpoint() -> None:
    content, whole = trunk().checkpoint(), branched()
    whole.branch(content)
    whole.train(160)
    first, second = branched(), branched()
    first.branch(content)
    first.train(96)
    second.restore(first.checkpoint())
    second.train(160)
    assert_same(state(second), state(whole))


def test_a_branch_is_never_taken_for_a_training_from_scratch() -> None:
    trainer = branched()
    trainer.branch(trunk().checkpoint())
    scratch = Trainer(as_set(IMAGES, list(range(12))), CONFIG, trainer.method, seed=5)
    with pytest.raises(UserError, match="another training, branched_at differ"):
        scratch.restore(trainer.checkpoint())
    with pytest.raises(UserError, match="branched_at differ"):
        branched().branch(trainer.checkpoint())


def test_a_training_that_was_to_branch_does_not_start_from_scratch() -> None:
    with pytest.raises(ValueError, match="branch first, from a training of 64 images"):
        branched().train(16)
    with pytest.raises(ValueError, match="begins from scratch"):
        make_trainer().branch(make_trainer(sigma_tn=0.0).checkpoint())


def test_what_does_not_fit_is_not_branched_from() -> None:
    with pytest.raises(UserError, match="has not seen 64 images"):
        branched().branch(trunk(32).checkpoint())
    other = make_trainer(sigma_tn=0.0, learning_rate=1e-3)
    other.train(64)
    with pytest.raises(UserError, match="training differ"):
        branched().branch(other.checkpoint())


def test_the_checkpoint_alone_rebuilds_the_averaged_denoiser() -> None:
    trainer = make_trainer()
    trainer.train(64)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 3.0])
    rebuilt = load_denoiser(trainer.checkpoint(), "file")
    assert torch.equal(rebuilt(x, sigma, {}), trainer.ema_denoiser()(x, sigma, {}))
    raw = trainer.denoiser.eval()
    assert not torch.equal(rebuilt(x, sigma, {}), raw(x, sigma, {}))


def test_a_damaged_or_foreign_checkpoint_is_refused() -> None:
    trainer = make_trainer()
    content = trainer.checkpoint()
    for bad in (b"", content[: len(content) // 2], b"\x80\x04K\x01." * 20, pack({}, {})[:-1]):
        with pytest.raises(UserError, match="file: not a pareto-amb checkpoint"):
            load_denoiser(bad, "file")
    with pytest.raises(UserError, match="file: does not hold the network"):
        load_denoiser(pack({"architecture": {"name": "tiny"}}, {}), "file")
    with pytest.raises(UserError, match="checkpoint format 'other'"):
        unpack(pack({"format": "other"}, {}), "file")


def test_class_labels_reach_the_network() -> None:
    classes = TrainingSet(IMAGES, list(range(12)), torch.arange(12) % 3, 3)
    trainer = Trainer(classes, CONFIG, Algorithm1(0.3, 0.5), seed=0)
    trainer.train(64)
    assert trainer.denoiser.architecture["label_dim"] == 3
    weight = dict(trainer.denoiser.named_parameters())["network.labels.weight"]
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_augmented_noisy_examples_are_turned_and_flipped_copies_of_s_tn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    real = methods_module.algorithm1_loss

    def spy(
        denoised: Tensor, noisy: Tensor, target: Tensor, sigma: Tensor, nature: Tensor, *more: float
    ) -> Tensor:
        seen.append((target, nature))
        return real(denoised, noisy, target, sigma, nature, *more)

    monkeypatch.setattr(methods_module, "algorithm1_loss", spy)
    trainer = make_trainer(augment_probability=0.5, horizontal_flip=False, batch_size=100)
    trainer.train(400)
    target, nature = (torch.cat(parts) for parts in zip(*seen, strict=True))
    turns = [
        torch.rot90(x, k, (2, 3))
        for x in (trainer._material[1], trainer._material[1].flip(3))
        for k in range(4)
    ]
    known = {image.numpy().tobytes() for turn in turns for image in turn.contiguous()}
    is_copy = torch.tensor([image.numpy().tobytes() in known for image in target.contiguous()])
    assert is_copy[nature].all()
    assert not is_copy[~nature].any()


def test_augmentation_reaches_the_network_and_sampling_goes_without() -> None:
    trainer = make_trainer(augment_probability=0.5)
    trainer.train(64)
    weight = dict(trainer.denoiser.named_parameters())["network.augment.weight"]
    assert weight.shape[1] == 9
    assert weight.abs().sum() > 0
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0
    denoiser, x, sigma = trainer.ema_denoiser(), torch.randn(2, 1, 8, 8), torch.tensor([0.1, 3.0])
    untold = denoiser(x, sigma, {})
    assert torch.equal(untold, denoiser(x, sigma, {"augment_labels": torch.zeros(2, 9)}))
    assert not torch.equal(untold, denoiser(x, sigma, {"augment_labels": torch.ones(2, 9)}))
    assert "network.augment.weight" not in dict(make_trainer().denoiser.named_parameters())


def test_a_training_starts_from_the_averaged_weights_of_another(tmp_path: Path) -> None:
    earlier = make_trainer(seed=3)
    earlier.train(64)
    path = tmp_path / "earlier.safetensors"
    path.write_bytes(earlier.checkpoint())
    tuned = make_trainer(sigma_tn=0.7, init_from=str(path))
    for weight, mean, old in zip(tuned.denoiser.parameters(), tuned.ema, earlier.ema, strict=True):
        assert torch.equal(weight, old)
        assert torch.equal(mean, old)
    assert tuned.images_seen == 0
    assert not tuned._optimizer.state
    tuned.train(32)
    assert any(not torch.equal(a, b) for a, b in zip(tuned.ema, earlier.ema, strict=True))
    # Dropout has no weights, so it may differ; defaults written out are no difference.
    options = {"model_channels": 8, "dropout": 0.0, "channel_mult": [1, 2]}
    make_trainer(init_from=str(path), network=NetworkConfig(options=options))


def test_first_weights_of_another_network_are_refused_by_the_first_difference(tmp_path: Path) -> None:
    path = tmp_path / "earlier.safetensors"
    path.write_bytes(make_trainer().checkpoint())
    wider = NetworkConfig(options={"model_channels": 16})
    with pytest.raises(UserError, match="model_channels is 8 there and 16 in this training"):
        make_trainer(init_from=str(path), network=wider)
    with pytest.raises(UserError, match="augment_dim is 0 there and 9 in this training"):
        make_trainer(init_from=str(path), augment_probability=0.1)
    with pytest.raises(UserError, match=r"init_from: .*absent.*cannot be read"):
        make_trainer(init_from=str(tmp_path / "absent"))
    for content, problem in (
        (b"\x80\x04K\x01.", "not a pareto-amb checkpoint"),
        (pack({}, {}), "no network"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=problem):
            make_trainer(init_from=str(path))


def test_broken_gradients_are_repaired_or_not_as_configured() -> None:
    broken = []
    for repair in (True, False):
        trainer = make_trainer(gradient_repair=repair)
        weight = trainer.denoiser.network.stem.weight  # type: ignore[union-attr]
        weight.register_hook(lambda gradient: torch.full_like(gradient, float("nan")))
        trainer.train(16)
        broken.append(not all(p.isfinite().all() for p in trainer.denoiser.parameters()))
    assert broken == [False, True]


def test_repair_hides_no_diverged_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods_module, "algorithm1_loss", lambda d, *_: d.flatten(1).mean(1) * torch.nan)
    with pytest.raises(TrainingDivergedError, match="loss became nan"):
        make_trainer().train(16)
