"""What a recommendation amounts to: whether DDPM copies at all, and whether the training copies less than it.

The verdict and the cautions are worked out here and in `cautions.py` alone; terminal, recommendation.yaml,
report, notebook and MLflow show them as they are.
"""

import math

from pareto_amb.config import SweepConfig
from pareto_amb.declared import Objective
from pareto_amb.results.baseline import no_worse_than
from pareto_amb.results.cautions import UNSURE_ABOVE, Facts, cautions, excess, resembles_nothing
from pareto_amb.results.recommendation import ADVISED, Recommendation, VerdictWord
from pareto_amb.results.size import SizeResults
from pareto_amb.results.words import capitalized, confirmed, joined


def assessed(
    found: Recommendation, size: SizeResults, config: SweepConfig | None = None, stopped: str = ""
) -> Recommendation:
    """The recommendation with its verdict, its cautions and its summary, whatever it had of them.

    `config` tells which range was searched and how many trainings were planned; without it no caution speaks
    of either. `stopped` says why the search ended itself.
    """
    facts = Facts(found, size, config, stopped)
    word, words = verdict(facts)
    changes = {"verdict": word, "verdict_words": words, "cautions": cautions(facts)}
    return found.model_copy(
        update={
            **changes,
            "summary": f"{words}. {_in_words(found, size, word in ADVISED)}{_confirmed(found, size)}",
        }
    )


def _confirmed(found: Recommendation, size: SizeResults) -> str:
    if found.confirmation is None:
        return ""
    return f" {capitalized(confirmed(found.confirmation, found, size.objectives))}."


def verdict(facts: Facts) -> tuple[VerdictWord, str]:
    """The verdict in a word and in words.

    What DDPM does comes first: there is something to gain only where it copies more than chance does.
    """
    found, baseline = facts.found, facts.found.baseline["memorization"]
    if resembles_nothing(facts.ddpm):
        return "unknown", "DDPM's samples are no images yet, so whether it copies is unknown"
    if not math.isfinite(found.heldout_memorization):
        return "unknown", "Without held-out images it is unknown whether DDPM copies more than chance does"
    above, margin = excess(facts)
    if above <= margin:
        if above > 0 and above + margin > UNSURE_ABOVE:
            return "unknown", "Too few samples to tell whether DDPM copies here"
        return "ddpm-does-not-copy", "DDPM does not copy here; nothing to fix"
    if not found["memorization"].value < baseline.low:
        return "no-gain", "No gain over DDPM beyond its own noise"
    return _against_ddpm(found, facts.size)


def _against_ddpm(found: Recommendation, size: SizeResults) -> tuple[VerdictWord, str]:
    held = [objective for objective in size.objectives if objective.constraint]
    worse = [objective for objective in held if _is_worse(found, objective)]
    if not worse and len(size.objectives) == 2:
        return "copies-less", "Copies less than DDPM, image quality no worse"
    if not worse:
        return "copies-less", f"Copies less than DDPM, no worse on {joined([o.label for o in held])}"
    if [objective.name for objective in worse] == ["fid"]:
        return "copies-less-at-worse-quality", "Copies less than DDPM, at worse image quality"
    words = f"Copies less than DDPM, worse on {joined([o.label for o in worse])}"
    return "copies-less-at-worse-quality", words


def _is_worse(found: Recommendation, objective: Objective) -> bool:
    """Whether the training is worse than DDPM beyond its noise."""
    limit = no_worse_than(found.baseline[objective.name], objective)
    return objective.sign * found[objective.name].value > objective.sign * limit


def _in_words(found: Recommendation, size: SizeResults, advised: bool) -> str:
    """The figures in a sentence, which praises them only where the verdict does."""
    baseline, ours = found.baseline, found["memorization"].value
    method = size.declared.method(found.method)
    what = size.declared.in_words(method.name, found.parameters) or method.label
    verb = "give" if len(method.parameters) > 1 else "gives"
    further = [
        f", {o.label} {o.text(found[o.name].value)} (DDPM {o.text(baseline[o.name].value)})"
        for o in size.objectives[2:]
    ]
    ddpm = baseline["memorization"].value
    start = f"With {size.train_size:,} training images"
    if not advised:
        heldout = found.heldout_memorization
        yardstick = f" (held-out images {heldout:.3g})" if math.isfinite(heldout) else ""
        return (
            f"{start}, DDPM has FID {baseline['fid'].value:.4g} and memorization {ddpm:.3g}{yardstick}; the "
            f"policy {found.policy} would take {what}: FID {found['fid'].value:.4g} and memorization "
            f"{ours:.3g}{''.join(further)}."
        )
    return (
        f"{start}, {what} {verb} FID {found['fid'].value:.4g} and memorization {ours:.3g}, against DDPM's "
        f"FID {baseline['fid'].value:.4g} and memorization {ddpm:.3g}: {1 - ours / ddpm:.0%} fewer "
        f"copies{''.join(further)}."
    )
