"""What a decision computes takes one processor, however many there are."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from optuna.distributions import FloatDistribution
from threadpoolctl import threadpool_info, threadpool_limits

from pareto_amb.search.ehvi import EHVISampler
from pareto_amb.search.extrapolation import extrapolate
from pareto_amb.search.fidelities import co_kriging
from pareto_amb.search.one_thread import one_thread
from pareto_amb.search.surrogate import draw_functions

RNG = np.random.default_rng(0)
X = RNG.random((12, 1))
CURVES = RNG.random((12, 2, 2))


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    with threadpool_limits(2, user_api="blas"):
        yield


def threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_a_block_has_one_thread_and_what_follows_as_many_as_before() -> None:
    before = threads()
    with one_thread():
        assert threads() == {1}
        with one_thread():
            assert threads() == {1}
        assert threads() == {1}
    assert threads() == before
    with pytest.raises(ZeroDivisionError), one_thread():
        1 / 0  # noqa: B018
    assert threads() == before


@pytest.mark.parametrize(
    ("patched", "compute"),
    [
        ("cholesky", lambda: draw_functions(X, X[:, 0], np.full(12, 0.1), X, 5, RNG, 1.0)),
        ("solve", lambda: extrapolate(CURVES[:, 0], CURVES[:, 1], CURVES[:, 0])),
        ("solve", lambda: co_kriging(X, CURVES, CURVES)),
        (
            "cholesky",
            lambda: EHVISampler(0).propose(
                {"x": FloatDistribution(0, 1)}, [{"x": float(x)} for (x,) in X], CURVES, []
            ),
        ),
    ],
    ids=["draws", "extrapolation", "fidelities", "proposal"],
)
def test_decisions_take_one_thread(
    monkeypatch: pytest.MonkeyPatch, patched: str, compute: Callable[[], object]
) -> None:
    computed, seen = getattr(np.linalg, patched), []

    def spied(*arguments: object) -> object:
        seen.append(threads())
        return computed(*arguments)

    monkeypatch.setattr(np.linalg, patched, spied)
    before = threads()
    compute()
    assert seen
    assert set(map(frozenset, seen)) == {frozenset({1})}
    assert threads() == before
