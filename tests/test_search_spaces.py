"""The recipes that the paper publishes, cell by cell, and that every space is whole."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import yaml

from pareto_amb import search_spaces
from pareto_amb.config import EvaluationConfig, SweepConfig
from pareto_amb.diffusion.augment import augment
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.diffusion.networks import build_denoiser
from pareto_amb.errors import UserError
from pareto_amb.explain import sweep_schema
from pareto_amb.sweep_file import declare, parse_sweep


@dataclass(frozen=True)
class Cells:
    """What the paper says of one data set; `parameters` are KAAL22's, with the augmentation input."""

    sizes: tuple[int, ...]
    network: str
    parameters: int
    resolution: int
    steps: int
    batch_size: int
    iterations: int
    thresholds: tuple[float, ...]
    conditional: bool = False


FFHQ = ("ncsnpp", 62_761_091, 64, 40, 256, 30_000, (0.85, 0.875, 0.9))
PUBLISHED = {
    "cifar10": Cells((300, 1000, 3000), "ddpmpp", 55_733_891, 32, 18, 256, 30_000, (0.9, 0.925, 0.95)),
    "ffhq": Cells((300, 1000, 3000), *FFHQ),
    "ffhq-table2": Cells((300, 1000, 3000), *FFHQ),
    "ffhq300": Cells((300,), *FFHQ),
    "tiny-imagenet": Cells(
        (1000, 3000), "adm", 295_284_867 + 1728, 64, 18, 512, 80_000, (0.9, 0.925, 0.95), conditional=True
    ),
}
RECIPES = ("text", "released")


def load(name: str, recipe: str | None = None) -> SweepConfig:
    return parse_sweep(search_spaces.load(name, recipe), name)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_follows_the_paper(name: str, recipe: str):
    config, published = load(name, recipe), PUBLISHED[name]
    training, evaluation = config.training, config.evaluation
    assert config.space.train_size == published.sizes
    assert training.network.name == published.network
    assert (config.data.resolution, config.data.channels) == (published.resolution, 3)
    assert config.data.conditional == published.conditional
    assert (config.sampling.steps, config.sampling.sigma_max, config.sampling.rho) == (published.steps, 80, 7)
    assert training.batch_size == published.batch_size
    assert (training.learning_rate, training.betas, training.eps) == (1e-4, (0.9, 0.999), 1e-8)
    assert (training.optimizer, training.weight_decay, training.gradient_repair) == ("adam", 0.01, True)
    assert (training.lr_warmup_images, training.horizontal_flip) == (10_000_000, False)
    assert (training.ema_halflife_images, training.ema_rampup_ratio) == (500_000, 0.05)
    assert evaluation.thresholds == published.thresholds
    assert (evaluation.fid_encoder, evaluation.similarity_encoder) == ("inception_v3", "dinov2_vitg14")
    assert (evaluation.preprocessing, evaluation.reference) == ("paper", "full")
    assert (evaluation.n_samples, evaluation.final_samples) == (10_000, 50_000)
    assert evaluation.rungs == EvaluationConfig().rungs


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_both_readings_and_says_which_it_is(name: str):
    text, released = load(name, "text"), load(name, "released")
    assert (text.recipe, released.recipe) == RECIPES
    assert load(name) == text
    published = PUBLISHED[name]
    assert text.training.images == published.iterations * published.batch_size
    assert text.training.augment_probability == 0.12
    assert text.training.network.options == {"dropout": 0.13}
    assert released.training.augment_probability == 0.15
    assert released.training.network.options == {"dropout": 0.05 if "ffhq" in name else 0.13}
    assert text.space["mix_ratio"] == released.space["mix_ratio"] == (0.5, "natural")
    if published.batch_size == 256:
        assert released.training.images == 30_000_000
        assert released.rung_images()[-1] == 117_188 * 256


def test_table_2_has_its_four_methods():
    assert load("ffhq-table2").search.methods == ("algorithm1", "masking", "noise_only")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_network_of_the_paper(name: str):
    config, published = load(name), PUBLISHED[name]
    shape = (config.data.channels, config.data.resolution, config.data.resolution)
    with torch.device("meta"):
        classes = 200 if config.data.conditional else 0
        denoiser = build_denoiser(config.training, shape, classes, METHODS["algorithm1"])
    assert sum(p.numel() for p in denoiser.parameters()) == published.parameters


def test_augmentation_flips_every_image_at_random():
    """What the pages and presets say of the released script's augmentation holds of ours."""
    images = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(2000, 1, 1, 1)
    moved, _ = augment(images, 1e-9, torch.Generator().manual_seed(0))
    flipped = (moved == images.flip(-1)).all(dim=(1, 2, 3))
    assert (flipped | (moved == images).all(dim=(1, 2, 3))).all()
    assert abs(flipped.float().mean() - 0.5) < 0.05


@pytest.mark.parametrize("name", search_spaces.names())
def test_every_space_is_whole_and_named_as_its_file(name: str):
    config = load(name)
    assert config.name == name
    assert config.description
    if config.data.path is not None:
        assert config.data.origin


def test_the_folder_space_calibrates_on_the_images_it_is_given():
    config = load("folder")
    assert config.data.path is None
    assert config.evaluation.thresholds is None
    assert config.evaluation.similarity_encoder == "dinov2_vitb14"
    assert config.training.horizontal_flip


