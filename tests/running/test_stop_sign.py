"""The sign that a sweep is to stop, without Ray: who waits for whom."""

import asyncio
import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from pareto_amb.trainables import stop_sign
from pareto_amb.trainables.stop_sign import Lookout, StopSign


@pytest.fixture(autouse=True)
def before() -> Iterator[list[int]]:
    """The numbers of the signals that reach what handled SIGTERM before."""
    reached = list[int]()
    kept = signal.signal(signal.SIGTERM, lambda number, _: reached.append(number))
    yield reached
    signal.signal(signal.SIGTERM, kept)


def test_the_sign_waits_for_what_trains_and_for_nothing_else() -> None:
    async def story() -> list[bool]:
        sign = StopSign()
        told = asyncio.ensure_future(sign.wait())
        await sign.training("a")
        await sign.training("b")
        await sign.saved("b")
        stopped = asyncio.ensure_future(sign.stop())
        seen = []
        for trial in ("c", "a"):  # c measures: it has said so before
            await sign.saved(trial)
            await asyncio.wait([stopped, told], timeout=0.01)
            seen += [told.done(), stopped.done()]
        return seen

    assert asyncio.run(story()) == [True, False, True, True]


def test_the_sign_keeps_the_last_that_each_trial_has_said() -> None:
    async def story() -> dict[str, Any]:
        sign = StopSign()
        for trial, step in (("a", 1), ("b", 2), ("a", 3)):
            await sign.beat(trial, {"step": step})
        return dict(await sign.beats())

    assert asyncio.run(story()) == {"a": {"step": 3}, "b": {"step": 2}}


def test_a_sign_that_nobody_trains_under_stops_at_once() -> None:
    asyncio.run(asyncio.wait_for(StopSign().stop(), 1))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """In the place of Ray: whether the answer has come, how often it was looked for, and the time."""
    stub = SimpleNamespace(ready=False, looks=0, now=100.0, error=None)

    def wait(refs: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        assert timeout == 0  # never waits
        stub.looks += 1
        return (refs, []) if stub.ready else ([], refs)

    def get(ref: Any, timeout: float) -> None:
        if stub.error:
            raise stub.error

    monkeypatch.setattr(stop_sign, "ray", SimpleNamespace(wait=wait, get=get))
    monkeypatch.setattr(stop_sign.time, "monotonic", lambda: stub.now)
    return stub


def test_a_worker_is_warned_by_a_first_sigterm_goes_on_after_a_false_one_and_is_ended_by_a_second(
    ray: SimpleNamespace, before: list[int]
) -> None:
    lookout = Lookout(SimpleNamespace(wait=SimpleNamespace(remote=object)))
    for _ in range(2):
        assert not lookout.raised()
        os.kill(os.getpid(), signal.SIGTERM)
        assert lookout.raised()
        assert before == []
        lookout.hold(lambda seconds: None)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert before == [signal.SIGTERM]


def test_a_trial_looks_now_and_then_and_remembers(ray: SimpleNamespace) -> None:
    lookout = Lookout(SimpleNamespace(wait=SimpleNamespace(remote=object)))
    assert not any(lookout.raised() for _ in range(1000))
    assert ray.looks == 0
    ray.now += 1
    assert not any(lookout.raised() for _ in range(1000))
    assert ray.looks == 1
    ray.ready, ray.now = True, ray.now + 1
    assert all(lookout.raised() for _ in range(1000))
    assert ray.looks == 2


def test_a_sign_that_is_gone_was_never_raised(ray: SimpleNamespace) -> None:
    lookout = Lookout(SimpleNamespace(wait=SimpleNamespace(remote=object)))
    ray.ready, ray.now, ray.error = True, ray.now + 1, RayActorError()
    assert not lookout.raised()
    ray.now += 1e6
    assert not lookout.raised()
    assert ray.looks == 1
