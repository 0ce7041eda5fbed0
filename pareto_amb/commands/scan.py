"""`scan`: which noise levels are worth searching for an image set."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pareto_amb.commands.options import Redact
from pareto_amb.errors import UserError

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
    by_label: Annotated[
        bool,
        typer.Option("--by-label", help="Subpopulations are the labels. Default: clusters of pixels."),
    ] = False,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Subpopulations are clusters of this network's features, e.g. dinov2_vits14.",
            show_default=False,
        ),
    ] = None,
    pipeline: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|NAME",
            help="Compare latents of this text-to-image pipeline, in a folder or on the hub, not pixels.",
            show_default=False,
        ),
    ] = None,
    recommendation: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.yaml",
            help="A recommendation.yaml whose sigma_tn to mark; its train sizes are the default.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="FILE.html", help="Where the curves are drawn, for a browser.")
    ] = Path("scan.html"),
    redact: Redact = False,
) -> None:
    """Show which noise levels are worth searching for an image set: seconds, nothing is trained.

    A training image with noise sigma may still be recognised among all training images, or it may not. The
    effective number says how many of them the best possible denoiser averages: 1 where it recognises the
    image, and where training long enough therefore means copying. The collapse level is the sigma above
    which that number exceeds 1. sigma_tn: auto, the default of a sweep, searches 0.02 to 0.8 times the
    collapse level.

    Two more curves say why. Subpopulations: how many kinds of images noise leaves apart, and what share of
    all images is in rare ones; while some are rare, memorizing them pays. Leakage: how much the one noisy
    copy that Algorithm 1 keeps of an image tells of it, against draws of DDPM.

    Give the resolution and the train sizes that you will train with: the collapse level grows with the
    resolution and falls slowly with more images. Example: pareto-amb scan photos.zip --train-size 500
    """
    from pareto_amb.config import DataConfig
    from pareto_amb.config_file import parse
    from pareto_amb.needs import find_data

    if data not in ("digits", "cifar10"):
        hint = "give a folder or zip of images, or the word digits or cifar10"
        find_data(parse(DataConfig, {"path": data, "origin": hint}, "scan"))
    from pareto_amb.dashboards.scan import write_scan
    from pareto_amb.environment import describe_environment
    from pareto_amb.scanning import scan_images, source_of
    from pareto_amb.storage import check_output
    from pareto_amb.terminal import make_console

    check_output(output)
    recommended = {} if recommendation is None else _recommended(recommendation, train_size)
    started = time.monotonic()
    console = make_console()
    with console.status("loading images"):
        image_set = source_of(data, resolution, channels)
    for note in image_set.notes:
        console.print(f"note: {note}", markup=False)
    with console.status("comparing images"):
        found = scan_images(
            image_set,
            train_size or list(recommended) or None,
            by_label=by_label,
            encoder=encoder,
            pipeline=pipeline,
            recommended={size: level for size, level in recommended.items() if level is not None},
        )
    _print_scan(found, recommended)
    took = {"seconds": round(time.monotonic() - started, 1)}
    write_scan(found, output, {**describe_environment(), **took}, redact)
    print(f"\nthe curves: {output}")


def _recommended(path: Path, train_sizes: list[int] | None) -> dict[int, float | None]:
    """The sigma_tn of a recommendation file by train size, None where it recommends none.

    UserError where it has none of `train_sizes`.
    """
    from pareto_amb.results.recommendation_file import load_entries, training_block
    from pareto_amb.sweep_file import parse_training

    blocks = {size: training_block(entry, path) for size, entry in load_entries(path).items()}
    found = {
        size: parse_training(block, str(path)).parameters.get("sigma_tn") for size, block in blocks.items()
    }
    if train_sizes and not found.keys() & set(train_sizes):
        known = ", ".join(map(str, found))
        raise UserError(f"{path}: recommends for other train sizes, {known}; name one by --train-size")
    return found


def _print_scan(found: "Scan", recommended: Mapping[int, float | None]) -> None:
    channels, *sides = found.shape
    colour = "grey" if channels == 1 else "colour"
    there = f", as latents of {' x '.join(map(str, found.latents))}" if found.latents else ""
    print(f"{found.name}: {found.total:,} images of {' x '.join(map(str, sides))}, {colour}{there}")
    for size in found.sizes:
        if size.distinct < size.train_size:
            print(f"note: {size.distinct:,} of {size.train_size:,} training images differ; copies count once")
    heads = [f"{size.train_size:,}" for size in found.sizes]
    numbers = [size.effective_numbers for size in found.sizes]
    _print_levels("effective number, of so many training images", found, heads, numbers, "10,.2f")
    _print_merging(found)
    _print_leakage(found)
    _print_ranges(found, recommended)


def _print_levels(title: str, found: "Scan", heads: Sequence[str], columns: Sequence[Any], form: str) -> None:
    """A table over the round noise levels."""
    from pareto_amb.diffusion.units import sigma_to_vp

    print(f"\n{title}:\n{'sigma':>8}{'VP':>8}{''.join(f'{head:>10}' for head in heads)}")
    for position, sigma in enumerate(found.sigmas):
        if sigma in found.round_sigmas:
            numbers = "".join(format(column[position], form) for column in columns)
            print(f"{sigma:8g}{sigma_to_vp(sigma):8.4f}{numbers}")


def _print_merging(found: "Scan") -> None:
    merged = [size for size in found.sizes if size.merging is not None]
    for size in found.sizes:
        if size.merging is None:
            print(f"note: {size.train_size:,} training images are too many to compare subpopulations")
    heads = [f"{size.train_size:,}" for size in merged]
    curves = [size.merging for size in merged if size.merging is not None]
    if curves:
        counts = [curve.number for curve in curves]
        _print_levels(
            f"subpopulations ({found.grouped_by}) that noise leaves apart", found, heads, counts, "10,d"
        )
        shares = [curve.heavy_tail for curve in curves]
        _print_levels("share of images in subpopulations of 1/2n to 1/n", found, heads, shares, "10.1%")


def _print_leakage(found: "Scan") -> None:
    curve = found.leakage
    heads = ["one copy", f"{curve.draws} draws", "bound"]
    title = (
        f"nats that one noisy copy, as Algorithm 1 keeps it, or {curve.draws} draws of DDPM tell of an image"
        f"\n(bound: the paper's, {curve.draws} times one copy's)"
    )
    _print_levels(title, found, heads, [curve.copy, curve.drawn, curve.bound], "10,.1f")
    if curve.caution:
        print(f"note: {curve.caution}")


def _print_ranges(found: "Scan", recommended: Mapping[int, float | None]) -> None:
    from pareto_amb.diffusion.units import sigma_to_vp

    print("\ntrain size   collapse level   auto searches sigma_tn   (variance-preserving)")
    for size in found.sizes:
        low, high, level = size.searched.low, size.searched.high, size.searched.collapse_level
        steps = found.steps(low, high)
        vp = f"({sigma_to_vp(low):.3g} to {sigma_to_vp(high):.3g}{steps and f'; {steps}'})"
        print(f"{size.train_size:>10,}{level:17g}{f'{low:g} to {high:g}':>25}   {vp}")
    for size in found.sizes:
        if size.train_size in recommended:
            sigma = recommended[size.train_size]
            words = "DDPM"
            if sigma is not None:
                steps = found.steps(sigma)
                words = f"sigma_tn {sigma:.3g} (VP {sigma_to_vp(sigma):.3g}{steps and f', {steps}'})"
            print(f"recommended for {size.train_size:,}: {words}")
    low = min(size.searched.low for size in found.sizes)
    high = max(size.searched.high for size in found.sizes)
    print("\nin the sweep file, under space:")
    print(f"  train_size: {[size.train_size for size in found.sizes]}")
    print(f"  sigma_tn: auto  # or one range for all: {{low: {low:g}, high: {high:g}}}")
