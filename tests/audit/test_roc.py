"""ROC against scikit-learn's, intervals and bounds against SciPy's and against what is private."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve

from pareto_amb.audit.roc import auc, epsilon_bound, roc, tpr_at
from pareto_amb.evaluation.intervals import clopper_pearson

Draw = Callable[..., tuple[NDArray[np.float64], NDArray[np.bool_]]]
tied = arrays(np.float64, (8, 5), elements=st.integers(-3, 3).map(float))


@settings(deadline=None)
@given(tied, st.integers(0, 100))
def test_the_curve_is_scikit_learns_also_with_ties(
    scores_of: Draw, statistic: NDArray[np.float64], seed: int
) -> None:
    _, member = scores_of(0.0, 8, 5, seed=seed)
    found = roc(statistic, member)
    fpr, tpr, thresholds = roc_curve(member.ravel(), statistic.ravel(), drop_intermediate=False)
    assert found.fpr == pytest.approx(fpr)
    assert found.tpr == pytest.approx(tpr)
    assert found.thresholds == pytest.approx(thresholds)
    area = auc(statistic, member)
    assert area.value == pytest.approx(roc_auc_score(member.ravel(), statistic.ravel()))
    assert area.low <= area.value <= area.high


@settings(deadline=None)
@given(tied, st.floats(0, 1))
def test_no_threshold_has_a_higher_rate_of_hits_at_the_rate_of_false_ones(
    scores_of: Draw, statistic: NDArray[np.float64], fpr: float
) -> None:
    _, member = scores_of(0.0, 8, 5)
    called = [statistic >= threshold for threshold in np.unique(statistic)]
    rates = [float(c[member].mean()) for c in called if c[~member].mean() <= fpr]
    found = tpr_at(roc(statistic, member), fpr)
    assert found.value == pytest.approx(max(rates, default=0))
    assert found.low <= found.value <= found.high


@settings(deadline=None)
@given(st.integers(1, 500), st.data(), st.floats(0.5, 0.999))
def test_clopper_pearson_is_scipys(n: int, data: st.DataObject, confidence: float) -> None:
    count = data.draw(st.integers(0, n))
    low, high = clopper_pearson(count, n, confidence)
    expected = binomtest(count, n).proportion_ci(confidence, method="exact")
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_clopper_pearson_takes_many_at_once() -> None:
    low, high = clopper_pearson([0, 5, 10], 10)
    assert (low[0], high[2]) == (0, 1)
    assert (low < high).all()


def randomized_response(
    scores_of: Draw, epsilon: float, m: int, n: int, seed: int
) -> tuple[NDArray, NDArray]:
    """What tells most at epsilon-differential privacy: the truth, or with 1 / (1 + e^epsilon) a lie."""
    _, member = scores_of(0.0, m, n, seed=seed)
    lie = np.random.default_rng(seed).random((m, n)) < 1 / (1 + math.exp(epsilon))
    return (member ^ lie).astype(float), member


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_what_is_private_is_not_said_to_be_less_private(scores_of: Draw, epsilon: float) -> None:
    bounds = [
        epsilon_bound(*randomized_response(scores_of, epsilon, 16, 100, seed)).value for seed in range(100)
    ]
    assert sum(bound > epsilon for bound in bounds) <= 8
    best = epsilon_bound(*randomized_response(scores_of, epsilon, 100, 1000, 0)).value
    assert epsilon - 0.1 < best <= epsilon


def test_the_bound_comes_from_the_rates_beside_it(scores_of: Draw) -> None:
    found = epsilon_bound(*randomized_response(scores_of, 2.0, 16, 200, 0), delta=0.01)
    called = math.log((found.tpr.low - 0.01) / found.fpr.high)
    cleared = math.log((1 - found.fpr.high - 0.01) / (1 - found.tpr.low))
    assert found.value == pytest.approx(max(called, cleared))


def test_the_threshold_is_chosen_on_other_models_than_the_bound_rests_on(scores_of: Draw) -> None:
    statistic, member = randomized_response(scores_of, 3.0, 16, 200, 0)
    statistic[8:] = np.random.default_rng(0).random((8, 200))
    assert epsilon_bound(statistic, member).value == 0


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 0.5))
def test_a_larger_delta_never_raises_the_bound(scores_of: Draw, delta: float) -> None:
    statistic, member = randomized_response(scores_of, 2.0, 16, 100, 0)
    assert epsilon_bound(statistic, member, delta=delta).value <= epsilon_bound(statistic, member, 0).value


def test_many_thresholds_take_no_time(scores_of: Draw) -> None:
    scores, member = scores_of(2.0, 16, 10_000)
    assert epsilon_bound(-scores[:, :, 0], member).value >= 0
