"""An audit: scores of models that were, and were not, trained on each image, and what follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pareto_amb.audit.influence import FALSE_DISCOVERY_RATE, Influence, combined, influence
from pareto_amb.audit.membership import global_threshold, likelihood_ratio, out_only
from pareto_amb.audit.roc import EpsilonBound, Roc, auc, epsilon_bound, roc, tpr_at
from pareto_amb.errors import UserError
from pareto_amb.evaluation.gate import Answer
from pareto_amb.evaluation.intervals import Estimate

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

RATES = (0.001, 0.01)
"""False-positive rates at which an attack's true-positive rate is reported."""

ATTACKS = {
    "likelihood_ratio": ("LiRA, online", likelihood_ratio),
    "out_only": ("LiRA, offline", out_only),
    "global_threshold": ("One threshold", global_threshold),
}
"""By key: what an attack is called, and its function. The first is the one that an audit is judged by."""

LOWER_BOUND = (
    "Epsilon is a lower bound that an attack shows, no guarantee: a better attack may show a larger one, and "
    "nothing here bounds it from above. Its confidence takes each image of each model for a trial of its "
    "own, although they share models and images."
)


@dataclass(frozen=True, eq=False)
class Scores:
    """What m models say of n images: `values` (m, n, d) of d scores, low for members, and `member` (m, n).

    `images` names the images, `files` where they come from, empty where that is not known, `names` the
    scores.
    """

    images: tuple[str, ...]
    files: tuple[str, ...]
    names: tuple[str, ...]
    values: Floats
    member: Mask


@dataclass(frozen=True, eq=False)
class Attack:
    """How good one attack is. `statistic` (m, n) is its answer; `tpr` has a rate for each of RATES."""

    key: str
    statistic: Floats
    roc: Roc
    auc: Estimate
    tpr: Mapping[float, Estimate]
    epsilon: EpsilonBound

    @property
    def title(self) -> str:
        return ATTACKS[self.key][0]


@dataclass(frozen=True, eq=False)
class Audit:
    """One kind of training. `influence` is that of all scores together, `by_score` of each, in its unit.

    `copies` is that of the share of a model's samples that are copies of the image, None where it drew none.
    """

    name: str
    scores: Scores
    attacks: tuple[Attack, ...]
    influence: Influence
    by_score: Mapping[str, Influence]
    copies: Influence | None = None

    @property
    def first(self) -> Attack:
        """The attack that the audit is judged by."""
        return self.attacks[0]

    @cached_property
    def found_out(self) -> Floats:
        """Of each image the share of models of which the likelihood ratio says rightly what it was: (n,)."""
        return np.asarray(((self.first.statistic > 0) == self.scores.member).mean(axis=0))

    @cached_property
    def at_risk(self) -> list[int]:
        """The images that are significant by their scores or their copies, by falling copies and mem."""
        kinds = [self.influence] if self.copies is None else [self.copies, self.influence]
        risky = np.any([kind.significant & (kind.mem > 0) for kind in kinds], axis=0)
        order = np.lexsort([-kind.mem for kind in reversed(kinds)])
        return [int(i) for i in order if risky[i]]

    @cached_property
    def change(self) -> Floats:
        """What training on an image takes from its scores, averaged over them, in their unit: (n,)."""
        return np.asarray(np.mean([each.mem for each in self.by_score.values()], axis=0))


def compare(before: Audit, after: Audit) -> dict[str, list[int]]:
    """Images at risk of two audits of the same images: of the first alone, of both, of the second alone."""
    first, second = before.at_risk, after.at_risk
    return {
        "protected": [i for i in first if i not in set(second)],
        "still_at_risk": [i for i in second if i in set(first)],
        "newly_at_risk": [i for i in second if i not in set(first)],
    }


def audit_scores(name: str, scores: Scores, copies: Floats | None = None) -> Audit:
    """Attack the models by all attacks, and measure what training on each image changes.

    `copies` (m, n) are shares of a model's samples that are copies of the image, where that is known.
    """
    values, member = scores.values, scores.member
    # Images are named by either kind: both together at the one rate.
    rate = FALSE_DISCOVERY_RATE / (1 if copies is None else 2)
    every = {score: influence(-values[:, :, k], member) for k, score in enumerate(scores.names)}
    return Audit(
        name=name,
        scores=scores,
        attacks=tuple(_attack(key, values, member) for key in ATTACKS),
        influence=influence(combined(values, member), member, rate),
        by_score=every,
        copies=None if copies is None else influence(copies, member, rate),
    )


