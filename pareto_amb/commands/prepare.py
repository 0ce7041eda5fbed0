"""`data prepare`: an image set as one zip."""

from pathlib import Path
from typing import Annotated

import typer


def prepare(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder or zip of images, or cifar10 (fetched).")
    ],
    output: Annotated[Path, typer.Option(metavar="FILE.zip", help="The zip to write; must not exist.")],
    resolution: Annotated[int, typer.Option(help="Side in pixels; images are cropped and resized.")] = 64,
    channels: Annotated[int, typer.Option(help="3 for colour, 1 for grey.")] = 3,
) -> None:
    """Pack an image set into one zip of square PNG images with their labels.

    A dataset.json in the source holds the labels; without one, when every image is in one of two or
    more folders, each folder is a class. FFHQ's numbered folders (00000, 01000, ...) are not classes.
    """
    from pareto_amb.data.prepare import prepare as write_zip
    from pareto_amb.terminal import counting, make_console

    console = make_console()
    with counting(console, "preparing images") as show:
        done = write_zip(source, output, resolution, channels, progress=show)
    for note in done.notes:
        console.print(f"note: {note}", markup=False)
    classes = f"{done.n_classes} classes" if done.n_classes else "no labels"
    console.print(f"{output}: {done.images:,} images of {resolution} x {resolution}, {classes}", markup=False)
