"""Options that several commands share."""

from typing import Annotated

import typer

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
