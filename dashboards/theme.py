"""One look for every figure and for the page around them.

The method colours come from the Okabe-Ito palette, which stays distinct under the common forms of
colour blindness, and held-out data is grey. Each stands for one idea, in figures and text alike.
"""

import plotly.graph_objects as go

from pareto_amb.search.frontier import BASELINE

DDPM = "#D55E00"
ALGORITHM1 = "#0072B2"
OTHER_METHODS = {"masking": "#CC79A7", "noise_only": "#E69F00"}
HELDOUT = "#5F6B7A"
RECOMMENDED = "#009E73"
GENERATED = "#7B3F9D"

INK = "#1B2430"
MUTED = "#5B6675"
GRID = "#E6E9EE"
PAPER = "#FFFFFF"

FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

NOISE_SCALE = [[0.0, "#B5D8F0"], [0.5, "#3B8BC4"], [1.0, "#0B2C55"]]
"""sigma_tn, low to high: shades of Algorithm 1's blue."""

COPYING_SCALE = [[0.0, "#F1E8F6"], [0.5, "#A974C4"], [1.0, "#3F0F5C"]]
"""memorization, low to high: a hue that no method beside it uses."""


def method_colour(method: str) -> str:
    """The colour of a method; one without a colour of its own shares Algorithm 1's."""
    return DDPM if method == BASELINE else OTHER_METHODS.get(method, ALGORITHM1)


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
