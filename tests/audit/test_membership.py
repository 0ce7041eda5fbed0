"""The attacks against their definitions, on scores that tell nothing, and on scores that tell everything."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import multivariate_normal, norm

from pareto_amb.audit.membership import SHARED_WEIGHT, global_threshold, likelihood_ratio, out_only
from pareto_amb.audit.roc import auc, epsilon_bound, roc, tpr_at

Attack = Callable[[NDArray[np.float64], NDArray[np.bool_]], NDArray[np.float64]]
Draw = Callable[..., tuple[NDArray[np.float64], NDArray[np.bool_]]]
ATTACKS: list[Attack] = [likelihood_ratio, out_only, global_threshold]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(("m", "n", "d"), [(16, 100, 1), (8, 60, 3), (16, 50, 6)])
def test_scores_that_tell_nothing_give_half_and_no_epsilon(
    scores_of: Draw, attack: Attack, m: int, n: int, d: int
) -> None:
    scores, member = scores_of(0.0, m, n, d)
    statistic = attack(scores, member)
    found = auc(statistic, member)
    assert found.low - 0.01 <= 0.5 <= found.high + 0.01  # one draw in twenty lies outside
    assert epsilon_bound(statistic, member).value == 0


@pytest.mark.parametrize("attack", ATTACKS)
def test_over_many_audits_scores_that_tell_nothing_give_one_half(scores_of: Draw, attack: Attack) -> None:
    """Leaving one model out alone would not: its group is the smaller one, which tells what it is."""
    areas = []
    for seed in range(100):
        scores, member = scores_of(0.0, 8, 40, 4, seed)
        areas.append(auc(attack(scores, member), member).value)
    error = float(np.std(areas)) / 10
    assert abs(np.mean(areas) - 0.5) < 4 * error < 0.02


def test_the_interval_of_scores_that_tell_nothing_mostly_has_one_half(scores_of: Draw) -> None:
    hits = 0
    for seed in range(100):
        scores, member = scores_of(0.0, 16, 50, 2, seed)
        found = auc(likelihood_ratio(scores, member), member)
        hits += found.low <= 0.5 <= found.high
    assert hits >= 88


@pytest.mark.parametrize("attack", [likelihood_ratio, out_only])
def test_a_model_that_has_memorized_is_found_out(scores_of: Draw, attack: Attack) -> None:
    scores, member = scores_of(8.0, d=3)
    statistic = attack(scores, member)
    assert auc(statistic, member).value > 0.999
    assert tpr_at(roc(statistic, member), 0.001).low > 0.9
    assert epsilon_bound(statistic, member).value > 4


def test_images_differ_so_that_one_threshold_for_all_finds_less_than_one_for_each(scores_of: Draw) -> None:
    scores, member = scores_of(2.0)
    blunt, offline, online = (
        auc(attack(scores, member), member) for attack in (global_threshold, out_only, likelihood_ratio)
    )
    assert blunt.high < offline.low
    assert offline.value < online.value


def test_models_that_are_certain_are_no_trouble(scores_of: Draw) -> None:
    """A score that is the truth has no spread; a constant one tells nothing."""
    _, member = scores_of(0.0)
    scores = np.stack([-member.astype(float), np.full(member.shape, 7.0)], axis=2)
    for attack in ATTACKS:
        assert auc(attack(scores, member), member).value == 1
    assert auc(likelihood_ratio(scores[:, :, 1:], member), member).value == 0.5


def test_no_unit_of_a_score_matters(scores_of: Draw) -> None:
    scores, member = scores_of(1.0, d=2)
    expected = likelihood_ratio(scores, member)
    for scale in (1e-200, 1e-6, 1e300):
        assert likelihood_ratio(scores * scale, member) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert likelihood_ratio(3 * scores + [5, -1000], member) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def expected_ratio(
    scores: NDArray[np.float64], member: NDArray[np.bool_], k: int, i: int, partner: int
) -> float:
    """By the definition, with loops: model k and its partner left out, of image i."""
    x = scores / scores.std(axis=(0, 1))
    m, n, d = x.shape

    def fitted(kind: bool) -> multivariate_normal:
        scatter, free, of_image = np.zeros((d, d)), 0, {}
        for image in range(n):
            gone = {k, partners(member)[k, image]}
            rows = [
                x[model, image] for model in range(m) if member[model, image] == kind and model not in gone
            ]
            deviations = np.array(rows) - np.mean(rows, axis=0)
            own = deviations.T @ deviations
            scatter, free, of_image[image] = scatter + own, free + len(rows) - 1, (rows, own)
        shared = scatter / free
        shared += d / (d + free) * (np.diag(np.diag(shared)) - shared)
        rows, own = of_image[i]
        covariance = (SHARED_WEIGHT * shared + own) / (SHARED_WEIGHT + len(rows) - 1)
        return multivariate_normal(np.mean(rows, axis=0), covariance * (1 + 1 / len(rows)))

    assert partners(member)[k, i] == partner
    return float(fitted(True).logpdf(x[k, i]) - fitted(False).logpdf(x[k, i]))


def partners(member: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The r-th member of an image goes with the r-th of the others, in turn."""
    found = np.empty(member.shape, dtype=np.int64)
    for i, column in enumerate(member.T):
        groups = np.flatnonzero(column), np.flatnonzero(~column)
        for ours, theirs in (groups, groups[::-1]):
            for rank, model in enumerate(ours):
                found[model, i] = theirs[rank % len(theirs)]
    return found


def test_the_ratio_is_that_of_the_two_gaussians(scores_of: Draw) -> None:
    scores, member = scores_of(1.0, 8, 12, 2)
    member[0, 3], member[1, 3] = True, True  # more members than others
    found = likelihood_ratio(scores, member)
    for k, i in ((0, 0), (3, 5), (7, 3), (1, 3)):
        expected = expected_ratio(scores, member, k, i, partners(member)[k, i])
        assert found[k, i] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_single_score_offline_is_the_distance_in_standard_deviations(scores_of: Draw) -> None:
    scores, member = scores_of(1.0, 16, 400)
    statistic = out_only(scores, member)
    assert norm.cdf(statistic[~member]).mean() == pytest.approx(0.5, abs=0.02)
    assert statistic[~member].std() == pytest.approx(1, abs=0.05)
    assert (statistic[member].mean() - statistic[~member].mean()) == pytest.approx(0.94, abs=0.05)
