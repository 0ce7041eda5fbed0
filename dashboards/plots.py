"""The figures of one train size, with what the page says about each."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from pareto_amb.config import SweepConfig
from pareto_amb.dashboards import marks, wording
from pareto_amb.dashboards.answer import images_and_share, spreads, stop_of
from pareto_amb.dashboards.formats import better, count, is_percentage
from pareto_amb.dashboards.frontier_figures import any_budget_figure, frontier_figure
from pareto_amb.dashboards.parameter_figures import at_the_answer, parameter_figure, two_parameters_figure
from pareto_amb.dashboards.probe_figures import probe_caption, probe_figure, probed_trainings
from pareto_amb.dashboards.published import (
    SAMPLES,
    Comparison,
    Difference,
    Row,
    comparable_final,
    share_column,
    shared_threshold,
    table_rows,
)
from pareto_amb.dashboards.published_figures import (
    described,
    final_figure,
    final_rows,
    near_and_far,
    other_thresholds,
    thresholds_figure,
)
from pareto_amb.dashboards.search_figures import curves_figure, hypervolume_figure
from pareto_amb.dashboards.wording import called
from pareto_amb.declared import BASELINE, Declared, MethodInfo, Parameter
from pareto_amb.results.points import Budget
from pareto_amb.results.recommendation import FinalFigures, Recommendation
from pareto_amb.results.size import SizeResults
from pareto_amb.results.words import capitalized

UNFINISHED = "No training of this size has reached its full budget yet: nothing to compare."
UNMEASURED = "No training of this size has been measured yet."

KEYS = {"sigma_tn": "sigma", "mix_ratio": "mix"}
"""Short names of the figures of some parameters; those of others bear the parameter's name."""

CURVES_CAPTION = (
    "Every training from one measurement to the next. Crosses: stopped early, because no later measurement "
    "was expected to join the frontier; how it would have gone on is not known, and it takes no part at full "
    "budget."
)
PROBES_TITLE = "Where, and from when, the model knows its training images"
ANY_TITLE = "Quality against copying, over all stopping points"
FULL_TITLE = "Quality against copying, at full budget"
ANY_CAPTION = (
    "Every measurement of every training is a point at which one may stop, DDPM’s among them, the mean where "
    "several seeds reached it. Small and hollow: stopped early; large and filled: full budget. Thin lines "
    "follow each training. One that stops early copies less because it trained less, so DDPM stopped early "
    "competes here."
)
HOLLOW = (
    "Hollow with a dot: published, at full training; their figures, and what differs from this run’s "
    "measurement, stand below the figure at full budget."
)
TWO_PARAMETERS_CAPTION = (
    "Its place is what was chosen, its colour how much it copies, its size how good its images are (larger: "
    "lower FID)."
)


@dataclass(frozen=True)
class Plot:
    """One figure on the page: its Plotly JSON, or why there is none.

    `alt` is what it is called where it cannot be seen, its title where it is empty.
    """

    key: str
    title: str
    caption: str
    spec: dict[str, Any] | None = None
    missing: str = ""
    alt: str = ""
    published: "PublishedNote | None" = None


@dataclass(frozen=True)
class PublishedNote:
    """What stands below a figure with published points."""

    lines: list[str]
    thresholds: tuple[float, ...]
    rows: list[Row]
    differences: tuple[Difference, ...]


def took_part(config: SweepConfig, declared: Declared, rows: pd.DataFrame) -> list[MethodInfo]:
    """The methods that were asked for, and those that `rows` are of; DDPM first."""
    names = {BASELINE, *config.search.methods, *rows.method}
    return [method for name, method in declared.methods.items() if name in names]


