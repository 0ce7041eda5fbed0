import numpy as np
import pandas as pd
import pytest

from pareto_amb.results.size import Results
from pareto_amb.results.stall import has_stalled as stalls
from pareto_amb.results.table import shipped


def has_stalled(frame: pd.DataFrame, train_size: int, patience: int) -> bool:
    return stalls(Results(frame, shipped()).size(train_size), patience)


def table(*trials: tuple[float, float], ddpm: tuple[float, float] = (100.0, 0.5)) -> pd.DataFrame:
    """Two DDPM seeds, the second one finished last of all, and the trials in their order."""
    rows = [("ddpm-0", "ddpm", *ddpm), *((f"t{k}", "algorithm1", *t) for k, t in enumerate(trials))]
    rows.append(("ddpm-1", "ddpm", *ddpm))
    frame = pd.DataFrame(rows, columns=["trial_id", "method", "fid", "memorization"])
    shared = {
        "train_size": 50,
        "budget": 1.0,
        "images_seen": 1000,
        "n_samples": 100,
        "status": "complete",
        "confirms": "",
        "controls": "",
        "branched_at": 0,
    }
    return frame.assign(**shared, recorded_at=np.arange(len(frame), dtype=float))


# With the reference (200, 0.5) the first trial dominates 100 * 0.3 = 30 of 100.
FIRST = (100.0, 0.2)


@pytest.mark.parametrize(
    ("later", "patience", "stalled"),
    [
        ([], 1, False),  # it has grown from nothing
        ([(150.0, 0.4)], 1, True),  # dominated
        ([(150.0, 0.4)], 2, False),
        ([(150.0, 0.4), (120.0, 0.3)], 2, True),
        ([(100.0, 0.198)], 1, True),  # by 0.2 of 30, less than 1%
        ([(100.0, 0.196)], 1, False),  # by 0.4 of 30
        ([(100.0, 0.198), (100.0, 0.196)], 2, False),  # slowly, but by more than 1% together
        ([(100.0, 0.196), (150.0, 0.4)], 1, True),
        ([(100.0, 0.196), (150.0, 0.4)], 2, False),
    ],
)
def test_a_search_has_stalled_when_its_last_trials_hardly_moved_the_front(
    later: list[tuple[float, float]], patience: int, stalled: bool
) -> None:
    rows = table(FIRST, *later)
    assert has_stalled(rows, 50, patience) == stalled
    assert has_stalled(rows.sample(frac=1, random_state=1), 50, patience) == stalled
    assert not has_stalled(rows, 60, patience)


def test_trials_that_never_beat_ddpm_stall_a_search() -> None:
    hopeless = [(300.0, 0.1), (100.0, 0.6), (120.0, 0.5)]
    assert has_stalled(table(*hopeless), 50, 3)
    assert not has_stalled(table(*hopeless), 50, 4)


def test_only_full_trainings_of_the_search_count() -> None:
    rows = table(FIRST, (150.0, 0.4), (150.0, 0.4))
    stopped = rows.trial_id == "t1"
    halfway = rows.assign(status=rows.status.where(~stopped, "paused"), budget=1 - stopped / 2)
    assert not has_stalled(halfway, 50, 2)
    again = rows.trial_id == "t2"
    assert not has_stalled(rows.assign(confirms=np.where(again, "t0", "")), 50, 2)
    assert has_stalled(rows, 50, 2)


def test_nothing_stalls_where_the_hypervolume_is_not_known() -> None:
    assert not has_stalled(table(FIRST, (150.0, 0.4), ddpm=(100.0, 0.0)), 50, 1)
    rows = table(FIRST, (150.0, 0.4))
    assert not has_stalled(rows[rows.method != "ddpm"], 50, 1)
