"""What a recommendation amounts to: whether DDPM copies at all, and whether the training copies less than it.

The verdict and the cautions are worked out here and in `cautions.py` alone; terminal, recommendation.yaml,
report, notebook and MLflow show them as they are.
"""

import math

from pareto_amb.config import SweepConfig
from pareto_amb.declared import BASELINE, Objective
from pareto_amb.results.baseline import Figures, no_worse_than, only_tolerated
from pareto_amb.results.cautions import (
    UNSURE_ABOVE,
    Facts,
    cautions,
    copies_less,
    excess,
    resembles_nothing,
)
from pareto_amb.results.policies import POLICIES, in_words
from pareto_amb.results.recommendation import ADVISED, Recommendation, VerdictWord
from pareto_amb.results.size import SizeResults
from pareto_amb.results.words import capitalized, confirmed, figures, gained, joined, training


def assessed(
    found: Recommendation, size: SizeResults, config: SweepConfig | None = None, stopped: str = ""
) -> Recommendation:
    """The recommendation with its verdict, its cautions and its summary, whatever it had of them.

    `config` tells which range was searched and how many trainings were planned; without it no caution speaks
    of either. `stopped` says why the search ended itself.
    """
    facts = Facts(found, size, config, stopped)
    word, words = verdict(facts)
    sentences = [words, _figures(facts, word), *_why(facts), *_beside(facts)]
    changes = {"verdict": word, "verdict_words": words, "cautions": cautions(facts)}
    return found.model_copy(update={**changes, "summary": f"{'. '.join(sentences)}."})


def verdict(facts: Facts) -> tuple[VerdictWord, str]:
    """The verdict in a word and in words.

    What DDPM does comes first: there is something to gain only where it copies more than chance does.
    """
    found = facts.found
    if resembles_nothing(facts.ddpm):
        return "unknown", "DDPM's samples are no images yet, so whether it copies is unknown"
    if not math.isfinite(found.heldout_memorization):
        return "unknown", "Without held-out images it is unknown whether DDPM copies more than chance does"
    above, margin = excess(facts)
    if above <= margin:
        if above > 0 and above + margin > UNSURE_ABOVE:
            return "unknown", "Too few samples to tell whether DDPM copies here"
        return "ddpm-does-not-copy", "DDPM does not copy here; nothing to fix"
    copies, at_its_end = found["memorization"].value, facts.at_its_end["memorization"]
    if found.method == BASELINE and facts.stops_early and copies < at_its_end.low:
        return "stop-early", _stop_early(facts)
    if found.method == BASELINE or not copies_less(found):
        return "no-gain", _no_gain(facts)
    return _against_ddpm(facts)


def _stop_early(facts: Facts) -> str:
    size = facts.size.over("any")
    methods = [size.declared.method(name) for name in size.recommended_methods]
    others = dict.fromkeys(m.parameters[0].terminal_label if m.parameters else m.label for m in methods)
    worse = [o.label for o in size.objectives if o.constraint and _is_worse(facts.found, o)]
    cost = f", at a worse {joined(worse)} than it can have" if worse else ""
    other = joined(list(others), "or") or "other training"
    rule = POLICIES.get(facts.found.policy)
    sure = ""
    if rule is not None and rule.prefers_confirmed and size.configurations.confirmed.any():
        sure = " that fresh seeds confirmed"
    return f"Stopping DDPM early does it{cost}: no {other}{sure} does better"


def _no_gain(facts: Facts) -> str:
    """Where copies are not fewer, though the policy may have taken the training for something else."""
    found, size = facts.found, facts.size
    where = " at its best stop" if found.method != BASELINE and _stopped_baseline(facts) else ""
    better = [o.label for o in size.objectives if found.method != BASELINE and _is_better(found, o)]
    if better:
        return f"No fewer copies than DDPM{where} beyond its own noise, only a better {joined(better)}"
    return f"No gain over DDPM{where} beyond its own noise"


def _against_ddpm(facts: Facts) -> tuple[VerdictWord, str]:
    found, size = facts.found, facts.size
    start = f"Copies less than DDPM{' at its best stop' if _stopped_baseline(facts) else ''}"
    held = [objective for objective in size.objectives if objective.constraint]
    worse = [objective for objective in held if _is_worse(found, objective)]
    if not worse and len(size.objectives) == 2:
        return "copies-less", f"{start}, image quality no worse"
    if not worse:
        theirs = found.baseline
        tolerated = [o for o in held if only_tolerated(found[o.name].value, theirs[o.name], o)]
        level = [o.label for o in held if o not in tolerated]
        said = [f"no worse on {joined(level)}"] if level else []
        said += [f"within {o.tolerance:.0%} of its {o.label}" for o in tolerated]
        return "copies-less", ", ".join([start, *said])
    if [objective.name for objective in worse] == ["fid"]:
        return "copies-less-at-worse-quality", f"{start}, at worse image quality"
    words = f"{start}, worse on {joined([o.label for o in worse])}"
    return "copies-less-at-worse-quality", words


