import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pareto_amb.config import NetworkConfig, TrainingConfig
from pareto_amb.data import TrainingSet
from pareto_amb.diffusion.checkpoint import SamplingOptions, load_denoiser, sampling_options, unpack
from pareto_amb.diffusion.conditioning import sampling_conditioning
from pareto_amb.diffusion.denoiser import Conditioning, Denoiser, PixelSpace
from pareto_amb.diffusion.losses import masked_loss
from pareto_amb.diffusion.methods import (
    Algorithm1,
    Batch,
    Control,
    Masking,
    MaskingReweighted,
    Method,
    NoiseOnly,
    NoiseOnlyConsistent,
)
from pareto_amb.diffusion.methods.base import Denoise
from pareto_amb.diffusion.networks import create_network
from pareto_amb.diffusion.noise import LogNormal
from pareto_amb.diffusion.sampler import generate
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.errors import UserError

torch.set_num_threads(1)
METHODS: list[Method] = [
    Algorithm1(),
    Algorithm1(0.3, 0.5),
    NoiseOnly(0.3),
    Masking(0.4),
    MaskingReweighted(0.4),
    Control(0.3, 0.5),
    NoiseOnlyConsistent(0.3),
]
PLAIN = [Algorithm1(), Control(0.3, 0.5)]
"""Those that see nothing but the images."""

CONFIG = TrainingConfig(
    network=NetworkConfig(options={"model_channels": 4, "dropout": 0.1}),
    images=128,
    batch_size=16,
    learning_rate=2e-3,
    horizontal_flip=True,
    checkpoint_seconds=1e-9,
)
IMAGES = torch.tensor(load_digits().images[:12, None] * 15.9).to(torch.uint8)
TRAINING_SET = TrainingSet(IMAGES, list(range(12)), None, 0)
CLEAN = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
IDS = range(12)


