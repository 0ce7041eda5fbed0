from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pareto_amb.evaluation import neighbours
from pareto_amb.evaluation.memorization import (
    calibrate_threshold,
    nearest_neighbours,
    share_above,
)
from pareto_amb.evaluation.neighbours import normalize


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
    with mock.patch.object(neighbours, "BLOCK", block):
        check(queries, bank)


def test_duplicates_in_a_large_bank_go_to_the_first():
    bank = torch.randn(257, 700, generator=torch.Generator().manual_seed(0)).repeat(3, 1)
    for block in (64, 300, 4096):
        with mock.patch.object(neighbours, "BLOCK", block):
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


def test_normalize():
    rows = normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]]))
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]]))


def test_threshold_and_share():
    similarity = torch.arange(101) / 100
    assert calibrate_threshold(similarity, 0.99) == pytest.approx(0.99)
    assert share_above(similarity, 0.5) == pytest.approx(50 / 101)
    assert share_above(torch.tensor([0.5]), 0.5) == 0  # strictly above
    assert np.isnan(share_above(torch.empty(0), 0.5))
    with pytest.raises(ValueError, match="no held-out images"):
        calibrate_threshold(torch.empty(0), 0.99)
