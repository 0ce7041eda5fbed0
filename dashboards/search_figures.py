"""Figures about the search itself: what it reached for what it cost, and what it stopped early."""

import html
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pareto_amb.dashboards import axes, marks, theme
from pareto_amb.dashboards.answer import stop_of
from pareto_amb.dashboards.formats import number, percent
from pareto_amb.dashboards.looks import look
from pareto_amb.declared import BASELINE
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.size import SizeResults


def hypervolume_figure(size: SizeResults) -> go.Figure:
    """The normalised hypervolume of the frontier over what all trainings together had cost."""
    history = size.hypervolume_history
    history = history[history.hypervolume.notna()]
    figure = go.Figure(
        go.Scatter(
            x=history.trainings.tolist(),
            y=history.hypervolume.tolist(),
            mode="lines+markers",
            line={"shape": "hv", "width": 2, "color": theme.INK},
            marker={"size": 7, "color": theme.INK},
            hovertext=[
                f"<b>{html.escape(str(row.trial_id))}</b><br>hypervolume {percent(row.hypervolume)}<br>"
                f"after {number(row.trainings, 3)} full trainings"
                for row in history.itertuples()
            ],
            hoverinfo="text",
            showlegend=False,
        )
    )
    figure.update_layout(template=theme.TEMPLATE, height=340)
    figure.update_xaxes(title_text="cost so far, in full trainings", rangemode="tozero")
    figure.update_yaxes(title_text="hypervolume,<br>share of the box", tickformat="~%", rangemode="tozero")
    return figure


def curves_figure(
    size: SizeResults, fid_encoder: str, recommendation: Recommendation | None = None
) -> go.Figure:
    """The objectives of every training over the images it had seen; a cross ends one stopped early.

    A ring is where the recommended training stops.
    """
    rows, n = size.anytime.sort_values("images_seen"), len(size.objectives)
    figure = make_subplots(rows=n, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    for place, objective in enumerate(size.objectives, start=1):
        for (method, stopped), group in rows.groupby([rows.method, rows.status == "paused"], sort=True):
            curve = _curves(size, group, str(method), bool(stopped), objective.name)
            figure.add_trace(curve.update(showlegend=place == 1), row=place, col=1)
        if recommendation is not None:
            stop = stop_of(recommendation, size)
            ring = marks.ring(size, recommendation, stop, recommendation[objective.name].value)
            ring.update(marker_size=20, legendgroup="recommended", showlegend=place == 1)
            figure.add_trace(ring, row=place, col=1)
        title = axes.objective_title(objective, fid_encoder)
        axis = axes.objective_axis(rows, objective)
        figure.update_yaxes(row=place, col=1, title_text=title, **axis)
    figure.update_layout(template=theme.TEMPLATE, height=280 * n)
    figure.update_xaxes(title_text="images seen", row=n, col=1, rangemode="tozero")
    return figure


def _curves(size: SizeResults, rows: pd.DataFrame, method: str, stopped: bool, metric: str) -> go.Scatter:
    """All curves of one method, those stopped early or the others, in one trace."""
    x: list[float | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    trials: list[str] = []
    symbols: list[str] = []
    for _, trial in rows.groupby("trial_id"):
        end = "x" if stopped else "circle"
        x += [*trial.images_seen.tolist(), None]
        y += [*trial[metric].tolist(), None]
        texts += [*(marks.hover_text(size, row) for row in trial.to_dict("records")), ""]
        trials += [*trial.trial_id.tolist(), ""]
        symbols += [*["circle"] * (len(trial) - 1), end, "circle"]
    drawn = look(size.declared, method)
    faint = not stopped and method != BASELINE
    colour = theme.translucent(drawn.colour, 0.45) if faint else drawn.colour
    line: dict[str, Any] = {"width": 1.5, "color": colour}
    sizes = [9 if symbol == "x" else 5 for symbol in symbols]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines+markers",
        line=line | ({"dash": "dot"} if stopped else {}),
        marker={"symbol": symbols, "size": sizes, "color": drawn.colour},
        name=html.escape(drawn.label + (", stopped early" if stopped else "")),
        legendgroup=f"{html.escape(method)}-{stopped}",
        hovertext=texts,
        hoverinfo="text",
        customdata=trials,
    )
