"""Published points in the figures: hollow, with a dot, and never at the cost of our own points."""

import html
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pareto_amb.dashboards import axes, marks, theme
from pareto_amb.dashboards.answer import spreads
from pareto_amb.dashboards.formats import count, figures, percent
from pareto_amb.dashboards.looks import BASELINE_SYMBOL, SYMBOLS, look
from pareto_amb.dashboards.published import Comparison, Point, share_column, shared_threshold
from pareto_amb.declared import BASELINE, Objective
from pareto_amb.results.baseline import Figures
from pareto_amb.results.recommendation import FinalFigures
from pareto_amb.results.size import SizeResults

LEAST_SHARE = 0.25
"""Our own points keep at least this share of an axis; published ones that would take more are left out."""


def published_points(
    size: SizeResults, y: Objective, rows: pd.DataFrame, comparison: Comparison | None
) -> list[go.Scatter]:
    """The published trainings beside `rows`, at the threshold that these share; none in other panels."""
    if comparison is None or y.name != "memorization":
        return []
    near, _ = near_and_far(size, rows, comparison, shared_threshold(rows), y.name)
    return _hollow(size, near, comparison)


def near_and_far(
    size: SizeResults, rows: pd.DataFrame, comparison: Comparison, threshold: float, column: str
) -> tuple[list[Point], list[Point]]:
    """The published points at a threshold that fit in a figure of `rows`, and those too far off."""
    near: list[Point] = []
    far: list[Point] = []
    fids, shares = rows[size.objectives[0].name], rows[column]
    for point in comparison.points(threshold):
        fits = _fits(fids, point.fid) and _fits_share(shares, point.memorization)
        (near if fits else far).append(point)
    return near, far


