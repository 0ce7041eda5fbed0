"""What commands print to: one console, and one bar for work that is counted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

ShowCount = Callable[[int, int], None]
"""Called with what is done and the total."""


def make_console(quiet: bool = False) -> Console:
    """A console that neither wraps lines nor colours numbers."""
    return Console(highlight=False, soft_wrap=True, quiet=quiet)


@contextmanager
def counting(console: Console, what: str) -> Iterator[ShowCount]:
    """Show a bar named `what` on a terminal, nothing elsewhere; it is gone at the end of the block."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
