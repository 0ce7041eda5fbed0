"""What commands print to: one console, and one bar for work that is counted.

Text from outside, be it a file's name or a trial's error, reaches a terminal through here alone: without
control characters, and never read as markup.
"""

import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from pareto_amb.printable import printable_lines

ShowCount = Callable[[int, int], None]
"""Called with what is done and the total."""


class _PrintableConsole(Console):
    """A console that writes no control character but its own."""

    @property
    def file(self) -> IO[str]:
        """The stream behind those that stand in for it: where Ray runs, it is another one than before."""
        found: Any = self._file or sys.stdout
        while (behind := getattr(found, "rich_proxied_file", None)) is not None:
            found = behind
        return found  # type: ignore[no-any-return]

    @file.setter
    def file(self, stream: IO[str]) -> None:
        self._file = stream

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's; on a terminal lines of text are wrapped between words alone, and nothing is cut off."""
        if self.is_terminal and options.get("soft_wrap") is None and all(isinstance(o, str) for o in objects):
            text = options.pop("sep", " ").join(objects)
            objects = ("\n".join(wrapped(line, self.width) for line in text.split("\n")),)
        super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable_lines(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable_lines(segment.text))


def wrapped(line: str, width: int) -> str:
    """A line in lines of at most so many characters, as far as its words are that short."""
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )  # fmt: skip


def make_console(quiet: bool = False) -> Console:
    """A console that colours no numbers, and prints text of any origin as it is.

    Lines stay whole; on a terminal they are wrapped between words.
    """
    return _PrintableConsole(highlight=False, soft_wrap=True, quiet=quiet, markup=False, emoji=False)


@contextmanager
def counting(console: Console, what: str) -> Iterator[ShowCount]:
    """Show a bar named `what` on a terminal, nothing elsewhere; it is gone at the end of the block."""
    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def format_duration(seconds: float) -> str:
    """Seconds as `42s`, `3m05s` or `2h07m`."""
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def format_speed(per_second: float) -> str:
    """So many a second, three digits at least."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"