def draw(method: Method, material: Tensor, count: int = 4000, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(count) % 12
    return method.draw(material, index, LogNormal(), generator, lambda images, exact: (images, {}))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_material_is_a_function_of_seed_and_image_number(method: Method) -> None:
    whole = method.material(CLEAN, IDS, 0)
    assert torch.equal(method.material(CLEAN[[7, 3]], [7, 3], 0), whole[..., [7, 3], :, :, :])
    assert torch.equal(method.material(CLEAN, IDS, 1), whole) == (method in PLAIN)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_every_method_resumes_bit_for_bit(method: Method) -> None:
    straight, first, resumed = (Trainer(TRAINING_SET, CONFIG, method, seed=0) for _ in range(3))
    loss = straight.train(128)
    saved: list[bytes] = []
    first.train(64, lambda: saved.append(first.checkpoint()))
    resumed.restore(saved[2])
    assert resumed.images_seen == 48
    assert resumed.train(128) == loss
    a, b = (unpack(trainer.checkpoint(), "")[1] for trainer in (straight, resumed))
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize("method", METHODS[1:], ids=repr)
def test_a_checkpoint_of_another_method_is_refused(method: Method) -> None:
    saved = Trainer(TRAINING_SET, CONFIG, Algorithm1(), seed=0).checkpoint()
    with pytest.raises(UserError, match="is of another training"):
        Trainer(TRAINING_SET, CONFIG, method, seed=0).restore(saved)


def test_algorithm_1_with_no_level_on_one_side_is_plain() -> None:
    for sigma_tn in (0.0, 80.0):
        assert Algorithm1.create({"sigma_tn": sigma_tn, "mix_ratio": 0.5}, 80.0) == Algorithm1()
    assert Algorithm1.create({"sigma_tn": 0.5, "mix_ratio": 0.3}, 80.0) == Algorithm1(0.5, 0.3)


def test_the_control_differs_from_algorithm_1_in_the_noisy_copies_alone() -> None:
    ours, control = Algorithm1(0.3, 0.5), Control(0.3, 0.5)
    material = control.material(CLEAN, IDS, 0)
    assert torch.equal(material, CLEAN)
    a, b = draw(ours, ours.material(CLEAN, IDS, 0)), draw(control, material)
    assert torch.equal(a.sigma, b.sigma)
    assert torch.equal(a.nature, b.sigma >= 0.3)
    assert not b.nature.any()
    assert torch.equal(b.target, CLEAN[torch.arange(4000) % 12])
    below = ~a.nature
    assert torch.equal(a.noisy[below], b.noisy[below])
    eps = (b.noisy - b.target) / b.sigma.view(-1, 1, 1, 1)
    added = (a.noisy - a.target) / (a.sigma**2 - a.nature * 0.09).sqrt().view(-1, 1, 1, 1)
    assert torch.allclose(eps, added, atol=1e-3)

    plain = Algorithm1().loss(b.noisy, b, 0.5)
    assert torch.equal(control.loss(b.noisy, b, 0.5), plain)
    assert Control.create({"sigma_tn": 0.3, "mix_ratio": 0.5}, 80.0) == control


def test_noise_only_sees_noisy_copies_at_levels_above_sigma_tn_and_nothing_else() -> None:
    method, clean = NoiseOnly(0.3), CLEAN.clone()
    material = method.material(clean, IDS, 0)
    assert torch.equal(material, Algorithm1(0.3, 0.5).material(CLEAN, IDS, 0)[1])
    clean.fill_(math.nan)
    batch = draw(method, material)
    assert batch.nature.all()
    assert float(batch.sigma.min()) >= 0.3
    assert torch.equal(batch.target, material[torch.arange(4000) % 12])
    added = (batch.noisy - batch.target) / (batch.sigma**2 - 0.09).sqrt().view(-1, 1, 1, 1)
    assert abs(float(added.std()) - 1) < 0.01
    assert torch.isfinite(method.loss(batch.noisy, batch, 0.5)).all()

    trainer = Trainer(TRAINING_SET, CONFIG, method, seed=0)
    assert trainer._material.shape == (12, 1, 8, 8)
    assert math.isfinite(trainer.train(64))


def test_masking_hides_pixels_for_good_and_further_ones_each_time() -> None:
    method = Masking(0.4, further=0.1)
    material = method.material(CLEAN, IDS, 0)
    images, kept = material[:, :3], material[:, 3:]
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert abs(float(kept.mean()) - 0.6) < 0.05
    assert torch.equal(images, CLEAN * kept)
    batch, other = draw(method, material), draw(method, material, seed=1)
    shown = batch.conditioning["mask"]
    assert batch.kept is not None
    assert torch.equal(batch.kept, kept[torch.arange(4000) % 12])
    assert (shown <= batch.kept).all()
    assert abs(float(shown.sum() / batch.kept.sum()) - 0.9) < 0.01
    assert not torch.equal(shown, other.conditioning["mask"])
    assert (batch.noisy[(shown == 0).expand_as(batch.noisy)] == 0).all()
    assert method.hidden == pytest.approx(1 - 0.6 * 0.9)


def test_a_mask_moves_with_its_image() -> None:
    method = Masking(0.4)
    material = method.material(CLEAN, IDS, 0)
    generator, turn = torch.Generator().manual_seed(0), torch.rand(12)
    batch = method.draw(
        material,
        torch.arange(12),
        LogNormal(),
        generator,
        lambda x, exact: (x.flip(-1), {"turn": turn}),
    )
    assert batch.kept is not None
    assert torch.equal(batch.target, (CLEAN * material[:, 3:]).flip(-1))
    assert torch.equal(batch.kept, material[:, 3:].flip(-1))
    assert batch.conditioning.keys() == {"turn", "mask"}
    assert batch.conditioning["turn"] is turn


def everything_in(batch: Batch) -> dict[str, Tensor]:
    named = {**vars(batch), **batch.conditioning, **batch.drawn}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


@pytest.mark.parametrize(
    ("method", "also"),
    [(Masking(0.4), {"kept", "mask"}), (NoiseOnlyConsistent(0.3), {"first", "lower", "eps"})],
)
def test_a_part_of_a_batch_has_its_rows_of_everything(method: Method, also: set[str]) -> None:
    whole = draw(method, method.material(CLEAN, IDS, 0), 10).told({"labels": torch.arange(10)})
    part = whole.part(slice(4, 7))
    found = everything_in(part)
    assert found.keys() == {"noisy", "sigma", "target", "nature", "labels", *also}
    for name, value in everything_in(whole).items():
        assert torch.equal(found[name], value[4:7])


@pytest.mark.parametrize("method", [Masking(0.4), MaskingReweighted(0.4)], ids=repr)
def test_pixels_that_the_fixed_mask_hides_have_no_part_in_the_loss(method: Masking) -> None:
    batch = draw(method, method.material(CLEAN, IDS, 0), 12)
    assert batch.kept is not None
    denoised = torch.randn(batch.target.shape, requires_grad=True)
    target = batch.target.clone().requires_grad_()
    shown = batch.conditioning["mask"] if isinstance(method, MaskingReweighted) else None
    loss = masked_loss(denoised, target, batch.sigma, batch.kept, 0.5, shown)
    for slope in torch.autograd.grad(loss.sum(), [denoised, target]):
        hidden = (batch.kept == 0).expand_as(slope)
        assert (slope[hidden] == 0).all()
        assert (slope[~hidden] != 0).all()
    assert torch.equal(method.loss(denoised, batch, 0.5), loss)


@pytest.mark.parametrize("reweighted", [False, True])
@pytest.mark.parametrize("change", [0.0, 0.1, -0.1])
def test_on_gaussian_data_the_masked_loss_is_minimised_by_the_posterior_mean(
    change: float, reweighted: bool
) -> None:
    # Images of two pixels, x_0 ~ N(0, C) with correlated entries: E[x_0 | A~ x_sigma, A~] is linear in
    # the pixels shown, also at the pixel that is not, and follows from C in closed form.
    count, s, correlation, sigma = 300_000, 0.5, 0.8, 0.6
    generator = torch.Generator().manual_seed(0)
    covariance = s**2 * torch.tensor([[1.0, correlation], [correlation, 1.0]])
    factor = torch.linalg.cholesky(covariance)
    x_0 = (torch.randn(count, 2, generator=generator) @ factor.T).view(count, 1, 1, 2)
    kept = (torch.rand(count, 1, 1, 2, generator=generator) >= 0.3).float()
    shown = kept * (torch.rand(count, 1, 1, 2, generator=generator) >= 0.3)
    noisy = shown * (x_0 + sigma * torch.randn(count, 1, 1, 2, generator=generator))
    first_only = (shown[..., 0] == 1) & (shown[..., 1] == 0)
    x_0, kept, shown, noisy = (t[first_only.flatten()] for t in (x_0, kept, shown, noisy))
    levels = torch.full((len(x_0),), sigma)

    posterior = covariance[:, 0] / (covariance[0, 0] + sigma**2)
    gains = (posterior + change).requires_grad_()
    denoised = gains * noisy[..., :1]
    loss = masked_loss(denoised, kept * x_0, levels, kept, s, shown if reweighted else None)
    slopes = torch.autograd.grad(loss.mean(), gains)[0]
    for pixel in range(2):
        weight = s**-2 if reweighted and pixel == 1 else (1 + sigma**2 / s**2) / sigma**2
        errors = weight * kept[..., pixel] * (denoised[..., pixel] - x_0[..., pixel]) * noisy[..., 0]
        margin = 4 * float(errors.detach().std()) / math.sqrt(len(x_0))
        assert (abs(float(slopes[pixel])) < margin) == (change == 0)


def test_a_masked_denoiser_never_sees_a_hidden_pixel() -> None:
    torch.manual_seed(0)
    denoiser = create_network("tiny", 8, 1, mask_channels=1, model_channels=4).eval()
    nn.init.normal_(denoiser.network.out.weight)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 5.0])
    mask = (torch.rand(2, 1, 8, 8) < 0.5).float()
    denoised = denoiser(x, sigma, {"mask": mask})
    assert torch.equal(denoiser(torch.where(mask > 0, x, 99.0), sigma, {"mask": mask}), denoised)
    assert not torch.equal(denoiser(x, sigma, {"mask": torch.ones_like(mask)}), denoised)
    # At zero raw output a shown pixel is c_skip x and a hidden one 0, the mean at infinite noise.
    nn.init.zeros_(denoiser.network.out.weight)
    nn.init.zeros_(denoiser.network.out.bias)
    c_skip = 0.25 / (sigma**2 + 0.25)
    assert torch.allclose(denoiser(x, sigma, {"mask": mask}), c_skip.view(-1, 1, 1, 1) * mask * x)


