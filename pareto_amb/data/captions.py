"""The captions of image files: one line of text for each, from any of three forms, none of them trusted."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from pareto_amb.data.files import (
    LABEL_FILE,
    MAX_LABEL_BYTES,
    METADATA_FILE,
    ImageFiles,
    listed,
    open_files,
    parse_dataset_json,
    sidecar,
)
from pareto_amb.errors import UserError
from pareto_amb.printable import printable, reason
from pareto_amb.reading import read_text
from pareto_amb.untrusted import parse_json

MAX_CHARACTERS = 10_000
"""Of a caption."""

_MOST_NAMED = 5
"""Images without a caption that an error names."""

Line = tuple[str, str, str]
"""Where a caption stands, as messages say it, which image it is of, and the text as it stands there."""


@dataclass(frozen=True)
class Uncaptioned:
    """What becomes of images without a caption: they are left out, or refused with the `option` to do so."""

    skip: bool
    option: str


def read_captions(path: Path, files: ImageFiles, uncaptioned: Uncaptioned) -> tuple[str, ...] | None:
    """The caption of each image of `files`, in its order; None when no image has one.

    All come from the first of these that holds any: each `metadata.jsonl`, with `file_name` relative to its
    folder and `text`; `captions` in `dataset.json`, pairs of name and text; a text file beside each image.
    White space is made single, a caption without text is none. What is missing is "" if such images are to
    be skipped.

    Raises UserError when one of the files cannot be used, or an image that is not to be skipped lacks a
    caption.
    """
    for remedy, read in _FORMS.items():
        captions = _table(files.names, read(path, files))
        if any(captions.values()):
            missing = [name for name in files.names if not captions.get(name)]
            if missing and not uncaptioned.skip:
                raise UserError(
                    f"{path}: {len(missing):,} of {len(files.names):,} images have no caption: "
                    f"{listed(missing, _MOST_NAMED)}; {remedy}, or leave them out with {uncaptioned.option}"
                )
            return tuple(captions.get(name, "") for name in files.names)
    return None


def captions_of(path: Path) -> tuple[str, ...] | None:
    """As `read_captions`, of all images of a folder or a zip, in their order; "" where missing."""
    with open_files(path, captions=True) as files:
        return read_captions(path, files, Uncaptioned(skip=True, option=""))


def captions_in(table: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The captions in a file of lines as in `metadata.jsonl`, by the `names` of images; "" where missing.

    Raises UserError when it cannot be used.
    """
    content = read_text(table, MAX_LABEL_BYTES).removeprefix("\ufeff")
    lines = _lines(printable(table), content, PurePosixPath())
    captions = _table(names, lines)
    return tuple(captions.get(name, "") for name in names)


def _table(names: Sequence[str], lines: Iterable[Line]) -> dict[str, str]:
    """Captions by image."""
    known, captions = set(names), dict[str, str]()
    for shown, name, text in lines:
        if name not in known:
            raise UserError(f"{shown} names {name!r:.200}, which is not there; remove that line")
        if name in captions:
            raise UserError(f"{shown} names {name!r:.200} twice; keep one line")
        captions[name] = _on_one_line(f"{shown}: the caption of {name!r:.200}", text)
    return captions


def _on_one_line(shown: str, text: str) -> str:
    line = " ".join(text.split())
    if len(line) > MAX_CHARACTERS:
        raise UserError(f"{shown} has {len(line):,} characters, more than {MAX_CHARACTERS:,}; shorten it")
    if printable(line) != line:
        culprit = next(printable(character) for character in line if printable(character) != character)
        raise UserError(f"{shown} holds the control character {culprit}; remove it")
    return line


def _from_metadata(path: Path, files: ImageFiles) -> Iterator[Line]:
    tables = [name for name in files.texts if PurePosixPath(name).name == METADATA_FILE]
    for name, (shown, content) in zip(tables, _texts(path, files, tables), strict=True):
        yield from _lines(shown, content, PurePosixPath(name).parent)


def _lines(shown: str, content: str, folder: PurePosixPath) -> Iterator[Line]:
    """Those of a metadata.jsonl in `folder`."""
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            place = f"{shown}, line {number},"
            file_name, text = _parse_line(place, line)
            yield place, (folder / file_name).as_posix(), text


def _parse_line(place: str, line: str) -> tuple[str, str]:
    """`file_name` and `text`; no text is an empty one."""
    try:
        found = parse_json(line)
    except ValueError as error:
        raise UserError(f"{place} is not JSON ({reason(error)}); write it again") from error
    match found:
        case {"file_name": str(name), "text": str(text)}:
            return name, text
        case {"file_name": str(name)} if found.get("text") is None:
            return name, ""
    _refuse(place, found, '{"file_name": "a.png", "text": "a caption"}')


def _from_dataset_json(path: Path, files: ImageFiles) -> Iterator[Line]:
    if files.label_file is None:
        return
    shown = f"{path}: {LABEL_FILE}"
    pairs = parse_dataset_json(shown, files.label_file).get("captions")
    if pairs is None:
        return
    if not isinstance(pairs, list):
        raise UserError(f'{shown}: "captions" must be a list of [name, text] pairs, or null')
    for pair in pairs:
        match pair:
            case [str(name), str(text)]:
                yield shown, name, text
            case [str(name), None]:
                yield shown, name, ""
            case _:
                _refuse(f"{shown}:", pair, "[name, text]")


def _refuse(place: str, found: object, form: str) -> NoReturn:
    raise UserError(f"{place} {found!r:.200} is not {form}; correct it")


def _from_sidecars(path: Path, files: ImageFiles) -> Iterator[Line]:
    there = set(files.texts)
    images = [name for name in files.names if sidecar(name) in there]
    texts = _texts(path, files, [sidecar(name) for name in images])
    for name, (shown, text) in zip(images, texts, strict=True):
        yield shown, name, text


def _texts(path: Path, files: ImageFiles, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What messages call each file, and its text; a mark of the byte order in front is left out."""
    left = MAX_LABEL_BYTES
    for name in names:
        shown = f"{path}: {name!r:.200}"
        content = files.read(name)
        left -= len(content)
        if left < 0:
            raise UserError(f"{path}: more than {MAX_LABEL_BYTES:,} bytes of captions; shorten them")
        try:
            yield shown, content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{shown} is not UTF-8 ({reason(error)}); save it as UTF-8") from error


_FORMS: dict[str, Callable[[Path, ImageFiles], Iterator[Line]]] = {
    f"add their lines to {METADATA_FILE}": _from_metadata,
    f'add them to "captions" of {LABEL_FILE}': _from_dataset_json,
    "add a text file beside each": _from_sidecars,
}
"""How captions are added to what holds the others; how they are read."""
