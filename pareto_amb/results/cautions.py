"""What a reader of a recommendation must know beside its figures. A new one is a function in `_CAUTIONS`.

Each is worked out from the recommendation, the results table and the sweep's configuration, whatever version
wrote the recommendation, and is shown as it is wherever the recommendation is shown.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pareto_amb.config import AutoRange, Choice, Range, SweepConfig
from pareto_amb.declared import BASELINE, Parameter
from pareto_amb.evaluation.shares import share_posterior
from pareto_amb.results.baseline import Baseline, only_tolerated, quantile_of_noise
from pareto_amb.results.confirm import branched_trials, worth_confirming
from pareto_amb.results.interval import searched_of
from pareto_amb.results.recommendation import Caution, Recommendation
from pareto_amb.results.size import SizeResults
from pareto_amb.results.table import searched
from pareto_amb.results.words import excess_in_words, figures, joined, training

EDGE = 0.05
"""A value in this share of the searched range, on the parameter's scale, lies at the range's end."""
UNSETTLED = 0.75
"""An interval over this share of the searched range, on the parameter's scale, settles nothing."""
FEW_SAMPLES = 500
UNSURE_ABOVE = 0.05
"""A share of copies that may lie so far above that of held-out images is not called normal."""


@dataclass(frozen=True)
class Facts:
    """What cautions are worked out from. `stopped` says why the search ended itself, where it did."""

    found: Recommendation
    size: SizeResults
    config: SweepConfig | None = None
    stopped: str = ""

    @property
    def compared(self) -> SizeResults:
        """The results at the budget of the recommendation."""
        return self.size.over(self.found.budget)

    @property
    def chosen(self) -> pd.DataFrame:
        """The rows behind the recommended figures."""
        found, rows = self.found, self.compared.rows
        if found.images_seen is not None:
            rows = rows[rows.images_seen == found.images_seen]
        if found.method == BASELINE:
            return rows[rows.method == BASELINE]
        trials = [found.trial_id] if found.confirmation is None else found.confirmation.trials
        return rows[rows.trial_id.isin(trials)]

    @property
    def stops_early(self) -> bool:
        """Whether the recommended training stops before its full budget."""
        return self.size.stops_early(self.found.images_seen)

    @property
    def searched(self) -> Range | tuple[Choice, ...]:
        """Where the main parameter was searched; no choices where that is not known."""
        space = self.config.space if self.config is not None else None
        return searched_of(space, self.found.main, self.found.train_size)

    @property
    def ddpm(self) -> pd.DataFrame:
        """The rows of DDPM at full budget."""
        return self.size.full[self.size.full.method == BASELINE]

    @property
    def at_its_end(self) -> Baseline:
        """DDPM at full budget: what plain training does."""
        full = self.size.over("full")
        return full.baseline if self.found.budget == "any" and full.has_baseline else self.found.baseline


def copies_less(found: Recommendation) -> bool:
    """Whether the recommended training copies less than DDPM beyond its noise."""
    return found["memorization"].value < found.baseline["memorization"].low


def cautions(facts: Facts) -> list[Caution]:
    """Those that apply, the gravest first."""
    found = [Caution(word=word, sentence=say(facts)) for word, say in _CAUTIONS.items()]
    return [caution for caution in found if caution.sentence]


def excess(facts: Facts) -> tuple[float, float]:
    """How far DDPM's share of copies at full budget lies above held-out images', and half its 95% interval.

    The share of held-out images has the error of a count where the table says of how many (`heldout_images`).
    """
    ddpm, heldout = facts.at_its_end["memorization"], facts.found.heldout_memorization
    seeds = max(facts.at_its_end.seeds, 1)
    variance, images = (ddpm.deviation or 0.0) ** 2 / seeds, _mean(facts.size.full, "heldout_images")
    if images > 0:
        variance += float(share_posterior(heldout, round(images))[1]) ** 2
    return ddpm.value - heldout, quantile_of_noise(seeds) * math.sqrt(variance)


def resembles_nothing(rows: pd.DataFrame) -> bool:
    """Whether the samples of trainings are no pictures of the training set's kind.

    So it is where 95 of 100 samples are less similar to their nearest training image than real, unseen images
    are to theirs on average.
    """
    return _mean(rows, "similarity_p95") < _mean(rows, "heldout_similarity_mean")


def _mean(rows: pd.DataFrame, column: str) -> float:
    """NaN where there is none, in the table or in the rows."""
    return float(rows[column].mean()) if column in rows and len(rows) else math.nan


