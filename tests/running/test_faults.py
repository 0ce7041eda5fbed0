"""Faults of machines and disks: told from failures of a training, and none of them loses anything."""

import errno
import os
import pickle
import sqlite3
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest
import torch
from ray import cloudpickle
from ray.exceptions import ActorDiedError, NodeDiedError, ObjectStoreFullError, RayError, RayTaskError
from ray.tune.error import TuneError

from pareto_amb import search_spaces
from pareto_amb.config import SweepConfig
from pareto_amb.config_file import apply_overrides
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.diffusion.trainer import TrainingDivergedError
from pareto_amb.errors import ExitCode, UserError
from pareto_amb.results.probes import PROBES, log_errors
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.results.table import load_results, shipped, trial_columns
from pareto_amb.running.claim import Claim
from pareto_amb.running.follower import Follower, latest_failure
from pareto_amb.running.halt import SweepHaltedError, halting_in_order
from pareto_amb.running.room import check_room, describe_room, room_needed
from pareto_amb.running.state import SweepState
from pareto_amb.storage import Storage, write_bytes
from pareto_amb.sweep_file import parse_sweep
from pareto_amb.trainables.faults import MachineError, fault_of, machine_told_apart, number_of, storing
from pareto_amb.trial import Trial

Usage = namedtuple("Usage", "total used free")

FULL = OSError(errno.ENOSPC, "No space left on device")
LOST = ActorDiedError()


def make_config(*changes: str) -> SweepConfig:
    return parse_sweep(
        apply_overrides(search_spaces.load("smoke"), ["evaluation.probes=[]", *changes]), "smoke"
    )


def open_state(folder: Path, retry: bool = False) -> SweepState:
    return SweepState.open(RunDirectory(folder), make_config(), shipped(), METHODS, retry=retry)


def database_error() -> BaseException:
    try:
        sqlite3.connect(":memory:").execute("create table t (x)").connection.execute(
            "pragma max_page_count=1"
        )
        connection = sqlite3.connect(":memory:")
        connection.execute("pragma page_size=512")
        connection.execute("create table t (x)")
        connection.execute("pragma max_page_count=3")
        connection.execute("insert into t values (zeroblob(99999))")
    except sqlite3.Error as error:
        return error
    raise AssertionError


def wrapped(error: BaseException) -> BaseException:
    try:
        try:
            raise error
        except BaseException as cause:
            raise UserError("checkpoint: cannot be read") from cause
    except UserError as outer:
        return outer


@pytest.mark.parametrize(
    "error",
    [
        *[
            OSError(number, os.strerror(number))
            for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
        ],
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: 1 bytes"),
        ConnectionResetError(),
        database_error(),
        wrapped(FULL),
        LOST,
        NodeDiedError("gone"),
        ObjectStoreFullError("full"),
        RayTaskError("step", "traceback", MachineError("OSError: No space left on device", errno.ENOSPC)),
        RayTaskError("step", "traceback", FULL).as_instanceof_cause(),
    ],
    ids=repr,
)
def test_what_a_machine_does_is_no_failure_of_the_training(error: BaseException) -> None:
    assert fault_of(error) is not None


