"""`data prepare`: an image set as one zip."""

from pathlib import Path
from typing import Annotated

import typer

from pareto_amb.commands.image_options import SkipCorrupt


def prepare(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder, zip or tars of images, or cifar10 (fetched).")
    ],
    output: Annotated[Path, typer.Option(metavar="FILE.zip", help="The zip to write; must not exist.")],
    resolution: Annotated[int, typer.Option(help="Side in pixels; images are cropped and resized.")] = 64,
    channels: Annotated[int, typer.Option(help="3 for colour, 1 for grey.")] = 3,
    no_captions: Annotated[bool, typer.Option("--no-captions", help="Do not look for captions.")] = False,
    skip_uncaptioned: Annotated[
        bool,
        typer.Option("--skip-uncaptioned", help="Leave images without a caption out, where others have one."),
    ] = False,
    skip_corrupt: SkipCorrupt = False,
) -> None:
    """Pack an image set into one zip of square PNG images with their labels, captions and file names.

    A dataset.json in the source holds the labels; without one, when every image is in one of two or
    more folders, each folder is a class. FFHQ's numbered folders (00000, 01000, ...) are not classes.

    Captions are those of metadata.jsonl, with file_name and text, else of a dataset.json, else of text
    files beside the images. Where any image has one, all must.

    The dataset.json in the zip says which file each image was made of.
    """
    from pareto_amb.data.prepare import prepare as write_zip
    from pareto_amb.terminal import counting, make_console

    console = make_console()
    with counting(console, "preparing images") as show:
        done = write_zip(
            source, output, resolution, channels, show,
            captions=not no_captions, skip_uncaptioned=skip_uncaptioned, skip_corrupt=skip_corrupt,
        )  # fmt: skip
    for note in done.notes:
        console.print(f"note: {note}", markup=False)
    classes = f"{done.n_classes} classes" if done.n_classes else "no labels"
    told = f"{classes}, captions" if done.captioned else classes
    console.print(f"{output}: {done.images:,} images of {resolution} x {resolution}, {told}", markup=False)