# --- what the figures rest on ---------------------------------------------------------------------


def _no_quality(facts: Facts) -> str:
    poor = [
        name
        for name, rows in (("DDPM", facts.ddpm), ("this training", facts.chosen))
        if resembles_nothing(rows)
    ]
    if not poor:
        return ""
    return (
        f"the samples of {joined(poor)} look like no real image of this kind: they are less similar to the "
        "training images than unseen real images are, so their quality is none and they copy nothing; train "
        "longer (training.images)"
    )


def _no_yardstick(facts: Facts) -> str:
    if math.isfinite(facts.found.heldout_memorization):
        return ""
    return "no held-out images were measured, so it is unknown how many samples pass for copies by chance"


def _yardstick_high(facts: Facts) -> str:
    heldout = facts.found.heldout_memorization
    if not heldout > UNSURE_ABOVE:
        return ""
    return (
        f"{heldout:.1%} of held-out images, which no model was trained on, pass for copies themselves: the "
        "threshold hardly tells copies from chance"
    )


def _copying_unsure(facts: Facts) -> str:
    """Where DDPM seems not to copy, but the figures are too few to be sure."""
    above, margin = excess(facts)
    if not (above <= margin and above + margin > UNSURE_ABOVE):
        return ""
    return (
        "it is not sure that DDPM does not copy: its share of copies may lie up to "
        f"{100 * min(above + margin, 1.0):.2g} percentage points above that of held-out images; more samples "
        "(evaluation.n_samples) or baseline seeds (search.baseline_seeds) would tell"
    )


def _one_baseline_seed(facts: Facts) -> str:
    if facts.found.baseline.seeds != 1:
        return ""
    lucky = ""
    if facts.size.stops_early(facts.found.baseline.images_seen):
        lucky = ", and its best stopping point, picked on that seed alone, may be that seed's luck"
    return (
        "DDPM was trained with one seed only, so what another seed changes is unknown: small differences "
        f"mean nothing{lucky} (search.baseline_seeds)"
    )


def _few_samples(facts: Facts) -> str:
    counts = sorted({int(n) for n in facts.size.full.n_samples})
    if len(counts) > 1:
        return (
            f"trainings were measured on different numbers of samples, {joined([f'{n:,}' for n in counts])}: "
            + ("only the most take part" if facts.found.budget == "any" else "their FID is not comparable")
        )
    if not counts or counts[0] >= FEW_SAMPLES:
        return ""
    return (
        f"every training was measured on {counts[0]:,} samples only: its figures are rough, and the FID of "
        "so few is far above that of many (evaluation.n_samples)"
    )


def _unfinished(facts: Facts) -> str:
    size, config = facts.size, facts.config
    last = size.frame.drop_duplicates("trial_id")
    own = searched(last)
    running, planned = int(own.status.isin({"running", "interrupted"}).sum()), len(own)
    if config is not None and not facts.stopped:
        trials = sum(config.n_trials(size.declared).values())
        planned = max(config.search.baseline_seeds + trials, planned)
    left = planned - len(own) + running
    if not left:
        return _followers_left(facts, last[~last.trial_id.isin(own.trial_id)])
    paused = int((last.status == "paused").sum())
    waiting = f", and {paused} that paused may go on" if paused else ""
    return f"{left} of {planned} trainings have not finished{waiting}: --resume may find better ones"


def _followers_left(facts: Facts, begun: pd.DataFrame) -> str:
    """Once the search is over: what has not ended of what follows it, of which `begun` have a row each."""
    size, config = facts.size, facts.config
    if config is None:
        return ""
    search, methods = config.search, size.frame.set_index("trial_id").method
    best = worth_confirming(size, search.confirm.candidates)
    picked = [size.declared.method(methods[[trial_id]].iloc[0]) for trial_id, _ in best]
    controlled = [search.controls and bool(method.control) for method in picked]
    scratch = min(config.n_from_scratch(size.declared), len(branched_trials(size)))
    planned = max(search.confirm.seeds * (len(picked) + sum(controlled)) + scratch, len(begun))
    left = planned - int(begun.status.isin({"complete", "failed"}).sum())
    if not left:
        return ""
    return (
        f"{left} of {planned} trainings that follow the search, fresh seeds and controls of its best, have "
        "not finished: --resume trains them"
    )


