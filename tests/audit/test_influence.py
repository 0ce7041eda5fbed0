"""mem against models whose gap is known, planted images, and the randomization test against brute force."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import ttest_ind

from pareto_amb.audit.halves import balanced_halves
from pareto_amb.audit.influence import FALSE_DISCOVERY_RATE, combined, influence

Draw = Callable[..., tuple[NDArray[np.float64], NDArray[np.bool_]]]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([8, 16]), st.sampled_from([10, 50]))
def test_averaged_over_images_mem_is_the_generalization_gap(
    scores_of: Draw, seed: int, m: int, n: int
) -> None:
    scores, member = scores_of(0.3, m, n, seed=seed)
    errors = scores[:, :, 0]
    gaps = [float(e[~here].mean() - e[here].mean()) for e, here in zip(errors, member, strict=True)]
    assert influence(-errors, member).mem.mean() == pytest.approx(np.mean(gaps))


def test_the_standard_error_is_that_of_welchs_test(scores_of: Draw) -> None:
    scores, member = scores_of(1.0, 16, 20)
    found = influence(-scores[:, :, 0], member)
    for i in range(20):
        t = ttest_ind(-scores[member[:, i], i, 0], -scores[~member[:, i], i, 0], equal_var=False)
        assert found.mem[i] / found.standard_error[i] == pytest.approx(t.statistic)


def test_planted_duplicates_and_outliers_come_out_on_top(scores_of: Draw) -> None:
    """Duplicates are copied more often; an outlier is denoised well only by models that have seen it."""
    generator = np.random.default_rng(0)
    _, member = scores_of(0.0, 16, 200)
    rate = np.full(200, 0.2)
    rate[:5] = 8.0
    copies = generator.poisson(0.1 + rate * member)
    found = influence(copies.astype(float), member)
    assert set(np.argsort(-found.mem)[:5]) == set(range(5))
    assert found.significant[:5].all()
    errors = generator.normal(1, 0.05, member.shape)
    errors[:, 10:15] += 1 - 0.9 * member[:, 10:15]
    found = influence(-errors, member)
    assert set(np.argsort(-found.mem)[:5]) == set(range(10, 15))
    assert found.significant[10:15].all()
    assert found.significant.sum() <= 6


def test_where_training_changes_nothing_hardly_ever_an_image_is_named(scores_of: Draw) -> None:
    named = 0
    for seed in range(60):
        scores, member = scores_of(0.0, 16, 100, seed=seed)
        named += bool(influence(scores[:, :, 0], member).significant.any())
    assert named / 60 <= FALSE_DISCOVERY_RATE + 0.06


def test_p_values_count_the_ways_to_choose_the_models(scores_of: Draw) -> None:
    scores, member = scores_of(0.5, 8, 12)
    values = np.round(-scores[:, :, 0] * 2) / 2  # ties
    member[0, 4] = ~member[0, 4]  # three or five models
    found = influence(values, member)
    for i in range(12):
        count, observed = int(member[:, i].sum()), values[member[:, i], i].sum()
        sums = [values[list(chosen), i].sum() for chosen in combinations(range(8), count)]
        assert found.p_value[i] == pytest.approx(np.mean([s >= observed for s in sums]))
    assert found.smallest_p == pytest.approx(1 / 70)


def test_with_many_models_some_ways_are_drawn_and_the_observed_one_counts_among_them(scores_of: Draw) -> None:
    scores, member = scores_of(0.3, 24, 40)
    found = influence(-scores[:, :, 0], member)
    assert (found.p_value >= found.smallest_p).all()
    for i in range(40):
        inside, outside = -scores[member[:, i], i, 0], -scores[~member[:, i], i, 0]
        t = ttest_ind(inside, outside, alternative="greater")
        assert found.p_value[i] == pytest.approx(t.pvalue, abs=0.03)
    certain = influence(member.astype(float), member)
    assert (certain.p_value <= 2 * certain.smallest_p).all()  # a drawn way may be the observed one
    assert certain.smallest_p == 1 / 20_001


def test_the_named_are_those_of_benjamini_and_hochberg(scores_of: Draw) -> None:
    scores, member = scores_of(2.0, 16, 50)
    found = influence(-scores[:, :, 0], member)
    ordered = np.sort(found.p_value)
    passed = [k for k in range(50) if ordered[k] <= FALSE_DISCOVERY_RATE * (k + 1) / 50]
    assert passed
    assert (found.significant == (found.p_value <= ordered[passed[-1]])).all()


def test_copies_that_all_models_agree_on_have_no_spread_and_no_trouble(scores_of: Draw) -> None:
    _, member = scores_of(0.0, 8, 3)
    values = np.stack([np.zeros(8), np.ones(8), member[:, 2] * 3.0], axis=1)
    found = influence(values, member)
    assert found.mem.tolist() == [0, 0, 3]
    assert found.p_value == pytest.approx([1, 1, 1 / 70])


def test_of_several_scores_one_value_that_does_not_depend_on_their_units(scores_of: Draw) -> None:
    scores, member = scores_of(1.0, d=3)
    expected = influence(combined(scores, member), member)
    found = influence(combined(scores * [1e-3, 1, 1e150], member), member)
    assert found.mem == pytest.approx(expected.mem)
    assert expected.mem.mean() == pytest.approx(1, abs=0.1)
    assert (combined(scores[:, :, :1], member) == -scores[:, :, 0]).all()


def test_images_that_resemble_each_other_are_not_named_for_one_another() -> None:
    """What a model says of an image depends on which others it was trained on, not on the image itself."""
    small, named = [], 0
    for seed in range(12):
        effects = np.random.default_rng(seed).normal(size=(200, 200))
        np.fill_diagonal(effects, 0)
        member = balanced_halves(16, 200, seed)
        found = influence(member @ effects, member)
        small.append(found.p_value <= 0.01)
        named += bool(found.significant.any())
    assert np.mean(small) < 0.02  # 0.045 with halves in pairs
    assert named <= 4
