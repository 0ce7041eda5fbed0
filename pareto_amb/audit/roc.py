"""How good an attack is: its ROC, rates at a fixed false-positive rate, and the privacy that they rule out.

`statistic`, float (m, n), is an attack's answer for each of m models and n images, high for members;
`member`, bool (m, n), is the truth.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pareto_amb.evaluation.intervals import Estimate, clopper_pearson

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_POINTS = 500
_CANDIDATES = 1000
"""Thresholds tried for the bound on epsilon, at most, counted from either end of the ROC."""


@dataclass(frozen=True, eq=False)
class Roc:
    """Every threshold of an attack: those at or above it are called members.

    `thresholds` fall, from infinity on; `false_positives` and `true_positives`, counts of the same length,
    rise to `n_others` and `n_members`.
    """

    thresholds: Floats
    false_positives: NDArray[np.int64]
    true_positives: NDArray[np.int64]

    @property
    def n_others(self) -> int:
        return int(self.false_positives[-1])

    @property
    def n_members(self) -> int:
        return int(self.true_positives[-1])

    @property
    def fpr(self) -> Floats:
        """The share of non-members that are called members."""
        return self.false_positives / self.n_others

    @property
    def tpr(self) -> Floats:
        """The share of members that are called members."""
        return self.true_positives / self.n_members


def roc(statistic: Floats, member: Mask) -> Roc:
    """The ROC over all models and images together; equal numbers are one threshold."""
    values, truth = statistic.ravel(), member.ravel()
    order = np.argsort(-values, kind="stable")
    values, truth = values[order], truth[order]
    last = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    hits = np.cumsum(truth)[last]
    return Roc(
        thresholds=np.concatenate([[np.inf], values[last]]),
        false_positives=np.concatenate([[0], last + 1 - hits]),
        true_positives=np.concatenate([[0], hits]),
    )


def thinned(found: Roc) -> NDArray[np.int64]:
    """Positions of a ROC, rising, that show it on linear and on logarithmic axes."""
    last = len(found.thresholds) - 1
    if last <= _POINTS:
        return np.arange(last + 1)
    spread = np.geomspace(1, last, _POINTS // 2).round().astype(np.int64)
    even = np.linspace(0, last, _POINTS // 2).astype(np.int64)
    return np.unique(np.concatenate([spread, last - spread + 1, even]))


def auc(statistic: Floats, member: Mask) -> Estimate:
    """The area under the ROC: how often a member has the higher number than a non-member, ties half.

    The 95% interval allows for scores that hang together within a model, as those of images trained on
    together do, and within an image, whose models are attacked with each other's help: two-way clusters
    (Cameron, Gelbach and Miller 2011) of what each model and image adds to the area, with Student's t of
    m - 1 degrees of freedom. Where no member ever has the lower number, it is a point.
    """
    inside, outside = np.sort(statistic[member]), np.sort(statistic[~member])
    placed = np.where(member, _share_below(statistic, outside), 1 - _share_below(statistic, inside))
    area = float(placed[member].mean())
    parts = (placed - area) / np.where(member, len(inside), len(outside))
    m, n = member.shape
    by_model, by_image = (np.square(parts.sum(axis=axis)).sum() for axis in (1, 0))
    variance = by_model * m / (m - 1) + by_image * n / max(n - 1, 1) - np.square(parts).sum()
    reach = float(stats.t.ppf(0.975, m - 1)) * math.sqrt(max(variance, by_model))
    return Estimate(area, max(area - reach, 0.0), min(area + reach, 1.0))


def _share_below(values: Floats, ordered: Floats) -> Floats:
    """For each of `values` the share of `ordered` that is below it, equal ones counting half."""
    below, up_to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return np.asarray((below + up_to) / (2 * len(ordered)))


def tpr_at(found: Roc, fpr: float) -> Estimate:
    """The highest true-positive rate at a false-positive rate of at most `fpr`.

    The interval is Clopper and Pearson's, 95%, at that threshold: it counts each model and image as one
    independent trial. It covers neither that the threshold was chosen on the same scores, nor that the images
    of one model were trained on together.
    """
    at = int(np.searchsorted(found.fpr, fpr, "right")) - 1
    hits = found.true_positives[at]
    low, high = clopper_pearson(hits, found.n_members)
    return Estimate(float(hits / found.n_members), float(low), float(high))


@dataclass(frozen=True)
class EpsilonBound:
    """Trainings that are (epsilon, delta)-differentially private with epsilon below `value` are ruled out.

    At `confidence`, and at this `delta`. A lower bound: a better attack may show a larger epsilon. `tpr` and
    `fpr` are the rates that it rests on, with their intervals.
    """

    value: float
    delta: float
    confidence: float
    tpr: Estimate
    fpr: Estimate


def epsilon_bound(
    statistic: Floats, member: Mask, delta: float = 1e-5, confidence: float = 0.95
) -> EpsilonBound:
    """The empirical lower bound on epsilon that an attack's rates imply.

    (epsilon, delta)-differential privacy has tpr <= e^epsilon fpr + delta, and the same of 1 - fpr and
    1 - tpr. Both are held against the pessimistic ends of Clopper-Pearson intervals, which together have the
    `confidence`. The threshold is that which serves best on the first half of the models; the rates are those
    on the second half, so that choosing it does not bias them. Each model and image counts as one independent
    trial, as in `tpr_at`.
    """
    half = len(member) // 2
    chosen = _best_threshold(roc(statistic[:half], member[:half]), delta, confidence)
    called, truth = statistic[half:] >= chosen, member[half:]
    hits, misses = int((called & truth).sum()), int((called & ~truth).sum())
    n_members, n_others = int(truth.sum()), int((~truth).sum())
    value = float(_bounds(np.array([hits]), n_members, np.array([misses]), n_others, delta, confidence)[0])
    tpr, fpr = (
        Estimate(count / n, *(float(end) for end in clopper_pearson(count, n, _each(confidence))))
        for count, n in ((hits, n_members), (misses, n_others))
    )
    return EpsilonBound(value, delta, confidence, tpr, fpr)


def _best_threshold(found: Roc, delta: float, confidence: float) -> float:
    last = len(found.thresholds) - 1
    if last > _CANDIDATES:
        steps = np.geomspace(1, last, _CANDIDATES // 2).astype(np.int64)
        tried = np.unique(np.concatenate([steps, last + 1 - steps]))
    else:
        tried = np.arange(last + 1)
    bounds = _bounds(
        found.true_positives[tried],
        found.n_members,
        found.false_positives[tried],
        found.n_others,
        delta,
        confidence,
    )
    return float(found.thresholds[tried[int(np.argmax(bounds))]])


def _bounds(
    hits: NDArray[np.int64],
    n_members: int,
    misses: NDArray[np.int64],
    n_others: int,
    delta: float,
    confidence: float,
) -> Floats:
    """The bound at each of several thresholds, none below 0."""
    tpr_low, _ = clopper_pearson(hits, n_members, _each(confidence))
    _, fpr_high = clopper_pearson(misses, n_others, _each(confidence))
    with np.errstate(divide="ignore"):
        called = np.log(np.maximum(tpr_low - delta, 0)) - np.log(fpr_high)
        cleared = np.log(np.maximum(1 - fpr_high - delta, 0)) - np.log(1 - tpr_low)
    return np.asarray(np.maximum(np.maximum(called, cleared), 0))


def _each(confidence: float) -> float:
    """The confidence of each of two intervals that hold together with `confidence` (Bonferroni)."""
    return 1 - (1 - confidence) / 2
