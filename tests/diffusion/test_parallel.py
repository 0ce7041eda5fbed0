"""Trainings on several processes, as torchrun starts them, against the same training on one."""

import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from pareto_amb import production
from pareto_amb.config import TrainingRun
from pareto_amb.config_file import apply_overrides, parse
from pareto_amb.diffusion import parallel
from pareto_amb.diffusion.checkpoint import unpack
from pareto_amb.diffusion.parallel import ASK_EVERY, World
from pareto_amb.errors import UserError
from pareto_amb.production import CHECKPOINT, train_model
from pareto_amb.results.recommendation_file import load_entry, training_block

BLOCK = {
    "data": {"source": "digits", "resolution": 8, "channels": 1},
    "train_size": 40,
    "sigma_tn": 0.4,
    "mix_ratio": 0.5,
    "training": {
        "images": 128,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "horizontal_flip": True,
        "network": {"name": "tiny", "options": {"model_channels": 8}},
    },
}
EVERY_PART = """
from pareto_amb import production
from pareto_amb.cli import main

production.LINE_SECONDS = 0.0
main()
"""
"""The command line, which says after every part of a training how it is going."""

TRAIN = ["every_part.py", "train", "recommendation.yaml"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

REFUSALS = """
import os, sys
from pareto_amb.cli import main

for port, setting in zip(sys.argv[1::2], sys.argv[2::2]):
    os.environ["MASTER_PORT"] = port
    sys.argv = ["pareto-amb", "train", "recommendation.yaml", "--set", setting]
    try:
        main()
    except SystemExit as end:
        print("exit", end.code, flush=True)
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def recommendation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(production, "LINE_SECONDS", 0.0)
    (tmp_path / "every_part.py").write_text(EVERY_PART)
    path = tmp_path / "recommendation.yaml"
    path.write_text(yaml.safe_dump({"recommendations": [{"train_size": 40, "training": BLOCK}]}))
    return path


def start(command: list[str], cwd: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run_two(first: list[str], second: list[str], cwd: Path) -> list[subprocess.CompletedProcess[str]]:
    """Run two processes with the environment that torchrun would give them, and see each one's exit code."""
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    shared["MASTER_PORT"] = free_port()
    processes = [
        start(command, cwd, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank, command in enumerate([first, second])
    ]
    done = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=120)
            done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return done


def train_alone(recommendation: Path, output: str, images: int) -> list[float]:
    """The losses that a training on this process alone reports."""
    entry = load_entry(recommendation, None)
    block = apply_overrides(training_block(entry, recommendation), [f"training.images={images}"])
    printed = io.StringIO()
    folder = recommendation.parent / output
    train_model(parse(TrainingRun, block, "test"), folder, Console(file=printed, width=200), World())
    return losses(printed.getvalue())


def losses(printed: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"images, loss ([\d.]+)", printed)]


