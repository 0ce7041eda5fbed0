"""The effective number of training images over the noise level, as one self-contained HTML file."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from pareto_amb.dashboards import formats, theme
from pareto_amb.dashboards.axes import NOISE_UNITS, noise_ticks
from pareto_amb.dashboards.limits import limits_of_scan
from pareto_amb.dashboards.page import render_page
from pareto_amb.dashboards.provenance import provenance
from pareto_amb.results.run import flatten
from pareto_amb.results.words import format_duration
from pareto_amb.storage import write_text, writing

if TYPE_CHECKING:
    from pareto_amb.scanning import Scan

TEMPLATE = "scan.html.jinja"


def write_scan(
    scan: "Scan", path: Path, environment: Mapping[str, Any] | None = None, redacted: bool = False
) -> None:
    """Write the page. UserError when the place cannot be written.

    `environment` is what made the scan, as `describe_environment` has it. A `redacted` page has no paths of
    this machine.
    """
    made_by = dict(flatten(environment or {}))
    seconds = made_by.get("seconds")
    duration = f"{format_duration(float(seconds))} of reading and comparing" if seconds else ""
    page = render_page(
        TEMPLATE,
        True,
        redacted,
        scan=scan,
        limits=limits_of_scan(),
        provenance=provenance({**made_by, "images.fingerprint": scan.fingerprint}, duration, []),
        figure=json.loads(scan_figure(scan).to_json()),
        w=formats,
    )
    with writing(path):
        write_text(path, page)


def scan_figure(scan: "Scan") -> go.Figure:
    """Effective number against sigma, one line a train size; what `auto` searches is shaded."""
    figure = go.Figure()
    for position, size in enumerate(scan.sizes):
        strength = 0.3 + 0.7 * (position + 1) / len(scan.sizes)
        numbers = [formats.number(value, 3) for value in size.effective_numbers]
        figure.add_trace(
            go.Scatter(
                x=list(scan.sigmas),
                y=list(size.effective_numbers),
                mode="lines",
                name=f"{size.train_size:,} images",
                line={"width": 2.5, "color": theme.translucent(theme.ACCENT, strength)},
                hovertext=[
                    f"<b>{size.train_size:,} images</b><br>σ {formats.level(sigma)} EDM = "
                    f"{formats.level_vp(sigma)} VP<br>effective number {shown}"
                    for sigma, shown in zip(scan.sigmas, numbers, strict=True)
                ],
                hoverinfo="text",
            )
        )
        figure.add_vrect(
            x0=size.searched.low,
            x1=size.searched.high,
            fillcolor=theme.translucent(theme.RECOMMENDED, 0.14 / len(scan.sizes)),
            line_width=0,
            layer="below",
        )
        level = {"color": theme.translucent(theme.INK, strength), "width": 1.5, "dash": "dot"}
        figure.add_vline(x=size.searched.collapse_level, line=level)
    figure.update_layout(template=theme.TEMPLATE, height=480, showlegend=True)
    figure.update_xaxes(
        type="log",
        title_text=f"σ {NOISE_UNITS}",
        **noise_ticks(scan.sigmas[0], scan.sigmas[-1]),
    )
    most = max(max(size.effective_numbers) for size in scan.sizes)
    figure.update_yaxes(
        type="log",
        title_text="effective number<br>of training images",
        range=[-0.06, math.log10(most) + 0.06],
        dtick="D2",
        tickformat=",~g",
    )
    return figure
