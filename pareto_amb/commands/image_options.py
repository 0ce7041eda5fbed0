"""Options of the commands that read image sets."""

from typing import Annotated, Literal

import typer

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
