"""`audit`: whom models memorize."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pareto_amb.printable import printable
from pareto_amb.storage import check_folder, writing

if TYPE_CHECKING:
    from rich.console import Console

    from pareto_amb.audit.report import Audit


def audit(
    scores: Annotated[
        Path,
        typer.Option(
            metavar="FILE.csv|FILE.parquet",
            help="What models say of images: a row for each model and image, with the columns model, image, "
            "member (1 where the model was trained on the image, else 0), one or more scores that are low "
            "for members, as losses are, and optionally file.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder for audit.json, audit.csv and audit.html. Default: audits/NAME-TIME."
        ),
    ] = None,
    fail_above_auc: Annotated[
        float | None,
        typer.Option(
            metavar="AUC",
            help="The gate: pass only when no attack's AUC is above this even at the high end of its 95% "
            "interval, fail when one's is above it even at the low end. 0.6, for example.",
        ),
    ] = None,
) -> None:
    """Whom does it memorize? Attack models by membership inference, and name the images at risk.

    pareto-amb audit --scores losses.csv

    The models may be anyone's: at least 8, each trained on a part of the images and asked for a score, such
    as the loss, of every one. Tells how well an attacker finds out which images a model was trained on, what
    training on each image changes, and which images that makes stand out. Prints a table and writes
    audit.json, audit.csv and audit.html.

    Exit codes with --fail-above-auc: 0 passed; 1 failed; 2 the input cannot be used; 3 inconclusive.
    """
    from pareto_amb.audit.report import audit_scores, check_limit, judge
    from pareto_amb.auditing import read_scores, write_tables
    from pareto_amb.dashboards.audit import write_page
    from pareto_amb.terminal import make_console

    if fail_above_auc is not None:
        check_limit(fail_above_auc, "--fail-above-auc")
    folder = output or Path("audits") / f"{scores.resolve().stem}-{datetime.now():%Y%m%d-%H%M%S}"
    check_folder(folder)
    console = make_console()
    with console.status("reading scores"):
        given = read_scores(scores)
    with console.status("attacking"):
        found = audit_scores(scores.name, given)
    gate = None if fail_above_auc is None else judge(found, fail_above_auc)
    with writing(folder):
        write_tables([found], gate, folder)
        write_page([found], folder / "audit.html", gate)
    _print(found, folder, console)
    if gate is not None:
        print(gate)
        raise typer.Exit(gate.exit_code)


def _print(found: "Audit", folder: Path, console: "Console") -> None:
    from rich.table import Table

    from pareto_amb.audit.report import LOWER_BOUND, RATES, remarks, verdict

    m, n = found.scores.member.shape
    table = Table(title=f"{m:,} models, {n:,} images")
    rates = (f"TPR at {rate:.1%} FPR" for rate in RATES)
    heads = ("attack", "AUC", "95% interval", *rates, "epsilon at least")
    for head in heads:
        table.add_column(head, justify="left" if head == "attack" else "right")
    for attack in found.attacks:
        found_at = (f"{attack.tpr[rate].value:.1%}" for rate in RATES)
        low, high = attack.auc.low, attack.auc.high
        ends = f"{low:.3f} to {high:.3f}"
        table.add_row(attack.title, f"{attack.auc.value:.3f}", ends, *found_at, f"{attack.epsilon.value:.2f}")
    console.print(table)
    for note in [LOWER_BOUND, *remarks(found)]:
        console.print(f"note: {printable(note)}", markup=False)
    page = printable(folder / "audit.html")
    console.print(f"\n{verdict(found)}\n\nnext:\n  open {page}", markup=False)
