"""Rules by which a training is recommended. A new one is a class and a line in POLICIES."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pareto_amb.config import nearest
from pareto_amb.declared import Objective
from pareto_amb.errors import UserError
from pareto_amb.search.pareto import non_dominated

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """What a policy chooses from.

    `values` (n, m) are the figures, maximised objectives times -1. `worst` (m,) are the figures that are no
    worse than DDPM's, within its noise or what an objective tolerates.
    """

    values: Array
    worst: Array
    objectives: Sequence[Objective]

    def only(self, rows: Rows) -> "Candidates":
        """Those in `rows` (k,)."""
        return replace(self, values=self.values[rows])

    def column(self, name: str) -> Array:
        """The figures of one objective (n,)."""
        return self.values[:, [objective.name for objective in self.objectives].index(name)]


class Policy(ABC):
    """A rule. Its description completes the sentence: recommend the training with ..."""

    name: ClassVar[str]
    description: ClassVar[str]
    prefers_confirmed: ClassVar[bool] = False
    for_fewer_copies: ClassVar[bool] = False
    """To be taken before an early stop of DDPM a training must be better than it beyond its noise.

    Whether that is in its copies, or may be in anything.
    """

    @abstractmethod
    def rank(self, candidates: Candidates) -> tuple[Rows, int]:
        """The rows of `candidates` from best to worst, and how many of the first are admissible."""

    @abstractmethod
    def miss(self, candidates: Candidates, describe: Sequence[str]) -> str:
        """Why none is admissible. `describe` (n,) names each candidate."""

    def pick(self, candidates: Candidates) -> int | None:
        """The row that the policy takes; None when none will do."""
        order, admissible = self.rank(candidates)
        return int(order[0]) if admissible else None


class MatchDDPM(Policy):
    """The paper's rule (Table 1)."""

    name = "match-ddpm"
    description = "fewest copies at DDPM's FID"
    prefers_confirmed = True
    for_fewer_copies = True

    def rank(self, candidates: Candidates) -> tuple[Rows, int]:
        """By how far the objectives that are held exceed DDPM's, then by the others, then by those held."""
        held = [k for k, objective in enumerate(candidates.objectives) if objective.constraint]
        free = [k for k, objective in enumerate(candidates.objectives) if not objective.constraint]
        excess = np.maximum(candidates.values[:, held] - candidates.worst[held], 0.0)
        ideal = np.array([o.sign * o.ideal for o in candidates.objectives])[held]
        scale = np.maximum(candidates.worst[held] - ideal, 1e-12)
        keys = [candidates.values[:, k] for k in (*reversed(held), *reversed(free))]
        order = np.lexsort((*keys, (excess / scale).sum(axis=1)))
        return order, int((excess == 0).all(axis=1).sum())

    def miss(self, candidates: Candidates, describe: Sequence[str]) -> str:
        held = [k for k, objective in enumerate(candidates.objectives) if objective.constraint]
        missed = [k for k in held if candidates.values[:, k].min() > candidates.worst[k]]
        if not missed:
            names = " and ".join(candidates.objectives[k].name for k in held)
            return f"no trial reaches DDPM's {names} at once; try --policy knee, or search more trials"
        k, best = missed[0], int(candidates.values[:, missed[0]].argmin())
        objective = candidates.objectives[k]
        bound = "at most" if objective.direction == "min" else "at least"
        noise = f"its seed noise{f' or {objective.tolerance:.0%}' if objective.tolerance else ''}"
        return (
            f"no trial reaches DDPM's {objective.name} ({bound} {objective.sign * candidates.worst[k]:.4g} "
            f"within {noise}): the best is {objective.sign * candidates.values[best, k]:.4g} at "
            f"{describe[best]}; try --policy knee, or search more trials"
        )


class Knee(Policy):
    """The bend of the frontier."""

    name = "knee"
    description = "the frontier's bend"

    def rank(self, candidates: Candidates) -> tuple[Rows, int]:
        """By the sum of the objectives in units of the frontier's range; its members first."""
        values = candidates.values
        on_front = non_dominated(values)
        front = values[on_front]
        total = ((values - front.min(axis=0)) / _span(front)).sum(axis=1)
        return np.lexsort((total, ~on_front)), int(on_front.sum())

    def miss(self, candidates: Candidates, describe: Sequence[str]) -> str:
        return "no trial has finished"


@dataclass(frozen=True)
class MaxMemorization(Policy):
    """The best quality that copies no more than `limit`."""

    limit: float

    name = "max-memorization"
    description = "best FID with at most --max-memorization"

    def rank(self, candidates: Candidates) -> tuple[Rows, int]:
        """Those within the limit first, by the objectives in their order, memorization last."""
        copies = candidates.column("memorization")
        others = [k for k, o in enumerate(candidates.objectives) if o.name != "memorization"]
        keys = [candidates.values[:, k] for k in reversed(others)]
        within = copies <= self.limit
        return np.lexsort((copies, *keys, ~within)), int(within.sum())

    def miss(self, candidates: Candidates, describe: Sequence[str]) -> str:
        copies = candidates.column("memorization")
        best = int(copies.argmin())
        return (
            f"no trial has memorization at most {self.limit:g}: the lowest is {copies[best]:.3g} at "
            f"{describe[best]}"
        )


POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in (MatchDDPM, Knee, MaxMemorization)}


def in_words(name: str, max_memorization: float | None = None) -> str:
    """What the policy `name` takes, its limit as a number; without one as files of older versions lack it."""
    if POLICIES[name] is MaxMemorization and max_memorization is not None:
        return f"best FID with memorization at most {max_memorization:g}"
    return POLICIES[name].description


def make_policy(name: str, max_memorization: float | None = None) -> Policy:
    """A policy by name. UserError for one that is not known, or a limit that does not fit it."""
    if name not in POLICIES:
        raise UserError(f"unknown policy '{name}': {nearest(name, POLICIES)}")
    if POLICIES[name] is MaxMemorization:
        if max_memorization is None or not 0 <= max_memorization <= 1:
            raise UserError(
                "policy max-memorization needs max_memorization (--max-memorization), a share from 0 to 1"
            )
        return MaxMemorization(max_memorization)
    if max_memorization is not None:
        raise UserError("max_memorization (--max-memorization) belongs to policy max-memorization")
    return POLICIES[name]()


def _span(values: Array) -> Array:
    """The range of each column of `values` (n, m), 1 where it is none."""
    span = np.ptp(values, axis=0)
    return np.where(span > 0, span, 1.0)
