from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from pareto_amb.config import AutoRange, DataConfig, SweepConfig, TrainingConfig, parse, to_yaml
from pareto_amb.diffusion.methods import Algorithm1
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.errors import UserError
from pareto_amb.materials import load_materials, load_splits, resolve_sigma_tn
from pareto_amb.theory import TrainingPosterior, auto_range


def sweep(**training: object) -> SweepConfig:
    return SweepConfig.model_validate(
        {
            "name": "check",
            "data": {"source": "digits", "resolution": 8, "channels": 1},
            "space": {"train_size": [20], "sigma_tn": {"low": 0.1, "high": 1.0}},
            "training": {"images": 64, "batch_size": 16, **training},
            "evaluation": {"fid_encoder": "pixels", "similarity_encoder": "pixels"},
        }
    )


def test_first_weights_that_do_not_fit_are_refused_before_a_sweep_starts(tmp_path: Path) -> None:
    images = torch.tensor(load_digits().images[:2, None] * 15.9).to(torch.uint8)
    path = tmp_path / "earlier.safetensors"
    config = TrainingConfig(images=1, batch_size=1)
    path.write_bytes(Trainer(images, config, Algorithm1(), seed=0).checkpoint())
    console = Console(quiet=True)
    load_materials(sweep(init_from=str(path)), console)
    with pytest.raises(UserError, match="augment_dim is 0 there and 9"):
        load_materials(sweep(init_from=str(path), augment_probability=0.1), console)
    with pytest.raises(UserError, match="cannot be read"):
        load_materials(sweep(init_from=str(tmp_path / "absent")), console)


def test_compiling_without_a_compiler_is_refused_before_a_sweep_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="needs a C"):
        load_materials(sweep(compile=True), Console(quiet=True))


def test_auto_becomes_a_range_for_each_train_size_from_its_own_images() -> None:
    config = sweep()
    space = config.space.model_copy(update={"sigma_tn": "auto", "train_size": (30, 200)})
    config = config.model_copy(update={"space": space})
    materials = load_materials(config, Console(quiet=True))
    resolved = resolve_sigma_tn(config, materials.image_set, materials.splits)
    for size, part in materials.splits.items():
        level = TrainingPosterior(materials.image_set.images[part.train], config.seed).collapse_level()
        found = resolved.space.sigma_range(size)
        assert found == auto_range(level, config.sampling.sigma_max)
    assert resolved.space.sigma_range(30).high > resolved.space.sigma_range(200).high
    assert parse(SweepConfig, yaml.safe_load(to_yaml(resolved)), "written") == resolved


def test_a_range_stays_and_no_posterior_is_computed_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand, by_auto = sweep(), sweep()
    ranges = {20: AutoRange(low=0.01, high=0.5, collapse_level=0.6)}
    space = by_auto.space.model_copy(update={"sigma_tn": ranges})
    by_auto = by_auto.model_copy(update={"space": space})
    image_set, splits = load_splits(by_hand, Console(quiet=True))
    monkeypatch.delattr("pareto_amb.materials.TrainingPosterior")
    for config in (by_hand, by_auto):
        assert resolve_sigma_tn(config, image_set, splits) == config


def test_auto_needs_images_that_differ(tmp_path: Path) -> None:
    for k in range(6):
        Image.new("L", (8, 8), 90).save(tmp_path / f"{k}.png")
    config = sweep().model_copy(update={"data": DataConfig(path=str(tmp_path), resolution=8, channels=1)})
    space = config.space.model_copy(update={"sigma_tn": "auto", "train_size": (4,)})
    config = config.model_copy(update={"space": space})
    with pytest.raises(UserError, match=r"space\.sigma_tn: auto needs two different training images"):
        resolve_sigma_tn(config, *load_splits(config, Console(quiet=True)))
