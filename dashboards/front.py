"""The two frontiers of a train size as one small page, for tools that show a page beside a run."""

import json

from pareto_amb.dashboards.frontier_figures import any_budget_figure, frontier_figure
from pareto_amb.dashboards.page import render_page
from pareto_amb.dashboards.plots import ANY_CAPTION, ANY_TITLE, FULL_TITLE, Plot
from pareto_amb.results.run import Run


def front_pages(run: Run) -> dict[str, str]:
    """A page for each train size that has points, by its file name, with the verdict and its cautions."""
    return {f"front-n{size}.html": page for size in run.train_sizes() if (page := _front_page(run, size))}


def _front_page(run: Run, train_size: int) -> str:
    size, encoder = run.results.size(train_size), run.config.evaluation.fid_encoder
    found, plots = (run.recommendations or {}).get(train_size), []
    if not size.anytime.empty:
        figure = any_budget_figure(size, encoder, found)
        plots.append(Plot("any", ANY_TITLE, ANY_CAPTION, json.loads(figure.to_json())))
    if not size.full.empty:
        figure = frontier_figure(size, encoder, found)
        caption = "Equal budget, the paper’s comparison: every training at its end."
        plots.append(Plot("full", FULL_TITLE, caption, json.loads(figure.to_json())))
    if not plots:
        return ""
    lines = found.lines() if found else ["Nothing is recommended yet."]
    name = run.directory.name
    return render_page("front.html.jinja", True, name=name, train_size=train_size, lines=lines, plots=plots)
