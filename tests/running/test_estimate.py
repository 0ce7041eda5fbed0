"""Hours from a short measurement: it keeps to its time, and what follows is arithmetic."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pareto_amb import search_spaces
from pareto_amb.config_file import apply_overrides
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.running import estimate
from pareto_amb.running.estimate import Speed, describe_speed, measure_speed
from pareto_amb.search.cost import expected_trainings
from pareto_amb.sweep_file import declare, parse_sweep


class Machine:
    """One on which a batch takes `overhead` seconds, and `each` second an image, on a clock of its own."""

    def __init__(self, overhead: float, each: float) -> None:
        self.now, self._overhead, self._each = 0.0, overhead, each
        self.batches: list[int] = []

    def work(self, count: int) -> None:
        self.batches.append(count)
        self.now += self._overhead + self._each * count


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], Machine]:
    def made(overhead: float, each: float) -> Machine:
        found = Machine(overhead, each)
        monkeypatch.setattr(estimate.time, "monotonic", lambda: found.now)
        return found

    return made


def test_a_fast_machine_is_measured_with_the_whole_batch(machine: Callable[..., Machine]) -> None:
    fast = machine(0.01, 0.001)
    seconds, batch = estimate._seconds_an_image(fast.work, 64, 10)
    assert batch == 64
    assert seconds == pytest.approx((0.01 + 0.064) / 64)
    assert fast.now < 10


def test_a_slow_machine_is_measured_with_what_its_time_allows(machine: Callable[..., Machine]) -> None:
    slow = machine(0.5, 0.5)
    seconds, batch = estimate._seconds_an_image(slow.work, 256, 30)
    assert 1 < batch < 32
    assert seconds == pytest.approx((0.5 + 0.5 * batch) / batch)
    assert slow.now <= 30
    hopeless = machine(0, 100)
    assert estimate._seconds_an_image(hopeless.work, 256, 30) == (100, 1)
    assert hopeless.batches == [1, 1]


def test_the_hours_are_those_of_training_sampling_and_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = ["search.early_stopping=false", "search.confirm.candidates=0", "resources.cpus_per_trial=2"]
    config = parse_sweep(apply_overrides(search_spaces.load("smoke"), changes), "smoke")
    monkeypatch.setattr(estimate.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert expected_trainings(config, declare()) == 6
    speed = Speed("a machine", 1.0, 64, 10.0, 20.0, 3_000_000_000, 28.0)
    lines = describe_speed(config, declare(), speed)
    hours = 6 * 12_800 / 3600, 6 * 2 * 100 * 10 / 3600, 6 * 2 * 100 * 20 / 3600
    assert lines[0] == (
        "measured in 28 s on this machine, a machine: one trial trains on 1 images a second (in batches of "
        "64), samples 0.1 and encodes 0.05"
    )
    found = [float(number) for number in re.findall(r"[\d.]+", lines[1])]
    assert found == pytest.approx([2 * sum(hours), *(2 * part for part in hours)], rel=0.06)
    wall, at_once = re.findall(r"[\d.]+", lines[2])[:2]
    assert (float(wall), at_once) == (pytest.approx(sum(hours) / 2, rel=0.06), "2")
    assert "3.0 GB a trial" in lines[3]
    assert "no GPU here" in lines[4]


def test_several_gpus_a_trial_share_its_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = ["search.early_stopping=false", "search.confirm.candidates=0", "resources.gpus_per_trial=4"]
    config = parse_sweep(apply_overrides(search_spaces.load("smoke"), changes), "smoke")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    lines = describe_speed(config, declare(), Speed("a machine", 1.0, 64, 10.0, 20.0, 10**9, 28.0))
    training, sampling, encoding = 6 * 12_800 / 3600, 6 * 2 * 100 * 10 / 3600, 6 * 2 * 100 * 20 / 3600
    assert "training shared by 4 as if that cost nothing" in lines[1]
    found = [float(number) for number in re.findall(r"[\d.]+", lines[1])[:4]]
    each = [training, 4 * sampling, 4 * encoding]
    assert found == pytest.approx([sum(each), *each], rel=0.06)
    wall, at_once = re.findall(r"[\d.]+", lines[2])[:2]
    assert (float(wall), at_once) == (pytest.approx(sum(each) / 8, rel=0.06), "2")


def test_a_pretrained_pipeline_is_measured_as_any_network(
    write_pipeline: Callable[..., Path], clip_folder: Path
) -> None:
    path = write_pipeline()
    changes = [
        f"training.network.options.path={path}", "data.resolution=16", "training.batch_size=1",
        "sampling.batch_size=1", "evaluation.fid_encoder=pixels", "evaluation.similarity_encoder=pixels",
        "evaluation.batch_size=1",
    ]  # fmt: skip
    config = parse_sweep(apply_overrides(search_spaces.load("laion10k"), changes), "laion10k")
    speed = measure_speed(config, METHODS, 0.1)
    assert speed.batch == 1
    assert all(0 < seconds < math.inf for seconds in speed.seconds)
    assert speed.memory > 10**7
