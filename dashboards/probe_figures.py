"""The figure of denoising probes: at which noise levels, and from when, a model memorizes."""

import html
import math
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from pareto_amb.config import PROBED_LEVELS
from pareto_amb.dashboards import axes, theme
from pareto_amb.dashboards.answer import stop_of
from pareto_amb.dashboards.formats import level, number
from pareto_amb.dashboards.wording import called
from pareto_amb.declared import BASELINE
from pareto_amb.results.probes import LEVELS, mean_gaps
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.size import SizeResults

NOTICED = 1.1
"""A gap from which on the caption says that a model knows the training images."""


@dataclass(frozen=True)
class ProbedTraining:
    """One model: the gap by noise level, by the share of the budget it was measured at.

    `name` is for sentences, `heading` stands above its panel.
    """

    name: str
    heading: str
    gaps: dict[float, dict[float, float]]


def probed_trainings(size: SizeResults, recommendation: Recommendation | None) -> list[ProbedTraining]:
    """DDPM, the mean of its seeds, and the recommended training up to where it stops, if they were probed."""
    rows = size.frame[size.frame.status != "failed"]
    ddpm = rows[rows.method == BASELINE]
    seeds = ddpm.seed.nunique()
    found = [
        ProbedTraining("DDPM", f"DDPM, {seeds} {'seed' if seeds == 1 else 'seeds'}", gaps_by_budget(ddpm))
    ]
    if recommendation is not None and recommendation.method != BASELINE:
        chosen = rows[rows.trial_id == recommendation.trial_id]
        if len(chosen):
            chosen = chosen[chosen.images_seen <= stop_of(recommendation, size)]
        name = "the recommended training" if recommendation.advised else "the best trial"
        found.append(ProbedTraining(name, called(recommendation), gaps_by_budget(chosen)))
    return [training for training in found if training.gaps]


def gaps_by_budget(rows: pd.DataFrame) -> dict[float, dict[float, float]]:
    """The gaps by noise level at each share of the budget that `rows` were probed at; means over seeds."""
    means = {float(budget): mean_gaps(group) for budget, group in rows.groupby("budget")}
    return {budget: gaps for budget, gaps in means.items() if gaps}


def collapse_level(size: SizeResults) -> float:
    """The collapse level that the probed levels lie around, to about three digits, EDM units."""
    probed = size.frame[LEVELS][size.frame[LEVELS].map(len) > 0]
    return float(probed.iloc[0][0]) / PROBED_LEVELS[0]


def probe_figure(size: SizeResults, trainings: list[ProbedTraining]) -> go.Figure:
    """The gap over the noise level, a panel a training, a line a rung: the fainter the earlier."""
    figure = make_subplots(
        rows=1,
        cols=len(trainings),
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=[html.escape(training.heading) for training in trainings],
    )
    budgets = sorted({budget for training in trainings for budget in training.gaps})
    steps = [0.0 if len(budgets) == 1 else k / (len(budgets) - 1) for k in range(len(budgets))]
    colours = dict(zip(budgets, sample_colorscale(theme.ACCENT_SCALE, steps), strict=True))
    levels = sorted({sigma for training in trainings for gaps in training.gaps.values() for sigma in gaps})
    low, high = levels[0] / 1.15, levels[-1] * 1.15
    axis = {"type": "log", "range": [math.log10(low), math.log10(high)], **axes.noise_ticks(low, high)}
    named: set[float] = set()
    for place, training in enumerate(trainings, start=1):
        for budget, gaps in training.gaps.items():
            line = _line(training, budget, gaps, colours[budget]).update(showlegend=budget not in named)
            figure.add_trace(line, row=1, col=place)
            named.add(budget)
        title = f"σ {axes.NOISE_UNITS}" if len(trainings) == 1 else "σ (EDM units; VP below)"
        figure.update_xaxes(row=1, col=place, title_text=title, **axis)
        _mark_collapse_level(figure, place, collapse_level(size))
    figure.add_hline(y=1, line={"width": 1, "color": theme.MUTED})
    figure.update_annotations(font_size=13)
    figure.update_layout(template=theme.TEMPLATE, height=400, legend={"y": 1.12})
    figure.update_yaxes(type="log")
    figure.update_yaxes(col=1, title_text="held-out error /<br>training error")
    return figure


def _mark_collapse_level(figure: go.Figure, place: int, sigma: float) -> None:
    """Plotly would put the name of a line at its value on a logarithmic axis, not at its logarithm."""
    figure.add_vline(x=sigma, line={"width": 1.5, "dash": "dot", "color": theme.INK}, row=1, col=place)
    figure.add_annotation(
        x=math.log10(sigma), y=1, yref="y domain" if place == 1 else f"y{place} domain", text="σ_c",
        showarrow=False, xanchor="left", yanchor="top", xshift=3, row=1, col=place,
    )  # fmt: skip


def _line(training: ProbedTraining, budget: float, gaps: dict[float, float], colour: str) -> go.Scatter:
    return go.Scatter(
        x=list(gaps),
        y=list(gaps.values()),
        mode="lines+markers",
        line={"width": 2, "color": colour},
        marker={"size": 6, "color": colour},
        name=f"{_share(budget)} of the budget",
        legendgroup=f"{budget}",
        hovertext=[
            f"<b>{html.escape(training.heading)}</b><br>{_share(budget)} of the budget, σ {level(sigma)}<br>"
            f"held-out error {number(gap, 3)} times the training error"
            for sigma, gap in gaps.items()
        ],
        hoverinfo="text",
    )


def probe_caption(size: SizeResults, trainings: list[ProbedTraining]) -> str:
    """How to read the figure, and what it shows."""
    return " ".join(
        (
            "How many times as large the denoising error is on held-out images as on training images, by "
            "noise level: about 1 where the model treats both alike, above 1 where it knows those it saw; "
            "one line a measurement, the fainter the earlier. Nothing is generated for it.",
            *map(_seen, trainings),
            f"Dotted: the collapse level σ_c = {level(collapse_level(size))} of the training images; the "
            "probed levels lie around it.",
        )
    )


def _seen(training: ProbedTraining) -> str:
    """Where and when a model was first seen to know its training images, and how well in the end."""
    name = training.name[0].upper() + training.name[1:]
    last = max(training.gaps)
    sigma, gap = max(training.gaps[last].items(), key=lambda found: found[1])
    first = next((budget for budget, gaps in training.gaps.items() if max(gaps.values()) > NOTICED), None)
    if first is None:
        return f"{name}: nowhere above {NOTICED:g}, up to {_share(last)} of the budget."
    begun = [level(at) for at, found in training.gaps[first].items() if found > NOTICED]
    where = f"σ {begun[0]}" if len(begun) == 1 else f"σ {begun[0]} to {begun[-1]}"
    return (
        f"{name}: above {NOTICED:g} from {_share(first)} of the budget on, first at {where}; "
        f"at {_share(last)}, {number(gap, 3)} at σ {level(sigma)}."
    )


def _share(budget: float) -> str:
    """A share of the budget, such as `6.25%`."""
    return f"{100 * budget:.3g}%"
