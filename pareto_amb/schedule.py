"""The discrete steps of a variance-preserving schedule, as text-to-image pipelines have them."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

Variance = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True)
class Schedule:
    """How the variances of the steps grow, `betas`, as diffusers names it.

    Linearly (`linear`), as squares of what grows linearly (`scaled_linear`), or so that alpha falls like a
    cosine (`squaredcos_cap_v2`; Nichol and Dhariwal 2021).
    """

    betas: Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
    beta_start: Variance
    beta_end: Variance
    steps: Annotated[int, Field(ge=2, le=100_000)]

    @property
    def levels(self) -> tuple[float, ...]:
        """The EDM levels sigma_vp / alpha of the steps, rising: (steps,)."""
        return _levels(self)

    def step(self, sigma: float) -> int:
        """The step, from 0 on, whose level is nearest to `sigma`, EDM units above 0, by its logarithm."""
        above = min(max(bisect_left(self.levels, sigma), 1), self.steps - 1)
        middle = math.sqrt(self.levels[above - 1] * self.levels[above])
        return above if sigma > middle else above - 1

    def words(self, *sigmas: float) -> str:
        """The steps of levels in EDM units: `step 25`, or of two `steps 25 to 100`."""
        found = " to ".join(str(self.step(sigma)) for sigma in sigmas)
        return f"step{'s' if len(sigmas) > 1 else ''} {found}"


@lru_cache(maxsize=8)
def _levels(schedule: Schedule) -> tuple[float, ...]:
    kept, levels = 1.0, []
    for variance in _variances(schedule):
        kept = max(kept * (1 - variance), 1e-300)
        levels.append(math.sqrt((1 - kept) / kept))
    return tuple(levels)


def _variances(schedule: Schedule) -> list[float]:
    steps, start, end = schedule.steps, schedule.beta_start, schedule.beta_end
    if schedule.betas == "squaredcos_cap_v2":
        signal = [math.cos((k / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(steps + 1)]
        return [min(1 - after / before, 0.999) for before, after in pairwise(signal)]
    if schedule.betas == "scaled_linear":
        start, end = math.sqrt(start), math.sqrt(end)
    grown = [start + (end - start) * k / (steps - 1) for k in range(steps)]
    return [value**2 for value in grown] if schedule.betas == "scaled_linear" else grown
