"""Text from outside, fit to be printed: on one line, in UTF-8, without what a terminal would act on."""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, TextIO, cast

from pareto_amb.redaction import redact

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """`text` with control characters, direction marks and bytes that are no UTF-8 written as escapes.

    Line breaks are among them: the result is one line.
    """
    return _UNPRINTABLE.sub(_escape, str(text))


def reason(error: BaseException, longest: int = 200) -> str:
    """Why something failed, on one line, without secrets; the type's name where the error says nothing."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(redact(" ".join(said.split())))[:longest] or type(error).__name__


def printable_lines(text: str) -> str:
    """As `printable`, with line breaks and tabs left as they are."""
    if text.isascii() and text.isprintable():
        return text
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


class PrintableStream:
    """A text stream that passes text of any origin on as `printable_lines`; rich writes past it."""

    def __init__(self, stream: IO[str]) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(printable_lines(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


@contextmanager
def printable_stdout() -> Iterator[None]:
    """What the block prints, by whatever means, cannot steer the terminal."""
    before = sys.stdout
    if before is not None:  # it is where it was closed
        sys.stdout = cast(TextIO, PrintableStream(before))
    try:
        yield
    finally:
        sys.stdout = before


def _escape(found: re.Match[str]) -> str:
    character = found.group()
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
