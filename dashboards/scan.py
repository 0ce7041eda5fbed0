"""The effective number of training images over the noise level, as one self-contained HTML file."""

import json
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from dashboards import theme, wording
from dashboards.figures import NOISE_UNITS, noise_ticks
from pareto_amb.errors import UserError
from pareto_amb.scan import Scan
from pareto_amb.storage import write_text
from pareto_amb.theory import COLLAPSED, HIGH_SHARE, LOW_SHARE

TEMPLATE = "scan.html.jinja"


def write_scan(scan: Scan, path: Path) -> None:
    """Write the page. UserError when the place cannot be written."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE).render(
        scan=scan,
        figure=json.loads(scan_figure(scan).to_json()),
        plotlyjs=Markup(get_plotlyjs()),
        shares=(LOW_SHARE, HIGH_SHARE),
        collapsed=COLLAPSED,
        theme=theme,
        w=wording,
    )
    try:
        write_text(path, page)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def scan_figure(scan: Scan) -> go.Figure:
    """Effective number against sigma, one line a train size; what `auto` searches is shaded."""
    figure = go.Figure()
    for position, size in enumerate(scan.sizes):
        strength = 0.3 + 0.7 * (position + 1) / len(scan.sizes)
        numbers = [wording.number(value, 3) for value in size.effective_numbers]
        figure.add_trace(
            go.Scatter(
                x=list(scan.sigmas),
                y=list(size.effective_numbers),
                mode="lines",
                name=f"{size.train_size:,} images",
                line={"width": 2.5, "color": theme.translucent(theme.ALGORITHM1, strength)},
                hovertext=[
                    f"<b>{size.train_size:,} images</b><br>σ {wording.level(sigma)} EDM = "
                    f"{wording.level_vp(sigma)} VP<br>effective number {shown}"
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
    figure.update_yaxes(type="log", title_text="effective number<br>of training images", tickformat=",~g")
    return figure