def _is_worse(found: Recommendation, objective: Objective) -> bool:
    """Whether the training is worse than DDPM beyond its noise."""
    limit = no_worse_than(found.baseline[objective.name], objective)
    return objective.sign * found[objective.name].value > objective.sign * limit


def _is_better(found: Recommendation, objective: Objective) -> bool:
    """Whether the training is better than DDPM beyond its noise."""
    theirs, sign = found.baseline[objective.name], objective.sign
    return sign * found[objective.name].value < (theirs.low if sign > 0 else -theirs.high)


def _stopped_baseline(facts: Facts) -> bool:
    """Whether what the training is held against is DDPM before its full budget."""
    return facts.size.stops_early(facts.found.baseline.images_seen)


def _figures(facts: Facts, word: VerdictWord) -> str:
    """The figures in a sentence, which praises them only where the verdict does."""
    found, size = facts.found, facts.size
    ours = {o.name: found[o.name].value for o in size.objectives}
    start, what = f"With {size.train_size:,} training images", _training(facts)
    if word not in ADVISED:
        heldout = found.heldout_memorization
        yardstick = f" (held-out images {heldout:.3g})" if math.isfinite(heldout) else ""
        return (
            f"{start}, {_ddpm(facts)} has {_values(found.baseline, size)}{yardstick}; the policy "
            f"{found.policy} would take {what}: {figures(size.objectives, ours)}"
        )
    theirs, ddpm = found.baseline, _ddpm(facts)
    if word == "stop-early":
        theirs, ddpm = facts.at_its_end, "DDPM at its end"
    verb = "give" if len(found.parameters) > 1 else "gives"
    fewer = 1 - ours["memorization"] / theirs["memorization"].value
    return (
        f"{start}, {what} {verb} {figures(size.objectives, ours)}, against {_values(theirs, size)} of "
        f"{ddpm}: {fewer:.0%} fewer copies"
    )


def _training(facts: Facts) -> str:
    """The recommended training, and where it stops, within a sentence."""
    found, declared = facts.found, facts.size.declared
    what = declared.in_words(found.method, found.parameters) or declared.method(found.method).label
    if found.images_seen is None:
        return what
    if facts.stops_early:
        return f"{what} (stopped after {found.images_seen:,} of {facts.size.full_images:,} images)"
    return f"{what} (trained to the end, {found.images_seen:,} images)"


def _ddpm(facts: Facts) -> str:
    """What the training is held against, within a sentence."""
    baseline = facts.found.baseline
    if not _stopped_baseline(facts):
        return "DDPM"
    held = next((o for o in facts.size.objectives if o.constraint), facts.size.objectives[0])
    return f"DDPM (stopped after {baseline.images_seen:,} images, where its {held.label} stops improving)"


def _values(spreads: Figures, size: SizeResults) -> str:
    return figures(size.objectives, {o.name: spreads[o.name].value for o in size.objectives})


def _why(facts: Facts) -> list[str]:
    """Which rule took the training, and what it would take at equal budget."""
    found, size = facts.found, facts.size
    if found.images_seen is None or found.policy not in POLICIES:
        return []
    rule = in_words(found.policy, found.max_memorization)
    among = "all stopping points" if found.budget == "any" else "full trainings"
    why = f"The policy {found.policy} ({rule}) takes it among {among}"
    if found.budget == "full":
        return [why]
    other = found.equal_budget
    if other is None:
        return [f"{why}; among full trainings none will do"]
    at = (found.method, found.parameters, found.images_seen)
    if at == (other.method, other.parameters, other.images_seen):
        return [f"{why}, and among full trainings too"]
    values = {o.name: other[o.name] for o in size.objectives}
    return [
        f"{why}; at equal budget, among full trainings, it would take "
        f"{training(size.declared, other.method, other.chosen)}: {figures(size.objectives, values)} "
        f"(DDPM {_values(facts.at_its_end, size)})"
    ]


def _beside(facts: Facts) -> list[str]:
    """What fresh seeds made of it, and what its gain is made of."""
    found, objectives, said = facts.found, facts.size.objectives, []
    if found.confirmation is not None:
        said.append(capitalized(confirmed(found.confirmation, found, objectives)))
    if found.gain is not None:
        said.append(capitalized(gained(found.gain, found, objectives)))
    return said
