"""The report of a run: one self-contained HTML file for people who were not there."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboards import figures, search_figures, wording
from dashboards.gallery import Gallery, build_gallery, read_samples
from dashboards.method import facts
from dashboards.page import render_page
from dashboards.run_files import Run, read_run
from pareto_amb.errors import UserError
from pareto_amb.search.frontier import BASELINE, comparable, configuration
from pareto_amb.search.recommend import Recommendation, recommend
from pareto_amb.search.uncertainty import frontier_points
from pareto_amb.storage import write_text

TEMPLATE = "report.html.jinja"

FigureMaker = Callable[[pd.DataFrame, int, str, Recommendation | None], go.Figure]


@dataclass(frozen=True)
class Plot:
    """One figure on the page: its Plotly JSON, or why there is none."""

    key: str
    title: str
    caption: str
    spec: dict[str, Any] | None = None
    missing: str = ""


@dataclass(frozen=True)
class Pictures:
    """The gallery of one training, or why there is none."""

    heading: str
    tone: str
    gallery: Gallery | None = None
    missing: str = ""


@dataclass(frozen=True)
class Section:
    """Everything the report shows of one train size."""

    train_size: int
    recommendation: Recommendation | None
    missing: str
    notes: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    pictures: list[Pictures] = field(default_factory=list)


def write_report(run_dir: Path) -> Path:
    """Write RUN_DIR/report.html from the files of the run and return its path.

    Raises UserError naming the file when the sweep file or results table is missing, or when a file
    of the run is there but cannot be used. A run that has finished nothing still gets a report.
    """
    path = run_dir / "report.html"
    write_text(path, render(read_run(run_dir)))
    return path


def render(run: Run) -> str:
    """The page as text."""
    sections = [_section(run, size) for size in run.train_sizes()]
    drawn = any(plot.spec is not None for section in sections for plot in section.plots)
    return render_page(
        TEMPLATE,
        drawn,
        run=run,
        sections=sections,
        trials=trial_rows(run.results),
        statuses=_statuses(run.results),
        facts=facts(run),
        w=wording,
    )


def trial_rows(results: pd.DataFrame) -> list[dict[str, Any]]:
    """The last rung of every trial, train sizes rising, baselines first.

    `p_front` is how sure its point is not dominated at full budget; None for a trial that is not there.
    """
    last = results.sort_values("rung").groupby("trial_id", sort=False).tail(1)
    last = last.assign(order=(last.method != BASELINE).astype(int))
    last = last.sort_values(["train_size", "order", "trial_id"])
    sure = _front_probabilities(results)
    return [
        {str(key): value for key, value in row.items()} | {"p_front": sure.get(row["trial_id"])}
        for row in last.to_dict("records")
    ]


def _front_probabilities(results: pd.DataFrame) -> dict[str, float]:
    """By trial at full budget; the seeds of a configuration share what their mean has."""
    found: dict[str, float] = {}
    for size in sorted(set(results.train_size)):
        rows, points = comparable(results, int(size)), frontier_points(results, int(size))
        sure = dict(zip(configuration(points), points.p_front, strict=True))
        found |= dict(zip(rows.trial_id, configuration(rows).map(sure), strict=True))
    return found


def _statuses(results: pd.DataFrame) -> str:
    counts = results.drop_duplicates("trial_id").status.value_counts()
    order = [name for name in ("complete", "pruned", "running", "failed") if name in counts]
    if not order:
        return "no trial yet"
    total = int(counts.sum())
    noun = "training" if total == 1 else "trainings"
    return f"{total} {noun}: " + ", ".join(f"{counts[name]} {name}" for name in order)


def _section(run: Run, train_size: int) -> Section:
    recommendation = (run.recommendations or {}).get(train_size)
    if recommendation is None:
        missing, notes = _why_none(run, train_size), []
    else:
        missing, notes = "", _notes(run, recommendation)
    return Section(
        train_size=train_size,
        recommendation=recommendation,
        missing=missing,
        notes=notes,
        plots=_plots(run, train_size, recommendation),
        pictures=_all_pictures(run, train_size, recommendation),
    )


def _notes(run: Run, recommendation: Recommendation) -> list[str]:
    notes = [
        wording.reduction(recommendation),
        wording.yardstick(recommendation),
        wording.confirmation(recommendation),
        wording.sureness(recommendation),
        wording.window(recommendation),
        wording.early_stopping(run.results, recommendation),
        wording.rivals(run.results, recommendation),
        wording.noise_of_baseline(recommendation),
    ]
    return [note for note in notes if note]


def _why_none(run: Run, train_size: int) -> str:
    """Why a train size has no recommendation: not asked for yet, or not possible."""
    try:
        recommend(run.results, train_size)
    except UserError as error:
        reason = str(error).removeprefix(f"train size {train_size}: ")
        return f"No recommendation yet: {reason}."
    if run.recommendations is None:
        return (
            "No recommendation yet: the run has no recommendation.yaml. Its trials suffice for "
            "one: run pareto-amb recommend on this run directory and write the report again."
        )
    return "No recommendation yet: recommendation.yaml does not cover this train size."


def _plots(run: Run, train_size: int, recommendation: Recommendation | None) -> list[Plot]:
    full = comparable(run.results, train_size)
    anytime = comparable(run.results, train_size, "any")
    encoder = run.config.evaluation.fid_encoder

    def draw(key: str, make: FigureMaker, rows: pd.DataFrame, title: str, caption: str, missing: str) -> Plot:
        if rows.empty:
            return Plot(f"{key}-{train_size}", title, "", missing=missing)
        made = make(run.results, train_size, encoder, recommendation)
        text = f"{caption} {_sample_counts(rows)}"
        return Plot(f"{key}-{train_size}", title, text, json.loads(made.to_json()))

    unfinished = "No training of this size has reached its full budget yet: nothing to compare."
    unmeasured = "No training of this size has been measured yet."
    without = wording.no_hypervolume(run.results, train_size)
    trials = figures.with_parameter(full, "mix_ratio")
    plots = [
        draw("frontier", figures.frontier_figure, full, "Quality against copying, at full budget",
             _frontier_caption(full), unfinished),
        draw("sigma", figures.sigma_figure, full, "What each noise level does", SIGMA_CAPTION,
             unfinished),
        draw("any", figures.any_budget_figure, anytime,
             "Any budget: trainings stopped early beside full ones",
             f"{ANY_CAPTION} {wording.any_budget_verdict(run.results, train_size)}", unmeasured),
    ]  # fmt: skip
    if run.config.space.mix_ratio != ("natural",) and trials.mix_ratio.round(6).nunique() > 1:
        plots.append(draw("mix", figures.mix_figure, trials, "Mix ratio and σ_tn together", MIX_CAPTION, ""))
    plots += [
        draw("curves", search_figures.curves_figure, anytime, "Learning curves, and what was stopped early",
             f"{CURVES_CAPTION} {wording.stopped_early(run.results, train_size)}", unmeasured),
        draw("hypervolume", search_figures.hypervolume_figure, full.iloc[:0] if without else full,
             "What the search reached for its cost", wording.hypervolume(run.results, train_size),
             without),
    ]  # fmt: skip
    return plots


CURVES_CAPTION = (
    "Every training from one measurement to the next. Crosses: stopped early, because others were better "
    "at the same point; how it would have gone on is not known, and it takes no part at full budget."
)
SIGMA_CAPTION = (
    "Each point is one completed training. Orange: DDPM, its mean over seeds and ±2 standard "
    "deviations. The shaded range of σ_tn beats DDPM; the dotted line is the recommended σ_tn."
)
ANY_CAPTION = (
    "Budgets are mixed on purpose: a training that stops early copies less because it trained "
    "less. Read this beside the figure at full budget, not instead of it. Thin lines follow each "
    "training from one measurement to the next."
)
MIX_CAPTION = (
    "Each point is one completed training: its place is what was chosen, its colour how much it "
    "copies, its size how good its images are (larger: lower FID)."
)


def _frontier_caption(rows: pd.DataFrame) -> str:
    seeds = int((rows.method == BASELINE).sum())
    words = "Lower left is better: fewer copies to the bottom, better images to the left. "
    if seeds == 0:
        return words + "No DDPM baseline has finished, so none is drawn."
    if seeds == 1:
        return words + "DDPM has finished with one seed only, so its noise is unknown."
    return (
        words + "Differences smaller than the orange box are within DDPM's own seed noise. The thin bars are "
        "two standard deviations of that noise and of the sampling error together."
    )


def _sample_counts(rows: pd.DataFrame) -> str:
    counts = sorted({int(value) for value in rows.n_samples})
    measured = rows.heldout_memorization.notna().any()
    heldout = "" if measured else " No held-out images were measured."
    if len(counts) == 1:
        return f"Every point rests on {counts[0]:,} generated samples.{heldout}"
    return (
        f"Sample counts differ ({', '.join(f'{value:,}' for value in counts)}): FID depends on "
        f"them, so compare with care.{heldout}"
    )


def _all_pictures(run: Run, train_size: int, recommendation: Recommendation | None) -> list[Pictures]:
    rows = run.results[run.results.train_size == train_size]
    baseline = rows[(rows.method == BASELINE) & (rows.rung > 0)].sort_values(["seed", "rung"])
    seeds = baseline[baseline.seed == baseline.seed.min()]
    shown = [_pictures(run, seeds, "DDPM", "ddpm", "No DDPM baseline has been measured yet.")]
    if recommendation is not None:
        chosen = rows[(rows.trial_id == recommendation.trial_id) & (rows.rung > 0)]
        heading = f"Recommended, σ_tn {wording.level(recommendation.sigma_tn)}"
        gone = f"The recommended trial {recommendation.trial_id} is not in the results table."
        shown.append(_pictures(run, chosen.sort_values("rung"), heading, "recommended", gone))
    return shown


def _pictures(run: Run, rows: pd.DataFrame, heading: str, tone: str, none: str) -> Pictures:
    if rows.empty:
        return Pictures(heading, tone, missing=none)
    trial_id, rung = str(rows.trial_id.iloc[-1]), int(rows.rung.iloc[-1])
    stored = read_samples(run.storage, trial_id, rung)
    heading = f"{heading} · {trial_id}, rung {rung}"
    if stored is None:
        return Pictures(heading, tone, missing="No pictures were kept of this training.")
    return Pictures(heading, tone, build_gallery(stored))
