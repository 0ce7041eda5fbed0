from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from pareto_amb.config import AutoRange, DataConfig, Range, SearchConfig, SweepConfig, TrainingConfig
from pareto_amb.config_file import to_yaml
from pareto_amb.data import TrainingSet
from pareto_amb.declared import Declared, MethodInfo, Parameter
from pareto_amb.diffusion.methods import Algorithm1
from pareto_amb.diffusion.theory import TrainingPosterior, auto_range
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.errors import UserError
from pareto_amb.running.materials import describe_auto, load_materials, load_training_images, resolve_auto
from pareto_amb.sweep_file import declare, parse_sweep

DECLARED = declare()


def sweep(**training: object) -> SweepConfig:
    return parse_sweep(
        {
            "name": "check",
            "data": {"source": "digits", "resolution": 8, "channels": 1},
            "space": {"train_size": [20], "sigma_tn": {"low": 0.1, "high": 1.0}},
            "training": {"images": 64, "batch_size": 16, **training},
            "evaluation": {"fid_encoder": "pixels", "similarity_encoder": "pixels", "rungs": [1.0]},
        },
        "check",
    )


def test_first_weights_that_do_not_fit_are_refused_before_a_sweep_starts(tmp_path: Path) -> None:
    images = torch.tensor(load_digits().images[:2, None] * 15.9).to(torch.uint8)
    path = tmp_path / "earlier.safetensors"
    config = TrainingConfig(images=1, batch_size=1)
    training_set = TrainingSet(images, [0, 1], None, 0)
    path.write_bytes(Trainer(training_set, config, Algorithm1(), seed=0).checkpoint())
    console = Console(quiet=True)
    load_materials(sweep(init_from=str(path)), console)
    with pytest.raises(UserError, match="augment_dim is 0 there and 9"):
        load_materials(sweep(init_from=str(path), augment_probability=0.1), console)
    with pytest.raises(UserError, match="cannot be read"):
        load_materials(sweep(init_from=str(tmp_path / "absent")), console)
    masked = sweep(init_from=str(path))
    masked = masked.model_copy(update={"search": SearchConfig(methods=("algorithm1", "masking"))})
    with pytest.raises(
        UserError, match=r"mask_channels is 0 there and 1 .* take masking out of search\.methods"
    ):
        load_materials(masked, console)


def test_a_method_whose_network_is_not_ddpms_is_not_branched_from_it() -> None:
    search = SearchConfig(methods=("algorithm1", "masking"), branch_from="auto")
    with pytest.raises(
        UserError, match=r"search\.branch_from: masking .*; set it to null, or take masking out"
    ):
        load_materials(sweep().model_copy(update={"search": search}), Console(quiet=True))
    load_materials(
        sweep().model_copy(update={"search": SearchConfig(branch_from="auto")}), Console(quiet=True)
    )


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
    resolved = resolve_auto(config, DECLARED, materials.training_sets)
    for size, part in materials.splits.items():
        level = TrainingPosterior(materials.image_set.images[part.train], config.seed).collapse_level()
        found = resolved.space.searched("sigma_tn", size)
        assert found == auto_range(level, config.sampling.sigma_max)
    few, many = (resolved.space.searched("sigma_tn", size) for size in (30, 200))
    assert isinstance(few, AutoRange)
    assert isinstance(many, AutoRange)
    assert few.high > many.high
    assert describe_auto(resolved, DECLARED) == [
        f"sigma_tn: auto: with {size} images collapse level {found.collapse_level:g} -> "
        f"searched {found.low:g} to {found.high:g}"
        for size, found in ((30, few), (200, many))
    ]
    assert parse_sweep(yaml.safe_load(to_yaml(resolved)), "written") == resolved


def test_a_range_stays_and_no_posterior_is_computed_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand, by_auto = sweep(), sweep()
    ranges = {20: AutoRange(low=0.01, high=0.5, collapse_level=0.6)}
    space = by_auto.space.model_copy(update={"sigma_tn": ranges})
    by_auto = by_auto.model_copy(update={"space": space})
    training_sets = load_training_images(by_hand, Console(quiet=True)).training_sets
    monkeypatch.delattr("pareto_amb.diffusion.theory.TrainingPosterior")
    for config in (by_hand, by_auto):
        assert resolve_auto(config, DECLARED, training_sets) == config


def test_training_images_are_balanced_by_class_only_where_the_model_is_told_classes() -> None:
    config, console = sweep(), Console(quiet=True)
    told = config.model_copy(update={"data": config.data.model_copy(update={"conditional": True})})
    counts = []
    for each in (config, told):
        images = load_training_images(each, console)
        assert images.image_set.labels is not None
        counts.append(images.image_set.labels[images.splits[20].train].bincount(minlength=10))
    assert (counts[1] == 2).all()
    assert (counts[0] != 2).any()


def test_each_parameter_says_what_auto_means_for_it() -> None:
    """Where a range rests on no collapse level, none is told."""

    def find(images: torch.Tensor, seed: int, sigma_max: float) -> Range:
        return Range(low=1 / len(images), high=sigma_max)

    sharpness = Parameter("sharpness", "sharpness", "", default="auto", auto_meaning="any", auto=find)
    method = MethodInfo("own", "Own", "", parameters=(sharpness,))
    declared = Declared({**DECLARED.methods, "own": method}, DECLARED.objectives)
    values = sweep().model_dump(mode="json")
    values["space"] = {"train_size": [20, 40], "sigma_tn": {"low": 0.1, "high": 1.0}}
    config = parse_sweep(values, "check", declared)
    resolved = resolve_auto(config, declared, load_training_images(config, Console(quiet=True)).training_sets)
    assert resolved.space["sharpness"] == {n: AutoRange(low=1 / n, high=80.0) for n in (20, 40)}
    assert resolved.space["sigma_tn"] == config.space["sigma_tn"]
    assert describe_auto(resolved, declared)[1] == "sharpness: auto: with 40 images searched 0.025 to 80"


def test_auto_needs_images_that_differ(tmp_path: Path) -> None:
    for k in range(6):
        Image.new("L", (8, 8), 90).save(tmp_path / f"{k}.png")
    config = sweep().model_copy(update={"data": DataConfig(path=str(tmp_path), resolution=8, channels=1)})
    space = config.space.model_copy(update={"sigma_tn": "auto", "train_size": (4,)})
    config = config.model_copy(update={"space": space})
    images = load_training_images(config, Console(quiet=True))
    with pytest.raises(UserError, match=r"space\.sigma_tn: auto needs two different training images"):
        resolve_auto(config, DECLARED, images.training_sets)
