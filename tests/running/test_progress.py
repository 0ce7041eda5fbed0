import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pareto_amb.declared import Declared, Objective
from pareto_amb.results.live import Event, Heartbeat
from pareto_amb.results.table import ResultsTable, columns, shipped
from pareto_amb.running.progress import SweepProgress
from pareto_amb.terminal import format_duration
from pareto_amb.trial import Trial

DECLARED = shipped()
SHARPNESS = Objective("sharpness", "sharpness", "how sharp samples are", direction="max")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, that the display sees: the one entry of a list."""
    clock = [0.0]
    monkeypatch.setattr("pareto_amb.running.progress.time.monotonic", lambda: clock[0])
    return clock


def trial(trial_id: str) -> Trial:
    return Trial(trial_id, "algorithm1", 100, 0, {"sigma_tn": 0.25, "mix_ratio": 1.0})


def row(trial_id: str, rung: int, fid: float, memorization: float, **more: Any) -> dict[str, Any]:
    numbers = {name: 1 for name, column in columns(DECLARED).items() if column.dtype != "str"} | {
        "branched_at": 0
    }
    complete = rung == 2
    return {
        **numbers,
        "trial_id": trial_id,
        "method": "algorithm1",
        "train_size": 100,
        "sigma_tn": 0.25,
        "rung": rung,
        "budget": rung / 2,
        "fid": fid,
        "memorization": memorization,
        "status": "complete" if complete else "running",
        "error": "",
        **more,
    }


def follow(tmp_path: Path, terminal: bool) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120)
    results = ResultsTable(tmp_path / "results.parquet", DECLARED)
    progress = SweepProgress(console, results, total=6, finished=1, n_rungs=2, trainings=5.0)
    with progress:
        for trial_id, fid, memorization in (("good", 10.0, 0.1), ("dominated", 20.0, 0.2)):
            progress.started(trial(trial_id))
            for rung in (1, 2):
                results.record(row(trial_id, rung, fid, memorization))
                progress.row(row(trial_id, rung, fid, memorization))
        progress.started(trial("slow"))
        results.record(row("slow", 1, 33.25, 0.3))
        progress.row(row("slow", 1, 33.25, 0.3))
        for trial_id in ("waits", "resumes"):
            progress.started(trial(trial_id))
            results.record(row(trial_id, 1, 44.5, 0.4, status="paused"))
            progress.row(row(trial_id, 1, 44.5, 0.4, status="paused"))
        results.record(row("resumes", 1, 44.5, 0.4))
        progress.resumed(row("resumes", 1, 44.5, 0.4))
        progress.started(trial("resumes"))
        progress.retried(trial("bad"), "the worker died")
        progress.failed(trial("cut"), "OSError: No space left on device", interrupted=True)
        progress.failed(trial("bad"), "RuntimeError: [red]out of memory[/red]")
    return output.getvalue()


def test_off_a_terminal_each_finished_trial_is_one_plain_line(tmp_path: Path) -> None:
    lines = follow(tmp_path, terminal=False).splitlines()
    assert len(lines) == 8
    assert lines[0].startswith("[2/6] good (sigma_tn 0.25, mix ratio 1): ")
    assert "FID 10, memorization 0.100" in lines[0]
    assert "left)" in lines[0]
    assert lines[2].startswith("[4/6] waits (")
    assert "paused at rung 1 of 2, FID 44.5, memorization 0.400" in lines[2]
    assert lines[3].startswith("[5/6] resumes (")
    assert lines[4] == "resumes: resumed at rung 1 of 2"
    assert lines[5] == "bad: failed (the worker died), trying again from its last checkpoint"
    assert lines[6].startswith("cut (")  # not counted: it goes on in a resumed sweep
    assert lines[6].endswith(": interrupted, OSError: No space left on device")
    assert lines[7].startswith("[5/6] bad (")
    assert "FAILED, RuntimeError: [red]out of memory[/red]" in lines[7]


def test_the_time_left_is_that_of_the_trainings_that_halving_lets_through(
    tmp_path: Path, now: list[float]
) -> None:
    output = io.StringIO()
    results = ResultsTable(tmp_path / "results.parquet", DECLARED)
    results.record(row("before", 1, 1, 1, status="paused"))
    progress = SweepProgress(Console(file=output), results, total=4, finished=1, n_rungs=2, trainings=3.0)
    now[0] = 60.0
    progress.started(trial("a"))
    progress.row(row("a", 1, 1, 1, status="paused"))  # half a training a minute; two are left
    assert "1m00s elapsed, about 4m00s left" in output.getvalue()
    results.record(row("before", 1, 1, 1))
    progress.started(trial("before"))
    now[0] = 120.0
    progress.row(row("before", 2, 1, 1))  # its second half
    assert "2m00s elapsed, about 3m00s left" in output.getvalue()


def test_a_search_that_ends_itself_has_fewer_trials_and_less_time_left(
    tmp_path: Path, now: list[float]
) -> None:
    output = io.StringIO()
    results = ResultsTable(tmp_path / "results.parquet", DECLARED)
    progress = SweepProgress(Console(file=output), results, total=8, finished=0, n_rungs=2, trainings=8.0)
    now[0] = 60.0
    progress.started(trial("a"))
    progress.row(row("a", 2, 1, 1))
    progress.stopped("nothing grows any more", total=3)
    progress.started(trial("b"))
    now[0] = 120.0
    progress.row(row("b", 2, 1, 1))
    lines = output.getvalue().splitlines()
    assert "about 7m00s left" in lines[0]
    assert lines[1] == "nothing grows any more"
    assert lines[2].startswith("[2/3] b")
    assert "about 1m00s left" in lines[2]


def test_once_the_search_is_over_it_is_known_what_follows_and_what_that_costs(
    tmp_path: Path, now: list[float]
) -> None:
    output = io.StringIO()
    results = ResultsTable(tmp_path / "results.parquet", DECLARED)
    console = Console(file=output, force_terminal=True, width=120)
    with SweepProgress(console, results, total=8, finished=1, n_rungs=2, trainings=8.0) as progress:
        progress.following(2, total=5, trainings=1.0)
        progress.started(replace(trial("a-r1-c1"), last=1))
        now[0] = 60.0
        progress.row(row("a-r1-c1", 1, 1, 0.5, status="complete"))
        progress.started(replace(trial("b-r1-c1"), last=1))
    printed = output.getvalue()
    line = next(line for line in printed.splitlines() if "[4/5] a-r1-c1 (" in line)
    assert "stopped at rung 1 of 2, FID 1, memorization 0.500 (1m00s elapsed, about 1m00s left)" in line
    assert "0/1" in printed


def test_on_a_terminal_running_trials_and_the_frontier_stay_in_view(tmp_path: Path) -> None:
    last = follow(tmp_path, terminal=True).rpartition("trials done: ")[2]
    assert last.startswith("5 of 6, 1 of them paused")
    running, _, frontier = last.partition("frontier at full budget so far, 100 training images")
    assert "slow" in running
    assert "1/2" in running
    assert "33.25" in running
    assert "good" in frontier
    assert "dominated" not in frontier


def test_a_frontier_that_takes_long_is_not_worked_out_after_every_trial(
    tmp_path: Path, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, looks = ResultsTable(tmp_path / "results.parquet", DECLARED), list[float]()
    frontiers = SweepProgress._frontiers

    def slowly(progress: SweepProgress) -> Any:
        looks.append(now[0])
        now[0] += 1.0
        return frontiers(progress)

    monkeypatch.setattr(SweepProgress, "_frontiers", slowly)
    for terminal, wanted in ((False, []), (True, [0.0, 20.0, 21.0])):
        looks.clear()
        now[0] = 0.0
        console = Console(file=io.StringIO(), force_terminal=terminal)
        with SweepProgress(console, results, total=4, finished=0, n_rungs=2, trainings=4.0) as progress:
            for name, when in (("a", 2.0), ("b", 10.0), ("c", 20.0)):
                now[0] = when
                progress.row(row(name, 2, 1.0, 0.5))
        assert looks == wanted


def test_every_objective_is_shown_under_its_label(tmp_path: Path) -> None:
    output = io.StringIO()
    declared = Declared(DECLARED.methods, {**DECLARED.objectives, "sharpness": SHARPNESS})
    results = ResultsTable(tmp_path / "results.parquet", declared)
    console = Console(file=output, force_terminal=True, width=140)
    with SweepProgress(console, results, total=2, finished=0, n_rungs=2, trainings=2.0) as progress:
        for name, fid, sharpness in (("sharp", 20.0, 7.5), ("blurred", 10.0, 2.5), ("worse", 20.0, 5.5)):
            results.record(row(name, 2, fid, 0.5, sharpness=sharpness))
            progress.row(row(name, 2, fid, 0.5, sharpness=sharpness))
    assert "FID 20, memorization 0.500, sharpness 7.5" in output.getvalue()
    front = output.getvalue().rpartition("frontier at full budget so far")[2]
    assert "sharpness" in front
    assert "sharp " in front
    assert "blurred" in front
    assert "worse" not in front


def beat(trial_id: str, **changes: Any) -> Heartbeat:
    said = {
        "trial_id": trial_id, "worker": "node", "doing": "training", "rung": 1, "rungs": 2, "step": 1200,
        "steps": 4000, "images_seen": 76_800, "images": 256_000, "images_per_second": 431.4, "loss": 0.12345,
        "seconds_left": 125.0,
    }  # fmt: skip
    return Heartbeat.model_validate(said | changes)


def test_off_a_terminal_a_line_a_minute_says_how_running_trials_are_going(
    tmp_path: Path, now: list[float]
) -> None:
    output = io.StringIO()
    results = ResultsTable(tmp_path / "results.parquet", DECLARED)
    progress = SweepProgress(Console(file=output, width=40), results, 8, 0, n_rungs=2, trainings=8.0)
    going = {"a": beat("a"), "b": beat("b", doing="measuring", rung=2, loss=None), "gone": beat("gone")}
    progress.beats(going)
    for name in ("a", "b", "silent"):
        progress.started(trial(name))
    for second in range(0, 130, 5):
        now[0] = float(second)
        kept = progress.beats(going)
    assert [found.trial_id for found in kept.trials] == ["a", "b"]
    assert output.getvalue().splitlines() == [
        "a step 1,200 of 4,000, 431 images/s, loss 0.1235, 2m05s left; "
        f"b step 1,200 of 4,000, measures rung 2 of 2 ({minutes}m00s elapsed)"
        for minutes in (1, 2)
    ]


def test_on_a_terminal_each_running_trial_says_how_it_is_going(tmp_path: Path, now: list[float]) -> None:
    output = io.StringIO()
    results = ResultsTable(tmp_path / "results.parquet", DECLARED)
    console = Console(file=output, force_terminal=True, width=140)
    with SweepProgress(console, results, total=2, finished=0, n_rungs=2, trainings=2.0) as progress:
        progress.started(trial("a"))
        now[0] = 100.0
        progress.beats({"a": beat("a")})
    last = output.getvalue().rpartition("running trial")[2]
    for said in ("1,200/4,000", "431", "0.1235", "2m05s"):
        assert said in last
    assert "; " not in last


def test_whoever_listens_hears_what_happens(tmp_path: Path) -> None:
    heard: list[Event] = []
    results = ResultsTable(tmp_path / "results.parquet", DECLARED)
    progress = SweepProgress(
        Console(quiet=True), results, total=6, finished=0, n_rungs=2, trainings=6.0, listeners=[heard.append]
    )
    progress.started(trial("a"))
    progress.started(replace(trial("b"), branched_at=50))
    progress.row(row("a", 1, 10.0, 0.1, n_samples=0))
    progress.row(row("b", 1, 10.0, 0.1, status="paused"))
    results.record(row("b", 1, 10.0, 0.1))
    progress.resumed(row("b", 1, 10.0, 0.1))
    progress.row(row("a", 2, 10.0, 0.1))
    progress.retried(trial("c"), "x" * 20_000)
    progress.failed(trial("c"), "it diverged")
    progress.failed(trial("d"), "no memory", interrupted=True)
    progress.stopped("nothing grows any more", total=3)
    kinds = "started branched promoted paused resumed complete retried failed interrupted stopped"
    assert [event.kind for event in heard] == kinds.split()
    assert [event.trial_id for event in heard if event.sampled] == ["b", "a"]
    assert "FID 10" in heard[5].words


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (42.4, "42s"), (185, "3m05s"), (7620, "2h07m"), (359_999, "99h59m")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_branched_trial_counts_with_what_it_trained_itself_and_is_called_so(tmp_path: Path) -> None:
    output = io.StringIO()
    results = ResultsTable(tmp_path / "results.parquet", DECLARED)
    own = {"images_seen": 100, "branched_at": 50}
    results.record(row("earlier", 2, 10.0, 0.1, **own))
    progress = SweepProgress(
        Console(file=output, width=120), results, total=4, finished=1, n_rungs=2, trainings=3.0
    )
    assert progress._left == 2.5
    progress.started(replace(trial("now"), branched_at=50))
    results.record(row("now", 2, 10.0, 0.1, **own))
    progress.row(row("now", 2, 10.0, 0.1, **own))
    assert (progress._left, progress._trained) == (2.0, 0.5)
    assert output.getvalue().startswith("[2/4] now (sigma_tn 0.25, mix ratio 1, branched): FID 10")
    assert "frontier" not in output.getvalue()
