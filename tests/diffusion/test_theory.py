"""The posterior over a training set, against closed forms, brute force and what must hold for any images."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor

from pareto_amb.diffusion.conditioning import sampling_conditioning
from pareto_amb.diffusion.losses import predict_nature
from pareto_amb.diffusion.methods import Algorithm1
from pareto_amb.diffusion.methods.ambient import nature_copies
from pareto_amb.diffusion.noise import LogNormal
from pareto_amb.diffusion.sampler import generate, karras_sigmas, sample_heun
from pareto_amb.diffusion.theory import (
    HIGH_SHARE,
    LOW_SHARE,
    MIN_PROBES,
    OptimalDenoiser,
    TrainingPosterior,
    auto_range,
    effective_numbers,
    pair_terms,
    posterior_weights,
    sample_optimum,
    sample_to_nature,
)
from pareto_amb.errors import UserError

SIGMAS = [0.05, 0.2, 0.6, 1.5, 5.0, 60.0]


def random_images(count: int, side: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, side, side), dtype=torch.uint8, generator=generator)


def row_of(values: list[int]) -> Tensor:
    """Images of one pixel."""
    return torch.tensor(values, dtype=torch.uint8).reshape(-1, 1, 1, 1)


def two_point_number(distance: float, sigma: float) -> float:
    """The exact median effective number of two points so far apart.

    With s = distance / sigma the log-odds of the right point are s^2 / 2 + s z, z ~ N(0, 1); the effective
    number falls with their size, whose median m solves P(|s^2 / 2 + s z| <= m) = 1/2.
    """
    s = distance / sigma

    def excess(m: float) -> float:
        return float(norm.cdf(m / s - s / 2) - norm.cdf(-m / s - s / 2)) - 0.5

    median = brentq(excess, 0, s**2 + 10 * s)
    p = 1 / (1 + math.exp(-median))
    return math.exp(-sum(q * math.log(q) for q in (p, 1 - p) if q > 0))


@pytest.mark.parametrize("s", [0.2, 1.0, 2.0, 3.0, 4.0])
def test_two_images_have_the_number_of_the_closed_form(s: float) -> None:
    images = torch.stack([torch.zeros(1, 2, 2), torch.full((1, 2, 2), 51)]).to(torch.uint8)
    distance = 2 * 51 / 127.5
    found = TrainingPosterior(images, n_probes=40_000).effective_number(distance / s)
    assert found == pytest.approx(two_point_number(distance, distance / s), rel=0.01)


def test_two_images_collapse_where_the_closed_form_does() -> None:
    distance = 0.4
    exact = brentq(lambda sigma: two_point_number(distance, sigma) - 1.05, 0.01, 1.0)
    found = TrainingPosterior(row_of([100, 151]), n_probes=40_000).collapse_level()
    assert found == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_posterior_is_that_of_a_plain_loop_over_the_images(sigma: float) -> None:
    images = random_images(700)  # more than one block
    probed = torch.tensor([0, 3, 3, 650])
    noise = torch.randn(4, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    points = images.flatten(1).numpy().astype(float) / 127.5 - 1
    expected = []
    for index, eps in zip(probed.tolist(), noise.numpy(), strict=True):
        noisy = points[index] + sigma * eps
        logits = np.array([-(((noisy - point) / sigma) ** 2).sum() / 2 for point in points])
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        expected.append(math.exp(-sum(w * math.log(w) for w in weights if w > 0)))
    found = effective_numbers(*pair_terms(images, probed, noise), sigma)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_levels_far_out_of_range_neither_overflow_nor_vanish() -> None:
    posterior = TrainingPosterior(random_images(50))
    assert posterior.effective_number(1e-9) == 1.0
    assert posterior.effective_number(1e9) == pytest.approx(50)


def test_images_that_occur_twice_count_once() -> None:
    images = random_images(30)
    doubled = torch.cat([images, images.flip(0)])
    assert TrainingPosterior(doubled).n_images == 30
    assert TrainingPosterior(doubled).collapse_level() == TrainingPosterior(images).collapse_level()
    twice = effective_numbers(*pair_terms(doubled, torch.arange(30), torch.zeros(30, 9).double()), 1e-3)
    assert twice.tolist() == pytest.approx([2.0] * 30)  # what they would do if they counted twice


def test_one_image_is_recognised_at_every_level() -> None:
    posterior = TrainingPosterior(random_images(1).repeat(5, 1, 1, 1))
    assert posterior.n_images == 1
    assert [posterior.effective_number(sigma) for sigma in SIGMAS] == [1.0] * len(SIGMAS)
    assert posterior.collapse_level() == math.inf


def test_the_collapse_level_is_where_the_curve_leaves_one() -> None:
    posterior = TrainingPosterior(random_images(200))
    level = posterior.collapse_level()
    assert posterior.effective_number(level) > 1.05
    assert posterior.effective_number(level / 1.002) <= 1.05
    lower = np.geomspace(level / 100, level / 1.05, 60)
    assert max(posterior.effective_number(float(sigma)) for sigma in lower) <= 1.05


image_sets = st.builds(random_images, st.integers(2, 12), st.integers(1, 3), st.integers(0, 2**32))


@settings(max_examples=25, deadline=None)
@given(images=image_sets, start=st.floats(0.02, 2.0))
def test_more_noise_leaves_more_images_to_choose_from(images: Tensor, start: float) -> None:
    posterior = TrainingPosterior(images, n_probes=4096)
    sigmas = np.geomspace(start, 50 * start, 12)
    numbers = np.array([posterior.effective_number(float(sigma)) for sigma in sigmas])
    assert (numbers >= 1 - 1e-12).all()
    assert (numbers <= posterior.n_images + 1e-9).all()
    assert (numbers[1:] >= 0.96 * numbers[:-1]).all()  # sampled: a median of 4,096 probes


@settings(max_examples=20, deadline=None)
@given(
    values=st.lists(st.integers(-14, 14), min_size=8, max_size=40, unique=True),
    shift=st.integers(-60, 60),
    factor=st.integers(2, 4),
)
def test_the_collapse_level_scales_with_the_images_and_ignores_their_brightness(
    values: list[int], shift: int, factor: int
) -> None:
    small = row_of([128 + value for value in values])
    large = row_of([128 + shift + factor * value for value in values])
    level = TrainingPosterior(small).collapse_level()
    assert TrainingPosterior(large).collapse_level() == pytest.approx(factor * level, rel=2e-3)


def test_the_level_depends_on_the_seed_alone_and_little_on_it() -> None:
    images = random_images(100)
    levels = [TrainingPosterior(images, seed).collapse_level() for seed in range(6)]
    assert TrainingPosterior(images, 3).collapse_level() == levels[3]
    assert len(set(levels)) == 6
    assert max(levels) < 1.1 * min(levels)


def test_large_sets_are_probed_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pareto_amb.diffusion.theory.MAX_PAIRS", 2000)
    images = random_images(25)
    assert TrainingPosterior(images).n_probes == 80
    assert TrainingPosterior(random_images(1000)).n_probes == MIN_PROBES
    assert TrainingPosterior(images, n_probes=10).n_probes == 10


def test_the_range_of_auto_is_a_share_of_the_collapse_level_and_ends_at_sigma_max() -> None:
    found = auto_range(5.0, 80.0)
    assert (found.low, found.high, found.collapse_level) == (5 * LOW_SHARE, 5 * HIGH_SHARE, 5)
    assert auto_range(5.0, 2.5).high == 2.5
    with pytest.raises(UserError, match=r"auto would search from 0\.1 on.* sampling\.sigma_max 0\.1;"):
        auto_range(5.0, 0.1)
    with pytest.raises(UserError, match="all the same"):
        auto_range(math.inf, 80.0)


@pytest.mark.parametrize(("window", "collapse_level"), [((0.1, 0.5), 0.77), ((0.4, 4.0), 15.0)])
def test_the_range_of_auto_holds_the_windows_known_to_be_good(
    window: tuple[float, float], collapse_level: float
) -> None:
    found = auto_range(collapse_level, 80.0)
    assert found.low * 1.2 < window[0]
    assert found.high > 1.2 * window[1]


def clean_and_copies(sigma_tn: float, count: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Training images (N, 1, 3, 3), float64, and their noisy copies."""
    clean = random_images(count, seed=seed).double() / 127.5 - 1
    return clean, nature_copies(clean.float(), range(count), seed, sigma_tn).double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_posterior_mean(points: np.ndarray, x: np.ndarray, variance: float) -> np.ndarray:
    logits = np.array([-((x - point) ** 2).sum() / (2 * variance) for point in points])
    weights = np.exp(logits - logits.max())
    return (weights[:, None] * points).sum(axis=0) / weights.sum()


