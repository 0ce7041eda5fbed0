"""What training on an image changes about it: memorization after Feldman and Zhang (2020).

`member`, bool (m, n), says which of m models was trained on which of n images; `values`, float (m, n), what
was measured of the image under the model, high for memorized ones: the copies of it among the model's
samples, or minus its denoising error.
"""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from pareto_amb.audit.membership import standardised
from pareto_amb.randomness import derive_seed

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

FALSE_DISCOVERY_RATE = 0.05
"""Of the images that are named, this share is there by chance, at most, on average."""

ARRANGEMENTS = 20_000
"""All of so many ways to choose the models are gone through; of more, so many are drawn."""

_AT_ONCE = 4_000_000
_SAME = 1e-9
"""Sums that differ by this share of the largest are equal but for rounding."""


@dataclass(frozen=True, eq=False)
class Influence:
    """Of each image, (n,): `mem`, its standard error, the p-value of mem > 0, and if it is `significant`.

    `smallest_p` is the smallest p-value that so many models can give.
    """

    mem: Floats
    standard_error: Floats
    p_value: Floats
    significant: Mask
    smallest_p: float


def influence(values: Floats, member: Mask, rate: float = FALSE_DISCOVERY_RATE, seed: int = 0) -> Influence:
    """mem(i) = mean of `values` over models trained on i minus mean over the others (Feldman and Zhang 2020).

    Averaged over balanced halves it is the generalization gap. The standard error is that of a difference of
    two means. The p-value is that of a randomization test: how many of the ways to choose as many of the
    models give as large a difference. That holds for any values, as long as the models of an image were drawn
    without regard to those of the others: not where models come in pairs of which the second is trained on
    what the first is not, and images resemble each other. Significant are images by Benjamini and Hochberg
    (1995) at the false-discovery `rate`. Holm's correction, which allows no false name at all, could name
    nobody in a set of some hundred images: the p-values of 16 models do not become small enough.

    Needs for each image at least two models of either kind.
    """
    scale = np.maximum(np.abs(values).max(axis=0), np.finfo(np.float64).tiny)
    scaled = values / scale
    inside, outside = _mean_and_error(scaled, member), _mean_and_error(scaled, ~member)
    p_value, smallest = _p_values(scaled, member, seed)
    return Influence(
        mem=(inside[0] - outside[0]) * scale,
        standard_error=np.sqrt(inside[1] + outside[1]) * scale,
        p_value=p_value,
        significant=false_discovery_control(p_value) <= rate,
        smallest_p=smallest,
    )


def combined(scores: Floats, member: Mask) -> Floats:
    """One value for each model and image, (m, n), high for members, of `scores` (m, n, d), low for them.

    Of a single score that is minus the score. Several are each divided by their standard deviation over
    models, within images and kinds of models, and averaged.
    """
    if scores.shape[2] == 1:
        return np.asarray(-scores[:, :, 0])
    x = standardised(scores)
    noise = np.sqrt(np.mean([_variance(x, member), _variance(x, ~member)], axis=(0, 1)))
    return np.asarray(-(x / np.where(noise > _SAME, noise, 1.0)).mean(axis=2))


def _variance(x: Floats, mask: Mask) -> Floats:
    """Of each image and score over the models of `mask`: (n, d)."""
    count = mask.sum(axis=0)[:, None]
    mean = np.einsum("mn,mnd->nd", mask, x) / count
    return np.asarray(np.einsum("mn,mnd->nd", mask, np.square(x - mean)) / (count - 1))


def _mean_and_error(values: Floats, mask: Mask) -> tuple[Floats, Floats]:
    """The mean of each image over the models of `mask`, and the squared standard error of it."""
    count = mask.sum(axis=0)
    return (values * mask).sum(axis=0) / count, _variance(values[:, :, None], mask)[:, 0] / count


def _p_values(values: Floats, member: Mask, seed: int) -> tuple[Floats, float]:
    """The one-sided p-value of each image (n,), and the smallest possible one."""
    found, smallest = np.ones(values.shape[1]), 1.0
    counts = member.sum(axis=0)
    for count in np.unique(counts):
        images = np.flatnonzero(counts == count)
        ways, drawn = _arrangements(len(member), int(count), seed)
        step = max(1, _AT_ONCE // len(ways))
        for part in (images[start : start + step] for start in range(0, len(images), step)):
            observed = (values[:, part] * member[:, part]).sum(axis=0)
            margin = _SAME * np.abs(values[:, part]).sum(axis=0)
            found[part] = (ways @ values[:, part] >= observed - margin).sum(axis=0)
        found[images] = (found[images] + drawn) / (len(ways) + drawn)
        smallest = min(smallest, 1 / (len(ways) + drawn))
    return found, smallest


def _arrangements(m: int, count: int, seed: int) -> tuple[Floats, bool]:
    """Ways to choose `count` of `m` models, (P, m) of 0 and 1: all of them, or so many that were drawn.

    Drawn ones do not hold the way that was observed, which is to be counted beside them.
    """
    if comb(m, count) <= ARRANGEMENTS:
        ways = np.zeros((comb(m, count), m))
        chosen = np.array(list(combinations(range(m), count)), dtype=np.int64)
        np.put_along_axis(ways, chosen, 1.0, axis=1)
        return ways, False
    generator = np.random.default_rng(derive_seed(seed, f"audit arrangements/{m}/{count}"))
    order = generator.random((ARRANGEMENTS, m)).argsort(axis=1)
    return (order < count).astype(np.float64), True
