"""The page that follows a run: a Dash app on this machine alone, which reads the run directory only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update
from flask import Response, abort, request
from jinja2 import Environment, FileSystemLoader

from pareto_amb.dashboards import live_parts, live_trial, theme
from pareto_amb.dashboards.live_parts import Part
from pareto_amb.dashboards.live_run import Choice, LiveRun
from pareto_amb.results.live import Heartbeats, in_words
from pareto_amb.results.policies import POLICIES
from pareto_amb.results.run import Run

REFRESH_SECONDS = 5

_HOSTS = {"127.0.0.1", "localhost", "[::1]"}
"""What a browser calls this machine: other names are of pages that were led here (DNS rebinding)."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; font-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def make_app(path: Path, trust: bool = False) -> Dash:
    """The app of the run directory at `path`; `trust`: pictures are fetched from the storage it names."""
    live, here = LiveRun(path, trust), Path(__file__).parent
    app = Dash(
        __name__,
        title=f"{live.directory.name} · pareto-amb watch",
        update_title=None,
        assets_folder=str(here / "live_assets"),
        index_string=_index(here),
        serve_locally=True,
        suppress_callback_exceptions=True,
        health_endpoint="alive",
        enable_mcp=False,
        add_log_handler=False,
    )
    app.layout = lambda: _layout(live)
    _guard(app)
    app.server.add_url_rule("/results.csv", "csv", lambda: _csv(live))
    _follow(app, live)
    _answer(app, live)
    _open(app, live)
    return app


def _index(folder: Path) -> str:
    """The page around the app, in the style of the report."""
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True)
    style = environment.get_template("style.css.jinja").render(theme=theme)
    return (
        '<!doctype html><html lang="en"><head>{%metas%}<title>{%title%}</title>{%favicon%}{%css%}<style>'
        + style
        + "</style></head><body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body></html>"
    )


def _guard(app: Dash) -> None:
    """Answer only who asks for this machine by its own name, and load nothing from elsewhere."""

    def check() -> None:
        if request.host not in _HOSTS and request.host.rpartition(":")[0] not in _HOSTS:
            abort(403)

    def close(response: Response) -> Response:
        response.headers.update(_HEADERS)
        return response

    app.server.before_request(check)
    app.server.after_request(close)


def _csv(live: LiveRun) -> Response:
    run = live.now().run
    if run is None:
        abort(404)
    frame = run.frame.copy()
    for name in frame.select_dtypes(exclude="number"):  # a spreadsheet would work out what begins so
        text = frame[name].astype(str)
        frame[name] = text.where(~text.str.match(r"[=+\-@\t\r]"), "'" + text)
    name = f"{live.directory.name.encode('ascii', 'replace').decode()}.csv".replace('"', "")
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(frame.to_csv(index=False), mimetype="text/csv", headers=headers)


# --- the page -------------------------------------------------------------------------------------


def _layout(live: LiveRun) -> Part:
    """The page of a moment, whose parts the callbacks fill."""
    run = live.now().run
    sizes = run.train_sizes() if run else []
    return html.Div(
        [
            dcc.Interval(id="tick", interval=REFRESH_SECONDS * 1000),
            dcc.Store(id="version", data=-1),
            dcc.Store(id="dark", storage_type="local"),
            html.Div("", id="lost", role="alert"),
            html.Header(html.Div(_title(live, run)), className="top"),
            html.Main(
                [
                    html.P("", id="problem", className="missing", hidden=True),
                    html.H2("Now", id="now"),
                    _card("What each worker does", html.Div(id="workers")),
                    _card("What happened", html.Div(id="events", tabIndex=0, className="tall")),
                    html.H2("The answer so far", id="answer-so-far"),
                    _card("What is asked", _controls(sizes)),
                    html.Div(id="answer", **{"aria-live": "polite"}),
                    html.H2("Figures", id="figures-head"),
                    html.P("A click on a point opens its trial below.", className="muted"),
                    html.Div(id="figures"),
                    html.H2("Trials", id="trials-head"),
                    _card("All trials", html.Div(id="trials")),
                    html.H2("A trial opened", id="trial-head"),
                    _card("Which", _pickers()),
                    html.Div(id="opened"),
                    html.H2("Samples as they come", id="samples-head"),
                    _card("The latest measurements", html.Div(id="latest")),
                ]
            ),
        ]
    )


