import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import integrate, stats

from pareto_amb.results.noise import TrainingNoise, deviations, probability_non_dominated, redraw
from pareto_amb.results.size import Results, SizeResults
from pareto_amb.results.table import shipped
from pareto_amb.search.pareto import non_dominated, non_dominated_in_each

N_SAMPLES = 500
DECLARED = shipped()
PAIR = tuple(DECLARED.objectives.values())


def size_of(frame: pd.DataFrame, train_size: int = 50) -> SizeResults:
    return Results(frame.assign(confirms="", controls="", branched_at=0), DECLARED).size(train_size)


def noise_of(fid: float, memorization: float) -> TrainingNoise:
    return TrainingNoise({"fid": fid, "memorization": memorization})


def points(*rows: tuple[float, float], fid_se: float = 2.0, seeds: int = 1) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["fid", "memorization"]).assign(
        fid_se=fid_se, n_samples=N_SAMPLES, seeds=seeds
    )


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 9)).flatmap(
        lambda shape: arrays(np.float64, (*shape, 2), elements=st.integers(0, 5).map(float))
    )
)
def test_each_draw_agrees_with_the_front_of_its_own(draws: np.ndarray) -> None:
    draws = draws + np.arange(draws.shape[1])[:, None] * [0.0, 1e-3]  # no two rows alike
    expected = [non_dominated(draw).tolist() for draw in draws]
    assert non_dominated_in_each(draws).tolist() == expected


def beta_below(first: tuple[float, float], second: tuple[float, float]) -> float:
    """P(X < Y) of two Beta variables."""
    x, y = stats.beta(*first), stats.beta(*second)
    return float(integrate.quad(lambda value: x.cdf(value) * y.pdf(value), 0, 1, points=[y.mean()])[0])


@pytest.mark.parametrize("rho", [0.0, 0.01])
def test_two_points_agree_with_the_closed_form(rho: float) -> None:
    pair = points((100.0, 0.10), (104.0, 0.08))
    noise = noise_of(3.0, rho)
    share = rho + (1 - rho) / (N_SAMPLES + 2)
    scale = (1 / share - 1) / (N_SAMPLES + 1)
    shapes = [((k + 0.5) * scale, (N_SAMPLES - k + 0.5) * scale) for k in (50, 40)]
    better_fid = stats.norm.cdf(4.0 / np.sqrt(2 * (2.0**2 + 3.0**2)))
    fewer_copies = beta_below(shapes[0], shapes[1])
    found = probability_non_dominated(pair, PAIR, noise, n_draws=40_000)
    expected = [1 - (1 - better_fid) * (1 - fewer_copies), 1 - better_fid * fewer_copies]
    assert found == pytest.approx(expected, abs=0.01)


def test_many_points_agree_with_brute_force() -> None:
    rng = np.random.default_rng(3)
    many = points(*zip(rng.uniform(90, 110, 12), rng.uniform(0, 0.2, 12), strict=True))
    noise = noise_of(2.0, 0.002)
    draws = redraw(many, PAIR, noise, 3000, np.random.default_rng(9))
    counts = np.zeros(12)
    for draw in draws:
        for k, row in enumerate(draw):
            counts[k] += not any((other <= row).all() and (other < row).any() for other in draw)
    found = probability_non_dominated(many, PAIR, noise, n_draws=20_000)
    assert found == pytest.approx(counts / 3000, abs=0.04)
    assert found == pytest.approx(probability_non_dominated(many, PAIR, noise, n_draws=20_000), abs=0)


def test_without_noise_the_front_is_certain() -> None:
    exact = points((100.0, 0.1), (90.0, 0.2), (101.0, 0.3), fid_se=0.0).assign(n_samples=10**9)
    none = noise_of(0.0, 0.0)
    assert probability_non_dominated(exact, PAIR, none, n_draws=200).tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("seeds", [1, 4])