def _branched(facts: Facts) -> str:
    frame = facts.size.frame
    rows = frame[frame.branched_at > 0]
    if rows.empty:
        return ""
    branched = rows.trial_id.unique()
    at = joined([f"{images:,}" for images in sorted(rows.branched_at.unique())], "or")
    scratch = frame[frame.confirms.isin(branched)].trial_id.nunique()
    return (
        f"{len(branched)} trials of the search went on from a DDPM baseline after {at} images, which makes "
        f"them copy more: they only chose which {scratch} to train from scratch, and no figure here is theirs"
    )


def _failed(facts: Facts) -> str:
    last = facts.size.frame.drop_duplicates("trial_id")
    failed = int((last.status == "failed").sum())
    return f"{failed} of {len(last)} trainings failed and tell nothing" if failed else ""


def _gone(facts: Facts) -> str:
    if len(facts.chosen):
        return ""
    return (
        f"the recommended trial {facts.found.trial_id} is not among those of the results table that can be "
        "compared: recommend again"
    )


# --- what may be better ---------------------------------------------------------------------------


def _still_copies(facts: Facts) -> str:
    ours, heldout = facts.found["memorization"], facts.found.heldout_memorization
    if not ours.low > heldout or resembles_nothing(facts.chosen):
        return ""
    return (
        f"this training still copies: {ours.value:.1%} of its samples, against {heldout:.1%} of "
        "held-out images"
    )


def _within_tolerance(facts: Facts) -> str:
    found, said = facts.found, []
    for o in facts.size.objectives:
        ours, theirs = found[o.name].value, found.baseline[o.name]
        if only_tolerated(ours, theirs, o):
            said.append(
                f"its {o.label} is worse than DDPM's beyond noise, {o.text(ours)} against "
                f"{o.text(theirs.value)}, and counts as no worse within the tolerated {o.tolerance:.0%}"
            )
    return "; ".join(said)


def _not_confirmed(facts: Facts) -> str:
    if facts.found.confirmation is not None or facts.found.method == BASELINE:
        return ""
    return (
        "not confirmed by fresh seeds: it is one training, the best of many, and the best of many looks "
        "better than it is"
    )


def _refuted(facts: Facts) -> str:
    refuted = facts.found.refuted
    if not refuted:
        return ""
    held = joined([o.label for o in facts.size.objectives if o.constraint], "or")
    return f"fresh seeds showed a {held} worse than DDPM's for {joined(refuted)}, which had looked better"


def _early_stopping(facts: Facts) -> str:
    stop, size = facts.found.early_stop, facts.size
    if stop is None:
        return ""
    values = {objective.name: stop[objective.name] for objective in size.objectives}
    what = training(size.declared, stop.method, stop.chosen)
    return (
        f"training less does at least as well: {what}, stopped after {stop.images_seen:,} images, has "
        f"{figures(size.objectives, values)}"
    )


def _no_proof(facts: Facts) -> str:
    """Where an early stop is recommended: how far its samples lean towards the training images even so."""
    found = facts.found
    if not facts.stops_early:
        return ""
    start = (
        "an early stop is no proof of innocence: samples lean towards training images before the held-out "
        "loss turns"
    )
    if found.similarity_excess is None:
        return f"{start}; how far these do was not measured"
    full = facts.at_its_end.similarity_excess
    beside = "" if full is None else f", DDPM's at full budget {excess_in_words(full)}"
    return f"{start}; the mean similarity of these lies {excess_in_words(found.similarity_excess)}{beside}"


def _ddpm_close(facts: Facts) -> str:
    """Where DDPM stopped early cannot be told from the training that was taken instead."""
    found, size = facts.found, facts.compared
    if found.budget == "full" or found.method == BASELINE or not copies_less(found):
        return ""
    rows = size.configurations
    rows = rows[(rows.method == BASELINE) & (rows.budget < 1)]
    ends = [found[o.name].high if o.sign > 0 else -found[o.name].low for o in size.objectives]
    close = rows[(size.minimized(rows) <= ends).all(axis=1)]
    if close.empty:
        return ""
    best = close.sort_values(["memorization", "fid"]).iloc[0]
    return (
        f"DDPM stopped early comes close: after {int(best.images_seen):,} images it has "
        f"{figures(size.objectives, best)}, within the noise of this training"
    )


def _control_untested(facts: Facts) -> str:
    found, method = facts.found, facts.size.declared.method(facts.found.method)
    if not method.control or found.gain is not None or not copies_less(found):
        return ""
    return (
        "what part of this the noise levels alone would gain was not tested: no control of this training was "
        "measured (search.controls, for trials that fresh seeds confirm)"
    )