def _attack(key: str, values: Floats, member: Mask) -> Attack:
    statistic = ATTACKS[key][1](values, member)
    found = roc(statistic, member)
    return Attack(
        key=key,
        statistic=statistic,
        roc=found,
        auc=auc(statistic, member),
        tpr={rate: tpr_at(found, rate) for rate in RATES},
        epsilon=epsilon_bound(statistic, member),
    )


# --- in words -------------------------------------------------------------------------------------


def verdict(audit: Audit) -> str:
    """What was found, in a sentence or two."""
    n, risky = len(audit.scores.images), len(audit.at_risk)
    strongest = max(audit.attacks, key=lambda attack: attack.auc.low)
    if strongest.auc.low > 0.5:
        told = (
            f"An attacker can tell which images a model was trained on: {_of(strongest)} has an AUC of "
            f"{_auc(strongest)}."
        )
    else:
        told = "No attack tried here tells which images a model was trained on; a better one may."
    if not risky:
        return f"{told} On no image does being trained on leave a trace that chance does not explain."
    return (
        f"{told} On {risky:,} of {n:,} images being trained on leaves a trace that chance does not explain."
    )


def remarks(audit: Audit) -> list[str]:
    """What a reader has to know beside the figures."""
    (m, n), found = audit.scores.member.shape, audit.influence
    notes = []
    if found.smallest_p > FALSE_DISCOVERY_RATE / n:
        least = int(np.ceil(found.smallest_p * n / FALSE_DISCOVERY_RATE - 1e-9))
        notes.append(
            f"with {m} models no p-value is below {found.smallest_p:.2g}, so that images can be named only "
            f"where {least:,} or more of {n:,} stand out; train more models to name fewer"
            if least <= n
            else f"{m} models are too few to name any of {n:,} images; train more"
        )
    signs = np.where(audit.scores.member, 1, -1)
    if (signs @ signs.T == -n).any():
        notes.append(
            "some models were trained on exactly what others were not: where images resemble each other, "
            "more of them are named than the stated share allows; draw the models of each image by itself"
        )
    others = audit.first.roc.n_others
    if others * RATES[0] < 1:
        notes.append(
            f"{others:,} non-members in all: a false-positive rate of {RATES[0]:.1%} allows none of them"
        )
    if audit.attacks[-1].auc.high < 0.5 or found.mem.mean() < -4 * _error_of_mean(found):
        notes.append(
            "members have the higher scores; give scores that are low for them, as losses are, or turn the "
            "sign"
        )
    return notes


def _error_of_mean(found: Influence) -> float:
    """The standard error of the mean of mem, were the images independent."""
    return float(np.sqrt(np.square(found.standard_error).sum())) / len(found.mem)


def judge(audit: Audit, limit: float) -> Answer:
    """The gate: it fails where any attack's AUC is above `limit` even at the low end of its interval.

    It passes where none is above it at the high end. Raises UserError for a limit outside [0.5, 1).
    """
    check_limit(limit)
    low, high = (max(audit.attacks, key=key) for key in (lambda a: a.auc.low, lambda a: a.auc.high))
    if low.auc.low > limit:
        return Answer("fail", limit, f"{_of(low)} has an AUC of {_auc(low)}, above the limit of {limit:g}")
    if high.auc.high <= limit:
        return Answer(
            "pass", limit, f"no attack has an AUC above the limit of {limit:g}: the highest is {_auc(high)}"
        )
    return Answer(
        "inconclusive",
        limit,
        f"{_of(high)} has an AUC of {_auc(high)}, not surely on one side of the limit of {limit:g}; train "
        "more models",
    )


def check_limit(limit: float, name: str = "limit") -> None:
    """Raise UserError, with the `name` by which it was given, for a limit that is no AUC of an attack's."""
    if not 0.5 <= limit < 1:
        raise UserError(f"{name} {limit:g}: an AUC from 0.5, of guessing, to below 1, such as 0.6")


def _of(attack: Attack) -> str:
    names = {
        "likelihood_ratio": "the online likelihood-ratio attack",
        "out_only": "the offline likelihood-ratio attack",
        "global_threshold": "the attack with one threshold for all images",
    }
    return names[attack.key]


def _auc(attack: Attack) -> str:
    return f"{attack.auc.value:.3f} (95%: {attack.auc.low:.3f} to {attack.auc.high:.3f})"
