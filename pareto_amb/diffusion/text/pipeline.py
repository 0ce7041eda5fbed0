"""A pretrained pipeline of diffusers, read from a folder or the hub: safetensors and JSON, never a pickle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pareto_amb.config import ScheduleConfig
from pareto_amb.diffusion.text.parts import Part, TextModel
from pareto_amb.errors import UserError
from pareto_amb.pretrained import (
    check_tokenizer,
    find_folder,
    find_weights,
    guarded,
    library,
    load_weights,
    read_json,
)
from pareto_amb.printable import printable

COMPONENTS = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
"""What a pipeline must have, and of which classes."""

PREDICTIONS = ("epsilon", "v_prediction")

OPTION = "training.network.options.path"

_RESTORE = "restore the pipeline's folder"
_WANTED = ("*.json", "*.txt", "*/*.json", "*/*.txt", *(f"{part}/*.safetensors" for part in COMPONENTS))


def load_pipeline(path: str, fetch: bool = True, option: str = OPTION) -> TextModel:
    """The parts of the Stable Diffusion pipeline in a folder or, where `fetch`, of that name on the hub.

    `option` is what messages say it was named by.
    Raises UserError, naming the culprit, where it is not there, lacks a component, has another architecture
    or its weights are pickles.
    """
    folder = find_folder(path, option, _WANTED, fetch)
    index = read_json(folder / "model_index.json", "name a folder that save_pretrained wrote")
    for name, classes in COMPONENTS.items():
        given = index.get(name)
        found = given[-1] if isinstance(given, list) and given else None
        if found not in classes:
            what = "has no" if found is None else f"has {found!r:.80} as"
            raise UserError(
                f"{printable(path)}: {what} {name}, expected {classes[0]}; name a Stable Diffusion "
                "1.x or 2.x pipeline"
            )
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json", "restore it")
    unet = _load(folder, "unet", library("diffusers").UNet2DConditionModel)
    vae = _load(folder, "vae", library("diffusers").AutoencoderKL)
    text_encoder = _load(folder, "text_encoder", library("transformers").CLIPTextModel)
    check_tokenizer(folder / "tokenizer", _RESTORE)
    tokenizer = guarded(
        folder / "tokenizer",
        lambda: library("transformers").CLIPTokenizer.from_pretrained(
            str(folder / "tokenizer"), local_files_only=True
        ),
        _RESTORE,
    )
    model = TextModel(
        Part("UNet2DConditionModel", _plain(unet.config), unet.state_dict()),
        Part("CLIPTextModel", text_encoder.config.to_diff_dict(), text_encoder.state_dict()),
        Part("AutoencoderKL", _plain(vae.config), vae.state_dict()),
        tokenizer,
        _prediction(path, scheduler),
        _schedule(path, scheduler),
        origin=path,
    )
    return model.fingerprinted()


def _load(folder: Path, name: str, made: Any) -> Any:
    """A component of a pipeline, in float32, of its safetensors."""
    place = folder / name
    files = find_weights(
        place,
        _RESTORE,
        "the pipeline where you trust it: DiffusionPipeline.from_pretrained(A).save_pretrained(B, "
        "safe_serialization=True)",
    )
    variant = {"variant": "fp16"} if all(".fp16." in file for file in files) else {}
    return load_weights(made, place, _RESTORE, **variant)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of diffusers without what it says of itself."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _prediction(path: str, scheduler: Mapping[str, Any]) -> str:
    found = scheduler.get("prediction_type", "epsilon")
    if found not in PREDICTIONS:
        raise UserError(
            f"{printable(path)}: its U-Net predicts {found!r:.80} (scheduler/scheduler_config.json); one "
            f"that predicts {' or '.join(PREDICTIONS)} is needed"
        )
    return str(found)


def _schedule(path: str, scheduler: Mapping[str, Any]) -> ScheduleConfig:
    """The schedule that a pipeline was trained with."""
    if scheduler.get("trained_betas") is not None or scheduler.get("rescale_betas_zero_snr"):
        raise UserError(
            f"{printable(path)}: its schedule has no closed form or ends without signal; neither is supported"
        )
    given = {
        "betas": scheduler.get("beta_schedule", "linear"),
        "beta_start": scheduler.get("beta_start", 0.0001),
        "beta_end": scheduler.get("beta_end", 0.02),
        "steps": scheduler.get("num_train_timesteps", 1000),
    }
    try:
        return ScheduleConfig.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{printable(path)}: scheduler/scheduler_config.json, {first['loc'][0]}: {first['msg']}"
        ) from error