def assert_same_state(a: Path, b: Path) -> None:
    (header, tensors), (other_header, others) = (
        unpack((f / CHECKPOINT).read_bytes(), str(f)) for f in (a, b)
    )
    for key in ("identity", "architecture", "images_seen", "loss_count"):
        assert header[key] == other_header[key]
    assert tensors.keys() == others.keys()
    for name in tensors:
        torch.testing.assert_close(tensors[name], others[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_one_goes_on_from_there(recommendation: Path) -> None:
    folder = recommendation.parent
    process = start([*TORCHRUN, *TRAIN, "--output", "two"], folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    alone = train_alone(recommendation, "one", 128)
    assert len(alone) == 8
    assert losses(out) == pytest.approx(alone, abs=2e-4)
    assert out.count("next:") == 1
    assert_same_state(folder / "one", folder / "two")
    for name in ("one", "two"):
        assert (folder / name / "training.yaml").exists()

    on_one = train_alone(recommendation, "two", 192)
    assert on_one == pytest.approx(train_alone(recommendation, "one", 192), abs=5e-4)
    assert_same_state(folder / "one", folder / "two")


@pytest.mark.slow
def test_a_training_killed_on_one_process_goes_on_on_two(recommendation: Path) -> None:
    """The clocks of the two disagree about when to save: the first one's counts."""
    folder = recommendation.parent
    endless = ["--set", "training.images=16000000", "--set", "training.checkpoint_seconds=0.01"]
    process = start([*TRAIN, "--output", "two", *endless], folder)
    checkpoint = folder / "two" / CHECKPOINT
    deadline = time.monotonic() + 100
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    seen = unpack(checkpoint.read_bytes(), "killed")[0]["images_seen"]

    images = seen + 16 * (ASK_EVERY + 2)
    command = [*TRAIN, "--output", "two", "--set", f"training.images={images}"]
    eager = ["--set", "training.checkpoint_seconds=0.0001"]
    patient = ["--set", "training.checkpoint_seconds=1000"]
    first, second = run_two([*command, *eager], [*command, *patient], folder)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert f"continuing at {seen:,} images" in first.stdout
    assert second.stdout == ""
    alone = train_alone(recommendation, "one", images)
    # The first loss after the kill is a mean that began before it.
    assert losses(first.stdout)[1:] == pytest.approx(alone[-ASK_EVERY - 1 :], abs=2e-3)
    assert_same_state(folder / "one", folder / "two")


@pytest.mark.slow
def test_what_cannot_go_on_stops_all_processes_with_one_line_from_the_first(recommendation: Path) -> None:
    everywhere = [free_port(), "training.batch_size=15", free_port(), "training.learning_rate=1.0e+30"]
    command, port = ["-c", REFUSALS, *everywhere], free_port()
    first, second = run_two([*command, port, "seed=1"], [*command, port, "sed=1"], recommendation.parent)
    assert (first.returncode, second.returncode) == (0, 0)
    assert second.stderr == ""
    assert second.stdout == "exit 2\n" * 3
    assert first.stdout.count("exit 2\n") == 3
    uneven, diverged, only_on_second = first.stderr.splitlines()
    assert uneven == (
        "pareto-amb: error: training.batch_size 15 cannot be shared evenly by 2 processes: change one of them"
    )
    assert re.match(r"pareto-amb: error: loss became (inf|nan) before", diverged)
    assert "unknown key 'sed': did you mean 'seed'?" in only_on_second


def test_the_parts_of_a_batch_make_up_the_whole() -> None:
    rows = torch.arange(12)
    parts = [rows[World(rank=rank, size=3).part_of_batch(12)] for rank in range(3)]
    assert torch.equal(torch.cat(parts), rows)
    assert {len(part) for part in parts} == {4}
    with pytest.raises(UserError, match="batch_size 12 cannot be shared evenly by 5 processes"):
        World(size=5).part_of_batch(12)


def test_tensors_of_any_type_and_layout_travel_in_few_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "BUCKET_BYTES", 200)
    messages = []

    def negate(flat: torch.Tensor) -> None:
        messages.append(flat.numel())
        flat.neg_()

    tensors = [
        torch.randn(2, 3, 2, 2).to(memory_format=torch.channels_last),
        torch.randn(()),
        torch.randn(5, 7).t(),
        torch.arange(4),
        torch.randn(3),
    ]
    expected = [-tensor for tensor in tensors]
    parallel._send_flat(tensors, negate)
    assert all(map(torch.equal, tensors, expected))
    assert sorted(messages) == [3, 4, 60]


def test_a_process_alone_answers_for_itself_and_many_ask_rarely() -> None:
    assert [World().first_decides(True, step) for step in range(3)] == [True] * 3
    assert [World(size=2).first_decides(True, step) for step in range(1, ASK_EVERY)] == [False] * 9
    assert World().bytes_from_first(b"state") == b"state"
    assert World().gather("name") == ["name"]
