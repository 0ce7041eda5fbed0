"""Leakage against the joint covariance of training points and draws, and the mutual information itself."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm

from pareto_amb.diffusion.units import sigma_from_vp
from pareto_amb.errors import UserError
from pareto_amb.theory.leakage import leakage, leakage_bound, set_leakage, spectrum


def covariance_of(d: int, seed: int, rank: int | None = None) -> NDArray[np.float64]:
    factor = np.random.default_rng(seed).normal(size=(d, rank or d))
    return factor @ factor.T


def told(
    covariance: NDArray[np.float64], sources: tuple[int, ...], n: int, signal: float, noise: float
) -> float:
    """I(x_1..x_n; draws) of draws signal * x_source + noise * eps, from the joint covariance of them all."""
    d = len(covariance)
    choose = np.zeros((len(sources), n))
    choose[range(len(sources)), sources] = signal
    points = np.kron(np.eye(n), covariance)
    mixing = np.kron(choose, np.eye(d))
    draws = mixing @ points @ mixing.T + noise**2 * np.eye(len(sources) * d)
    both = np.block([[points, points @ mixing.T], [mixing @ points, draws]])
    log_det = [np.linalg.slogdet(matrix)[1] for matrix in (points, draws, both)]
    return float(log_det[0] + log_det[1] - log_det[2]) / 2


@pytest.mark.parametrize("draws", [1, 2, 10])
@pytest.mark.parametrize("sigma_vp", [0.2, 0.6, 0.95])
def test_leakage_is_the_mutual_information_of_the_joint_gaussian_in_either_unit(
    draws: int, sigma_vp: float
) -> None:
    covariance, sigma = covariance_of(4, seed=1), sigma_from_vp(sigma_vp)
    found = leakage(covariance, sigma, draws)
    assert found == pytest.approx(told(covariance, (0,) * draws, 1, 1.0, sigma))
    assert found == pytest.approx(told(covariance, (0,) * draws, 1, np.sqrt(1 - sigma_vp**2), sigma_vp))


def test_one_dimension_is_the_capacity_of_a_gaussian_channel() -> None:
    assert leakage([[4.0]], 2.0, 3) == pytest.approx(np.log(4) / 2)
    assert leakage([[4.0]], [2.0, 1.0]).tolist() == pytest.approx([np.log(2) / 2, np.log(5) / 2])


def test_the_figures_of_the_documentation() -> None:
    covariance = np.diag([4, 1, 1 / 4, 1 / 16])
    assert leakage(covariance, 0.35) == pytest.approx(3.63, abs=5e-3)
    assert leakage(covariance, 0.35, 10) == pytest.approx(7.54, abs=5e-3)
    assert leakage_bound(covariance, 0.35, 10) == pytest.approx(36.28, abs=5e-3)
    assert set_leakage(covariance, 0.35, 300) == pytest.approx(1088, abs=0.5)
    assert set_leakage(covariance, 0.35, 300, 300) == pytest.approx(792, abs=0.5)
    assert set_leakage(covariance, 0.35, 300, 10_000) == pytest.approx(2950, abs=0.5)


covariances = st.builds(covariance_of, st.integers(1, 5), st.integers(0, 2**32), st.integers(1, 5))


@settings(max_examples=40, deadline=None)
@given(covariances, st.floats(1e-3, 1e3), st.integers(0, 200), st.integers(1, 30))
def test_the_bounds_are_bounds(covariance: NDArray[np.float64], sigma: float, draws: int, n: int) -> None:
    slack = 1 + 1e-9
    exact, bound = leakage(covariance, sigma, draws), leakage_bound(covariance, sigma, draws)
    one_point, all_points = exact, set_leakage(covariance, sigma, n, draws)
    assert one_point <= all_points * slack  # more points leave less that is told twice
    assert all_points <= bound * slack
    assert leakage(covariance, 2 * sigma, draws) <= exact
    assert exact <= leakage(covariance, sigma, draws + 1)
    assert leakage_bound(covariance, sigma, 1) == leakage(covariance, sigma, 1)
    assert set_leakage(covariance, sigma, n) == pytest.approx(n * leakage(covariance, sigma))


@pytest.mark.parametrize(("n", "draws"), [(1, 4), (2, 3), (3, 3)])
def test_a_training_set_leaks_the_average_over_all_choices_of_points(n: int, draws: int) -> None:
    covariance = covariance_of(2, seed=2)
    choices = [told(covariance, sources, n, 1.0, 0.7) for sources in product(range(n), repeat=draws)]
    assert set_leakage(covariance, 0.7, n, draws) == pytest.approx(np.mean(choices))


def test_noisy_copies_of_a_training_set_leak_what_one_draw_of_each_point_does() -> None:
    covariance = covariance_of(3, seed=3)
    assert set_leakage(covariance, 0.7, 4) == pytest.approx(told(covariance, (0, 1, 2, 3), 4, 1.0, 0.7))


def entropy_of(density: NDArray[np.float64], cell: float) -> float:
    return -float((density * np.log(np.maximum(density, 1e-300))).sum() * cell)


def test_who_is_not_told_the_point_of_a_draw_learns_less() -> None:
    """I(x_1, x_2; y_1, y_2) for two points and two draws in one dimension, by integration on a grid."""
    variance, sigma = 1.0, 0.5
    grid = np.linspace(-8, 8, 401)
    step = grid[1] - grid[0]
    alone = variance + sigma**2
    independent = np.outer(norm.pdf(grid, 0, alone**0.5), norm.pdf(grid, 0, alone**0.5))
    shared = independent * 0
    for x, mass in zip(grid, norm.pdf(grid, 0, variance**0.5) * step, strict=True):
        row = norm.pdf(grid, x, sigma)
        shared += mass * np.outer(row, row)
    of_draws = entropy_of((independent + shared) / 2, step**2)
    given_points = 0.0  # the entropy of the mixture of two points depends on their gap alone
    gaps = np.linspace(-8, 8, 161)
    for gap, mass in zip(gaps, norm.pdf(gaps, 0, (2 * variance) ** 0.5) * (gaps[1] - gaps[0]), strict=True):
        density = (norm.pdf(grid, -gap / 2, sigma) + norm.pdf(grid, gap / 2, sigma)) / 2
        given_points += 2 * mass * entropy_of(density, step)
    exact = of_draws - given_points
    most = float(set_leakage([[variance]], sigma, 2, 2))
    assert 0.5 * most < exact < most < leakage_bound([[variance]], sigma, 2)


def test_many_draws_of_a_large_set_are_as_quick_as_few() -> None:
    found = set_leakage(np.eye(3), [0.5, 1.0], 1000, 10**6)
    assert found == pytest.approx(1000 * 1.5 * np.log1p(1000 / np.array([0.25, 1.0])), rel=1e-3)
    assert leakage(np.zeros((3, 3)), 0.1, 5) == 0


@pytest.mark.parametrize("shape", [(30, 4), (5, 12)])
def test_the_spectrum_of_points_stands_for_their_covariance(shape: tuple[int, int]) -> None:
    points = np.random.default_rng(0).normal(size=shape) + 3
    variances = spectrum(points)
    assert variances.shape == (min(shape),)
    for draws in (1, 10):
        found = leakage(variances, [0.1, 2.0], draws)
        assert found == pytest.approx(leakage(np.cov(points.T), [0.1, 2.0], draws))
    for wrong in (points[:1], points[0], points * np.inf):
        with pytest.raises(UserError, match="points: at least 2 rows"):
            spectrum(wrong)


@pytest.mark.parametrize("draws", [1, 10])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0])
def test_nothing_of_the_same_covariance_tells_more_than_a_gaussian(sigma: float, draws: int) -> None:
    """A point that is 1 or -1: one draw at sigma / sqrt(draws) tells the same, here by integration."""
    level = sigma / np.sqrt(draws)
    grid = np.linspace(-1 - 9 * level, 1 + 9 * level, 20_001)
    mixture = (norm.pdf(grid, -1, level) + norm.pdf(grid, 1, level)) / 2
    told_by_sign = entropy_of(mixture, grid[1] - grid[0]) - norm.entropy(0, level)
    assert told_by_sign <= leakage([[1.0]], sigma, draws)
    assert told_by_sign <= np.log(2) + 1e-9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([1.0, -1.0], 1.0), "negative variance -1"),
        (([[1.0, 2.0]], 1.0), "square matrix"),
        (([[1.0, 2.0], [0.0, 1.0]], 1.0), "not symmetric"),
        (([[1.0, 2.0], [2.0, 1.0]], 1.0), "negative variance -1"),
        (([[np.nan]], 1.0), "finite"),
        (([[1.0]], [1.0, 0.0]), "above 0"),
        (([[1.0]], 1.0, -1), "draws: -1 is below 0"),
    ],
)
def test_what_is_no_covariance_level_or_count_is_refused(arguments: tuple[object, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        leakage(*arguments)  # type: ignore[arg-type]
    if len(arguments) == 2:
        with pytest.raises(UserError, match=says):
            set_leakage(*arguments, 5)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="n_points: 0 is below 1"):
        set_leakage([[1.0]], 1.0, 0)
