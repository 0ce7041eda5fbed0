"""The head of a report: what to train, where to stop it, and what that is held against."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pareto_amb.dashboards.formats import (
    better,
    count,
    figure,
    figures,
    interval,
    level_vp,
    parameter_range,
    parameter_value,
    percent,
)
from pareto_amb.dashboards.wording import called
from pareto_amb.declared import BASELINE, Declared, Objective
from pareto_amb.results.baseline import Baseline, Figures
from pareto_amb.results.recommendation import OtherTraining, Recommendation
from pareto_amb.results.size import SizeResults
from pareto_amb.results.words import capitalized, joined, seeds


@dataclass(frozen=True)
class Choice:
    """One recommended value, as the head of the answer shows it."""

    term: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Training:
    """A column of the comparison: a training, its figures, and how far its samples lean to its images."""

    heading: str
    note: str
    swatch: str
    figures: Figures
    excess: float | None


@dataclass(frozen=True)
class Answer:
    """What the page says first of one train size. `equal_budget` is empty where only that was asked for."""

    choices: list[Choice]
    lead: str
    trainings: list[Training]
    equal_budget: str
    chosen: str


def answer(found: Recommendation, size: SizeResults) -> Answer:
    """The head of the answer of a train size."""
    among = "all stopping points" if found.budget == "any" else "full trainings"
    which = f"trial {found.trial_id}"
    if found.method == BASELINE:
        which = "the seeds of DDPM"
    limit = "" if found.max_memorization is None else f" (at most {percent(found.max_memorization)})"
    return Answer(
        choices(found, size),
        lead(found, size),
        _trainings(found, size),
        equal_budget(found, size),
        f"Chosen by policy {found.policy}{limit} among {among}: {which}.",
    )


# --- where a training stops -----------------------------------------------------------------------


def stop_of(found: Recommendation | Baseline, size: SizeResults) -> int:
    """The images after which a training stops; files of older versions do not say: at its full budget."""
    return found.images_seen or size.full_images


def stops_early(found: Recommendation | Baseline, size: SizeResults) -> bool:
    """Whether it stops before its full budget."""
    return stop_of(found, size) < size.full_images


def images_and_share(images: int, size: SizeResults) -> str:
    """`256,000 images (50% of the budget)`"""
    return f"{count(images)} images ({_share(images, size)})"


def _share(images: int, size: SizeResults) -> str:
    full = size.full_images
    if not full or images >= full:
        return "the full budget"
    return f"{images / full:.0%} of the budget"


# --- what to train --------------------------------------------------------------------------------


def choices(found: Recommendation, size: SizeResults) -> list[Choice]:
    """What to train with, noise levels in both units, and how long."""
    method, chosen = size.declared.method(found.method), []
    if not method.parameters:
        chosen.append(Choice(f"{called(found)}: method", method.label))
    for place, parameter in enumerate(method.parameters):
        value, note = found.parameters[parameter.name], ""
        if place == 0 and found.interval is not None:
            ends = found.interval
            note = f"90% interval {parameter_range(parameter, *ends)}{parameter.at_step(*ends)}"
        term = f"{called(found)}: {parameter.label}" if place == 0 else parameter.label
        text, unit = parameter_value(parameter, value), parameter.unit
        if parameter.kind == "level":
            unit = "EDM units"
        chosen.append(Choice(term, text, unit, note))
        if parameter.kind == "level":
            chosen.append(Choice("the same level in the paper’s units", level_vp(value), "VP units"))
            if parameter.schedule is not None:
                step = str(parameter.schedule.step(value))
                chosen.append(
                    Choice("the nearest step of its schedule", step, f"of {parameter.schedule.steps:,}")
                )
    images = stop_of(found, size)
    if images:
        term = "stop training after" if stops_early(found, size) else "train for"
        chosen.append(Choice(term, count(images), "images", _share(images, size)))
    return chosen


def training_words(declared: Declared, method: str, parameters: dict[str, float]) -> str:
    """What is chosen for a training, as far as it is known, within a sentence; else the method's name."""
    info = declared.method(method)
    known = [p for p in info.parameters if p.name in parameters]
    values = [(p, parameters[p.name]) for p in known]
    words = [f"{p.label} {parameter_value(p, value)}{p.at_step(value)}" for p, value in values]
    return joined(words) or info.label


def lead(found: Recommendation, size: SizeResults) -> str:
    """What to train and where to stop, or, where nothing is advised, what the figures are of."""
    start = f"With {count(found.train_size)} training images"
    what = training_words(size.declared, found.method, found.parameters)
    stop = ""
    if stops_early(found, size):
        stop = f"after {images_and_share(stop_of(found, size), size)}"
    if not found.advised:
        baseline = size.baseline if size.has_baseline else found.baseline
        ours, theirs = found["memorization"].value, baseline["memorization"].value
        stopped = f", stopped {stop}" if stop else ""
        return (
            f"{start}, {percent(theirs)} of DDPM’s samples count as copies at its full budget. The policy "
            f"{found.policy} would take {what}{stopped}, with {percent(ours)}. {_comparisons(found, size)}"
        ).rstrip()
    train = f"train with {what}" if found.parameters else f"train plain {what}"
    halt = f" and stop {stop}" if stop else ""
    return f"{start}, {train}{halt}. {_reduction(found, size)} {_comparisons(found, size)}"


