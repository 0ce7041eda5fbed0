import math

import numpy as np
import pytest
import torch
from scipy import stats

from pareto_amb.evaluation.intervals import bootstrap, clopper_pearson, difference, ratio_of_means, wilson


def means(values: torch.Tensor) -> torch.Tensor:
    return values.mean(1)


def test_wilson():
    tenth = wilson(0.1, 100)
    assert tenth.value == 0.1
    assert (tenth.low, tenth.high) == pytest.approx((0.0552, 0.1744), abs=1e-4)  # Newcombe's formula by hand
    assert wilson(0.0, 10).low == 0
    assert wilson(1.0, 10).high == 1


@pytest.mark.parametrize("n", [1, 3, 40, 50_000])
def test_shares_have_the_intervals_of_scipy(n):
    counts = np.unique([0, 1, n // 3, n - 1, n])
    exact = clopper_pearson(counts, n, 0.999)
    for count, low, high in zip(counts.tolist(), *exact, strict=True):
        known = stats.binomtest(count, n)
        assert (low, high) == pytest.approx(tuple(known.proportion_ci(0.999)), abs=1e-12)
        found, wanted = wilson(count / n, n), known.proportion_ci(method="wilson")
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_without_images_nothing_is_known():
    for unknown in (wilson(math.nan, 0), bootstrap(torch.empty(0), means)):
        assert math.isnan(unknown.value)
        assert math.isnan(unknown.low)
        assert math.isnan(unknown.high)
    assert math.isnan(difference(wilson(0.5, 10), wilson(math.nan, 0)).low)


def test_a_ratio_of_means_covers():
    random = np.random.default_rng(0)
    draws = ((random.lognormal(0.3, 0.5, 80), random.lognormal(0, 0.5, 50)) for _ in range(400))
    found = [ratio_of_means(*each) for each in draws]
    truth = math.exp(0.3)
    assert 0.92 < np.mean([each.low <= truth <= each.high for each in found]) < 0.98
    assert np.median([each.value for each in found]) == pytest.approx(truth, rel=0.02)
    assert math.isnan(ratio_of_means([1.0], [1.0, 2.0]).low)
    assert ratio_of_means([1.0, 3.0], [4.0, 4.0]).value == 0.5


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090)],
)
def test_difference_of_shares_as_in_newcombes_table(one, other, low, high):
    found = difference(wilson(one[0] / one[1], one[1]), wilson(other[0] / other[1], other[1]))
    assert found.value == pytest.approx(one[0] / one[1] - other[0] / other[1])
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


def test_difference_of_shares_covers():
    random = np.random.default_rng(0)
    shares = zip(random.binomial(300, 0.06, 150) / 300, random.binomial(200, 0.02, 150) / 200, strict=True)
    found = [difference(wilson(a, 300), wilson(b, 200)) for a, b in shares]
    assert 0.92 <= np.mean([e.low <= 0.04 <= e.high for e in found]) <= 0.99


def test_bootstrap_of_the_mean():
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0)).double()
    found = bootstrap(values, means)
    half = 1.96 * float(values.std()) / 4000**0.5
    assert found.value == pytest.approx(float(values.mean()))
    assert found.low == pytest.approx(found.value - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.1 * half)
    assert bootstrap(values, means) == found
    assert bootstrap(values, means, seed=1) != found
    assert bootstrap(torch.ones(3), means).low == 1


def test_bootstrap_covers_a_skewed_mean():
    generator = torch.Generator().manual_seed(0)
    draws = torch.empty(200, 150).exponential_(generator=generator)
    found = [bootstrap(draw, means, 400, seed) for seed, draw in enumerate(draws)]
    assert 0.89 <= np.mean([e.low <= 1 <= e.high for e in found]) <= 0.98
