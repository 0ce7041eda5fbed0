"""A trial: one training of a sweep."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self


@dataclass(frozen=True)
class Trial:
    """One training of a sweep: who it is, what was chosen for it, and where it starts.

    `parameters` are the numbers of its method's parameters. `confirms` names the trial that it repeats with
    a fresh seed, `controls` the one whose control it is; empty for others. `last` is the rung that it ends
    with, counted from 1; 0 stands for the last of the sweep. `measured` counts the rungs that the results
    table held of it when it was handed out: they are not measured again. `branched_at` are the images after
    which it goes on from the first DDPM baseline of its size; 0: it begins from scratch. A trial that
    follows the search is measured at its end only unless it is one of `every_rung`.
    """

    id: str
    method: str
    train_size: int
    seed: int
    parameters: Mapping[str, float] = field(default_factory=dict)
    confirms: str = ""
    controls: str = ""
    last: int = 0
    measured: int = 0
    branched_at: int = 0
    every_rung: bool = False

    @property
    def follows(self) -> bool:
        """Whether it follows the search, as a repeat or a control."""
        return bool(self.confirms or self.controls)

    def config(self) -> dict[str, Any]:
        """The trial as Ray carries it: plain data."""
        return {**asdict(self), "parameters": dict(self.parameters)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The trial that `config` made this of."""
        return cls(**config)

    def after(self, rung: int) -> Self:
        """The same trial, going on from a rung (counted from 1) that was measured."""
        return replace(self, measured=rung)
