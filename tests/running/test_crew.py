"""The processes of a trial that has several GPUs, here of a CPU each."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pareto_amb.config import DataConfig, TrainingConfig
from pareto_amb.data import TrainingSet, load_images, split, take_training_set
from pareto_amb.diffusion.checkpoint import unpack
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.diffusion.parallel import World
from pareto_amb.trainables.crew import Crew, Start, Task
from pareto_amb.trainables.faults import MachineError
from pareto_amb.trainables.training_images import TrainingImages

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
TRAINING = TrainingConfig.model_validate(
    {
        "images": 256,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "horizontal_flip": True,
        "network": {"name": "tiny", "options": {"model_channels": 8}},
    }
)


@pytest.fixture
def task() -> Task:
    images = load_images(DataConfig(source="digits", resolution=8, channels=1))
    training_set: TrainingSet = take_training_set(images, split(images, 40, 0, False).train, False)
    method = METHODS["algorithm1"].create({"sigma_tn": 0.4, "mix_ratio": 0.5}, 80.0)
    source = TrainingImages(training_set.without_pixels(), training_set.images.numpy(), None, "nowhere")
    return Task(source, TRAINING, method, seed=3, branched_at=0, text_model=None)


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "lo")  # and gone after the test
    crew = Crew(2, CPU)
    yield crew
    crew.close()
    assert not torch.distributed.is_initialized()


def assert_close(ours: bytes, theirs: bytes) -> None:
    """Sums of gradients in another order differ by rounding, which Adam magnifies where they are small."""
    (_, mine), (_, other) = unpack(ours, "ours"), unpack(theirs, "theirs")
    for name in (name for name in mine if name.startswith(("model.", "ema."))):
        torch.testing.assert_close(mine[name], other[name], rtol=1e-3, atol=1e-4)


def test_a_crew_trains_as_one_process_does_and_goes_on_from_its_checkpoint(crew: Crew, task: Task) -> None:
    alone, trainer = task.begin(World(), None), crew.begin(task, None)
    for until in (64, 128):
        expected = alone.train(until)
        with crew.training(until):
            assert trainer.train(until, lambda: None) == pytest.approx(expected, rel=1e-3)
        assert_close(trainer.checkpoint(), alone.checkpoint())
    again = crew.begin(task, Start(trainer.checkpoint(), "checkpoint"))
    assert again.images_seen == 128
    with crew.training(256):
        again.train(256, lambda: None)
    alone.train(256)
    assert_close(again.checkpoint(), alone.checkpoint())

    crew._say("begin", None)
    with (
        pytest.raises(RuntimeError, match="process 2 of the trial's 2: TypeError: cannot unpack"),
        crew.training(320),
    ):
        again.train(320)


def test_a_process_that_is_killed_is_named(crew: Crew, task: Task) -> None:
    trainer = crew.begin(task, None)
    (member,) = crew._members
    assert crew.is_whole
    with (
        pytest.raises(MachineError, match="process 2 of the trial's 2 has ended, exit code -9"),
        crew.training(1_600_000),
    ):
        trainer.train(1_600_000, member.kill, wanted=lambda: trainer.images_seen >= 800)
    assert not crew.is_whole
    assert 800 <= trainer.images_seen < 1_600_000


def test_of_one_gpu_a_trial_is_alone(task: Task) -> None:
    crew = Crew(1, CPU)
    trainer = crew.begin(task, None)
    with crew.training(64):
        trainer.train(64)
    assert crew.is_whole
    assert crew.world.size == 1
    with pytest.raises(RuntimeError, match="its own"), crew.training(128):
        raise RuntimeError("its own")
    crew.close()


def test_where_one_does_not_come_none_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], **how: Any) -> subprocess.Popen[bytes]:
        waits = "import time; print('ready', flush=True); time.sleep(600)"
        code = "raise SystemExit(3)" if started else waits
        started.append(popen([command[0], "-c", code], **how))
        return started[-1]

    popen = subprocess.Popen
    monkeypatch.setattr("pareto_amb.trainables.crew.subprocess.Popen", start)
    monkeypatch.setattr("pareto_amb.trainables.crew.tempfile.mkdtemp", lambda prefix: str(tmp_path / "crew"))
    (tmp_path / "crew").mkdir()
    with pytest.raises(MachineError, match="process 3 of the trial's 3 has ended, exit code 3"):
        Crew(3, CPU)
    assert [member.poll() for member in started] == [-9, 3]
    assert not (tmp_path / "crew").exists()
