"""A trial without Ray around it: where it takes up again after a kill or a pause."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import search_spaces
from pareto_amb.config import SweepConfig, apply_overrides, parse
from pareto_amb.materials import load_materials
from pareto_amb.sweep import _references
from trainables import METHODS, SweepAssets, TrialTrainable

TINY = [
    "training.images=512",
    "evaluation.n_samples=20",
    "evaluation.fid_encoder=pixels",
    "evaluation.similarity_encoder=pixels",
]


@pytest.fixture(scope="module")
def prepared() -> dict[str, Any]:
    config = parse(SweepConfig, apply_overrides(search_spaces.load("smoke"), TINY), "smoke")
    materials = load_materials(config, Console(quiet=True))
    return {
        "config": config,
        "training_sets": materials.training_sets(conditional=False),
        "references": _references(config, materials),
        "fid_encoder": materials.fid_encoder,
        "similarity_encoder": materials.similarity_encoder,
    }


@pytest.fixture
def begin(prepared: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrialTrainable]:
    """Starts the trial whose checkpoint lies in a folder, after so many rungs have a row in the table."""
    monkeypatch.setattr("trainables.base.ray.get_gpu_ids", list)

    def start(folder: Path, measured: int, **more: Any) -> TrialTrainable:
        trial = {"trial_id": "t", "method": "algorithm1", "train_size": 50, "sigma_tn": 0.5, "seed": 1} | more
        trainable = TrialTrainable.__new__(TrialTrainable)
        assets = SweepAssets(storage_uri=str(folder), **prepared)
        trainable.setup({**trial, "mix_ratio": 0.5, "corruption": 0.0, "rung": measured}, assets, METHODS)
        return trainable

    return start


def next_row(trainable: TrialTrainable) -> dict[str, Any]:
    return {key: value for key, value in trainable.step()["row"].items() if not key.endswith("_seconds")}


def test_a_rung_with_a_row_is_not_measured_again_and_nothing_else_differs(
    begin: Callable[..., TrialTrainable], tmp_path: Path
) -> None:
    whole = begin(tmp_path / "whole", 0)
    rows = [next_row(whole) for _ in range(2)]
    assert [(row["rung"], row["status"]) for row in rows] == [(1, "running"), (2, "complete")]
    parts = [next_row(begin(tmp_path / "parts", measured)) for measured in (0, 1)]
    assert parts == rows
    files = [tmp_path / folder / "checkpoints" / "t.safetensors" for folder in ("whole", "parts")]
    first, second = (load_file(file) for file in files)
    assert all(torch.equal(first[name], second[name]) for name in first | second)


def test_a_rung_that_was_trained_but_has_no_row_is_measured(
    begin: Callable[..., TrialTrainable], tmp_path: Path
) -> None:
    assert next_row(begin(tmp_path, 0)) == next_row(begin(tmp_path, 0))


def test_a_repeat_is_trained_like_its_trial_and_measured_at_the_end_only(
    begin: Callable[..., TrialTrainable], tmp_path: Path
) -> None:
    whole = begin(tmp_path / "whole", 0)
    _, last = (next_row(whole) for _ in range(2))
    repeat = next_row(begin(tmp_path / "again", 0, trial_id="t-c1", confirms="t"))
    assert (repeat["rung"], repeat["status"], repeat["confirms"]) == (2, "complete", "t")
    assert repeat["fid"] == last["fid"]  # the seed is the same here
