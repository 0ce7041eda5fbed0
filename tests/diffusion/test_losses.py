import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pareto_amb.diffusion.losses import (
    algorithm1_loss,
    consistency_loss,
    edm_weight,
    masked_loss,
    predict_nature,
    reverse_step,
)
from pareto_amb.diffusion.units import sigma_from_vp

levels = st.floats(min_value=0.05, max_value=0.95)


def predict_nature_vp(denoised: Tensor, noisy: Tensor, sigma: Tensor, sigma_tn: float) -> Tensor:
    """E[x_tn | x_t] in the paper's own variance-preserving units (Eq. 6).

    Here x_tn = sqrt(1 - sigma_tn^2) x_0 + sigma_tn eps, x_t likewise with `sigma`; both levels in (0, 1),
    sigma >= sigma_tn. The prediction is a combination of D and x_t whose coefficients follow from the
    Gaussian bridge between x_0 and x_t.
    """
    signal, signal_tn = (1 - sigma**2).sqrt(), math.sqrt(1 - sigma_tn**2)
    on_denoised = (sigma**2 - sigma_tn**2) / (sigma**2 * signal_tn)
    on_noisy = signal * sigma_tn**2 / (signal_tn * sigma**2)
    return on_denoised * denoised + on_noisy * noisy


@settings(max_examples=50)
@given(levels, levels)
def test_edm_and_vp_forms_of_equation_6_are_one_loss(a: float, b: float) -> None:
    sigma_tn_vp, sigma_vp = sorted((a, b))
    sigma_tn, sigma = sigma_from_vp(sigma_tn_vp), sigma_from_vp(sigma_vp)
    generator = torch.Generator().manual_seed(0)
    x_0, eps, eps_2, error = torch.randn(4, 2, 1, 3, 3, generator=generator, dtype=torch.float64)
    nature = x_0 + sigma_tn * eps
    noisy = nature + math.sqrt(max(sigma**2 - sigma_tn**2, 0)) * eps_2
    denoised = x_0 + error
    # A variance-preserving image is the EDM one times sqrt(1 - sigma_vp^2).
    signal, signal_tn = math.sqrt(1 - sigma_vp**2), math.sqrt(1 - sigma_tn_vp**2)
    edm = predict_nature(denoised, noisy, torch.tensor(sigma, dtype=torch.float64), sigma_tn)
    vp = predict_nature_vp(denoised, signal * noisy, torch.tensor(sigma_vp, dtype=torch.float64), sigma_tn_vp)
    assert torch.allclose(vp, signal_tn * edm, rtol=1e-8, atol=1e-8)
    edm_loss = (edm - nature).square() * signal_tn**2
    assert torch.allclose((vp - signal_tn * nature).square(), edm_loss, rtol=1e-6, atol=1e-9)


def test_at_sigma_tn_the_prediction_is_the_input() -> None:
    noisy, denoised = torch.randn(2, 3, 1, 2, 2)
    assert torch.equal(predict_nature(denoised, noisy, torch.tensor(0.7), 0.7), noisy)


@pytest.mark.parametrize(("scale", "is_minimum"), [(1.0, True), (0.9, False), (1.1, False)])
def test_on_gaussian_data_the_loss_is_minimised_by_the_posterior_mean(scale: float, is_minimum: bool) -> None:
    # x_0 ~ N(0, s^2): E[x_0 | x_sigma] = s^2 / (s^2 + sigma^2) x_sigma in closed form.
    s, sigma_tn, count = 0.5, 0.4, 400_000
    generator = torch.Generator().manual_seed(0)
    x_0, eps, eps_2 = torch.randn(3, count, 1, 1, 1, generator=generator, dtype=torch.float64)
    x_0 = s * x_0
    sigma = torch.full((count,), 0.9, dtype=torch.float64)
    nature = x_0 + sigma_tn * eps
    noisy = nature + math.sqrt(0.9**2 - sigma_tn**2) * eps_2
    gain = torch.tensor(scale * s**2 / (s**2 + 0.9**2), dtype=torch.float64, requires_grad=True)
    side = torch.ones(count, dtype=torch.bool)
    loss = algorithm1_loss(gain * noisy, noisy, nature, sigma, side, sigma_tn, s)
    (slope,) = torch.autograd.grad(loss.mean(), gain)
    with torch.no_grad():
        per_example = (
            2
            * edm_weight(sigma, s)
            * (1 - (sigma_tn / sigma) ** 2)
            * (
                (predict_nature(gain * noisy, noisy, sigma.view(-1, 1, 1, 1), sigma_tn) - nature) * noisy
            ).flatten()
        )
    assert float(slope) == pytest.approx(float(per_example.mean()), rel=1e-6)
    standard_error = float(per_example.std()) / math.sqrt(count)
    assert (abs(float(slope)) < 4 * standard_error) == is_minimum


