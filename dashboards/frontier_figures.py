"""Quality against copying: what was reached at full budget, and over all budgets.

With more than two objectives there is a panel for each pair of them, side by side: linked views of one front.
"""

import html
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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

COLUMNS = 3
"""Panels beside each other, at most; a narrow page has them below each other."""

Traces = list[go.Scatter]


class Panel(NamedTuple):
    """What a panel draws against each other: `x` to the right, `y` upwards."""

    x: Objective
    y: Objective


def panels(objectives: Sequence[Objective]) -> list[Panel]:
    """A panel for each pair of objectives, FID against memorization first; a further one lies across."""
    return [
        Panel(objectives[0], objectives[1]),
        *(
            Panel(further, earlier)
            for place, further in enumerate(objectives[2:], start=2)
            for earlier in (objectives[1], objectives[0], *objectives[2:place])
        ),
    ]


def frontier_figure(
    size: SizeResults,
    fid_encoder: str,
    recommendation: Recommendation | None = None,
    comparison: Comparison | None = None,
) -> go.Figure:
    """FID against memorization at full budget: every completed trial, DDPM's spread, the front.

    The published points of a `comparison` are drawn beside them and take part in nothing.
    """
    figure = _side_by_side(
        size, size.full, fid_encoder, comparison, lambda panel: _full_budget(size, panel, recommendation)
    )
    shaded = shaded_method(size)
    if shaded is not None:
        main, trials = shaded.parameters[0], size.points[size.points.method == shaded.name]
        span = axes.parameter_span(main, trials[main.name])
        colour = look(size.declared, shaded.name).colour
        figure.update_layout(coloraxis=axes.colour_axis(main, colour, *span))
    return figure


def any_budget_figure(
    size: SizeResults,
    fid_encoder: str,
    recommendation: Recommendation | None = None,
    comparison: Comparison | None = None,
) -> go.Figure:
    """FID against memorization over all stopping points, each the mean over its seeds."""
    return _side_by_side(
        size, size.anytime, fid_encoder, comparison, lambda panel: _any_budget(size, panel, recommendation)
    )


def shaded_method(size: SizeResults) -> MethodInfo | None:
    """The method whose points are shaded by its main parameter: the first that may be recommended."""
    took_part = set(size.full.method)
    for method in size.declared.methods.values():
        if method.name in took_part and method.recommended and method.parameters:
            return method
    return None


