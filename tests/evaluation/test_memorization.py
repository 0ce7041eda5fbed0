from unittest import mock

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pareto_amb.errors import UserError
from pareto_amb.evaluation import neighbours
from pareto_amb.evaluation.memorization import (
    authpct,
    c_t,
    calibrate_threshold,
    copied_training_images,
    copy_share,
    excess_copy_rate,
    l2_ratio,
    l2_ratio_share,
    nearest_neighbours,
    share_above,
)


def brute_force(queries: torch.Tensor, bank: torch.Tensor) -> tuple[list[float], list[int]]:
    """One pair at a time in float64, rows of zeros having similarity 0, the first maximum kept."""
    similarities, indices = [], []
    for query in queries.double().numpy():
        row = []
        for image in bank.double().numpy():
            length = np.linalg.norm(query) * np.linalg.norm(image)
            row.append(round(float(query @ image / length), 12) if length else 0.0)
        similarities.append(max(row))
        indices.append(row.index(max(row)))
    return similarities, indices


def check(queries: torch.Tensor, bank: torch.Tensor) -> None:
    similarity, index = nearest_neighbours(queries, bank)
    expected_similarity, expected_index = brute_force(queries, bank)
    assert similarity.dtype == torch.float32
    assert index.dtype == torch.int64
    np.testing.assert_allclose(similarity, expected_similarity, atol=1e-7)
    assert index.tolist() == expected_index