@pytest.mark.parametrize(
    "error",
    [
        TrainingDivergedError("loss became nan"),
        ValueError("of the method's own"),
        FileNotFoundError(errno.ENOENT, "No such file", "of-the-method.txt"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RayTaskError("step", "traceback", TrainingDivergedError("nan")).as_instanceof_cause(),
        RayTaskError("step", "traceback", RayError("something that could not be pickled")),
    ],
    ids=repr,
)
def test_what_a_training_does_is_no_fault_of_the_machine(error: BaseException) -> None:
    assert fault_of(error) is None


def test_a_worker_hands_over_a_fault_without_what_it_was_raised_from() -> None:
    with pytest.raises(MachineError, match="No space left") as raised, machine_told_apart():
        raise wrapped(FULL)
    travelled = pickle.loads(pickle.dumps(raised.value))
    assert (str(travelled), number_of(travelled)) == (str(raised.value), errno.ENOSPC)
    with pytest.raises(MachineError), storing():
        raise OSError("When putting an object: AWS Error NETWORK_CONNECTION")
    with pytest.raises(ValueError, match="mine"), machine_told_apart(), storing():
        raise ValueError("mine")


def ray_trial(folder: Path, error: BaseException | None, config: dict[str, Any] | None = None) -> Any:
    """What Ray leaves of a trial that failed, in its own files."""
    pickled, text = folder / "error.pkl", folder / "error.txt"
    pickled.unlink(missing_ok=True)
    if error is not None:
        pickled.write_bytes(cloudpickle.dumps(error))
    text.write_text(f"Traceback\nof Ray\n{type(error).__name__}: {error}\n")
    return SimpleNamespace(pickled_error_file=str(pickled), error_file=str(text), config=config)


def raised_in(name: str, cause: Exception) -> RayTaskError:
    """What `ray.get` raises for an error in an actor's method: of both types, its name in the text alone."""
    told = f"\x1b[36mray::TrialTrainable.{name}()\x1b[39m (pid=1)\n{type(cause).__name__}: {cause}"
    return RayTaskError(f"TrialTrainable.{name}", told, cause).as_instanceof_cause()


def test_an_error_that_another_user_could_have_written_is_not_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = ray_trial(tmp_path, raised_in("train", TrainingDivergedError("loss became nan")))
    assert not latest_failure(trial).interrupted
    monkeypatch.setattr(cloudpickle, "loads", lambda content: pytest.fail("unpickled"))
    Path(trial.pickled_error_file).chmod(0o666)
    assert "loss became nan" in latest_failure(trial).reason
    Path(trial.pickled_error_file).chmod(0o644)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert "loss became nan" in latest_failure(trial).reason


def test_the_type_of_an_error_says_whether_a_trial_was_interrupted(tmp_path: Path) -> None:
    diverged = raised_in("train", TrainingDivergedError("loss became nan"))
    for error, interrupted, full in [
        (LOST, True, False),
        (None, True, False),  # an error of Ray's own, of which it keeps the text alone
        (raised_in("train", MachineError("OSError: full", errno.ENOSPC)), True, True),
        (raised_in("save", OSError("AWS Error ACCESS_DENIED")), True, False),
        (raised_in("train", OSError("AWS Error ACCESS_DENIED")), False, False),
        (diverged, False, False),
    ]:
        found = latest_failure(ray_trial(tmp_path, error))
        assert (found.interrupted, found.full) == (interrupted, full), error
        assert found.reason
        assert "\n" not in found.reason


class Silent:
    """Stands for progress and tracker."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def follow(state: SweepState) -> Follower:
    return Follower(state, cast(Any, Silent()), cast(Any, Silent()))


def fail(state: SweepState, folder: Path, trial: Trial, error: BaseException) -> None:
    """What Ray's loop does when a trial has failed for the last time."""
    state.searcher.on_trial_complete(f"ray-{trial.id}", error=True)
    follow(state).on_trial_error(0, [], ray_trial(folder, error, trial.config()))


def ask(state: SweepState, count: int) -> list[Trial]:
    first = [state.searcher.suggest(f"ray{k}") for k in range(count)]
    trials = [Trial.from_config(cast(dict[str, Any], config)) for config in first]
    for k, trial in enumerate(trials):
        state.searcher._running[f"ray-{trial.id}"] = state.searcher._running.pop(f"ray{k}")
    return trials


def row(trial: Trial, rung: int, status: str) -> dict[str, Any]:
    figures = {"fid": 3.0, "memorization": 0.1, "similarity_mean": 0.5, "n_samples": 5}
    place = {"rung": rung, "images_seen": 6400 * rung, "budget": rung / 2, "status": status}
    return {**trial_columns(trial, shipped()), **figures, **place}


def told(trial: Trial, *place: Any) -> dict[str, Any]:
    """What Ray hands over of a row."""
    found = row(trial, *place)
    return {**found, PROBES: log_errors(found)}


def test_a_resumed_sweep_takes_up_what_was_interrupted_and_not_what_failed(tmp_path: Path) -> None:
    run, logs = tmp_path / "run", tmp_path
    run.mkdir()
    state = open_state(run)
    baseline, other, cut, late, bad = ask(state, 5)
    state.results.record(row(baseline, 2, "complete"))
    state.results.record(row(late, 1, "running"))
    fail(state, logs, other, LOST)
    fail(state, logs, cut, LOST)
    fail(state, logs, late, LOST)
    fail(state, logs, bad, RayTaskError("TrialTrainable.train", "t", TrainingDivergedError("nan")))
    table = load_results(run / "results.parquet").frame.set_index("trial_id")
    assert table.status.to_dict() == {
        baseline.id: "complete", other.id: "interrupted", cut.id: "interrupted",
        late.id: "interrupted", bad.id: "failed",
    }  # fmt: skip
    assert table.loc[cut.id, "error"].startswith("ActorDiedError: ")
    study = optuna.load_study(study_name="train_size=50", storage=f"sqlite:///{run}/study.db")
    assert [trial.state.name for trial in study.trials] == ["WAITING", "WAITING", "FAIL"]

    resumed = open_state(run)
    assert resumed.n_unfinished() == state.n_unfinished() == 4 + resumed.n_following
    foreseen = SweepState.foresee(state.run, state.config, shipped(), METHODS)
    assert foreseen == (resumed.n_unfinished(), 1)  # one was measured, and has its checkpoint
    handed_out = ask(resumed, 4)
    assert handed_out[:3] == [other, cut, late.after(1)]
    assert handed_out[3].id not in {trial.id for trial in (baseline, other, cut, late, bad)}
    follow(resumed).on_trial_start(0, [], cast(Any, SimpleNamespace(config=cut.config())))
    last = resumed.results.last_row(cut.id)
    assert last is not None
    assert (last["status"], last["error"], last["rung"]) == ("running", "", 0)
    resumed.results.record(row(cut, 1, "running"))
    assert [known["rung"] for known in resumed.results.rows(cut.id)] == [1]


def test_failed_trials_are_tried_again_where_that_is_asked_for(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    state = open_state(run)
    *_, good, bad = ask(state, 4)
    state.results.record(row(good, 2, "complete"))
    state.searcher.on_trial_complete(f"ray-{good.id}", told(good, 2, "complete"))
    fail(state, tmp_path, bad, RayTaskError("TrialTrainable.train", "t", ValueError("once")))
    ahead, _ = SweepState.foresee(state.run, state.config, shipped(), METHODS)
    assert ahead == open_state(run).n_unfinished()
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir()}
    again, _ = SweepState.foresee(state.run, state.config, shipped(), METHODS, retry=True)
    assert again == open_state(run).n_unfinished() + 1
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.iterdir()} == before

    resumed = open_state(run, retry=True)
    assert bad in ask(resumed, 3)
    resumed.results.record(row(bad, 2, "complete"))
    resumed.searcher.on_trial_complete(f"ray-{bad.id}", told(bad, 2, "complete"))
    study = optuna.load_study(study_name="train_size=50", storage=f"sqlite:///{run}/study.db")
    assert [(trial.number, trial.state.name) for trial in study.trials] == [(0, "COMPLETE"), (1, "COMPLETE")]
    assert open_state(run).results.status(bad.id) == "complete"
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_a_full_storage_ends_the_sweep_after_the_first_trial_and_not_after_them_all(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    state = open_state(run)
    (trial,) = ask(state, 1)
    full = RayTaskError("TrialTrainable.train", "t", MachineError("OSError: full", errno.ENOSPC))
    with pytest.raises(MachineError):
        fail(state, tmp_path, trial, full)
    assert state.results.status(trial.id) == "interrupted"


def as_ray_wraps_it(error: BaseException) -> None:
    """What a callback raises comes out of Ray's loop as the text of a traceback."""
    try:
        raise error
    except BaseException:
        raise TuneError("Traceback (most recent call last): ...")  # noqa: B904


@pytest.mark.parametrize(
    "error", [FULL, database_error(), MachineError("OSError: full", errno.ENOSPC)], ids=repr
)
def test_a_full_disk_of_the_driver_is_one_line_with_the_place_the_room_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**9, 10**9, 4096))
    run = tmp_path / "my run"
    claim = Claim(RunDirectory(run))
    claim.keep()
    with pytest.raises(SweepHaltedError) as raised, halting_in_order(claim, None):
        as_ray_wraps_it(error)
    said = str(raised.value)
    assert raised.value.exit_code == ExitCode.FAILED
    assert said.startswith(f"{run}: the sweep had to stop (")
    assert "4.1 KB free there" in said
    assert said.endswith(f"go on with: pareto-amb sweep --resume '{run}'")
    assert "\n" not in said


