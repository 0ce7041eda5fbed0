"""Options that several commands share."""

from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a configuration key; may be repeated."),
]
Recipe = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Which of the recipes of the search space; see: spaces NAME."),
]
