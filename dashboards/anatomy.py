"""The page of `explain`: what a sweep's models, and the best possible ones, do at each noise level."""

import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from pareto_amb.dashboards import axes, formats, theme
from pareto_amb.dashboards.gallery import data_uri
from pareto_amb.dashboards.looks import look
from pareto_amb.dashboards.page import render_page
from pareto_amb.dashboards.probe_figures import (
    ProbedTraining,
    gaps_by_budget,
    probe_caption,
    probe_figure,
    probed_trainings,
)
from pareto_amb.dashboards.provenance import checksum, made_here
from pareto_amb.dashboards.wording import called
from pareto_amb.declared import BASELINE
from pareto_amb.printable import printable
from pareto_amb.storage import write_text, writing

if TYPE_CHECKING:
    from pareto_amb.anatomy.measure import Anatomy, Portrait
    from pareto_amb.anatomy.subject import Model
    from pareto_amb.evaluation.intervals import Estimate

TEMPLATE = "anatomy.html.jinja"
LARGEST_PORTRAIT = 96
"""Larger pictures are shown with this many pixels a side."""


@dataclass(frozen=True)
class Strip:
    """A row of pictures, data URIs: what one denoiser makes of an image at each level."""

    name: str
    note: str
    pictures: list[str]


@dataclass(frozen=True)
class Plot:
    """One figure on the page, its Plotly JSON."""

    key: str
    title: str
    caption: str
    spec: dict[str, Any]


def write_anatomy(
    anatomy: "Anatomy", path: Path, environment: Mapping[str, Any] | None = None, redacted: bool = False
) -> None:
    """Write the page, whole or not at all. UserError when the place cannot be written.

    `environment` is what made it, as `describe_environment` has it. A `redacted` page has no paths of this
    machine.
    """
    with writing(path):
        write_text(path, render(anatomy, environment, redacted))


def render(anatomy: "Anatomy", environment: Mapping[str, Any] | None = None, redacted: bool = False) -> str:
    """The page as text."""
    subject = anatomy.subject
    of_run = {key: value for key, value in subject.run.environment if key.endswith("fingerprint")}
    results = [checksum(subject.run.directory.results)]
    return render_page(
        TEMPLATE,
        True,
        redacted,
        provenance=made_here({**(environment or {}), **of_run}, "denoising and sampling", results),
        run=printable(subject.run.name),
        images=printable(subject.image_set.name),
        train_size=formats.count(subject.size.train_size),
        recommended=subject.recommendation.summary,
        cautions=[
            f"Of the recommendation: {caution.sentence}" for caution in subject.recommendation.cautions
        ],
        facts=list(_facts(anatomy)),
        notes=[printable(note) for note in subject.notes],
        findings=findings(anatomy),
        levels=[(formats.level(s), formats.level_vp(s)) for s in anatomy.portrait_levels],
        portraits=[(_portrait_title(shown), _strips(anatomy, shown)) for shown in anatomy.portraits],
        originals=[data_uri(shown.image, largest=LARGEST_PORTRAIT) for shown in anatomy.portraits],
        plots={plot.key: plot for plot in _plots(anatomy)},
    )


def _name(anatomy: "Anatomy", model: "Model") -> str:
    """What a model is called in figures and sentences."""
    if model.key == "more":
        return f"DDPM on {formats.count(model.train_size)} images" if model.train_size else model.file
    declared = anatomy.subject.run.results.declared
    label = declared.method(model.method).label
    if model.sigma_tn:
        return f"{label} at σ_tn {formats.level(model.sigma_tn)}{_at_step(anatomy, model.sigma_tn)}"
    chosen = formats.chosen(declared, {"method": model.method, **model.parameters})
    return f"{label} ({chosen})" if chosen else label


def _at_step(anatomy: "Anatomy", *sigmas: float) -> str:
    """What stands behind a sigma_tn where the models know the steps of a schedule alone."""
    parameter = anatomy.subject.run.results.declared.parameters.get("sigma_tn")
    return parameter.at_step(*sigmas) if parameter else ""