def gaussian(width: float, factor_below: float = 1.0) -> Denoise:
    """D of x_0 ~ N(0, width^2), times a factor at levels below 0.3."""

    def denoise(x: Tensor, sigma: Tensor, told: Conditioning) -> Tensor:
        gain = width**2 / (width**2 + sigma**2) * torch.where(sigma < 0.3, factor_below, 1.0)
        return gain.view(-1, 1, 1, 1) * x

    return denoise


def consistency_of(denoise: Denoise, count: int = 60_000) -> Tensor:
    """The consistency loss on Gaussian images of standard deviation 0.5, each of them in the batch once."""
    method = NoiseOnlyConsistent(0.3)
    clean = 0.5 * torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    index, generator = torch.arange(count), torch.Generator().manual_seed(1)
    material = method.material(clean, range(count), 0)
    batch = method.draw(material, index, LogNormal(), generator, lambda images, exact: (images, {}))
    return method.consistency(denoise, batch, 0.5)


def test_consistency_adds_to_the_examples_of_noise_only() -> None:
    method = NoiseOnlyConsistent(0.3)
    material = method.material(CLEAN, IDS, 0)
    ours, plain = draw(method, material), draw(NoiseOnly(0.3), material)
    for name, value in everything_in(plain).items():
        assert torch.equal(everything_in(ours)[name], value)
    assert 0 < float(ours.drawn["lower"].min()) < 0.01
    assert float(ours.drawn["lower"].max()) < 0.3
    added = (ours.drawn["first"] - ours.target) / math.sqrt(0.45**2 - 0.3**2)
    assert abs(float(added.std()) - 1) < 0.01
    assert method.sigma_stop == 0
    assert NoiseOnlyConsistent.create({"sigma_tn": 0.3}, 80.0) == method


