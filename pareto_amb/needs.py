"""What a sweep needs from outside, images and weights: looked for without any library of networks."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from pareto_amb import weights
from pareto_amb.config import DataConfig, SweepConfig
from pareto_amb.errors import UserError
from pareto_amb.pretrained import find_folder
from pareto_amb.printable import printable
from pareto_amb.reading import expand, is_there, look_at

DATA_VARIABLE = "PARETO_AMB_DATA"

_ENCODER_KEYS = ("similarity_encoder", "fid_encoder")


def find_data(config: DataConfig) -> Path:
    """The file or folder named by data.path: as it stands, else inside PARETO_AMB_DATA.

    UserError where no path is named, or nothing is there.
    """
    text, base = config.path, os.environ.get(DATA_VARIABLE)
    if text is None:
        raise UserError("data.path is missing; set data.path in the file, or --set data.path=FOLDER_OR_ZIP")
    path = expand(text)
    candidates = [path, Path(base) / path] if base and not path.is_absolute() else [path]
    for candidate in candidates:
        if is_there(candidate):
            return candidate
    places = [repr(str(candidate.absolute())) for candidate in candidates]
    if not base and not path.is_absolute():
        places.append(f"in {DATA_VARIABLE} (which is not set)")
    raise UserError(f"data.path {text!r}: nothing at {', nor '.join(places)}{origin_of(config)}")


def origin_of(config: DataConfig) -> str:
    """Where the images come from, as the end of a message; empty where that is not known."""
    return f"; {' '.join(config.origin.split())}" if config.origin.strip() else ""


def with_encoders(config: SweepConfig) -> SweepConfig:
    """The sweep with the best encoder that is here in the place of each `auto`."""
    evaluation = config.evaluation
    chosen = {key: weights.best(key) for key in _ENCODER_KEYS if getattr(evaluation, key) == weights.AUTO}
    return config.model_copy(update={"evaluation": evaluation.model_copy(update=chosen)})


def describe_encoders(config: SweepConfig) -> list[str]:
    """What each `auto` among the encoders becomes, one line each."""
    found = with_encoders(config).evaluation
    return [
        f"evaluation.{key}: auto: {printable(getattr(found, key))}, {_why(key, getattr(found, key))}"
        for key in _ENCODER_KEYS
        if getattr(config.evaluation, key) == weights.AUTO
    ]


def _why(key: str, name: str) -> str:
    better = weights.BEST[key][: weights.BEST[key].index(name)]
    if not better:
        return "that of the paper"
    return f"the best whose weights are here; better: {', '.join(better)} (pareto-amb weights fetch NAME)"


def encoders_of(config: SweepConfig) -> list[str]:
    """The encoders of a sweep that have weights, each once."""
    evaluation = with_encoders(config).evaluation
    return weights.names_of(getattr(evaluation, key) for key in _ENCODER_KEYS)


def models_of(config: SweepConfig) -> dict[str, str]:
    """The pretrained models of others that a sweep is made with: folder or name of the hub, by key."""
    found, network = {}, config.training.network
    if network.name == "pipeline" and isinstance(network.options.get("path"), str):
        found["training.network.options.path"] = network.options["path"]
    if config.evaluation.judge == "clip":
        found["evaluation.clip_model"] = config.evaluation.clip_model
    return found


def data_problem(config: DataConfig) -> str:
    """Why the images of a configuration are not there, empty where they are."""
    if config.source == "images" or config.path is not None:
        try:
            find_data(config)
        except UserError as error:
            return str(error)
    return ""


def missing(config: SweepConfig) -> list[str]:
    """What is not on this machine, one line each. Nothing is contacted."""
    return [*filter(None, [data_problem(config.data), _no_checkpoint(config)]), *_missing_weights(config)]


def _missing_weights(config: SweepConfig) -> Iterator[str]:
    for name in encoders_of(config):
        if weights.find(name) is None:
            entry = weights.PUBLISHED[name]
            size, remedy = f"about {entry.size / 1e6:,.0f} MB", f"pareto-amb weights fetch {name}"
            yield f"the weights of {name}, {size} from {entry.address} ({remedy})"
    for key, path in models_of(config).items():
        if model_folder(key, path) is None:
            yield f"{key}: {printable(path)}, of the hub (hf download {printable(path)}), or a folder"


def model_folder(key: str, path: str) -> Path | None:
    """The folder of a pretrained model on this machine, None where there is none."""
    try:
        return find_folder(path, key, (), fetch=False)
    except UserError:
        return None


def _no_checkpoint(config: SweepConfig) -> str:
    path = config.training.init_from
    if path is None or look_at(expand(path)) is not None:
        return ""
    return f"training.init_from: {printable(path)}: cannot be read (nothing is there); check the path"


def refuse_missing(config: SweepConfig) -> None:
    """Raise UserError for what a sweep needs that is neither here nor to be had; weights are asked for."""
    for problem in (data_problem(config.data), _no_checkpoint(config)):
        if problem:
            raise UserError(problem)
    for name in encoders_of(config):
        weights.check_reachable(name)
    for key, path in models_of(config).items():
        if look_at(expand(path)) is None and not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", path):
            find_folder(path, key, (), fetch=False)
