import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel

from pareto_amb.search import ehvi, pareto
from pareto_amb.search.ehvi import CURVE, EHVISampler, GaussianProcess, at_quantile
from pareto_amb.search.pareto import hypervolume

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


def test_several_functions_share_a_kernel_and_have_each_their_own_posterior() -> None:
    rng = np.random.default_rng(1)
    x, new = rng.random((20, 2)), rng.random((7, 2))
    y = np.stack([np.sin(5 * x[:, 0]), 3 * x[:, 1] + rng.standard_normal(20)], axis=1)
    groups = [(slice(0, 1), (0.2,)), (slice(1, 2), (0.8,))]
    mean, deviation = GaussianProcess(x, y, groups, (0.1,))(new)
    for k in range(2):
        alone = GaussianProcess(x, y[:, k], groups, (0.1,))(new)
        assert np.stack([mean[:, k], deviation[:, k]]) == pytest.approx(np.stack(alone))


def test_the_length_scale_follows_the_data() -> None:
    x = np.linspace(0, 1, 30)[:, None]
    between = np.array([[0.505]])
    groups = [(slice(0, 1), (0.1, 0.8))]
    smooth = GaussianProcess(x, x[:, 0], groups)
    wavy = GaussianProcess(x, np.sin(12 * x[:, 0]), groups)
    assert abs(smooth(between)[0][0] - 0.505) < 0.02
    assert abs(wavy(between)[0][0] - np.sin(12 * 0.505)) < 0.2


def objectives(params: dict) -> list[float]:
    u = np.log(params["sigma_tn"])
    return [0.3 + 0.02 * (u - 1) ** 2, 0.3 + 0.02 * (u + 1) ** 2 + 0.3 * (params["mix_ratio"] == 0.5)]


def test_it_finds_the_trade_off_of_a_small_problem() -> None:
    study = optuna.create_study(directions=["minimize"] * 2, sampler=EHVISampler(0))
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
    study = optuna.create_study(directions=["minimize"] * 2, sampler=EHVISampler(0))
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
    study = optuna.create_study(directions=["minimize"] * 2, sampler=EHVISampler(1))
    drawn = [study.ask(SPACE).params for _ in range(20)]
    assert {p["mix_ratio"] for p in drawn} == {"natural", 0.5}
    assert all(0.01 <= p["sigma_tn"] <= 10 for p in drawn)
    assert len({p["sigma_tn"] for p in drawn}) == 20


NUMBERS = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=6, unique=True)


def places(choices: list, log: bool) -> np.ndarray:
    """Where the choices of a list lie for the model: (choices, columns)."""
    space: dict[str, BaseDistribution] = {"p": CategoricalDistribution(choices)}
    parts = ehvi._parts(space, ["p"] if log else [])
    return ehvi._encode([{"p": choice} for choice in choices], parts)


@given(NUMBERS, st.booleans())
def test_listed_numbers_lie_where_they_lie_in_the_range_that_they_span(
    numbers: list[float], log: bool
) -> None:
    span: dict[str, BaseDistribution] = {"p": FloatDistribution(min(numbers), max(numbers), log=log)}
    expected = ehvi._encode([{"p": number} for number in numbers], ehvi._parts(span))
    assert places(numbers, log) == pytest.approx(expected)


@given(NUMBERS, st.sampled_from([["natural"], ["natural", "other"]]), st.randoms())
def test_words_are_as_far_from_each_other_as_from_numbers(numbers: list, words: list, random) -> None:
    choices = random.sample(words + numbers, len(words + numbers))
    at = dict(zip(choices, places(choices, True), strict=True))
    kinds = {choice: row[: len(words) + 1] for choice, row in at.items()}
    assert all((kinds[number] == kinds[numbers[0]]).all() for number in numbers)
    apart = [words[0], words[-1], numbers[0]][2 - len(words) :]
    for a, b in zip(apart[1:], apart, strict=False):
        assert np.linalg.norm(kinds[a] - kinds[b]) == pytest.approx(np.sqrt(2) if a != b else 0)
    assert {at[word][-1] for word in words} == {0.5}


def test_one_number_beside_a_word_is_a_choice_of_two_and_a_single_choice_tells_nothing() -> None:
    assert places(["natural", 0.5], False).tolist() == [[1, 0], [0, 1]]
    assert places(["natural"], False).tolist() == [[1]]
    assert places([0.5], True).tolist() == [[0]]


