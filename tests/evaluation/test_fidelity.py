from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_fidelity.metric_prc import prc_features_to_metric

from pareto_amb.errors import UserError
from pareto_amb.evaluation import neighbours
from pareto_amb.evaluation.fidelity import fid, fid_infinity, kernel_distance, prdc
from pareto_amb.evaluation.frechet import GaussianStatistics, fit_gaussian, frechet_distance


def standard_normal(dim: int) -> GaussianStatistics:
    return GaussianStatistics(torch.zeros(dim).double(), torch.eye(dim).double(), None)


def draws(repetitions: int, n: int, dim: int, shift: float, scale: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(repetitions, n, dim, generator=generator) * scale + shift


def coverage(estimates, truth: float) -> float:
    return float(np.mean([e.low <= truth <= e.high for e in estimates]))


# --- Fréchet distance -----------------------------------------------------------------------------


def test_fid_is_the_frechet_distance_and_its_interval_covers_the_closed_form():
    """Where the bias is small against the spread: 2 dimensions, 1,000 images."""
    found = [fid(sample, standard_normal(2)) for sample in draws(100, 1000, 2, 0.4, 1.2)]
    assert 0.9 <= coverage(found, 2 * 0.4**2 + 2 * 0.2**2) <= 0.99
    sample = draws(1, 1000, 2, 0.4, 1.2)[0]
    assert found[0].value == frechet_distance(fit_gaussian(sample), standard_normal(2))
    assert found[0].high - found[0].value == pytest.approx(found[0].value - found[0].low)


@pytest.mark.parametrize(("n", "dim", "shift"), [(100, 10, 0.3), (40, 60, 0.2)])
def test_fid_interval_is_the_spread_between_sets(n, dim, shift):
    """With a few images a dimension, and, where it is up to half too wide, with fewer than dimensions."""
    found = [fid(sample, standard_normal(dim)) for sample in draws(100, n, dim, shift, 1.1)]
    values = np.array([e.value for e in found])
    half = np.mean([e.high - e.value for e in found])
    assert 0.85 < half / (1.96 * values.std()) < (1.3 if n > dim else 1.6)
    assert 0.9 <= coverage(found, values.mean()) <= 1


def test_fid_interval_where_a_percentile_bootstrap_lies_wholly_above_the_value():
    """The reason for the linearised interval: resampled images repeat, which adds to the distance."""
    sample, reference = draws(1, 200, 20, 0.1, 1.0)[0], standard_normal(20)
    found = fid(sample, reference)
    generator = torch.Generator().manual_seed(1)
    resampled = [
        frechet_distance(fit_gaussian(sample[torch.randint(200, (200,), generator=generator)]), reference)
        for _ in range(200)
    ]
    assert np.quantile(resampled, 0.025) > found.value
    assert found.high - found.value == pytest.approx(1.96 * np.std(resampled), rel=0.3)


def test_fid_of_the_reference_itself_stays_at_zero():
    sample = draws(1, 300, 5, 0, 1)[0]
    found = fid(sample, fit_gaussian(sample))
    assert found.value == pytest.approx(0, abs=1e-12)
    assert 0 <= found.low <= found.high < 1e-4


def test_fid_infinity_takes_the_bias_away_and_covers():
    dim, truth = 16, 16 * 0.15**2
    samples = draws(50, 400, dim, 0.15, 1.0)
    plain = [fid(sample, standard_normal(dim)) for sample in samples]
    found = [fid_infinity(sample, standard_normal(dim)) for sample in samples]
    bias = np.mean([e.value for e in plain]) - truth
    assert bias > 0.1
    assert abs(np.mean([e.value for e in found]) - truth) < 0.15 * bias
    assert coverage(found, truth) >= 0.9
    assert coverage(plain, truth) < 0.5
    assert fid_infinity(samples[0], standard_normal(dim)) == found[0]
    assert np.isnan(fid_infinity(samples[0, :79], standard_normal(dim)).value)


# --- kernel distance ------------------------------------------------------------------------------


def cubic_kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() @ b.double().T / a.shape[1] + 1) ** 3


def test_kernel_distance_is_the_unbiased_estimate():
    generated, real = draws(1, 500, 8, 0.3, 1.2)[0], draws(1, 400, 8, 0, 1, seed=1)[0]
    own = [cubic_kernel(x, x).fill_diagonal_(0).sum() / (len(x) * (len(x) - 1)) for x in (generated, real)]
    expected = float(own[0] + own[1] - 2 * cubic_kernel(generated, real).mean())
    found = kernel_distance(generated, real)
    assert found.value == pytest.approx(expected, rel=0.05)
    assert found.low < expected < found.high
    assert kernel_distance(generated, real) == found


