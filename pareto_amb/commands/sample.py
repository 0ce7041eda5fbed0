"""`sample`: images from a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from pareto_amb.commands.options import must_exist


def sample(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT|FOLDER", help="A checkpoint, or the folder of a training."),
    ],
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many images.")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Image i is drawn from this seed and i.")] = 0,
    solver: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="heun, or dpmpp_2m, which needs half the network evaluations a step. Default: as the sweep "
            "measured, else heun.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=2, max=10_000, help="Steps of the solver. Default: as the sweep measured, else 18."),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Of a text-to-image model; repeat it to draw by each in turn."),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1000,
            help="How far a text-to-image model follows the prompt. Default: as the sweep measured, else 1.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the PNG files. Default: samples beside it.")
    ] = None,
) -> None:
    """Generate images from a checkpoint of `train` or of a sweep, by the sampler that the sweep measured.

    How it sampled is read from training.yaml beside a checkpoint of `train`, and from the sweep.yaml of the
    run that a checkpoint lies in.
    """
    must_exist(checkpoint)
    from pareto_amb.production import find_checkpoint, sample_images
    from pareto_amb.storage import check_folder
    from pareto_amb.terminal import make_console

    path = find_checkpoint(checkpoint)
    folder = output or path.parent / f"{path.stem}-samples"
    check_folder(folder)
    given = {"solver": solver, "steps": steps, "guidance": guidance}
    changes = {key: value for key, value in given.items() if value is not None}
    sample_images(
        checkpoint, folder, count, seed, make_console(), changes=changes, prompts=prompt or ()
    )  # fmt: skip
    print(f"{count} images in {folder}")