def test_the_optimal_denoiser_is_that_of_a_plain_loop_on_both_sides_of_sigma_tn() -> None:
    sigma_tn = 0.6
    clean, copies = clean_and_copies(sigma_tn)
    sigma = torch.tensor([0.1, 0.4, 0.6, 0.61, 0.9, 3.0, 70.0], dtype=torch.float64)
    x = clean[:7] + sigma.view(-1, 1, 1, 1) * normal(7, 1, 3, 3)
    expected = []
    for noisy, level in zip(x.flatten(1).numpy(), sigma.tolist(), strict=True):
        if level <= sigma_tn:
            expected.append(plain_posterior_mean(clean.flatten(1).numpy(), noisy, level**2))
        else:
            v = level**2 - sigma_tn**2
            mean = plain_posterior_mean(copies.flatten(1).numpy(), noisy, v)
            expected.append((level**2 * mean - sigma_tn**2 * noisy) / v)
    found = OptimalDenoiser(clean, copies, sigma_tn)(x, sigma, {})
    np.testing.assert_allclose(found.flatten(1).numpy(), expected, rtol=1e-8, atol=1e-9)


def test_the_weights_of_the_optimal_denoiser_are_those_that_the_probes_count() -> None:
    images, probed, noise = random_images(40), torch.tensor([0, 7, 39]), normal(3, 9)
    points = images.flatten(1).double() / 127.5 - 1
    for sigma in SIGMAS:
        weights = posterior_weights(
            points, points[probed] + sigma * noise, torch.full((3,), sigma, dtype=torch.float64)
        )
        found = torch.special.entr(weights).sum(dim=1).exp()
        torch.testing.assert_close(found, effective_numbers(*pair_terms(images, probed, noise), sigma))


