import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pareto_amb.diffusion.noise import LogNormal, UniformTime, draw_sigma, natural_mix_ratio
from pareto_amb.diffusion.units import sigma_from_vp, sigma_to_vp

DISTRIBUTIONS = [LogNormal(), LogNormal(-0.5, 0.8), UniformTime()]


@given(st.floats(min_value=0, max_value=1e6))
def test_units_round_trip(sigma: float) -> None:
    sigma_vp = sigma_to_vp(sigma)
    assert 0 <= sigma_vp <= 1
    if sigma_vp < 0.999999:
        assert sigma_from_vp(sigma_vp) == pytest.approx(sigma, rel=1e-6)


@given(st.floats(min_value=0, max_value=0.99999))
def test_both_units_are_the_same_signal_to_noise_ratio(sigma_vp: float) -> None:
    signal_vp = math.sqrt(1 - sigma_vp**2)
    assert sigma_from_vp(sigma_vp) * signal_vp == pytest.approx(sigma_vp, rel=1e-9)


@pytest.mark.parametrize("sigma_vp", [-0.1, 1.0, 2.0])
def test_a_level_outside_the_vp_range_is_refused(sigma_vp: float) -> None:
    with pytest.raises(ValueError, match="sigma_vp"):
        sigma_from_vp(sigma_vp)


def test_a_negative_level_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        sigma_to_vp(-1.0)


@given(st.sampled_from(DISTRIBUTIONS), st.floats(min_value=0.001, max_value=0.999))
def test_icdf_inverts_cdf(distribution: LogNormal | UniformTime, p: float) -> None:
    sigma = float(distribution.icdf(torch.tensor(p, dtype=torch.float64)))
    assert distribution.cdf(sigma) == pytest.approx(p, abs=1e-9)


@pytest.mark.parametrize("sigma", [0.002, 0.1, 0.3, 1.0, 5.0, 79.0])
def test_log_normal_cdf_is_scipys(sigma: float) -> None:
    expected = stats.lognorm(s=1.2, scale=math.exp(-1.2)).cdf(sigma)
    assert LogNormal().cdf(sigma) == pytest.approx(expected, rel=1e-9)


def test_uniform_time_follows_the_linear_beta_schedule() -> None:
    # beta(t) = 0.1 + 19.9 t, so sigma_vp(t)^2 = 1 - exp(-integral of beta over [0, t]).
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    sigma_vp = (1 - torch.exp(-(0.1 * t + 19.9 * t**2 / 2))).sqrt()
    sigma = UniformTime(t_min=0.0).icdf(t)
    assert torch.allclose(sigma / (1 + sigma**2).sqrt(), sigma_vp)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("sigma_tn", [0.05, 0.3, 2.0])
def test_draws_stay_on_their_side_and_follow_the_restricted_distribution(
    distribution: LogNormal | UniformTime, sigma_tn: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    nature = torch.arange(40_000) % 2 == 1
    sigma = draw_sigma(distribution, nature, sigma_tn, generator)
    assert (sigma[nature] >= sigma_tn).all()
    assert (sigma[~nature] < sigma_tn).all()
    split = distribution.cdf(sigma_tn)
    for side, low, high in ((~nature, 0.0, split), (nature, split, 1.0)):
        p = torch.tensor([distribution.cdf(s) for s in sigma[side][:4000].tolist()])
        uniform = ((p - low) / (high - low)).clamp(0, 1)
        assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-4


def test_natural_mix_ratio_leaves_the_noise_distribution_unchanged() -> None:
    distribution, sigma_tn = LogNormal(), 0.4
    ratio = natural_mix_ratio(distribution, sigma_tn)
    generator = torch.Generator().manual_seed(0)
    nature = torch.rand(20_000, generator=generator) < ratio
    sigma = draw_sigma(distribution, nature, sigma_tn, generator)
    reference = stats.lognorm(s=1.2, scale=math.exp(-1.2))
    assert stats.kstest(sigma.numpy(), reference.cdf).pvalue > 1e-4


def test_without_sigma_tn_levels_come_from_the_whole_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    sigma = draw_sigma(LogNormal(), torch.zeros(20_000, dtype=torch.bool), 0.0, generator)
    reference = stats.lognorm(s=1.2, scale=math.exp(-1.2))
    assert stats.kstest(sigma.numpy(), reference.cdf).pvalue > 1e-4
