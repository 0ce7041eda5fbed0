import warnings
from unittest import mock

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from pareto_amb.errors import UserError
from pareto_amb.evaluation import frechet
from pareto_amb.evaluation.fidelity import fid
from pareto_amb.evaluation.frechet import (
    GaussianStatistics,
    fit_gaussian,
    frechet_distance,
    frechet_influence,
    frechet_standard_error,
    gaussian_from_covariance,
)


def random_features(n: int, dim: int, seed: int, decay: float = 2.0) -> torch.Tensor:
    """Correlated features (n, dim) whose standard deviations span `decay` powers of ten."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    scales = torch.logspace(0, -decay, dim, dtype=torch.float64)
    shared = torch.Generator().manual_seed(7)
    basis = torch.linalg.qr(torch.randn(dim, dim, generator=shared, dtype=torch.float64))[0]
    return noise * scales @ basis + 0.1 * seed


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return frechet_distance(fit_gaussian(a), fit_gaussian(b))


def torch_fidelity_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    one, two = fid_features_to_statistics(a), fid_features_to_statistics(b)
    return float(fid_statistics_to_metric(one, two, False)["frechet_inception_distance"])


@pytest.mark.parametrize(("n", "dim"), [(2, 1), (2, 5), (5, 5), (6, 5), (40, 5), (30, 100)])
def test_statistics_are_numpys(n, dim):
    features = random_features(n, dim, 1)
    fitted = fit_gaussian(features.float())
    expected = np.cov(features.float().double().numpy(), rowvar=False).reshape(dim, dim)
    assert fitted.n == n
    assert fitted.factor.shape == (dim, min(dim, n - 1))
    assert fitted.factor.dtype == torch.float64
    np.testing.assert_allclose(fitted.mean, features.float().double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(fitted.covariance, expected, atol=1e-13)


def test_known_gaussians():
    one = GaussianStatistics(torch.zeros(2).double(), torch.diag(torch.tensor([1.0, 2.0])).double(), 9)
    two = GaussianStatistics(torch.ones(2).double(), torch.diag(torch.tensor([3.0, 2.0])).double(), 9)
    assert frechet_distance(one, two) == pytest.approx(2 + (3 - 1) ** 2)


@pytest.mark.parametrize(("n", "m", "dim"), [(300, 500, 20), (500, 300, 64)])
def test_equals_the_matrix_square_root(n, m, dim):
    a, b = random_features(n, dim, 1, 1.0), random_features(m, dim, 2, 1.0)
    c, d = fit_gaussian(a), fit_gaussian(b)
    root = scipy.linalg.sqrtm((c.covariance @ d.covariance).numpy()).real
    expected = (c.mean - d.mean).square().sum() + torch.trace(
        c.covariance + d.covariance - 2 * torch.from_numpy(root)
    )
    assert frechet_distance(c, d) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(("n", "m", "dim"), [(200, 300, 32), (50, 300, 64), (40, 30, 128)])
def test_equals_torch_fidelity(n, m, dim):
    a, b = random_features(n, dim, 1), random_features(m, dim, 2)
    assert distance(a, b) == pytest.approx(torch_fidelity_distance(a, b), rel=1e-6)


def test_no_mean_shift_does_not_hide_an_error():
    a, b = random_features(400, 64, 1), random_features(500, 64, 2)
    a, b = a - a.mean(0), b - b.mean(0)
    assert distance(a, b) == pytest.approx(torch_fidelity_distance(a, b), rel=1e-6)


@pytest.mark.parametrize(("n", "dim"), [(200, 30), (30, 200), (2, 10)])
def test_identical_sets_are_at_zero(n, dim):
    features = random_features(n, dim, 1)
    scale = float(fit_gaussian(features).factor.square().sum())
    assert 0 <= distance(features, features) < 1e-10 * scale
    assert 0 <= distance(features, features.flip(0)) < 1e-10 * scale


def test_singular_covariances_need_no_warning():
    few = random_features(3, 50, 1)
    same = few[:1].repeat(10, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spread = fit_gaussian(few)
        point = fit_gaussian(same)
        expected = (spread.mean - point.mean).square().sum() + spread.factor.square().sum()
        assert frechet_distance(spread, point) == pytest.approx(float(expected), rel=1e-12)
        repeated = distance(few.repeat(40, 1), random_features(90, 50, 2))
    assert np.isfinite(repeated)


def test_rank_deficient_sets_keep_their_digits():
    """100 zero directions among 120: eigenvalues of the Gram matrix alone would lose 1e-6."""
    a, b = random_features(400, 20, 1), random_features(500, 20, 2)
    a, b = a - a.mean(0), b - b.mean(0)
    wide = torch.linalg.qr(torch.randn(120, 20, generator=torch.Generator().manual_seed(3)).double())
    assert distance(a @ wide[0].T, b @ wide[0].T) == pytest.approx(distance(a, b), rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(2, 30), m=st.integers(2, 30), dim=st.integers(1, 20),
    scale=st.floats(0.01, 100), shift=st.floats(-10, 10),
)  # fmt: skip
def test_properties(n, m, dim, scale, shift):
    a, b = random_features(n, dim, 1), random_features(m, dim, 2)
    plain = distance(a, b)
    assert plain >= 0
    assert distance(b, a) == pytest.approx(plain, rel=1e-9, abs=1e-12)
    assert distance(a + shift, b + shift) == pytest.approx(plain, rel=1e-7, abs=1e-10)
    assert distance(a * scale, b * scale) == pytest.approx(scale**2 * plain, rel=1e-8, abs=1e-10)
    assert distance(a, a + shift) == pytest.approx(dim * shift**2, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("n", [40, 100, 400])
def test_the_standard_error_is_the_spread_over_sets_of_images(n):
    reference = fit_gaussian(random_features(4000, 100, 2, 1.0))
    sets = [random_features(n, 100, seed, 1.0) for seed in range(300, 420)]
    sets = [features - 0.1 * seed for seed, features in zip(range(300, 420), sets, strict=True)]
    fitted = [fit_gaussian(features) for features in sets]
    spread = np.std([frechet_distance(some, reference) for some in fitted], ddof=1)
    errors = [frechet_standard_error(*pair, reference) for pair in zip(sets[:20], fitted[:20], strict=True)]
    assert np.mean(errors) == pytest.approx(spread, rel=0.25)


def test_unusable_features_are_refused():
    with pytest.raises(UserError, match="at least 2 images"):
        fit_gaussian(torch.zeros(1, 4))
    with pytest.raises(UserError, match="NaN or infinity"):
        fit_gaussian(torch.tensor([[0.0], [float("nan")]]))
    with pytest.raises(ValueError, match="length 4 and 5"):
        frechet_distance(fit_gaussian(torch.randn(3, 4)), fit_gaussian(torch.randn(3, 5)))


def test_many_images_in_blocks():
    features = random_features(500, 20, 1)
    whole = fit_gaussian(features)
    with mock.patch.object(frechet, "_BLOCK", 64):
        blocks = fit_gaussian(features)
        constant = fit_gaussian(torch.cat([features, torch.ones(500, 3)], dim=1))
    torch.testing.assert_close(blocks.covariance, whole.covariance, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(constant.covariance[:20, :20], whole.covariance, rtol=1e-12, atol=1e-14)
    assert constant.covariance[20:].abs().max() < 1e-14


def test_features_are_left_as_they_are():
    features = random_features(50, 5, 1)
    before = features.clone()
    fid(features, fit_gaussian(features))
    assert torch.equal(features, before)


@pytest.mark.parametrize(("n", "dim"), [(400, 30), (20, 30)])
def test_statistics_from_a_published_covariance(n, dim):
    """Singular where there were fewer images than features."""
    fitted, other = fit_gaussian(random_features(n, dim, 1)), fit_gaussian(random_features(300, dim, 2))
    published = gaussian_from_covariance(fitted.mean, fitted.covariance)
    assert published.n is None
    assert frechet_distance(published, other) == pytest.approx(frechet_distance(fitted, other), rel=1e-7)
    rounded = gaussian_from_covariance(fitted.mean.float(), fitted.covariance.float())
    assert frechet_distance(rounded, other) == pytest.approx(frechet_distance(fitted, other), rel=1e-3)


@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        (torch.zeros(3), torch.eye(2), r"their shapes are \(3,\) and \(2, 2\)"),
        (torch.zeros(2, 2), torch.eye(2), "their shapes are"),
        (torch.zeros(2), torch.full((2, 2), torch.nan), "NaN or infinity"),
        (torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "negative eigenvalues"),
    ],
)
def test_what_is_no_covariance_is_refused(mean, covariance, message):
    with pytest.raises(UserError, match=message):
        gaussian_from_covariance(mean, covariance)


@pytest.mark.parametrize(("n", "dim"), [(60, 4), (12, 20)])
def test_influence_is_the_derivative_by_the_weight_of_a_row(n, dim):
    features, reference = random_features(n, dim, 1, 1.0), fit_gaussian(random_features(100, dim, 2, 1.0))

    def weighted(row: int, change: float) -> float:
        weights = torch.full((n,), (1 - change) / n, dtype=torch.float64)
        weights[row] += change
        mean = weights @ features
        factor = ((features - mean) * (weights * n / (n - 1)).sqrt()[:, None]).T.contiguous()
        return frechet_distance(GaussianStatistics(mean, factor, n), reference)

    influence = frechet_influence(features, fit_gaussian(features), reference)
    slope = [(weighted(row, 1e-5) - weighted(row, -1e-5)) / 2e-5 for row in range(0, n, 5)]
    np.testing.assert_allclose(influence[::5], slope, rtol=2e-3, atol=2e-3 * float(influence.abs().max()))
    assert float(influence.mean()) == pytest.approx(0, abs=1e-5)