OWN: dict[str, Any] = {
    "name": "own",
    "training": {"images": 10, "network": {"name": "tiny"}},
    "recipe": "slow",
    "recipes": {
        "slow": {"training.images": 100},
        "fast": {"training.network.options.dropout": 0.5, "data.channels": 1},
    },
}


def test_a_recipe_changes_its_keys_alone_and_is_noted():
    slow = search_spaces.with_recipe(OWN, None, "own.yaml")
    assert slow == {
        "name": "own", "training": {"images": 100, "network": {"name": "tiny"}}, "recipe": "slow"
    }  # fmt: skip
    fast = search_spaces.with_recipe(OWN, "fast", "own.yaml")
    assert fast == {
        "name": "own",
        "training": {"images": 10, "network": {"name": "tiny", "options": {"dropout": 0.5}}},
        "data": {"channels": 1},
        "recipe": "fast",
    }
    assert OWN["training"] == {"images": 10, "network": {"name": "tiny"}}


def test_a_file_of_ones_own_has_recipes_too(tmp_path: Path):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(OWN, sort_keys=False))
    assert search_spaces.load(str(path), "fast")["data"] == {"channels": 1}
    assert search_spaces.describe_recipe("slow", str(path)) == [
        "recipe: slow",
        "  --recipe fast: {training.network.options.dropout: 0.5, data.channels: 1}",
    ]
    path.write_text("name: own\nrecipe: noted\n")  # as a run's sweep.yaml has it
    assert search_spaces.load(str(path)) == {"name": "own", "recipe": "noted"}
    assert search_spaces.describe_recipe("noted", str(path)) == ["recipe: noted"]


@pytest.mark.parametrize(
    ("change", "recipe", "message"),
    [
        ({}, "fats", r"^own: unknown recipe 'fats': did you mean 'fast'\?$"),
        ({"recipe": "fats"}, None, r"^own: unknown recipe 'fats': did you mean 'fast'\?$"),
        ({"recipe": ["slow"]}, None, r"^own: unknown recipe "),
        ({"recipe": None}, None, r"^own: recipe is missing; set it to one of slow, fast$"),
        ({"recipes": None}, "fast", r"^own: has no recipes; leave out the recipe 'fast'$"),
        ({"recipes": {}}, "fast", r"^own: has no recipes"),
        ({"recipes": ["fast"]}, "fast", r"^own: recipes: expected names"),
        ({"recipes": {"fast": 3}}, "fast", r"^own: recipes\.fast: expected keys"),
    ],
)
def test_a_recipe_that_is_not_there_is_one_line(change: Mapping[str, Any], recipe: str, message: str):
    with pytest.raises(UserError, match=message):
        search_spaces.with_recipe({**OWN, **change}, recipe, "own")


def test_spaces_without_recipes_have_none_to_choose():
    for name in set(search_spaces.names()) - PUBLISHED.keys():
        assert load(name).recipe is None
        with pytest.raises(UserError, match=f"^{name}: has no recipes"):
            search_spaces.load(name, "text")


@pytest.mark.parametrize("name", search_spaces.names())
def test_the_schema_admits_the_files_that_ship_with_their_recipes(name: str):
    values = yaml.safe_load((Path(search_spaces.__file__).parent / f"{name}.yaml").read_text())
    schema = sweep_schema(declare())
    jsonschema.validate(values, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**values, "recipes": {"text": 3}}, schema)


PAGE = (Path(__file__).parents[1] / "docs" / "fidelity.md").read_text(encoding="utf-8")


def quoted() -> Iterator[tuple[str, str, dict[str, str]]]:
    """(preset, key, value by recipe) of each row of the page that names a key of the sweep file."""
    for section in PAGE.split("\n## ")[1:]:
        opening = section.partition("\n\n")[2].partition(":\n")[0]
        presets = [name for name in PUBLISHED if f"`{name}`" in opening and opening.startswith("In ")]
        for line in section.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if presets and len(cells) == 6 and cells[0].startswith("`"):
                values = dict(zip(RECIPES, cells[3:5], strict=True))
                yield from ((preset, cells[0].strip("`"), values) for preset in presets)


def test_the_page_quotes_the_presets_as_they_are():
    wrong = []
    for preset, key, values in quoted():
        for recipe, text in values.items():
            found: Any = load(preset, recipe).model_dump(mode="json")
            for part in key.split("."):
                found = found[part]
            if yaml.safe_load(text.replace("1e-", "1.0e-")) != found:
                wrong.append(f"{preset} {recipe} {key}: {text} on the page, {found} in the preset")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_page_has_a_row_for_all_that_a_preset_sets(name: str):
    rows = {key for preset, key, _ in quoted() if preset == name}
    raw = yaml.safe_load((Path(search_spaces.__file__).parent / f"{name}.yaml").read_text())
    overridden = {key for changes in raw["recipes"].values() for key in changes}
    blocks = ("training", "evaluation")
    written = {f"{block}.{key}" for block in blocks for key in raw[block]}
    told = {"training.network", "training.checkpoint_seconds", "evaluation.primary_threshold"}
    assert overridden | written - told | {"sampling.steps", "training.network.name"} <= rows