def draw_plots(
    size: SizeResults,
    config: SweepConfig,
    recommendation: Recommendation | None,
    comparison: Comparison | None = None,
) -> list[Plot]:
    """The figures of a train size, in the order of the page; with what is published where that compares."""
    encoder = config.evaluation.fid_encoder
    final = comparable_final(comparison, size, recommendation) if comparison else None
    measured_again = []
    if comparison is not None and final is not None:
        measured_again = [_final_plot(size, encoder, recommendation, comparison, final)]
        comparison = None  # it is drawn there, and not beside figures of fewer samples
    frontier = _plot(size, "frontier", FULL_TITLE, size.full, UNFINISHED,
                     f"{_which(size, recommendation, 'full')}{_frontier_caption(size)}",
                     lambda: frontier_figure(size, encoder, recommendation, comparison))  # fmt: skip
    at_full = [
        _with_published(frontier, size, recommendation, comparison),
        *_thresholds_plots(size, encoder, comparison),
        *measured_again,
    ]
    anytime = _plot(size, "any", ANY_TITLE, size.anytime, UNMEASURED,
                    f"{_which(size, recommendation, 'any')}{ANY_CAPTION} {wording.any_budget_verdict(size)}"
                    f"{_faint_note(size)}{_pointer(size, size.anytime, comparison)}",
                    lambda: any_budget_figure(size, encoder, recommendation, comparison))  # fmt: skip
    anytime = replace(anytime, alt=_any_alt(size, recommendation))
    parameters = [*_parameter_plots(size, config, recommendation)]
    first = [anytime, *at_full, *parameters] if _is_any(recommendation) else [*at_full, *parameters, anytime]
    plots = [
        *first,
        *_two_parameters_plots(size, config, recommendation),
        _plot(size, "curves", "Learning curves, and what was stopped early", size.anytime, UNMEASURED,
              f"{CURVES_CAPTION}{_ring_note(recommendation)} {wording.stopped_early(size)}",
              lambda: curves_figure(size, encoder, recommendation)),
        *_probe_plots(size, recommendation),
    ]  # fmt: skip
    title, without = "What the search reached for its cost", wording.no_hypervolume(size)
    if without:
        return [*plots, Plot(f"hypervolume-{size.train_size}", title, "", missing=without)]
    caption = wording.hypervolume(size)
    return [
        *plots,
        _plot(size, "hypervolume", title, size.full, without, caption, lambda: hypervolume_figure(size)),
    ]


def _probe_plots(size: SizeResults, recommendation: Recommendation | None) -> Iterator[Plot]:
    """The denoising errors on held-out images beside those on training images, where they were probed."""
    trainings = probed_trainings(size, recommendation)
    if trainings:
        spec = json.loads(probe_figure(size, trainings).to_json())
        yield Plot(f"probes-{size.train_size}", PROBES_TITLE, probe_caption(size, trainings), spec)


def _is_any(recommendation: Recommendation | None) -> bool:
    return recommendation is not None and recommendation.budget == "any"


def _which(size: SizeResults, recommendation: Recommendation | None, budget: Budget) -> str:
    """Which of the two frontiers a figure shows, and whether the answer is taken from it."""
    taken = recommendation is not None and recommendation.budget == budget
    here = " The answer is taken from this figure." if taken else ""
    if budget == "any":
        return f"Budgets are mixed on purpose.{here} "
    images = f"sees all {count(size.full_images)} images" if size.full_images else "goes to its end"
    elsewhere = ""
    if recommendation is not None and not taken:
        elsewhere = " The answer is taken from all stopping points instead, in the figure above."
    return f"Equal budget, the paper’s comparison: every training {images}.{here}{elsewhere} "


def _any_alt(size: SizeResults, recommendation: Recommendation | None) -> str:
    """What the figure over all stopping points marks."""
    if size.anytime.empty:
        return ""
    marked = []
    if recommendation is not None:
        marked.append(f"{called(recommendation).lower()}, {marks.recommended_value(size, recommendation)}: "
                      f"{spreads(recommendation, size.objectives)}")  # fmt: skip
    if size.has_baseline:
        best = size.over("any").baseline
        stop = f"after {count(stop_of(best, size))} images"
        marked.append(f"DDPM at its best stop, {stop}: {spreads(best, size.objectives)}")
        marked.append(f"DDPM at full budget: {spreads(size.baseline, size.objectives)}")
    return f"{ANY_TITLE}; {'; '.join(marked)}" if marked else ""


def _ring_note(recommendation: Recommendation | None) -> str:
    if recommendation is None:
        return ""
    confirmed = " Its figures there are the means of fresh seeds." if recommendation.confirmation else ""
    return f" The ring is where the answer stops.{confirmed}"


def _plot(
    size: SizeResults,
    key: str,
    title: str,
    rows: pd.DataFrame,
    missing: str,
    caption: str,
    make: Callable[[], go.Figure],
) -> Plot:
    """A figure of `rows`, or what is `missing` where there are none."""
    key = f"{key}-{size.train_size}"
    if rows.empty:
        return Plot(key, title, "", missing=missing)
    return Plot(key, title, f"{caption} {_sample_counts(rows)}", json.loads(make().to_json()))