def _title(live: LiveRun, run: Run | None) -> list[Part]:
    links = {
        "now": "Now", "answer-so-far": "Answer", "figures-head": "Figures", "trials-head": "Trials",
        "trial-head": "A trial opened", "samples-head": "Samples",
    }  # fmt: skip
    return [
        html.P("pareto-amb · watch", className="eyebrow"),
        html.H1(run.config.name if run else live.directory.name),
        html.Div(id="head"),
        html.Nav(
            [
                *(html.A(text, href=f"#{place}") for place, text in links.items()),
                html.A("Results as CSV", href="/results.csv", download=""),
                html.Button("Dark", id="theme", className="link"),
            ],
            **{"aria-label": "Sections"},
        ),
    ]


def _card(title: str, content: Part) -> Part:
    return html.Section([html.H3(title), content], className="card")


def _labelled(text: str, part: Part) -> Part:
    return html.Div([html.Label(text, htmlFor=part.id), part])


def _controls(sizes: list[int]) -> Part:
    """Train size, policy and budget."""
    policies = {
        name: f"{name}: {policy.description.replace('--max-memorization', 'the limit of copies')}"
        for name, policy in POLICIES.items()
    }
    budgets = {"any": "all stopping points", "full": "full trainings, the paper’s comparison"}
    first, fixed = sizes[0] if sizes else None, {"clearable": False, "searchable": False}
    return html.Div(
        [
            _labelled("training images", dcc.Dropdown(sizes, first, id="size", **fixed)),
            _labelled("policy", dcc.Dropdown(policies, "match-ddpm", id="policy", **fixed)),
            _labelled("limit of copies", dcc.Input(0.05, "number", min=0, max=1, step=0.01, id="limit")),
            _labelled("among", dcc.Dropdown(budgets, "any", id="budget", **fixed)),
        ],
        className="controls",
    )


def _pickers() -> Part:
    slots = {"trial": "opens its trial", "other": "compares its trial with the one opened"}
    return html.Div(
        [
            _labelled("trial", dcc.Dropdown([], id="trial", placeholder="none yet")),
            _labelled("compared with", dcc.Dropdown([], id="other", placeholder="none")),
            _labelled(
                "a click on a point or a name",
                dcc.Dropdown(slots, "trial", id="slot", clearable=False, searchable=False),
            ),
        ],
        className="controls",
    )


# --- what moves -----------------------------------------------------------------------------------


def _follow(app: Dash, live: LiveRun) -> None:
    """Every few seconds what is going on; the rest only when the run's files have changed."""
    app.clientside_callback(
        ClientsideFunction("live", "theme"),
        Output("dark", "data"),
        Output("theme", "children"),
        Input("theme", "n_clicks"),
        State("dark", "data"),
    )

    def tick(_: int | None, version: int, size: int | None) -> tuple[Any, ...]:
        now, beats = live.now(), live.heartbeats()
        sizes = now.run.train_sizes() if now.run else []
        chosen = no_update if size in sizes or not sizes else sizes[0]
        changed = now.version if now.version != version else no_update
        parts = live_parts.head(now.run, beats), live_parts.workers(beats), live_parts.events(live.events())
        return changed, *parts, now.problem, not now.problem, sizes, chosen

    app.callback(
        Output("version", "data"),
        Output("head", "children"),
        Output("workers", "children"),
        Output("events", "children"),
        Output("problem", "children"),
        Output("problem", "hidden"),
        Output("size", "options"),
        Output("size", "value"),
        Input("tick", "n_intervals"),
        State("version", "data"),
        State("size", "value"),
    )(tick)


