"""A model's images against those of its run: the same split, encoders and threshold, files by their names."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner, Result

from pareto_amb.cli import app
from pareto_amb.config import SweepConfig
from pareto_amb.config_file import to_yaml
from pareto_amb.data import load_images, split
from pareto_amb.data.prepare import prepare
from pareto_amb.diffusion.parallel import World
from pareto_amb.production import train_model
from pareto_amb.sweep_file import parse_sweep, parse_training
from pareto_amb.terminal import make_console

NETWORK = {"name": "tiny", "options": {"model_channels": 4}}
TRAINING = {"network": NETWORK, "images": 64, "batch_size": 16}
SAMPLING = {"solver": "dpmpp_2m", "steps": 3}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 digits in a folder."""
    folder = tmp_path_factory.mktemp("photos")
    for k, digit in enumerate(load_digits().images[:80]):
        Image.fromarray(np.uint8(digit * 15.9)).save(folder / f"photo {k:02}.png")
    return folder


@pytest.fixture
def run(tmp_path: Path, photos: Path) -> Path:
    """A run that has begun, on a zip made of the folder."""
    prepare(str(photos), tmp_path / "mine.zip", 8, 1)
    config = parse_sweep(
        {
            "name": "check",
            "data": {"path": str(tmp_path / "mine.zip"), "resolution": 8, "channels": 1},
            "space": {"train_size": [30, 40], "sigma_tn": {"low": 0.1, "high": 1.0}},
            "training": TRAINING,
            "sampling": SAMPLING,
            "evaluation": {
                "fid_encoder": "pixels", "similarity_encoder": "pixels", "rungs": [1.0], "n_samples": 24,
                "calibration_quantile": 0.9,
            },
        },
        "check",
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "sweep.yaml").write_text(to_yaml(config))
    return tmp_path / "run"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in arguments])


def trained(run: Path, **changes: Any) -> Path:
    """The folder of a training of 30 images of the run."""
    config: SweepConfig = parse_sweep(yaml.safe_load((run / "sweep.yaml").read_text()), "run")
    values = config.model_dump(mode="json")
    block = {key: values[key] for key in ("data", "training", "sampling")}
    block |= {"train_size": 30, "method": "ddpm", "parameters": {}, **changes}
    train_model(parse_training(block, "test"), run / "training", make_console(quiet=True), World())
    return run / "training"


def test_a_training_is_checked_against_its_own_images_by_the_names_of_their_files(
    run: Path, photos: Path
) -> None:
    done = call("evaluate", "--run", run, "--checkpoint", trained(run), "--no-cache", "--output", run / "ev")
    assert done.exit_code == 0, done.exception
    assert "3 steps of dpmpp_2m, as recorded" in done.output
    found = json.loads((run / "ev" / "evaluation.json").read_text())
    counts = {role: images["count"] for role, images in found["images"].items()}
    assert counts == {"generated": 24, "train": 30, "heldout": 50}
    assert [e["encoder"] for e in found["encoders"]] == ["pixels"]
    assert f"the generated images were drawn from {run / 'training'}" in found["notes"]
    assert "<h1>samples of run</h1>" in (run / "ev" / "evaluation.html").read_text()


def test_a_copy_is_traced_to_the_file_it_was_made_of(run: Path, photos: Path) -> None:
    config = parse_sweep(yaml.safe_load((run / "sweep.yaml").read_text()), "run")
    image_set = load_images(config.data)
    index = split(image_set, 40, config.seed, False).train
    (run / "gen").mkdir()
    for k in range(8):
        Image.fromarray(image_set.images[index[k]].numpy()[0]).save(run / "gen" / f"{k}.png")
    arguments = ["--generated", run / "gen", "--train-size", 40, "--no-cache", "--output", run / "ev"]
    assert call("evaluate", "--run", run, *arguments).exit_code == 0
    copies = json.loads((run / "ev" / "evaluation.json").read_text())["copies"]
    wanted = {f"{k}.png": image_set.names[index[k]] for k in range(8)}
    assert {copy["generated"]: copy["train_original"] for copy in copies if copy["identical"]} == wanted
    assert all(name.startswith("photo ") for name in wanted.values())
    assert f"<bdi>{wanted['0.png']}</bdi>" in (run / "ev" / "evaluation.html").read_text()
    refused = call("evaluate", "--run", run, "--generated", run / "gen")
    assert "--train-size: 30, 40" in str(refused.exception)
    (run / "environment.json").write_text(json.dumps({"data": {"fingerprint": "another"}}))
    refused = call("evaluate", "--run", run, *arguments)
    assert "not the images of the run run; restore them" in str(refused.exception)


def test_a_part_of_the_images_keeps_the_names_of_the_first_originals(run: Path, photos: Path) -> None:
    for part in ("train", "heldout"):
        arguments = ["--part", part, "--train-size", 30, "--output", run / f"{part}.zip"]
        done = call("data", "split", run, *arguments)
        assert done.output == f"{run / part}.zip: {30 if part == 'train' else 50} images\n", done.exception
    prepare(str(run / "train.zip"), run / "again.zip", 8, 1)
    names = {}
    for name in ("train", "heldout", "again"):
        with zipfile.ZipFile(run / f"{name}.zip") as archive:
            table = json.loads(archive.read("dataset.json"))["names"]
            names[name] = [original for _, original in table]
            first = archive.read(table[0][0])
        if name != "heldout":
            pixels = np.asarray(Image.open(io.BytesIO(first)))
            assert (pixels == np.asarray(Image.open(photos / names[name][0]))).all()
    assert names["again"] == names["train"]
    assert not set(names["train"]) & set(names["heldout"])
    assert {*names["train"], *names["heldout"]} == {path.name for path in photos.iterdir()}
    assert "is already there" in str(call("data", "split", run, *arguments).exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--generated", "."], "give --generated and --train, or --run"),
        (["--generated", ".", "--train", ".", "--count", "9"], "go with --run"),
        (["--run", ".", "--generated", ".", "--train", "."], "leave out --train"),
        (["--run", ".", "--generated", ".", "--checkpoint", "."], "either --generated or --checkpoint"),
        (["--run", "."], "either --generated or --checkpoint"),
        (["--run", ".", "--generated", ".", "--count", "9"], "goes with --checkpoint"),
    ],
)
def test_what_is_judged_against_what_must_be_clear(arguments: list[str], words: str) -> None:
    assert words in str(call("evaluate", *arguments).exception)


def test_samples_are_drawn_as_the_sweep_did_unless_it_is_said_otherwise(run: Path) -> None:
    folder = trained(run)
    said = call("sample", folder, "--count", 2, "--output", run / "a").output
    assert said == f"3 steps of dpmpp_2m, as recorded\n2 images in {run / 'a'}\n"
    (run / "checkpoints").mkdir()
    trial = (folder / "checkpoint.safetensors").rename(run / "checkpoints" / "trial.safetensors")
    said = call("sample", trial, "--count", 2, "--output", run / "b").output
    assert said.startswith("3 steps of dpmpp_2m, as recorded\n")
    assert (run / "a" / "000001.png").read_bytes() == (run / "b" / "000001.png").read_bytes()
    said = call("sample", trial, "--count", 2, "--steps", 4, "--output", run / "c").output
    assert said.startswith("4 steps of dpmpp_2m, as set\n")
    alone = trial.rename(run.parent / "alone.safetensors")
    said = call("sample", alone, "--count", 2, "--output", run / "d").output
    assert said.startswith("18 steps of heun, the default, since nothing beside the checkpoint says how\n")
