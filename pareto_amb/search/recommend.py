"""From a results table to the sigma_tn to train with."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel

from pareto_amb.diffusion.units import sigma_to_vp
from pareto_amb.errors import UserError
from pareto_amb.search.frontier import BASELINE, OBJECTIVES, RECOMMENDED, comparable, non_dominated
from pareto_amb.search.uncertainty import TrainingNoise, frontier_points, redraw, training_noise

Policy = Literal["match-ddpm", "knee", "max-memorization"]

NOISE_DEVIATIONS = 2.0
"""Two figures differ when they are further apart than this many seed standard deviations of DDPM."""

INTERVAL_DRAWS = 1000


class Spread(BaseModel):
    """A figure, its interval of twice the standard deviation, and this, where it is known."""

    value: float
    low: float
    high: float
    deviation: float | None = None


class Baseline(BaseModel):
    """DDPM at full budget, over its seeds."""

    seeds: int
    fid: Spread
    memorization: Spread


class EarlyStop(BaseModel):
    """The any-budget point of DDPM or Algorithm 1 that beats the recommendation on both metrics."""

    method: str
    sigma_tn: float
    images_seen: int
    fid: float
    memorization: float

    def describe(self) -> str:
        """One sentence for a summary."""
        return (
            f"stopping early does better still: {self.method} at sigma_tn {self.sigma_tn:.3g} after "
            f"{self.images_seen:,} images has FID {self.fid:.4g} and memorization {self.memorization:.3f}"
        )


class Confirmation(BaseModel):
    """The recommended trial in the search, and how far the mean of its fresh seeds lies from that.

    It was picked for its figures in the search, so that these flatter it; the fresh seeds do not.
    """

    trials: list[str]
    search_fid: float
    search_memorization: float
    fid_change: float
    memorization_change: float

    def describe(self) -> str:
        """One sentence for a summary."""
        n = len(self.trials)
        fid = self.search_fid + self.fid_change
        memorization = self.search_memorization + self.memorization_change
        return (
            f"trained again with {n} fresh {'seed' if n == 1 else 'seeds'}: FID {fid:.4g} after "
            f"{self.search_fid:.4g} in the search, memorization {memorization:.3f} after "
            f"{self.search_memorization:.3f}"
        )


class Recommendation(BaseModel):
    """The recommended sigma_tn for one train size, and what speaks for it."""

    train_size: int
    policy: Policy
    sigma_tn: float
    sigma_tn_vp: float
    sigma_tn_interval: tuple[float, float] | None = None
    """The policy takes a sigma_tn in it in 90% of redraws of the points; holds the recommended one."""
    mix_ratio: float
    trial_id: str
    fid: Spread
    memorization: Spread
    p_front: float | None = None
    """The share of redraws of the points in which none dominates this one."""
    baseline: Baseline
    heldout_memorization: float
    confirmation: Confirmation | None = None
    """Where fresh seeds confirmed the trial; fid and memorization are then their means."""
    refuted: list[str] = []
    """Trials that match-ddpm would have taken first, had fresh seeds not shown a worse fid than DDPM's."""
    window: tuple[float, float] | None
    early_stop: EarlyStop | None
    summary: str


def summarize_baseline(results: pd.DataFrame, train_size: int) -> Baseline:
    """Mean and seed spread of DDPM at full budget. UserError when no baseline has finished."""
    rows = comparable(results, train_size)
    rows = rows[rows.method == BASELINE]
    if rows.empty:
        raise UserError(
            f"train size {train_size}: no DDPM baseline has finished, so there is nothing to compare "
            "with; continue the sweep with --resume"
        )
    return Baseline(seeds=len(rows), fid=_seed_spread(rows.fid), memorization=_seed_spread(rows.memorization))


def _seed_spread(values: "pd.Series[float]") -> Spread:
    mean = float(values.mean())
    deviation = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    margin = NOISE_DEVIATIONS * deviation if len(values) > 1 else 0.0
    known = None if math.isnan(deviation) else deviation
    return Spread(value=mean, low=mean - margin, high=mean + margin, deviation=known)


