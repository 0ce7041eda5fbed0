"""The figures of a report: each takes a results table and one train size, never two at once."""

import html
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards import theme
from dashboards.wording import chosen, count, level, level_vp, method_name, number, percent
from pareto_amb.diffusion.units import sigma_to_vp
from pareto_amb.results import parameters_of
from pareto_amb.search.frontier import BASELINE, comparable, frontier
from pareto_amb.search.recommend import Recommendation, summarize_baseline
from pareto_amb.search.uncertainty import frontier_points

SYMBOLS = ("circle", "square", "triangle-up", "diamond-wide", "pentagon")
LOG_FROM = 20.0
"""An FID axis becomes logarithmic when its largest value is this many times the smallest."""


def frontier_figure(
    results: pd.DataFrame,
    train_size: int,
    fid_encoder: str,
    recommendation: Recommendation | None = None,
) -> go.Figure:
    """FID against memorization at full budget: every completed trial, DDPM's spread, the front."""
    rows = comparable(results, train_size)
    points = frontier_points(results, train_size)
    trials = points[points.method != BASELINE]
    shaded = trials[~trials.method.isin(theme.OTHER_METHODS)]
    figure = go.Figure()
    _add_baseline_box(figure, results, train_size)
    _add_error_bars(figure, trials)
    _add_search_figures(figure, rows, trials)
    _add_front(figure, frontier(results, train_size), "front at full budget")
    for symbol, (method, group) in zip(SYMBOLS * len(trials), _by_method(trials), strict=False):
        if method in theme.OTHER_METHODS:
            look = _plain_marker(method, symbol)
            figure.add_trace(_points(group, method_name(method), look))
        else:
            figure.add_traces(_noise_coloured(group, method_name(method), symbol))
    _add_baseline_seeds(figure, rows)
    _add_heldout_line(figure, rows)
    _add_ring(figure, recommendation)
    figure.update_layout(template=theme.TEMPLATE, height=520, coloraxis=_noise_axis(shaded))
    _set_fid_axis(figure, rows, fid_encoder)
    figure.update_yaxes(**memorization_axis(rows))
    return figure


def sigma_figure(
    results: pd.DataFrame,
    train_size: int,
    fid_encoder: str,
    recommendation: Recommendation | None = None,
) -> go.Figure:
    """sigma_tn against memorization, FID and mean similarity, with DDPM's band behind each.

    Methods without a sigma_tn have no place on this axis.
    """
    rows = comparable(results, train_size)
    trials = with_parameter(frontier_points(results, train_size), "sigma_tn")
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.045)
    low, high = _noise_range(trials)
    panels = ("memorization", "fid", "similarity_mean")
    for row, metric in enumerate(panels, start=1):
        _add_band(figure, rows, metric, (low, high), row)
        _add_panel_points(figure, trials, metric, row)
        _mark_recommended(figure, trials, metric, recommendation, row)
    for row, column in ((1, "heldout_memorization"), (3, "heldout_similarity_mean")):
        _add_level(figure, rows[column].dropna(), (low, high), row)
    figure.update_layout(template=theme.TEMPLATE, height=760)
    axis = noise_ticks(low, high)
    figure.update_xaxes(type="log", range=[math.log10(low), math.log10(high)], **axis)
    figure.update_xaxes(title_text=NOISE_TITLE, row=3, col=1)
    memorization = memorization_axis(rows) | {"title": {"text": "memorization<br>(share > τ)"}}
    figure.update_yaxes(row=1, col=1, **memorization)
    fid_type = "log" if is_wide_range(rows.fid) else "linear"
    figure.update_yaxes(row=2, col=1, type=fid_type, title_text=f"FID<br>({fid_encoder})")
    figure.update_yaxes(row=3, col=1, title_text="mean similarity<br>to nearest")
    return figure


def any_budget_figure(
    results: pd.DataFrame,
    train_size: int,
    fid_encoder: str,
    recommendation: Recommendation | None = None,
) -> go.Figure:
    """FID against memorization over every rung of every trial: budgets are mixed on purpose."""
    rows = comparable(results, train_size, "any")
    figure = go.Figure()
    _add_paths(figure, rows)
    _add_front(figure, frontier(results, train_size, "any"), "front over all budgets")
    budgets = sorted(set(rows.budget))
    for method, group in _by_method(rows):
        for position, budget in enumerate(budgets):
            at_budget = group[group.budget == budget]
            if len(at_budget):
                name = f"{method_name(method)}, {budget:.0%} of budget"
                look = _budget_marker(method, position, len(budgets))
                figure.add_trace(_points(at_budget, name, look))
    _add_ring(figure, recommendation)
    figure.update_layout(template=theme.TEMPLATE, height=540)
    _set_fid_axis(figure, rows, fid_encoder)
    figure.update_yaxes(**memorization_axis(rows))
    return figure


