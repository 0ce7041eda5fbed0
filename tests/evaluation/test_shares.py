import numpy as np
import pytest
from scipy import stats

from pareto_amb.evaluation.shares import share_posterior


@pytest.mark.parametrize(("copies", "n"), [(0, 40), (40, 40), (3, 500), (250, 500)])
def test_mean_and_deviation_are_those_of_jeffreys_posterior(copies: int, n: int) -> None:
    posterior = stats.beta(copies + 0.5, n - copies + 0.5)
    assert share_posterior(copies / n, n) == pytest.approx((posterior.mean(), posterior.std()))


def test_the_deviation_is_that_of_repeated_counts() -> None:
    counts = np.random.default_rng(0).binomial(1000, 0.07, size=20_000)
    assert counts.std() / 1000 == pytest.approx(float(share_posterior(0.07, 1000)[1]), rel=0.02)
