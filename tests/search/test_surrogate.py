import numpy as np
import optuna
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel

from pareto_amb.search.frontier import hypervolume, non_dominated
from pareto_amb.search.surrogate import (
    FrontierSampler,
    GaussianProcess,
    at_quantile,
    hypervolume_growth,
)

SPACE: dict[str, BaseDistribution] = {
    "sigma_tn": FloatDistribution(0.01, 10.0, log=True),
    "mix_ratio": CategoricalDistribution(["natural", 0.5]),
}


def test_the_posterior_is_scikit_learns_with_the_same_kernel() -> None:
    rng = np.random.default_rng(0)
    x, new = rng.random((20, 2)), rng.random((7, 2))
    y = np.sin(5 * x[:, 0]) + x[:, 1] + 0.1 * rng.standard_normal(20)
    ours = GaussianProcess(x, y, [(slice(0, 1), (0.2,)), (slice(1, 2), (0.8,))])
    scale = y.std() + 1e-6
    errors = []
    for noise in (0.02, 0.1, 0.3):  # one of the shares of noise that ours chooses from
        kernel = RBF([0.2, 0.8], "fixed") + WhiteKernel(noise, "fixed")
        theirs = GaussianProcessRegressor(kernel, optimizer=None).fit(x, (y - y.mean()) / scale)
        mean, deviation = theirs.predict(new, return_std=True)
        expected = mean * scale + y.mean(), np.sqrt(deviation**2 - noise) * scale
        errors.append(max(np.abs(a - b).max() for a, b in zip(ours(new), expected, strict=True)))
    assert min(errors) < 1e-6


def test_the_length_scale_follows_the_data() -> None:
    x = np.linspace(0, 1, 30)[:, None]
    between = np.array([[0.505]])
    groups = [(slice(0, 1), (0.1, 0.8))]
    smooth = GaussianProcess(x, x[:, 0], groups)
    wavy = GaussianProcess(x, np.sin(12 * x[:, 0]), groups)
    assert abs(smooth(between)[0][0] - 0.505) < 0.02
    assert abs(wavy(between)[0][0] - np.sin(12 * 0.505)) < 0.2


@given(
    arrays(np.float64, (6, 2), elements=st.floats(0, 1.4)),
    arrays(np.float64, (3, 2), elements=st.floats(0, 1.4)),
)
def test_the_growth_is_the_difference_of_two_hypervolumes(values: np.ndarray, points: np.ndarray) -> None:
    one = np.ones(2)
    inside = values[(values < 1).all(axis=1)]
    front = np.unique(inside[non_dominated(inside)], axis=0)
    expected = [hypervolume(np.vstack([values, p]), one) - hypervolume(values, one) for p in points]
    np.testing.assert_allclose(hypervolume_growth(front, points), expected, atol=1e-12)


def objectives(params: dict) -> list[float]:
    u = np.log(params["sigma_tn"])
    return [0.3 + 0.02 * (u - 1) ** 2, 0.3 + 0.02 * (u + 1) ** 2 + 0.3 * (params["mix_ratio"] == 0.5)]


def test_it_finds_the_trade_off_of_a_small_problem() -> None:
    study = optuna.create_study(directions=["minimize"] * 2, sampler=FrontierSampler(0))
    rng = np.random.default_rng(0)
    for u in rng.random((5, 2)).tolist():
        params = {name: at_quantile(d, v) for (name, d), v in zip(SPACE.items(), u, strict=True)}
        study.add_trial(create_trial(params=params, distributions=SPACE, values=objectives(params)))
    found = []
    for _ in range(15):
        trial = study.ask(SPACE)
        study.tell(trial, objectives(trial.params))
        found.append(trial.params)
    late = found[5:]  # the frontier is sigma_tn from 1/e to e with the natural ratio
    assert sum(p["mix_ratio"] == "natural" and 0.25 < p["sigma_tn"] < 4 for p in late) >= 8


def test_parallel_proposals_spread() -> None:
    study = optuna.create_study(directions=["minimize"] * 2, sampler=FrontierSampler(0))
    for sigma in (0.02, 0.2, 2.0, 8.0):
        params = {"sigma_tn": sigma, "mix_ratio": "natural"}
        study.add_trial(create_trial(params=params, distributions=SPACE, values=objectives(params)))
    proposals = []
    for _ in range(4):
        params = study.ask(SPACE).params
        proposals.append(np.log(params["sigma_tn"]))
        assert {t.state for t in study.trials[4:]} == {TrialState.RUNNING}
    assert np.ptp(proposals) > 0.5
    assert len({round(p, 1) for p in proposals}) == 4


def test_without_a_finished_trial_it_draws_from_the_space() -> None:
    study = optuna.create_study(directions=["minimize"] * 2, sampler=FrontierSampler(1))
    drawn = [study.ask(SPACE).params for _ in range(20)]
    assert {p["mix_ratio"] for p in drawn} == {"natural", 0.5}
    assert all(0.01 <= p["sigma_tn"] <= 10 for p in drawn)
    assert len({p["sigma_tn"] for p in drawn}) == 20
