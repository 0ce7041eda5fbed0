"""Which trials of a finished search are worth another look with fresh seeds."""

from collections.abc import Collection

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pareto_amb.results.policies import Candidates, MatchDDPM
from pareto_amb.results.size import SizeResults
from pareto_amb.search.fidelities import co_kriging
from pareto_amb.search.pareto import expected_growth, front_below

Array = NDArray[np.float64]

N_DRAWS = 256


def worth_confirming(size: SizeResults, count: int) -> list[tuple[str, int]]:
    """The `count` trials that `match-ddpm` would take first over all budgets, best first, each with its rung.

    By what the search measured; of a trial the rung alone at which it would be taken first. Those that the
    policy does not admit follow. None where no baseline has finished. Of branched trials those count that
    were trained from scratch since, with what that showed.
    """
    size = size.over("any")
    if not size.has_baseline:
        return []
    rows = size.rows[size.rows.method.isin(size.recommended_methods) & (size.rows.confirms == "")]
    first = _first_taken(size, rows).head(count)
    return [(str(row.trial_id), int(row.rung)) for row in first[["trial_id", "rung"]].itertuples()]


def _first_taken(size: SizeResults, rows: pd.DataFrame) -> pd.DataFrame:
    """Of each trial the one of `rows` that `match-ddpm` would take first, best first."""
    order, _ = MatchDDPM().rank(Candidates(size.minimized(rows), size.limits[0], size.objectives))
    return rows.iloc[order].drop_duplicates("trial_id")


def branched_trials(size: SizeResults) -> list[str]:
    """The branched trials that may be trained from scratch, in the order of `worth_confirming`."""
    rows = _branched_rows(size := size.over("any"))
    return list(map(str, _first_taken(size, rows).trial_id)) if size.has_baseline and len(rows) else []


def _branched_rows(size: SizeResults) -> pd.DataFrame:
    """The rows of branched trials whose figures rest on as many samples as those of a frontier."""
    rows = size.frame[(size.frame.branched_at > 0) & (size.frame.status != "failed")]
    rows = rows[rows[[objective.name for objective in size.objectives]].notna().all(axis=1)]
    recommended = [name for name, method in size.declared.methods.items() if method.recommended]
    return rows[rows.method.isin(recommended) & rows.n_samples.isin(size.rows.n_samples)]


def next_from_scratch(size: SizeResults, begun: Collection[str]) -> str | None:
    """The branched trial to train from scratch next, beside those for which that has `begun`; None without.

    As long as no such training has shown anything, the next in the order of `branched_trials`. Then the one
    that is expected to add most to the volume that points from scratch dominate, DDPM's among them, by what
    those tell of the bias. Trainings under way count with what is expected of them.
    """
    size, order = size.over("any"), branched_trials(size)
    left = [trial_id for trial_id in order if trial_id not in begun]
    ideal, reference = size.box
    known = size.frame[size.frame.confirms.isin(begun) & size.frame.trial_id.isin(size.rows.trial_id)]
    if not left or known.empty or not (reference > ideal).all():
        return left[0] if left else None
    rows = _branched_rows(size)
    stops = sorted({*rows.images_seen})
    low = _curves(size, rows, order, stops)
    high = _curves(size, known.assign(trial_id=known.confirms), order, stops)
    mean, error = co_kriging(_places(size, rows, order), low, high)
    under_way = [k for k, trial_id in enumerate(order) if trial_id in begun]
    expected = mean[under_way][np.isnan(high[under_way]) & np.isfinite(mean[under_way])]
    expected = expected.reshape(-1, len(ideal))
    points = np.concatenate([size.minimized(size.configurations), expected])
    unit, rng = reference - ideal, np.random.default_rng(0)
    front = front_below((points - ideal) / unit)
    growth = expected_growth(front, (mean - ideal) / unit, error / unit, rng, N_DRAWS)
    return left[int(growth[[order.index(trial_id) for trial_id in left]].argmax())]


def _curves(size: SizeResults, rows: pd.DataFrame, order: list[str], stops: list[int]) -> Array:
    """The minimised objectives of trials at stopping points (n, R, m), NaN where `rows` have none."""
    curves = np.full((len(order), len(stops), len(size.objectives)), np.nan)
    rows = rows[rows.trial_id.isin(order) & rows.images_seen.isin(stops)]
    trials, places = map(order.index, rows.trial_id), map(stops.index, rows.images_seen)
    curves[list(trials), list(places)] = size.minimized(rows)
    return curves


def _places(size: SizeResults, rows: pd.DataFrame, order: list[str]) -> Array:
    """Where trials lie in the unit cube of all parameters (n, d), by the rank of each value."""
    values = rows.drop_duplicates("trial_id").set_index("trial_id").loc[order, [*size.declared.parameters]]
    ranks = values.rank(method="dense") - 1
    return np.asarray(ranks / np.maximum(ranks.max(), 1.0), dtype=np.float64)
