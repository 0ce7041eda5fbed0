"""A pretrained pipeline of diffusers, read from a folder or the hub: safetensors and JSON, never a pickle."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pareto_amb.config import ScheduleConfig
from pareto_amb.diffusion.text.parts import Part, TextModel, library
from pareto_amb.errors import UserError
from pareto_amb.printable import printable, reason
from pareto_amb.reading import expand, is_folder, look_at, read_file
from pareto_amb.untrusted import parse_json

COMPONENTS = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
"""What a pipeline must have, and of which classes."""

PREDICTIONS = ("epsilon", "v_prediction")

_MAX_JSON = 2**24
_WANTED = ("*.json", "*.txt", "*/*.json", "*/*.txt", *(f"{part}/*.safetensors" for part in COMPONENTS))


def load_pipeline(path: str, fetch: bool = True) -> TextModel:
    """The parts of the Stable Diffusion pipeline in a folder or, where `fetch`, of that name on the hub.

    Raises UserError, naming the culprit, where it is not there, lacks a component, has another architecture
    or its weights are pickles.
    """
    folder = _folder(path, fetch)
    index = _read_json(folder / "model_index.json", "name a folder that save_pretrained wrote")
    for name, classes in COMPONENTS.items():
        given = index.get(name)
        found = given[-1] if isinstance(given, list) and given else None
        if found not in classes:
            what = "has no" if found is None else f"has {found!r:.80} as"
            raise UserError(
                f"{printable(path)}: {what} {name}, expected {classes[0]}; name a Stable Diffusion "
                "1.x or 2.x pipeline"
            )
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json", "restore it")
    unet = _load(folder, "unet", library("diffusers").UNet2DConditionModel)
    vae = _load(folder, "vae", library("diffusers").AutoencoderKL)
    text_encoder = _load(folder, "text_encoder", library("transformers").CLIPTextModel)
    tokenizer = _guarded(
        folder / "tokenizer",
        lambda: library("transformers").CLIPTokenizer.from_pretrained(
            str(folder / "tokenizer"), local_files_only=True
        ),
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


def _folder(path: str, fetch: bool) -> Path:
    """The folder of a pipeline, fetched from the hub where `path` is none on this machine.

    Without `fetch`, what was fetched earlier alone is looked at.
    """
    local = expand(path)
    if look_at(local) is not None:
        if not is_folder(local):
            raise UserError(f"{printable(path)}: is no folder; name one that save_pretrained wrote")
        return local
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", path):
        raise UserError(
            f"training.network.options.path {printable(path)!r}: nothing there, and no name of the hub; "
            "give a folder, or OWNER/NAME"
        )
    hub = library("huggingface_hub")
    try:
        return Path(hub.snapshot_download(path, allow_patterns=list(_WANTED), local_files_only=not fetch))
    except Exception as error:  # whatever a network and a library make of it
        raise UserError(
            f"{path}: cannot be had from the hub ({reason(error)}); fetch it yourself, by `hf download "
            f"{path}` or elsewhere, and set training.network.options.path to its folder"
        ) from error


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    if look_at(path) is None:
        raise UserError(f"{path}: is not there; {remedy}")
    try:
        found = parse_json(read_file(path, _MAX_JSON))
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({reason(error)}); {remedy}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: is no mapping; {remedy}")
    return found


def _load(folder: Path, name: str, made: Any) -> Any:
    """A component of a pipeline, in float32, of its safetensors."""
    place = folder / name
    if not is_folder(folder) or look_at(place) is None:
        raise UserError(f"{place}: is not there; restore the pipeline's folder")
    files = [file.name for file in place.iterdir()]
    if not any(file.endswith(".safetensors") for file in files):
        pickled = next((file for file in files if file.endswith((".bin", ".pt", ".pth", ".ckpt"))), None)
        if pickled is None:
            raise UserError(f"{place}: holds no .safetensors; restore the pipeline's folder")
        raise UserError(
            f"{place / pickled}: is a pickle, which may run anything when it is read; convert the pipeline "
            "where you trust it: DiffusionPipeline.from_pretrained(A).save_pretrained(B, "
            "safe_serialization=True)"
        )
    half = all(".fp16." in file for file in files if file.endswith(".safetensors"))
    variant = {"variant": "fp16"} if half else {}

    def load() -> Any:
        options = {"use_safetensors": True, "local_files_only": True, **variant}
        return made.from_pretrained(str(place), **options).float()

    return _guarded(place, load)


def _guarded(place: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # libraries raise what they like at broken files
        raise UserError(
            f"{place}: cannot be read ({type(error).__name__}: {reason(error)}); restore the "
            "pipeline's folder"
        ) from error


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
