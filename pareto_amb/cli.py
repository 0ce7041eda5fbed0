"""The command line: which commands there are, and what a user's mistake looks like.

Each command is a file of `commands/`; everything heavy is imported inside it.
"""

import sys
from typing import Annotated

import typer

from pareto_amb.commands.encode import encode
from pareto_amb.commands.evaluate import evaluate
from pareto_amb.commands.prepare import prepare
from pareto_amb.commands.recommend import recommend
from pareto_amb.commands.report import report
from pareto_amb.commands.sample import sample
from pareto_amb.commands.scan import scan
from pareto_amb.commands.spaces import spaces
from pareto_amb.commands.sweep import sweep
from pareto_amb.commands.train import train
from pareto_amb.errors import UserError, print_error

app = typer.Typer(
    name="pareto-amb",
    help="Find the noise level sigma_tn above which a diffusion model should see only noisy images, so "
    "that it stops copying its training set. Start with: pareto-amb sweep digits",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (spaces, sweep, report, recommend, train, sample, scan, evaluate, encode):
    app.command()(command)

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
data_app.command()(prepare)
app.add_typer(data_app, name="data", help="Bring images into the form that sweeps read fastest.")


def main() -> None:
    """Run the command line; a UserError becomes one line on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        print_error(error)
        sys.exit(2)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"pareto-amb {version('pareto-amb')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


@data_app.callback()
def _data() -> None:
    """Keep `prepare` a command of its own, though it is the only one."""