def mix_figure(
    results: pd.DataFrame,
    train_size: int,
    fid_encoder: str,
    recommendation: Recommendation | None = None,
) -> go.Figure:
    """mix ratio against sigma_tn, coloured by memorization, sized by closeness to the best FID."""
    trials = with_parameter(comparable(results, train_size), "mix_ratio")
    trials = trials.sort_values("memorization", ascending=False)
    figure = go.Figure()
    marker = {
        "size": _quality_sizes(trials.fid),
        "color": trials.memorization.tolist(),
        "coloraxis": "coloraxis",
        "line": {"width": 1, "color": theme.INK},
    }
    points = _points(trials, f"larger: better FID ({fid_encoder})", marker, "sigma_tn", "mix_ratio")
    figure.add_trace(points.update(showlegend=False))
    if recommendation is not None:
        _add_ring(figure, recommendation, at=(recommendation.sigma_tn, recommendation.mix_ratio))
    low, high = _noise_range(trials)
    colour_bar = theme.colour_bar("memorization") | {"tickformat": "~%"}
    figure.update_layout(
        template=theme.TEMPLATE,
        height=440,
        coloraxis={"colorscale": theme.COPYING_SCALE, "cmin": 0, "colorbar": colour_bar},
        showlegend=True,
    )
    figure.update_xaxes(
        type="log",
        title_text=NOISE_TITLE,
        range=[math.log10(low), math.log10(high)],
        **noise_ticks(low, high),
    )
    figure.update_yaxes(title_text="mix ratio", range=[-0.03, 1.03])
    return figure


NOISE_UNITS = f"(EDM units; <span style='color:{theme.MUTED}'>VP units below each</span>)"
NOISE_TITLE = f"σ_tn {NOISE_UNITS}"


