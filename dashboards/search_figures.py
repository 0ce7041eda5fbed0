"""Figures about the search itself: what it reached for what it cost, and what it stopped early."""

import html
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards import theme
from dashboards.figures import hover_text, is_wide_range, memorization_axis
from dashboards.wording import method_name, number, percent
from pareto_amb.search.frontier import BASELINE, comparable, hypervolume_history
from pareto_amb.search.recommend import Recommendation


def hypervolume_figure(
    results: pd.DataFrame,
    train_size: int,
    fid_encoder: str,
    recommendation: Recommendation | None = None,
) -> go.Figure:
    """The normalised hypervolume of the frontier over what all trainings together had cost."""
    history = hypervolume_history(results, train_size)
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
    results: pd.DataFrame,
    train_size: int,
    fid_encoder: str,
    recommendation: Recommendation | None = None,
) -> go.Figure:
    """FID and memorization of every training over the images it had seen; a cross ends one stopped early."""
    rows = comparable(results, train_size, "any").sort_values("images_seen")
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    for place, metric in enumerate(("fid", "memorization"), start=1):
        for (method, stopped), group in rows.groupby([rows.method, rows.status == "pruned"], sort=True):
            curve = _curves(group, str(method), bool(stopped), metric)
            figure.add_trace(curve.update(showlegend=place == 1), row=place, col=1)
    figure.update_layout(template=theme.TEMPLATE, height=560)
    figure.update_xaxes(title_text="images seen", row=2, col=1, rangemode="tozero")
    fid_type = "log" if is_wide_range(rows.fid) else "linear"
    figure.update_yaxes(row=1, col=1, type=fid_type, title_text=f"FID ({fid_encoder})")
    axis = memorization_axis(rows) | {"title": {"text": "memorization"}}
    figure.update_yaxes(row=2, col=1, **axis)
    return figure


def _curves(rows: pd.DataFrame, method: str, stopped: bool, metric: str) -> go.Scatter:
    """All curves of one method, those stopped early or the others, in one trace."""
    x: list[float | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    symbols: list[str] = []
    for _, trial in rows.groupby("trial_id"):
        end = "x" if stopped else "circle"
        x += [*trial.images_seen.tolist(), None]
        y += [*trial[metric].tolist(), None]
        texts += [*(hover_text(row) for row in trial.to_dict("records")), ""]
        symbols += [*["circle"] * (len(trial) - 1), end, "circle"]
    colour = theme.method_colour(method)
    faint = not stopped and method != BASELINE
    line: dict[str, Any] = {"width": 1.5, "color": theme.translucent(colour, 0.45) if faint else colour}
    sizes = [9 if symbol == "x" else 5 for symbol in symbols]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines+markers",
        line=line | ({"dash": "dot"} if stopped else {}),
        marker={"symbol": symbols, "size": sizes, "color": colour},
        name=html.escape(method_name(method) + (", stopped early" if stopped else "")),
        legendgroup=f"{html.escape(method)}-{stopped}",
        hovertext=texts,
        hoverinfo="text",
    )
