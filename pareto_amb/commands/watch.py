"""`watch`: a page that follows a sweep, or shows one that has ended."""

from pathlib import Path
from typing import Annotated

import typer

from pareto_amb.errors import UserError


def watch(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR")],
    port: Annotated[int, typer.Option(help="0 takes one that is free.")] = 8050,
    trust_run: Annotated[
        bool,
        typer.Option("--trust-run", help="Fetch pictures from the storage that RUN_DIR/sweep.yaml names."),
    ] = False,
) -> None:
    """Follow a sweep in a browser on this machine: figures, trials, samples, what each worker does.

    Only reads the run directory. From elsewhere: ssh -L 8050:127.0.0.1:8050 MACHINE. Ctrl-C ends it.
    """
    from pareto_amb.printable import printable
    from pareto_amb.reading import is_regular
    from pareto_amb.results.run_directory import RunDirectory

    if not is_regular(RunDirectory(run_dir).sweep):
        raise UserError(f"{printable(run_dir)}: not a run directory, it holds no sweep.yaml")
    from pareto_amb.dashboards.live_server import HOST, give_way, listen, make_page

    with listen(port) as listening:
        print(f"watch it at http://{HOST}:{listening.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        give_way()
        make_page(run_dir, listening, trust_run).serve_forever()
