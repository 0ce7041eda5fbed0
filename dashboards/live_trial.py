"""One trial of a run, or two beside each other: parameters, figures at every rung, curves, pictures."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape as html_escape
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from dash import html

from pareto_amb.dashboards import formats, live_parts
from pareto_amb.dashboards.gallery import Gallery, build_gallery, read_samples
from pareto_amb.dashboards.live_parts import Part
from pareto_amb.dashboards.plots import Plot
from pareto_amb.dashboards.probe_figures import ProbedTraining, gaps_by_budget, probe_caption, probe_figure
from pareto_amb.dashboards.search_figures import curves_figure
from pareto_amb.dashboards.trials import trial_rows, what_became
from pareto_amb.errors import UserError
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.run import Run
from pareto_amb.results.size import SizeResults
from pareto_amb.results.words import joined
from pareto_amb.storage import Storage

PAIRS = 6
PLAIN = 12
"""Pictures shown of a rung."""

LATEST = 4
"""Measurements whose samples are shown as they come."""


def trial(run: Run, size: SizeResults, trial_id: str, found: Recommendation | None, beats: str) -> Part:
    """Everything that is known of one trial; `beats` says how it is going right now, if it is."""
    rows = size.frame[size.frame.trial_id == trial_id].sort_values("rung")
    if rows.empty:
        going = beats or "It has not been measured yet."
        return html.Section([html.H3(trial_id), html.P(going, className="missing")], className="card")
    last = next(row for row in trial_rows(run.results) if row["trial_id"] == trial_id)
    declared = run.results.declared
    method = declared.method(str(last["method"]))
    facts = [("method", method.label), ("what became of it", what_became(last, found, size))]
    for parameter in method.parameters:
        value = last[parameter.name]
        text = formats.parameter_value(parameter, value)
        facts.append((parameter.label, formats.with_vp(parameter, text, value)))
    facts += [("seed", str(last["seed"])), ("images of the training set", formats.count(size.train_size))]
    if beats:
        facts.append(("right now", beats))
    return html.Section(
        [
            html.H3(trial_id),
            html.Dl([part for name, text in facts for part in (html.Dt(name), html.Dd(text))],
                    className="pairs-list small"),
            html.H4("At every rung"),
            _rungs(size, rows),
            *_pictures(run, rows),
        ],
        className="card",
    )  # fmt: skip


def _rungs(size: SizeResults, rows: pd.DataFrame) -> Part:
    """The figures of each rung, with twice the sampling error and what another seed changes."""
    with_noise = _with_noise(size, rows)
    heads = ["rung", "images seen", "samples", *(o.label for o in size.objectives), "loss"]
    body = []
    for row in rows[rows.rung > 0].to_dict("records"):
        seen = f"{formats.count(row['images_seen'])} ({row['budget']:.0%})"
        figures = [_figure(o, row, with_noise.get(int(row["rung"]), {})) for o in size.objectives]
        samples = formats.count(row["n_samples"]) if row["n_samples"] else "none: denoising alone"
        body.append([str(row["rung"]), seen, samples, *figures, formats.number(row["train_loss"], 3)])
    if not body:
        return html.P("It came to no rung.", className="missing")
    note = "± twice the standard deviation of sampling and of another seed."
    if rows.branched_at.iloc[0]:
        note += " Branched from DDPM: such a training copies more, and is on no frontier."
    return html.Div([live_parts.table(heads, body, "Figures at every rung"), html.P(note, className="muted")])


def _with_noise(size: SizeResults, rows: pd.DataFrame) -> dict[int, dict[Any, Any]]:
    """Rows with the deviation of each figure, by rung, as far as these are known."""
    names = [o.name for o in size.objectives]
    known = rows[(rows.n_samples > 0) & rows[names].notna().all(axis=1)].assign(seeds=1, confirmed=False)
    if known.empty or not size.has_baseline:
        return {}
    return {int(row["rung"]): row for row in size.over("any").with_noise(known).to_dict("records")}


def _figure(objective: Any, row: Mapping[Any, Any], noise: Mapping[Any, Any]) -> str:
    value = row[objective.name]
    if not math.isfinite(value):
        return formats.ABSENT
    spread = noise.get(f"{objective.name}_sd")
    about = "" if spread is None else f" ± {formats.deviation(objective, 2 * spread)}"
    return f"{formats.figure(objective, value)}{about}"


# --- curves ---------------------------------------------------------------------------------------


def trial_plots(run: Run, size: SizeResults, trials: Sequence[str]) -> list[Plot]:
    """The curves and probes of some trials alone."""
    rows = size.frame[size.frame.trial_id.isin(trials)]
    alone = SizeResults(rows, size.declared, size.train_size)
    title, named = "Curves of the trials opened", " and ".join(trials)
    plots = []
    if alone.anytime.empty:
        why = "Nothing to draw: not sampled yet, failed, branched or a control, which are on no curve."
        plots.append(Plot("opened-curves", title, "", missing=why))
    else:
        spec = json.loads(_curves(alone, trials, run.config.evaluation.fid_encoder).to_json())
        caption = "Each from one measurement with samples to the next."
        plots.append(Plot("opened-curves", title, caption, spec, alt=f"Learning curves of {named}"))
    probed = [_probed(rows, trial_id) for trial_id in trials]
    if probed := [training for training in probed if training.gaps]:
        spec, caption = json.loads(probe_figure(alone, probed).to_json()), probe_caption(alone, probed)
        title, alt = "Probes of the trials opened", f"Denoising probes of {named}"
        plots.append(Plot("opened-probes", title, caption, spec, alt=alt))
    return plots


def _curves(size: SizeResults, trials: Sequence[str], encoder: str) -> go.Figure:
    """A line a trial, the second one dashed, on axes that have room for both."""
    figure, lines = curves_figure(size, encoder), []
    for trial_id, dash in zip(trials, ("solid", "dash"), strict=False):
        rows = size.frame[size.frame.trial_id == trial_id]
        one = SizeResults(rows, size.declared, size.train_size)
        drawn = curves_figure(one, encoder).data if len(one.anytime) else ()
        lines += [
            line.update(name=html_escape(trial_id), legendgroup=trial_id, line_dash=dash) for line in drawn
        ]
    figure.data = ()
    figure.add_traces(lines)
    return figure


def _probed(rows: pd.DataFrame, trial_id: str) -> ProbedTraining:
    return ProbedTraining(f"trial {trial_id}", trial_id, gaps_by_budget(rows[rows.trial_id == trial_id]))


# --- pictures -------------------------------------------------------------------------------------


def _pictures(run: Run, rows: pd.DataFrame) -> list[Part]:
    """The samples of every rung, the last one open."""
    found: list[Part] = []
    for row in rows[rows.n_samples > 0].sort_values("rung", ascending=False).to_dict("records"):
        title = f"Samples at rung {row['rung']}, after {formats.count(row['images_seen'])} images"
        shown = _gallery(run, row)
        if isinstance(shown, str):
            content: list[Part] = [html.P(shown, className="missing")]
        else:
            about = (
                f"Left of each pair a generated image, right the training image nearest to it: the most "
                f"similar of {formats.count(shown.kept)} kept of {formats.count(shown.total)} samples."
            )
            content = [
                html.P(about, className="muted"),
                live_parts.pairs(shown.closest[:PAIRS]),
                html.H4("The first samples, as they came"),
                live_parts.plain(shown, row["trial_id"], row["rung"], PLAIN),
            ]
        found.append(html.Details([html.Summary(title), *content], open=not found))
    return found


def latest(run: Run, size: SizeResults) -> Part:
    """The samples of the latest measurements, as they come."""
    sampled = size.frame[size.frame.n_samples > 0]
    rows = sampled.sort_values("recorded_at", ascending=False, kind="stable").head(LATEST)
    found = []
    for index, row in zip(rows.index, rows.to_dict("records"), strict=True):
        shown, noise = _gallery(run, row), _with_noise(size, rows.loc[[index]])
        figures = joined(
            [f"{o.label} {_figure(o, row, noise.get(int(row['rung']), {}))}" for o in size.objectives]
        )
        branched = "; branched from DDPM, on no frontier" if row["branched_at"] else ""
        title = [live_parts.opens(row["trial_id"], "latest"), f", rung {row['rung']}"]
        said = f"{figures}, on {formats.count(row['n_samples'])} samples{branched}"
        pictures = (
            html.P(shown, className="missing")
            if isinstance(shown, str)
            else live_parts.plain(shown, row["trial_id"], row["rung"], PLAIN)
        )
        found.append(html.Li([html.P(title), html.P(said, className="muted"), pictures]))
    return html.Ul(found, className="latest") if found else html.P("No samples yet.", className="missing")


def _gallery(run: Run, row: Mapping[Any, Any]) -> Gallery | str:
    """The pictures of a measurement, or why there are none."""
    if run.pictures is None:
        return "The pictures lie in a storage elsewhere; start watch with --trust-run to fetch them."
    share, total = float(row["memorization"]), int(row["n_samples"])
    copies = round(share * total) if math.isfinite(share) else None
    recorded = str(row["recorded_at"])
    try:
        shown = _read(run.pictures, str(row["trial_id"]), int(row["rung"]), total, copies, recorded)
    except UserError as error:
        return f"Not shown: {error}."
    return shown or "No pictures were kept."


@lru_cache(maxsize=64)
def _read(
    place: Path | Storage, trial_id: str, rung: int, total: int, copies: int | None, recorded: str
) -> Gallery | None:
    stored = read_samples(place, trial_id, rung)
    return None if stored is None else build_gallery(stored, total, copies)