def with_parameter(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of methods whose trials differ in the column `name`."""
    methods = [method for method in rows.method.unique() if name in parameters_of(str(method))]
    return rows[rows.method.isin(methods)]


def _by_method(rows: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    return ((str(method), group) for method, group in rows.groupby("method", sort=True))


def _points(
    rows: pd.DataFrame, name: str, marker: dict[str, Any], x: str = "fid", y: str = "memorization"
) -> go.Scatter:
    return go.Scatter(
        x=rows[x].tolist(),
        y=rows[y].tolist(),
        mode="markers",
        name=html.escape(name),
        marker=marker,
        hovertext=[hover_text(row) for row in rows.to_dict("records")],
        hoverinfo="text",
    )


def hover_text(row: dict[Any, Any]) -> str:
    """What a point says when pointed at; Plotly reads tags in it, so names are escaped."""
    fid, memorization = number(row["fid"], 4), percent(row["memorization"])
    if "fid_sd" in row:
        fid += f" ± {number(2 * row['fid_sd'], 2)}"
        memorization += f" ± {percent(2 * row['memorization_sd'])}"
    lines = [
        f"<b>{html.escape(str(row['trial_id']))}</b>",
        f"FID {fid} · memorization {memorization}",
        f"seed {row['seed']} · {count(row['images_seen'])} images ({row['budget']:.0%}) · "
        f"{count(row['n_samples'])} samples",
    ]
    if row["method"] != BASELINE:
        lines.insert(1, chosen(row))
    if row.get("confirmed"):
        lines.append(f"mean of {row['seeds']} fresh {'seed' if row['seeds'] == 1 else 'seeds'}")
    if "p_front" in row:
        lines.append(f"on the front in {row['p_front']:.0%} of redraws")
    return "<br>".join(lines)


def _plain_marker(method: str, symbol: str) -> dict[str, Any]:
    outline = {"width": 1, "color": theme.INK}
    return {"size": 11, "symbol": symbol, "color": theme.method_colour(method), "line": outline}


def _noise_coloured(rows: pd.DataFrame, name: str, symbol: str) -> list[go.Scatter]:
    """The points, shaded by sigma_tn, and an empty trace that gives the legend its plain colour."""
    marker = {"size": 11, "symbol": symbol, "line": {"width": 1, "color": theme.INK}}
    shades = np.log10(rows.sigma_tn.clip(lower=1e-6)).tolist()
    points = _points(rows, name, marker | {"color": shades, "coloraxis": "coloraxis"})
    points.update(legendgroup=name, showlegend=False)
    key = _points(rows.iloc[:0], name, marker | {"color": theme.ALGORITHM1})
    key.update(x=[None], y=[None], legendgroup=name, showlegend=True)
    return [points, key]


def _noise_axis(trials: pd.DataFrame) -> dict[str, Any]:
    low, high = _noise_range(trials)
    ticks = _nice_levels(low, high)
    return {
        "colorscale": theme.NOISE_SCALE,
        "cmin": math.log10(low),
        "cmax": math.log10(high),
        "colorbar": theme.colour_bar("σ_tn (EDM)")
        | {
            "tickvals": [math.log10(tick) for tick in ticks],
            "ticktext": [f"{tick:g}" for tick in ticks],
        },
    }


def _add_baseline_box(figure: go.Figure, results: pd.DataFrame, train_size: int) -> None:
    rows = comparable(results, train_size)
    if (rows.method == BASELINE).sum() < 2:
        return
    spread = summarize_baseline(results, train_size)
    left, right = max(spread.fid.low, 0.0), spread.fid.high
    bottom, top = max(spread.memorization.low, 0.0), min(spread.memorization.high, 1.0)
    figure.add_trace(
        go.Scatter(
            x=[left, right, right, left, left],
            y=[bottom, bottom, top, top, bottom],
            mode="lines",
            fill="toself",
            fillcolor=theme.translucent(theme.DDPM, 0.13),
            line={"width": 1, "color": theme.translucent(theme.DDPM, 0.5)},
            name="DDPM mean ± 2 s.d. over seeds",
            hoverinfo="skip",
        )
    )


def _add_baseline_seeds(figure: go.Figure, rows: pd.DataFrame) -> None:
    seeds = rows[rows.method == BASELINE]
    if seeds.empty:
        return
    outline = {"width": 1, "color": theme.INK}
    look = {"size": 11, "symbol": "diamond", "color": theme.DDPM, "line": outline}
    figure.add_trace(_points(seeds, "DDPM, one point a seed", look))
    if len(seeds) > 1:
        figure.add_trace(
            go.Scatter(
                x=[seeds.fid.mean()],
                y=[seeds.memorization.mean()],
                mode="markers",
                name="DDPM mean",
                marker={"size": 13, "symbol": "x-thin", "line": {"width": 2.5, "color": theme.INK}},
                hovertext=[
                    f"DDPM mean of {len(seeds)} seeds<br>FID {number(seeds.fid.mean(), 4)} · "
                    f"memorization {percent(seeds.memorization.mean())}"
                ],
                hoverinfo="text",
            )
        )


def _add_front(figure: go.Figure, front: pd.DataFrame, name: str) -> None:
    """The attained surface: at each FID, the least memorization any point reaches."""
    if front.empty:
        return
    figure.add_trace(
        go.Scatter(
            x=front.fid.tolist(),
            y=front.memorization.tolist(),
            mode="lines",
            line={"shape": "hv", "width": 2, "color": theme.INK},
            name=name,
            hoverinfo="skip",
        )
    )


def _add_error_bars(figure: go.Figure, points: pd.DataFrame) -> None:
    """Twice the standard deviation to every side, below the markers."""
    if points.empty:
        return
    look = {"type": "data", "thickness": 1, "width": 0, "color": theme.translucent(theme.INK, 0.3)}
    sides = {name: (2 * points[f"{name}_sd"]).tolist() for name in ("fid", "memorization")}
    down = np.minimum(points.memorization, sides["memorization"])
    figure.add_trace(
        go.Scatter(
            x=points.fid.tolist(),
            y=points.memorization.tolist(),
            mode="markers",
            marker={"size": 8, "symbol": "cross-thin", "line": {"width": 1, "color": look["color"]}},
            error_x=look | {"array": sides["fid"]},
            error_y=look | {"symmetric": False, "array": sides["memorization"], "arrayminus": down.tolist()},
            name="± 2 s.d. of a point",
            hoverinfo="skip",
        )
    )


def _add_search_figures(figure: go.Figure, rows: pd.DataFrame, points: pd.DataFrame) -> None:
    """Where the search had seen the trials that fresh seeds confirmed, each tied to where these see it."""
    confirmed = points[points.confirmed].set_index("trial_id")
    before = rows[rows.trial_id.isin(confirmed.index)]
    if before.empty:
        return
    after = confirmed.loc[before.trial_id]
    ends = zip(before.to_dict("records"), after.fid, after.memorization, strict=True)
    steps = [((row["fid"], x, None), (row["memorization"], y, None), row) for row, x, y in ends]
    figure.add_trace(
        go.Scatter(
            x=[x for xs, _, _ in steps for x in xs],
            y=[y for _, ys, _ in steps for y in ys],
            mode="lines+markers",
            line={"width": 1, "dash": "dot", "color": theme.ALGORITHM1},
            marker={
                "size": [9, 0, 0] * len(steps),
                "color": theme.PAPER,
                "line": {"width": 1.5, "color": theme.ALGORITHM1},
            },
            name="in the search, before fresh seeds",
            hovertext=[text for *_, row in steps for text in (f"in the search<br>{hover_text(row)}", "", "")],
            hoverinfo="text",
        )
    )


def _add_heldout_line(figure: go.Figure, rows: pd.DataFrame) -> None:
    """The held-out yardstick across the whole plot."""
    values = rows.heldout_memorization.dropna()
    if values.empty:
        return
    margin = 0.04 * max(float(np.ptp(rows.fid)), 1e-3)
    across = (max(float(rows.fid.min()) - margin, 1e-9), float(rows.fid.max()) + margin)
    figure.add_trace(_dashed(across, float(values.mean())))


def _dashed(across: tuple[float, float], height: float, showlegend: bool = True) -> go.Scatter:
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


def _add_ring(
    figure: go.Figure,
    recommendation: Recommendation | None,
    at: tuple[float, float] | None = None,
) -> None:
    if recommendation is None:
        return
    x, y = at or (recommendation.fid.value, recommendation.memorization.value)
    figure.add_trace(
        go.Scatter(
            x=[x],
            y=[y],
            mode="markers",
            name=f"recommended: σ_tn {level(recommendation.sigma_tn)}",
            marker={
                "size": 24,
                "symbol": "circle-open",
                "line": {"width": 3.5, "color": theme.RECOMMENDED},
                "color": theme.RECOMMENDED,
            },
            hoverinfo="skip",
            cliponaxis=False,
        )
    )


def _add_paths(figure: go.Figure, rows: pd.DataFrame) -> None:
    """Each trial's way from rung to rung, a thin line in its method's colour."""
    for method, group in _by_method(rows):
        x: list[float | None] = []
        y: list[float | None] = []
        for _, trial in group.sort_values("images_seen").groupby("trial_id"):
            x += [*trial.fid.tolist(), None]
            y += [*trial.memorization.tolist(), None]
        line = {"width": 1, "color": theme.translucent(theme.method_colour(method), 0.4)}
        figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, showlegend=False, hoverinfo="skip"))


def _budget_marker(method: str, position: int, budgets: int) -> dict[str, Any]:
    """Small and hollow for the first rung, large and filled for the last."""
    colour = theme.method_colour(method)
    symbols = {BASELINE: "diamond"} | dict(zip(theme.OTHER_METHODS, SYMBOLS[1:], strict=False))
    filled = position / max(budgets - 1, 1)
    hollow = filled == 0 and budgets > 1
    return {
        "size": 7 + 4 * filled,
        "symbol": symbols.get(method, SYMBOLS[0]),
        "color": theme.PAPER if hollow else theme.translucent(colour, 0.25 + 0.75 * filled),
        "line": {"width": 1.5, "color": colour},
    }


def _add_band(
    figure: go.Figure, rows: pd.DataFrame, metric: str, across: tuple[float, float], row: int
) -> None:
    values = rows[rows.method == BASELINE][metric].dropna()
    if values.empty:
        return
    mean = float(values.mean())
    margin = 2 * float(values.std(ddof=1)) if len(values) > 1 else 0.0
    low, high = max(mean - margin, 0.0), mean + margin
    shared = {"legendgroup": "ddpm", "hoverinfo": "skip", "mode": "lines"}
    line = {"x": list(across), "y": [mean, mean]}
    band = {"x": [*across, *across[::-1]], "y": [low, low, high, high], "line": {"width": 0}}
    filled = {"fill": "toself", "fillcolor": theme.translucent(theme.DDPM, 0.14)}
    figure.add_trace(go.Scatter(**band, **filled, showlegend=False, **shared), row=row, col=1)
    name = "DDPM mean ± 2 s.d. over seeds" if len(values) > 1 else "DDPM, one seed"
    look = {"width": 2, "color": theme.DDPM}
    figure.add_trace(go.Scatter(**line, line=look, name=name, showlegend=row == 1, **shared), row=row, col=1)


def _add_level(figure: go.Figure, values: Any, across: tuple[float, float], row: int) -> None:
    if len(values):
        figure.add_trace(_dashed(across, float(values.mean()), row == 1), row=row, col=1)


def _add_panel_points(figure: go.Figure, trials: pd.DataFrame, metric: str, row: int) -> None:
    known = trials[trials[metric].notna()]
    for symbol, (method, group) in zip(SYMBOLS * len(known), _by_method(known), strict=False):
        look = {
            "size": 9,
            "symbol": symbol,
            "color": theme.method_colour(method),
            "line": {"width": 1, "color": "#FFFFFF"},
        }
        points = _points(group, method_name(method), look, "sigma_tn", metric)
        points.update(legendgroup=method, showlegend=row == 1)
        figure.add_trace(points, row=row, col=1)


def _mark_recommended(
    figure: go.Figure,
    rows: pd.DataFrame,
    metric: str,
    recommendation: Recommendation | None,
    row: int,
) -> None:
    """The window of sigma_tn that beats DDPM, shaded, and the recommended point, ringed."""
    if recommendation is None:
        return
    if recommendation.window is not None:
        low, high = recommendation.window
        figure.add_vrect(
            x0=low / 1.015,
            x1=high * 1.015,
            fillcolor=theme.translucent(theme.RECOMMENDED, 0.1),
            line_width=0,
            layer="below",
            row=row,
            col=1,
        )
    figure.add_vline(
        x=recommendation.sigma_tn,
        line={"color": theme.RECOMMENDED, "width": 1.5, "dash": "dot"},
        row=row,
        col=1,
    )
    chosen = rows[rows.trial_id == recommendation.trial_id][metric].dropna()
    if len(chosen):
        ring = go.Figure()
        _add_ring(ring, recommendation, at=(recommendation.sigma_tn, float(chosen.iloc[0])))
        ring.data[0].update(marker_size=20, legendgroup="recommended", showlegend=row == 1)
        figure.add_trace(ring.data[0], row=row, col=1)


def _noise_range(trials: pd.DataFrame) -> tuple[float, float]:
    """The sigma_tn that the trials cover, a little wider; a decade around 1 without trials."""
    known = trials.sigma_tn[trials.sigma_tn > 0]
    if known.empty:
        return 0.3, 3.0
    low, high = float(known.min()), float(known.max())
    margin = max((high / low) ** 0.05, 1.08)
    return low / margin, high * margin


def _nice_levels(low: float, high: float) -> list[float]:
    """1-2-5 levels within [low, high], at most about eight; the geometric middle if none is."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        levels = [step * 10.0**decade for decade in decades for step in steps]
        inside = [float(f"{value:.3g}") for value in levels if low <= value <= high]
        if len(inside) <= 8:
            break
    return inside or [float(f"{math.sqrt(low * high):.2g}")]


def noise_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks that read in both units: EDM above, VP below it."""
    ticks = _nice_levels(low, high)
    text = [f"{t:g}<br><span style='color:{theme.MUTED}'>{_short_vp(t)}</span>" for t in ticks]
    return {"tickvals": ticks, "ticktext": text, "tickangle": 0, "tickfont": {"color": theme.INK}}


def _short_vp(sigma: float) -> str:
    """A VP level short enough for a tick: two decimals where they suffice."""
    converted = sigma_to_vp(sigma)
    return f"{converted:.2f}" if converted < 0.985 else level_vp(sigma)


def is_wide_range(values: "pd.Series[float]") -> bool:
    """Whether an axis of these values reads better in decades."""
    known = values[values > 0]
    return bool(len(known)) and float(known.max() / known.min()) > LOG_FROM


def _set_fid_axis(figure: go.Figure, rows: pd.DataFrame, encoder: str) -> None:
    kind = "log" if is_wide_range(rows.fid) else "linear"
    figure.update_xaxes(title_text=f"FID ({encoder})", type=kind)


def memorization_axis(rows: pd.DataFrame) -> dict[str, Any]:
    """The axis of memorization, its threshold in the title where all rows share one."""
    thresholds = rows.threshold.dropna().unique()
    tau = f"τ = {number(float(thresholds[0]), 3)}" if len(thresholds) == 1 else "τ"
    text = f"memorization: share of samples<br>with similarity > {tau}"
    axis: dict[str, Any] = {"title": {"text": text}, "tickformat": "~%", "rangemode": "tozero"}
    if not rows.memorization.max() > 0:
        axis["range"] = [-0.002, 0.05]
    return axis


def _quality_sizes(fid: "pd.Series[float]") -> list[float]:
    """Marker diameters, (n,): 22 px for the best FID, 8 px for the worst."""
    if fid.empty:
        return []
    ranks = fid.rank(method="average", ascending=False)
    return [8.0 + 14.0 * float(rank - 1) / max(len(fid) - 1, 1) for rank in ranks]
