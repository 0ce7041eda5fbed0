"""What the parameters of the methods do: one against the objectives, and two together."""

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pareto_amb.dashboards import axes, marks, theme
from pareto_amb.dashboards.answer import stop_of
from pareto_amb.dashboards.formats import clipped, copying_first, count, is_percentage
from pareto_amb.dashboards.looks import look
from pareto_amb.declared import BASELINE, Parameter
from pareto_amb.results.baseline import Baseline
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.size import SizeResults

SIMILARITY = "similarity_mean"


def parameter_figure(
    size: SizeResults, parameter: Parameter, fid_encoder: str, recommendation: Recommendation | None = None
) -> go.Figure:
    """A parameter against every objective and the mean similarity, with DDPM's band behind each.

    Methods without it have no place on this axis.
    """
    shown = _shown(size, recommendation)
    trials = marks.with_parameter(size, shown.points, parameter.name)
    objectives = copying_first(size.objectives)
    panels = [*(objective.name for objective in objectives), SIMILARITY]
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.045)
    span = axes.parameter_span(parameter, trials[parameter.name])
    for row, metric in enumerate(panels, start=1):
        _add_band(figure, size, shown, metric, span, row)
        _add_points(figure, size, trials, (parameter.name, metric), row)
        if recommendation is not None and recommendation.main == parameter.name:
            _mark_recommended(figure, size, shown.points, (parameter, metric), recommendation, row)
    for row, metric in enumerate(panels, start=1):
        _add_heldout(figure, size, metric, span, row)
    figure.update_layout(template=theme.TEMPLATE, height=10 + 250 * len(panels))
    figure.update_xaxes(**axes.parameter_axis(parameter, *span))
    figure.update_xaxes(title_text=axes.parameter_title(parameter), row=len(panels), col=1)
    for row, objective in enumerate(objectives, start=1):
        title = axes.objective_title(objective, fid_encoder, gap="<br>", copies="<br>(share > τ)")
        figure.update_yaxes(row=row, col=1, title_text=title, **axes.objective_axis(shown.points, objective))
    figure.update_yaxes(row=len(panels), col=1, title_text="mean similarity<br>to nearest")
    return figure


def two_parameters_figure(
    size: SizeResults,
    across: Parameter,
    up: Parameter,
    fid_encoder: str,
    recommendation: Recommendation | None = None,
) -> go.Figure:
    """Two parameters of a method, coloured by memorization, sized by closeness to the best FID."""
    points = at_the_answer(size, recommendation)
    trials = marks.with_parameter(size, points, up.name).sort_values("memorization", ascending=False)
    marker = {
        "size": _quality_sizes(trials.fid),
        "color": trials.memorization.tolist(),
        "coloraxis": "coloraxis",
        "line": marks.OUTLINE,
    }
    name = f"larger: better FID ({fid_encoder})"
    drawn = marks.points(size, trials, name, marker, across.name, up.name)
    figure = go.Figure(drawn.update(showlegend=False))
    if recommendation is not None and {across.name, up.name} <= set(recommendation.parameters):
        at = recommendation.parameters[across.name], recommendation.parameters[up.name]
        figure.add_trace(marks.ring(size, recommendation, *at))
    colour_bar = theme.colour_bar("memorization") | {"tickformat": "~%"}
    figure.update_layout(
        template=theme.TEMPLATE,
        height=440,
        coloraxis={"colorscale": theme.COPYING_SCALE, "cmin": 0, "colorbar": colour_bar},
        showlegend=True,
    )
    span = axes.parameter_span(across, trials[across.name])
    figure.update_xaxes(title_text=axes.parameter_title(across), **axes.parameter_axis(across, *span))
    figure.update_yaxes(title_text=axes.parameter_title(up))
    if up.kind == "share":
        figure.update_yaxes(range=[-0.03, 1.03], tickformat="~%" if is_percentage(up) else None)
    else:
        span = axes.parameter_span(up, trials[up.name])
        figure.update_yaxes(**axes.parameter_axis(up, *span))
    return figure


def at_the_answer(size: SizeResults, recommendation: Recommendation | None) -> pd.DataFrame:
    """The points of full trainings or, where the answer was sought over all stopping points, at its own."""
    return _shown(size, recommendation).points


@dataclass(frozen=True)
class _Shown:
    """The points of a figure, and the rows of DDPM that they are held against with what these come to."""

    points: pd.DataFrame
    ddpm: pd.DataFrame
    baseline: Baseline | None
    ddpm_name: str


