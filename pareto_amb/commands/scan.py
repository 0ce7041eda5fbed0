"""`scan`: which noise levels are worth searching for an image set."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pareto_amb.commands.options import Redact

if TYPE_CHECKING:
    from pareto_amb.scanning import Scan


def scan(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A folder or zip of images, or the word digits or cifar10.")
    ],
    train_size: Annotated[
        list[int] | None,
        typer.Option(
            min=2, max=2**31 - 1, help="Training images; may be repeated. Default: 100, 300, 1000 and 3000."
        ),
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(help="Side in pixels, as in the sweep. Default: 64; digits 8, cifar10 32."),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(help="3 for colour, 1 for grey. Default: 3; digits 1.")
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="FILE.html", help="Where the curve is drawn, for a browser.")
    ] = Path("scan.html"),
    redact: Redact = False,
) -> None:
    """Show which noise levels are worth searching for an image set: seconds, nothing is trained.

    A training image with noise sigma may still be recognised among all training images, or it may not. The
    effective number says how many of them the best possible denoiser averages: 1 where it recognises the
    image, and where training long enough therefore means copying. The collapse level is the sigma above
    which that number exceeds 1. sigma_tn: auto, the default of a sweep, searches 0.02 to 0.8 times the
    collapse level.

    Give the resolution and the train sizes that you will train with: the collapse level grows with the
    resolution and falls slowly with more images. Example: pareto-amb scan photos.zip --train-size 500
    """
    from pareto_amb.dashboards.scan import write_scan
    from pareto_amb.environment import describe_environment
    from pareto_amb.scanning import scan_images, source_of
    from pareto_amb.storage import check_output
    from pareto_amb.terminal import make_console

    check_output(output)
    started = time.monotonic()
    console = make_console()
    with console.status("loading images"):
        image_set = source_of(data, resolution, channels)
    for note in image_set.notes:
        console.print(f"note: {note}", markup=False)
    with console.status("comparing images"):
        found = scan_images(image_set, train_size)
    _print_scan(found)
    took = {"seconds": round(time.monotonic() - started, 1)}
    write_scan(found, output, {**describe_environment(), **took}, redact)
    print(f"\nthe curve: {output}")


def _print_scan(found: "Scan") -> None:
    from pareto_amb.diffusion.units import sigma_to_vp

    channels, *sides = found.shape
    colour = "grey" if channels == 1 else "colour"
    print(f"{found.name}: {found.total:,} images of {' x '.join(map(str, sides))}, {colour}")
    for size in found.sizes:
        if size.distinct < size.train_size:
            print(f"note: {size.distinct:,} of {size.train_size:,} training images differ; copies count once")
    heads = "".join(f"{size.train_size:>10,}" for size in found.sizes)
    print(f"\neffective number, of so many training images:\n{'sigma':>8}{'VP':>8}{heads}")
    for position, sigma in enumerate(found.sigmas):
        if sigma in found.round_sigmas:
            numbers = "".join(f"{size.effective_numbers[position]:10,.2f}" for size in found.sizes)
            print(f"{sigma:8g}{sigma_to_vp(sigma):8.4f}{numbers}")
    print("\ntrain size   collapse level   auto searches sigma_tn   (variance-preserving)")
    for size in found.sizes:
        low, high, level = size.searched.low, size.searched.high, size.searched.collapse_level
        vp = f"({sigma_to_vp(low):.3g} to {sigma_to_vp(high):.3g})"
        print(f"{size.train_size:>10,}{level:17g}{f'{low:g} to {high:g}':>25}   {vp}")
    low = min(size.searched.low for size in found.sizes)
    high = max(size.searched.high for size in found.sizes)
    print("\nin the sweep file, under space:")
    print(f"  train_size: {[size.train_size for size in found.sizes]}")
    print(f"  sigma_tn: auto  # or one range for all: {{low: {low:g}, high: {high:g}}}")
