"""What noise does to an image set, over the noise level, as one self-contained HTML file."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pareto_amb.dashboards import formats, theme
from pareto_amb.dashboards.axes import NOISE_UNITS, log_axis, noise_ticks
from pareto_amb.dashboards.limits import limits_of_scan
from pareto_amb.dashboards.page import render_page
from pareto_amb.dashboards.provenance import made_here
from pareto_amb.storage import write_text, writing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pareto_amb.scanning import Scan, SizeScan

TEMPLATE = "scan.html.jinja"


def write_scan(
    scan: "Scan", path: Path, environment: Mapping[str, Any] | None = None, redacted: bool = False
) -> None:
    """Write the page. UserError when the place cannot be written.

    `environment` is what made the scan, as `describe_environment` has it. A `redacted` page has no paths of
    this machine.
    """
    made_by = {**(environment or {}), "images": {"fingerprint": scan.fingerprint}}
    page = render_page(
        TEMPLATE,
        True,
        redacted,
        scan=scan,
        figures={
            "effective": json.loads(effective_figure(scan).to_json()),
            "merging": json.loads(merging_figure(scan).to_json()) if _merged(scan) else None,
            "leakage": json.loads(leakage_figure(scan).to_json()),
        },
        too_many=[size.train_size for size in scan.sizes if size.merging is None],
        limits=limits_of_scan(),
        provenance=made_here(made_by, "reading and comparing", []),
        w=formats,
    )
    with writing(path):
        write_text(path, page)


def effective_figure(scan: "Scan") -> go.Figure:
    """Effective number against sigma, one line a train size."""
    figure = go.Figure()
    for size in scan.sizes:
        words = [f"effective number {formats.number(value, 3)}" for value in size.effective_numbers]
        figure.add_trace(_line(scan, size, size.effective_numbers, words))
    _finish(figure, scan, height=480)
    most = max(max(size.effective_numbers) for size in scan.sizes)
    figure.update_yaxes(title_text="effective number<br>of training images", **log_axis(1, most))
    return figure


def merging_figure(scan: "Scan") -> go.Figure:
    """How many subpopulations are left, how heavy the rare ones weigh, and tau_1; one line a train size."""
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.05)
    for size in _merged(scan):
        curve = size.merging
        assert curve is not None
        price = size.train_size * curve.tau_1
        rows: list[tuple[Any, list[str]]] = [
            (curve.number, [f"{number:,} subpopulations" for number in curve.number]),
            (curve.heavy_tail, [f"{formats.percent(share)} in rare ones" for share in curve.heavy_tail]),
            (price, [f"n·τ₁ = {formats.number(value, 3)}" for value in price]),
        ]
        for row, (values, words) in enumerate(rows, start=1):
            kept = [None if math.isnan(value) else float(value) for value in values]
            line = _line(scan, size, kept, words).update(showlegend=row == 1)
            figure.add_trace(line, row=row, col=1)
    _finish(figure, scan, height=720, bottom=3)
    most = max(float(size.merging.number.max()) for size in scan.sizes if size.merging is not None)
    figure.update_yaxes(title_text="subpopulations<br>left", **log_axis(1, most), row=1)
    figure.update_yaxes(title_text="images in<br>rare ones", tickformat="~%", rangemode="tozero", row=2)
    figure.update_yaxes(title_text="n·τ₁", rangemode="tozero", row=3)
    return figure


def leakage_figure(scan: "Scan") -> go.Figure:
    """Nats that noisy images tell of an image: Algorithm 1, draws of DDPM, and the paper's bound of them."""
    figure, curve = go.Figure(), scan.leakage
    of_draws = f"DDPM, {curve.draws} draws"
    for name, values, colour, dash in (
        ("Algorithm 1, any number of samples", curve.copy, theme.ACCENT, "solid"),
        (of_draws, curve.drawn, theme.DDPM, "solid"),
        (f"{of_draws}: the paper’s bound", curve.bound, theme.DDPM, "dot"),
    ):
        figure.add_trace(
            go.Scatter(
                x=list(scan.sigmas),
                y=values.tolist(),
                mode="lines",
                name=name,
                line={"width": 2.5, "color": colour, "dash": dash},
                hovertext=[
                    f"<b>{name}</b><br>{_level(scan, sigma)}<br>{formats.number(value, 3)} nats"
                    for sigma, value in zip(scan.sigmas, values, strict=True)
                ],
                hoverinfo="text",
            )
        )
    _finish(figure, scan, height=480)
    ends = float(curve.copy.min()), float(curve.bound.max())
    figure.update_yaxes(title_text="nats told<br>of an image", **log_axis(*ends))
    return figure


def _merged(scan: "Scan") -> "list[SizeScan]":
    return [size for size in scan.sizes if size.merging is not None]


def _strength(scan: "Scan", size: "SizeScan") -> float:
    """How dark what belongs to a train size is: the darker, the larger."""
    return 0.3 + 0.7 * (scan.sizes.index(size) + 1) / len(scan.sizes)


def _level(scan: "Scan", sigma: float) -> str:
    steps = scan.steps(sigma)
    return f"σ {formats.level(sigma)} EDM = {formats.level_vp(sigma)} VP{steps and f', {steps}'}"


def _line(
    scan: "Scan", size: "SizeScan", values: "Sequence[float | None]", words: "Sequence[str]"
) -> go.Scatter:
    """A curve of one train size over the noise level."""
    name = f"{size.train_size:,} images"
    return go.Scatter(
        x=list(scan.sigmas),
        y=list(values),
        mode="lines",
        name=name,
        legendgroup=name,
        line={"width": 2.5, "color": theme.translucent(theme.ACCENT, _strength(scan, size))},
        hovertext=[
            f"<b>{name}</b><br>{_level(scan, sigma)}<br>{word}"
            for sigma, word in zip(scan.sigmas, words, strict=True)
        ],
        hoverinfo="text",
    )


def _finish(figure: go.Figure, scan: "Scan", height: int, bottom: int | None = None) -> None:
    """The axis of noise levels, with what is searched, tried first and recommended at each train size.

    `bottom` is the lowest of several rows.
    """
    for size in scan.sizes:
        wash = theme.translucent(theme.RECOMMENDED, 0.14 / len(scan.sizes))
        low, high = size.searched.low, size.searched.high
        figure.add_vrect(x0=low, x1=high, fillcolor=wash, line_width=0, layer="below")
        ink = theme.translucent(theme.INK, _strength(scan, size))
        figure.add_vline(x=size.searched.collapse_level, line={"color": ink, "width": 1.5, "dash": "dot"})
        figure.add_vline(x=size.tried_first, line={"color": ink, "width": 1.5, "dash": "dash"})
        if size.recommended is not None:
            figure.add_vline(x=size.recommended, line={"color": theme.RECOMMENDED, "width": 2.5})
    low, high = scan.sigmas[0], scan.sigmas[-1]
    axis = {"type": "log", "range": [math.log10(low), math.log10(high)], **noise_ticks(low, high)}
    figure.update_layout(template=theme.TEMPLATE, height=height, showlegend=True)
    figure.update_xaxes(**axis)
    figure.update_xaxes(title_text=f"σ {NOISE_UNITS}", row=bottom)
