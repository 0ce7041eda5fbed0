"""What is refused before a sweep starts, and what is left of it then: nothing."""

import json
import multiprocessing
import socket
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from rich.console import Console

from pareto_amb import search_spaces
from pareto_amb.config_file import apply_overrides
from pareto_amb.diffusion.methods import METHODS, Algorithm1, Control
from pareto_amb.errors import UserError
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.results.table import shipped
from pareto_amb.running.claim import claimed
from pareto_amb.running.materials import load_materials
from pareto_amb.running.start import start_sweep
from pareto_amb.running.state import SweepState
from pareto_amb.running.trust import check_storage_is_trusted
from pareto_amb.sweep_file import declare, parse_sweep, trained_methods

Usage = namedtuple("Usage", "total used free")

PIXELS = ["evaluation.fid_encoder=pixels", "evaluation.similarity_encoder=pixels"]


def start(path: Path, *changes: str, **options: Any) -> None:
    config = parse_sweep(apply_overrides(search_spaces.load("smoke"), [*PIXELS, *changes]), "smoke")
    start_sweep(config, path, declare(), METHODS, console=Console(quiet=True), **options)


def test_data_that_cannot_be_used_leave_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent"):
        start(tmp_path / "run", "data.source=images", f"data.path={tmp_path / 'absent'}")
    assert not (tmp_path / "run").exists()


