"""`doctor`: what this machine has, and what a search space needs."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pareto_amb.commands.options import Overrides, complete_space
from pareto_amb.errors import ExitCode, UserError
from pareto_amb.printable import printable

if TYPE_CHECKING:
    from pareto_amb.config import SweepConfig


def doctor(
    space: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE.yaml",
            help="A search space; without one all encoders are listed.",
            autocompletion=complete_space,
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Show what this machine has, and which images and weights a search space needs and where they are.

    Nothing is fetched and no server is contacted. Exits with 1 when something that SPACE needs is missing.
    """
    from pareto_amb.needs import missing
    from pareto_amb.terminal import make_console

    config = None if space is None else _load(space, overrides or [])
    console = make_console()
    for line in (*_machine(), *_needed(config)):
        console.print(line, markup=False)
    if config is not None and missing(config):
        raise typer.Exit(ExitCode.FAILED)


def _load(space: str, changes: list[str]) -> "SweepConfig":
    from pareto_amb import search_spaces
    from pareto_amb.config_file import apply_overrides
    from pareto_amb.sweep_file import parse_sweep

    return parse_sweep(apply_overrides(search_spaces.load(space), changes), space)


def _machine() -> Iterator[str]:
    """Hardware, versions and room of this machine, a line each."""
    import torch

    from pareto_amb.environment import describe_environment
    from pareto_amb.running.room import describe_free

    found = describe_environment()
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("pareto-amb", "torch", "ray"))
    yield f"versions: python {found['python']}, {versions}"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield f"processor: {found['cpus']} cores, {memory / 1e9:.1f} GB of memory ({platform.machine()})"
    for number, name in enumerate(found["gpus"]):
        size = torch.cuda.get_device_properties(number).total_memory
        yield f"GPU {number}: {name}, {size / 1e9:.1f} GB"
    if not found["gpus"]:
        yield "GPU: none that PyTorch can use; the spaces digits, smoke and folder-cpu need none"
    yield f"disk: {describe_free(Path())} free here"
    yield f"Ray: keeps what trials share in /dev/shm, {describe_free(Path('/dev/shm'))} free"
    yield f"compiler: {_compiler()}"


def _compiler() -> str:
    from pareto_amb.diffusion.speed import require_compiler

    try:
        require_compiler()
    except UserError as error:
        return f"none; {error}"
    return "C++, as training.compile needs it"


def _needed(config: "SweepConfig | None") -> Iterator[str]:
    """What is here and what is not: of a space, or all encoders."""
    from pareto_amb import weights
    from pareto_amb.needs import data_problem, describe_encoders, encoders_of, model_folder, models_of

    if config is not None:
        problem = data_problem(config.data)
        yield f"images: {problem or printable(config.data.path or config.data.source)}"
        yield from describe_encoders(config)
    for name in weights.PUBLISHED if config is None else encoders_of(config):
        yield f"weights of {name}: {_about(name)}"
    for key, path in {} if config is None else models_of(config).items():
        folder = model_folder(key, path)
        yield f"{key}: {folder or f'{printable(path)}: missing; pareto-amb weights fetch, or hf download'}"


def _about(name: str) -> str:
    """Where the weights of an encoder are, their size and checksum; else where they come from."""
    from pareto_amb import weights

    path, entry = weights.find(name), weights.PUBLISHED[name]
    if path is None:
        checksum = f", SHA-256 {entry.sha256}" if entry.sha256 else ""
        return f"missing; about {entry.size / 1e6:,.0f} MB from {entry.address}{checksum}"
    found = weights.sha256_of(path)
    published = weights.published_sha256(name, path)
    verdict = {True: " as published", False: ", not that of the published file"}
    checked = verdict[found == published] if published else ""
    return f"{printable(path)}, {path.stat().st_size / 1e6:,.0f} MB, SHA-256 {found}{checked}"