def recommend(
    results: pd.DataFrame,
    train_size: int,
    policy: Policy = "match-ddpm",
    max_memorization: float | None = None,
) -> Recommendation:
    """Pick the Algorithm 1 trial to train with, at full budget, for one train size.

    `match-ddpm` (the paper's Table 1 rule): least memorization with fid no worse than DDPM's within its
    seed noise. `knee`: the frontier point furthest below the line through the frontier's ends, both axes
    scaled to [0, 1]. `max-memorization`: best fid with memorization at most `max_memorization`.

    A trial that was confirmed counts with the mean of its fresh seeds. `match-ddpm`, which confirmations
    are made for, takes one of the confirmed trials where any of them will do: an unconfirmed one that looks
    better would be the luckiest draw again.

    Raises UserError when no completed trial satisfies the policy, with the nearest one that nearly does.
    """
    if policy == "max-memorization" and (max_memorization is None or not 0 <= max_memorization <= 1):
        raise UserError("--policy max-memorization needs --max-memorization, a share between 0 and 1")
    baseline = summarize_baseline(results, train_size)
    points = frontier_points(results, train_size)
    candidates = points[points.method == RECOMMENDED].reset_index(drop=True)
    if candidates.empty:
        raise UserError(
            f"train size {train_size}: no {RECOMMENDED} trial has finished; continue with --resume"
        )
    rule = _Rule(policy, baseline.fid.high, max_memorization)
    place = _choose(candidates, rule)
    if place is None:
        raise UserError(_nearest_miss(candidates, rule, baseline))
    chosen = candidates.iloc[place]
    low, high = _sigma_interval(points, candidates, rule, training_noise(results, train_size))
    return Recommendation(
        train_size=train_size,
        policy=policy,
        sigma_tn=float(chosen.sigma_tn),
        sigma_tn_vp=sigma_to_vp(float(chosen.sigma_tn)),
        sigma_tn_interval=(min(low, float(chosen.sigma_tn)), max(high, float(chosen.sigma_tn))),
        mix_ratio=float(chosen.mix_ratio),
        trial_id=str(chosen.trial_id),
        fid=_with_noise(float(chosen.fid), float(chosen.fid_sd)),
        memorization=_clip(_with_noise(float(chosen.memorization), float(chosen.memorization_sd))),
        p_front=float(chosen.p_front),
        baseline=baseline,
        heldout_memorization=float(chosen.heldout_memorization),
        confirmation=_confirmation(results, chosen),
        refuted=_refuted(candidates, rule),
        window=_window_around(candidates, float(chosen.sigma_tn), baseline),
        early_stop=_early_stop(results, chosen),
        summary=_in_words(chosen, baseline),
    )


@dataclass(frozen=True)
class _Rule:
    """A policy with its limits: the highest fid that match-ddpm admits, the highest memorization."""

    policy: Policy
    fid_limit: float
    max_memorization: float | None

    def pick(self, values: NDArray[np.float64]) -> int | None:
        """The row of `values` (n, 2), fid and memorization, that the policy takes; None when none will do."""
        fid, memorization = values.T
        if self.policy == "match-ddpm":
            order, admissible = np.lexsort((fid, memorization)), fid <= self.fid_limit
        elif self.policy == "max-memorization":
            order, admissible = np.lexsort((memorization, fid)), memorization <= self.max_memorization
        else:
            admissible = non_dominated(values)
            front = values[admissible]
            order = np.argsort(((values - front.min(axis=0)) / _span(front)).sum(axis=1), kind="stable")
        taken = order[admissible[order]]
        return int(taken[0]) if len(taken) else None


def _choose(candidates: pd.DataFrame, rule: _Rule) -> int | None:
    """The row of `candidates` that the rule takes, confirmed ones first where it is match-ddpm."""
    values = candidates[OBJECTIVES].to_numpy(dtype=np.float64)
    confirmed = np.flatnonzero(candidates.confirmed)
    if rule.policy == "match-ddpm" and (place := rule.pick(values[confirmed])) is not None:
        return int(confirmed[place])
    return rule.pick(values)


def _confirmation(results: pd.DataFrame, chosen: "pd.Series[Any]") -> Confirmation | None:
    if not chosen.confirmed:
        return None
    rows = comparable(results, int(chosen.train_size))
    search = rows[rows.trial_id == chosen.trial_id].iloc[0]
    return Confirmation(
        trials=rows[rows.confirms == chosen.trial_id].trial_id.tolist(),
        search_fid=float(search.fid),
        search_memorization=float(search.memorization),
        fid_change=float(chosen.fid - search.fid),
        memorization_change=float(chosen.memorization - search.memorization),
    )


def _refuted(candidates: pd.DataFrame, rule: _Rule) -> list[str]:
    if rule.policy != "match-ddpm":
        return []
    worse = candidates[candidates.confirmed & (candidates.fid > rule.fid_limit)]
    return sorted(str(trial_id) for trial_id in worse.trial_id)


