"""Total variation against integration and simulation, merging against plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import multivariate_normal, norm
from sklearn.datasets import load_digits

from pareto_amb.diffusion.units import sigma_from_vp
from pareto_amb.errors import UserError
from pareto_amb.theory.frequencies import tau, weight
from pareto_amb.theory.merging import (
    Subpopulations,
    cluster,
    merging_curve,
    merging_level,
    subpopulations,
    total_variation,
)


@pytest.mark.parametrize(
    ("distance", "sigma", "variance"), [(1.0, 0.0, 1.0), (3.0, 2.0, 0.5), (0.3, 0.1, 0.0)]
)
def test_total_variation_is_half_the_integral_of_the_difference(
    distance: float, sigma: float, variance: float
) -> None:
    spread = math.sqrt(variance + sigma**2)
    x = np.linspace(-12 * spread, 12 * spread + distance, 200_001)
    gap = np.abs(norm.pdf(x, 0, spread) - norm.pdf(x, distance, spread))
    assert total_variation(distance, sigma, variance) == pytest.approx(np.trapezoid(gap, x) / 2, abs=1e-6)


@pytest.mark.parametrize("sigma_vp", [0.1, 0.7, 0.95])
def test_total_variation_is_the_papers_in_its_units_and_in_any_dimension(sigma_vp: float) -> None:
    generator = np.random.default_rng(0)
    means = np.sqrt(1 - sigma_vp**2) * np.array([[0.0, 0, 0], [1.0, -2.0, 0.5]])  # unit covariance stays so
    first, second = (multivariate_normal(mean, np.eye(3)) for mean in means)
    x = first.rvs(100_000, random_state=generator)
    simulated = np.maximum(1 - second.pdf(x) / first.pdf(x), 0).mean()
    distance = math.sqrt(5.25)
    found = total_variation(distance, sigma_from_vp(sigma_vp))
    assert found == pytest.approx(2 * norm.cdf(math.sqrt(1 - sigma_vp**2) * distance / 2) - 1)
    assert found == pytest.approx(simulated, abs=5e-3)


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-3, 100), st.floats(0, 100), st.floats(1e-3, 10))
def test_total_variation_falls_with_noise_and_obeys_pinsker(
    distance: float, sigma: float, variance: float
) -> None:
    found = float(total_variation(distance, sigma, variance))
    divergence = distance**2 / (variance + sigma**2) / 2
    assert 1 - math.exp(-divergence / 4) <= found * (1 + 1e-9) + 1e-12  # squared Hellinger distance
    assert found <= min(math.sqrt(divergence / 2), 1)
    assert total_variation(distance, sigma + 0.1, variance) <= found


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-3, 100), st.floats(0.01, 0.99), st.floats(1e-3, 10))
def test_the_merging_level_is_where_total_variation_reaches_epsilon(
    distance: float, epsilon: float, variance: float
) -> None:
    level = float(merging_level(distance, epsilon, variance))
    assert total_variation(distance, level * 1.001, variance) <= epsilon * (1 + 1e-9)
    if level > 0.01:
        assert total_variation(distance, level * 0.999, variance) > epsilon


def plain_merging(found: Subpopulations, sigma: float, epsilon: float) -> NDArray[np.float64]:
    """Frequencies after merging, by loops over pairs until nothing changes."""
    groups = list(range(len(found.means)))
    for _ in groups:
        for i, first in enumerate(found.means):
            for j, second in enumerate(found.means):
                distance = np.linalg.norm(first - second)
                if total_variation(distance, sigma, found.variance) <= epsilon:
                    groups[i] = groups[j] = min(groups[i], groups[j])
    merged = [found.frequencies[np.equal(groups, group)].sum() for group in sorted(set(groups))]
    return np.array(merged) / sum(merged)


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_the_curve_is_that_of_loops_over_pairs(epsilon: float) -> None:
    generator = np.random.default_rng(0)
    raw = 1 / np.arange(1, 16)
    found = Subpopulations(generator.normal(size=(15, 2)) * 4, raw / raw.sum(), 0.2)
    sigmas = np.geomspace(0.3, 100, 20)
    curve = merging_curve(found, sigmas, 40, epsilon)
    for index, sigma in enumerate(sigmas):
        merged = plain_merging(found, sigma, epsilon)
        assert curve.number[index] == len(merged)
        assert curve.heavy_tail[index] == pytest.approx(weight(merged, 1 / 80, 1 / 40))
        assert curve.tau_1[index] == pytest.approx(tau(merged, 40), nan_ok=True)
    assert min(curve.number) == 1
    assert len(set(curve.number)) > 4
    assert math.isnan(curve.tau_1[-1])


sets = st.builds(
    lambda seed, count: Subpopulations(
        np.random.default_rng(seed).normal(size=(count, 3)), np.full(count, 1 / count), 0.01
    ),
    st.integers(0, 2**32),
    st.integers(1, 12),
)


@settings(max_examples=30, deadline=None)
@given(sets, st.floats(0.02, 0.9))
def test_noise_only_merges_and_everything_in_the_end(found: Subpopulations, epsilon: float) -> None:
    curve = merging_curve(found, np.geomspace(1e-3, 1e4, 25), 20, epsilon)
    assert (np.diff(curve.number) <= 0).all()
    assert curve.number[-1] == 1
    assert ((curve.heavy_tail >= 0) & (curve.heavy_tail <= 1)).all()


def test_merging_can_make_a_heavy_tail_of_what_was_too_rare_before() -> None:
    """Two subpopulations of 0.3/n each are no heavy tail; merged they are."""
    n = 100
    found = Subpopulations(np.array([[0.0], [1.0], [1000.0]]), np.array([0.003, 0.003, 0.994]), 0.01)
    curve = merging_curve(found, [0.0, 50.0, 1e6], n, 0.1)
    assert curve.number.tolist() == [3, 2, 1]
    assert curve.heavy_tail.tolist() == pytest.approx([0, 0.006, 0])
    assert curve.tau_1[1] == pytest.approx(2 * curve.tau_1[0], rel=1e-3)


def test_subpopulations_have_the_means_shares_and_spread_of_their_examples() -> None:
    generator = np.random.default_rng(0)
    centres = np.array([[0.0, 5.0], [3.0, -2.0], [9.0, 9.0]])
    labels = generator.choice(3, 6000, p=[0.6, 0.3, 0.1])
    found = subpopulations(
        centres[labels] + 0.5 * generator.normal(size=(6000, 2)), np.array(list("abc"))[labels]
    )
    np.testing.assert_allclose(found.means, centres, atol=0.1)
    np.testing.assert_allclose(found.frequencies, [0.6, 0.3, 0.1], atol=0.02)
    assert found.variance == pytest.approx(0.25, rel=0.03)
    assert subpopulations([[0.0], [2.0], [10.0], [14.0]], [0, 0, 1, 1]).variance == 5


def test_single_images_are_the_heavy_tail_until_they_merge() -> None:
    """500 digits, each a subpopulation of its own: the clean training set itself."""
    points = load_digits().data[:500] / 8 - 1
    found = subpopulations(points, np.arange(500))
    assert found.variance == 0
    curve = merging_curve(found, [0.01, 1e4], 500, 0.5)
    assert curve.number.tolist() == [500, 1]
    assert curve.heavy_tail.tolist() == [pytest.approx(1), 0]
    assert curve.tau_1[0] == pytest.approx(1 / 500)


def test_clusters_are_found_and_outliers_stand_alone() -> None:
    generator = np.random.default_rng(0)
    blobs = np.concatenate([centre + 0.1 * generator.normal(size=(40, 2)) for centre in (0, 5)])
    labels = cluster(np.concatenate([blobs, [[20, 20], [-20, 30]]]))
    assert [len(set(labels[part])) for part in (slice(40), slice(40, 80), slice(80, None))] == [1, 1, 2]
    assert sorted(set(labels)) == [0, 1, 2, 3]


def test_images_that_are_the_same_are_one_at_any_noise() -> None:
    """Far from the origin, where a product of large numbers has few digits left for their difference."""
    points = 100 + np.random.default_rng(0).normal(size=(30, 50))
    points[7] = points[3]
    found = subpopulations(points, np.arange(30))
    curve = merging_curve(found, [1e-6], 30, 0.5)
    assert curve.number.tolist() == [29]


def test_what_does_not_fit_is_refused() -> None:
    found = subpopulations([[0.0], [1.0]], [0, 1])
    for epsilon in (0.0, 1.0, math.nan):
        with pytest.raises(UserError, match="epsilon: "):
            merging_level(1.0, epsilon)
    with pytest.raises(UserError, match="variance: 0 and"):
        merging_curve(found, [0.0], 5, 0.1)
    with pytest.raises(UserError, match="variance: -1 and"):
        total_variation(1.0, 2.0, -1.0)
    with pytest.raises(UserError, match="variance: -1 and"):
        merging_level(1.0, 0.5, -1.0)
    with pytest.raises(UserError, match="n: 0 training points"):
        merging_curve(found, [1.0], 0, 0.1)
    with pytest.raises(UserError, match="labels: one per row"):
        subpopulations([[0.0], [1.0]], [0])
    with pytest.raises(UserError, match="features: numbers are missing"):
        subpopulations([[0.0], [math.nan]], [0, 1])
    for size in (1, 5):
        with pytest.raises(UserError, match=f"min_cluster_size: {size} does not fit 4"):
            cluster([[0.0], [1.0], [2.0], [3.0]], size)
