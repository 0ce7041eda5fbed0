"""Numbers and sentences for people: digits that mean something, claims that the table carries."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pareto_amb.diffusion.units import sigma_to_vp
from pareto_amb.results import parameters_of
from pareto_amb.search.frontier import (
    BASELINE,
    RECOMMENDED,
    average_seeds,
    comparable,
    frontier,
    hypervolume_history,
    normalized_hypervolume,
    reference_point,
)
from pareto_amb.search.recommend import EarlyStop, Recommendation, Spread

METHODS = {
    BASELINE: "DDPM",
    "algorithm1": "Algorithm 1",
    "masking": "Masking",
    "noise_only": "Noise only",
}
ABSENT = "–"


def method_name(method: str) -> str:
    """The name a reader knows a method by."""
    return METHODS.get(method, method)


def number(value: float | None, digits: int = 3) -> str:
    """`value` with so many significant digits, thousands separated; a dash when there is none."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if value == 0:
        return "0"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{min(decimals, 12)}f}"


def count(value: float | None) -> str:
    """A whole number, thousands separated."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:,.0f}"


def percent(share: float | None) -> str:
    """A share in [0, 1] as a percentage: one decimal, two below 1%."""
    if share is None or not math.isfinite(share):
        return ABSENT
    points = 100 * share
    decimals = 2 if 0 < abs(points) < 0.995 else 1
    return f"{points:.{decimals}f}%"


def level(sigma: float | None) -> str:
    """A sigma in EDM units."""
    return number(sigma, 3)


def level_range(interval: tuple[float, float]) -> str:
    """An interval of sigma in EDM units."""
    return " to ".join(level(end) for end in interval)


def level_vp(sigma: float | None) -> str:
    """A sigma given in EDM units, written in VP units; more digits close to 1."""
    if sigma is None or not math.isfinite(sigma) or sigma < 0:
        return ABSENT
    converted = sigma_to_vp(sigma)
    return f"{converted:.3f}" if converted < 0.9985 else f"{converted:.5f}"


def chosen(trial: Mapping[str, Any]) -> str:
    """What was chosen for a trial, noise levels in both units; empty for DDPM."""
    texts = {
        "sigma_tn": f"σ_tn {level(trial['sigma_tn'])} EDM = {level_vp(trial['sigma_tn'])} VP",
        "mix_ratio": f"mix ratio {number(trial['mix_ratio'], 2)}",
        "corruption": f"{percent(trial['corruption'])} of pixels missing",
    }
    return " · ".join(texts[name] for name in parameters_of(trial["method"]))


def interval(spread: Spread, share: bool = False) -> str:
    """The interval of a figure, empty when it has none; shares stay within [0, 1]."""
    if not spread.high > spread.low:
        return ""
    if share:
        return f"{percent(max(spread.low, 0.0))} to {percent(min(spread.high, 1.0))}"
    return f"{number(max(spread.low, 0.0), 4)} to {number(spread.high, 4)}"


def verdict(recommendation: Recommendation) -> tuple[str, str]:
    """(tone, words) on the recommended training against DDPM; tone is good, mixed or none."""
    baseline = recommendation.baseline
    fewer = recommendation.memorization.value < baseline.memorization.low
    as_good = recommendation.fid.value <= baseline.fid.high
    if fewer and as_good:
        return "good", "Copies less than DDPM, image quality no worse"
    if fewer:
        return "mixed", "Copies less than DDPM, at worse image quality"
    return "none", "No gain over DDPM beyond its own noise"


def reduction(recommendation: Recommendation) -> str:
    """How the copying compares with DDPM's, in one clause."""
    ours, theirs = recommendation.memorization.value, recommendation.baseline.memorization.value
    if theirs <= 0:
        return "DDPM itself copies nothing at this threshold."
    if ours > theirs:
        return f"It copies more than DDPM: {percent(ours)} of samples against {percent(theirs)}."
    return (
        f"{percent(ours)} of its samples count as copies, against {percent(theirs)} for DDPM: "
        f"{1 - ours / theirs:.0%} fewer."
    )