def _with_published(
    plot: Plot, size: SizeResults, recommendation: Recommendation | None, comparison: Comparison | None
) -> Plot:
    """The figure at full budget with what is published below it, or why nothing is."""
    if comparison is None:
        return plot
    if comparison.reason:
        reason = f"No published figures are drawn: {comparison.reason}."
        return replace(plot, published=PublishedNote([reason], (), [], ()))
    threshold = shared_threshold(size.full)
    near, far = near_and_far(size, size.full, comparison, threshold, "memorization")
    lines = [
        f"{comparison.basis} Published figures ({comparison.citation}; hollow points with a dot) take no "
        "part in the frontier, the hypervolume or the recommendation.",
        *comparison.cautions,
    ]
    if threshold not in comparison.measured:
        lines.append("None is drawn here: the paper has no figures at this figure’s similarity threshold.")
    if far:
        lines.append(f"Too far off to be drawn beside this run’s points: {described(size, far)}.")
    alt = f"{plot.title}; published, as hollow points: {described(size, near) or 'none'}"
    rows = table_rows(comparison, size, recommendation)
    note = PublishedNote(lines, comparison.thresholds, rows, comparison.differences)
    return replace(plot, alt=alt, published=note)


def _final_plot(
    size: SizeResults,
    encoder: str,
    recommendation: Recommendation | None,
    comparison: Comparison,
    final: FinalFigures,
) -> Plot:
    """The final figures beside the published ones, which no figure of fewer samples then shows."""
    title = f"Measured again on {count(final.n_samples)} samples, beside the published figures"
    threshold = shared_threshold(size.full)
    near, far = near_and_far(size, final_rows(final), comparison, threshold, "memorization")
    lines = [f"{comparison.basis} Published figures ({comparison.citation}) take part in nothing else.",
             *comparison.cautions]  # fmt: skip
    if far:
        lines.append(f"Too far off to be drawn beside this run’s points: {described(size, far)}.")
    differences = tuple(each for each in comparison.differences if each.what != SAMPLES)
    rows = table_rows(comparison, size, recommendation)
    return Plot(
        f"final-{size.train_size}",
        title,
        f"Every point rests on {count(final.n_samples)} generated samples, as published. Bars: intervals of "
        f"95%.{' Hollow with a dot: published, at full training.' if near else ''}",
        json.loads(final_figure(size, encoder, final, comparison).to_json()),
        alt=f"{title}; published, as hollow points: {described(size, near) or 'none'}",
        published=PublishedNote(lines, comparison.thresholds, rows, differences),
    )


def _thresholds_plots(size: SizeResults, encoder: str, comparison: Comparison | None) -> Iterator[Plot]:
    """The published points at the thresholds that the other figures do not show."""
    thresholds = other_thresholds(size, comparison) if comparison else []
    if comparison is None or not thresholds:
        return
    title = "Beside the published figures, at the paper’s other similarity thresholds"
    said: dict[str, list[str]] = {"near": [], "far": []}
    for threshold in thresholds:
        found = near_and_far(size, size.full, comparison, threshold, share_column(threshold))
        for place, points in zip(said, found, strict=True):
            if points:
                said[place].append(f"τ = {threshold:g}: {described(size, points)}")
    caption = "Every training at full budget, and its share of samples above each threshold."
    if said["near"]:
        caption += f" {HOLLOW}"
    if said["far"]:
        caption += f" Published, but too far off to be drawn: {'. '.join(said['far'])}."
    plot = _plot(size, "thresholds", title, size.full, UNFINISHED, caption,
                 lambda: thresholds_figure(size, encoder, comparison))  # fmt: skip
    yield replace(plot, alt=f"{title}; published, as hollow points: {'. '.join(said['near']) or 'none'}")


def _pointer(size: SizeResults, rows: pd.DataFrame, comparison: Comparison | None) -> str:
    """Where a figure of `rows` has published points, what they are."""
    if comparison is None:
        return ""
    near, _ = near_and_far(size, rows, comparison, shared_threshold(rows), "memorization")
    return f" {HOLLOW}" if near else ""