def _facts(anatomy: "Anatomy") -> Iterator[tuple[str, str]]:
    """What was looked at, as pairs of a name and its value."""
    subject = anatomy.subject
    declared, recommendation = subject.run.results.declared, subject.recommendation
    for model in subject.models:
        heading = "DDPM"
        if model.key != "ddpm":
            heading = called(recommendation) if recommendation.method != BASELINE else "Best full training"
        chosen = formats.chosen(declared, {"method": model.method, **model.parameters})
        label = declared.method(model.method).label
        yield (
            heading,
            f"{printable(model.trial_id)}: {label}{f', {chosen}' if chosen else ''}; "
            f"one training, seed {model.seed}, after {formats.count(model.images_seen)} images",
        )
    if subject.more:
        yield "More data", printable(_name(anatomy, subject.more))
    level = anatomy.collapse_level
    yield "Collapse level σ_c", f"{formats.level(level)} EDM = {formats.level_vp(level)} VP"
    encoder = subject.encoder.name
    yield "A copy", f"similarity by {encoder} above {subject.threshold:.4f}, as in the run"


# --- what was found ---------------------------------------------------------------------------------


def findings(anatomy: "Anatomy") -> list[str]:
    """What the figures show, a sentence each, with intervals."""
    sentences = []
    for model in anatomy.compared:
        name = _name(anatomy, model)
        sentences += [_gap_words(anatomy, model.key, name), _basin_words(anatomy, model.key, name)]
    return [*sentences, _limit_words(anatomy)]


def _gap_words(anatomy: "Anatomy", key: str, name: str) -> str:
    opened, gaps = anatomy.opened(key), anatomy.gaps[key]
    if not opened:
        return (
            f"{name}: at no noise level is its error on held-out images larger than that on training images "
            "with the whole 95% interval."
        )
    where = f"σ {formats.level(opened[0])}"
    if len(opened) > 1:
        where += f" to {formats.level(opened[-1])}"
    most, at = max(zip(gaps, anatomy.gap_levels, strict=True), key=lambda found: found[0].value)
    return (
        f"{name}: its error on held-out images is larger than that on training images, with the whole 95% "
        f"interval, at {where}, most at σ {formats.level(at)}: {formats.number(most.value, 3)} times "
        f"({formats.number(most.low, 3)} to {formats.number(most.high, 3)})."
    )


def _basin_words(anatomy: "Anatomy", key: str, name: str) -> str:
    found = anatomy.basins[key]
    each = list(zip(anatomy.basin_levels, found.train, found.heldout, strict=True))
    drawn = [(level, ours, theirs) for level, ours, theirs in each if ours.low > theirs.high]
    if not drawn:
        return f"{name}: at no level does its sampler return to training images more than to held-out ones."
    level, ours, theirs = drawn[-1]
    return (
        f"{name}: up to σ {formats.level(level)} its sampler returns to training images more often than to "
        f"held-out ones: there in {_share(ours)} against {_share(theirs)} of the starts."
    )


def _limit_words(anatomy: "Anatomy") -> str:
    limit, of_each = anatomy.limit, f"of {formats.count(anatomy.limit_samples)} samples each"
    smoothed = [
        f"{_span(shares)} at {_reach(width)}"
        for width, shares in zip(limit.widths[1:], limit.shares[1:], strict=True)
    ]
    return (
        f"Where training ends: of exact optimal denoisers, DDPM's and Algorithm 1's at σ_tn "
        f"{formats.level(limit.sigmas[1])} to {formats.level(limit.sigmas[-1])}"
        f"{_at_step(anatomy, limit.sigmas[1], limit.sigmas[-1])}, {_span(limit.shares[0])} "
        f"{of_each} are copies; of smoothed ones {', '.join(smoothed)}, d = "
        f"{formats.number(limit.spacing, 3)} being the distance of an image to its nearest other one."
    )


def _share(found: "Estimate") -> str:
    low, high = formats.percent(found.low), formats.percent(found.high)
    return f"{formats.percent(found.value)} ({low} to {high})"


def _span(found: "Sequence[Estimate]") -> str:
    low, high = min(share.value for share in found), max(share.value for share in found)
    return formats.percent(low) if low == high else f"{formats.percent(low)} to {formats.percent(high)}"