def test_redraws_spread_as_the_deviations_say(seeds: int) -> None:
    pair = points((100.0, 0.0), (50.0, 0.3), seeds=seeds)
    noise = noise_of(3.0, 0.004)
    draws = redraw(pair, PAIR, noise, 40_000, np.random.default_rng(0))
    expected = np.stack([deviations(pair, noise, objective) for objective in PAIR], axis=-1)
    assert draws.std(axis=0) == pytest.approx(expected, rel=0.03)
    assert expected[:, 0] == pytest.approx(np.hypot(2.0, 3.0 / np.sqrt(seeds)))
    variance = 0.3 * 0.7 * (0.004 + 0.996 / N_SAMPLES) / seeds
    assert expected[1, 1] == pytest.approx(np.sqrt(variance), rel=0.01)
    assert (draws[..., 1] >= 0).all()
    assert draws[:, 1].mean(axis=0) == pytest.approx([50.0, 0.3], rel=0.01)


def simulated(fid_noise: float, rho: float, seeds: int = 400) -> pd.DataFrame:
    """DDPM over many seeds, each measured with sampling error, and one trial."""
    rng = np.random.default_rng(1)
    share = rng.beta(0.2 * (1 / rho - 1), 0.8 * (1 / rho - 1), seeds) if rho else np.full(seeds, 0.2)
    fids = 100 + rng.normal(0, fid_noise, seeds) + rng.normal(0, 2.0, seeds)
    rows = {"fid": fids, "memorization": rng.binomial(N_SAMPLES, share) / N_SAMPLES}
    ddpm = pd.DataFrame(rows).assign(method="ddpm", trial_id=[f"d{k}" for k in range(seeds)])
    trial = {"fid": 80.0, "memorization": 0.01, "method": "algorithm1", "trial_id": "t"}
    shared = {"train_size": 50, "status": "complete", "budget": 1.0, "images_seen": 1000, "fid_se": 2.0}
    frame = pd.concat([ddpm, pd.DataFrame([trial])], ignore_index=True)
    return frame.assign(**shared, n_samples=N_SAMPLES)


@pytest.mark.parametrize(("fid_noise", "rho"), [(3.0, 0.02), (0.0, 0.0)])
def test_the_training_noise_is_recovered_without_the_sampling_error(fid_noise: float, rho: float) -> None:
    noise = size_of(simulated(fid_noise, rho)).noise.of
    assert noise["fid"] == pytest.approx(fid_noise, abs=0.8 if fid_noise == 0 else 0.4)
    assert noise["memorization"] == pytest.approx(rho, abs=0.003)


def test_one_seed_says_nothing_about_training_noise() -> None:
    rows = simulated(3.0, 0.02)
    one = rows[rows.trial_id.isin(["d0", "t"])]
    assert size_of(one).noise == noise_of(0.0, 0.0)


def test_extreme_seeds_stay_within_the_model() -> None:
    rows = simulated(3.0, 0.02, seeds=2)
    rows.loc[:1, "memorization"] = [0.0, 1.0]
    assert size_of(rows).noise.of["memorization"] < 1
    assert np.isfinite(size_of(rows).points.p_front).all()


def test_a_table_without_standard_errors_counts_the_whole_spread_as_training_noise() -> None:
    rows = simulated(3.0, 0.02)
    whole = size_of(rows.drop(columns="fid_se")).noise.of["fid"]
    assert whole == pytest.approx(rows.fid[:400].std(), rel=1e-6)
    assert size_of(rows.drop(columns="fid_se")).points.fid_sd.iloc[-1] == pytest.approx(whole)


def test_the_points_of_a_table_carry_their_noise_and_probability() -> None:
    rows = simulated(3.0, 0.02)
    found = size_of(rows).points
    assert found.trial_id.tolist() == ["d0", "t"]
    assert found.p_front.tolist() == [0.0, 1.0]
    assert found.fid_sd.iloc[0] < found.fid_sd.iloc[1] / 15
    assert found.seeds.tolist() == size_of(rows).configurations.seeds.tolist() == [400, 1]
    assert size_of(rows, 60).points.empty
