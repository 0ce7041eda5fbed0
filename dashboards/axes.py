"""Axes of figures: parameters, noise levels in both units, and objectives."""

import html
import math
from typing import Any

import numpy as np
import pandas as pd

from pareto_amb.dashboards import theme
from pareto_amb.dashboards.formats import better, is_percentage, level_vp, number
from pareto_amb.declared import Objective, Parameter
from pareto_amb.diffusion.units import sigma_to_vp

LOG_FROM = 20.0
"""An axis of figures becomes logarithmic when its largest value is this many times the smallest."""

NOISE_UNITS = f"(EDM units; <span style='color:{theme.MUTED}'>VP units below each</span>)"


def parameter_span(parameter: Parameter, values: "pd.Series[float]") -> tuple[float, float]:
    """What the values of a parameter cover, a little wider; a plausible range where there is none."""
    known = values[values > 0] if parameter.log else values.dropna()
    if known.empty:
        return (0.3, 3.0) if parameter.log else (0.0, 1.0)
    low, high = float(known.min()), float(known.max())
    if parameter.log:
        margin = max((high / low) ** 0.05, 1.08)
        return low / margin, high * margin
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin


def parameter_title(parameter: Parameter) -> str:
    """What an axis of the parameter is called."""
    label = html.escape(parameter.label)
    return f"{label} {NOISE_UNITS}" if parameter.kind == "level" else label


def parameter_axis(parameter: Parameter, low: float, high: float) -> dict[str, Any]:
    """The axis of a parameter from `low` to `high`, without its title."""
    axis: dict[str, Any] = {"type": "linear", "range": [low, high]}
    if parameter.log:
        axis = {"type": "log", "range": [math.log10(low), math.log10(high)]}
    if is_percentage(parameter):
        axis["tickformat"] = "~%"
    return axis | (noise_ticks(low, high, parameter.log) if parameter.kind == "level" else {})


def colour_axis(parameter: Parameter, colour: str, low: float, high: float) -> dict[str, Any]:
    """The shades that stand for a parameter from `low` to `high`, low to high."""
    ticks = _nice_values(low, high, parameter.log)
    unit = " (EDM)" if parameter.kind == "level" else ""
    return {
        "colorscale": theme.shades(colour),
        "cmin": on_scale(parameter, low),
        "cmax": on_scale(parameter, high),
        "colorbar": theme.colour_bar(f"{html.escape(parameter.label)}{unit}")
        | {
            "tickvals": [on_scale(parameter, tick) for tick in ticks],
            "ticktext": [f"{tick:g}" for tick in ticks],
        },
    }


def on_scale(parameter: Parameter, value: float) -> float:
    """A parameter's value on its own scale: its decadic logarithm, or itself."""
    return float(np.log10(max(value, 1e-6))) if parameter.log else value


def noise_ticks(low: float, high: float, log: bool = True) -> dict[str, Any]:
    """Ticks that read in both units: EDM above, VP below it."""
    ticks = _nice_values(low, high, log)
    text = [f"{t:g}<br><span style='color:{theme.MUTED}'>{_short_vp(t)}</span>" for t in ticks]
    return {"tickvals": ticks, "ticktext": text, "tickangle": 0, "tickfont": {"color": theme.INK}}


def log_axis(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis for values from `low` to `high`, a little wider, with ticks that leave room."""
    low, high = 0.8 * low, 1.25 * high
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": _nice_values(low, high, True),
        "tickformat": ",~g",
    }


def _nice_values(low: float, high: float, log: bool) -> list[float]:
    """Round values within [low, high], at most about eight; the middle if there is none."""
    if not log:
        step = 10.0 ** math.floor(math.log10((high - low) / 2))
        step *= next(times for times in (1, 2, 5) if (high - low) / (times * step) <= 8)
        return [float(f"{k * step:.6g}") for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        levels = [step * 10.0**decade for decade in decades for step in steps]
        inside = [float(f"{value:.3g}") for value in levels if low <= value <= high]
        if len(inside) <= 8:
            break
    return inside or [float(f"{math.sqrt(low * high):.2g}")]


def _short_vp(sigma: float) -> str:
    """A VP level short enough for a tick: two decimals where they suffice."""
    if sigma < 0:
        return ""
    converted = sigma_to_vp(sigma)
    return f"{converted:.2f}" if converted < 0.985 else level_vp(sigma)


def objective_axis(rows: pd.DataFrame, objective: Objective) -> dict[str, Any]:
    """The axis of an objective over `rows`, without its title."""
    values = rows[objective.name]
    if objective.kind == "number":
        return {"type": "log" if is_wide_range(values) else "linear"}
    if objective.direction == "max":
        return {"tickformat": "~%"}
    axis: dict[str, Any] = {"tickformat": "~%", "rangemode": "tozero"}
    if not values.max() > 0:
        axis["range"] = [-0.002, 0.05]
    return axis


def objective_title(objective: Objective, fid_encoder: str, gap: str = " ", copies: str = "") -> str:
    """What an axis of the objective is called.

    `gap` lies between FID and its encoder, `copies` says after memorization what that is.
    """
    notes = {"fid": f"{gap}({fid_encoder})", "memorization": copies}
    return html.escape(objective.label) + notes.get(objective.name, f"<br>({better(objective)})")


def copies_note(rows: pd.DataFrame) -> str:
    """What memorization is, with its threshold where all rows share one."""
    thresholds = rows.threshold.dropna().unique()
    tau = f"τ = {number(float(thresholds[0]), 3)}" if len(thresholds) == 1 else "τ"
    return f": share of samples<br>with similarity > {tau}"


def is_wide_range(values: "pd.Series[float]") -> bool:
    """Whether an axis of these values, all above 0, reads better in decades."""
    known = values[values > 0]
    return bool(len(known)) and not (values < 0).any() and float(known.max() / known.min()) > LOG_FROM
