"""`data split`: the images that a sweep trains on, or holds out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pareto_amb.commands.options import Overrides, complete_space
from pareto_amb.errors import UserError
from pareto_amb.reading import is_folder

if TYPE_CHECKING:
    from pareto_amb.config import SweepConfig


def split(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN_DIR|NAME|FILE.yaml",
            help="A run, a search space or a sweep file.",
            autocompletion=complete_space,
        ),
    ],
    part: Annotated[
        Literal["train", "heldout"], typer.Option(help="What models are trained on, or what they never see.")
    ],
    output: Annotated[Path, typer.Option(metavar="FILE.zip", help="The zip to write; must not exist.")],
    train_size: Annotated[int | None, typer.Option(help="Which train size, where there are several.")] = None,
    overrides: Overrides = None,
) -> None:
    """Write the images that a sweep trains on, or holds out, to a zip, for any other tool.

    The split is that of the sweep: it follows from its seed. The images are as the models see them, cropped
    and resized; the dataset.json in the zip says which file each was made of.
    """
    config = _config_of(source, overrides or [])
    from pareto_amb.checking import export_part

    print(f"{output}: {export_part(config, part, train_size, output):,} images")


def _config_of(source: str, changes: list[str]) -> "SweepConfig":
    """The sweep of a run, or of a search space with some keys set, whose images are there."""
    from pareto_amb import search_spaces
    from pareto_amb.config import SweepConfig
    from pareto_amb.config_file import apply_overrides, parse
    from pareto_amb.needs import data_problem

    if is_folder(Path(source)):
        from pareto_amb.results.run_directory import RunDirectory

        if changes:
            raise UserError("--set is for a search space: a run has its keys")
        config = RunDirectory(Path(source)).config()
    else:
        values = apply_overrides(search_spaces.load(source), changes)
        config = parse(SweepConfig, values, source)
    if problem := data_problem(config.data):
        raise UserError(problem)
    return config