def yardstick(recommendation: Recommendation) -> str:
    """The held-out comparison: a copy rate means something only in excess of it."""
    heldout = recommendation.heldout_memorization
    if not math.isfinite(heldout):
        return "No held-out images were measured, so there is no yardstick for the copy rate."
    excess = recommendation.memorization.value - heldout
    words = (
        "the recommended model is not above it"
        if excess <= 0
        else f"the recommended model is {100 * excess:.2g} percentage points above it"
    )
    return (
        f"Yardstick: {percent(heldout)} of real images that no model was trained on pass the same "
        f"threshold; {words}."
    )


def window(recommendation: Recommendation) -> str:
    """Where on the sigma_tn axis trials beat DDPM."""
    if recommendation.window is None:
        return "No range of σ_tn around the recommended one beats DDPM beyond its seed noise."
    low, high = recommendation.window
    if low == high:
        return (
            f"Only the trial at σ_tn {level(low)} (VP {level_vp(low)}) beats DDPM here; its "
            "neighbours do not, so a confirming run is advisable."
        )
    return (
        f"Every trial with σ_tn from {level(low)} to {level(high)} (VP {level_vp(low)} to "
        f"{level_vp(high)}) beats DDPM: FID no worse within its seed noise, memorization lower by "
        "more than it."
    )


def sureness(recommendation: Recommendation) -> str:
    """How well the data settles the recommended sigma_tn; empty where it was not worked out."""
    if recommendation.sigma_tn_interval is None or recommendation.p_front is None:
        return ""
    low, high = recommendation.sigma_tn_interval
    where = f"a σ_tn from {level(low)} to {level(high)} (VP {level_vp(low)} to {level_vp(high)})"
    return (
        "When all points are drawn again with their noise, the policy takes "
        f"{'this σ_tn' if low == high else where} in at least 90% of the redraws, and no other point "
        f"dominates the recommended one in {recommendation.p_front:.0%}."
    )


def noise_of_baseline(recommendation: Recommendation) -> str:
    """What the intervals rest on."""
    seeds = recommendation.baseline.seeds
    if seeds == 1:
        return (
            "DDPM was trained with one seed only: its noise is unknown, the intervals hold the sampling "
            "error alone and small differences mean nothing."
        )
    return (
        f"Intervals are ±2 standard deviations: DDPM's over its {seeds} seeds; the recommended trial's "
        "from the sampling error and that same seed noise."
    )


def confirmation(recommendation: Recommendation) -> str:
    """What fresh seeds made of the recommended trial."""
    found, refuted = recommendation.confirmation, ""
    if recommendation.refuted:
        names = ", ".join(recommendation.refuted)
        refuted = f" Fresh seeds showed a FID worse than DDPM's for {names}, which the search had preferred."
    if found is None:
        return (
            "Not confirmed by fresh seeds: the recommended trial is one training, the best of many, and the "
            f"best of many looks better than it is.{refuted}"
        )
    n = len(found.trials)
    fid, copies = recommendation.fid.value, recommendation.memorization.value
    return (
        f"Trained again with {n} fresh {'seed' if n == 1 else 'seeds'}, whose means these figures are, "
        f"without the training that the search picked: FID {number(fid, 4)} after "
        f"{number(found.search_fid, 4)} in the search, memorization {percent(copies)} after "
        f"{percent(found.search_memorization)}.{refuted}"
    )


def stopped_early(results: pd.DataFrame, train_size: int) -> str:
    """How many trials were stopped early, when, and what that saved."""
    rows = results[(results.train_size == train_size) & (results.method != BASELINE)]
    rows = rows[rows.confirms == ""]
    last = rows.sort_values("rung").groupby("trial_id").tail(1)
    stopped = last[last.status == "pruned"]
    if stopped.empty:
        return "Here nothing was stopped early."
    at = ", ".join(f"{n} at {budget:.0%}" for budget, n in stopped.budget.value_counts().sort_index().items())
    return (
        f"Stopped early: {len(stopped)} of {len(last)} trials ({at} of the budget), which saved "
        f"{number(float((1 - stopped.budget).sum()), 3)} full trainings."
    )