def _parameter_plots(
    size: SizeResults, config: SweepConfig, recommendation: Recommendation | None
) -> Iterator[Plot]:
    """A figure for the first parameter of each method that took part, methods that share one together.

    None for one of a single value, which shows nothing, unless the answer is about it.
    """
    methods = took_part(config, size.declared, size.frame)
    encoder = config.evaluation.fid_encoder
    mains: dict[str, Parameter] = {}
    for method in methods:
        if method.parameters:
            mains.setdefault(method.parameters[0].name, method.parameters[0])
    for name, main in mains.items():
        recommended = any(m.recommended and m.parameter_names[:1] == (name,) for m in methods)
        if recommendation is not None:
            recommended = recommendation.main == name
        searched = config.space[name]
        if not recommended and isinstance(searched, tuple) and len(searched) == 1:
            continue

        def make(main: Parameter = main) -> go.Figure:
            return parameter_figure(size, main, encoder, recommendation)

        key, caption = KEYS.get(name, name), _parameter_caption(size, main, recommended, recommendation)
        yield _plot(size, key, _parameter_title(main), size.full, UNFINISHED, caption, make)


def _two_parameters_plots(
    size: SizeResults, config: SweepConfig, recommendation: Recommendation | None
) -> Iterator[Plot]:
    """The first two parameters of each method, where trials differ in the second by choice."""
    encoder = config.evaluation.fid_encoder
    methods = took_part(config, size.declared, size.frame)
    pairs = dict.fromkeys(method.parameter_names[:2] for method in methods if len(method.parameters) > 1)
    for names in pairs:
        across, up = (size.declared.parameters[name] for name in names)
        trials = marks.with_parameter(size, at_the_answer(size, recommendation), up.name)
        searched = config.space[up.name]
        follows = isinstance(searched, tuple) and len(searched) == 1 and searched[0] in up.words
        if follows or trials[up.name].round(6).nunique() < 2:
            continue

        def make(across: Parameter = across, up: Parameter = up) -> go.Figure:
            return two_parameters_figure(size, across, up, encoder, recommendation)

        key = KEYS.get(up.name, f"{across.name}-{up.name}")
        title = f"{capitalized(up.label)} and {across.label} together"
        caption = f"{_each_point(size, recommendation)} {TWO_PARAMETERS_CAPTION}"
        yield _plot(size, key, title, trials, "", caption, make)


def _parameter_title(parameter: Parameter) -> str:
    if parameter.kind == "level":
        return "What each noise level does"
    return f"What each {'share' if is_percentage(parameter) else 'value'} of {parameter.label} does"


def _each_point(size: SizeResults, recommendation: Recommendation | None) -> str:
    """What a point of a figure of parameters is: see `at_the_answer`."""
    if recommendation is None or recommendation.budget == "full":
        return "Each point is one completed training."
    stop = images_and_share(stop_of(recommendation, size), size)
    return f"Each point is one training, stopped where the answer is: after {stop}."


def _parameter_caption(
    size: SizeResults, parameter: Parameter, recommended: bool, recommendation: Recommendation | None
) -> str:
    ddpm = "DDPM"
    if recommendation is not None and recommendation.budget == "any":
        best = images_and_share(stop_of(recommendation.baseline, size), size)
        ddpm = f"DDPM at its best stop, after {best}"
    words = (
        f"{_each_point(size, recommendation)} Orange: {ddpm}; its mean over seeds, and the interval of 95%."
    )
    if not recommended:
        return words
    label = parameter.label
    return f"{words} The shaded range of {label} beats DDPM; the dotted line is that of the answer."


def _frontier_caption(size: SizeResults) -> str:
    seeds = int((size.full.method == BASELINE).sum())
    words = "Lower left is better: fewer copies to the bottom, better images to the left. "
    words += "".join(f"Beside it {o.label} to the right: {better(o)}. " for o in size.objectives[2:])
    faint = _faint_note(size)
    if seeds == 0:
        return f"{words}No DDPM baseline has finished, so none is drawn.{faint}"
    if seeds == 1:
        return f"{words}DDPM has finished with one seed only, so its noise is unknown.{faint}"
    return (
        f"{words}Differences smaller than the orange box are within DDPM's own seed noise. The thin bars are "
        f"two standard deviations of that noise and of the sampling error together.{faint}"
    )


def _faint_note(size: SizeResults) -> str:
    """How the front of more than two objectives is to be read from panels of two."""
    if len(size.objectives) == 2:
        return ""
    return (
        f" Circled points are the frontier in all {len(size.objectives)} objectives; faint ones are "
        "dominated: another one is as good in every objective and better in one. Pointing at a point rings "
        "it in every panel, a click marks its training."
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
