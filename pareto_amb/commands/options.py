"""What several commands share: options, completions, checks."""

from pathlib import Path
from typing import Annotated

import typer

from pareto_amb.errors import UserError
from pareto_amb.printable import printable
from pareto_amb.reading import look_at

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set a key, e.g. training.images=960000; may be repeated."
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which of the recipes that a search space has: text (the default) or released in the paper's "
        "presets; spaces NAME says what each sets.",
    ),
]
Redact = Annotated[
    bool,
    typer.Option(
        "--redact", help="Cut the paths of this machine to their last name, for pages that leave the house."
    ),
]


def must_exist(path: Path) -> None:
    """Raise UserError where nothing is at a path, before anything that takes seconds to import."""
    if look_at(path) is None:
        raise UserError(f"{printable(path)}: cannot be read (nothing is there); check the path")


def complete_space(incomplete: str) -> list[str]:
    """The search spaces that begin so, for the shell."""
    from pareto_amb import search_spaces

    return [name for name in search_spaces.names() if name.startswith(incomplete)]


def complete_encoder(incomplete: str) -> list[str]:
    """The encoders that begin so, for the shell."""
    from pareto_amb.weights import AUTO, PUBLISHED

    return [name for name in (*PUBLISHED, "pixels", AUTO) if name.startswith(incomplete)]