def test_kernel_distance_covers_the_closed_form():
    """Squared differences of the first three moments of the Gaussians, weighted 3/D, 3/D² and 1/D³."""
    dim, n, scale = 8, 200, 1.2
    length = dim * 0.5**2  # of the shift, squared
    second = (scale**2 - 1) ** 2 * dim + 2 * (scale**2 - 1) * length + length**2
    third = length**3 + 6 * scale**2 * length**2 + 3 * scale**4 * length * (dim + 2)
    truth = 3 * length / dim + 3 * second / dim**2 + third / dim**3
    pairs = zip(draws(40, n, dim, 0.5, scale), draws(40, n, dim, 0, 1, seed=1), strict=True)
    assert coverage([kernel_distance(*pair) for pair in pairs], truth) >= 0.9


def test_kernel_distance_of_sets_that_are_alike():
    pairs = zip(draws(20, 100, 6, 0, 1), draws(20, 100, 6, 0, 1, seed=1), strict=True)
    same = [kernel_distance(*pair) for pair in pairs]
    assert coverage(same, 0) >= 0.9
    assert min(e.value for e in same) < 0 < max(e.value for e in same)


# --- precision, recall, density, coverage ---------------------------------------------------------


def brute_force(generated: Tensor, real: Tensor) -> tuple[float, float, float, float]:
    def distance(a: Tensor, b: Tensor) -> float:
        return float((a.double() - b.double()).square().sum())

    def radius(images: Tensor, i: int, k: int) -> float:
        return sorted(distance(images[i], other) for j, other in enumerate(images) if j != i)[k - 1]

    narrow = [radius(real, i, 3) for i in range(len(real))]
    wide = [radius(real, i, 5) for i in range(len(real))]
    generated_radii = [radius(generated, i, 3) for i in range(len(generated))]
    d = np.array([[distance(g, r) for r in real] for g in generated])
    precision = np.mean([any(d[i] <= narrow) for i in range(len(generated))])
    recall = np.mean([any(d[:, j] <= generated_radii) for j in range(len(real))])
    density = np.mean([sum(d[i] <= wide) / 5 for i in range(len(generated))])
    covered = np.mean([d[:, j].min() <= wide[j] for j in range(len(real))])
    return float(precision), float(recall), float(density), float(covered)


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(4, 12), m=st.integers(6, 12), dim=st.integers(1, 4), whole=st.booleans(),
    block=st.sampled_from([3, 4096]), shift=st.integers(-1, 1), seed=st.integers(0, 100),
)  # fmt: skip
def test_prdc_by_brute_force(n, m, dim, whole, block, shift, seed):
    """Whole numbers put many images on the edges of balls, and make balls of radius 0."""
    generator = torch.Generator().manual_seed(seed)
    generated, real = (torch.randn(size, dim, generator=generator) for size in (n, m))
    if whole:
        generated, real = generated.round(), real.round()
    with mock.patch.object(neighbours, "_MAX_ROWS", block):
        found = prdc(generated + shift, real)
    values = (found.precision.value, found.recall.value, found.density.value, found.coverage.value)
    assert values == pytest.approx(brute_force(generated + shift, real))


def test_prdc_of_larger_sets_far_from_the_origin():
    generated, real = draws(1, 300, 20, 100.2, 1.1)[0], draws(1, 250, 20, 100, 1, seed=1)[0]
    theirs = prc_features_to_metric(generated.double(), real.double(), verbose=False)
    found = prdc(generated, real)
    assert found.precision.value == pytest.approx(theirs["precision"])
    assert found.recall.value == pytest.approx(theirs["recall"])
    assert found.precision.low < found.precision.value < found.precision.high
    assert found.density.low < found.density.value < found.density.high


def test_prdc_of_identical_sets_and_of_sets_apart():
    images = draws(1, 100, 6, 3, 1)[0]
    same = prdc(images, images)
    assert (same.precision.value, same.recall.value, same.coverage.value) == (1, 1, 1)
    assert same.density.value == pytest.approx(1.2)  # the ball's own centre and its 5 neighbours
    apart = prdc(images + 100, images)
    assert (apart.precision.value, apart.recall.value) == (0, 0)
    assert (apart.density.value, apart.coverage.value) == (0, 0)
    assert apart.precision.high > 0


# --- bad input ------------------------------------------------------------------------------------


def test_unusable_features_are_refused():
    good = draws(1, 20, 3, 0, 1)[0]
    bad = good.clone()
    bad[3, 1] = float("nan")
    for measure in (kernel_distance, prdc):
        for pair in ((good, bad), (bad, good)):
            with pytest.raises(UserError, match="NaN or infinity"):
                measure(*pair)
    with pytest.raises(UserError, match="NaN or infinity"):
        fid(bad, standard_normal(3))
    with pytest.raises(UserError, match="at least 4 images on each side, got 3"):
        kernel_distance(good, good[:3])
    with pytest.raises(UserError, match="at least 6 real and 4 generated images, got 5 and 20"):
        prdc(good, good[:5])
