"""Feldman's expected frequencies against plain arithmetic, simulation of the model, and their bounds."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pareto_amb.errors import UserError
from pareto_amb.theory.frequencies import (
    draw_frequencies,
    expected_error,
    tau,
    tau_1_lower,
    tau_1_upper,
    weight,
)


def plain_tau(rows: NDArray[np.float64], n: int, ell: int) -> float:
    """The definition, in exact fractions."""
    alphas = [Fraction(alpha) for row in rows for alpha in row]
    above = sum(alpha ** (ell + 1) * (1 - alpha) ** (n - ell) for alpha in alphas)
    return float(above / sum(alpha**ell * (1 - alpha) ** (n - ell) for alpha in alphas))


@pytest.mark.parametrize("ell", [0, 1, 2, 7, 30])
def test_tau_is_its_definition(ell: int) -> None:
    rows = draw_frequencies([1, 0.5, 0.1, 0.01], 6, 3)
    assert tau(rows, 30, ell) == pytest.approx(plain_tau(rows, 30, ell), rel=1e-12)
    assert tau(rows[0], 30, ell) == pytest.approx(plain_tau(rows[:1], 30, ell), rel=1e-12)


def test_a_million_points_neither_overflow_nor_vanish() -> None:
    n = 10**6
    even = np.full(1000, 1e-3)
    for ell in (0, 1, 1000, n // 2, n):
        assert tau(even, n, ell) == pytest.approx(1e-3)
    rare = np.append(np.full(1000, 1 / n), 1 - 1000 / n)
    assert tau(rare, n) == pytest.approx(1 / n)
    assert tau(rare, n, n - 500) == pytest.approx(1 - 1000 / n)


def test_what_cannot_occur_so_often_has_no_frequency() -> None:
    assert math.isnan(tau([1.0], 5, 1))
    assert tau([1.0], 5, 5) == 1
    assert tau([0.0, 1.0], 5, 0) == 0
    assert math.isnan(tau([0.0, 1.0], 5, 3))


def test_tau_is_the_mean_frequency_of_what_is_seen_so_often() -> None:
    generator = np.random.default_rng(0)
    alpha = draw_frequencies(1 / np.arange(1, 51), 40, 4000, seed=1)
    seen = np.array([generator.multinomial(30, row) for row in alpha])
    for ell in (0, 1, 2, 3):
        assert tau(alpha, 30, ell) == pytest.approx(alpha[seen == ell].mean(), rel=0.02)


def test_the_theorem_gives_the_error_of_a_learner_on_the_population() -> None:
    """A learner errs on what it never saw, on half of what it saw once, and on nothing else."""
    generator = np.random.default_rng(0)
    alpha = draw_frequencies(1 / np.arange(1, 51), 40, 3000, seed=1)
    seen = np.array([generator.multinomial(30, row) for row in alpha])
    wrong = np.where(seen == 0, 1.0, np.where(seen == 1, 0.5, 0.0))
    happened = float((alpha * wrong).sum(axis=1).mean())
    foretold = np.mean([expected_error(alpha, *pair) for pair in zip(seen[:40], wrong[:40], strict=True)])
    assert foretold == pytest.approx(happened, rel=0.05)


@pytest.mark.parametrize(("n", "about"), [(1000, 0.57), (10_000, 0.508)])
def test_under_zipf_tau_1_is_half_of_a_points_share(n: int, about: float) -> None:
    rows = draw_frequencies(1 / np.arange(1, n + 1), n, 200)
    assert n * tau(rows, n) == pytest.approx(about, abs=0.01)


def test_the_figures_of_feldmans_example() -> None:
    """Zipf, N = n = 50,000: 0.47/n for each point seen once, 0.09/n for the rarest, 17% seen once."""
    n = 50_000
    frequencies = 1 / np.arange(1, n + 1)
    frequencies /= frequencies.sum()
    assert n * tau(frequencies, n) == pytest.approx(0.47, abs=0.005)
    assert n * frequencies[-1] == pytest.approx(0.09, abs=0.005)
    assert (frequencies * (1 - frequencies) ** (n - 1)).sum() == pytest.approx(0.17, abs=0.005)


def test_weight_is_a_share_of_the_population_and_includes_the_ends() -> None:
    rows = [[0.5, 0.25, 0.25, 0.0], [1.0, 0.0, 0.0, 0.0]]
    assert weight(rows, 0.25, 0.5) == 0.5
    assert weight(rows, 0.25, 0.49) == 0.25
    assert weight(rows[0], 0.25, 0.25) == 0.5
    assert weight(rows, 0, 1) == 1


def test_drawn_frequencies_are_ratios_of_the_prior_and_follow_the_seed() -> None:
    rows = draw_frequencies([1, 4], 50, 20, seed=3)
    assert rows.shape == (20, 50)
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    assert {round(ratio) for ratio in (rows / rows.min(axis=1, keepdims=True)).flat} == {1, 4}
    assert (rows == draw_frequencies([1, 4], 50, 20, seed=3)).all()
    assert (rows != draw_frequencies([1, 4], 50, 20, seed=4)).any()


frequency_rows = hnp.arrays(np.float64, (2, 6), elements=st.floats(-14, 0)).map(
    lambda logs: np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)
)


@settings(max_examples=60, deadline=None)
@given(frequency_rows, st.integers(1, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_rare_subpopulations_hold_tau_up(rows: NDArray[np.float64], n: int, one: float, other: float) -> None:
    found = tau(rows, n)
    for low, high in ((min(one, other), max(one, other)), (1 / (2 * n), 1 / n), (1 / (3 * n), min(2 / n, 1))):
        share = min(weight(rows, low, high), 1.0)
        assert math.isnan(found) or tau_1_lower(share, n, low, high) <= found * (1 + 1e-7)
    assert tau_1_lower(1.0, n, 1 / (2 * n), 1 / n) >= 1 / (2 * math.sqrt(math.e) * n) * (1 - 1e-9)
    if n >= 3:
        assert tau_1_lower(1.0, n, 1 / (3 * n), 2 / n) >= 1 / (5 * n)


@settings(max_examples=60, deadline=None)
@given(frequency_rows, st.integers(1, 10**6))
def test_a_gap_in_the_frequencies_holds_tau_down(rows: NDArray[np.float64], n: int) -> None:
    found, values = tau(rows, n), np.unique(rows)
    for low, high in zip(values, [*values[1:], 1.5], strict=True):
        share = min(weight(rows, 0, low), 1.0)
        if high * n >= 1 and low < 1 and not math.isnan(found):
            assert found <= tau_1_upper(share, n, low, high) * (1 + 1e-7)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10**6), st.floats(1e-12, 1), st.floats(1e-12, 1))
def test_the_gap_of_feldman_gives_his_bound(n: int, of_half: float, share: float) -> None:
    theta = of_half / (2 * n)
    high = (2 - math.log(theta * share)) / n
    assert tau_1_upper(share, n, theta, high) <= 2 * theta * (1 + 1e-9)


def test_both_bounds_are_near_where_they_can_be() -> None:
    n = 1000
    assert tau_1_lower(1.0, n, 1 / n, 1 / n) == pytest.approx((1 - 1 / n) ** (n - 1) / n)
    rows = [*[0.05] * 10, 0.5]
    upper = tau_1_upper(0.5, 10, 0.05, 0.5)
    assert upper == pytest.approx(0.05 + 0.5 * (0.5 / 0.95) ** 9)
    assert tau(rows, 10) <= upper <= 1.005 * tau(rows, 10)


@pytest.mark.parametrize("frequencies", [[0.5, 0.4], [1.5, -0.5], [], [[[1.0]]], [np.nan, 1.0]])
def test_what_are_no_frequencies_is_refused(frequencies: list[float]) -> None:
    for function in (lambda: tau(frequencies, 5), lambda: weight(frequencies, 0, 1)):
        with pytest.raises(UserError, match="frequencies: "):
            function()


def test_what_does_not_fit_together_is_refused() -> None:
    for ell in (-1, 6):
        with pytest.raises(UserError, match=f"ell: {ell} of 5"):
            tau([1.0], 5, ell)
    with pytest.raises(UserError, match="counts: one per error"):
        expected_error([1.0], [1, 2], [0.5])
    for share, low, high in ((0.0, 0.0, 0.5), (0.5, 0.0, 0.05), (0.5, 0.6, 0.5)):
        with pytest.raises(UserError, match="tau_1_upper: needs weight below the gap"):
            tau_1_upper(share, 10, low, high)
    with pytest.raises(UserError, match="must lie within 0 to 1"):
        tau_1_lower(0.5, 10, 0.2, 0.1)
    for prior in ([], [1.0, 0.0], [math.inf]):
        with pytest.raises(UserError, match="prior: "):
            draw_frequencies(prior, 5, 5)
