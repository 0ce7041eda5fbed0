"""The sentences of a report: claims that the table carries."""

import math
from collections.abc import Sequence

import numpy as np

from pareto_amb.dashboards.formats import (
    better,
    figure,
    number,
    parameter_range,
    parameter_value,
    percent,
    with_vp,
)
from pareto_amb.declared import BASELINE, Declared, Objective, Parameter
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.size import SizeResults
from pareto_amb.results.table import searched
from pareto_amb.results.words import capitalized, joined


def what_it_is(objective: Objective) -> str:
    """A few words below an objective's name."""
    return objective.caption or better(objective)


def sentence(description: str) -> str:
    """A description as a sentence, without what it says of sweep files after a semicolon."""
    words = description.partition(";")[0].strip()
    return f"{capitalized(words)}." if words else ""


def on_all(objectives: Sequence[Objective]) -> str:
    """`on both FID and memorization`, or `on` all of more than two."""
    names = joined([objective.label for objective in objectives])
    return f"on both {names}" if len(objectives) == 2 else f"on {names}"


def _on_all_metrics(objectives: Sequence[Objective]) -> str:
    return "on both metrics" if len(objectives) == 2 else "on all metrics"


TONES = {"copies-less": "good", "stop-early": "good", "copies-less-at-worse-quality": "mixed"}
"""How the page colours a verdict; `none` for the others."""


def tone(recommendation: Recommendation) -> str:
    """How the page colours a recommendation: good, mixed or none."""
    return TONES.get(recommendation.verdict, "none")


def called(recommendation: Recommendation) -> str:
    """What the page calls the training: recommended only where the verdict advises it."""
    return "Recommended" if recommendation.advised else "Best trial"


def yardstick(recommendation: Recommendation) -> str:
    """The held-out comparison: a copy rate means something only in excess of it. Empty without one."""
    heldout = recommendation.heldout_memorization
    if not math.isfinite(heldout):
        return ""
    excess = recommendation["memorization"].value - heldout
    words = (
        "the model of this trial is not above it"
        if excess <= 0
        else f"the model of this trial is {100 * excess:.2g} percentage points above it"
    )
    return (
        f"Yardstick: {percent(heldout)} of real images that no model was trained on pass the same "
        f"threshold; {words}."
    )


def window(recommendation: Recommendation, size: SizeResults) -> str:
    """Where on the axis of the main parameter trials beat DDPM; empty for a method without one."""
    parameter = size.declared.parameters.get(recommendation.main)
    if parameter is None:
        return ""
    label = parameter.label
    early = (recommendation.images_seen or size.full_images) < size.full_images
    there = ", stopped where this one is," if early else ""
    if recommendation.window is None:
        return f"No range of {label} around this one{there} beats DDPM beyond its seed noise."
    low, high = recommendation.window
    if low == high:
        value = with_vp(parameter, f"{label} {parameter_value(parameter, low)}", low)
        advice = "" if recommendation.confirmation else ", so a confirming run is advisable"
        return f"Only the trial at {value}{there} beats DDPM; its neighbours do not{advice}."
    held = joined([o.label for o in size.objectives if o.constraint])
    noise = f"its seed noise{tolerated(size.objectives)}"
    free = joined([o.label for o in size.objectives if not o.constraint])
    improved = "lower" if free == "memorization" else "better"
    return (
        f"Every trial with {_where(parameter, low, high)}{there} beats DDPM: {held} no worse within {noise}, "
        f"{free} {improved} by more than it."
    )


def tolerated(objectives: Sequence[Objective]) -> str:
    """What counts as no worse beside DDPM's noise: ` (caption score: or 1% of DDPM's)`; empty without."""
    said = [f"{o.label}: or {o.tolerance:.0%} of DDPM's" for o in objectives if o.tolerance]
    return f" ({joined(said)})" if said else ""


def _where(parameter: Parameter, low: float, high: float) -> str:
    """An interval of a parameter, noise levels in both units."""
    text = f"{parameter.label} from {parameter_range(parameter, low, high)}"
    return with_vp(parameter, text, low, high)


def sureness(recommendation: Recommendation, declared: Declared) -> str:
    """How well the data settles the recommended value; empty where it was not worked out."""
    parameter = declared.parameters.get(recommendation.main)
    if recommendation.interval is None or recommendation.p_front is None or parameter is None:
        return ""
    return (
        f"Of the smooth curves that the trials allow, 90% make the policy take a "
        f"{_where(parameter, *recommendation.interval)}. When all points are drawn again with their noise, "
        f"no other point dominates this one in {recommendation.p_front:.0%} of the redraws."
    )


def noise_of_baseline(recommendation: Recommendation) -> str:
    """What the intervals rest on."""
    seeds = recommendation.baseline.seeds
    known = [recommendation.baseline[name].deviation for name in recommendation.baseline.objectives()]
    without = "" if all(known) else " Where there is none, nothing is known of the noise."
    return (
        f"Intervals are of 95%: DDPM's for another seed, from its {seeds} "
        f"{'seed' if seeds == 1 else 'seeds'} and the sampling error; those of the other training rest on "
        f"the same.{without}"
    )