def test_what_was_seen_of_listed_values_tells_of_those_between() -> None:
    levels = np.geomspace(0.05, 20, 13).tolist()
    space: dict[str, BaseDistribution] = {"sigma_tn": CategoricalDistribution(levels[::-1])}
    study = optuna.create_study(directions=["minimize"] * 2, sampler=EHVISampler(0, ["sigma_tn"]))
    for level in levels[::4]:
        values = objectives({"sigma_tn": level, "mix_ratio": "natural"})
        study.add_trial(
            create_trial(params={"sigma_tn": level}, distributions=space, values=np.add(values, 0.4))
        )
    for _ in range(3):  # the frontier lies from 1/e to e; the others were never seen either
        assert 0.3 < study.ask(space).params["sigma_tn"] < 3.5


def three_objectives(params: dict) -> list[float]:
    """A third one is maximised, so minimised with the other sign: 0.8 is its ideal, 0.2 the reference."""
    kept = 0.7 - 0.02 * np.log(params["sigma_tn"] / 5) ** 2
    return [*objectives(params), (kept - 0.8) / (0.2 - 0.8)]


def study_of_three(seed: int, count: int) -> optuna.Study:
    study = optuna.create_study(directions=["minimize"] * 3, sampler=EHVISampler(seed))
    for u in np.random.default_rng(seed).random((count, 2)).tolist():
        params = {name: at_quantile(d, v) for (name, d), v in zip(SPACE.items(), u, strict=True)}
        study.add_trial(create_trial(params=params, distributions=SPACE, values=three_objectives(params)))
    return study


def brute_force_growth(front: np.ndarray, points: np.ndarray) -> np.ndarray:
    one = np.ones(front.shape[1])
    rows = points.reshape(-1, len(one))
    growth = [hypervolume(np.vstack([front, row]), one) - hypervolume(front, one) for row in rows]
    return np.array(growth).reshape(points.shape[:-1])


def test_a_trial_is_proposed_for_the_rung_where_it_adds_most() -> None:
    """At the end all are alike; at the rung before, those from 1/e to e are on the frontier."""
    space, last = {"sigma_tn": SPACE["sigma_tn"]}, [0.9, 0.9]
    near = {}
    for kind in ("at the end", "at every rung"):
        study = optuna.create_study(directions=["minimize"] * 2, sampler=EHVISampler(0))
        for sigma in np.geomspace(0.01, 10, 13).tolist():
            params = {"sigma_tn": sigma}
            curve = [objectives({**params, "mix_ratio": "natural"}), last]
            attrs = {CURVE: curve} if kind == "at every rung" else {}
            study.add_trial(create_trial(params=params, distributions=space, values=last, user_attrs=attrs))
        near[kind] = sum(0.2 < study.ask(space).params["sigma_tn"] < 5 for _ in range(6))
    assert near["at every rung"] >= 5 > near["at the end"]


def test_a_study_and_arrays_lead_to_the_same_proposal() -> None:
    study = study_of_three(3, 8)
    begun = create_trial(params=study.trials[0].params, distributions=SPACE, state=TrialState.RUNNING)
    study.add_trial(begun)
    complete, running = study.trials[:-1], study.trials[-1]
    curves = np.array([[trial.values] for trial in complete])
    found = EHVISampler(3).propose(SPACE, [trial.params for trial in complete], curves, [running.params])
    assert found == study.ask(SPACE).params


def test_three_objectives_are_proposed_as_by_hypervolumes_computed_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ehvi, "N_CANDIDATES", 20)
    monkeypatch.setattr(ehvi, "N_DRAWS", 4)
    proposed = [study_of_three(seed, 8).ask(SPACE).params for seed in range(4)]
    monkeypatch.setattr(pareto, "hypervolume_growth", brute_force_growth)
    assert [study_of_three(seed, 8).ask(SPACE).params for seed in range(4)] == proposed


def test_it_finds_the_trade_off_of_three_objectives() -> None:
    study = study_of_three(0, 5)
    found = []
    for _ in range(15):
        trial = study.ask(SPACE)
        study.tell(trial, three_objectives(trial.params))
        found.append(trial.params)
    late = found[5:]  # the third objective is best at 5, beyond what the other two alone would try
    assert sum(p["mix_ratio"] == "natural" and 0.25 < p["sigma_tn"] < 8 for p in late) >= 8
    assert any(p["sigma_tn"] > 3.5 for p in late)
