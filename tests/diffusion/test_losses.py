import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pareto_amb.diffusion.losses import (
    algorithm1_loss,
    edm_weight,
    predict_nature,
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
