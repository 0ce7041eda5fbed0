"""`explain`: the anatomy of a sweep's models. What keys and columns mean is `spaces NAME --explain`."""

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pareto_amb.commands.options import Redact
from pareto_amb.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from pareto_amb.anatomy.subject import Subject


def explain(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR")],
    train_size: Annotated[
        int | None, typer.Option(help="Which train size to explain, where the run has several.")
    ] = None,
    more_data: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            max=2**31 - 1,
            help="Train DDPM on N images, as long as the run trains, to be shown beside its models. It is "
            "kept beside the page and taken again.",
        ),
    ] = None,
    more_data_checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="In its place: a checkpoint of a model that is there already."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Default: RUN_DIR/explain.html.")
    ] = None,
    trust_run: Annotated[
        bool,
        typer.Option("--trust-run", help="Read checkpoints from the storage that RUN_DIR/sweep.yaml names."),
    ] = False,
    redact: Redact = False,
) -> None:
    """Where, and why, do a sweep's models memorize? Looks into DDPM's and the recommended one.

    pareto-amb explain runs/digits-20260101-120000 --more-data 1500

    Writes one page: images under noise as each model denoises them (Figure 3 of the paper), beside the best
    possible denoisers; how much better each denoises training images than held-out ones, by noise level and
    over the training; from which noise the sampler returns to a training image; and where training would end,
    for exact and for smoothed optimal denoisers, whatever sigma_tn.

    It takes about as long as measuring a few trials of the sweep.
    """
    from pareto_amb.storage import check_output

    if more_data is not None and more_data_checkpoint is not None:
        raise UserError("--more-data trains a model, --more-data-checkpoint names one: give one of them")
    page = output or run_dir / "explain.html"
    check_output(page)

    from pareto_amb.anatomy.measure import dissect
    from pareto_amb.anatomy.subject import read_subject
    from pareto_amb.dashboards.anatomy import findings, write_anatomy
    from pareto_amb.environment import describe_environment
    from pareto_amb.terminal import make_console

    console, started = make_console(), time.monotonic()
    subject = read_subject(run_dir, train_size, trust_run, console)
    subject = _with_more(subject, more_data, more_data_checkpoint, page.parent, console)
    found = dissect(subject, console)
    took = {"seconds": round(time.monotonic() - started, 1)}
    write_anatomy(found, page, {**describe_environment(), **took}, redact)
    for line in findings(found):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"\nthe page: {page}", markup=False)


def _with_more(
    subject: "Subject", count: int | None, checkpoint: Path | None, folder: Path, console: "Console"
) -> "Subject":
    """The subject with a model of more data, where one is asked for."""
    from pareto_amb.anatomy.measure import PORTRAITS
    from pareto_amb.anatomy.subject import check_more_data, with_checkpoint, with_more_data
    from pareto_amb.production import CHECKPOINT
    from pareto_amb.signals import continued_by

    if checkpoint is not None:
        return with_checkpoint(subject, checkpoint)
    if count is None:
        return subject
    check_more_data(subject, count, PORTRAITS)
    place = folder / f"more-data-{count}"
    same = shlex.join(["pareto-amb", *sys.argv[1:]])
    with continued_by(lambda: same if (place / CHECKPOINT).is_file() else ""):
        return with_more_data(subject, count, place, console)
