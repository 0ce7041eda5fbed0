"""`encode`: an image set's features, once for many evaluations."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pareto_amb import weights
from pareto_amb.commands.image_options import NoCache, Preprocessing, SkipCorrupt
from pareto_amb.commands.options import complete_encoder
from pareto_amb.errors import UserError
from pareto_amb.reading import is_there
from pareto_amb.storage import check_output, writing

if TYPE_CHECKING:
    from rich.console import Console

    from pareto_amb.evaluation.features import EncodedImages


def encode(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A folder or zip of images.", show_default=False)
    ],
    encoder: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The network, e.g. inception_v3.",
            show_default=False,
            autocompletion=complete_encoder,
        ),
    ],
    preprocessing: Preprocessing = "standard",
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A .npz or .safetensors file. Default: SOURCE-ENCODER.npz."),
    ] = None,
    skip_corrupt: SkipCorrupt = False,
    no_cache: NoCache = False,
) -> None:
    """Write an image set's features once, as a --reference for many evaluations.

    The file records the encoder, its preprocessing and the images' fingerprint; evaluate refuses it
    with another encoder.
    """
    if not is_there(source):
        raise UserError(f"{str(source)!r}: nothing there; name a folder or zip of images")
    weights.check_reachable(encoder)
    from pareto_amb.data.stream import open_stream
    from pareto_amb.diffusion.parallel import best_device
    from pareto_amb.evaluation.encoders import load_encoder
    from pareto_amb.evaluation.features import SUFFIXES, FeatureCache, encode_images
    from pareto_amb.terminal import make_console

    path = output or Path(f"{source.resolve().stem}-{encoder}.npz")
    if path.suffix not in SUFFIXES:
        raise UserError(f"--output {path}: must end in {' or '.join(SUFFIXES)}")
    check_output(path)
    console = make_console()
    cache = None if no_cache else FeatureCache.default()
    with console.status("loading encoders"):
        loaded = load_encoder(encoder, preprocessing)
    with open_stream(source, skip_corrupt) as stream:
        (encoded,) = encode_images(stream, [loaded], console, source.name, best_device(), cache)
    _save(encoded, path)
    _print(encoded, path, console)


def _save(encoded: "EncodedImages", path: Path) -> None:
    from pareto_amb.evaluation.features import save_features

    with writing(path):
        save_features(encoded, path)


def _print(encoded: "EncodedImages", path: Path, console: "Console") -> None:
    for note in encoded.notes():
        console.print(f"note: {note}", markup=False)
    made_of, length = encoded.provenance, encoded.features.shape[1]
    if made_of.skipped:
        console.print(f"note: {len(made_of.skipped):,} broken images were left out", markup=False)
    console.print(f"{path}: {made_of.count:,} features of length {length:,}", markup=False)