@pytest.mark.parametrize("width", [0.5, 0.7])
def test_a_consistent_denoiser_has_no_gap(width: float) -> None:
    extra = consistency_of(gaussian(width))
    assert extra.shape == (60_000,)
    assert abs(float(extra.mean())) < 4 * float(extra.std()) / math.sqrt(len(extra))


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_a_denoiser_that_is_wrong_below_sigma_tn_has_one(factor: float) -> None:
    extra = consistency_of(gaussian(0.5, factor))
    assert float(extra.mean()) > 20 * float(extra.std()) / math.sqrt(len(extra))


def test_consistency_moves_the_lower_level_towards_what_is_known_above() -> None:
    asked: list[tuple[Tensor, bool]] = []
    factor = torch.tensor(0.8, requires_grad=True)
    inner = gaussian(0.5)

    def denoise(x: Tensor, sigma: Tensor, told: Conditioning) -> Tensor:
        asked.append((sigma, torch.is_grad_enabled()))
        assert not x.requires_grad
        return inner(x, sigma, told) * torch.where(sigma < 0.3, factor, 1.0).view(-1, 1, 1, 1)

    optimizer = torch.optim.Adam([factor], lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        consistency_of(denoise, 2000).mean().backward()
        optimizer.step()
    assert float(factor.detach()) == pytest.approx(1, abs=0.03)

    levels = [sigma for sigma, _ in asked[:7]]
    assert all((below < above).all() for above, below in itertools.pairwise(levels[:6]))
    assert torch.allclose(levels[0], torch.tensor(0.45))
    assert torch.allclose(levels[4], 1.5 * levels[5])
    assert levels[5] is levels[6]
    assert [moved for _, moved in asked[:7]] == [False] * 5 + [True] * 2


def test_the_consistency_of_an_example_is_its_own() -> None:
    method = NoiseOnlyConsistent(0.3)
    batch = draw(method, method.material(CLEAN, IDS, 0), 10)
    whole = method.consistency(gaussian(0.5), batch, 0.5)
    parts = [method.consistency(gaussian(0.5), batch.part(slice(k, k + 5)), 0.5) for k in (0, 5)]
    assert torch.equal(torch.cat(parts), whole)


def test_the_trainer_takes_the_losses_of_a_method_and_keeps_its_memory() -> None:
    class Doubled(Algorithm1):
        def first_memory(self) -> dict[str, Tensor]:
            return {"steps": torch.zeros(())}

        def losses(
            self, denoise: Denoise, batch: Batch, sigma_data: float, memory: Mapping[str, Tensor]
        ) -> Tensor:
            memory["steps"].add_(1)
            return 2 * super().losses(denoise, batch, sigma_data, memory)

    config = CONFIG.model_copy(update={"network": NetworkConfig(options={"model_channels": 4})})
    plain, doubled = (Trainer(TRAINING_SET, config, method, seed=0) for method in (Algorithm1(), Doubled()))
    assert doubled.train(16) == pytest.approx(2 * plain.train(16), rel=1e-6)
    again = Trainer(TRAINING_SET, config, Doubled(), seed=0)
    again.restore(doubled.checkpoint())
    again.train(32)
    steps = 32 // config.batch_size
    assert unpack(again.checkpoint(), "")[1]["memory.steps"] == steps
    with pytest.raises(UserError, match="memory"):
        Trainer(TRAINING_SET, config, Algorithm1(), seed=0).restore(doubled.checkpoint())


class Spy(Denoiser):
    """Returns a constant image and keeps what it was asked."""

    def __init__(self, *shape: int) -> None:
        super().__init__(PixelSpace(shape), {})
        self.sigmas: list[float] = []
        self.told: list[Conditioning] = []

    def forward(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self.sigmas.append(float(sigma[0]))
        self.told.append(conditioning)
        return torch.full_like(x, 0.5)

    @property
    def masks(self) -> list[Tensor]:
        return [told["mask"] for told in self.told]


def test_sampling_of_noise_only_stops_at_sigma_tn_with_the_posterior_mean() -> None:
    spy = Spy(1, 4, 4)
    told = sampling_conditioning(spy, NoiseOnly(0.7).hidden)
    images = generate(spy, range(3), told, steps=6, sigma_stop=NoiseOnly(0.7).sigma_stop)
    assert len(spy.sigmas) == 2 * 6 - 1
    assert min(spy.sigmas) == pytest.approx(0.7)
    assert spy.sigmas[0] == pytest.approx(80.0)
    assert (images == 191).all()  # the last answer of the denoiser itself
    assert spy.told == [{}] * 11


def test_sampling_of_masking_keeps_one_mask_an_image() -> None:
    spy = Spy(3, 16, 16)
    generate(spy, range(8), sampling_conditioning(spy, 0.46), steps=3, base_seed=4)
    first = spy.masks[0]
    assert first.shape == (8, 1, 16, 16)
    assert abs(float(first.mean()) - 0.54) < 0.04
    assert not torch.equal(first[0], first[1])
    assert all(torch.equal(mask, first) for mask in spy.masks)
    alone = Spy(3, 16, 16)
    generate(alone, [5], sampling_conditioning(alone, 0.46), steps=3, base_seed=4)
    assert torch.equal(alone.masks[0], first[5:6])


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_checkpoint_knows_how_it_is_sampled(method: Method) -> None:
    trainer = Trainer(TRAINING_SET, CONFIG, method, seed=0)
    trainer.train(32)
    content = trainer.checkpoint()
    options = sampling_options(content, "file")
    assert options == SamplingOptions(method.sigma_stop, method.hidden)
    images, ours = (
        generate(
            denoiser,
            range(2),
            sampling_conditioning(denoiser, options.hidden),
            steps=3,
            sigma_stop=options.sigma_stop,
        )
        for denoiser in (load_denoiser(content, "file"), trainer.ema_denoiser())
    )
    assert images.shape == (2, 1, 8, 8)
    assert torch.equal(images, ours)
