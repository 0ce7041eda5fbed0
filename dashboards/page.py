"""One HTML page from a template: complete in itself, everything from outside escaped."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from pareto_amb.dashboards import theme


def render_page(template: str, with_plots: bool, **content: Any) -> str:
    """Fill a template of this folder; Plotly itself comes along when there is something to draw."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        plotlyjs=Markup(get_plotlyjs()) if with_plots else "",
        theme=theme,
        **content,
    )
