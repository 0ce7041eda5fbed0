"""The nearest rows of a set, by matrix products in blocks, with the answer of float64.

The products are taken in float32. Their error is bounded, so every row that may be among the nearest
is known; only those few are compared again in float64.
"""

import torch
from torch import Tensor

from pareto_amb.errors import UserError

BLOCK = 4096  # rows a block: memory is a block of each side and their product

_TIE = 1e-9  # similarities, and squared distances on the scale of the features, that count as equal
_CROWDED = 8  # candidates a query and neighbour, above which a float64 product is cheaper
_GATHERED = 2**22  # values of a set gathered at once for the comparison in float64


def require_finite(features: Tensor) -> None:
    """Raise UserError when `features` (N, D) hold a value that is not finite."""
    if not all(bool(torch.isfinite(block).all()) for block in torch.split(features, BLOCK)):
        raise UserError("the features hold NaN or infinity: the encoder's weights are not usable")


def normalize(features: Tensor) -> Tensor:
    """Scale each row of `features` (N, D) to length 1; zeros stay zeros. Keeps the dtype."""
    length = features.double().norm(dim=1, keepdim=True)
    return (features.double() / torch.where(length > 0, length, 1.0)).to(features.dtype)


def most_similar(queries: Tensor, bank: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k rows of `bank` (N, D) with the highest cosine similarity to each row of `queries` (Q, D).

    Returns the similarities, float64 (Q, k) in [-1, 1] and falling, and the row numbers, int64
    (Q, k). Ties go to the lowest row number; a row of zeros has similarity 0 to everything.

    Raises ValueError when `bank` has fewer than k rows, UserError for features that are not finite.
    """
    similarity, index = _highest(queries, bank, k, _Cosine())
    return similarity.clamp(-1.0, 1.0), index


def closest(queries: Tensor, bank: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k rows of `bank` (N, D) at the smallest Euclidean distance from each row of `queries` (Q, D).

    Returns the distances, float64 (Q, k) and rising, exactly 0 for equal rows, and the row numbers,
    int64 (Q, k). Ties go to the lowest row number.

    Raises ValueError when `bank` has fewer than k rows, UserError for features that are not finite.
    """
    negative, index = _highest(queries, bank, k, _Euclidean(bank))
    return (-negative).clamp(min=0.0).sqrt(), index


class _Cosine:
    """Cosine similarity: the product of rows of length 1."""

    tie = _TIE

    def rows(self, features: Tensor) -> Tensor:
        return normalize(features.double())

    def scale(self, queries: Tensor) -> Tensor:
        return torch.ones(len(queries), dtype=queries.dtype, device=queries.device)

    def product(self, queries: Tensor, bank: Tensor) -> Tensor:
        return queries @ bank.T

    def exact(self, queries: Tensor, bank: Tensor) -> Tensor:
        return (queries * bank).sum(1)


class _Euclidean:
    """Minus the squared distance, of rows from which the mean of the bank is taken."""

    tie = 1e-12  # squared differences keep all their digits: only rounding makes ties here

    def __init__(self, bank: Tensor) -> None:
        self.mean = bank.mean(0, dtype=torch.float64)
        squared = [self.rows(block).square().sum(1).max() for block in torch.split(bank, BLOCK)]
        self.largest = torch.stack(squared).max()

    def rows(self, features: Tensor) -> Tensor:
        return features.double() - self.mean

    def scale(self, queries: Tensor) -> Tensor:
        return queries.square().sum(1) + self.largest

    def product(self, queries: Tensor, bank: Tensor) -> Tensor:
        product = torch.addmm(-bank.square().sum(1), queries, bank.T, alpha=2.0)
        return product.sub_(queries.square().sum(1, keepdim=True))

    def exact(self, queries: Tensor, bank: Tensor) -> Tensor:
        return -(queries - bank).square_().sum(1)


def _highest(queries: Tensor, bank: Tensor, k: int, space: _Cosine | _Euclidean) -> tuple[Tensor, Tensor]:
    """The k highest scores of each query, falling, and their rows: float64 and int64 (Q, k)."""
    if len(bank) < k:
        raise ValueError(f"{k} nearest of {len(bank)} images cannot be had")
    require_finite(queries)
    require_finite(bank)
    best = torch.full((len(queries), k), -torch.inf, dtype=torch.float64, device=queries.device)
    index = torch.zeros((len(queries), k), dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), BLOCK):
        block = space.rows(bank[start : start + BLOCK])
        for first in range(0, len(queries), BLOCK):
            part = slice(first, first + BLOCK)
            rows = space.rows(queries[part])
            scores, columns = _candidates(rows, block, best[part, -1], k, space)
            scores = torch.cat([best[part], scores], dim=1)
            columns = torch.cat([index[part], columns + start], dim=1)
            best[part], places = _pick(scores, k, space.tie * space.scale(rows))
            index[part] = columns.gather(1, places)
    return best, index


