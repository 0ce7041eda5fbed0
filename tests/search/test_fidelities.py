import numpy as np
import pytest
from scipy import integrate
from scipy.stats import multivariate_normal, norm

from pareto_amb.search.fidelities import LENGTH, LEVEL, LOCAL, NOISE, SLOPE, co_kriging
from pareto_amb.search.pareto import expected_growth, front_below, hypervolume


def problem(seed: int, known: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eight trials of two parameters, three stopping points, two figures; `known` of them have both."""
    rng = np.random.default_rng(seed)
    x, low = rng.random((8, 2)), rng.normal(3.0, 2.0, (8, 3, 2))
    high = np.full_like(low, np.nan)
    high[:known] = 0.8 * low[:known] - 1.0 + rng.normal(0, 0.1, (known, 3, 2))
    return x, low, high


def test_without_a_training_from_scratch_the_cheap_figures_are_expected() -> None:
    x, low, high = problem(0, 0)
    mean, error = co_kriging(x, low, high)
    assert mean == pytest.approx(low)
    unit = low.std(axis=0)
    z = (low - low.mean(axis=0)) / unit
    assert error == pytest.approx(unit * np.sqrt(LEVEL**2 + LOCAL**2 + SLOPE**2 * z**2))


@pytest.mark.parametrize("known", [1, 2, 3])
def test_it_is_the_posterior_of_rho_and_delta_computed_by_weighing_every_rho(known: int) -> None:
    """By Bayes' rule on a fine grid of rho, delta being a Gaussian process around 0 for each."""
    x, low, high = problem(known, known)
    mean, error = co_kriging(x, low, high)
    low, high = low[:, 1, 0], high[:known, 1, 0]
    unit, middle = low.std(), low.mean()
    gaps = ((x[:, None] - x[None]) ** 2).sum(-1)
    delta = LEVEL**2 + LOCAL**2 * np.exp(-0.5 * gaps / LENGTH**2)
    noisy = delta[:known, :known] + NOISE**2 * np.eye(known)
    rhos = np.linspace(1 - 6 * SLOPE, 1 + 6 * SLOPE, 4001)
    weights, means, squares = [], [], []
    for rho in rhos:
        # high = rho * (low - middle) + middle + delta, in units of the spread of low
        left = (high - middle - rho * (low[:known] - middle)) / unit
        weights.append(norm.pdf(rho, 1, SLOPE) * multivariate_normal(np.zeros(known), noisy).pdf(left))
        there = rho * (low - middle) + middle + unit * delta[:, :known] @ np.linalg.solve(noisy, left)
        spread = delta - delta[:, :known] @ np.linalg.solve(noisy, delta[:known])
        means.append(there)
        squares.append(there**2 + unit**2 * np.diag(spread))
    share = np.array(weights) / integrate.trapezoid(weights, rhos)
    expected = integrate.trapezoid(share[:, None] * np.array(means), rhos, axis=0)
    variance = integrate.trapezoid(share[:, None] * np.array(squares), rhos, axis=0) - expected**2
    assert mean[:, 1, 0] == pytest.approx(expected, rel=1e-6)
    assert error[:, 1, 0] == pytest.approx(np.sqrt(variance), rel=1e-5)


def test_few_trainings_from_scratch_move_it_part_of_the_way_and_many_all_of_it() -> None:
    true = problem(3, 8)
    few, many = (problem(3, known) for known in (1, 6))
    left_out = slice(6, None)
    wrong = [np.abs(co_kriging(*p)[0] - true[2])[left_out].mean() for p in (problem(3, 0), few, many)]
    assert wrong[0] > wrong[1] > wrong[2]
    assert (co_kriging(*many)[1] < co_kriging(*few)[1]).all()


def test_each_stopping_point_and_figure_stands_alone_and_what_was_not_measured_is_not_known() -> None:
    x, low, high = problem(4, 3)
    whole = co_kriging(x, low, high)
    gone = low.copy()
    gone[1, 2], gone[:, 0, 0] = np.nan, np.nan
    mean, error = co_kriging(x, gone, high)
    assert np.isnan(mean[1, 2]).all()
    assert np.isnan(error[:, 0, 0]).all()
    assert mean[:, 1].tolist() == whole[0][:, 1].tolist()
    assert error[:, 0, 1].tolist() == whole[1][:, 0, 1].tolist()


def test_a_shift_or_another_unit_of_the_figures_changes_nothing_else() -> None:
    x, low, high = problem(5, 3)
    mean, error = co_kriging(x, low, high)
    moved, wider = co_kriging(x, 7 + 10 * low, 7 + 10 * high)
    assert moved == pytest.approx(7 + 10 * mean)
    assert wider == pytest.approx(10 * error)
    alike, _ = co_kriging(x, np.ones_like(low), np.full_like(high, np.nan))
    assert (alike == 1).all()


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_expected_growth_is_that_of_hypervolumes_computed_anew(count: int) -> None:
    rng = np.random.default_rng(count)
    points = rng.random((count, 2)) * 1.3
    mean, deviation = rng.random((4, 3, 2)), 0.3 * rng.random((4, 3, 2))
    mean[2, 1], mean[3] = np.nan, np.nan
    found = expected_growth(front_below(points), mean, deviation, np.random.default_rng(1), 50)
    noise, one = np.random.default_rng(1).standard_normal((50, 2)), np.ones(2)
    for k in range(4):
        grown = []
        for z in noise:
            draws = [np.maximum(m + d * z, 0) for m, d in zip(mean[k], deviation[k], strict=True)]
            volumes = [hypervolume(np.vstack([points, d]), one) for d in draws if not np.isnan(d).any()]
            grown.append(max([0.0, *(v - hypervolume(points, one) for v in volumes)]))
        assert found[k] == pytest.approx(np.mean(grown))
    assert found[3] == 0
