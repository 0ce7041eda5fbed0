import io
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from pareto_amb.cli import app
from pareto_amb.config import TrainingRun
from pareto_amb.config_file import parse
from pareto_amb.diffusion.checkpoint import unpack
from pareto_amb.diffusion.heart import Heart
from pareto_amb.diffusion.parallel import World
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.errors import UserError
from pareto_amb.production import CHECKPOINT, _train_with_progress, sample_images, train_model
from pareto_amb.sweep_file import parse_training
from pareto_amb.terminal import make_console


class _Counter:
    """Stands in for a Trainer: counts images in whole batches."""

    def __init__(self, batch_size: int) -> None:
        self.config = SimpleNamespace(batch_size=batch_size)
        self.images_seen = 0

    def train(
        self,
        until: int,
        save: Callable[[], None],
        *,
        checkpoint_at_end: bool,
        wanted: Callable[[], bool],
        heart: Heart,
    ) -> float:
        self.images_seen += -(-(until - self.images_seen) // self.config.batch_size) * self.config.batch_size
        if checkpoint_at_end:
            save()
        return 0.0


@settings(deadline=None)
@given(st.integers(1, 200_000), st.integers(1, 600))
def test_a_finished_training_is_always_saved_once_at_its_end(images: int, batch_size: int) -> None:
    trainer, saved = _Counter(batch_size), []
    console = Console(quiet=True)
    _train_with_progress(
        cast(Any, trainer), images, lambda: saved.append(trainer.images_seen), lambda: False, console
    )
    assert saved == [trainer.images_seen]
    assert images <= trainer.images_seen < images + batch_size


def a_training(**training: Any) -> TrainingRun:
    network = {"name": "tiny", "options": {"model_channels": 4}}
    block = {
        "data": {"source": "digits", "resolution": 8, "channels": 1},
        "train_size": 20,
        "parameters": {"sigma_tn": 0.2, "mix_ratio": 0.5},
        "training": {"network": network, "images": 64, "batch_size": 16, **training},
    }
    return parse_training(block, "test")


def test_a_training_that_fails_leaves_nothing(tmp_path: Path) -> None:
    world, output = World(), tmp_path / "new" / "training"
    with pytest.raises(UserError, match=r"lower training\.learning_rate"):
        train_model(a_training(learning_rate=1e30), output, make_console(quiet=True), world)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file; name a folder"):
        train_model(a_training(), tmp_path / "file" / "x", make_console(quiet=True), world)


def test_off_a_terminal_a_line_a_minute_says_how_a_training_is_going(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    step = Trainer._step

    def slow(trainer: Trainer) -> None:
        step(trainer)
        now[0] += 25.0

    monkeypatch.setattr(Trainer, "_step", slow)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    output = io.StringIO()
    train_model(a_training(images=128), tmp_path, Console(file=output, width=200), World())
    lines = [re.sub(r"loss [\d.]+", "loss", line) for line in output.getvalue().splitlines()]
    assert lines == [
        "48 of 128 images, loss, step 3 of 8, 0.64 images/s, 2m05s left",
        "96 of 128 images, loss, step 6 of 8, 0.64 images/s, 50s left",
        "128 of 128 images, loss, step 8 of 8, 0.64 images/s, 0s left",
    ]


def test_a_finished_training_has_its_settings_beside_its_checkpoint(tmp_path: Path) -> None:
    world = World()
    path = train_model(a_training(), tmp_path, make_console(quiet=True), world)
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, "training.yaml"}
    path.unlink()
    os.mkfifo(path)
    for use in (
        lambda: train_model(a_training(), tmp_path, make_console(quiet=True), world),
        lambda: sample_images(path, tmp_path / "x", 1, 0, make_console(quiet=True)),
    ):
        with pytest.raises(UserError, match="not a regular file"):
            use()


def test_a_training_that_is_stopped_loses_nothing_and_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = {
        "data": {"source": "digits", "resolution": 8, "channels": 1},
        "train_size": 40,
        "sigma_tn": 0.4,
        "mix_ratio": 0.5,
        "training": {
            "images": 128,
            "batch_size": 16,
            "network": {"name": "tiny", "options": {"model_channels": 8}},
        },
    }
    run, console = parse(TrainingRun, block, "test"), Console(quiet=True)
    whole = train_model(run, tmp_path / "whole", console, World())
    step = Trainer._step

    def interrupted(trainer: Trainer) -> None:
        step(trainer)
        if trainer.images_seen == 48:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_model(run, tmp_path / "parts", console, World())
    monkeypatch.setattr(Trainer, "_step", step)
    parts = tmp_path / "parts" / CHECKPOINT
    assert unpack(parts.read_bytes(), "")[0]["images_seen"] == 48
    train_model(run, tmp_path / "parts", console, World())
    first, second = (unpack(path.read_bytes(), "")[1] for path in (whole, parts))
    assert all(first[name].equal(second[name]) for name in first | second)


def test_train_stops_where_it_is_recommended_and_says_why(tmp_path: Path) -> None:
    block = a_training(images=48).model_dump(mode="json") | {"method": "ddpm", "parameters": {}}
    found = {"train_size": 20, "images_seen": 48, "verdict_words": "Stopping DDPM early does it"}
    path = tmp_path / "recommendation.yaml"
    path.write_text(yaml.safe_dump({"recommendations": [{**found, "training": block}]}))
    printed = CliRunner().invoke(app, ["train", str(path)], catch_exceptions=False).output
    why = "stops after 48 images, the recommended stopping point: Stopping DDPM early does it"
    assert why in " ".join(printed.split())
    checkpoint = (tmp_path / "training" / CHECKPOINT).read_bytes()
    assert unpack(checkpoint, "")[0]["images_seen"] == 48
    set_otherwise = ["train", str(path), "--set", "training.images=64", "--output", str(tmp_path / "longer")]
    assert "stops after 64 images, as set" in CliRunner().invoke(app, set_otherwise).output
