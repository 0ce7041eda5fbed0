"""Sentences in plain letters, for terminals, files and tags, and for the report where it says the same."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pareto_amb.declared import Declared, Objective
from pareto_amb.diffusion.units import sigma_to_vp
from pareto_amb.results.baseline import NOISE_DEVIATIONS, Figures, Spread
from pareto_amb.results.recommendation import Confirmation, FinalFigures, Gain, Recommendation


def joined(words: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def capitalized(label: str) -> str:
    """A label at the start of a sentence; symbols and names such as sigma_tn stay as they are."""
    first = label.partition(" ")[0]
    return label if "_" in first or not first[:1].isascii() else f"{label[:1].upper()}{label[1:]}"


def figures(objectives: Iterable[Objective], values: Mapping[Any, Any]) -> str:
    """The values of a point, each after its name: `FID 12.3 and memorization 0.040`."""
    return joined([f"{o.label} {o.text(values[o.name])}" for o in objectives])


def training(declared: Declared, method: str, parameters: Mapping[str, Any]) -> str:
    """A training within a sentence: `DDPM`, `Algorithm 1 at sigma_tn 0.3 and mix ratio 0.50`."""
    label, chosen = declared.method(method).label, declared.in_words(method, parameters)
    return f"{label} at {chosen}" if chosen else label


def seeds(count: int, which: str = "") -> str:
    """`1 seed`, `2 fresh seeds`."""
    return f"{count} {which}{'seed' if count == 1 else 'seeds'}"


def confirmed(confirmation: Confirmation, found: Recommendation, objectives: Sequence[Objective]) -> str:
    """What fresh seeds made of the recommended trial."""
    first, *others = [
        f"{o.label} {o.text(found[o.name].value)} after {o.text(confirmation.searched(o.name))}"
        for o in objectives
    ]
    fresh = seeds(len(confirmation.trials), "fresh ")
    return f"trained again with {fresh}: {', '.join([f'{first} in the search', *others])}"


def excess_in_words(excess: float) -> str:
    """How far a mean similarity to the nearest training image lies from held-out images'."""
    return f"{abs(excess):.3f} {'below' if excess < 0 else 'above'} held-out images'"


def gained(gain: Gain, found: Recommendation, objectives: Sequence[Objective]) -> str:
    """What the noise levels alone change, and what the noisy copies do, at one stopping point."""
    control = figures(objectives, {o.name: gain.control[o.name].value for o in objectives})
    return (
        f"against DDPM stopped at the same point {without_copies(gain)} (clean images at the same levels, "
        f"{seeds(len(gain.trials))}: {control}) change {_changes(objectives, gain.ddpm, gain.control)}, the "
        f"noisy copies then {_changes(objectives, gain.control, found)}"
    )


def without_copies(gain: Gain) -> str:
    """What a control has of the training that it controls, noisy copies left out."""
    return f"the noise levels and the {joined(gain.beside)}" if gain.beside else "the noise levels alone"


def _changes(objectives: Sequence[Objective], before: Figures, after: Figures) -> str:
    """`FID by -5.4 and memorization by -0.029`, each with what is no more than noise said."""
    found = []
    for o in objectives:
        step = after[o.name].value - before[o.name].value
        noise = math.hypot(before[o.name].deviation or 0.0, after[o.name].deviation or 0.0)
        within = " (within noise)" if abs(step) <= NOISE_DEVIATIONS * noise else ""
        found.append(f"{o.label} by {'-' if step < 0 else '+'}{o.text(abs(step))}{within}")
    return joined(found)


def describe(found: Recommendation, declared: Declared) -> list[str]:
    """A recommendation for a terminal: verdict, figures with their intervals, cautions; a line each."""
    objectives = list(declared.objectives.values())
    summary, *cautions = found.lines()
    lines = [_level(found, declared)] if found.main else []
    lines += [_stop(found)] if found.images_seen is not None else []
    for objective in objectives:
        ours, theirs = found[objective.name], found.baseline[objective.name]
        heldout = ""
        if objective.name == "memorization":
            heldout = f"   held-out images {objective.text(found.heldout_memorization)}"
        theirs_and_more = f"DDPM {_interval(objective, theirs)}{heldout}"
        lines.append(f"{objective.label:<13} {_interval(objective, ours)}   {theirs_and_more}")
    if found.similarity_excess is not None:
        lines.append(_similarity(found))
    if found.gain is not None:
        lines += [
            f"DDPM stopped at the same point: {_intervals(objectives, found.gain.ddpm)}",
            f"its control, clean images at the same levels, {seeds(len(found.gain.trials))}: "
            f"{_intervals(objectives, found.gain.control)}",
        ]
    if found.final is not None:
        lines.append(_final(found.final, objectives))
    return [summary, *(f"  {line}" for line in (*lines, *cautions))]


def _stop(found: Recommendation) -> str:
    """Where the training stops, and DDPM beside it."""
    theirs = found.baseline.images_seen
    beside = "" if theirs is None else f"; the figures of DDPM are those after {theirs:,}"
    return f"stops after {found.images_seen:,} images{beside}"


def _similarity(found: Recommendation) -> str:
    """How far samples lean towards the training images."""
    theirs, ours = found.baseline.similarity_excess, found.similarity_excess
    beside = "" if theirs is None else f"   DDPM {excess_in_words(theirs)}"
    return f"mean similarity {excess_in_words(ours or 0.0)}{beside}"


def _final(final: FinalFigures, objectives: Sequence[Objective]) -> str:
    """The second measurement, whose figures are not to be read beside the others."""
    ddpm = "" if final.ddpm is None else f"   DDPM at its end {_intervals(objectives, final.ddpm)}"
    return f"measured again on {final.n_samples:,} samples: {_intervals(objectives, final.training)}{ddpm}"


def _intervals(objectives: Sequence[Objective], found: Figures) -> str:
    return joined([f"{o.label} {_interval(o, found[o.name])}" for o in objectives])


def _level(found: Recommendation, declared: Declared) -> str:
    """The main parameter with its interval, a noise level in both units and as a step where it has one."""
    parameter = declared.parameters[found.main]

    def text(*values: float) -> str:
        plain = " to ".join(f"{value:.4g}" for value in values)
        in_vp = " to ".join(f"{sigma_to_vp(value):.4g}" for value in values)
        more = [f"variance-preserving {in_vp}"] if parameter.kind == "level" else []
        more += filter(None, [parameter.steps(*values)])
        return f"{plain} ({', '.join(more)})" if more else plain

    interval = "not searched, so without an interval"
    if found.interval is not None:
        interval = f"90% interval {text(*found.interval)}"
    return f"{found.main} {text(found.parameters[found.main])}, {interval}"


def _interval(objective: Objective, spread: Spread) -> str:
    if spread.deviation is None:
        return f"{objective.text(spread.value)} (noise unknown)"
    low, high = objective.text(spread.low), objective.text(spread.high)
    return f"{objective.text(spread.value)} ({low} to {high})"
