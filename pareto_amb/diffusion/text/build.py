"""From a configuration or a checkpoint's architecture to a text-to-image denoiser."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pareto_amb.config import (
    TEXT_NETWORKS,
    AdaptConfig,
    ScheduleConfig,
    SweepConfig,
    TrainingConfig,
    TrainingRun,
    nearest,
)
from pareto_amb.diffusion.text.denoiser import TextDenoiser, space_of
from pareto_amb.diffusion.text.parts import TextModel
from pareto_amb.diffusion.text.pipeline import load_pipeline
from pareto_amb.diffusion.text.small import SmallOptions, describe, described, small_model
from pareto_amb.errors import UserError
from pareto_amb.printable import printable

CAPTIONED, PIPELINE = TEXT_NETWORKS


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise UserError for options that a network of TEXT_NETWORKS has not."""
    if name == PIPELINE:
        path = options.get("path")
        unknown = options.keys() - {"path"}
        if unknown:
            raise UserError(f"network 'pipeline' has no option '{min(unknown)}': it has path")
        if not isinstance(path, str) or not path:
            raise UserError(
                "network 'pipeline' needs training.network.options.path: a folder, or a name of the hub"
            )
        return
    known = [field.name for field in fields(SmallOptions)]
    for key in options:
        if key not in known:
            raise UserError(f"network 'captioned' has no option '{key}': {nearest(key, known)}")
    small_options(options)


def small_options(options: Mapping[str, Any]) -> SmallOptions:
    """The options of a small network; UserError for a value that is not allowed."""
    try:
        return TypeAdapter(SmallOptions).validate_python(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"network 'captioned', option {first['loc'][0]}: {first['msg']}") from error


def make_text_model(
    config: SweepConfig | TrainingRun, captions: Sequence[str], fetch: bool = True
) -> TextModel | None:
    """The text-to-image model that a configuration names, None for another network.

    A small one learns its words from `captions`; one of the hub is fetched where `fetch`. Raises UserError
    where it cannot be had, or its schedule is not the one that is trained and sampled with.
    """
    training, data = config.training, config.data
    if training.network.name not in TEXT_NETWORKS:
        return None
    noise = training.noise
    schedule = noise if isinstance(noise, ScheduleConfig) else ScheduleConfig()
    if training.network.name == PIPELINE:
        model = load_pipeline(training.network.options["path"], fetch)
        if isinstance(noise, ScheduleConfig) and noise != model.schedule:
            raise UserError(
                f"training.noise: the steps of {model.origin} are {_words(model.schedule)}; set it to these"
            )
    else:
        options = small_options(training.network.options)
        model = small_model(captions, data.channels, data.resolution, options, schedule)
    highest = model.schedule.schedule.levels[-1]
    if config.sampling.sigma_max > highest * 1.001:
        raise UserError(
            f"sampling.sigma_max {config.sampling.sigma_max:g}: the highest level of the network's schedule "
            f"is {math.floor(highest * 100) / 100:g}; set it to that"
        )
    return model


def _words(schedule: ScheduleConfig) -> str:
    given = schedule.model_dump()
    return "{" + ", ".join(f"{name}: {value}" for name, value in given.items()) + "}"


def build_text_denoiser(
    config: TrainingConfig, image_shape: tuple[int, int, int], model: TextModel
) -> TextDenoiser:
    """The denoiser that is trained on images of `image_shape` (C, H, W)."""
    name, (channels, resolution) = config.network.name, (image_shape[0], image_shape[-1])
    described_by = (
        describe(model)
        if name == CAPTIONED
        else {
            "path": model.origin,
            "fingerprint": model.fingerprint,
            "adapt": config.adapt.model_dump(mode="json"),
        }
    )
    architecture = {"name": name, "resolution": resolution, "channels": channels, **described_by}
    return TextDenoiser(
        model, space_of(model, image_shape), architecture, config.adapt, config.gradient_checkpointing
    )


def described_text_model(architecture: Mapping[str, Any]) -> TextModel | None:
    """The text-to-image model that a checkpoint's denoiser is made of, None for another.

    Nothing is fetched: a checkpoint may be anyone's. Raises UserError, KeyError, TypeError or ValueError
    where it cannot be had.
    """
    if architecture.get("name") not in TEXT_NETWORKS:
        return None
    if architecture["name"] == CAPTIONED:
        return described(architecture)
    model = load_pipeline(architecture["path"], fetch=False)
    if model.fingerprint != architecture["fingerprint"]:
        raise UserError(f"was trained from another pipeline than is in {printable(str(model.origin))}")
    return model


def create_text_denoiser(architecture: Mapping[str, Any], model: TextModel) -> TextDenoiser:
    """The denoiser that a checkpoint describes, as before its first step.

    Raises KeyError, TypeError or ValueError where `architecture` is none.
    """
    channels, resolution = architecture["channels"], architecture["resolution"]
    adapt: AdaptConfig = TypeAdapter(AdaptConfig).validate_python(architecture.get("adapt", {"kind": "full"}))
    space = space_of(model, (channels, resolution, resolution))
    return TextDenoiser(model, space, dict(architecture), adapt)
