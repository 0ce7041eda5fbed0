"""Pretrained models of others: a folder, or a name of the hub; safetensors and JSON, never a pickle."""

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pareto_amb.errors import UserError
from pareto_amb.printable import printable, reason
from pareto_amb.reading import expand, is_folder, look_at, read_file
from pareto_amb.untrusted import parse_json

EXTRA = "install it by `pip install 'pareto-amb[text]'`"

_MAX_JSON = 2**24
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")

Loaded = TypeVar("Loaded")


def library(name: str, what: str = "text-to-image") -> Any:
    """One of the libraries of the extra `text`; UserError, which says what needs it, where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{what} needs {name}, which is not there; {EXTRA}") from error


def find_folder(path: str, option: str, wanted: Sequence[str], fetch: bool = True) -> Path:
    """The folder of a model; where it is none on this machine, its `wanted` files are fetched from the hub.

    `option` is what messages say it was named by. Without `fetch`, what was fetched earlier alone is looked
    at. Raises UserError where it is not there.
    """
    local = expand(path)
    if look_at(local) is not None:
        if not is_folder(local):
            raise UserError(f"{printable(path)}: is no folder; name one that save_pretrained wrote")
        return local
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", path):
        raise UserError(
            f"{option} {printable(path)!r}: nothing there, and no name of the hub; give a folder, or "
            "OWNER/NAME"
        )
    hub = library("huggingface_hub")
    try:
        return Path(hub.snapshot_download(path, allow_patterns=list(wanted), local_files_only=not fetch))
    except Exception as error:  # whatever a network and a library make of it
        raise UserError(
            f"{path}: cannot be had from the hub ({reason(error)}); fetch it yourself, by `hf download "
            f"{path}` or elsewhere, and set {option} to its folder"
        ) from error


def find_weights(folder: Path, restore: str, convert: str) -> list[str]:
    """The names of the safetensors files in a folder. UserError, with a remedy, where there are none.

    `restore` says what to do where nothing is there, `convert` how pickles become safetensors.
    """
    if not is_folder(folder):
        raise UserError(f"{folder}: is not there; {restore}")
    files = sorted(file.name for file in folder.iterdir())
    if weights := [file for file in files if file.endswith(".safetensors")]:
        return weights
    pickled = next((file for file in files if file.endswith(_PICKLES)), None)
    if pickled is None:
        raise UserError(f"{folder}: holds no .safetensors; {restore}")
    raise UserError(
        f"{folder / pickled}: is a pickle, which may run anything when it is read; convert {convert}"
    )


def check_tokenizer(folder: Path, restore: str) -> None:
    """Raise UserError, which says to `restore` it, where a folder holds no tokenizer.

    transformers would make one of no words.
    """
    whole = [("tokenizer.json",), ("vocab.json", "merges.txt")]
    if not any(all(look_at(folder / name) is not None for name in names) for names in whole):
        raise UserError(
            f"{folder}: holds no tokenizer, tokenizer.json or vocab.json with merges.txt; {restore}"
        )


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """A mapping in a file of JSON; UserError, with a `remedy`, where it is none."""
    if look_at(path) is None:
        raise UserError(f"{path}: is not there; {remedy}")
    try:
        found = parse_json(read_file(path, _MAX_JSON))
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({reason(error)}); {remedy}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: is no mapping; {remedy}")
    return found


def guarded(place: Path, load: Callable[[], Loaded], restore: str) -> Loaded:
    """What `load` gives; UserError, which names the place and says to `restore` it, where it fails."""
    try:
        return load()
    except Exception as error:  # libraries raise what they like at broken files
        raise UserError(
            f"{place}: cannot be read ({type(error).__name__}: {reason(error)}); {restore}"
        ) from error


def load_weights(made: Any, folder: Path, restore: str, **options: Any) -> Any:
    """A network of the class `made` of transformers or diffusers, of the safetensors in a folder, in float32.

    UserError, which says to `restore` it, where they cannot be read, or some are missing: the libraries would
    draw these at random.
    """

    def load() -> Any:
        given = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True, **options}
        return made.from_pretrained(str(folder), **given)

    with _quiet(library("transformers")):
        model, about = guarded(folder, load, restore)
    if missing := about["missing_keys"]:
        raise UserError(f"{folder}: its weights lack {min(missing)!r:.200}; {restore}")
    return model.float()


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No progress bars and warnings of transformers within the block."""
    logging = transformers.utils.logging
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
