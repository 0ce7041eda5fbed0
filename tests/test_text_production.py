"""From a recommendation to a text-to-image model that diffusers loads, and to samples by prompt."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from pareto_amb.diffusion.checkpoint import load_denoiser
from pareto_amb.diffusion.parallel import World
from pareto_amb.errors import UserError
from pareto_amb.production import sample_images, train_model
from pareto_amb.sweep_file import parse_training

diffusers = pytest.importorskip("diffusers")

QUIET = Console(quiet=True)
PROMPTS = ("a handwritten one", "a handwritten two by kamo")


@pytest.fixture
def captioned_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for k in range(6):
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(PROMPTS[k % 2])
    return folder


def training(network: dict[str, Any], data: dict[str, Any], **more: Any) -> Any:
    values = {
        "data": {"captions": True, **data},
        "method": "algorithm1",
        "parameters": {"sigma_tn": 0.3, "mix_ratio": 0.5},
        "training": {
            "network": network,
            "noise": {"kind": "schedule"},
            "images": 16,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "ema_halflife_images": 4,
            **more,
        },
        "sampling": {"sigma_min": 0.03, "sigma_max": 14.6},
    }
    return parse_training(values, "test")


@pytest.mark.parametrize("adapt", [{"kind": "full"}, {"kind": "lora", "rank": 2}])
def test_a_trained_pipeline_is_exported_as_diffusers_loads_it(
    adapt: dict[str, Any], write_pipeline: Callable[..., Path], captioned_folder: Path, tmp_path: Path
) -> None:
    base = write_pipeline("v_prediction")
    data = {"source": "images", "path": str(captioned_folder), "resolution": 16}
    run = training({"name": "pipeline", "options": {"path": str(base)}}, data, adapt=adapt)
    checkpoint = train_model(run, tmp_path / "out", QUIET, World())
    ours: Any = load_denoiser(checkpoint.read_bytes(), "checkpoint")
    if adapt["kind"] == "lora":
        loaded = diffusers.StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
        before = loaded.unet.state_dict()["conv_in.weight"].clone()
        loaded.load_lora_weights(str(tmp_path / "out" / "lora"))
        assert torch.equal(loaded.unet.state_dict()["conv_in.weight"], before)
        assert not (tmp_path / "out" / "pipeline").exists()
    else:
        loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out" / "pipeline")
    x, steps = torch.randn(2, 4, 8, 8), torch.tensor([10, 700])
    tokens = ours.model.tokens(PROMPTS)
    with torch.no_grad():
        text = loaded.text_encoder(tokens)[0]
        theirs = loaded.unet(x, steps, text).sample
        mine = ours.unet(x, steps, ours.read(tokens)).sample
        base_unet = diffusers.UNet2DConditionModel.from_pretrained(base / "unet")
        untrained = base_unet(x, steps, text).sample
    assert torch.allclose(theirs, mine, atol=1e-5)
    assert not torch.allclose(theirs, untrained, atol=1e-4)
    images = loaded(PROMPTS[0], num_inference_steps=2, output_type="np", height=16, width=16).images
    assert images.shape == (1, 16, 16, 3)


def test_samples_by_prompt_bring_their_captions_and_follow_their_prompt(tmp_path: Path) -> None:
    run = training(
        {"name": "captioned", "options": {"channels": [8, 16]}},
        {"source": "digits", "resolution": 8, "channels": 1},
    )
    checkpoint = train_model(run.model_copy(update={"train_size": 20}), tmp_path / "out", QUIET, World())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"checkpoint.safetensors", "training.yaml"}

    def sample(name: str, prompts: tuple[str, ...], guidance: float = 1.0) -> list[bytes]:
        folder = tmp_path / name
        changes = {"solver": "dpmpp_2m", "steps": 3, "guidance": guidance}
        sample_images(checkpoint, folder, 4, 0, QUIET, changes=changes, prompts=prompts)
        return [path.read_bytes() for path in sorted(folder.glob("*.png"))]

    told, guided, one = sample("a", PROMPTS), sample("b", PROMPTS, 4.0), sample("c", PROMPTS[:1])
    assert len(told) == 4
    assert told[0] == one[0]
    assert told[1] != one[1]
    assert guided != told
    lines = [json.loads(line) for line in (tmp_path / "a" / "metadata.jsonl").read_text().splitlines()]
    assert lines[1] == {"file_name": "000001.png", "text": PROMPTS[1]}
    assert not list(tmp_path.glob("d*"))
    sample("d", ())
    assert not (tmp_path / "d" / "metadata.jsonl").exists()


def test_prompts_for_a_model_without_captions_are_refused(tmp_path: Path) -> None:
    values = {
        "data": {"source": "digits", "resolution": 8, "channels": 1},
        "train_size": 20,
        "method": "ddpm",
        "parameters": {},
        "training": {"network": {"options": {"model_channels": 4}}, "images": 16, "batch_size": 8},
    }
    checkpoint = train_model(parse_training(values, "test"), tmp_path / "out", QUIET, World())
    with pytest.raises(UserError, match="reads no captions; leave out --prompt"):
        sample_images(checkpoint, tmp_path / "s", 1, 0, QUIET, prompts=("a cat",))


def test_a_checkpoint_of_another_pipeline_than_is_there_is_refused(
    write_pipeline: Callable[..., Path], captioned_folder: Path, tmp_path: Path
) -> None:
    base = write_pipeline("epsilon")
    data = {"source": "images", "path": str(captioned_folder), "resolution": 16}
    network = {"name": "pipeline", "options": {"path": str(base)}}
    run = training(network, data, adapt={"kind": "lora", "rank": 2})
    content = train_model(run, tmp_path / "out", QUIET, World()).read_bytes()
    config = base / "unet" / "config.json"
    config.write_text(config.read_text().replace('"act_fn": "silu"', '"act_fn": "gelu"'))
    with pytest.raises(UserError, match="was trained from another pipeline"):
        load_denoiser(content, "checkpoint")
