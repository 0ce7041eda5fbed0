"""What several figures draw: points that say what they are, the held-out line, the recommended ring."""

import html
import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from pareto_amb.dashboards import theme
from pareto_amb.dashboards.answer import stop_of, stops_early
from pareto_amb.dashboards.formats import chosen, count, deviation, figure, number, parameter_value, signed
from pareto_amb.dashboards.looks import Look
from pareto_amb.dashboards.wording import called
from pareto_amb.declared import BASELINE
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.size import SizeResults

OUTLINE = {"width": 1, "color": theme.INK}


def by_method(rows: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """The rows of each method, by name."""
    return ((str(method), group) for method, group in rows.groupby("method", sort=True))


def with_parameter(size: SizeResults, rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of methods whose trials differ in the parameter `name`."""
    methods = [m for m in rows.method.unique() if name in size.declared.method(str(m)).parameter_names]
    return rows[rows.method.isin(methods)]


def points(
    size: SizeResults, rows: pd.DataFrame, name: str, marker: dict[str, Any], x: str, y: str
) -> go.Scatter:
    """A marker a row, at the columns `x` and `y`; a page finds its trial in `customdata`."""
    return go.Scatter(
        x=rows[x].tolist(),
        y=rows[y].tolist(),
        mode="markers",
        name=html.escape(name),
        marker=marker,
        hovertext=[hover_text(size, row) for row in rows.to_dict("records")],
        hoverinfo="text",
        customdata=rows.trial_id.tolist(),
    )


def plain_marker(look: Look) -> dict[str, Any]:
    """A method's symbol in its colour."""
    return {"size": 11, "symbol": look.symbol, "color": look.colour, "line": OUTLINE}


def hover_text(size: SizeResults, row: dict[Any, Any]) -> str:
    """What a point says when pointed at; Plotly reads tags in it, so names are escaped."""
    lines = [
        f"<b>{html.escape(str(row['trial_id']))}</b>",
        figures_line(size, row),
        f"seed {row['seed']} · {count(row['images_seen'])} images ({row['budget']:.0%}) · "
        f"{count(row['n_samples'])} samples",
    ]
    if row["method"] != BASELINE:
        lines.insert(1, html.escape(chosen(size.declared, row), quote=False))
    lean = excess(row)
    if math.isfinite(lean):
        similarity = number(row["similarity_mean"], 3)
        lines.append(f"similarity to the nearest {similarity}, {signed(lean)} against held-out images")
    if row.get("confirmed") or row.get("seeds", 1) > 1:
        fresh = "fresh " if row.get("confirmed") else ""
        lines.append(f"mean of {row['seeds']} {fresh}{'seed' if row['seeds'] == 1 else 'seeds'}")
    if "p_front" in row:
        lines.append(f"on the frontier in {row['p_front']:.0%} of redraws")
    return "<br>".join(lines)


def excess(row: Mapping[Any, Any]) -> float:
    """How far a row's mean similarity to the nearest training image lies above held-out images'; or NaN."""
    return float(row["similarity_mean"]) - float(row["heldout_similarity_mean"])


def figures_line(size: SizeResults, row: dict[Any, Any]) -> str:
    """All objectives of a point, with twice their deviations where these are known."""
    texts = []
    for objective in size.objectives:
        text = f"{html.escape(objective.label)} {figure(objective, row[objective.name])}"
        if f"{objective.name}_sd" in row:
            text += f" ± {deviation(objective, 2 * row[f'{objective.name}_sd'])}"
        texts.append(text)
    return " · ".join(texts)


def dashed(across: tuple[float, float], height: float, showlegend: bool = True) -> go.Scatter:
    """The held-out yardstick."""
    return go.Scatter(
        x=list(across),
        y=[height, height],
        mode="lines",
        line={"dash": "dash", "width": 2, "color": theme.HELDOUT},
        name="held-out real images",
        legendgroup="heldout",
        showlegend=showlegend,
        hoverinfo="skip",
    )


def ring(size: SizeResults, recommendation: Recommendation, x: float, y: float) -> go.Scatter:
    """A ring around the recommended point."""
    name = f"{called(recommendation).lower()}: {html.escape(recommended_value(size, recommendation))}"
    return circled(name, theme.RECOMMENDED, x, y)


def circled(name: str, colour: str, x: float, y: float) -> go.Scatter:
    """A ring in a colour; its name may hold tags."""
    return go.Scatter(
        x=[x],
        y=[y],
        mode="markers",
        name=name,
        marker={
            "size": 24,
            "symbol": "circle-open",
            "line": {"width": 3.5, "color": colour},
            "color": colour,
        },
        hoverinfo="skip",
        cliponaxis=False,
    )


def thin_cross(name: str, x: float, y: float) -> go.Scatter:
    """A mean that is no training of its own."""
    return go.Scatter(
        x=[x],
        y=[y],
        mode="markers",
        name=name,
        marker={"size": 13, "symbol": "x-thin", "line": {"width": 2.5, "color": theme.INK}},
        hoverinfo="text",
    )


def recommended_value(size: SizeResults, recommendation: Recommendation) -> str:
    """The main parameter and its recommended value, or the method's name; and where it stops early."""
    parameter = size.declared.parameters.get(recommendation.main)
    if parameter is None:
        text = size.declared.method(recommendation.method).label
    else:
        value = recommendation.parameters[recommendation.main]
        text = f"{parameter.label} {parameter_value(parameter, value)}{parameter.at_step(value)}"
    if not stops_early(recommendation, size):
        return text
    return f"{text}, stopped after {count(stop_of(recommendation, size))} images"