# --- pictures -----------------------------------------------------------------------------------------


def _portrait_title(shown: "Portrait") -> str:
    return "A training image" if shown.trained_on else "A held-out image"


def _strips(anatomy: "Anatomy", shown: "Portrait") -> list[Strip]:
    subject = anatomy.subject
    names = {"noisy": ("With noise", "what all are given")}
    for model in [*subject.models, *([subject.more] if subject.more else [])]:
        names[model.key] = (printable(_name(anatomy, model)), "")
    names["optimal_ddpm"] = ("Optimal DDPM", "perfect training")
    names["optimal_ambient"] = ("Optimal Algorithm 1", "perfect training")
    return [
        Strip(*names[key], [data_uri(image, largest=LARGEST_PORTRAIT) for image in shown.rows[key]])
        for key in names
        if key in shown.rows
    ]


# --- figures --------------------------------------------------------------------------------------------


def _plots(anatomy: "Anatomy") -> Iterator[Plot]:
    yield _plot(
        "gap",
        "Where the models know their training images",
        "How many times as large the denoising error is on held-out images as on training images: 1 where a "
        "model treats both alike. Bands: 95% intervals over images and their noise, for one training of "
        "each; another seed would differ more. Dotted: the collapse level σ_c. Dashed: σ_tn, above which the "
        "model saw one noisy copy of each image.",
        gap_figure(anatomy),
    )
    subject = anatomy.subject
    trainings = probed_trainings(subject.size, None)
    rows = subject.size.frame[subject.size.frame.trial_id == subject.trial_id]
    if trainings and len(rows) and (gaps := gaps_by_budget(rows)):
        name = _name(anatomy, subject.models[-1])
        trainings.append(ProbedTraining(name, name, gaps))
    if trainings:
        figure = probe_figure(subject.size, trainings)
        yield _plot(
            "probes", "From when: the same over the training", probe_caption(subject.size, trainings), figure
        )
    yield _plot(
        "basins",
        "Basins: from where the sampler returns to an image",
        "Images with noise σ, sampled on from there: how many samples are a copy of the image they began at. "
        "At low σ every model returns to every image, since little is hidden. Where training images (full "
        "lines) are returned to and held-out images (dashed) are not, training images attract. Bands: 95% "
        f"intervals, over {formats.count(anatomy.starts)} starts a level, taken as independent.",
        basin_figure(anatomy),
    )
    yield _plot(
        "limit",
        "Optimal denoisers, and the trained ones beside them",
        _limit_caption(anatomy),
        limit_figure(anatomy),
    )


def _plot(key: str, title: str, caption: str, figure: go.Figure) -> Plot:
    return Plot(key, title, caption, json.loads(figure.to_json()))


def _noise_axis(figure: go.Figure, levels: Sequence[float], anatomy: "Anatomy") -> None:
    """A logarithmic axis of σ in both units, with the collapse level and σ_tn marked."""
    low, high = min(levels) / 1.15, max(levels) * 1.15
    figure.update_layout(template=theme.TEMPLATE, height=430)
    figure.update_xaxes(
        type="log",
        title_text=f"σ {axes.NOISE_UNITS}",
        range=[math.log10(low), math.log10(high)],
        **axes.noise_ticks(low, high),
    )
    marks = [("σ_c", anatomy.collapse_level, "dot", theme.INK)]
    sigma_tn = anatomy.compared[-1].sigma_tn
    if low < sigma_tn < high:
        marks.append(("σ_tn", sigma_tn, "dash", theme.RECOMMENDED))
    for text, sigma, dash, colour in marks:
        figure.add_vline(x=sigma, line={"width": 1.5, "dash": dash, "color": colour})
        figure.add_annotation(
            x=math.log10(sigma), y=1, yref="paper", text=text, showarrow=False, xanchor="left",
            yanchor="top", xshift=3, font={"color": colour},
        )  # fmt: skip


def _colour(anatomy: "Anatomy", model: "Model") -> str:
    return look(anatomy.subject.run.results.declared, model.method).colour