def test_a_fault_before_anything_was_kept_names_no_run_to_resume_and_a_bug_stays_one(tmp_path: Path) -> None:
    claim = Claim(RunDirectory(tmp_path / "run"))
    with (
        pytest.raises(SweepHaltedError, match=r"/elsewhere: .*start it again$"),
        halting_in_order(claim, None),
    ):
        as_ray_wraps_it(OSError(errno.EACCES, "Permission denied", "/elsewhere/error.txt"))
    with pytest.raises(TuneError), halting_in_order(claim, None):
        as_ray_wraps_it(ValueError("a bug"))


def test_a_checkpoint_that_does_not_fit_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "checkpoint", b"old")
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**9, 10**9, 999))
    monkeypatch.setattr(Path, "write_bytes", None)  # not called
    with pytest.raises(OSError, match="No space left") as raised:
        Storage(str(tmp_path)).write("checkpoint", bytes(1000))
    assert raised.value.errno == errno.ENOSPC
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("checkpoint", b"old")]


def test_the_room_that_is_told_is_that_of_the_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    room = room_needed(config, METHODS, None, 7)
    assert describe_room(room).startswith("about ")
    assert 0.9 < room.checkpoint / 801_772 < 1.1  # of a trial of this sweep, as measured
    assert room.storage > 7 * room.checkpoint
    check_room(RunDirectory(tmp_path / "run"), config, room)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**12, 0, 35_000_000))
    with pytest.raises(
        UserError, match=r"needs about 39\.\d MB .*35 MB are free; .*--set storage=.*--trials"
    ):
        check_room(RunDirectory(tmp_path / "run"), config, room)
    assert not list(tmp_path.iterdir())
    begun = room_needed(config, METHODS, None, 7, begun=7)  # each is replaced, one at a time
    assert begun.storage == begun.checkpoint + room.samples == room.storage - 7 * room.checkpoint
    branching = make_config("search.branch_from=auto")
    trunks = len(branching.branching_rungs())
    assert trunks > 0
    assert room_needed(branching, METHODS, None, 7).storage == room.storage + trunks * room.checkpoint
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, 0))  # a file system that does not say
    check_room(RunDirectory(tmp_path / "run"), config, room)


def test_a_storage_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = make_config(f"storage={tmp_path / 'file' / 'below'}")
    with pytest.raises(UserError, match=r"storage '.*below': cannot be written \(Not a directory\)"):
        check_room(RunDirectory(tmp_path), config, room_needed(config, METHODS, None, 1))