_CHOICE = (
    Input("version", "data"),
    Input("size", "value"),
    Input("policy", "value"),
    Input("limit", "value"),
    Input("budget", "value"),
)


def _choice(size: int | None, policy: str, limit: float | None, budget: str) -> Choice:
    return Choice(size or 0, policy, limit, "full" if budget == "full" else "any")


def _answer(app: Dash, live: LiveRun) -> None:
    """The answer to what is asked, the figures, and the table of trials."""
    none = html.P("No trial has been measured yet.", className="missing")

    def show(_: int, *asked: Any) -> tuple[Any, ...]:
        now = live.now()
        section = live.section(now, _choice(*asked))
        if section is None or now.run is None:
            return none, none, none, none, [], []
        run, size = now.run, now.run.results.size(section.train_size)
        figures = [live_parts.figure(plot) for plot in section.plots]
        figures[2:2] = [live_parts.report_table(table) for table in section.tables]
        trials = live_parts.trials(run, section.train_size, section.recommendation)
        names = sorted(size.frame.trial_id.unique())
        answer = live_parts.answer(section, run)
        return answer, figures, trials, live_trial.latest(run, size), names, names

    app.callback(
        Output("answer", "children"),
        Output("figures", "children"),
        Output("trials", "children"),
        Output("latest", "children"),
        Output("trial", "options"),
        Output("other", "options"),
        *_CHOICE,
    )(show)


def _open(app: Dash, live: LiveRun) -> None:
    """A trial that is clicked, and one to compare it with."""

    def clicked(_: list[Any], __: list[Any], slot: str) -> tuple[Any, Any]:
        trial_id = _which(ctx.triggered_id, ctx.triggered)
        if not trial_id:
            return no_update, no_update
        return (trial_id, no_update) if slot == "trial" else (no_update, trial_id)

    app.callback(
        Output("trial", "value"),
        Output("other", "value"),
        Input({"type": "plot", "key": ALL}, "clickData"),
        Input({"type": "open", "trial": ALL, "place": ALL}, "n_clicks"),
        State("slot", "value"),
        prevent_initial_call=True,
    )(clicked)

    app.clientside_callback(
        ClientsideFunction("live", "scroll"),
        Output("trial-head", "title"),
        Input("trial", "value"),
        Input("other", "value"),
        prevent_initial_call=True,
    )

    def opened(trial_id: str | None, other: str | None, _: int, *asked: Any) -> Part:
        now = live.now()
        section = live.section(now, _choice(*asked))
        names = [name for name in dict.fromkeys([trial_id, other]) if name]
        if not names or section is None or now.run is None:
            return html.P("None is opened.", className="missing")
        run, size, beats = now.run, now.run.results.size(section.train_size), live.heartbeats()
        found = section.recommendation
        plots = live_trial.trial_plots(run, size, names)
        columns = [live_trial.trial(run, size, name, found, _going(beats, name)) for name in names]
        shown = [live_parts.figure(plot) for plot in plots]
        return html.Div([html.Div(columns, className="beside"), *shown])

    app.callback(
        Output("opened", "children"),
        Input("trial", "value"),
        Input("other", "value"),
        *_CHOICE,
    )(opened)


def _which(place: Mapping[str, Any] | None, triggered: list[dict[str, Any]]) -> str:
    """The trial of what was clicked; empty for a button that has just appeared, or a point of none."""
    value = triggered[0]["value"] if triggered else None
    if not place or not value:
        return ""
    if place["type"] == "open":
        return str(place["trial"])
    trial_id = value["points"][0].get("customdata")
    return trial_id if isinstance(trial_id, str) else ""


def _going(beats: Heartbeats | None, trial_id: str) -> str:
    trials = beats.trials if beats else []
    return next((in_words(beat) for beat in trials if beat.trial_id == trial_id), "")