def _early_stopping_untested(facts: Facts) -> str:
    if facts.found.early_stop is not None or (facts.size.anytime.budget < 1).any():
        return ""
    return "early stopping was not tested: no earlier measurement has the same number of samples"


def _better_method(facts: Facts) -> str:
    size = facts.compared
    rows = size.rows[~size.rows.method.isin([BASELINE, *size.recommended_methods])]
    ours = size.signs * [facts.found[objective.name].value for objective in size.objectives]
    better = rows[(size.minimized(rows) <= ours).all(axis=1)]
    if better.empty:
        return ""
    best = better.sort_values(["memorization", "fid"]).iloc[0]
    what = training(size.declared, str(best.method), best)
    if best.budget < 1:
        what += f", stopped after {int(best.images_seen):,} images,"
    return f"another method does at least as well: {what} has {figures(size.objectives, best)}"


def _range_end(facts: Facts) -> str:
    found, parameter = facts.found, facts.size.declared.parameters.get(facts.found.main)
    return range_caution(parameter, facts.searched, found.parameters[found.main]) if parameter else ""


def range_caution(parameter: Parameter, searched: Range | tuple[Choice, ...], value: float) -> str:
    """One sentence when the recommended value lies at an end of what was searched: a range, or a list."""
    ends = _ends(searched)
    if ends is None or EDGE <= (place := _place(parameter, ends, value)) <= 1 - EDGE:
        return ""
    end, name = "low" if place < EDGE else "high", parameter.name
    if not isinstance(searched, Range):
        return (
            f"{name} lies at the {end} end of the listed values {ends[0]:g} to {ends[1]:g}; "
            f"list {end}er ones in space.{name} and search again to see beyond it"
        )
    remedy = f"move space.{name}.{end}"
    if isinstance(searched, AutoRange):
        remedy = f"replace space.{name}: auto by a range with a {end}er {end} end"
    return (
        f"{name} lies at the {end} end of the searched range {searched.low:g} to {searched.high:g}; "
        f"{remedy} and search again to see beyond it"
    )


def _unsettled(facts: Facts) -> str:
    found, searched = facts.found, facts.searched
    parameter = facts.size.declared.parameters.get(found.main)
    ends = _ends(searched)
    if parameter is None or found.interval is None or ends is None:
        return ""
    low, high = (_place(parameter, ends, end) for end in found.interval)
    if high - low < UNSETTLED:
        return ""
    return (
        f"the trials do not settle {found.main}: its 90% interval, {found.interval[0]:.4g} to "
        f"{found.interval[1]:.4g}{parameter.at_step(*found.interval)}, is most of the searched range; "
        "more trials would narrow it"
    )


def _seldom_served(facts: Facts) -> str:
    served = facts.found.served
    if served is None or served >= 0.5:
        return ""
    return (
        f"in {1 - served:.0%} of what the points leave possible no {facts.found.main or 'training'} serves "
        f"the policy {facts.found.policy}: that this one does may be luck"
    )


def _ends(searched: Range | tuple[Choice, ...]) -> tuple[float, float] | None:
    """The ends of a range or of the numbers of a list; None where there are not two of them."""
    if isinstance(searched, Range):
        return searched.low, searched.high
    numbers = {choice for choice in searched if not isinstance(choice, str)}
    return (min(numbers), max(numbers)) if len(numbers) > 1 else None


def _place(parameter: Parameter, ends: tuple[float, float], value: float) -> float:
    """Where a value lies between two, from 0 to 1, on the parameter's own scale."""
    scale: Callable[[float], float] = np.log if parameter.log else float
    low, high = map(scale, ends)
    return float((scale(value) - low) / (high - low))


_CAUTIONS: dict[str, Callable[[Facts], str]] = {
    "no-quality": _no_quality,
    "trial-gone": _gone,
    "no-yardstick": _no_yardstick,
    "copying-unsure": _copying_unsure,
    "yardstick-high": _yardstick_high,
    "early-stopping": _early_stopping,
    "early-stop-no-proof": _no_proof,
    "ddpm-close": _ddpm_close,
    "control-untested": _control_untested,
    "better-method": _better_method,
    "still-copies": _still_copies,
    "within-tolerance": _within_tolerance,
    "not-confirmed": _not_confirmed,
    "refuted": _refuted,
    "seldom-served": _seldom_served,
    "unsettled": _unsettled,
    "range-end": _range_end,
    "one-baseline-seed": _one_baseline_seed,
    "few-samples": _few_samples,
    "early-stopping-untested": _early_stopping_untested,
    "branched": _branched,
    "unfinished": _unfinished,
    "failed": _failed,
}