def test_each_side_is_compared_with_its_own_prediction() -> None:
    noisy, denoised, target = torch.randn(3, 2, 1, 2, 2)
    sigma = torch.tensor([0.2, 0.8])
    loss = algorithm1_loss(denoised, noisy, target, sigma, torch.tensor([False, True]), 0.5, 0.3)
    clean = edm_weight(sigma[0], 0.3) * (denoised[0] - target[0]).square().mean()
    mixed = predict_nature(denoised[1], noisy[1], sigma[1], 0.5)
    ambient = edm_weight(sigma[1], 0.3) * (mixed - target[1]).square().mean()
    assert torch.allclose(loss, torch.stack([clean, ambient]))


def test_weight_is_edms() -> None:
    sigma = torch.tensor(0.3)
    assert float(edm_weight(sigma, 0.5)) == pytest.approx((0.09 + 0.25) / (0.15**2))


def test_all_kept_pixels_weigh_the_same_unless_those_not_shown_are_told() -> None:
    denoised, target = torch.randn(2, 3, 2, 4, 4)
    sigma = torch.tensor([0.01, 0.5, 20.0])
    kept = (torch.rand(3, 1, 4, 4) < 0.5).float()
    plain = algorithm1_loss(denoised * kept, denoised, target * kept, sigma, sigma > 99, 0.0, 0.5)
    assert torch.allclose(masked_loss(denoised, target, sigma, kept, 0.5), plain)
    assert torch.allclose(masked_loss(denoised, target, sigma, kept, 0.5, torch.ones_like(kept)), plain)
    unseen = masked_loss(denoised, target, sigma, kept, 0.5, torch.zeros_like(kept))
    assert torch.allclose(unseen, 4 * plain / edm_weight(sigma, 0.5))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def levels_of(count: int, level: float) -> Tensor:
    return torch.full((count,), level, dtype=torch.float64)


def test_a_step_with_the_clean_image_known_is_that_of_the_noise_itself() -> None:
    # x_lower = x_0 + lower eps and x_sigma = x_lower + further noise: their noises have covariance lower^2.
    count, sigma, lower = 400_000, 0.9, 0.4
    x_0, eps, eps_2 = normal(3, count, 1, 1, 1)
    x = x_0 + sigma * eps
    below = reverse_step(x, x_0, levels_of(count, sigma), levels_of(count, lower), eps_2)
    covariance = torch.cov(torch.stack([below - x_0, x - x_0]).flatten(1))
    assert covariance[0].tolist() == pytest.approx([lower**2, lower**2], abs=2e-3)
    same = reverse_step(x, x_0, levels_of(count, sigma), levels_of(count, sigma), eps_2)
    assert torch.allclose(same, x)


@pytest.mark.parametrize(
    ("below", "spread", "consistent"),
    [(1.0, 0.5, True), (1.0, 0.8, True), (0.8, 0.5, False), (1.25, 0.5, False)],
)
def test_on_gaussian_data_the_posterior_mean_is_consistent(
    below: float, spread: float, consistent: bool
) -> None:
    # x_0 ~ N(0, 0.5^2) and D = s^2 / (s^2 + sigma^2) x. Any s is consistent, the true one or another: what
    # anchors D is Eq. 6, from sigma_tn up. D wrong by a factor at the lower level alone is not.
    count, sigma, lower = 200_000, 0.6, 0.3
    x = math.sqrt(0.25 + sigma**2) * normal(count, 1, 1, 1)
    target = spread**2 / (spread**2 + sigma**2) * x
    gain = below * spread**2 / (spread**2 + lower**2)
    first, second = (
        gain * reverse_step(x, target, levels_of(count, sigma), levels_of(count, lower), eps)
        for eps in normal(2, count, 1, 1, 1, seed=1)
    )
    loss = consistency_loss(first, second, target, levels_of(count, lower), 0.5)
    assert loss.shape == (count,)
    margin = 4 * float(loss.std()) / math.sqrt(count)
    expected = float(edm_weight(torch.tensor(lower), 0.5) * ((below - 1) * target).square().mean())
    assert float(loss.mean()) == pytest.approx(expected, abs=margin)
    assert (float(loss.mean()) < margin) == consistent


def test_the_product_of_two_steps_has_the_squared_gap_as_its_mean() -> None:
    # D = tanh is no posterior mean: the gap at one point, by brute force over a million steps.
    count, sigma, lower = 1_000_000, 0.9, 0.5
    x, above, below = torch.full((count, 1, 1, 1), 0.7).double(), *map(levels_of, [count] * 2, [sigma, lower])
    target = torch.tanh(2 * x)
    first, second, third = (
        torch.tanh(3 * reverse_step(x, target, above, below, eps)) for eps in normal(3, count, 1, 1, 1)
    )
    gap = edm_weight(torch.tensor(lower), 0.5) * (third.mean() - target[0, 0, 0, 0]).square()
    loss = consistency_loss(first, second, target, below, 0.5)
    margin = 4 * float(loss.std()) / math.sqrt(count)
    assert float(loss.mean()) == pytest.approx(float(gap), abs=margin)
    square = consistency_loss(first, first, target, below, 0.5)
    variance = edm_weight(torch.tensor(lower), 0.5) * third.var()
    margin = 4 * float(square.std()) / math.sqrt(count)
    assert float(square.mean()) == pytest.approx(float(gap + variance), abs=2 * margin)
    assert float(variance) > 20 * margin
