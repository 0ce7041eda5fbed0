"""`sample`: images from a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer


def sample(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many images.")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Image i is drawn from this seed and i.")] = 0,
    solver: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="heun, or dpmpp_2m, which needs half the network evaluations a step; see docs/samplers.md.",
        ),
    ] = "heun",
    steps: Annotated[int, typer.Option(min=2, max=10_000, help="Steps of the solver.")] = 18,
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Of a text-to-image model; repeat it to draw by each in turn."),
    ] = None,
    guidance: Annotated[
        float, typer.Option(min=0, max=1000, help="How far a text-to-image model follows the prompt.")
    ] = 1.0,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the PNG files. Default: samples beside it.")
    ] = None,
) -> None:
    """Generate images from a checkpoint of `train` or of a sweep."""
    from pareto_amb.production import sample_images
    from pareto_amb.storage import check_folder
    from pareto_amb.terminal import make_console

    folder = output or checkpoint.parent / f"{checkpoint.stem}-samples"
    check_folder(folder)
    sample_images(checkpoint, folder, count, seed, solver, steps, make_console(), prompt or (), guidance)
    print(f"{count} images in {folder}")
