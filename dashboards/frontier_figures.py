"""Quality against copying: what was reached at full budget, and over all budgets.

With more than two objectives there is a panel for each but the first, all over the first.
"""

import html
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pareto_amb.dashboards import axes, marks, theme
from pareto_amb.dashboards.answer import stop_of, stops_early, training_words
from pareto_amb.dashboards.formats import clipped, count
from pareto_amb.dashboards.looks import Look, look
from pareto_amb.dashboards.published import Comparison
from pareto_amb.dashboards.published_figures import published_points
from pareto_amb.declared import BASELINE, MethodInfo, Objective
from pareto_amb.results.points import configuration
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.size import SizeResults

FAINT = 0.25
"""Opacity of a dominated point where a front of three or more objectives cannot be drawn as a line."""

Panel = list[go.Scatter]


def frontier_figure(
    size: SizeResults,
    fid_encoder: str,
    recommendation: Recommendation | None = None,
    comparison: Comparison | None = None,
) -> go.Figure:
    """FID against memorization at full budget: every completed trial, DDPM's spread, the front.

    The published points of a `comparison` are drawn beside them and take part in nothing.
    """
    panels = [
        [*_full_budget(size, y, recommendation), *published_points(size, y, size.full, comparison)]
        for y in size.objectives[1:]
    ]
    figure = _stack(panels, 180, 340)
    shaded = shaded_method(size)
    if shaded is not None:
        main, trials = shaded.parameters[0], size.points[size.points.method == shaded.name]
        span = axes.parameter_span(main, trials[main.name])
        colour = look(size.declared, shaded.name).colour
        figure.update_layout(coloraxis=axes.colour_axis(main, colour, *span))
    _set_axes(figure, size, size.full, fid_encoder)
    return figure


def any_budget_figure(
    size: SizeResults,
    fid_encoder: str,
    recommendation: Recommendation | None = None,
    comparison: Comparison | None = None,
) -> go.Figure:
    """FID against memorization over all stopping points, each the mean over its seeds."""
    panels = [
        [*_any_budget(size, y, recommendation), *published_points(size, y, size.anytime, comparison)]
        for y in size.objectives[1:]
    ]
    figure = _stack(panels, 180, 360)
    _set_axes(figure, size, size.anytime, fid_encoder)
    return figure


def shaded_method(size: SizeResults) -> MethodInfo | None:
    """The method whose points are shaded by its main parameter: the first that may be recommended."""
    took_part = set(size.full.method)
    for method in size.declared.methods.values():
        if method.name in took_part and method.recommended and method.parameters:
            return method
    return None


def _stack(panels: list[Panel], around: int, each: int) -> go.Figure:
    """The panels below each other over one x axis, each name once in the legend."""
    if len(panels) == 1:
        figure = go.Figure(panels[0])
    else:
        figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.04)
        for row, panel in enumerate(panels, start=1):
            for trace in panel:
                shown = False if row > 1 else trace.showlegend
                trace.update(legendgroup=trace.legendgroup or trace.name, showlegend=shown)
                figure.add_trace(trace, row=row, col=1)
    figure.update_layout(template=theme.TEMPLATE, height=around + each * len(panels))
    return figure


def _set_axes(figure: go.Figure, size: SizeResults, rows: pd.DataFrame, fid_encoder: str) -> None:
    first, *others = size.objectives
    copies = axes.copies_note(rows)
    place = {"row": len(others), "col": 1} if len(others) > 1 else {}
    figure.update_xaxes(**axes.objective_axis(rows, first))
    figure.update_xaxes(title_text=axes.objective_title(first, fid_encoder), **place)
    for row, objective in enumerate(others, start=1):
        place = {"row": row, "col": 1} if len(others) > 1 else {}
        title = axes.objective_title(objective, fid_encoder, copies=copies)
        figure.update_yaxes(title_text=title, **axes.objective_axis(rows, objective), **place)


def _full_budget(size: SizeResults, y: Objective, recommendation: Recommendation | None) -> Panel:
    """One panel: the first objective against `y`."""
    trials = size.points[size.points.method != BASELINE]
    return [
        *_baseline_box(size, y),
        *_error_bars(size, trials, y),
        *_search_figures(size, trials, y),
        *_front(size, size.frontier, y, "frontier at full budget"),
        *_method_points(size, trials, y),
        *_baseline_seeds(size, y),
        *_heldout_line(size, y, size.full),
        *_full_ring(size, y, recommendation),
    ]


