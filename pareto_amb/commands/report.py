"""`report`: the page of a run, again."""

from pathlib import Path
from typing import Annotated

import typer

from pareto_amb.commands.options import Redact


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR")],
    trust_run: Annotated[
        bool,
        typer.Option("--trust-run", help="Fetch pictures from the storage that RUN_DIR/sweep.yaml names."),
    ] = False,
    redact: Redact = False,
) -> None:
    """Write RUN_DIR/report.html again from the results table."""
    from pareto_amb.dashboards.report import write_report
    from pareto_amb.storage import writing

    with writing(run_dir / "report.html"):
        print(write_report(run_dir, trust_run, redact))