def test_a_tracking_server_that_never_answers_leaves_no_run_directory(
    tmp_path: Path, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:CANARY@127.0.0.1:{silent_port}")
    with pytest.raises(UserError, match=r"no answer within 5 seconds|timed out") as said:
        start(tmp_path / "run")
    assert "CANARY" not in str(said.value)
    assert not (tmp_path / "run").exists()


def test_a_cluster_that_does_not_answer_leaves_no_run_directory(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(UserError, match="nothing answers there"):
            start(tmp_path / "run", address=address)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_something_is_not_written_into(tmp_path: Path) -> None:
    folder = tmp_path / "my runs"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=f"is not empty; name another --output, or use --resume '{folder}'"):
        start(folder)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_two_sweeps_never_share_a_run_directory(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another sweep is running in it"):
        start(tmp_path, resumed=True)
    assert not (tmp_path / "sweep.yaml").exists()


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder with its time of change, and every folder."""
    return {
        str(path): (b"", 0) if path.is_dir() else (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


REFUSED = {
    "an option of the network": ["training.network.options.model_chanels=8"],
    "a resolution that the network cannot halve": ["data.resolution=7", "data.channels=1"],
    "more training images than there are": ["space.train_size=[5000]"],
    "first weights that are absent": ["training.init_from=/absent.safetensors"],
    "labels where there are none": ["data.source=images", "data.path=.", "data.conditional=true"],
    "a storage below a file": ["storage=mine.txt/below"],
    "no room": [],
    "a tracking server that is none": [],
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED)
def test_a_sweep_that_is_refused_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, changes: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mine.txt").write_text("mine")
    started: list[str] = []
    monkeypatch.setattr("pareto_amb.running.sweep.ray_cluster", lambda *_: started.append("ray"))
    if "no room" in request.node.name:
        monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**9, 0, 1000))
    if "server" in request.node.name:
        monkeypatch.setattr("pareto_amb.running.sweep.SweepState.foresee", lambda *_: (0, 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mine.txt/below.db")
    before = contents(tmp_path)
    with pytest.raises(UserError):
        start(tmp_path / "a" / "b" / "run", *changes)
    assert contents(tmp_path) == before
    assert started == []


@pytest.mark.parametrize(
    "name", ["a\0b", "x" * 300, "mine.txt", "mine.txt/below", "dangling", "new/\udcff/" + "y" * 300]
)
def test_a_path_that_cannot_be_a_run_directory_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "absent" / "folder")
    with pytest.raises(UserError) as raised, claimed(tmp_path / name, resumed=False):
        raise AssertionError
    assert "\n" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "mine.txt"]


def test_a_link_to_an_empty_folder_is_a_run_directory_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    half_made = tmp_path / "there" / "sweep.yaml"
    with pytest.raises(FileNotFoundError), claimed(tmp_path / "link", resumed=False) as claim:
        (claim.run.sweep.write_text("half made"), claim.run.results.read_bytes())
    assert not half_made.exists()
    assert (tmp_path / "link").is_symlink()
    assert list((tmp_path / "there").iterdir()) == []


def test_a_folder_with_nothing_but_an_old_lock_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".lock").write_text("")
    with claimed(Path(), resumed=False) as claim:
        claim.keep()
    assert (tmp_path / ".lock").exists()
    with pytest.raises(UserError, match="is not empty"), claimed(Path("/"), resumed=False):
        raise AssertionError


def contend(path: str, name: str, ready: Any, won: Any) -> None:
    """Claim a directory at the same moment as others; the winner writes its name and holds on."""
    ready.wait()
    try:
        with claimed(Path(path), resumed=False) as claim:
            claim.run.sweep.write_text(name)
            claim.keep()
            won.put(name)
            ready.wait()  # the others have been refused by now, or never will be
    except UserError:
        won.put("")
        ready.wait()


@pytest.mark.slow
@pytest.mark.parametrize("contenders", [2, 4])
def test_of_sweeps_started_at_one_moment_one_wins_and_its_file_is_on_disk(
    tmp_path: Path, contenders: int
) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(15):
        path, ready, won = tmp_path / f"new{attempt}" / "run", context.Barrier(contenders), context.Queue()
        processes = [
            context.Process(target=contend, args=(str(path), f"sweep {k}", ready, won), daemon=True)
            for k in range(contenders)
        ]
        for process in processes:
            process.start()
        names = [won.get(timeout=60) for _ in processes]
        for process in processes:
            process.join(60)
        (winner,) = [name for name in names if name]
        assert (path / "sweep.yaml").read_text() == winner


@pytest.mark.parametrize("before", [{"version": 2}, None])
def test_a_run_that_drew_other_images_is_not_resumed(tmp_path: Path, before: dict[str, int] | None) -> None:
    """Version 2 balanced every subset by class; runs from before versions were counted did so, too."""
    config = parse_sweep(apply_overrides(search_spaces.load("smoke"), PIXELS), "smoke")
    found = load_materials(config, Console(quiet=True)).fingerprints()
    assert found["training"] != before
    (tmp_path / "sweep.yaml").write_text("name: smoke")
    (tmp_path / "environment.json").write_text(json.dumps({**found, "training": before}))
    with pytest.raises(UserError, match="the training changed since this run began; start a new run"):
        start(tmp_path, resumed=True)


RESUMED = {
    "the data changed": (lambda run: None, {}, "the data changed"),
    "a cluster that is not there": (lambda run: None, {"address": "127.0.0.1:9"}, "nothing answers"),
    "a corrupt study": (lambda run: (run / "study.db").write_bytes(b"no database" * 99), {}, "run/study.db"),
    "a foreign tracking server": (
        lambda run: (run / "environment.json").write_text('{"tracking_uri": "http://evil.example"}'),
        {},
        r"asks to track at http://evil\.example; .*--trust-run",
    ),
}


@pytest.mark.parametrize("case", RESUMED.values(), ids=RESUMED)
def test_a_resumed_run_that_is_refused_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[Any, dict[str, Any], str]
) -> None:
    spoil, options, said = case
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tmp_path / "run"
    run.mkdir()
    (run / "sweep.yaml").write_text("name: smoke")
    (run / "environment.json").write_text('{"data": {}, "encoders": {}}' if "data" in said else "{}")
    config = parse_sweep(apply_overrides(search_spaces.load("smoke"), PIXELS), "smoke")
    SweepState.open(RunDirectory(run), config, shipped(), METHODS)
    spoil(run)
    before = contents(tmp_path)
    with pytest.raises(UserError if said else Exception, match=said or None):
        start(run, resumed=True, **options)
    assert contents(tmp_path) == before


def test_a_storage_that_only_the_run_names_is_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, run = "s3://me:secret@bucket/runs?endpoint_override=evil.example", RunDirectory(tmp_path)
    monkeypatch.delenv("PARETO_AMB_STORAGE", raising=False)
    with pytest.raises(UserError, match="--trust-run") as raised:
        check_storage_is_trusted(run, uri)
    assert "secret" not in str(raised.value)
    for harmless in (None, "/mnt/runs", "runs", "file:///mnt/runs"):
        check_storage_is_trusted(run, harmless)
    with pytest.raises(UserError):
        check_storage_is_trusted(run, "file://host/runs")
    check_storage_is_trusted(run, uri, trust=True)
    monkeypatch.setenv("PARETO_AMB_STORAGE", uri)
    check_storage_is_trusted(run, uri)


def test_a_method_whose_first_step_fails_is_refused_before_a_sweep_starts(tmp_path: Path) -> None:
    class Broken(Algorithm1):
        """Breaks."""

        name = "broken"

        def loss(self, *_: Any) -> torch.Tensor:
            raise ZeroDivisionError("by me")

    declared = declare([Broken])
    values = apply_overrides(search_spaces.load("smoke"), [*PIXELS, "search.methods=[broken]"])
    config = parse_sweep(values, "smoke", declared)
    with pytest.raises(
        UserError, match=r"method broken: its first training step fails \(ZeroDivisionError: by me"
    ):
        start_sweep(
            config, tmp_path / "run", declared, {**METHODS, "broken": Broken}, console=Console(quiet=True)
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "trained"),
    [
        ([], ["ddpm", "algorithm1", "control"]),
        (["search.methods=[masking, control, algorithm1]"], ["ddpm", "masking", "control", "algorithm1"]),
        (["search.methods=[masking]"], ["ddpm", "masking"]),
        (["search.controls=false"], ["ddpm", "algorithm1"]),
    ],
)
def test_the_controls_of_a_sweep_are_among_the_methods_that_it_trains(
    changes: list[str], trained: list[str]
) -> None:
    config = parse_sweep(apply_overrides(search_spaces.load("smoke"), changes), "smoke")
    assert trained_methods(config, METHODS) == trained


def test_a_control_whose_first_step_fails_is_refused_before_a_sweep_starts(tmp_path: Path) -> None:
    class Broken(Control):
        """Breaks."""

        name = "broken"

        def loss(self, *_: Any) -> torch.Tensor:
            raise ZeroDivisionError("by me")

    class Own(Algorithm1):
        """Has a control of its own."""

        name = "own"
        control = "broken"

    declared = declare([Own, Broken])
    values = apply_overrides(search_spaces.load("smoke"), [*PIXELS, "search.methods=[own]"])
    config = parse_sweep(values, "smoke", declared)
    methods = {**METHODS, "own": Own, "broken": Broken}
    with pytest.raises(UserError, match=r"method broken: .* correct it, or set search\.controls to false"):
        start_sweep(config, tmp_path / "run", declared, methods, console=Console(quiet=True))
    assert not list(tmp_path.iterdir())
