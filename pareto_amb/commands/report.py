"""`report`: the page of a run, again."""

from pathlib import Path
from typing import Annotated

import typer


def report(run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR")]) -> None:
    """Write RUN_DIR/report.html again from the results table."""
    from pareto_amb.dashboards.report import write_report

    print(write_report(run_dir))
