"""Parts of the page that follows a run: what the report shows, as components, and what moves."""

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from dash import dcc, html

from pareto_amb.dashboards import formats, wording
from pareto_amb.dashboards.gallery import Gallery, Pair
from pareto_amb.dashboards.live_run import SILENT_SECONDS, cost_so_far
from pareto_amb.dashboards.plots import Plot
from pareto_amb.dashboards.report import Section, statuses
from pareto_amb.dashboards.tables import Table
from pareto_amb.dashboards.trials import columns, is_answer, trial_rows, what_became
from pareto_amb.results.live import Event, Heartbeats, going
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.run import Run
from pareto_amb.results.words import capitalized
from pareto_amb.terminal import format_duration

Part = Any
"""A component of Dash, or text. Text is escaped by the browser's side of Dash."""

GRAPH = {"displaylogo": False, "plotlyServerURL": "", "displayModeBar": False, "responsive": True}


def head(run: Run | None, beats: Heartbeats | None) -> list[Part]:
    """What the sweep has done, what it costs, and whether it is heard of."""
    lines = ["No trial has been measured yet." if run is None else f"{statuses(run.frame)}."]
    if run is not None and len(run.frame):
        trainings, training, measuring = cost_so_far(run.frame)
        lines.append(
            f"Cost so far: {formats.number(trainings, 3)} full trainings, {format_duration(training)} of "
            f"training and {format_duration(measuring)} of measuring, over all workers."
        )
    if run is not None and run.stopped:
        lines.append(f"{run.stopped[:1].upper()}{run.stopped[1:]}.")
    lines.append(_heard(beats))
    return [html.P(line, className="facts-line") for line in lines]


def _heard(beats: Heartbeats | None) -> str:
    if beats is None:
        return "No sweep is running in this directory: it has ended, or has not begun."
    silent = time.time() - beats.at
    if silent > SILENT_SECONDS:
        return (
            f"Nothing was heard of the sweep for {format_duration(silent)}: it was killed, or cannot write."
        )
    left = "" if beats.seconds_left is None else f", about {format_duration(beats.seconds_left)} left"
    return f"Running: {beats.done:,} of {beats.total:,} trials have ended or paused{left}."


def table(heads: Iterable[Part], rows: Iterable[Sequence[Part]], name: str, kind: str = "trials") -> Part:
    """A table called `name`; the first cell of a row is its heading."""
    body = [
        html.Tr([html.Th(first, scope="row"), *(html.Td(cell) for cell in cells)]) for first, *cells in rows
    ]
    heading = html.Thead(html.Tr([html.Th(head, scope="col") for head in heads]))
    caption = html.Caption(name, className="unseen")
    return html.Div(html.Table([caption, heading, html.Tbody(body)], className=kind), className="scroll")


def opens(trial_id: str, place: str) -> Part:
    """A button that opens a trial; `place` tells apart those of the same trial."""
    name = f"open trial {trial_id}"
    return html.Button(
        trial_id, id={"type": "open", "trial": trial_id, "place": place}, className="link", title=name
    )


def workers(beats: Heartbeats | None) -> Part:
    """What each worker does."""
    if beats is None or not beats.trials or time.time() - beats.at > SILENT_SECONDS:
        return html.P("No trial says that it is running.", className="missing")
    heads = ["trial", "worker", "doing", "step", "images/s", "loss", "time left to train"]
    rows = []
    for beat in beats.trials:
        step, speed, loss, left = going(beat)
        doing = f"{beat.doing} rung {beat.rung} of {beat.rungs}"
        left = left if beat.doing == "training" else ""
        rows.append([opens(beat.trial_id, "worker"), beat.worker, doing, step, speed, loss, left])
    return table(heads, rows, "What each worker does")


