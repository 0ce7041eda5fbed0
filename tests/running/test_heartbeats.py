"""What a running sweep writes down, without Ray: for those who watch it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError
from rich.console import Console

from pareto_amb.errors import UserError
from pareto_amb.results.live import (
    MAX_EVENTS_BYTES,
    Event,
    Heartbeat,
    read_events,
    read_heartbeats,
)
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.results.table import ResultsTable, shipped
from pareto_amb.running import heartbeats as module
from pareto_amb.running.heartbeats import Journal, heartbeats
from pareto_amb.running.progress import SweepProgress
from pareto_amb.trial import Trial

BEAT = Heartbeat(
    trial_id="a", worker="node GPU 0", doing="training", rung=1, rungs=2, step=300, steps=1000,
    images_seen=19_200, images=64_000, images_per_second=448.0, loss=0.25, seconds_left=100.0,
)  # fmt: skip


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """In the place of Ray: whether the answer has come, what it is, and the time."""
    stub = SimpleNamespace(ready=False, now=0.0, asked=0, answer={"a": BEAT.model_dump()}, error=None)

    def ask() -> str:
        stub.asked += 1
        return "answer"

    def wait(refs: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        assert timeout == 0  # never waits
        return (refs, []) if stub.ready else ([], refs)

    def get(ref: Any, timeout: float) -> Any:
        if stub.error:
            raise stub.error
        return stub.answer

    monkeypatch.setattr(module, "ray", SimpleNamespace(wait=wait, get=get))
    monkeypatch.setattr(module.time, "monotonic", lambda: stub.now)
    stub.sign = SimpleNamespace(beats=SimpleNamespace(remote=ask))
    return stub


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


@pytest.fixture
def progress(run: RunDirectory) -> SweepProgress:
    results = ResultsTable(run.results, shipped())
    found = SweepProgress(Console(quiet=True), results, total=4, finished=0, n_rungs=2, trainings=4.0)
    found.started(Trial("a", "ddpm", 100, 0, {}))
    return found


def test_what_trials_say_is_kept_for_others_while_the_sweep_runs(
    ray: SimpleNamespace, run: RunDirectory, progress: SweepProgress
) -> None:
    with heartbeats(ray.sign, progress, run) as watch:
        watch.on_step_begin(0, [])
        assert ray.asked == 0
        ray.now = 6.0
        for _ in range(10):
            watch.on_step_begin(0, [])
        assert (ray.asked, run.heartbeats.exists()) == (1, False)
        ray.ready, ray.answer = True, {"a": BEAT.model_dump(), "ended": BEAT.model_dump()}
        watch.on_step_begin(0, [])
        kept = read_heartbeats(run.heartbeats)
        assert kept is not None
        assert (kept.trials, kept.done, kept.total) == ([BEAT], 0, 4)
    assert not run.heartbeats.exists()


def test_a_sign_that_is_gone_and_a_disk_that_is_full_do_not_matter(
    ray: SimpleNamespace, run: RunDirectory, progress: SweepProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_text", full)
    with heartbeats(ray.sign, progress, run) as watch:
        for error, answer in ((RayActorError(), {}), (None, {"a": {"trial_id": "a"}}), (None, ray.answer)):
            ray.ready, ray.error, ray.answer, ray.now = True, error, answer, ray.now + 6.0
            watch.on_step_begin(0, [])
            watch.on_step_begin(0, [])
    assert ray.asked == 3
    Journal(RunDirectory(run.path / "gone")).hear(Event(at=1.0, kind="stopped", words="x"))


def test_the_journal_is_read_from_its_end_whatever_else_is_in_it(run: RunDirectory) -> None:
    assert read_events(run.events) == []
    journal = Journal(run)
    for k in range(3):
        journal.hear(Event(at=float(k), kind="paused", trial_id="a", words=f"<b>{k}\n</b>", sampled=True))
    with run.events.open("a") as file:
        file.write('no json\n{"at": "now", "kind": "paused", "words": ""}\n[1]\n{"at": 3.0, "kind": "pau')
    assert [event.words for event in read_events(run.events)] == [f"<b>{k}\n</b>" for k in range(3)]
    line = Event(at=9.0, kind="failed", words="w" * 1000).model_dump_json() + "\n"
    run.events.write_text(line * (2 * MAX_EVENTS_BYTES // len(line)))
    assert 0 < len(read_events(run.events)) * len(line) <= MAX_EVENTS_BYTES


@pytest.mark.parametrize(
    "changed",
    [{"trial_id": "../x"}, {"loss": 1e40}, {"step": -1}, {"worker": "w" * 300}, {"doing": "<script>"}],
)
def test_heartbeats_of_a_stranger_are_refused(run: RunDirectory, changed: dict[str, Any]) -> None:
    said = {"at": 1.0, "done": 1, "total": 2, "trials": [BEAT.model_dump() | changed]}
    run.heartbeats.write_text(json.dumps(said))
    with pytest.raises(UserError, match=r"heartbeats\.json"):
        read_heartbeats(run.heartbeats)
