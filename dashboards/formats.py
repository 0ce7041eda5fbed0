"""Figures as people read them: digits that mean something, and the units they are in."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pareto_amb.declared import Declared, Objective, Parameter
from pareto_amb.diffusion.units import sigma_to_vp
from pareto_amb.results.baseline import Spread
from pareto_amb.results.words import joined

ABSENT = "–"


def number(value: float | None, digits: int = 3) -> str:
    """`value` with so many significant digits, thousands separated; a dash when there is none."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if value == 0:
        return "0"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{min(decimals, 12)}f}"


def count(value: float | None) -> str:
    """A whole number, thousands separated."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:,.0f}"


def percent(share: float | None) -> str:
    """A share in [0, 1] as a percentage: one decimal, two below 1%."""
    if share is None or not math.isfinite(share):
        return ABSENT
    points = 100 * share
    decimals = 2 if 0 < abs(points) < 0.995 else 1
    return f"{points:.{decimals}f}%"


def level(sigma: float | None) -> str:
    """A sigma in EDM units."""
    return number(sigma, 3)


def level_vp(sigma: float | None) -> str:
    """A sigma given in EDM units, written in VP units; more digits close to 1."""
    if sigma is None or not math.isfinite(sigma) or sigma < 0:
        return ABSENT
    converted = sigma_to_vp(sigma)
    return f"{converted:.3f}" if converted < 0.9985 else f"{converted:.5f}"


def is_percentage(parameter: Parameter) -> bool:
    """A share of something reads as a percentage: `40% of pixels missing`; a ratio as a number."""
    return parameter.kind == "share" and parameter.phrase.startswith("{value}")


def parameter_value(parameter: Parameter, value: float | None) -> str:
    """A parameter's value; a noise level in EDM units."""
    if parameter.kind == "level":
        return level(value)
    if is_percentage(parameter):
        return percent(value)
    return number(value, 2 if parameter.kind == "share" else 3)


def parameter_range(parameter: Parameter, low: float, high: float) -> str:
    """From one value to another."""
    return f"{parameter_value(parameter, low)} to {parameter_value(parameter, high)}"


def with_vp(parameter: Parameter, text: str, *sigmas: float) -> str:
    """`text`, followed by the same noise levels in VP units, and as steps where they have some."""
    if parameter.kind != "level":
        return text
    steps = parameter.steps(*sigmas)
    return f"{text} (VP {' to '.join(level_vp(sigma) for sigma in sigmas)}{steps and f', {steps}'})"


def chosen(declared: Declared, trial: Mapping[Any, Any]) -> str:
    """What was chosen for a trial, noise levels in both units; empty for DDPM."""
    parameters = declared.method(str(trial["method"])).parameters
    return " · ".join(_phrase(parameter, trial[parameter.name]) for parameter in parameters)


def _phrase(parameter: Parameter, value: float) -> str:
    text = parameter_value(parameter, value)
    if parameter.kind == "level":
        text = f"{text} EDM = {level_vp(value)} VP{parameter.at_step(value)}"
    return parameter.phrase.replace("{label}", parameter.label).replace("{value}", text)


def figure(objective: Objective, value: float | None) -> str:
    """A value of an objective."""
    return percent(value) if objective.kind == "share" else number(value, 4)


def figures(objectives: Iterable[Objective], values: Mapping[Any, Any]) -> str:
    """The values of a point, each after its name: `FID 12.30 and memorization 4.0%`."""
    return joined([f"{o.label} {figure(o, values[o.name])}" for o in objectives])


def deviation(objective: Objective, value: float) -> str:
    """How far an objective's value may be off."""
    return percent(value) if objective.kind == "share" else number(value, 2)


def change(objective: Objective, value: float) -> str:
    """How far an objective moves, with its sign; a share in percentage points."""
    if not math.isfinite(value):
        return ABSENT
    if value == 0:
        return "0"
    text = f"{percent(abs(value))[:-1]} points" if objective.kind == "share" else number(abs(value), 3)
    return f"{'−' if value < 0 else '+'}{text}"


def signed(value: float | None) -> str:
    """A number with its sign, to three decimals; a dash when there is none."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{'−' if value < 0 else '+'}{abs(value):.3f}"


def clipped(objective: Objective, spread: Spread) -> tuple[float, float]:
    """The ends of a figure's interval, within the limits of its objective."""
    low, high = objective.limits
    return max(spread.low, low), min(spread.high, high)


def interval(objective: Objective, spread: Spread) -> str:
    """The interval of a figure, empty when it has none."""
    if not spread.high > spread.low:
        return ""
    return " to ".join(figure(objective, end) for end in clipped(objective, spread))


def better(objective: Objective) -> str:
    """In which direction an objective improves."""
    return f"{'lower' if objective.direction == 'min' else 'higher'} is better"


def copying_first(objectives: Sequence[Objective]) -> list[Objective]:
    """Memorization before FID, which come the other way round: the report is about copying."""
    fid, memorization, *others = objectives
    return [memorization, fid, *others]
