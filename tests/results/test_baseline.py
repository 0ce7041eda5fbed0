"""The interval of DDPM over few seeds."""

import numpy as np
import pandas as pd
import pytest

from pareto_amb.declared import Objective
from pareto_amb.results.baseline import Baseline, limits, spread_over_seeds
from pareto_amb.results.noise import sampling_deviation, training_noise
from pareto_amb.results.table import shipped

FID, MEMORIZATION = shipped().objectives.values()


def of(*values: float, sampling: float, objective: Objective = FID) -> tuple[float, float, float | None]:
    found = spread_over_seeds(pd.Series(values), sampling, objective)
    return found.low, found.high, found.deviation


@pytest.mark.parametrize("values", [(100.0,), (100.0, 100.0), (100.0, 100.0, 100.0)])
def test_seeds_that_agree_scatter_as_far_as_one_model_measured_again(values: tuple[float, ...]) -> None:
    low, high, deviation = of(*values, sampling=1.5)
    assert deviation == 1.5
    assert high - 100 == pytest.approx(100 - low)
    assert high - 100 > 2 * 1.5


def test_shares_stay_shares() -> None:
    low, high, deviation = of(0.005, 0.005, sampling=0.004, objective=MEMORIZATION)
    assert (low, deviation) == (0.0, 0.004)
    assert 0.01 < high < 1


@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("copies", [0.0, 0.005, 1.0])
@pytest.mark.parametrize("n_samples", [1, 2, 200])
def test_a_share_has_the_error_of_its_count(seeds: int, copies: float, n_samples: int) -> None:
    rows = pd.DataFrame(
        {"memorization": [copies] * seeds, "n_samples": n_samples, "method": "ddpm", "fid": 9.0}
    )
    deviation = sampling_deviation(rows, MEMORIZATION)
    assert 0 < deviation < 1
    low, high, _ = of(*rows.memorization, sampling=deviation, objective=MEMORIZATION)
    assert high > low
    assert 0 <= training_noise(rows, (FID, MEMORIZATION)).of["memorization"] < 1


def test_without_any_noise_to_go_by_none_is_claimed() -> None:
    assert of(100.0, sampling=0.0) == (100.0, 100.0, None)


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize(("training", "least"), [(0.0, 0.95), (1.0, 0.95), (2.0, 0.93), (10.0, 0.8)])
def test_the_interval_covers_another_seed_far_better_than_twice_the_deviation(
    seeds: int, training: float, least: float
) -> None:
    """A claim of 95% that two standard deviations of two seeds keep in 65 of 100 cases, of three in 78."""
    rng = np.random.default_rng(7)
    scatter = np.hypot(1.0, training)
    drawn = 100 + rng.normal(0, scatter, (1500, seeds))
    further = 100 + rng.normal(0, scatter, 1500)
    inside = before = 0
    for values, new in zip(drawn, further, strict=True):
        low, high, _ = of(*values, sampling=1.0)
        inside += low <= new <= high
        before += abs(new - values.mean()) <= 2 * values.std(ddof=1)
    assert inside / 1500 >= least
    assert before / 1500 < inside / 1500 - 0.08


def test_ignorance_makes_no_claim_easier() -> None:
    """Better lies beyond the whole interval, no worse within two deviations, which are less far."""
    spreads = {
        "fid": spread_over_seeds(pd.Series([99.0, 101.0]), 1.0, FID),
        "memorization": spread_over_seeds(pd.Series([0.5, 0.5]), 0.02, MEMORIZATION),
    }
    worst, better = limits(Baseline(seeds=2, **spreads), (FID, MEMORIZATION))
    assert worst.tolist() == pytest.approx([100 + 2 * np.sqrt(2), 0.54])
    assert better.tolist() == [spreads["fid"].low, spreads["memorization"].low]
    assert 100 - better[0] > worst[0] - 100