def _side_by_side(
    size: SizeResults,
    rows: pd.DataFrame,
    fid_encoder: str,
    comparison: Comparison | None,
    draw: Callable[[Panel], Traces],
) -> go.Figure:
    """A panel for each pair of objectives, each name once in the legend.

    What is published has two figures, and stands in the first panel. `meta` tells the page how to put the
    panels below each other where they have no room.
    """
    first, *others = panels(size.objectives)
    drawn = [[*draw(first), *published_points(size, first.y, rows, comparison)], *map(draw, others)]
    around, each = 190, 350
    across, down = min(len(drawn), COLUMNS), math.ceil(len(drawn) / COLUMNS)
    figure, named = make_subplots(rows=down, cols=across, horizontal_spacing=0.1), set[str]()
    for k, (panel, traces) in enumerate(zip([first, *others], drawn, strict=True)):
        place = {"row": 1 + k // COLUMNS, "col": 1 + k % COLUMNS}
        for trace in traces:
            if others:
                shown = trace.showlegend is not False and trace.name not in named
                trace.update(legendgroup=trace.legendgroup or trace.name, showlegend=shown)
                named |= {trace.name} if shown else set()
            figure.add_trace(trace, **place)
        _set_axes(figure, panel, rows, fid_encoder, place)
    meta = {"panels": len(drawn), "around": around, "each": each} if others else None
    return figure.update_layout(template=theme.TEMPLATE, height=around + each * down, meta=meta)


def _set_axes(
    figure: go.Figure, panel: Panel, rows: pd.DataFrame, fid_encoder: str, place: dict[str, int]
) -> None:
    copies = axes.copies_note(rows)
    title = axes.objective_title(panel.x, fid_encoder)
    figure.update_xaxes(title_text=title, **axes.objective_axis(rows, panel.x), **place)
    title = axes.objective_title(panel.y, fid_encoder, copies=copies)
    figure.update_yaxes(title_text=title, **axes.objective_axis(rows, panel.y), **place)


def _full_budget(size: SizeResults, panel: Panel, recommendation: Recommendation | None) -> Traces:
    trials = size.points[size.points.method != BASELINE]
    return [
        *_baseline_box(size, panel),
        *_error_bars(size, trials, panel),
        *_search_figures(size, trials, panel),
        *_front(size, size.frontier, panel, "frontier at full budget"),
        *_method_points(size, trials, panel),
        *_baseline_seeds(size, panel),
        *_heldout_line(panel, size.full),
        *_full_ring(size, panel, recommendation),
    ]


def _any_budget(size: SizeResults, panel: Panel, recommendation: Recommendation | None) -> Traces:
    stops, traces = size.over("any"), list[go.Scatter]()
    points = stops.points.sort_values("budget", ascending=False)
    for method, group in marks.by_method(points):
        drawn = look(size.declared, method)
        marker = _stop_marker(drawn, group.budget)
        marker |= _faintness(size, group.index.isin(stops.frontier.index))
        traces.append(_points(size, group, drawn.label, marker, panel))
    return [
        *_paths(size, points, panel),
        *_error_bars(size, points[points.index.isin(stops.frontier.index)], panel, " on the frontier"),
        *_front(size, stops.frontier, panel, "frontier over all stopping points"),
        *traces,
        *_baseline_stops(size, panel),
        *_heldout_line(panel, stops.points),
        *_ring(size, panel, recommendation),
    ]


def _points(
    size: SizeResults, rows: pd.DataFrame, name: str, marker: dict[str, Any], panel: Panel
) -> go.Scatter:
    return marks.points(size, rows, name, marker, panel.x.name, panel.y.name)


def _baseline_stops(size: SizeResults, panel: Panel) -> Traces:
    """DDPM where it is best to stop it and, where that is another point, at its full budget."""
    if not size.has_baseline:
        return []
    best, (x, y) = size.over("any").baseline, (objective.name for objective in panel)
    found = []
    if stops_early(best, size):
        name = f"DDPM at its best stop, after {count(stop_of(best, size))} images"
        ring = marks.circled(name, theme.DDPM, best[x].value, best[y].value)
        found.append(ring.update(marker_size=34))  # around the ring of the answer, where it is the same
    at = size.baseline[x].value, size.baseline[y].value
    found.append(marks.thin_cross("DDPM at full budget", *at).update(hoverinfo="skip"))
    return found


def _method_points(size: SizeResults, trials: pd.DataFrame, panel: Panel) -> Traces:
    """A trace a method; the shaded one has a second, empty one, which gives the legend its colour."""
    shaded, traces = shaded_method(size), list[go.Scatter]()
    for method, group in marks.by_method(trials):
        drawn = look(size.declared, method)
        marker = marks.plain_marker(drawn)
        faintness = _faintness(size, group.trial_id.isin(size.frontier.trial_id))
        if shaded is None or method != shaded.name:
            traces.append(_points(size, group, drawn.label, marker | faintness, panel))
            continue
        main = shaded.parameters[0]
        shades = [axes.on_scale(main, value) for value in group[main.name].tolist()]
        coloured = marker | {"color": shades, "coloraxis": "coloraxis"} | faintness
        points = _points(size, group, drawn.label, coloured, panel)
        key = _points(size, group.iloc[:0], drawn.label, marker, panel)
        traces.append(points.update(legendgroup=drawn.label, showlegend=False))
        traces.append(key.update(x=[None], y=[None], legendgroup=drawn.label, showlegend=True))
    return traces


def _faintness(size: SizeResults, on_front: "pd.Series[bool] | np.ndarray[Any, Any]") -> dict[str, Any]:
    """Nothing where the front is drawn as a line; else dominated points are faint."""
    if len(size.objectives) == 2:
        return {}
    return {"opacity": [1.0 if on else FAINT for on in on_front]}


def _baseline_box(size: SizeResults, panel: Panel) -> Traces:
    if (size.full.method == BASELINE).sum() < 2:
        return []
    left, right = clipped(panel.x, size.baseline[panel.x.name])
    bottom, top = clipped(panel.y, size.baseline[panel.y.name])
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


def _baseline_seeds(size: SizeResults, panel: Panel) -> Traces:
    seeds = size.full[size.full.method == BASELINE]
    if seeds.empty:
        return []
    marker = marks.plain_marker(look(size.declared, BASELINE))
    points = _points(size, seeds, "DDPM, one point a seed", marker, panel)
    if len(seeds) == 1:
        return [points]
    means = {objective.name: seeds[objective.name].mean() for objective in size.objectives}
    mean = marks.thin_cross("DDPM mean", means[panel.x.name], means[panel.y.name])
    mean.update(hovertext=[f"DDPM mean of {len(seeds)} seeds<br>{marks.figures_line(size, means)}"])
    return [points, mean]


def _front(size: SizeResults, front: pd.DataFrame, panel: Panel, name: str) -> Traces:
    """The attained surface of two objectives: at each FID, the least memorization any point reaches.

    That of more is no line in a panel of two: its points have a circle around them.
    """
    if front.empty:
        return []
    look = {"mode": "lines", "line": {"shape": "hv", "width": 2, "color": theme.INK}}
    if len(size.objectives) > 2:
        name = f"{name}, in all {len(size.objectives)} objectives"
        line = {"width": 1.5, "color": theme.INK}
        marker = {"size": 18, "symbol": "circle-open", "color": theme.INK, "line": line}
        look = {"mode": "markers", "marker": marker}
    x, y = front[panel.x.name].tolist(), front[panel.y.name].tolist()
    return [go.Scatter(x=x, y=y, name=name, hoverinfo="skip", **look)]


def _error_bars(size: SizeResults, points: pd.DataFrame, panel: Panel, which: str = "") -> Traces:
    """Twice the standard deviation to every side, below the markers; shares stay above 0."""
    if points.empty:
        return []
    colour = theme.translucent(theme.INK, 0.3)
    return [
        go.Scatter(
            x=points[panel.x.name].tolist(),
            y=points[panel.y.name].tolist(),
            mode="markers",
            marker={"size": 8, "symbol": "cross-thin", "line": {"width": 1, "color": colour}},
            error_x=_bars(points, panel.x, colour),
            error_y=_bars(points, panel.y, colour),
            name=f"± 2 s.d. of a point{which}",
            hoverinfo="skip",
        )
    ]


def _bars(points: pd.DataFrame, objective: Objective, colour: str) -> dict[str, Any]:
    up = (2 * points[f"{objective.name}_sd"]).tolist()
    bars = {"type": "data", "thickness": 1, "width": 0, "color": colour, "array": up}
    if objective.kind == "share":
        bars |= {"symmetric": False, "arrayminus": np.minimum(points[objective.name], up).tolist()}
    return bars


def _search_figures(size: SizeResults, points: pd.DataFrame, panel: Panel) -> Traces:
    """Where the search had seen the trials that fresh seeds confirmed, each tied to where these see it."""
    confirmed = points[points.confirmed].set_index("trial_id")
    before = size.full[size.full.trial_id.isin(confirmed.index)]
    if before.empty:
        return []
    (x, y), after = (objective.name for objective in panel), confirmed.loc[before.trial_id]
    rows = before.to_dict("records")
    texts = [f"in the search<br>{marks.hover_text(size, row)}" for row in rows]
    return [
        go.Scatter(
            x=_steps([row[x] for row in rows], after[x].tolist(), None),
            y=_steps([row[y] for row in rows], after[y].tolist(), None),
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


def _heldout_line(panel: Panel, rows: pd.DataFrame) -> Traces:
    """The held-out yardstick across the whole plot of `rows`, where copying is drawn upwards."""
    column = f"heldout_{panel.y.name}"
    values = rows[column].dropna() if panel.y.name == "memorization" else pd.Series(dtype=float)
    if values.empty:
        return []
    x = rows[panel.x.name]
    margin = 0.04 * max(float(np.ptp(x)), 1e-3)
    across = (max(float(x.min()) - margin, 1e-9), float(x.max()) + margin)
    return [marks.dashed(across, float(values.mean()))]


def _ring(size: SizeResults, panel: Panel, recommendation: Recommendation | None) -> Traces:
    if recommendation is None:
        return []
    at = recommendation[panel.x.name].value, recommendation[panel.y.name].value
    return [marks.ring(size, recommendation, *at)]


def _full_ring(size: SizeResults, panel: Panel, recommendation: Recommendation | None) -> Traces:
    """The recommended point where it is at full budget; else, in another colour, what the policy takes."""
    if recommendation is None or not stops_early(recommendation, size):
        return _ring(size, panel, recommendation)
    other = recommendation.equal_budget
    if other is None:
        return []
    name = f"at equal budget: {html.escape(training_words(size.declared, other.method, other.chosen))}"
    return [marks.circled(name, theme.INK, other[panel.x.name], other[panel.y.name])]


def _paths(size: SizeResults, points: pd.DataFrame, panel: Panel) -> Traces:
    """Each training's way from stopping point to stopping point, a thin line in its method's colour."""
    traces = []
    for method, group in marks.by_method(points):
        x_values: list[float | None] = []
        y_values: list[float | None] = []
        for _, training in group.sort_values("images_seen").groupby(configuration(group)):
            x_values += [*training[panel.x.name].tolist(), None]
            y_values += [*training[panel.y.name].tolist(), None]
        line = {"width": 1, "color": theme.translucent(look(size.declared, method).colour, 0.4)}
        path = go.Scatter(x=x_values, y=y_values, mode="lines", line=line, showlegend=False, hoverinfo="skip")
        traces.append(path)
    return traces


def _stop_marker(drawn: Look, budgets: "pd.Series[float]") -> dict[str, Any]:
    """Small and hollow where a training stops early, large and filled at its full budget."""
    return {
        "opacity": 1.0,
        "size": (6 + 5 * budgets.clip(0, 1)).tolist(),
        "symbol": drawn.symbol,
        "color": [drawn.colour if budget >= 1 else theme.PAPER for budget in budgets],
        "line": {"width": 1.5, "color": drawn.colour},
    }