def _head(name: str, level: float) -> str:
    """How the text of a point begins."""
    return f"<b>{html.escape(name)}</b><br>σ {formats.level(level)} EDM = {formats.level_vp(level)} VP<br>"


def _band(x: Sequence[float], found: "Sequence[Estimate]", colour: str, group: str) -> go.Scatter:
    """What lies within the intervals."""
    known = [(at, each) for at, each in zip(x, found, strict=True) if math.isfinite(each.low)]
    return go.Scatter(
        x=[at for at, _ in known] + [at for at, _ in reversed(known)],
        y=[each.high for _, each in known] + [each.low for _, each in reversed(known)],
        fill="toself",
        fillcolor=theme.translucent(colour, 0.18),
        line={"width": 0},
        mode="lines",
        legendgroup=group,
        showlegend=False,
        hoverinfo="skip",
    )


def _line(
    x: Sequence[float], found: "Sequence[Estimate]", name: str, colour: str, hover: list[str], **options: Any
) -> go.Scatter:
    return go.Scatter(
        x=list(x),
        y=[each.value for each in found],
        mode="lines+markers",
        line={"width": 2.2, "color": colour, "dash": options.get("dash", "solid")},
        marker={"size": 6, "color": colour},
        name=html.escape(name),
        legendgroup=options.get("group", name),
        showlegend=options.get("showlegend", True),
        hovertext=hover,
        hoverinfo="text",
    )


def gap_figure(anatomy: "Anatomy") -> go.Figure:
    """The gap of DDPM and of the other model over the noise level, with intervals."""
    figure, levels = go.Figure(), anatomy.gap_levels
    for model in anatomy.compared:
        name, colour, gaps = _name(anatomy, model), _colour(anatomy, model), anatomy.gaps[model.key]
        hover = [
            f"{_head(name, level)}held-out error {formats.number(gap.value, 3)} times the training error<br>"
            f"({formats.number(gap.low, 3)} to {formats.number(gap.high, 3)})"
            for level, gap in zip(levels, gaps, strict=True)
        ]
        figure.add_trace(_band(levels, gaps, colour, name))
        figure.add_trace(_line(levels, gaps, name, colour, hover))
    figure.add_hline(y=1, line={"width": 1, "color": theme.MUTED})
    _noise_axis(figure, levels, anatomy)
    figure.update_yaxes(type="log", title_text="held-out error /<br>training error")
    return figure


def basin_figure(anatomy: "Anatomy") -> go.Figure:
    """The share of samples that return to the image they began at, over the level that they began at."""
    figure, levels = go.Figure(), anatomy.basin_levels
    for model in anatomy.compared:
        name, colour, basins = _name(anatomy, model), _colour(anatomy, model), anatomy.basins[model.key]
        for kind, shares, dash in (
            ("training images", basins.train, "solid"),
            ("held-out images", basins.heldout, "dash"),
        ):
            hover = [
                f"{_head(name, level)}returns to {kind}: {_share(share)}"
                for level, share in zip(levels, shares, strict=True)
            ]
            title = f"{name}, {kind}"
            figure.add_trace(_band(levels, shares, colour, title))
            figure.add_trace(_line(levels, shares, title, colour, hover, dash=dash))
    _noise_axis(figure, levels, anatomy)
    figure.update_yaxes(
        title_text="samples that are<br>the image they began at", tickformat="~%", range=[-0.02, 1.04]
    )
    return figure


def limit_figure(anatomy: "Anatomy") -> go.Figure:
    """Copies of optimal denoisers over σ_tn, and beside them those of the trained models over training."""
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=["optimal denoisers", "trained models"],
    )
    _draw_limit(figure, anatomy)
    _draw_trained(figure, anatomy)
    figure.update_annotations(font_size=13)
    figure.update_layout(template=theme.TEMPLATE, height=440, legend={"y": 1.1})
    figure.update_yaxes(tickformat="~%", range=[-0.02, 1.04])
    figure.update_yaxes(title_text="samples that are copies", col=1)
    return figure