def test_no_other_denoiser_has_a_smaller_training_loss() -> None:
    method = Algorithm1(sigma_tn=0.6, mix_ratio=0.5)
    clean = clean_and_copies(0.6)[0].float()
    material = method.material(clean, range(12), 0)
    index = torch.arange(24_000) % 12
    generator = torch.Generator().manual_seed(0)
    batch = method.draw(material, index, LogNormal(), generator, lambda images, _: (images, {}))

    def losses(denoised: Tensor) -> Tensor:
        return method.loss(denoised, batch, 0.5)

    best = OptimalDenoiser(material[0], material[1], 0.6)(batch.noisy, batch.sigma, {})
    others = {
        "of DDPM": OptimalDenoiser(material[0])(batch.noisy, batch.sigma, {}),
        "smaller": 0.97 * best,
        "of a lower level": OptimalDenoiser(material[0], material[1], 0.5)(batch.noisy, batch.sigma, {}),
        "brighter": best + 0.02,
    }
    for name, other in others.items():
        for side in (batch.nature, ~batch.nature):
            if not torch.equal(other[side], best[side]):
                worse = (losses(other) - losses(best))[side]
                assert worse.mean() > 0, name


def ends(points: Tensor, x: Tensor) -> tuple[Tensor, set[int]]:
    """How far each of x (B, ...) is from its nearest point, and which points are the nearest ones."""
    nearest = torch.cdist(x.flatten(1), points.flatten(1)).min(dim=1)
    return nearest.values, set(nearest.indices.tolist())


@pytest.mark.parametrize("sigma_tn", [0.2, 1.0, 4.0])
def test_the_ode_of_algorithm_1_ends_on_noisy_copies_at_sigma_tn(sigma_tn: float) -> None:
    """Lemma 4.1."""
    clean, copies = clean_and_copies(sigma_tn)
    denoiser = OptimalDenoiser(clean, copies, sigma_tn)
    levels = karras_sigmas(60, 1e-3, 80.0, 7.0)
    start = math.hypot(80.0, sigma_tn) * normal(100, 1, 3, 3)
    x = sample_to_nature(lambda x, sigma: denoiser(x, sigma, {}), start, levels, sigma_tn)
    distance, which = ends(copies, x)
    assert distance.max() < 1e-6
    assert len(which) > 6
    assert ends(clean, x)[0].min() > 0.1 * sigma_tn


