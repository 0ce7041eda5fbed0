"""The command line: which commands there are, and what a user's mistake looks like.

Each command is a file of `commands/`; everything heavy is imported inside it.
"""

import errno
import os
import sys
from typing import IO, Annotated

import typer

from pareto_amb.commands.audit import audit
from pareto_amb.commands.doctor import doctor
from pareto_amb.commands.encode import encode
from pareto_amb.commands.evaluate import evaluate
from pareto_amb.commands.explain import explain
from pareto_amb.commands.fetch import fetch
from pareto_amb.commands.mlflow import register, sync
from pareto_amb.commands.prepare import prepare
from pareto_amb.commands.recommend import recommend
from pareto_amb.commands.report import report
from pareto_amb.commands.sample import sample
from pareto_amb.commands.scan import scan
from pareto_amb.commands.spaces import spaces
from pareto_amb.commands.split import split
from pareto_amb.commands.sweep import sweep
from pareto_amb.commands.train import train
from pareto_amb.commands.watch import watch
from pareto_amb.errors import ExitCode, UserError, print_error, print_fault
from pareto_amb.printable import PrintableStream, printable_stdout, reason
from pareto_amb.signals import stoppable

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}

app = typer.Typer(
    name="pareto-amb",
    help="Find the noise level sigma_tn above which a diffusion model should see only noisy images, so "
    "that it stops copying its training set. Start with: pareto-amb sweep digits",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    spaces, sweep, watch, report, recommend, train, sample, scan, evaluate, audit, explain, encode, doctor
):  # fmt: skip
    app.command()(command)

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
data_app.command()(prepare)
data_app.command()(split)
app.add_typer(
    data_app, name="data", help="Image sets: one zip that sweeps read fastest, and what they train on."
)

weights_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
weights_app.command()(fetch)
app.add_typer(weights_app, name="weights", help="Fetch the weights of encoders and pretrained models.")

mlflow_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
mlflow_app.command()(sync)
mlflow_app.command()(register)
app.add_typer(mlflow_app, name="mlflow", help="Bring MLflow up to date with a run; register its model.")


def main() -> None:
    """Run the command line; whatever goes wrong becomes one line on stderr and an exit code."""
    stdout = sys.stdout
    try:
        with printable_stdout():
            code = _run()
    finally:
        _flush(stdout)
    sys.exit(code)


def _run() -> int:
    """Run the command that the arguments name; its exit code."""
    try:
        with stoppable():
            return int(app(standalone_mode=False) or 0)
    except UserError as error:
        print_error(error)
        return error.exit_code
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            print_error(
                UserError(f"{error.filename or 'standard output'}: cannot be written ({reason(error)})")
            )
            return ExitCode.FAILED
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # typer's, of whichever click it has
            error.show(file=PrintableStream(sys.stderr))
            return int(error.exit_code)
        print_fault(error)
        return ExitCode.FAILED


def _flush(stdout: IO[str] | None) -> None:
    """Write out what was printed; a reader that has gone, as `head` does, is no error."""
    try:
        if stdout is not None:
            stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python tries again at its end, and complains
        if not isinstance(error, BrokenPipeError):
            print_error(UserError(f"standard output: cannot be written ({reason(error)})"))
            sys.exit(ExitCode.FAILED)


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


@weights_app.callback()
def _weights() -> None:
    """Keep `fetch` a command of its own, though it is the only one."""