def _span(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The range of each column of `values` (n, 2), 1 where it is none."""
    span = np.ptp(values, axis=0)
    return np.where(span > 0, span, 1.0)


def _nearest_miss(candidates: pd.DataFrame, rule: _Rule, baseline: Baseline) -> str:
    """Why no candidate will do."""
    if rule.policy == "match-ddpm":
        best = candidates.loc[candidates.fid.idxmin()]
        return (
            f"no trial reaches DDPM's fid {baseline.fid.value:.4g} (at most {baseline.fid.high:.4g} within "
            f"its seed noise): the best is {best.fid:.4g} at sigma_tn {best.sigma_tn:.3g}; "
            "try --policy knee, or search more trials"
        )
    best = candidates.loc[candidates.memorization.idxmin()]
    return (
        f"no trial has memorization at most {rule.max_memorization:g}: the lowest is "
        f"{best.memorization:.3g} at sigma_tn {best.sigma_tn:.3g}"
    )


def _sigma_interval(
    points: pd.DataFrame, candidates: pd.DataFrame, rule: _Rule, noise: TrainingNoise
) -> tuple[float, float]:
    """The middle 90% of the sigma_tn that the rule takes, of all candidates, when every point is drawn again.

    DDPM's mean fid is drawn with the others, and the limit of match-ddpm moves with it. A redraw in which
    the rule takes nothing does not count; (inf, -inf) when none counts.
    """
    draws = redraw(points, noise, INTERVAL_DRAWS, np.random.default_rng(0))
    ddpm = np.flatnonzero(points.method == BASELINE)[0]
    moved = draws[:, ddpm, 0] - points.fid.iloc[ddpm]
    ours = draws[:, (points.method == RECOMMENDED).to_numpy()]
    taken = [
        replace(rule, fid_limit=rule.fid_limit + shift).pick(values)
        for values, shift in zip(ours, moved.tolist(), strict=True)
    ]
    sigmas = candidates.sigma_tn.to_numpy(dtype=np.float64)[[k for k in taken if k is not None]]
    if not len(sigmas):
        return math.inf, -math.inf
    low, high = np.quantile(sigmas, [0.05, 0.95], method="inverted_cdf")
    return float(low), float(high)


def winning_window(candidates: pd.DataFrame, baseline: Baseline) -> pd.DataFrame:
    """The trials that beat DDPM: fid no worse within its noise, memorization lower by more than it."""
    return candidates[
        (candidates.fid <= baseline.fid.high) & (candidates.memorization < baseline.memorization.low)
    ]


def _window_around(
    candidates: pd.DataFrame, sigma_tn: float, baseline: Baseline
) -> tuple[float, float] | None:
    """The widest run of neighbouring sigma_tn, all of whose trials beat DDPM, that holds `sigma_tn`."""
    winners = set(winning_window(candidates, baseline).trial_id)
    ordered = candidates.sort_values("sigma_tn")
    wins = ordered.trial_id.isin(winners).to_numpy()
    sigmas = ordered.sigma_tn.to_numpy(dtype=np.float64)
    here = int(np.flatnonzero(sigmas == sigma_tn)[0])
    if not wins[here]:
        return None
    losses = np.flatnonzero(~wins)
    low = losses[losses < here].max(initial=-1) + 1
    high = losses[losses > here].min(initial=len(wins)) - 1
    return float(sigmas[low]), float(sigmas[high])


def _early_stop(results: pd.DataFrame, chosen: "pd.Series[Any]") -> EarlyStop | None:
    """An earlier rung that is at least as good on both metrics: stopping early beats training on."""
    rows = comparable(results, int(chosen.train_size), "any")
    rows = rows[rows.method.isin([BASELINE, RECOMMENDED])]
    better = rows[(rows.budget < 1) & (rows.fid <= chosen.fid) & (rows.memorization <= chosen.memorization)]
    if better.empty:
        return None
    best = better.sort_values(["memorization", "fid"]).iloc[0]
    return EarlyStop(
        method=str(best.method),
        sigma_tn=float(best.sigma_tn),
        images_seen=int(best.images_seen),
        fid=float(best.fid),
        memorization=float(best.memorization),
    )


def _with_noise(value: float, deviation: float) -> Spread:
    """A figure with the interval that the noise of the measurement and of the training gives it."""
    margin = NOISE_DEVIATIONS * deviation
    return Spread(value=value, low=max(value - margin, 0.0), high=value + margin, deviation=deviation)


def _clip(share: Spread) -> Spread:
    return share.model_copy(update={"high": min(share.high, 1.0)})


def _in_words(chosen: "pd.Series[Any]", baseline: Baseline) -> str:
    ddpm = baseline.memorization.value
    change = f"{1 - chosen.memorization / ddpm:.0%} fewer copies" if ddpm > 0 else "no copies either"
    if chosen.memorization > ddpm:
        change = "no fewer copies"
    return (
        f"With {int(chosen.train_size):,} training images, sigma_tn {chosen.sigma_tn:.3g} and mix ratio "
        f"{chosen.mix_ratio:.2f} give FID {chosen.fid:.4g} and memorization {chosen.memorization:.3g}, "
        f"against DDPM's FID {baseline.fid.value:.4g} and memorization {ddpm:.3g}: {change}."
    )
