"""`evaluate`: what was copied, in anyone's images."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pareto_amb.commands.image_options import NoCache, Preprocessing, SkipCorrupt, check_folder
from pareto_amb.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from pareto_amb.evaluation.report import EvaluationReport

Generated = Annotated[Path, typer.Option(metavar="DIR|ZIP", help="The images to judge.", show_default=False)]
Train = Annotated[
    Path, typer.Option(metavar="DIR|ZIP", help="What the model was trained on.", show_default=False)
]
Heldout = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|ZIP",
        help="Real images of the same kind that the model never saw: the yardstick. Without them it "
        "cannot be said what is normal. A few hundred or more.",
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|ZIP|STATS.npz",
        help="Real images that quality (FID ...) is measured against, or their features from "
        "`encode`, or an npz with mu and sigma. Default: --heldout, else --train.",
    ),
]
Encoders = Annotated[
    list[str] | None,
    typer.Option(
        "--encoder",
        metavar="NAME",
        help="The network that compares images; may be repeated. The first gives the verdict. "
        "Default: dinov2_vitg14 and inception_v3, as in the paper. efficientnet_lite0 needs no "
        "download and is quick without a GPU.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        metavar="T",
        help="Similarity above which an image is a copy, in the first encoder. Default: the value "
        "that 1% of the held-out images exceed.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder for evaluation.json and evaluation.html. Default: evaluations/NAME-TIME.",
    ),
]
FailAbove = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Exit with 1 when the excess copy rate is above this even at the low end of its 95% "
        "interval, e.g. 0.05: a gate for CI.",
    ),
]


def evaluate(
    generated: Generated,
    train: Train,
    heldout: Heldout = None,
    reference: Reference = None,
    encoder: Encoders = None,
    preprocessing: Preprocessing = "standard",
    threshold: Threshold = None,
    output: Output = None,
    fail_above: FailAbove = None,
    skip_corrupt: SkipCorrupt = False,
    no_cache: NoCache = False,
    seed: Annotated[int, typer.Option(min=0, help="Draws resamples and random subsets.")] = 0,
) -> None:
    """Did it copy? Measure any generated images against the images a model was trained on.

    pareto-amb evaluate --generated gen/ --train train/ --heldout unseen/

    Tells how many generated images are copies of training images, how sure that is, and what is normal
    for images the model never saw; also FID, KID, precision and recall. Prints a table and writes
    evaluation.json and evaluation.html. All images must have one size (see: data prepare).
    """
    from pareto_amb.evaluation.features import FeatureCache
    from pareto_amb.evaluation.image_sets import evaluate_image_sets
    from pareto_amb.terminal import make_console

    _check_gate(fail_above, heldout)
    folder = output or Path("evaluations") / f"{generated.resolve().stem}-{datetime.now():%Y%m%d-%H%M%S}"
    check_folder(folder)
    console, cache = make_console(), None if no_cache else FeatureCache.default()
    report = evaluate_image_sets(
        generated, train, heldout, reference, encoder, threshold, preprocessing, seed,
        skip_corrupt=skip_corrupt, cache=cache, console=console,
    )  # fmt: skip
    _write(report, folder)
    _print(report, folder, console)
    if fail_above is not None:
        _gate(report, fail_above)


def _check_gate(fail_above: float | None, heldout: Path | None) -> None:
    if fail_above is None:
        return
    if not 0 <= fail_above < 1:
        raise UserError(f"--fail-above {fail_above:g}: a share from 0 to below 1, such as 0.05")
    if heldout is None:
        raise UserError("--fail-above needs --heldout: the excess is over what is normal for held-out images")


def _write(report: "EvaluationReport", folder: Path) -> None:
    from pareto_amb.dashboards.evaluation import write_page
    from pareto_amb.evaluation.report import to_json
    from pareto_amb.storage import write_text

    try:
        write_text(folder / "evaluation.json", json.dumps(to_json(report), indent=2) + "\n")
        write_page(report, folder / "evaluation.html")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _print(report: "EvaluationReport", folder: Path, console: "Console") -> None:
    from pareto_amb.evaluation.report import tables, verdict

    for table in tables(report):
        console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"\n{verdict(report)}\n\nnext:\n  open {folder / 'evaluation.html'}", markup=False)


def _gate(report: "EvaluationReport", limit: float) -> None:
    """Print whether the excess copy rate is surely above `limit`; exit with 1 when it is."""
    found = f"the excess copy rate is at least {report.excess_at_least:.1%} (low end of its 95% interval)"
    if report.excess_at_least > limit:
        print(f"failed: {found}, above the limit of {limit:.1%}")
        raise typer.Exit(1)
    unsure = f"; it may be as high as {report.excess.high:.1%}" if report.excess.high > limit else ""
    print(f"passed: {found}, not above the limit of {limit:.1%}{unsure}")