def _reference(found: Recommendation, size: SizeResults) -> tuple[Baseline, str]:
    """What the answer is held against in words: DDPM, at full budget where DDPM is itself the answer."""
    if found.method == BASELINE and size.has_baseline:
        return size.baseline, "DDPM trained to its full budget"
    if stops_early(found.baseline, size):
        return found.baseline, f"DDPM stopped after {count(stop_of(found.baseline, size))} images"
    return found.baseline, "DDPM"


def _is_baseline(found: Recommendation, size: SizeResults) -> bool:
    """Whether the answer is the very training, stopped at the same point, that it is held against."""
    return found.method == BASELINE and stop_of(found, size) == stop_of(found.baseline, size)


def _reduction(found: Recommendation, size: SizeResults) -> str:
    """How far copying falls below DDPM's."""
    baseline, name = _reference(found, size)
    ours, theirs = found["memorization"].value, baseline["memorization"].value
    fewer = f": {1 - ours / theirs:.0%} fewer" if ours < theirs else ""
    return f"{percent(ours)} of its samples count as copies, against {percent(theirs)} for {name}{fewer}."


def _comparisons(found: Recommendation, size: SizeResults) -> str:
    """How far image quality, and all that is judged beside copying, lies from DDPM's."""
    baseline, name = _reference(found, size)
    if found.method == BASELINE and stop_of(found, size) == stop_of(baseline, size):
        return ""
    before, after = ("", "") if found.method == BASELINE else ("DDPM’s ", "")
    if not found.advised and stops_early(baseline, size):  # the sentence before is about another stop
        before, after = "", f" for {name}"
    return " ".join(
        f"{capitalized(o.label)} is {figure(o, found[o.name].value)} against {before}"
        f"{figure(o, baseline[o.name].value)}{after} ({better(o)})."
        for o in size.objectives
        if o.name != "memorization"
    )


# --- what it is held against ----------------------------------------------------------------------


def _trainings(found: Recommendation, size: SizeResults) -> list[Training]:
    """The answer, DDPM as it is held against, and DDPM at full budget where that is another training."""
    stop = f"after {count(stop_of(found, size))} images"
    trainings = [Training(called(found), stop, "recommended", found, found.similarity_excess)]
    early = stops_early(found.baseline, size)
    if not _is_baseline(found, size):
        heading = "DDPM at its best stop" if early else "DDPM"
        trainings.append(_ddpm(heading, found.baseline, size))
    if early and size.has_baseline:
        trainings.append(_ddpm("DDPM at full budget", size.baseline, size))
    return trainings


def _ddpm(heading: str, baseline: Baseline, size: SizeResults) -> Training:
    note = f"{seeds(baseline.seeds)}, after {count(stop_of(baseline, size))} images"
    return Training(heading, note, "ddpm", baseline, baseline.similarity_excess)


def equal_budget(found: Recommendation, size: SizeResults) -> str:
    """What the answer would be among full trainings; empty where it was sought among these alone."""
    if found.budget != "any":
        return ""
    images = count(size.full_images)
    start = f"At equal budget, the paper’s comparison, where every training sees all {images} images"
    other = found.equal_budget
    if other is None:
        return f"{start}, no training serves the policy {found.policy}."
    if (other.method, other.parameters) == (found.method, found.parameters) and not stops_early(found, size):
        return f"{start}, the policy takes the same training."
    taken = f"{start}, the policy takes {other_training(other, size)}."
    if not size.has_baseline:  # the table is not the one that was recommended from
        return taken
    return f"{taken} DDPM’s there: {spreads(size.baseline, size.objectives)}."


def other_training(other: OtherTraining, size: SizeResults) -> str:
    """Another full training and its figures, with their intervals where the table has its point."""
    label = size.declared.method(other.method).label
    what = training_words(size.declared, other.method, other.chosen)
    named = label if what == label else f"{label} at {what}"
    points = size.points[
        (size.points.method == other.method) & (size.points.images_seen == other.images_seen)
    ]
    points = points[np.isclose(points.fid, other["fid"])]
    if points.empty or not size.has_baseline:
        return f"{named}: {figures(size.objectives, {o.name: other[o.name] for o in size.objectives})}"
    return f"{named}: {spreads(Figures(**size.spreads(points.iloc[0])), size.objectives)}"


def spreads(found: Figures, objectives: Sequence[Objective]) -> str:
    """`FID 12.30 (11.90 to 12.70) and memorization 4.0% (3.1% to 4.9%)`"""
    texts = []
    for objective in objectives:
        spread = found[objective.name]
        ends = interval(objective, spread)
        text = f"{objective.label} {figure(objective, spread.value)}"
        texts.append(f"{text} ({ends})" if ends else text)
    return joined(texts)
