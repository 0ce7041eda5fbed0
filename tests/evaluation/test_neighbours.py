from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pareto_amb.errors import UserError
from pareto_amb.evaluation import neighbours
from pareto_amb.evaluation.neighbours import closest, most_similar, normalize


def brute_force(queries: torch.Tensor, bank: torch.Tensor, k: int, euclidean: bool) -> tuple[list, list]:
    """One pair at a time in float64; the best first, of equal ones the lowest row."""
    values, rows = [], []
    for query in queries.double().numpy():
        scores = []
        for image in bank.double().numpy():
            length = np.linalg.norm(query) * np.linalg.norm(image)
            cosine = float(query @ image / length) if length else 0.0
            scores.append(round(-np.linalg.norm(query - image) if euclidean else cosine, 12))
        order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]
        rows.append(order)
        values.append([abs(scores[row]) if euclidean else scores[row] for row in order])
    return values, rows


def check(queries: torch.Tensor, bank: torch.Tensor, k: int) -> None:
    for search in (most_similar, closest):
        values, rows = search(queries, bank, k)
        expected_values, expected_rows = brute_force(queries, bank, k, search is closest)
        assert values.dtype == torch.float64
        assert rows.dtype == torch.int64
        np.testing.assert_allclose(values, expected_values, rtol=0, atol=2e-12)
        assert rows.tolist() == expected_rows


@settings(deadline=None, max_examples=60)
@given(
    q=st.integers(1, 12), n=st.integers(1, 12), dim=st.integers(1, 6), k=st.integers(1, 4),
    block=st.sampled_from([1, 2, 5, 4096]), crowded=st.sampled_from([0, 16]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_brute_force_on_small_whole_numbers(q, n, dim, k, block, crowded, seed):
    """Small whole numbers give many ties, duplicates and rows of zeros."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randint(-1, 2, (q, dim), generator=generator).float()
    bank = torch.randint(-1, 2, (n, dim), generator=generator).float()
    with mock.patch.multiple(neighbours, _MAX_ROWS=block, _CROWDED=crowded, _GATHERED=3 * dim):
        check(queries, bank, min(k, n))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_differences_that_float32_products_cannot_tell(dtype):
    """20 rows around each query whose similarities to it differ by some 1e-8."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(5, 300, generator=generator, dtype=dtype) + 3
    direction = normalize(torch.randn(20, 300, generator=generator, dtype=dtype))
    spread = 0.05 * (torch.randperm(20, generator=generator) / 20 + 0.1).sqrt()[:, None].to(dtype)
    bank = (queries[:, None] + spread * direction).flatten(0, 1)
    check(queries, bank, 3)
    product = normalize(queries.float()) @ normalize(bank.float()).T
    wrong = product.argmax(1) != most_similar(queries, bank)[1][:, 0]
    assert wrong.any()  # the data is as hard as it is meant to be


def test_far_from_the_origin_distances_keep_their_digits():
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(200, 50, generator=generator) + 1000
    queries = bank[::4] + 0.01 * torch.randn(50, 50, generator=generator)
    check(queries, bank, 2)


def test_sets_full_of_equal_images():
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(3, 20, generator=generator)
    bank = few[torch.randint(3, (200,), generator=generator)]
    queries = torch.cat([bank[:50], few + 0.1, torch.zeros(2, 20)])
    with mock.patch.object(neighbours, "_winners", side_effect=neighbours._winners) as wide:
        check(queries, bank, 2)
        assert wide.called
    distance, _ = closest(bank, bank)
    assert distance.max() == 0


def test_no_product_is_larger_than_a_block():
    shapes = []

    def record(self, queries, bank, product=neighbours._Cosine.product):
        shapes.append((len(queries), len(bank)))
        return product(self, queries, bank)

    generator = torch.Generator().manual_seed(0)
    queries, bank = (torch.randn(n, 4, generator=generator) for n in (25, 42))
    with (
        mock.patch.object(neighbours, "_MAX_ROWS", 10),
        mock.patch.object(neighbours._Cosine, "product", record),
    ):
        most_similar(queries, bank)
    assert len(shapes) == 3 * 5
    assert np.max(shapes) == 10


def test_features_are_left_as_they_are():
    features = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)).double()
    before = features.clone()
    most_similar(features, features, 2)
    closest(features, features, 2)
    normalize(features)
    assert torch.equal(features, before)


def test_reduced_matrix_precision_does_not_change_the_answer():
    generator = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(40, 100, generator=generator), torch.randn(300, 100, generator=generator)
    torch.set_float32_matmul_precision("medium")
    try:
        check(queries, bank, 1)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("search", [most_similar, closest])
def test_unusable_features_are_refused(search):
    good, bad = torch.ones(3, 2), torch.tensor([[1.0, float("nan")]])
    for value in (float("nan"), float("inf")):
        bad[0, 1] = value
        for pair in ((good, bad), (bad, good)):
            with pytest.raises(UserError, match="NaN or infinity"):
                search(*pair)
    with pytest.raises(ValueError, match="4 nearest of 3 images"):
        search(good, good, 4)


def test_normalize():
    rows = normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]]))
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]]))
