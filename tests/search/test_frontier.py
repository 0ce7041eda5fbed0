import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pareto_amb.search.frontier import comparable, frontier, non_dominated


def brute_force(values: np.ndarray) -> list[bool]:
    return [not any((other <= row).all() and (other < row).any() for other in values) for row in values]


@settings(max_examples=300)
@given(
    st.integers(0, 12).flatmap(
        lambda n: st.integers(1, 3).flatmap(
            lambda m: arrays(np.float64, (n, m), elements=st.integers(0, 4).map(float))
        )
    )
)
def test_non_dominated_agrees_with_brute_force(values: np.ndarray) -> None:
    assert non_dominated(values).tolist() == brute_force(values)


def table(*rows: tuple[str, str, float, float, float, str, int]) -> pd.DataFrame:
    names = ["trial_id", "method", "budget", "fid", "memorization", "status", "n_samples"]
    return pd.DataFrame(rows, columns=names).assign(train_size=100)


ROWS = table(
    ("a", "algorithm1", 0.5, 5.0, 0.01, "complete", 100),
    ("a", "algorithm1", 1.0, 10.0, 0.20, "complete", 100),
    ("b", "algorithm1", 1.0, 12.0, 0.10, "complete", 100),
    ("c", "algorithm1", 1.0, 13.0, 0.15, "complete", 100),
    ("d", "algorithm1", 0.5, 1.0, 0.00, "pruned", 100),
    ("e", "algorithm1", 1.0, 1.0, 0.00, "failed", 100),
    ("f", "algorithm1", 0.5, 0.0, 0.00, "running", 50),
    ("g", "algorithm1", 1.0, float("nan"), 0.00, "complete", 100),
)


def test_a_full_budget_frontier_ignores_early_stopped_failed_and_unmeasured_trials() -> None:
    assert frontier(ROWS, 100).trial_id.tolist() == ["a", "b"]
    assert comparable(ROWS, 100).trial_id.tolist() == ["a", "b", "c"]


def test_the_any_budget_view_mixes_rungs_but_never_sample_counts() -> None:
    rows = comparable(ROWS, 100, "any")
    assert "f" not in set(rows.trial_id)
    assert frontier(ROWS, 100, "any").trial_id.tolist() == ["d"]


def test_a_frontier_never_crosses_train_sizes() -> None:
    other = ROWS.assign(train_size=300, fid=0.0)
    both = pd.concat([ROWS, other])
    assert frontier(both, 100).trial_id.tolist() == ["a", "b"]
    assert frontier(both, 50).empty
