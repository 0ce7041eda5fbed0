"""One HTML page from a template: complete in itself, everything from outside escaped."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pareto_amb.dashboards import theme
from pareto_amb.redaction import redact_values, without_paths

HERE = Path(__file__).parent

PICTURE_BYTES = 450_000
"""What the pictures of a page take, at most; with Plotly and the figures a page stays below 2 MB."""

ENCODED = ("bdata",)
"""Keys of a figure whose values are numbers in base64."""


def plotly_js() -> str:
    """Plotly's basic bundle: scatter, bar and pie, a quarter of the whole library."""
    return (HERE / "plotly-basic.min.js").read_text(encoding="utf-8")


def picture_bytes(count: int) -> int:
    """What one of so many pictures on a page may take."""
    return PICTURE_BYTES // max(count, 1)


def render_page(template: str, with_plots: bool, redacted: bool = False, **content: Any) -> str:
    """Fill a template of this folder; Plotly itself comes along when there is something to draw.

    Where it is to be `redacted`, paths of this machine are cut to their last name in all that is filled in.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_cut if redacted else None,
    )
    hide = without_paths if redacted else str
    environment.policies["json.dumps_function"] = lambda values, **options: json.dumps(
        _rounded(redact_values(values, hide, ENCODED)), separators=(",", ":"), **options
    )
    return environment.get_template(template).render(
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        plotlyjs=Markup(plotly_js()) if with_plots else "",
        theme=theme,
        **content,
    )


def _cut(value: Any) -> Any:
    """What is filled in, without paths; pictures, markup and what is no text stay as they are."""
    plain = isinstance(value, str) and not isinstance(value, Markup) and not value.startswith("data:image/")
    return without_paths(value) if plain else value


def _rounded(values: Any) -> Any:
    """Numbers of a figure with as many digits as can be seen: they make up most of it."""
    if isinstance(values, dict):
        return {key: _rounded(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_rounded(value) for value in values]
    return float(f"{values:.7g}") if isinstance(values, float) else values
