"""The page of an audit: can an attacker tell who was trained on, and which images are at risk."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from pareto_amb.audit.influence import FALSE_DISCOVERY_RATE
from pareto_amb.audit.report import LOWER_BOUND, RATES, Attack, Audit, compare, remarks, verdict
from pareto_amb.audit.roc import thinned
from pareto_amb.dashboards import formats, theme
from pareto_amb.dashboards.evaluation import GATES
from pareto_amb.dashboards.gallery import data_uri
from pareto_amb.dashboards.limits import limits_of_audit
from pareto_amb.dashboards.page import picture_bytes, render_page
from pareto_amb.dashboards.provenance import Pairs
from pareto_amb.evaluation.gate import Answer
from pareto_amb.evaluation.intervals import Estimate
from pareto_amb.printable import printable
from pareto_amb.storage import write_text

TEMPLATE = "audit.html.jinja"
STRIP = 24
"""Images of each state that a comparison shows, at most."""

SHOWN = 60
"""Images at risk on the page, at most; audit.csv has all."""
PICTURE = picture_bytes(2 * SHOWN + 3 * STRIP)
"""Bytes of a picture, at most."""

SHOWN_SIDE = 144
"""Pixels: larger images are shrunk to this side."""

BINS = 60

COLOURS = {
    "likelihood_ratio": theme.GENERATED,
    "out_only": theme.ACCENT,
    "global_threshold": theme.HELDOUT,
}


@dataclass(frozen=True)
class AttackRow:
    """One attack, in words; each figure with its interval."""

    title: str
    colour: str
    auc: tuple[str, str]
    rates: list[tuple[str, str]]
    epsilon: str


@dataclass(frozen=True)
class ImageRow:
    """One image at risk, in words; its picture as a data URI, empty where it is not shown."""

    picture: str
    name: str
    file: str
    mem: str
    error: str
    p_value: str
    found_out: str
    copies: str


@dataclass(frozen=True)
class Section:
    """What was found of one kind of training."""

    key: str
    name: str
    verdict: str
    tone: str
    finding: str
    models: str
    images: str
    headline: list[tuple[str, str, str]]
    attacks: list[AttackRow]
    notes: list[str]
    n_at_risk: int
    at_risk: list[ImageRow]
    roc: dict[str, Any]
    mem: dict[str, Any]


Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Comparison:
    """Two kinds of training side by side: how many images are at risk of which, and some of them."""

    before: str
    after: str
    counts: list[tuple[str, int, str, list[ImageRow]]]
    spec: dict[str, Any]


def write_page(
    audits: Sequence[Audit],
    path: Path,
    gate: Answer | None = None,
    images: Images | None = None,
    made_by: Pairs | None = None,
    redacted: bool = False,
) -> None:
    """Write the page, whole or not at all. Raises OSError when it cannot be."""
    write_text(path, render(audits, gate, images, made_by, redacted))


def render(
    audits: Sequence[Audit],
    gate: Answer | None = None,
    images: Images | None = None,
    made_by: Pairs | None = None,
    redacted: bool = False,
) -> str:
    """The page as text, with what a gate said of the last audit; `images` (n, C, H, W) are shown.

    `made_by` is what `provenance` tells. A `redacted` page has no paths of this machine.
    """
    return render_page(
        TEMPLATE,
        True,
        redacted,
        limits=limits_of_audit(),
        provenance=made_by or [],
        sections=[_section(number, audit, images) for number, audit in enumerate(audits)],
        comparison=_comparison(audits[0], audits[1], images) if len(audits) == 2 else None,
        lower_bound=LOWER_BOUND,
        rates=[f"{rate:.1%}" for rate in RATES],
        discovery=f"{FALSE_DISCOVERY_RATE:.0%}",
        epsilon=audits[0].first.epsilon,
        gate=gate,
        gate_tone=GATES[gate.outcome][0] if gate else "",
        gate_words=GATES[gate.outcome][1] if gate else "",
    )


STATES = {
    "protected": ("Protected", "at risk with {before} alone", theme.RECOMMENDED),
    "still_at_risk": ("Still at risk", "with both", theme.DDPM),
    "newly_at_risk": ("Newly at risk", "not with {before}", theme.GENERATED),
}
"""What becomes of an image: its title, what that means, and its colour."""


def _comparison(before: Audit, after: Audit, images: Images | None) -> Comparison:
    names = {"before": printable(before.name), "after": printable(after.name)}
    return Comparison(
        **names,
        counts=[
            (
                STATES[key][0],
                len(found),
                STATES[key][1].format(**names),
                [_image_row(before if key == "protected" else after, i, images) for i in found[:STRIP]],
            )
            for key, found in compare(before, after).items()
        ],
        spec=json.loads(comparison_figure(before, after).to_json()),
    )


def comparison_figure(before: Audit, after: Audit) -> go.Figure:
    """What training on each image changes, with either kind of training; on the dashes both are the same."""
    x, y = before.change, after.change
    state = np.full(len(x), "neither", dtype=object)
    for key, found in compare(before, after).items():
        state[found] = key
    figure = go.Figure()
    titles = {"neither": ("At risk with neither", "", theme.HELDOUT), **STATES}
    names = np.array([html.escape(printable(name)) for name in before.scores.images], dtype=object)
    for key, (title, _, colour) in titles.items():
        here = state == key
        figure.add_trace(
            go.Scatter(
                x=x[here].tolist(),
                y=y[here].tolist(),
                mode="markers",
                marker={"size": 7, "color": theme.translucent(colour, 0.65)},
                name=f"{title}: {int(here.sum()):,}",
                hovertext=names[here].tolist(),
                hovertemplate="%{hovertext}: %{x:.3g}, %{y:.3g}<extra></extra>",
            )
        )
    ends = [float(min(x.min(), y.min())), float(max(x.max(), y.max()))]
    line = {"dash": "dash", "width": 1.5, "color": theme.INK}
    figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line=line, name="the same", hoverinfo="skip"))
    figure.update_layout(template=theme.TEMPLATE, height=460)
    figure.update_xaxes(title_text=f"mem with {html.escape(printable(before.name))}")
    figure.update_yaxes(title_text=f"mem with {html.escape(printable(after.name))}")
    return figure


def _section(number: int, audit: Audit, images: Images | None) -> Section:
    m, n = audit.scores.member.shape
    first, told = audit.first, any(attack.auc.low > 0.5 for attack in audit.attacks)
    return Section(
        key=f"audit-{number}",
        name=printable(audit.name),
        verdict=verdict(audit),
        tone="mixed" if told or audit.at_risk else "",
        finding="Members can be told" if told else "Members were not told",
        models=f"{m:,}",
        images=f"{n:,}",
        headline=[
            ("AUC of the likelihood-ratio attack", f"{first.auc.value:.3f}", _ends(first.auc, "{:.3f}")),
            (f"Members found at {RATES[1]:.0%} false ones", formats.percent(first.tpr[RATES[1]].value), ""),
            ("Images at risk", f"{len(audit.at_risk):,}", f"of {n:,}"),
        ],
        attacks=[_attack_row(attack) for attack in audit.attacks],
        notes=[printable(note) for note in remarks(audit)],
        n_at_risk=len(audit.at_risk),
        at_risk=[_image_row(audit, i, images) for i in audit.at_risk[:SHOWN]],
        roc=json.loads(roc_figure(audit).to_json()),
        mem=json.loads(mem_figure(audit).to_json()),
    )


def _ends(found: Estimate, form: str) -> str:
    return f"{form.format(found.low)} to {form.format(found.high)}"


def _attack_row(attack: Attack) -> AttackRow:
    rates = [attack.tpr[rate] for rate in RATES]
    return AttackRow(
        title=attack.title,
        colour=COLOURS[attack.key],
        auc=(f"{attack.auc.value:.3f}", _ends(attack.auc, "{:.3f}")),
        rates=[(formats.percent(rate.value), _ends(rate, "{:.1%}")) for rate in rates],
        epsilon=f"{attack.epsilon.value:.2f}",
    )


def _image_row(audit: Audit, i: int, images: Images | None) -> ImageRow:
    found = audit.influence
    copies = audit.copies
    return ImageRow(
        picture="" if images is None else data_uri(images[i], PICTURE, SHOWN_SIDE),
        name=printable(audit.scores.images[i]),
        file=printable(audit.scores.files[i]),
        mem=formats.number(float(found.mem[i])),
        error=formats.number(float(found.standard_error[i]), 2),
        p_value=f"{found.p_value[i]:.2g}",
        found_out=formats.percent(float(audit.found_out[i])),
        copies="" if copies is None else formats.number(1000 * float(copies.mem[i]), 2),
    )


def roc_figure(audit: Audit) -> go.Figure:
    """True against false positives of every attack, on logarithmic axes; the dashes are guessing."""
    figure = go.Figure()
    least = 1 / audit.first.roc.n_others
    for attack in audit.attacks:
        at = thinned(attack.roc)
        fpr, tpr = attack.roc.fpr[at], attack.roc.tpr[at]
        kept = tpr > 0
        figure.add_trace(
            go.Scatter(
                x=np.maximum(fpr[kept], least / 2).tolist(),
                y=tpr[kept].tolist(),
                mode="lines",
                line={"shape": "hv", "width": 2.2, "color": COLOURS[attack.key]},
                name=f"{attack.title}: {attack.auc.value:.3f}",
                hovertemplate="%{y:.2%} of members at %{x:.2%} false ones<extra></extra>",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=[least / 2, 1],
            y=[least / 2, 1],
            mode="lines",
            line={"dash": "dash", "width": 1.5, "color": theme.INK},
            name="guessing: 0.500",
            hoverinfo="skip",
        )
    )
    reach = [np.log10(least / 2), 0.02]
    figure.update_layout(template=theme.TEMPLATE, height=460)
    figure.update_xaxes(
        type="log", title_text="false positives: share of non-members", range=reach, **_ticks(least)
    )
    figure.update_yaxes(
        type="log",
        title_text="true positives: share of members",
        range=[np.log10(min(least * 2, 0.5)), 0.02],
        **_ticks(least),
    )
    return figure


def _ticks(least: float) -> dict[str, Any]:
    """Round shares down to the smallest that can be told from none."""
    ticks = [10.0**k for k in range(-6, 1) if 10.0**k >= least / 2]
    return {"tickvals": ticks, "ticktext": [f"{100 * tick:g}%" for tick in ticks]}


def mem_figure(audit: Audit) -> go.Figure:
    """How many images have which mem; those at risk have their own colour."""
    mem = audit.influence.mem
    risky = np.zeros(len(mem), dtype=bool)
    risky[audit.at_risk] = True
    low, high = float(mem.min()), float(mem.max())
    width = (high - low) or max(abs(high), 1.0)
    edges = np.linspace(low - 0.01 * width, high + 0.01 * width, BINS + 1)
    figure = go.Figure()
    for name, kept, colour in (
        ("within what chance explains", ~risky, theme.HELDOUT),
        ("at risk", risky, theme.GENERATED),
    ):
        counts = np.histogram(mem[kept], edges)[0]
        figure.add_trace(
            go.Bar(
                x=((edges[:-1] + edges[1:]) / 2).tolist(),
                y=counts.tolist(),
                width=float(edges[1] - edges[0]),
                marker={"color": colour, "line": {"width": 0}},
                name=f"{name}: {int(kept.sum()):,}",
                hovertemplate="mem %{x:.3g}: %{y:,} images<extra></extra>",
            )
        )
    figure.add_vline(x=0, line={"color": theme.INK, "width": 1, "dash": "dot"})
    figure.update_layout(template=theme.TEMPLATE, height=360, barmode="stack", bargap=0)
    several = len(audit.scores.names) > 1
    unit = "standard deviations between models" if several else "unit of the score"
    figure.update_xaxes(title_text=f"mem ({unit})")
    figure.update_yaxes(title_text="images", rangemode="tozero")
    return figure
