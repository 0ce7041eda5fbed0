"""When a search ends itself: its frontier has stopped growing."""

import pandas as pd

from pareto_amb.search.frontier import (
    BASELINE,
    average_seeds,
    comparable,
    normalized_hypervolume,
    reference_point,
)

GROWTH = 0.01
"""A hypervolume that has grown by no more than this share of itself has stalled."""


def has_stalled(results: pd.DataFrame, train_size: int, patience: int) -> bool:
    """Whether the last `patience` trials to reach their full budget have hardly moved the frontier.

    That is: without them the normalised hypervolume would be at most 1% smaller. Baselines and repeats with
    fresh seeds are no such trials. Never where the hypervolume is not known: no baseline has finished, or
    DDPM copies nothing.
    """
    rows = results[results.confirms == ""].sort_values("recorded_at", kind="stable")
    finished = comparable(rows, train_size)
    latest = finished[finished.method != BASELINE].tail(patience)
    if len(latest) < patience:
        return False
    reference = reference_point(results, train_size)
    now = normalized_hypervolume(average_seeds(finished), reference)
    before = normalized_hypervolume(average_seeds(finished.drop(index=latest.index)), reference)
    return now <= (1.0 + GROWTH) * before


def describe_stall(patience: int) -> str:
    """Why a search has ended, for people."""
    trainings = "full training" if patience == 1 else f"{patience} full trainings"
    return (
        f"the search ended itself: over the last {trainings} of every train size the "
        f"frontier's hypervolume has not grown by more than {GROWTH:.0%} (search.patience)"
    )
