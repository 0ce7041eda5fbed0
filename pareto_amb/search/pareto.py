"""Non-domination, ranks and hypervolume of rows of values, every column minimised."""

from bisect import bisect_left, bisect_right

import numpy as np
from numpy.typing import NDArray

Box = tuple[tuple[float, ...], tuple[float, ...]]
"""The lower and the upper end of each side."""


def non_dominated(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows no other row dominates, every column being minimised.

    `values` (n, m) finite; returns (n,). Row a dominates row b when it is nowhere larger and somewhere
    smaller; equal rows do not dominate each other. O(n log n) for two columns.
    """
    return np.asarray(front_numbers(values, 1) == 0)


def dominated_by(points: NDArray[np.float64], front: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of `points` (..., m) some row of `front` (f, m) dominates, every column being minimised: (...,).

    The rows of `front` do not dominate each other and are in lexicographic order. A point with NaN is
    dominated by nothing. O(log f) a point for two columns.
    """
    if not len(front):
        return np.zeros(points.shape[:-1], dtype=np.bool_)
    if front.shape[1] == 2:
        first, second = points[..., 0], points[..., 1]
        lowest = np.searchsorted(front[:, 0], first, side="right") - 1  # of those with no larger first value
        below = (lowest >= 0) & (front[lowest, 1] <= second) & ~np.isnan(first)
        return np.asarray(below & ((front[lowest, 0] < first) | (front[lowest, 1] < second)))
    points = points[..., None, :]
    return np.asarray(((front <= points).all(-1) & (front < points).any(-1)).any(-1))


def front_numbers(values: NDArray[np.float64], n_fronts: int | None = None) -> NDArray[np.int64]:
    """The front of each row of `values` (n, m), every column minimised: 0 is not dominated, 1 only by 0, ...

    With `n_fronts` only so many are told apart; the rows behind them have the number `n_fronts`.
    O(n log n) for two columns (Jensen 2003).
    """
    unique, inverse = _distinct_rows(values)
    in_order = {2: _fronts_2d, 3: _fronts_3d}.get(values.shape[1], _fronts_by_peeling)
    numbers = in_order(unique)
    return numbers[inverse] if n_fronts is None else np.minimum(numbers[inverse], n_fronts)


def _distinct_rows(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The distinct rows of `values` (n, m) in lexicographic order, and which of them each row is (n,).

    Several times as fast as np.unique(axis=0).
    """
    order = np.lexsort(values.T[::-1])
    ordered = values[order]
    is_new = np.ones(len(values), dtype=np.bool_)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    which = np.empty(len(values), dtype=np.int64)
    which[order] = np.cumsum(is_new) - 1
    return ordered[is_new], which


def _fronts_2d(unique: NDArray[np.float64]) -> NDArray[np.int64]:
    """For distinct rows (n, 2) in lexicographic order.

    A row belongs to the first front whose lowest second value so far is above its own; these lowest values
    never fall from one front to the next, so that bisection finds it.
    """
    lowest: list[float] = []
    numbers: list[int] = []
    for second in unique[:, 1].tolist():
        front = bisect_right(lowest, second)
        if front == len(lowest):
            lowest.append(second)
        else:
            lowest[front] = second
        numbers.append(front)
    return np.array(numbers, dtype=np.int64)


def _fronts_3d(unique: NDArray[np.float64]) -> NDArray[np.int64]:
    """For distinct rows (n, 3) in lexicographic order.

    As with two columns, but what a front has so far is a staircase: rising second, falling third values.
    """
    stairs: list[tuple[list[float], list[float]]] = []
    numbers: list[int] = []
    for _, y, z in unique.tolist():
        front = _first_free(stairs, y, z)
        if front == len(stairs):
            stairs.append(([], []))
        ys, zs = stairs[front]
        first = last = bisect_right(ys, y)
        while last < len(zs) and zs[last] >= z:
            last += 1
        ys[first:last], zs[first:last] = [y], [z]
        numbers.append(front)
    return np.array(numbers, dtype=np.int64)


def _first_free(stairs: list[tuple[list[float], list[float]]], y: float, z: float) -> int:
    """The first staircase none of whose steps is no higher than (y, z) in both values; they are nested."""

    def is_free(stair: tuple[list[float], list[float]]) -> bool:
        ys, zs = stair
        steps = bisect_right(ys, y)
        return steps == 0 or zs[steps - 1] > z

    return bisect_left(stairs, True, key=is_free)


def _fronts_by_peeling(unique: NDArray[np.float64]) -> NDArray[np.int64]:
    """For distinct rows (n, m) in lexicographic order: take the first front away, again and again."""
    numbers = np.full(len(unique), -1, dtype=np.int64)
    front = 0
    while (left := np.flatnonzero(numbers < 0)).size:
        numbers[left[_free_in_each(unique[None, left])[0]]] = front
        front += 1
    return numbers


def non_dominated_in_each(draws: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows of each of `draws` (k, n, m) no other row of the same draw dominates: (k, n).

    Equal rows must not occur.
    """
    order = np.lexsort(np.moveaxis(draws, -1, 0)[::-1], axis=-1)
    ordered = np.take_along_axis(draws, order[..., None], axis=-2)
    free = _free_in_each_2d(ordered) if draws.shape[-1] == 2 else _free_in_each(ordered)
    result = np.empty_like(free)
    np.put_along_axis(result, order, free, axis=-1)
    return result


def _free_in_each_2d(ordered: NDArray[np.float64]) -> NDArray[np.bool_]:
    """For draws (k, n, 2) in lexicographic order: an earlier, no higher second value dominates a row."""
    second = ordered[..., 1]
    free = np.ones(second.shape, dtype=np.bool_)
    free[:, 1:] = second[:, 1:] < np.minimum.accumulate(second, axis=-1)[:, :-1]
    return free


def _free_in_each(ordered: NDArray[np.float64]) -> NDArray[np.bool_]:
    """For draws (k, n, m) in lexicographic order: the first row left is free, what it dominates drops out."""
    draw = np.arange(len(ordered))
    left = np.ones(ordered.shape[:2], dtype=np.bool_)
    free = np.zeros_like(left)
    while left.any():
        first = left.argmax(axis=1)
        free[draw, first] |= left[draw, first]
        left &= (ordered < ordered[draw, first][:, None]).any(axis=-1)
    return free


def crowding_distance(
    values: NDArray[np.float64], fronts: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """How far each row of `values` (n, m) is from its neighbours in its front: (n,), infinite at the ends.

    The sum over columns of the gap between the neighbours on either side, as a share of the column's range
    in the front (Deb et al. 2002, NSGA-II). `fronts` (n,) from 0 on, by default one for all.
    """
    n = len(values)
    fronts = np.zeros(n, dtype=np.int64) if fronts is None else fronts
    distance = np.zeros(n)
    for column in values.T:
        order = np.lexsort((column, fronts))
        x, front = column[order], fronts[order]
        first, last = np.flatnonzero(np.diff(front, prepend=-1)), np.flatnonzero(np.diff(front, append=-1))
        span = np.repeat(x[last] - x[first], last - first + 1)
        gap = np.zeros(n)
        gap[1:-1] = x[2:] - x[:-2]
        share = np.divide(gap, span, out=np.zeros(n), where=span > 0)
        share[first] = share[last] = np.inf
        distance[order] += share
    return distance


def best_first(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The rows of `values` (n, m) from best to worst: by front, then by spread within the front."""
    fronts = front_numbers(values)
    return np.lexsort((-crowding_distance(values, fronts), fronts))


def hypervolume(values: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """The volume that the rows of `values` (n, m) dominate below `reference` (m,), every column minimised.

    An area for two columns; with more, slices of constant last value, each a volume of one column less.
    """
    inside = values[(values < reference).all(axis=1)]
    front = np.unique(inside[non_dominated(inside)], axis=0)  # by rising first, falling second value
    if front.shape[1] == 2:
        heights = np.concatenate([reference[1:], front[:-1, 1]]) - front[:, 1]
        return float(((reference[0] - front[:, 0]) * heights).sum())
    front = front[np.argsort(front[:, -1], kind="stable")]
    depths = np.diff(front[:, -1], append=reference[-1]).tolist()
    slices = (
        depth * hypervolume(front[:count, :-1], reference[:-1])
        for count, depth in enumerate(depths, start=1)
        if depth > 0
    )
    return float(sum(slices))


def hypervolume_growth(front: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much the volume below (1, 1, ...) grows when a point joins `front`: (...,) of `points` (..., m).

    `front` (f, m) holds distinct non-dominated rows in lexicographic order, all below 1.
    """
    lower, upper = _free_boxes(front)
    volume: NDArray[np.float64] | float = 1.0
    for k in range(front.shape[1]):
        start = points[..., k : k + 1]
        if np.isfinite(lower[:, k]).any():
            start = np.maximum(lower[:, k], start)
        side = upper[:, k] - start
        np.maximum(side, 0.0, out=side)
        volume = np.multiply(volume, side, out=side)
    return np.asarray(np.sum(volume, axis=-1))


def front_below(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The distinct rows of `points` (n, m) below (1, 1, ...) that no other dominates, in order: (f, m)."""
    inside = points[(points < 1).all(axis=1)]
    return np.unique(inside[non_dominated(inside)], axis=0)


def expected_growth(
    front: NDArray[np.float64],
    mean: NDArray[np.float64],
    deviation: NDArray[np.float64],
    rng: np.random.Generator,
    n_draws: int,
) -> NDArray[np.float64]:
    """Expected growth of the volume that a `front_below` (f, m) dominates below (1, 1, ...): (n,).

    By the best stopping point of each of n trainings, whose `mean` and `deviation` at every one are
    (n, R, m). What is drawn lies as far from its mean at every one, and not below 0. A NaN adds nothing.
    """
    noise = rng.standard_normal((n_draws, 1, 1, front.shape[1]))
    draws = np.maximum(mean + deviation * noise, 0.0)
    growth = hypervolume_growth(front, np.where(np.isnan(draws), 1.0, draws))
    return np.asarray(growth.max(axis=-1).mean(axis=0))


def _free_boxes(front: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where no row of `front` (f, m) dominates below 1: the ends (b, m) of boxes that do not overlap.

    Strips of the first value for two columns. With more, slabs of the last value; a box that is the same
    from one slab to the next is one box.
    """
    if front.shape[1] == 2:
        left, ceiling = np.insert(front[:, 0], 0, -np.inf), np.insert(front[:, 1], 0, 1.0)
        lower = np.stack([left, np.full(len(left), -np.inf)], axis=1)
        return lower, np.stack([np.append(front[:, 0], 1.0), ceiling], axis=1)
    since: dict[Box, float] = {}
    found: list[Box] = []
    for level in (-np.inf, *np.unique(front[:, -1]).tolist(), 1.0):
        boxes = _boxes_at(level, front) if level < 1.0 else {}
        found += [((*a, start), (*b, level)) for (a, b), start in since.items() if (a, b) not in boxes]
        since = {box: since.get(box, level) for box in boxes}
    lower, upper = (np.array(ends) for ends in zip(*found, strict=True))
    return lower, upper


def _boxes_at(level: float, front: NDArray[np.float64]) -> dict[Box, None]:
    """The free boxes of one column less in the slab above `level` of the last value."""
    rows = front[front[:, -1] <= level, :-1]
    lower, upper = _free_boxes(np.unique(rows[non_dominated(rows)], axis=0))
    return dict.fromkeys(zip(map(tuple, lower.tolist()), map(tuple, upper.tolist()), strict=True))
