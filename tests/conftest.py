"""What all tests share."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # several processes test at once, each with a processor of its own
os.environ["RAY_OVERRIDE_RESOURCES"] = '{"CPU": 1}'  # starting a worker takes longer than most trials here

import torch
from hypothesis import settings

settings.register_profile("busy machines", deadline=None)
settings.load_profile("busy machines")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole sweeps first: each waits for much, beside which the rest of the tests runs."""
    items.sort(key=lambda item: item.path.name != "test_sweep.py")


@pytest.fixture(scope="session", autouse=True)
def _sigint_interrupts() -> None:
    """As at a terminal: a shell lets its background jobs ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """Two trials run beside each other wherever Ray runs on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 2}')
        yield


@pytest.fixture(autouse=True)
def _no_dry_run_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take seconds; the test of it sets its own time."""
    monkeypatch.setattr("pareto_amb.search.cost.MEASURED_SECONDS", 0.0)


@pytest.fixture
def write_pipeline(tmp_path: Path) -> Callable[..., Path]:
    """Writes a random Stable Diffusion pipeline, that of a prediction and a scheduler; returns its folder."""

    def write(prediction: str = "epsilon", **scheduler: object) -> Path:
        return _write_pipeline(tmp_path / f"pipeline-{prediction}", prediction, scheduler)

    return write


def _write_pipeline(folder: Path, prediction: str, scheduler: dict[str, object]) -> Path:
    """Write a random pipeline of a few hundred kB: 16 x 16 images, 4 x 8 x 8 latents; always the same."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=8,
            norm_num_groups=4,
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=16,
        )
        text_encoder = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=len(_vocabulary()),
                hidden_size=16,
                intermediate_size=32,
                projection_dim=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=12,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
    noise = {
        "steps_offset": 1,
        "clip_sample": False,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        **scheduler,
    }
    pipeline = diffusers.StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=_tokenizer(folder),
        scheduler=diffusers.DDPMScheduler(prediction_type=prediction, **noise),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def _vocabulary() -> dict[str, int]:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return {token: number for number, token in enumerate(tokens)}


def _tokenizer(folder: Path) -> Any:
    files = folder.parent / f"{folder.name}-words"
    files.mkdir(parents=True, exist_ok=True)
    (files / "vocab.json").write_text(json.dumps(_vocabulary()))
    (files / "merges.txt").write_text("#version: 0.2\n")
    return pytest.importorskip("transformers").CLIPTokenizer(
        str(files / "vocab.json"), str(files / "merges.txt"), model_max_length=12
    )


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random CLIP model of a few hundred kB, to be left as it is."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {"vocab_size": len(_vocabulary()), "max_position_embeddings": 12}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.CLIPConfig(
            text_config={**shape, **words, **ends, "projection_dim": 8},
            vision_config={**shape, "image_size": 224, "patch_size": 56, "projection_dim": 8},
            projection_dim=8,
        )
        transformers.CLIPModel(config).save_pretrained(folder, safe_serialization=True)
    _tokenizer(folder).save_pretrained(folder)
    transformers.CLIPImageProcessor().save_pretrained(folder)
    return folder