def test_the_change_of_variable_is_the_same_ode() -> None:
    sigma_tn, u = 0.6, 0.8
    clean, copies = clean_and_copies(sigma_tn)
    sigma = torch.full((12,), math.hypot(sigma_tn, u)).double()
    x = copies + u * normal(12, 1, 3, 3)
    denoised = OptimalDenoiser(clean, copies, sigma_tn)(x, sigma, {})
    nature = predict_nature(denoised, x, sigma.view(-1, 1, 1, 1), sigma_tn)
    by_sigma, by_u = (x - denoised) / sigma.view(-1, 1, 1, 1), (x - nature) / u
    torch.testing.assert_close(by_u, by_sigma * u / math.hypot(sigma_tn, u))  # dsigma/du = u / sigma

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return OptimalDenoiser(clean, copies, sigma_tn)(x, sigma, {})

    levels = torch.linspace(u, 0.4, 200, dtype=torch.float64)
    along_sigma = sample_heun(denoise, x, (levels**2 + sigma_tn**2).sqrt())
    torch.testing.assert_close(
        sample_to_nature(denoise, x, levels, sigma_tn), along_sigma, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("sigma_tn", [0.0, 0.2, 1.0, 4.0])
def test_sampled_to_the_end_every_optimal_denoiser_gives_training_images(sigma_tn: float) -> None:
    """So does DDPM's, and Algorithm 1's: below sigma_tn it draws to training images from anywhere."""
    clean, copies = clean_and_copies(sigma_tn)
    denoiser = OptimalDenoiser(clean, copies, sigma_tn) if sigma_tn else OptimalDenoiser(clean)
    levels = karras_sigmas(60, 1e-3, 80.0, 7.0)
    x = sample_heun(lambda x, sigma: denoiser(x, sigma, {}), 80.0 * normal(100, 1, 3, 3), levels)
    distance, which = ends(clean, x)
    assert distance.max() < 1e-6
    assert len(which) > 3


def test_an_optimal_denoiser_samples_as_any_model_does() -> None:
    images = random_images(12)
    denoiser = OptimalDenoiser(images.float() / 127.5 - 1)
    found = generate(denoiser, range(20), sampling_conditioning(denoiser), steps=40)
    assert {image.numpy().tobytes() for image in found} <= {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("sigma", [0.15, 0.59, 0.61, 1.4, 5.0])
def test_smoothed_training_points_are_gaussians(sigma: float) -> None:
    """By numerical integration over the line: each point, and each noisy copy, with a density of width h."""
    h, sigma_tn = 0.3, 0.6
    points, copies = torch.tensor([-0.8, 0.1, 0.7]).double(), torch.tensor([-1.3, 0.5, 0.2]).double()
    denoiser = OptimalDenoiser(points.view(3, 1, 1, 1), copies.view(3, 1, 1, 1), sigma_tn, h)
    line = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    seen, noise = (points, sigma**2) if sigma < sigma_tn else (copies, sigma**2 - sigma_tn**2)
    for x in (-2.0, 0.3, 1.7):
        density = (-(line[:, None] - seen).square() / (2 * h**2)).exp().sum(dim=1)
        weights = density * (-(x - line).square() / (2 * noise)).exp()
        expected = float((weights * line).sum() / weights.sum())
        at = torch.full((1, 1, 1, 1), x).double()
        found = denoiser(at, torch.tensor([sigma]).double(), {})
        if sigma > sigma_tn:
            found = predict_nature(found, at, torch.full_like(at, sigma), sigma_tn)
        assert float(found) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("sigma_tn", [0.0, 0.05, 0.2, 0.8, 3.2, 6.4, 79.0])
@pytest.mark.parametrize("h", [0.0, 0.1])
def test_samples_of_an_optimum_lie_on_its_points_or_as_far_as_their_width(sigma_tn: float, h: float) -> None:
    """Whatever sigma_tn is: so Algorithm 1 does not change where training ends."""
    clean = (random_images(12).float() / 127.5 - 1) * 0.6
    copies = nature_copies(clean, range(12), 0, sigma_tn) if sigma_tn else None
    denoiser = OptimalDenoiser(clean, copies, sigma_tn, h)
    found = sample_optimum(denoiser, normal(200, 1, 3, 3)).double() / 127.5 - 1
    distance, which = ends(clean.double(), found)
    assert len(which) > 3
    if h == 0:
        assert distance.max() < 3 / 127.5  # of rounding to pixels
    else:
        # From far above, all samples of a copy end where its one noise points: few draws of the width.
        near = 0.1 if sigma_tn < 1 else 0.3
        assert distance.square().mean().sqrt() == pytest.approx(h * 3, rel=near)


def test_an_optimal_denoiser_needs_copies_and_a_level_together() -> None:
    clean, copies = clean_and_copies(0.6)
    for arguments in ((clean, copies), (clean, None, 0.6), (clean, copies[:5], 0.6)):
        with pytest.raises(UserError, match="OptimalDenoiser: sigma_tn above 0 needs one noisy copy"):
            OptimalDenoiser(*arguments)