@settings(deadline=None, max_examples=40)
@given(
    q=st.integers(1, 12), n=st.integers(1, 12), dim=st.integers(1, 6),
    block=st.sampled_from([1, 2, 5, 4096]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_brute_force_on_small_whole_numbers(q, n, dim, block, seed):
    """Small whole numbers give many ties, duplicates and rows of zeros."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randint(-1, 2, (q, dim), generator=generator).float()
    bank = torch.randint(-1, 2, (n, dim), generator=generator).float()
    with mock.patch.object(neighbours, "_MAX_ROWS", block):
        check(queries, bank)


def test_duplicates_in_a_large_bank_go_to_the_first():
    bank = torch.randn(257, 700, generator=torch.Generator().manual_seed(0)).repeat(3, 1)
    for block in (64, 300, 4096):
        with mock.patch.object(neighbours, "_MAX_ROWS", block):
            similarity, index = nearest_neighbours(bank * 3.7, bank)
        assert index.tolist() == list(range(257)) * 3
        assert similarity.min() > 1 - 1e-6


def test_one_training_image_and_identical_sets():
    images = torch.rand(20, 9, generator=torch.Generator().manual_seed(0))
    check(images, images[:1])
    similarity, index = nearest_neighbours(images, images)
    assert index.tolist() == list(range(20))
    assert similarity.tolist() == [1.0] * 20


def test_opposite_vectors_and_an_empty_bank():
    similarity, index = nearest_neighbours(torch.tensor([[1.0, 0.0]]), torch.tensor([[-2.0, 0.0]]))
    assert (similarity.item(), index.item()) == (-1.0, 0)
    with pytest.raises(ValueError, match="1 nearest of 0 images"):
        nearest_neighbours(torch.ones(1, 2), torch.ones(0, 2))


def test_threshold_and_share():
    similarity = torch.arange(101) / 100
    assert calibrate_threshold(similarity, 0.5) == pytest.approx(0.5)
    assert calibrate_threshold(similarity[1:100], 0.99) == pytest.approx(0.99)
    assert calibrate_threshold(similarity[:10], 0.99) == pytest.approx(0.09)
    assert share_above(similarity, 0.5) == pytest.approx(50 / 101)
    assert share_above(torch.tensor([0.5]), 0.5) == 0  # strictly above
    assert np.isnan(share_above(torch.empty(0), 0.5))
    with pytest.raises(ValueError, match="no held-out images"):
        calibrate_threshold(torch.empty(0), 0.99)


@pytest.mark.parametrize("n", [99, 400])
def test_the_calibrated_threshold_is_exceeded_as_often_as_it_claims(n):
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(3000, n, generator=generator)
    thresholds = torch.tensor([calibrate_threshold(some, 0.99) for some in seen])
    exceeded = 1 - torch.special.ndtr(thresholds)
    assert float(exceeded.mean()) == pytest.approx(0.01, rel=0.08)


def test_a_tenth_of_exact_copies_is_reported_as_a_tenth():
    generator = torch.Generator().manual_seed(0)
    train, heldout = (torch.randn(n, 32, generator=generator) for n in (300, 1000))
    generated = torch.randn(2000, 32, generator=generator)
    copies = torch.randperm(2000, generator=generator)[:200]
    originals = torch.randint(0, 40, (200,), generator=generator)
    generated[copies] = train[originals]
    similarity, neighbour = nearest_neighbours(generated, train)
    heldout_similarity, _ = nearest_neighbours(heldout, train)
    threshold = calibrate_threshold(heldout_similarity, 0.999)
    share = copy_share(similarity, threshold)
    assert share.low <= 0.1 <= share.high
    assert share.high - share.low < 0.03
    excess = excess_copy_rate(similarity, heldout_similarity, threshold)
    assert excess.low <= 0.1 <= excess.high
    copied = copied_training_images(similarity[copies], neighbour[copies], threshold, 300)
    assert copied.counts.tolist() == torch.bincount(originals, minlength=300).tolist()
    assert copied.share.value == pytest.approx(len(originals.unique()) / 300)
    assert copied.most_copied == int(copied.counts.max()) > 5
    ratio = l2_ratio_share(l2_ratio(generated, train))
    assert ratio.low <= 0.1 <= ratio.high
    authentic = authpct(generated, train)
    assert authentic.value < 0.9
    assert c_t(generated, heldout, train).high < -1.96


def test_no_copies_and_no_heldout_images():
    similarity, neighbour = torch.tensor([0.5, 0.9]), torch.tensor([1, 2])
    copied = copied_training_images(similarity, neighbour, 0.9, 4)
    assert copied.counts.tolist() == [0, 0, 0, 0]
    assert (copied.share.value, copied.most_copied) == (0, 0)
    assert np.isnan(excess_copy_rate(similarity, torch.empty(0), 0.6).low)


def test_excess_over_images_just_as_close_is_none():
    similarity = torch.rand(400, generator=torch.Generator().manual_seed(0))
    excess = excess_copy_rate(similarity, similarity, 0.9)
    assert excess.value == 0
    assert excess.low < 0 < excess.high


@settings(deadline=None, max_examples=20)
@given(q=st.integers(1, 8), n=st.integers(2, 8), dim=st.integers(1, 4), seed=st.integers(0, 99))
def test_l2_ratio_and_authpct_by_brute_force(q, n, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    generated = torch.randint(-2, 3, (q, dim), generator=generator).float()
    train = torch.randint(-2, 3, (n, dim), generator=generator).float()
    ratios, authentic = [], []
    for image in generated.numpy():
        distances = [float(np.linalg.norm(image - other)) for other in train.numpy()]
        first, second = sorted(distances)[:2]
        ratios.append(first / second if second else 0.0)
        nearest = distances.index(first)
        others = np.linalg.norm(np.delete(train.numpy(), nearest, 0) - train[nearest].numpy(), axis=1)
        authentic.append(first > others.min() + 1e-9)
    np.testing.assert_allclose(l2_ratio(generated, train), ratios, atol=1e-12)
    assert authpct(generated, train).value == pytest.approx(np.mean(authentic))


def test_an_exact_copy_of_a_duplicated_training_image_has_ratio_zero():
    train = torch.tensor([[0.0, 1.0], [0.0, 1.0], [5.0, 5.0]])
    ratio = l2_ratio(torch.tensor([[0.0, 1.0], [2.0, 2.0]]), train)
    assert ratio.tolist() == [0.0, 1.0]
    assert l2_ratio_share(ratio).value == 0.5


def test_one_training_image():
    generated = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="l2 ratio needs at least 2 training images"):
        l2_ratio(generated, generated[:1])
    with pytest.raises(UserError, match="AuthPct needs at least 2 training images"):
        authpct(generated, generated[:1])
    assert np.isfinite(c_t(generated, generated + 1, generated[:1]).value)


def test_c_t_is_the_z_score_of_scipys_u():
    generator = torch.Generator().manual_seed(0)
    train = torch.randint(-2, 3, (30, 3), generator=generator).double()
    generated = torch.randint(-2, 3, (80, 3), generator=generator).double()
    heldout = torch.randint(-3, 4, (50, 3), generator=generator).double()
    distances = [torch.cdist(some, train).amin(1).numpy() for some in (generated, heldout)]
    u = scipy.stats.mannwhitneyu(*distances).statistic
    expected = (u - 80 * 50 / 2) / np.sqrt(80 * 50 * (80 + 50 + 1) / 12)
    found = c_t(generated, heldout, train)
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    assert found.value < 0  # the held-out images are spread wider
    with pytest.raises(UserError, match="at least 2 generated"):
        c_t(generated[:1], heldout, train)


def test_c_t_under_the_null_has_unit_spread_and_covers_zero():
    generator = torch.Generator().manual_seed(0)
    train = torch.randn(40, 2, generator=generator)
    found = [
        c_t(torch.randn(60, 2, generator=generator), torch.randn(90, 2, generator=generator), train)
        for _ in range(200)
    ]
    assert np.std([z.value for z in found]) == pytest.approx(1, abs=0.12)
    assert 0.9 <= np.mean([z.low <= 0 <= z.high for z in found]) <= 0.99
