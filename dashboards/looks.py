"""How each method is drawn: its name, colour and symbol, the same in every figure."""

import re
from dataclasses import dataclass

from pareto_amb.dashboards import theme
from pareto_amb.declared import BASELINE, Declared

SYMBOLS = (
    "circle", "square", "triangle-up", "diamond-wide", "pentagon", "star", "hexagram", "triangle-down",
    "cross", "x", "triangle-left", "triangle-right", "hexagon", "octagon", "bowtie", "hourglass",
    "star-square", "star-diamond", "star-triangle-up", "star-triangle-down", "hexagon2",
)  # fmt: skip
BASELINE_SYMBOL = "diamond"

SPARE_COLOURS = ("#56B4E9", "#000000", "#F0E442")
"""What the Okabe-Ito palette has left for methods that declare no colour."""


@dataclass(frozen=True)
class Look:
    """A method in a figure."""

    label: str
    colour: str
    symbol: str


def looks(declared: Declared) -> dict[str, Look]:
    """The look of each declared method, by name."""
    used = {method.color.upper() for method in declared.methods.values()}
    spare = [colour for colour in SPARE_COLOURS if colour not in used] or list(SPARE_COLOURS)
    found: dict[str, Look] = {}
    n_symbols = n_spare = 0
    for name, method in declared.methods.items():
        colour, symbol = method.color, BASELINE_SYMBOL
        if not re.fullmatch("#[0-9A-Fa-f]{6}", colour):
            colour, n_spare = spare[n_spare % len(spare)], n_spare + 1
        if name != BASELINE:
            symbol, n_symbols = SYMBOLS[n_symbols % len(SYMBOLS)], n_symbols + 1
        found[name] = Look(method.label, colour, symbol)
    return found


def look(declared: Declared, method: str) -> Look:
    """The look of one method; those that are not declared share one."""
    return looks(declared).get(method) or Look(method, theme.MUTED, SYMBOLS[0])
