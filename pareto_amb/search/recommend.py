"""From a results table to the sigma_tn to train with."""

import math
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel

from pareto_amb.diffusion.units import sigma_to_vp
from pareto_amb.errors import UserError
from pareto_amb.search.frontier import BASELINE, OBJECTIVES, RECOMMENDED, comparable, frontier

Policy = Literal["match-ddpm", "knee", "max-memorization"]

NOISE_DEVIATIONS = 2.0
"""Two figures differ when they are further apart than this many seed standard deviations of DDPM."""


class Spread(BaseModel):
    """A figure, its interval, and the standard deviation over seeds where there are several."""

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


class Recommendation(BaseModel):
    """The recommended sigma_tn for one train size, and what speaks for it."""

    train_size: int
    policy: Policy
    sigma_tn: float
    sigma_tn_vp: float
    mix_ratio: float
    trial_id: str
    fid: Spread
    memorization: Spread
    baseline: Baseline
    heldout_memorization: float
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

    Raises UserError when no completed trial satisfies the policy, with the nearest one that nearly does.
    """
    baseline = summarize_baseline(results, train_size)
    candidates = comparable(results, train_size)
    candidates = candidates[candidates.method == RECOMMENDED]
    if candidates.empty:
        raise UserError(
            f"train size {train_size}: no {RECOMMENDED} trial has finished; continue with --resume"
        )
    if policy == "match-ddpm":
        chosen = _match_ddpm(candidates, baseline)
    elif policy == "knee":
        chosen = _knee(frontier(candidates, train_size))
    else:
        chosen = _best_below(candidates, max_memorization)
    return _describe(results, chosen, baseline, policy)


def _match_ddpm(candidates: pd.DataFrame, baseline: Baseline) -> "pd.Series[Any]":
    admissible = candidates[candidates.fid <= baseline.fid.high]
    if admissible.empty:
        best = candidates.loc[candidates.fid.idxmin()]
        raise UserError(
            f"no trial reaches DDPM's fid {baseline.fid.value:.4g} (at most {baseline.fid.high:.4g} within "
            f"its seed noise): the best is {best.fid:.4g} at sigma_tn {best.sigma_tn:.3g}; "
            "try --policy knee, or search more trials"
        )
    return admissible.sort_values(["memorization", "fid"]).iloc[0]


def _knee(front: pd.DataFrame) -> "pd.Series[Any]":
    values = front[OBJECTIVES].to_numpy(dtype=np.float64)
    span = np.ptp(values, axis=0)
    scaled = (values - values.min(axis=0)) / np.where(span > 0, span, 1.0)
    return front.iloc[int(scaled.sum(axis=1).argmin())]


def _best_below(candidates: pd.DataFrame, limit: float | None) -> "pd.Series[Any]":
    if limit is None or not 0 <= limit <= 1:
        raise UserError("--policy max-memorization needs --max-memorization, a share between 0 and 1")
    admissible = candidates[candidates.memorization <= limit]
    if admissible.empty:
        best = candidates.loc[candidates.memorization.idxmin()]
        raise UserError(
            f"no trial has memorization at most {limit:g}: the lowest is {best.memorization:.3g} at "
            f"sigma_tn {best.sigma_tn:.3g}"
        )
    return admissible.sort_values(["fid", "memorization"]).iloc[0]


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


def _describe(
    results: pd.DataFrame, chosen: "pd.Series[Any]", baseline: Baseline, policy: Policy
) -> Recommendation:
    candidates = comparable(results, int(chosen.train_size))
    candidates = candidates[candidates.method == RECOMMENDED]
    return Recommendation(
        train_size=int(chosen.train_size),
        policy=policy,
        sigma_tn=float(chosen.sigma_tn),
        sigma_tn_vp=sigma_to_vp(float(chosen.sigma_tn)),
        mix_ratio=float(chosen.mix_ratio),
        trial_id=str(chosen.trial_id),
        fid=_like_baseline(float(chosen.fid), baseline.fid),
        memorization=_clip(_like_baseline(float(chosen.memorization), baseline.memorization)),
        baseline=baseline,
        heldout_memorization=float(chosen.heldout_memorization),
        window=_window_around(candidates, float(chosen.sigma_tn), baseline),
        early_stop=_early_stop(results, chosen),
        summary=_in_words(chosen, baseline),
    )


def _like_baseline(value: float, spread: Spread) -> Spread:
    """One training's figure with the interval that DDPM's seed noise gives it."""
    margin = spread.high - spread.value
    return Spread(value=value, low=value - margin, high=value + margin)


def _clip(share: Spread) -> Spread:
    return share.model_copy(update={"low": max(share.low, 0.0), "high": min(share.high, 1.0)})


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