def confirmation(recommendation: Recommendation, objectives: Sequence[Objective]) -> str:
    """What fresh seeds made of the recommended trial; empty where there were none."""
    found = recommendation.confirmation
    if found is None:
        return ""
    n = len(found.trials)
    changes = [
        f"{o.label} {figure(o, recommendation[o.name].value)} after {figure(o, found.searched(o.name))}"
        for o in objectives
    ]
    return (
        f"Trained again with {n} fresh {'seed' if n == 1 else 'seeds'}, whose means these figures are, "
        f"without the training that the search picked: {changes[0]} in the search, {', '.join(changes[1:])}."
    )


def stopped_early(size: SizeResults) -> str:
    """How many trials were stopped early, when, and what that saved."""
    rows = searched(size.frame[size.frame.method != BASELINE])
    last = rows.sort_values("rung").groupby("trial_id").tail(1)
    stopped = last[last.status == "paused"]
    if stopped.empty:
        return "Here nothing was stopped early."
    at = ", ".join(f"{n} at {budget:.0%}" for budget, n in stopped.budget.value_counts().sort_index().items())
    return (
        f"Stopped early: {len(stopped)} of {len(last)} trials ({at} of the budget), which saved "
        f"{number(float((1 - stopped.budget).sum()), 3)} full trainings."
    )


def the_box(objectives: Sequence[Objective]) -> str:
    """What the hypervolume is a share of."""
    if [objective.name for objective in objectives] == ["fid", "memorization"]:
        return (
            "a perfect model (FID 0, no copies) and one with twice DDPM's mean FID that copies as DDPM does"
        )
    perfect = ", ".join(f"{o.label} {figure(o, o.ideal)}" for o in objectives)
    scaled = [f"{o.slack:g} times as far in {o.label}" for o in objectives if o.slack != 1]
    note = f" ({', '.join(scaled)})" if scaled else ""
    return f"a perfect model ({perfect}) and one that lies as far from it as DDPM does{note}"


def hypervolume(size: SizeResults) -> str:
    """What the hypervolume is measured against, and how far it got."""
    reference = (size.box[1] * size.signs).tolist()
    ends = ", ".join(f"{o.label} {figure(o, end)}" for o, end in zip(size.objectives, reference, strict=True))
    reached = percent(size.normalized_hypervolume(size.frontier))
    repeats = ""
    if size.configurations.confirmed.any():
        repeats = " It falls where fresh seeds of a trial do worse than the search found."
    return (
        f"Hypervolume: of the box between {the_box(size.objectives)} ({ends}), the share that the frontier "
        f"dominates. DDPM has none of it. It is {reached} in the end.{repeats}"
    )


def no_hypervolume(size: SizeResults) -> str:
    """Why there is no hypervolume to show; empty when there is one."""
    if size.full.empty:
        return "No training of this size has reached its full budget yet: nothing to compare."
    ideal, reference = size.box
    if np.isnan(reference).any():
        return "No DDPM baseline has finished, so there is nothing to measure a hypervolume against."
    perfect = [o for o, better in zip(size.objectives, reference > ideal, strict=True) if not better]
    if any(objective.name in {"fid", "memorization"} for objective in perfect):
        return "DDPM copies nothing here: no training can copy less, so there is no hypervolume."
    if perfect:
        names = joined([objective.label for objective in perfect])
        return f"DDPM is perfect on {names}: no training can do better, so there is no hypervolume."
    if size.hypervolume_history.empty:
        return "An older version wrote this table without times, so the order of its trainings is not known."
    return ""


def early_stopping(size: SizeResults, recommendation: Recommendation) -> str:
    """That stopping early does not beat a full training; where it does, or was not tested, is a caution.

    Empty where the answer was sought among all stopping points: it is what beats them.
    """
    if recommendation.budget == "any" or recommendation.early_stop is not None:
        return ""
    if size.anytime[size.anytime.budget < 1].empty:
        return ""
    return (
        "Early stopping does not beat it: no earlier measurement of any trial, DDPM included, is as "
        f"good {on_all(size.objectives)}."
    )


def rivals(size: SizeResults, recommendation: Recommendation) -> str:
    """That no other method does better; empty where none took part, or where one does: that is a caution."""
    rows = size.full[~size.full.method.isin([BASELINE, *size.recommended_methods])]
    if rows.empty or any(caution.word == "better-method" for caution in recommendation.cautions):
        return ""
    labels = [size.declared.method(str(method)).label for method in sorted(set(rows.method))]
    return (
        f"Other methods compared ({', '.join(labels)}): none of their trainings is as good "
        f"{_on_all_metrics(size.objectives)}."
    )


def any_budget_verdict(size: SizeResults) -> str:
    """What the any-budget frontier says about DDPM with early stopping."""
    points, front = size.over("any").points, size.over("any").frontier
    early = points[(points.method == BASELINE) & (points.budget < 1)]
    if early.empty:
        return "No DDPM measurement before full budget takes part, so early stopping is untested."
    stops = f"{len(early)} earlier {'stopping point' if len(early) == 1 else 'stopping points'}"
    winning = front[(front.method == BASELINE) & (front.budget < 1)]
    if winning.empty:
        return (
            f"DDPM stopped early competes here and does not win: for each of its {stops} another point "
            f"is at least as good {_on_all_metrics(size.objectives)}."
        )
    shares = ", ".join(f"{share:.0%}" for share in sorted(set(winning.budget)))
    return (
        f"DDPM stopped early competes here and holds part of the joint frontier: {len(winning)} of its "
        f"{stops}, at {shares} of the budget."
    )
