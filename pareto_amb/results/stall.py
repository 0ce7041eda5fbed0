"""When a search ends itself: its frontier has stopped growing."""

from pareto_amb.declared import BASELINE
from pareto_amb.results.points import average_seeds, comparable
from pareto_amb.results.size import SizeResults
from pareto_amb.results.table import searched

GROWTH = 0.01
"""A hypervolume that has grown by no more than this share of itself has stalled."""


def has_stalled(size: SizeResults, patience: int) -> bool:
    """Whether the last `patience` trials to reach their full budget have hardly moved the frontier.

    That is: without them the normalised hypervolume would be at most 1% smaller. Baselines, and what follows
    the search, are no such trials. Never where the hypervolume is not known: no baseline has finished, or
    DDPM copies nothing.
    """
    rows = searched(size.frame).sort_values("recorded_at", kind="stable")
    finished = comparable(rows, size.objectives)
    latest = finished[finished.method != BASELINE].tail(patience)
    if len(latest) < patience:
        return False
    before = finished.drop(index=latest.index)
    now, then = (
        size.normalized_hypervolume(average_seeds(rows, size.declared)) for rows in (finished, before)
    )
    return now <= (1.0 + GROWTH) * then


def describe_stall(patience: int) -> str:
    """Why a search has ended, for people."""
    trainings = "full training" if patience == 1 else f"{patience} full trainings"
    return (
        f"the search ended itself: over the last {trainings} of every train size the "
        f"frontier's hypervolume has not grown by more than {GROWTH:.0%} (search.patience)"
    )
