"""`audit`: whom models memorize."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pareto_amb.commands.options import Overrides, Recipe, Redact
from pareto_amb.errors import ExitCode, UserError
from pareto_amb.printable import printable
from pareto_amb.signals import continued_by
from pareto_amb.storage import check_folder, writing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from pareto_amb.audit.report import Audit
    from pareto_amb.dashboards.provenance import Pairs
    from pareto_amb.running.audit_plan import AuditPlan

Space = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME|FILE.yaml",
        help="A recommendation.yaml, or a search space that leaves no choice: one value of each parameter.",
        show_default=False,
    ),
]
ScoresFile = Annotated[
    Path | None,
    typer.Option(
        "--scores",
        metavar="FILE.csv|FILE.parquet",
        help="In the place of training: what models trained elsewhere say of images. A row for each model "
        "and image, with the columns model, image, member (1 where trained on the image, else 0), "
        "one or more scores that are low for members, as losses are, and optionally file.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder for audit.json, audit.csv and audit.html. Default: audits/NAME-TIME."
    ),
]
FailAboveAuc = Annotated[
    float | None,
    typer.Option(
        metavar="AUC",
        help="The gate: pass only when no attack's AUC is above this even at the high end of its 95% "
        "interval, fail when one's is above it even at the low end. 0.6, for example. It is about the "
        "configuration, not about DDPM beside it.",
    ),
]


def audit(
    space: Space = None,
    scores: ScoresFile = None,
    models: Annotated[
        int | None, typer.Option(help="Models of each kind; an even number, 8 at least. Default: 16.")
    ] = None,
    train_size: Annotated[
        int | None, typer.Option(help="Which recommendation to audit, where the file has several.")
    ] = None,
    recipe: Recipe = None,
    overrides: Overrides = None,
    output: Output = None,
    fail_above_auc: FailAboveAuc = None,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails/--no-thumbnails", help="Show the images at risk on the page.")
    ] = True,
    address: Annotated[str | None, typer.Option(help="Address of a running Ray cluster, e.g. auto.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Continue an audit that was stopped or killed.", show_default=False),
    ] = None,
    trust_run: Annotated[
        bool, typer.Option("--trust-run", help="With --resume: the audit is your own; use its storage.")
    ] = False,
    redact: Redact = False,
) -> None:
    """Whom does it memorize? Attack models by membership inference, and name the images at risk.

    pareto-amb audit runs/digits/recommendation.yaml

    Trains models of plain DDPM and of the recommended configuration, each on another half of the images, and
    asks each how well it denoises every image and which ones it copies. Tells how well an attacker finds out
    which images a model was trained on, what training on each image changes, and which images that makes
    stand out: for DDPM, for the configuration, and who is protected by it. Prints a table and writes
    audit.json, audit.csv and audit.html.

    With --scores FILE the models may be anyone's: at least 8, each trained on a part of the images.

    Exit codes with --fail-above-auc: 0 passed; 1 failed; 2 the input cannot be used; 3 inconclusive. Without
    it 1 says that models are missing; after Ctrl-C and SIGTERM --resume goes on from checkpoints.
    """
    from pareto_amb.audit.report import check_limit

    if fail_above_auc is not None:
        check_limit(fail_above_auc, "--fail-above-auc")
    if [space, scores, resume].count(None) != 2:
        raise UserError(
            "name a search space, a recommendation.yaml, --scores FILE or --resume DIR, one of them"
        )
    if scores is not None:
        if models or train_size or recipe or overrides or address or trust_run:
            raise UserError("--scores FILE trains nothing: it goes with --output and --fail-above-auc alone")
        folder = output or _folder(scores.resolve().stem)
        found, images = _audit_scores(scores, folder), None
    elif resume is not None:
        if models or train_size or recipe or overrides or output:
            raise UserError("--resume DIR takes models, keys and output from the audit itself")
        folder = resume
        found, images = _train(_read_plan(resume), folder, address, True, trust_run)
    else:
        assert space is not None
        plan = _plan(space, recipe, train_size, overrides or [], models)
        folder = output or _folder(plan.config.name)
        found, images = _train(plan, folder, address, False, trust_run)
    _finish(found, images if thumbnails else None, folder, fail_above_auc, scores is None, redact)


def _folder(name: str) -> Path:
    return Path("audits") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _audit_scores(path: Path, folder: Path) -> "list[Audit]":
    from pareto_amb.audit.report import audit_scores
    from pareto_amb.auditing import read_scores
    from pareto_amb.terminal import make_console

    check_folder(folder)
    console = make_console()
    with console.status("reading scores"):
        given = read_scores(path)
    with console.status("attacking"):
        return [audit_scores(path.name, given)]


def _plan(
    space: str, recipe: str | None, train_size: int | None, overrides: Sequence[str], models: int | None
) -> "AuditPlan":
    from pareto_amb.config_file import read_yaml
    from pareto_amb.running.audit_plan import MODELS, plan_recommendation, plan_space

    count = MODELS if models is None else models
    if space.endswith((".yaml", ".yml")) and "recommendations" in read_yaml(Path(space)):
        if recipe is not None:
            raise UserError("--recipe goes with a search space, not with a recommendation")
        return plan_recommendation(Path(space), train_size, overrides, count)
    if train_size is not None:
        raise UserError(
            "--train-size goes with a recommendation; --set space.train_size=[N] with a search space"
        )
    return plan_space(space, recipe, overrides, count)


def _read_plan(folder: Path) -> "AuditPlan":
    from pareto_amb.running.audit_plan import read_plan

    return read_plan(folder)


def _train(
    plan: "AuditPlan", folder: Path, address: str | None, resumed: bool, trust_run: bool
) -> "tuple[list[Audit], NDArray[np.uint8]]":
    """Train what is missing and attack it; where models stay missing, say so and exit."""
    from pareto_amb.running.audit import start_audit
    from pareto_amb.terminal import make_console

    def again() -> str:
        on = [] if address is None else ["--address", address]
        there = (folder / "audit.yaml").is_file()
        return shlex.join(["pareto-amb", "audit", "--resume", str(folder), *on]) if there else ""

    with continued_by(again):
        outcome = start_audit(
            plan, folder, resumed=resumed, address=address, trust_run=trust_run, console=make_console()
        )
    if outcome.unfinished:
        why = next((problem for problem in outcome.problems if problem), "")
        print(f"{outcome.unfinished} models are missing{f': {printable(why)}' if why else ''}")
        print(f"  to try them again: {again()}")
        sys.exit(ExitCode.FAILED)
    return outcome.audits, outcome.images


def _finish(
    audits: "list[Audit]",
    images: "NDArray[np.uint8] | None",
    folder: Path,
    limit: float | None,
    trained: bool,
    redact: bool,
) -> None:
    """Write the files, print what they say, and exit as the gate does."""
    from pareto_amb.audit.report import LOWER_BOUND, judge
    from pareto_amb.auditing import write_tables
    from pareto_amb.dashboards.audit import write_page
    from pareto_amb.terminal import make_console

    gate = None if limit is None else judge(audits[-1], limit)
    if redact:
        audits = [_redacted(found) for found in audits]
    with writing(folder):
        write_tables(audits, gate, folder)
        write_page(audits, folder / "audit.html", gate, images, _made_by(folder, trained), redact)
    console = make_console()
    for found in audits:
        _print(found, console)
    console.print(f"note: {LOWER_BOUND}", markup=False)
    page = printable(folder / "audit.html")
    console.print(f"\nnext:\n  open {page}", markup=False)
    if gate is not None:
        print(gate)
        raise typer.Exit(gate.exit_code)


def _made_by(folder: Path, trained: bool) -> "Pairs":
    """What the page says of where it comes from; models that were `trained` have left it in the folder."""
    from pareto_amb.dashboards.provenance import checksum, duration_of, provenance
    from pareto_amb.environment import describe_environment
    from pareto_amb.results.run import flatten
    from pareto_amb.results.run_directory import RunDirectory
    from pareto_amb.results.table import load_results

    run = RunDirectory(folder)
    environment = run.read_environment() if trained else describe_environment(devices=False)
    elsewhere = "not known, the models were trained elsewhere"
    duration = duration_of(load_results(run.results).frame) if trained else elsewhere
    results = [checksum(folder / name) for name in ("audit.json", "audit.csv")]
    return provenance(dict(flatten(environment)), duration, results)


def _redacted(found: "Audit") -> "Audit":
    """Without the paths of this machine in names."""
    from pareto_amb.redaction import without_paths

    images, files = (tuple(map(without_paths, names)) for names in (found.scores.images, found.scores.files))
    return replace(found, scores=replace(found.scores, images=images, files=files))


def _print(found: "Audit", console: "Console") -> None:
    from rich.table import Table

    from pareto_amb.audit.report import RATES, remarks, verdict

    m, n = found.scores.member.shape
    table = Table(title=f"{printable(found.name)}: {m:,} models, {n:,} images")
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
    for note in remarks(found):
        console.print(f"note: {printable(note)}", markup=False)
    console.print(f"{verdict(found)}\n", markup=False)