def thresholds_figure(size: SizeResults, fid_encoder: str, comparison: Comparison) -> go.Figure:
    """FID against the share above each other threshold that both measured: a panel a threshold."""
    thresholds = other_thresholds(size, comparison)
    figure = make_subplots(rows=len(thresholds), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    fid, memorization = size.objectives[:2]
    named: set[str] = set()
    for row, threshold in enumerate(thresholds, start=1):
        share = replace(memorization, name=share_column(threshold))
        near, _ = near_and_far(size, size.full, comparison, threshold, share.name)
        for trace in [*_own_points(size, share, threshold), *_hollow(size, near, comparison)]:
            trace.update(legendgroup=trace.name, showlegend=trace.name not in named)
            named.add(trace.name)
            figure.add_trace(trace, row=row, col=1)
        title = f"share with<br>similarity > {threshold:g}"
        figure.update_yaxes(title_text=title, **axes.objective_axis(size.full, share), row=row, col=1)
    figure.update_xaxes(**axes.objective_axis(size.full, fid))
    figure.update_xaxes(title_text=axes.objective_title(fid, fid_encoder), row=len(thresholds), col=1)
    return figure.update_layout(template=theme.TEMPLATE, height=110 + 250 * len(thresholds))


def final_figure(
    size: SizeResults, fid_encoder: str, final: FinalFigures, comparison: Comparison
) -> go.Figure:
    """The final figures of the answer and of DDPM with their intervals, beside the published ones."""
    fid, memorization = size.objectives[:2]
    near, _ = near_and_far(size, final_rows(final), comparison, shared_threshold(size.full), "memorization")
    figure = go.Figure()
    for name, colour, symbol, found in (
        ("DDPM at full budget", theme.DDPM, BASELINE_SYMBOL, final.ddpm),
        ("the answer", theme.RECOMMENDED, SYMBOLS[0], final.training),
    ):
        if found is not None:
            figure.add_trace(_final_point(size, found, name, {"color": colour, "symbol": symbol}))
    figure.add_traces(_hollow(size, near, comparison))
    figure.update_layout(template=theme.TEMPLATE, height=400)
    figure.update_xaxes(
        title_text=axes.objective_title(fid, fid_encoder), **axes.objective_axis(final_rows(final), fid)
    )
    copies = axes.copies_note(size.full)
    title = axes.objective_title(memorization, fid_encoder, copies=copies)
    figure.update_yaxes(title_text=title, **axes.objective_axis(final_rows(final), memorization))
    return figure


def final_rows(final: FinalFigures) -> pd.DataFrame:
    """FID and memorization of the final measurements, a row each."""
    found = [figures for figures in (final.ddpm, final.training) if figures is not None]
    return pd.DataFrame({name: [each[name].value for each in found] for name in ("fid", "memorization")})


def _final_point(size: SizeResults, figures: Figures, name: str, marker: dict[str, Any]) -> go.Scatter:
    fid, memorization = figures["fid"], figures["memorization"]
    bars = {"type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": marker["color"]}
    return go.Scatter(
        x=[fid.value],
        y=[memorization.value],
        mode="markers",
        name=name,
        marker=marker | {"size": 12, "line": marks.OUTLINE},
        error_x=bars | {"array": [fid.high - fid.value], "arrayminus": [fid.value - fid.low]},
        error_y=bars
        | {
            "array": [memorization.high - memorization.value],
            "arrayminus": [memorization.value - memorization.low],
        },
        hovertext=[f"<b>{name}</b><br>{spreads(figures, size.objectives[:2])}"],
        hoverinfo="text",
    )


def other_thresholds(size: SizeResults, comparison: Comparison) -> list[float]:
    """The thresholds that both measured, without the one of the other figures."""
    return [t for t in comparison.measured if t != shared_threshold(size.full)]


def described(size: SizeResults, points: Iterable[Point]) -> str:
    """`DDPM at FID 25.10 and memorization 67.2%; ...`"""
    return "; ".join(
        f"{size.declared.method(point.method).label} at "
        f"{figures(size.objectives[:2], {'fid': point.fid, 'memorization': point.memorization})}"
        for point in points
    )


def _own_points(size: SizeResults, share: Objective, threshold: float) -> list[go.Scatter]:
    """Every configuration at full budget, DDPM a point a seed."""
    searched = size.points[size.points.method != BASELINE]
    found, x = [], size.objectives[0].name
    for rows in (searched, size.full[size.full.method == BASELINE]):
        for method, group in marks.by_method(rows):
            drawn = look(size.declared, method)
            points = marks.points(size, group, drawn.label, marks.plain_marker(drawn), x, share.name)
            said = zip(points.hovertext, group[share.name], strict=True)
            texts = [f"{text}<br>above {threshold:g}: {percent(value)}" for text, value in said]
            found.append(points.update(hovertext=texts))
    return found


def _hollow(size: SizeResults, points: Iterable[Point], comparison: Comparison) -> list[go.Scatter]:
    found = []
    for point in points:
        drawn = look(size.declared, point.method)
        text = (
            f"<b>published</b>, {html.escape(comparison.citation)}<br>"
            f"{html.escape(drawn.label)}, {count(size.train_size)} images of {html.escape(comparison.label)}"
            f"<br>{figures(size.objectives[:2], {'fid': point.fid, 'memorization': point.memorization})}"
        )
        marker: dict[str, Any] = {
            "size": 15,
            "symbol": f"{drawn.symbol}-open-dot",
            "color": drawn.colour,
            "line": {"width": 2.5, "color": drawn.colour},
        }
        found.append(
            go.Scatter(
                x=[point.fid],
                y=[point.memorization],
                mode="markers",
                name=f"published: {html.escape(drawn.label)}",
                marker=marker,
                hovertext=[text],
                hoverinfo="text",
                cliponaxis=False,
            )
        )
    return found


def _fits(ours: "pd.Series[float]", value: float) -> bool:
    """Whether an axis from `ours` to a figure above 0 leaves ours enough of it, on the axis's own scale."""
    low, high = float(ours.min()), float(ours.max())
    least = 0.1 * abs(high)  # what a single point is given
    if axes.is_wide_range(ours):
        low, high, value, least = math.log10(low), math.log10(high), math.log10(value), 0.05
    width = max(high - low, least)
    return LEAST_SHARE * (max(high, value) - min(low, value)) <= width


def _fits_share(ours: "pd.Series[float]", value: float) -> bool:
    """The same of an axis of shares, which begins at 0 and ends at 5% where all of them are 0."""
    high = float(ours.max())
    return value <= (high / LEAST_SHARE if high > 0 else 0.05)