def _any_budget(size: SizeResults, y: Objective, recommendation: Recommendation | None) -> Panel:
    stops, x = size.over("any"), size.objectives[0].name
    points, panel = stops.points.sort_values("budget", ascending=False), []
    for method, group in marks.by_method(points):
        drawn = look(size.declared, method)
        marker = _stop_marker(drawn, group.budget)
        marker |= _faintness(size, group.index.isin(stops.frontier.index))
        panel.append(marks.points(size, group, drawn.label, marker, x, y.name))
    return [
        *_paths(size, points, y),
        *_error_bars(size, points[points.index.isin(stops.frontier.index)], y, " on the frontier"),
        *_front(size, stops.frontier, y, "frontier over all stopping points"),
        *panel,
        *_baseline_stops(size, y),
        *_heldout_line(size, y, stops.points),
        *_ring(size, y, recommendation),
    ]


def _baseline_stops(size: SizeResults, y: Objective) -> Panel:
    """DDPM where it is best to stop it and, where that is another point, at its full budget."""
    if not size.has_baseline:
        return []
    best, x = size.over("any").baseline, size.objectives[0].name
    found = []
    if stops_early(best, size):
        name = f"DDPM at its best stop, after {count(stop_of(best, size))} images"
        ring = marks.circled(name, theme.DDPM, best[x].value, best[y.name].value)
        found.append(ring.update(marker_size=34))  # around the ring of the answer, where it is the same
    at = size.baseline[x].value, size.baseline[y.name].value
    found.append(marks.thin_cross("DDPM at full budget", *at).update(hoverinfo="skip"))
    return found


def _method_points(size: SizeResults, trials: pd.DataFrame, y: Objective) -> Panel:
    """A trace a method; the shaded one has a second, empty one, which gives the legend its colour."""
    x, shaded, panel = size.objectives[0].name, shaded_method(size), []
    for method, group in marks.by_method(trials):
        drawn = look(size.declared, method)
        marker = marks.plain_marker(drawn)
        faintness = _faintness(size, group.trial_id.isin(size.frontier.trial_id))
        if shaded is None or method != shaded.name:
            panel.append(marks.points(size, group, drawn.label, marker | faintness, x, y.name))
            continue
        main = shaded.parameters[0]
        shades = [axes.on_scale(main, value) for value in group[main.name].tolist()]
        coloured = marker | {"color": shades, "coloraxis": "coloraxis"} | faintness
        points = marks.points(size, group, drawn.label, coloured, x, y.name)
        key = marks.points(size, group.iloc[:0], drawn.label, marker, x, y.name)
        panel.append(points.update(legendgroup=drawn.label, showlegend=False))
        panel.append(key.update(x=[None], y=[None], legendgroup=drawn.label, showlegend=True))
    return panel


def _faintness(size: SizeResults, on_front: "pd.Series[bool] | np.ndarray[Any, Any]") -> dict[str, Any]:
    """Nothing where the front is drawn as a line; else dominated points are faint."""
    if len(size.objectives) == 2:
        return {}
    return {"opacity": [1.0 if on else FAINT for on in on_front]}


def _baseline_box(size: SizeResults, y: Objective) -> Panel:
    if (size.full.method == BASELINE).sum() < 2:
        return []
    x = size.objectives[0]
    left, right = clipped(x, size.baseline[x.name])
    bottom, top = clipped(y, size.baseline[y.name])
    return [
        go.Scatter(
            x=[left, right, right, left, left],
            y=[bottom, bottom, top, top, bottom],
            mode="lines",
            fill="toself",
            fillcolor=theme.translucent(theme.DDPM, 0.13),
            line={"width": 1, "color": theme.translucent(theme.DDPM, 0.5)},
            name="DDPM over its seeds",
            hoverinfo="skip",
        )
    ]


def _baseline_seeds(size: SizeResults, y: Objective) -> Panel:
    seeds, x = size.full[size.full.method == BASELINE], size.objectives[0]
    if seeds.empty:
        return []
    marker = marks.plain_marker(look(size.declared, BASELINE))
    points = marks.points(size, seeds, "DDPM, one point a seed", marker, x.name, y.name)
    if len(seeds) == 1:
        return [points]
    means = {objective.name: seeds[objective.name].mean() for objective in size.objectives}
    mean = marks.thin_cross("DDPM mean", means[x.name], means[y.name])
    mean.update(hovertext=[f"DDPM mean of {len(seeds)} seeds<br>{marks.figures_line(size, means)}"])
    return [points, mean]


def _front(size: SizeResults, front: pd.DataFrame, y: Objective, name: str) -> Panel:
    """The attained surface of two objectives: at each FID, the least memorization any point reaches."""
    if front.empty or len(size.objectives) > 2:
        return []
    return [
        go.Scatter(
            x=front[size.objectives[0].name].tolist(),
            y=front[y.name].tolist(),
            mode="lines",
            line={"shape": "hv", "width": 2, "color": theme.INK},
            name=name,
            hoverinfo="skip",
        )
    ]