def _draw_limit(figure: go.Figure, anatomy: "Anatomy") -> None:
    limit = anatomy.limit
    ddpm = limit.sigmas[1] / 2
    x = [ddpm, *limit.sigmas[1:]]
    steps = [1 - k / (len(limit.widths) - 1) for k in range(len(limit.widths))]
    colours = sample_colorscale(theme.ACCENT_SCALE, steps, colortype="tuple")
    colours = [f"#{''.join(f'{round(255 * part):02X}' for part in colour)}" for colour in colours]
    for width, shares, colour in zip(limit.widths, limit.shares, colours, strict=True):
        name = f"smoothed, {_reach(width)}" if width else "exact"
        hover = [
            f"<b>{name}</b><br>"
            f"{f'σ_tn {formats.level(sigma)}{_at_step(anatomy, sigma)}' if sigma else 'DDPM'}<br>"
            f"copies: {_share(share)}"
            for sigma, share in zip(limit.sigmas, shares, strict=True)
        ]
        figure.add_trace(_band(x, shares, colour, name), row=1, col=1)
        figure.add_trace(_line(x, shares, name, colour, hover), row=1, col=1)
    ticks = axes.noise_ticks(limit.sigmas[1] / 1.1, limit.sigmas[-1] * 1.1)
    ticks["tickvals"], ticks["ticktext"] = [ddpm, *ticks["tickvals"]], ["DDPM", *ticks["ticktext"]]
    ends = [math.log10(ddpm / 1.3), math.log10(limit.sigmas[-1] * 1.2)]
    figure.update_xaxes(
        row=1, col=1, type="log", title_text="σ_tn (EDM units; VP below)", range=ends, **ticks
    )


def _reach(width: float) -> str:
    return "d" if width == 1 else f"{width:g} d"


def _draw_trained(figure: go.Figure, anatomy: "Anatomy") -> None:
    size, subject = anatomy.subject.size.over("any"), anatomy.subject
    objective = size.declared.objectives["memorization"]
    points = size.with_noise(size.configurations)
    for model in anatomy.compared:
        own = points.method == BASELINE if model.key == "ddpm" else points.trial_id == subject.trial_id
        rows = points[own].sort_values("images_seen")
        name, colour = _name(anatomy, model), _colour(anatomy, model)
        spreads = [size.spreads(point)["memorization"] for _, point in rows.iterrows()]
        ends = [formats.clipped(objective, spread) for spread in spreads]
        shares = rows.memorization.tolist()
        figure.add_trace(
            go.Scatter(
                x=rows.images_seen.tolist(),
                y=shares,
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [high - share for share, (_, high) in zip(shares, ends, strict=True)],
                    "arrayminus": [share - low for share, (low, _) in zip(shares, ends, strict=True)],
                    "width": 3,
                    "thickness": 1.2,
                },
                mode="lines+markers",
                line={"width": 2.2, "color": colour},
                marker={"size": 7, "color": colour, "symbol": "diamond"},
                name=html.escape(name),
                hovertemplate="%{x:,} images: %{y:.1%} copies<extra></extra>",
            ),
            row=1,
            col=2,
        )
    heldout = subject.recommendation.heldout_memorization
    if math.isfinite(heldout):
        figure.add_hline(y=heldout, line={"dash": "dash", "width": 1.5, "color": theme.HELDOUT}, row=1, col=2)
    figure.update_xaxes(row=1, col=2, title_text="images seen", tickformat=",~s", rangemode="tozero")


def _limit_caption(anatomy: "Anatomy") -> str:
    samples, spacing = formats.count(anatomy.limit_samples), formats.number(anatomy.limit.spacing, 3)
    return (
        f"Left: the share of copies among {samples} samples of optimal denoisers of the training images, "
        "over σ_tn, with 95% intervals. Smoothed: each training image, and each noisy copy, is a Gaussian "
        f"whose samples lie so far from it; d = {spacing} is the median distance of an image to its nearest "
        "other one, over all pixels, from −1 to 1. Where exact ones copy whatever σ_tn, Algorithm 1 does not "
        "change where training ends, but how far, and how long, a network stays away from there. Right: the "
        "trained models of the run as they trained, from the results table, with intervals; dashed: held-out "
        "images."
    )
