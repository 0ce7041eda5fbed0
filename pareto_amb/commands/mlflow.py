"""`mlflow sync`: what MLflow missed of a run."""

from pathlib import Path
from typing import Annotated

import typer


def sync(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR")],
    trust_run: Annotated[
        bool,
        typer.Option(
            "--trust-run", help="The run is your own: call the server and storage that its files name."
        ),
    ] = False,
) -> None:
    """Log to MLflow what it lacks of a run: after its server was gone, or on another one.

    MLFLOW_TRACKING_URI names the server, as for sweep.
    """
    from pareto_amb.running.sync import sync_run

    done = sync_run(run_dir, trust_run)
    print(f"logged {done.logged} to MLflow at {done.uri}")