def _error_bars(size: SizeResults, points: pd.DataFrame, y: Objective, which: str = "") -> Panel:
    """Twice the standard deviation to every side, below the markers; shares stay above 0."""
    if points.empty:
        return []
    x = size.objectives[0]
    look = {"type": "data", "thickness": 1, "width": 0, "color": theme.translucent(theme.INK, 0.3)}
    across, up = (2 * points[f"{x.name}_sd"]).tolist(), (2 * points[f"{y.name}_sd"]).tolist()
    down = np.minimum(points[y.name], up).tolist() if y.kind == "share" else up
    return [
        go.Scatter(
            x=points[x.name].tolist(),
            y=points[y.name].tolist(),
            mode="markers",
            marker={"size": 8, "symbol": "cross-thin", "line": {"width": 1, "color": look["color"]}},
            error_x=look | {"array": across},
            error_y=look | {"symmetric": False, "array": up, "arrayminus": down},
            name=f"± 2 s.d. of a point{which}",
            hoverinfo="skip",
        )
    ]


def _search_figures(size: SizeResults, points: pd.DataFrame, y: Objective) -> Panel:
    """Where the search had seen the trials that fresh seeds confirmed, each tied to where these see it."""
    confirmed = points[points.confirmed].set_index("trial_id")
    before = size.full[size.full.trial_id.isin(confirmed.index)]
    if before.empty:
        return []
    x, after = size.objectives[0].name, confirmed.loc[before.trial_id]
    rows = before.to_dict("records")
    texts = [f"in the search<br>{marks.hover_text(size, row)}" for row in rows]
    return [
        go.Scatter(
            x=_steps([row[x] for row in rows], after[x].tolist(), None),
            y=_steps([row[y.name] for row in rows], after[y.name].tolist(), None),
            mode="lines+markers",
            line={"width": 1, "dash": "dot", "color": theme.ACCENT},
            marker={
                "size": [9, 0, 0] * len(rows),
                "color": theme.PAPER,
                "line": {"width": 1.5, "color": theme.ACCENT},
            },
            name="in the search, before fresh seeds",
            hovertext=_steps(texts, [""] * len(rows), ""),
            hoverinfo="text",
        )
    ]


def _steps(starts: list[Any], ends: list[Any], gap: Any) -> list[Any]:
    """Start, end, gap; start, end, gap; ..."""
    return [value for start, end in zip(starts, ends, strict=True) for value in (start, end, gap)]


def _heldout_line(size: SizeResults, y: Objective, rows: pd.DataFrame) -> Panel:
    """The held-out yardstick across the whole plot of `rows`, where `y` has one."""
    column = f"heldout_{y.name}"
    values = rows[column].dropna() if column in rows else pd.Series(dtype=float)
    if values.empty:
        return []
    x = rows[size.objectives[0].name]
    margin = 0.04 * max(float(np.ptp(x)), 1e-3)
    across = (max(float(x.min()) - margin, 1e-9), float(x.max()) + margin)
    return [marks.dashed(across, float(values.mean()))]


def _ring(size: SizeResults, y: Objective, recommendation: Recommendation | None) -> Panel:
    if recommendation is None:
        return []
    x = size.objectives[0].name
    at = recommendation[x].value, recommendation[y.name].value
    return [marks.ring(size, recommendation, *at)]


def _full_ring(size: SizeResults, y: Objective, recommendation: Recommendation | None) -> Panel:
    """The recommended point where it is at full budget; else, in another colour, what the policy takes."""
    if recommendation is None or not stops_early(recommendation, size):
        return _ring(size, y, recommendation)
    other = recommendation.equal_budget
    if other is None:
        return []
    name = f"at equal budget: {html.escape(training_words(size.declared, other.method, other.chosen))}"
    return [marks.circled(name, theme.INK, other[size.objectives[0].name], other[y.name])]


def _paths(size: SizeResults, points: pd.DataFrame, y: Objective) -> Panel:
    """Each training's way from stopping point to stopping point, a thin line in its method's colour."""
    panel, first = [], size.objectives[0].name
    for method, group in marks.by_method(points):
        x_values: list[float | None] = []
        y_values: list[float | None] = []
        for _, training in group.sort_values("images_seen").groupby(configuration(group)):
            x_values += [*training[first].tolist(), None]
            y_values += [*training[y.name].tolist(), None]
        line = {"width": 1, "color": theme.translucent(look(size.declared, method).colour, 0.4)}
        path = go.Scatter(x=x_values, y=y_values, mode="lines", line=line, showlegend=False, hoverinfo="skip")
        panel.append(path)
    return panel


def _stop_marker(drawn: Look, budgets: "pd.Series[float]") -> dict[str, Any]:
    """Small and hollow where a training stops early, large and filled at its full budget."""
    return {
        "opacity": 1.0,
        "size": (6 + 5 * budgets.clip(0, 1)).tolist(),
        "symbol": drawn.symbol,
        "color": [drawn.colour if budget >= 1 else theme.PAPER for budget in budgets],
        "line": {"width": 1.5, "color": drawn.colour},
    }
