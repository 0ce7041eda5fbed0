"""Options of the commands that read image sets, and the check of where they write."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from pareto_amb.errors import UserError

Preprocessing = Annotated[
    Literal["standard", "paper"],
    typer.Option(help="How images are prepared for DINOv2: as usual, or as the paper's code does it."),
]
SkipCorrupt = Annotated[
    bool, typer.Option("--skip-corrupt", help="Leave broken images out, with a count, not refuse them.")
]
NoCache = Annotated[
    bool,
    typer.Option("--no-cache", help="Do not keep features in $PARETO_AMB_CACHE (~/.cache/pareto-amb)."),
]


def check_folder(folder: Path) -> None:
    """Raise UserError where the results could not be written, before hours of work for them."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"--output {folder}: {there.name} is a file; name a folder")
    if not os.access(there, os.W_OK):
        raise UserError(f"--output {folder}: cannot be written; name another folder")