def _candidates(
    queries: Tensor, bank: Tensor, known: Tensor, k: int, space: _Cosine | _Euclidean
) -> tuple[Tensor, Tensor]:
    """Scores and rows of all `bank` (N, D) that may be among the k best: float64, int64 (Q, C).

    `known` (Q,) is the k-th best score so far. Where there are fewer than C candidates the score is
    -inf. A product of length D in a floating-point type with unit roundoff u is off by at most
    (D + 8)·u on the scale of the rows, rounding them included.
    """
    fast = torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64
    product = space.product(queries.to(fast), bank.to(fast))
    scale = space.scale(queries)
    error = (queries.shape[1] + 8) * torch.finfo(fast).eps / 2 * scale
    kth = product.topk(min(k, len(bank))).values[:, -1].double() if k > 1 else product.amax(1).double()
    if k > len(bank):
        kth = torch.full_like(kth, -torch.inf)
    floor = torch.maximum(kth - 2 * error, known - error) - space.tie * scale
    near = product >= floor[:, None]
    row, column = near.nonzero(as_tuple=True)
    if len(row) > _CROWDED * max(k, 2) * len(queries):
        wide = space.product(queries, bank)
        column = _pick(wide, min(k, len(bank)), space.tie * scale)[1].flatten()
        row = torch.arange(len(queries), device=row.device).repeat_interleave(len(column) // len(queries))
    return _by_query(row, column, _exact(queries, bank, row, column, space), len(queries))


def _exact(queries: Tensor, bank: Tensor, row: Tensor, column: Tensor, space: _Cosine | _Euclidean) -> Tensor:
    """The scores (P,) of the pairs given by number, in float64."""
    at_once = max(1, _GATHERED // queries.shape[1])
    pairs = zip(torch.split(row, at_once), torch.split(column, at_once), strict=True)
    parts = [space.exact(queries[some], bank[others]) for some, others in pairs]
    return torch.cat(parts) if parts else queries.new_empty(0)


def _by_query(row: Tensor, column: Tensor, score: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Pairs sorted by row, as a table with one line a query, filled up with -inf: (n, C) each."""
    counts = torch.bincount(row, minlength=n)
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    width = int(counts.max())
    scores = torch.full((n, width), -torch.inf, dtype=score.dtype, device=row.device)
    columns = torch.zeros((n, width), dtype=torch.int64, device=row.device)
    scores[row, place], columns[row, place] = score, column
    return scores, columns


def _pick(scores: Tensor, k: int, tie: Tensor) -> tuple[Tensor, Tensor]:
    """The k highest of `scores` (Q, C) and their places, the first of those within `tie` (Q,)."""
    left = scores.clone() if k > 1 else scores
    values, places = [], []
    for _ in range(k):
        place = (left >= (left.amax(1) - tie)[:, None]).byte().argmax(1, keepdim=True)
        values.append(scores.gather(1, place))
        places.append(place)
        if k > 1:
            left.scatter_(1, place, -torch.inf)
    return torch.cat(values, dim=1), torch.cat(places, dim=1)
