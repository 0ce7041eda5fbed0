"""The nearest rows of a set, by matrix products in blocks, with the answer of float64.

The products are taken in float32. Their error is bounded, so every row that may be among the nearest
is known; only those few are compared again in float64.
"""

import torch
from torch import Tensor

from pareto_amb.errors import UserError

_MAX_ROWS = 4096  # of a block: memory is a block of each side and their product
_MAX_VALUES = 2**23  # of a block
_CROWDED = 16  # candidates a query and neighbour, above which a float64 product is cheaper
_GATHERED = 2**18  # values taken to float64 at once: they stay in the processor's cache


def block_rows(dim: int) -> int:
    """How many rows of length `dim` are compared at once."""
    return max(1, min(_MAX_ROWS, _MAX_VALUES // dim))


def normalize(features: Tensor) -> Tensor:
    """Scale each row of `features` (N, D) to length 1; zeros stay zeros. Keeps the dtype."""
    return features / _divisors(features)[:, None].to(features.dtype)


def most_similar(queries: Tensor, bank: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k rows of `bank` (N, D) with the highest cosine similarity to each row of `queries` (Q, D).

    Returns the similarities, float64 (Q, k) in [-1, 1] and falling, and the row numbers, int64
    (Q, k). Ties go to the lowest row number; a row of zeros has similarity 0 to everything.

    Raises ValueError when `bank` has fewer than k rows, UserError for features that are not finite.
    """
    similarity, index = _highest(_Cosine(queries, bank), k)
    return similarity.clamp(-1.0, 1.0), index


def closest(queries: Tensor, bank: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k rows of `bank` (N, D) at the smallest Euclidean distance from each row of `queries` (Q, D).

    Returns the distances, float64 (Q, k) and rising, exactly 0 for equal rows, and the row numbers,
    int64 (Q, k). Ties go to the lowest row number.

    Raises ValueError when `bank` has fewer than k rows, UserError for features that are not finite.
    """
    negative, index = _highest(_Euclidean(queries, bank), k)
    return (-negative).clamp(min=0.0).sqrt(), index


def row_lengths(features: Tensor) -> Tensor:
    """The lengths of the rows of `features` (N, D), float64 (N,).

    Raises UserError when a value is not finite.
    """
    pieces = torch.split(features, max(1, _GATHERED // features.shape[1]))
    length = torch.cat([piece.double().square().sum(1) for piece in pieces]).sqrt_()
    if not torch.isfinite(length).all():
        raise UserError("the features hold NaN or infinity: the encoder's weights are not usable")
    return length


def _divisors(features: Tensor) -> Tensor:
    """The lengths of the rows, 1 for those of zeros, or so short that float32 cannot hold the length."""
    length = row_lengths(features)
    return length.where(length > 1e-37, 1.0)


class _Cosine:
    """Cosine similarity: the product of rows of length 1."""

    tie = 1e-9  # equal images may have been rescaled, or stored in float32 after it

    def __init__(self, queries: Tensor, bank: Tensor) -> None:
        self.queries, self.bank = queries, bank
        self.query_length, self.bank_length = _divisors(queries), _divisors(bank)
        self.scale = torch.ones_like(self.query_length)

    def query_rows(self, part: slice, dtype: torch.dtype) -> Tensor:
        return self.queries[part].to(dtype) / self.query_length[part, None].to(dtype)

    def bank_rows(self, part: slice, dtype: torch.dtype) -> Tensor:
        return self.bank[part].to(dtype) / self.bank_length[part, None].to(dtype)

    def product(self, queries: Tensor, bank: Tensor) -> Tensor:
        return queries @ bank.T

    def exact(self, row: Tensor, column: Tensor) -> Tensor:
        products = self.queries[row].double().mul_(self.bank[column].double())
        return products.sum(1) / (self.query_length[row] * self.bank_length[column])


class _Euclidean:
    """Minus the squared distance; the products are of rows from which the mean of the bank is taken."""

    tie = 1e-12  # the error of a float64 product; squared differences keep all their digits

    def __init__(self, queries: Tensor, bank: Tensor) -> None:
        self.queries, self.bank = queries, bank
        self.mean = bank.mean(0)
        self.scale = self._squared_lengths(queries) + self._squared_lengths(bank).max()

    def _squared_lengths(self, features: Tensor) -> Tensor:
        blocks = torch.split(features, block_rows(features.shape[1]))
        return torch.cat([row_lengths(block - self.mean).square() for block in blocks])

    def query_rows(self, part: slice, dtype: torch.dtype) -> Tensor:
        return self._centred(self.queries[part], dtype)

    def bank_rows(self, part: slice, dtype: torch.dtype) -> Tensor:
        return self._centred(self.bank[part], dtype)

    def _centred(self, features: Tensor, dtype: torch.dtype) -> Tensor:
        """Rounded after the mean is taken, not before: on the scale of what is left."""
        return (features.to(torch.promote_types(features.dtype, dtype)) - self.mean).to(dtype)

    def product(self, queries: Tensor, bank: Tensor) -> Tensor:
        product = torch.addmm(bank.square().sum(1), queries, bank.T, alpha=2.0, beta=-1.0)
        return product.sub_(queries.square().sum(1, keepdim=True))

    def exact(self, row: Tensor, column: Tensor) -> Tensor:
        return -self.queries[row].double().sub_(self.bank[column].double()).square_().sum(1)


_Space = _Cosine | _Euclidean


def _highest(space: _Space, k: int) -> tuple[Tensor, Tensor]:
    """The k highest scores of each query, falling, and their rows: float64 and int64 (Q, k)."""
    if len(space.bank) < k:
        raise ValueError(f"{k} nearest of {len(space.bank)} images cannot be had")
    best = torch.full((len(space.queries), k), -torch.inf, dtype=torch.float64, device=space.queries.device)
    index = torch.zeros(best.shape, dtype=torch.int64, device=best.device)
    fast = torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64
    step = block_rows(space.bank.shape[1])
    for start in range(0, len(space.bank), step):
        others = slice(start, start + step)
        bank = space.bank_rows(others, fast)
        for first in range(0, len(space.queries), step):
            part = slice(first, first + step)
            scale = space.scale[part]
            product = space.product(space.query_rows(part, fast), bank)
            row, column = _candidates(product, best[part, -1], _rounding(bank) * scale, space.tie * scale, k)
            if len(row) > _CROWDED * k * len(scale):
                row, column = _winners(space, part, others, k)
            scores, columns = _by_query(space, row, column, first, start, len(scale))
            scores = torch.cat([best[part], scores], dim=1)
            columns = torch.cat([index[part], columns], dim=1)
            best[part], places = _pick(scores, k, space.tie * scale)
            index[part] = columns.gather(1, places)
    return best, index


def _rounding(rows: Tensor) -> float:
    """How far a product of `rows` (N, D) may be off, on the scale of their squared lengths.

    In a type with unit roundoff u a sum of D products is off by at most D·u (Higham 2002, §3.1);
    rounding the rows and adding their squared lengths adds less than 8·u.
    """
    return (rows.shape[1] + 8) * torch.finfo(rows.dtype).eps / 2


def _candidates(product: Tensor, known: Tensor, error: Tensor, tie: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The pairs that may be among the k best: rows and columns (P,) of `product` (Q, N).

    `known` (Q,) is the k-th best score of earlier blocks; `product` is off by at most `error` (Q,).
    """
    floor = known - error
    if product.shape[1] >= k:
        kth = product.amax(1) if k == 1 else product.topk(k).values[:, -1]
        floor = torch.maximum(floor, kth.double() - 2 * error)
    row, column = (product >= (floor - tie)[:, None].to(product.dtype)).nonzero(as_tuple=True)
    return row, column


def _winners(space: _Space, part: slice, others: slice, k: int) -> tuple[Tensor, Tensor]:
    """The k best pairs of each query in one block by a product in float64: rows and columns (P,).

    For sets so full of nearly equal images that float32 leaves too many candidates.
    """
    product = space.product(space.query_rows(part, torch.float64), space.bank_rows(others, torch.float64))
    k = min(k, product.shape[1])
    column = _pick(product, k, space.tie * space.scale[part])[1].flatten()
    return torch.arange(len(product), device=column.device).repeat_interleave(k), column


def _by_query(
    space: _Space, row: Tensor, column: Tensor, first: int, start: int, n: int
) -> tuple[Tensor, Tensor]:
    """Exact scores and bank rows of pairs (P,) sorted by query: (n, C) each, filled up with -inf.

    `row` counts from query `first`, `column` from row `start` of the bank.
    """
    at_once = max(1, _GATHERED // space.bank.shape[1])
    pairs = zip(torch.split(row + first, at_once), torch.split(column + start, at_once), strict=True)
    exact = torch.cat([space.exact(*some) for some in pairs])
    counts = torch.bincount(row, minlength=n)
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    scores = torch.full((n, int(counts.max())), -torch.inf, dtype=exact.dtype, device=row.device)
    columns = torch.zeros(scores.shape, dtype=torch.int64, device=row.device)
    scores[row, place], columns[row, place] = exact, column + start
    return scores, columns


def _pick(scores: Tensor, k: int, tie: Tensor) -> tuple[Tensor, Tensor]:
    """The k highest of `scores` (Q, C) and their places, the first of those within `tie` (Q,)."""
    left = scores.clone()
    values, places = [], []
    for _ in range(k):
        place = (left >= (left.amax(1) - tie)[:, None]).byte().argmax(1, keepdim=True)
        values.append(left.gather(1, place))
        places.append(place)
        left.scatter_(1, place, -torch.inf)
    return torch.cat(values, dim=1), torch.cat(places, dim=1)