def _shown(size: SizeResults, recommendation: Recommendation | None) -> _Shown:
    """Full trainings or, where the answer was sought over all stopping points, those stopped where it is."""
    if recommendation is None or recommendation.budget == "full":
        baseline = size.baseline if size.has_baseline else None
        return _Shown(size.points, size.full[size.full.method == BASELINE], baseline, "DDPM")
    stops, best = size.over("any"), recommendation.baseline
    points = stops.points[stops.points.images_seen == stop_of(recommendation, size)]
    ddpm = stops.rows[stops.rows.method == BASELINE]
    name = f"DDPM after {count(stop_of(best, size))} images"
    return _Shown(points, ddpm[ddpm.images_seen == stop_of(best, size)], best, name)


def _add_band(
    figure: go.Figure, size: SizeResults, shown: _Shown, metric: str, across: tuple[float, float], row: int
) -> None:
    """DDPM's mean over its seeds, and its interval; of no objective, twice their standard deviation."""
    values = shown.ddpm[metric].dropna()
    if values.empty or shown.baseline is None:
        return
    objective = size.declared.objectives.get(metric)
    mean = float(values.mean())
    if objective:
        low, high = clipped(objective, shown.baseline[metric])
    else:
        margin = 2 * float(values.std(ddof=1)) if len(values) > 1 else 0.0
        low, high = max(mean - margin, 0.0), mean + margin
    shared = {"legendgroup": "ddpm", "hoverinfo": "skip", "mode": "lines"}
    line = {"x": list(across), "y": [mean, mean]}
    band = {"x": [*across, *across[::-1]], "y": [low, low, high, high], "line": {"width": 0}}
    filled = {"fill": "toself", "fillcolor": theme.translucent(theme.DDPM, 0.14)}
    figure.add_trace(go.Scatter(**band, **filled, showlegend=False, **shared), row=row, col=1)
    name = f"{shown.ddpm_name}{' over its seeds' if len(values) > 1 else ', one seed'}"
    drawn = {"width": 2, "color": theme.DDPM}
    figure.add_trace(go.Scatter(**line, line=drawn, name=name, showlegend=row == 1, **shared), row=row, col=1)


def _add_heldout(
    figure: go.Figure, size: SizeResults, metric: str, across: tuple[float, float], row: int
) -> None:
    column = f"heldout_{metric}"
    values = size.full[column].dropna() if column in size.full else pd.Series(dtype=float)
    if len(values):
        figure.add_trace(marks.dashed(across, float(values.mean()), row == 1), row=row, col=1)


def _add_points(
    figure: go.Figure, size: SizeResults, trials: pd.DataFrame, at: tuple[str, str], row: int
) -> None:
    x, y = at
    for method, group in marks.by_method(trials[trials[y].notna()]):
        drawn = look(size.declared, method)
        marker = marks.plain_marker(drawn) | {"size": 9, "line": {"width": 1, "color": "#FFFFFF"}}
        points = marks.points(size, group, drawn.label, marker, x, y)
        figure.add_trace(points.update(legendgroup=method, showlegend=row == 1), row=row, col=1)


def _mark_recommended(
    figure: go.Figure,
    size: SizeResults,
    points: pd.DataFrame,
    at: tuple[Parameter, str],
    recommendation: Recommendation,
    row: int,
) -> None:
    """The window that beats DDPM, shaded, and the recommended point, ringed."""
    parameter, metric = at
    if recommendation.window is not None:
        low, high = _widened(parameter, *recommendation.window)
        wash = theme.translucent(theme.RECOMMENDED, 0.1)
        figure.add_vrect(x0=low, x1=high, fillcolor=wash, line_width=0, layer="below", row=row, col=1)
    x = recommendation.parameters[parameter.name]
    line = {"color": theme.RECOMMENDED, "width": 1.5, "dash": "dot"}
    figure.add_vline(x=x, line=line, row=row, col=1)
    chosen = points[points.trial_id == recommendation.trial_id][metric].dropna()
    if len(chosen):
        ring = marks.ring(size, recommendation, x, float(chosen.iloc[0]))
        ring.update(marker_size=20, legendgroup="recommended", showlegend=row == 1)
        figure.add_trace(ring, row=row, col=1)


def _widened(parameter: Parameter, low: float, high: float) -> tuple[float, float]:
    """A window a little wider, so that one of a single value can be seen."""
    if parameter.log:
        return low / 1.015, high * 1.015
    margin = 0.01 * max(abs(low), abs(high))
    return low - margin, high + margin


def _quality_sizes(fid: "pd.Series[float]") -> list[float]:
    """Marker diameters, (n,): 22 px for the best FID, 8 px for the worst."""
    if fid.empty:
        return []
    ranks = fid.rank(method="average", ascending=False)
    return [8.0 + 14.0 * float(rank - 1) / max(len(fid) - 1, 1) for rank in ranks]
