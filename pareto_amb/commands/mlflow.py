"""`mlflow sync` and `mlflow register`: what MLflow missed of a run, and its recommended model there."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

TrustRun = Annotated[
    bool,
    typer.Option("--trust-run", help="The run is your own: call the server and storage that its files name."),
]


def sync(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR")],
    trust_run: TrustRun = False,
) -> None:
    """Log to MLflow what it lacks of a run: after its server was gone, or on another one.

    MLFLOW_TRACKING_URI names the server, as for sweep.
    """
    from pareto_amb.running.sync import sync_run

    done = sync_run(run_dir, trust_run)
    print(f"logged {done.logged} to MLflow at {done.uri}")
    for command in how_to_look(done.uri, done.link):
        print(f"  {command}")


def register(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR")],
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model to add a version to, or a new one.")
    ],
    train_size: Annotated[
        int | None, typer.Option(help="Which train size, where the run recommends for several.")
    ] = None,
    trust_run: TrustRun = False,
) -> None:
    """Register the recommended model of a run in MLflow, with its verdict, figures and cautions.

    It is the checkpoint of a training that ended where the recommended one stops, for `pareto-amb sample`.
    What MLflow lacks of the run is logged first. Registering it again changes nothing.
    """
    from pareto_amb.running.register import register_model

    done = register_model(run_dir, name, train_size, trust_run)
    said = "registered" if done.new else "registered before"
    print(f"{done.trial_id}: {said} as version {done.version} of {done.name}")
    print(f"  {shlex.join(['mlflow', 'artifacts', 'download', '-u', f'models:/{done.name}/{done.version}'])}")


def how_to_look(uri: str, link: str) -> list[str]:
    """The commands that show a run in MLflow; a database below the current folder is named from there."""
    opens = [shlex.join(["open", link])] if link else []
    if uri.startswith("http"):
        return opens or [shlex.join(["open", uri])]
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:////") and path.is_relative_to(Path.cwd()):
        uri = f"sqlite:///{path.relative_to(Path.cwd())}"
    return [shlex.join(["mlflow", "ui", "--backend-store-uri", uri]), *opens]
