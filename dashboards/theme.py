"""One look for every figure and for the page around them.

The methods declare their colours, from the Okabe-Ito palette, which stays distinct under the common forms
of colour blindness; DDPM's is also that of its bands, and held-out data is grey. Each stands for one idea,
in figures and text alike.
"""

import plotly.graph_objects as go

DDPM = "#D55E00"
ACCENT = "#0072B2"
"""Links and what needs no colour of its own; also Algorithm 1's."""

HELDOUT = "#5F6B7A"
RECOMMENDED = "#009E73"
GENERATED = "#7B3F9D"

INK = "#1B2430"
MUTED = "#5B6675"
GRID = "#E6E9EE"
PAPER = "#FFFFFF"

FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

ACCENT_SCALE = [[0.0, "#B5D8F0"], [0.5, "#3B8BC4"], [1.0, "#0B2C55"]]

COPYING_SCALE = [[0.0, "#F1E8F6"], [0.5, "#A974C4"], [1.0, "#3F0F5C"]]
"""memorization, low to high: a hue that no method beside it uses."""


def shades(colour: str) -> list[list[object]]:
    """Shades of a method's `#RRGGBB`, light to dark, for low to high values of its main parameter."""
    if colour == ACCENT:
        return [list(step) for step in ACCENT_SCALE]
    channels = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    light = "".join(f"{round(255 - 0.35 * (255 - channel)):02X}" for channel in channels)
    dark = "".join(f"{round(0.4 * channel):02X}" for channel in channels)
    return [[0.0, f"#{light}"], [0.5, colour], [1.0, f"#{dark}"]]


def colour_bar(title: str) -> dict[str, object]:
    """A slim bar beside the plot."""
    return {
        "title": {"text": title, "font": {"size": 12.5}},
        "tickfont": {"size": 12},
        "thickness": 12,
        "outlinewidth": 0,
        "xpad": 8,
    }


def translucent(colour: str, opacity: float) -> str:
    """`#RRGGBB` at an opacity in [0, 1], as CSS and Plotly read it."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def _axis() -> dict[str, object]:
    return {
        "gridcolor": GRID,
        "linecolor": "#B8C0CB",
        "showline": True,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": "#B8C0CB",
        "ticklen": 4,
        "automargin": True,
        "title": {"standoff": 10, "font": {"size": 13, "color": INK}},
        "tickfont": {"size": 12, "color": MUTED},
    }


TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONTS, "size": 13, "color": INK},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "xaxis": _axis(),
        "yaxis": _axis(),
        "margin": {"l": 56, "r": 18, "t": 4, "b": 40},
        "hovermode": "closest",
        "hoverlabel": {
            "bgcolor": "#FFFFFF",
            "bordercolor": "#B8C0CB",
            "align": "left",
            "font": {"family": FONTS, "size": 12.5, "color": INK},
        },
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"size": 12},
            "bgcolor": "rgba(0,0,0,0)",
            "itemsizing": "trace",
        },
    }
)
