"""Whether generated images are enough like real ones that few copies among them mean anything."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pareto_amb.evaluation.intervals import Estimate

AT_LEAST = {"precision": 1 / 4, "recall": 1 / 10, "coverage": 1 / 10}
"""The least share of what held-out images reach."""

DENSITY_AT_MOST = 4.0
"""In units of the held-out images' density."""


@dataclass(frozen=True)
class Likeness:
    """Generated images and as many held-out ones, both against the other half of the held-out images.

    `images` of each are compared with `reference_images`. `generated` and `heldout` hold fid, precision,
    recall, density and coverage.

    Images far from real ones (noise, in most features) have no precision and no coverage. Images without
    detail (one colour, blur; noise in some features) lie in the middle of the features: near to every image,
    so that precision is high and density a multiple of what is normal, while no real image lies among them.
    A Fréchet distance does not tell them apart from real images where there are few of these.
    """

    images: int
    reference_images: int
    generated: Mapping[str, Estimate]
    heldout: Mapping[str, Estimate]

    @property
    def outcome(self) -> Literal["alike", "unlike", "unsure"]:
        """`unlike` where a figure is beyond its bound by more than chance, `unsure` where it merely is."""
        if self.failing(surely=True):
            return "unlike"
        return "unsure" if self.failing() else "alike"

    def __str__(self) -> str:
        """The figures beyond their bounds, in words."""
        return "; ".join(
            f"{key} {self._value(key, self.generated)}, where held-out images reach "
            f"{self._value(key, self.heldout)}"
            for key in self.failing()
        )

    def _value(self, key: str, found: Mapping[str, Estimate]) -> str:
        value = found[key].value
        return f"{value:.2f}" if key == "density" else f"{value:.1%}"

    def failing(self, surely: bool = False) -> list[str]:
        """The figures beyond their bounds; `surely`: even at the ends of both 95% intervals."""
        found = []
        for key, share in AT_LEAST.items():
            ours, theirs = self.generated[key], self.heldout[key]
            if (ours.high < share * theirs.low) if surely else (ours.value < share * theirs.value):
                found.append(key)
        ours, theirs = self.generated["density"], self.heldout["density"]
        if (
            (ours.low > DENSITY_AT_MOST * theirs.high)
            if surely
            else (ours.value > DENSITY_AT_MOST * theirs.value)
        ):
            found.append("density")
        return found