def events(found: Sequence[Event]) -> Part:
    """What happened, the latest first."""
    if not found:
        return html.P("No events were written down.", className="missing")
    items = []
    for event in found:
        at = datetime.fromtimestamp(event.at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        chip = html.Span(event.kind, className=f"chip {_TONES.get(event.kind, '')}")
        items.append(html.Li([html.Span(at, className="muted"), " ", chip, " ", event.words]))
    return html.Ol(items, className="events")


_TONES = {"failed": "mixed", "interrupted": "mixed", "retried": "mixed", "complete": "good"}


# --- the answer -----------------------------------------------------------------------------------


def answer(section: Section, run: Run) -> Part:
    """The answer of a train size, with verdict, cautions and intervals, as the report has it."""
    found, size = section.recommendation, f"{formats.count(section.train_size)} training images"
    if found is None or section.answer is None:
        chip = html.Span("No recommendation", className="chip")
        title = html.Div([html.H3(size), chip], className="answer-head")
        return html.Section([title, html.P(section.missing, className="missing")], className="card answer")
    chips = [html.Span(found.verdict_words, className=f"chip {wording.tone(found)}")]
    if found.early_stop is not None:
        chips += [" ", html.Span("Training less does better", className="chip mixed")]
    cautions = [html.Li(f"{capitalized(caution.sentence)}.") for caution in found.cautions]
    notes = [*section.notes, section.answer.chosen]
    parts = [
        html.Div([html.H3(size), html.Span(chips)], className="answer-head"),
        *([html.Ul(cautions, className="cautions", **{"aria-label": "Cautions"})] if cautions else []),
        html.Dl([_choice(choice) for choice in section.answer.choices], className="headline"),
        html.P(section.answer.lead, className="lead"),
        _comparison(section, found, run),
        *([html.P(section.answer.equal_budget, className="aside")] if section.answer.equal_budget else []),
        html.Ul([html.Li(note) for note in notes], className="points"),
    ]
    return html.Section(parts, className=f"card answer {wording.tone(found)}")


def _choice(choice: Any) -> Part:
    value = [choice.value, *([" ", html.Small(choice.unit)] if choice.unit else [])]
    note = [html.Dd(choice.note, className="range")] if choice.note else []
    return html.Div([html.Dt(choice.term), html.Dd(value), *note])


def _comparison(section: Section, found: Recommendation, run: Run) -> Part:
    """The answer beside DDPM and held-out images."""
    trainings = section.answer.trainings if section.answer else []
    heads: list[Part] = [""]
    for training in trainings:
        swatch = html.Span(className=f"swatch {training.swatch}")
        heads.append([swatch, training.heading, html.Small(training.note)])
    heads.append([html.Span(className="swatch"), "Held-out", html.Small("real images", className="wide")])
    rows = []
    for o in formats.copying_first(run.results.objectives):
        heldout = section.heldout.get(o.name)
        if o.name == "memorization":
            heldout = found.heldout_memorization
        cells = [
            [
                html.B(formats.figure(o, training.figures[o.name].value)),
                html.Small(formats.interval(o, training.figures[o.name])),
            ]
            for training in trainings
        ]
        name = [capitalized(o.label), html.Small(wording.what_it_is(o))]
        rows.append([name, *cells, html.B(formats.figure(o, heldout))])
    if found.similarity_excess is not None:
        excesses = [html.B(formats.signed(training.excess)) for training in trainings]
        about = html.Small("of samples to their nearest training image, on average")
        rows.append([["Similarity above held-out", about], *excesses, html.B("0")])
    return table(heads, rows, "The answer beside DDPM and held-out images", "compare")


# --- figures and tables ---------------------------------------------------------------------------


def figure(plot: Plot) -> Part:
    """A figure of the report, or why there is none."""
    if plot.spec is None:
        return html.Figure([html.H3(plot.title), html.P(plot.missing, className="missing")], className="card")
    spec = {**plot.spec, "layout": {**plot.spec["layout"], "uirevision": plot.key}}
    save = html.Button("Save as PNG", className="save", **{"data-save": plot.key})
    graph = dcc.Graph(
        id={"type": "plot", "key": plot.key},
        figure=spec,
        config=GRAPH,
        style={"height": spec["layout"].get("height", 400)},
    )
    shown = html.Div(graph, id=plot.key, role="img", **{"aria-label": plot.alt or plot.title})
    notes = plot.published
    lines = [html.P(line, className="published") for line in notes.lines] if notes else []
    return html.Figure(
        [
            html.Div([html.H3(plot.title), save], className="figure-head"),
            html.Figcaption(plot.caption),
            shown,
            *lines,
        ],
        className="card",
    )


def report_table(found: Table) -> Part:
    """A table of the report."""
    if found.missing:
        return html.Section(
            [html.H3(found.title), html.P(found.missing, className="missing")], className="card"
        )
    heads: list[Part] = [""]
    heads += [[name, html.Small(about, className="wide")] for name, about in found.heads]
    rows = []
    for row in found.rows:
        swatch = html.Span(className="swatch", style={"background": row.colour})
        cells = [
            [html.B(cell.value), f" {cell.change}" if cell.change else "", html.Small(cell.interval)]
            for cell in row.cells
        ]
        rows.append([[swatch, row.name, html.Small(row.note)], *cells])
    notes = html.Ul([html.Li(note) for note in found.notes], className="points")
    parts = [html.H3(found.title), html.Figcaption(found.caption), table(heads, rows, found.title, "compare")]
    return html.Section([*parts, notes] if found.notes else parts, className="card")


def trials(run: Run, train_size: int, found: Recommendation | None) -> Part:
    """The last measurement of each training of a train size; a button opens it."""
    rows = [row for row in trial_rows(run.results) if row["train_size"] == train_size]
    if not rows:
        return html.P("No trial has reported yet.", className="missing")
    declared, size = run.results.declared, run.results.size(train_size)
    named = {name for row in rows for name in declared.method(str(row["method"])).parameter_names}
    parameters = [p for name, p in declared.parameters.items() if name in named]
    shown = columns(rows, declared, parameters, several_sizes=False)
    heads = ["trial", "method", *(column.heading for column in shown), "status"]
    body = []
    for row in rows:
        cells = [html.Td(column.text(row), className="num") for column in shown]
        first = html.Th(opens(row["trial_id"], "table"), scope="row", className="id")
        method = html.Td(declared.method(str(row["method"])).label)
        status = html.Td(what_became(row, found, size), className="why")
        mark = " recommended" if is_answer(row, found) else ""
        body.append(html.Tr([first, method, *cells, status], className=f"{row['status']}{mark}"))
    heading = html.Thead(html.Tr([html.Th(head, scope="col") for head in heads]))
    caption = html.Caption("All trials", className="unseen")
    return html.Div(html.Table([caption, heading, html.Tbody(body)], className="trials"), className="scroll")


# --- pictures -------------------------------------------------------------------------------------


def pairs(found: Sequence[Pair]) -> Part:
    """Samples, each beside the training image that is nearest to it."""
    return html.Ol([_pair(pair) for pair in found], className="pairs")


def _pair(pair: Pair) -> Part:
    said = f"similarity {formats.number(pair.similarity, 3)}"
    copied = ", which counts as a copy" if pair.copied else ""
    images = [
        html.Img(src=pair.sample, alt=f"generated image, {said} to the training image beside it{copied}"),
        html.Img(src=pair.neighbour, alt="the training image nearest to the generated one beside it"),
    ]
    text: list[Part] = [said, *([" · ", html.B("copy")] if pair.copied else [])]
    prompt = [html.P(f"“{pair.prompt}” ← “{pair.caption}”")] if pair.prompt else []
    kind = "pair copied" if pair.copied else "pair"
    return html.Li([html.Div(images), html.P(text), *prompt], className=kind)


def plain(gallery: Gallery, trial_id: str, rung: int, count: int) -> Part:
    """The first samples as they came."""
    shown = gallery.plain[:count]
    images = [
        html.Img(src=source, alt=f"sample {k} of {len(shown)} of trial {trial_id} at rung {rung}")
        for k, source in enumerate(shown, start=1)
    ]
    return html.Div(images, className="grid")