def hypervolume(results: pd.DataFrame, train_size: int) -> str:
    """What the hypervolume is measured against, and how far it got."""
    fid, memorization = reference_point(results, train_size).tolist()
    reached = normalized_hypervolume(frontier(results, train_size), np.array([fid, memorization]))
    repeats = ""
    if average_seeds(comparable(results, train_size)).confirmed.any():
        repeats = " It falls where fresh seeds of a trial do worse than the search found."
    return (
        "Hypervolume: of the box between a perfect model (FID 0, no copies) and one with twice DDPM's mean "
        f"FID that copies as DDPM does (FID {number(fid, 4)}, memorization {percent(memorization)}), the "
        f"share that the front dominates. DDPM has none of it. It is {percent(reached)} in the end.{repeats}"
    )


def no_hypervolume(results: pd.DataFrame, train_size: int) -> str:
    """Why there is no hypervolume to show; empty when there is one."""
    if comparable(results, train_size).empty:
        return "No training of this size has reached its full budget yet: nothing to compare."
    fid, memorization = reference_point(results, train_size).tolist()
    if math.isnan(fid):
        return "No DDPM baseline has finished, so there is nothing to measure a hypervolume against."
    if not memorization > 0 or not fid > 0:
        return "DDPM copies nothing here: no training can copy less, so there is no hypervolume."
    if hypervolume_history(results, train_size).empty:
        return "An older version wrote this table without times, so the order of its trainings is not known."
    return ""


def _stop_words(stop: EarlyStop) -> str:
    what = "plain DDPM"
    if stop.method != BASELINE:
        what = f"{method_name(stop.method)} at σ_tn {level(stop.sigma_tn)}"
    return (
        f"{what}, stopped after {count(stop.images_seen)} images, gives FID "
        f"{number(stop.fid, 4)} and memorization {percent(stop.memorization)}"
    )


def early_stopping(results: pd.DataFrame, recommendation: Recommendation) -> str:
    """Whether stopping early beats the recommendation: said plainly either way."""
    if recommendation.early_stop is not None:
        words = _stop_words(recommendation.early_stop)
        return f"Training less does better here: {words}, at least as good on both metrics."
    rows = comparable(results, recommendation.train_size, "any")
    if rows[rows.budget < 1].empty:
        return "Early stopping was not tested: no earlier measurement has the same sample count."
    return (
        "Early stopping does not beat it: no earlier measurement of any trial, DDPM included, is as "
        "good on both FID and memorization."
    )


def rivals(results: pd.DataFrame, recommendation: Recommendation) -> str:
    """Whether another method's training does better than the recommended one; empty when none took part."""
    rows = comparable(results, recommendation.train_size)
    rows = rows[~rows.method.isin([BASELINE, RECOMMENDED])]
    if rows.empty:
        return ""
    names = ", ".join(method_name(str(method)) for method in sorted(set(rows.method)))
    fid, memorization = recommendation.fid.value, recommendation.memorization.value
    better = rows[(rows.fid <= fid) & (rows.memorization <= memorization)]
    if better.empty:
        return f"Other methods compared ({names}): none of their trainings is as good on both metrics."
    best = better.sort_values(["memorization", "fid"]).iloc[0]
    return (
        f"Another method does better here: {method_name(best.method)} ({chosen(best)}) gives FID "
        f"{number(best.fid, 4)} and memorization {percent(best.memorization)}, at least as good on both."
    )


def any_budget_verdict(results: pd.DataFrame, train_size: int) -> str:
    """What the any-budget front says about DDPM with early stopping."""
    rows = comparable(results, train_size, "any")
    early = rows[(rows.method == BASELINE) & (rows.budget < 1)]
    if early.empty:
        return "No DDPM measurement before full budget takes part, so early stopping is untested."
    front = frontier(results, train_size, "any")
    winning = front[(front.method == BASELINE) & (front.budget < 1)]
    if winning.empty:
        return (
            "DDPM stopped early competes here and does not win: for each of its "
            f"{len(early)} earlier measurements another point is at least as good on both metrics."
        )
    shares = ", ".join(f"{share:.0%}" for share in sorted(set(winning.budget)))
    noun = "point is" if len(winning) == 1 else "points are"
    return (
        f"DDPM stopped early competes here and holds part of the joint front: {len(winning)} of "
        f"its {len(early)} earlier {noun} on it (at {shares} of the budget)."
    )
