"""An image set as one zip that every later load reads: square PNG images of one size, labels and captions."""

import io
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from pareto_amb.config import DataConfig
from pareto_amb.config_file import parse
from pareto_amb.data.captions import Uncaptioned
from pareto_amb.data.files import LABEL_FILE, MAX_LABEL_BYTES, listed
from pareto_amb.data.image_set import Changes, ImageSet, Pictures, Progress, describe_changes, open_pictures
from pareto_amb.errors import UserError
from pareto_amb.reading import expand, is_folder, is_there, look_at
from pareto_amb.storage import check_output, replace_file, writing

NAMED_SETS = ("cifar10",)
AT_ONCE = 64
"""Images that are in memory together, encoded."""

_MOST_NAMED = 20
"""Broken images that an error or a note names."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of every entry, so that the same images make the same bytes."""


@dataclass(frozen=True)
class Prepared:
    """What was written; `n_classes` is 0 without labels, `notes` say what was done to the images."""

    images: int
    n_classes: int
    captioned: bool
    notes: tuple[str, ...]


@dataclass
class _Written:
    """The indices of the images that were written, what was done to them, and what is wrong with others."""

    kept: list[int] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)
    problems: dict[int, str] = field(default_factory=dict)


def prepare(
    source: str,
    output: Path,
    resolution: int,
    channels: int,
    progress: Progress | None = None,
    *,
    captions: bool = True,
    skip_uncaptioned: bool = False,
    skip_corrupt: bool = False,
) -> Prepared:
    """Write the images of `source` to the zip `output`, whole or not at all, in EDM's layout.

    `source` is a folder, a zip, tars or one of NAMED_SETS. Entries are uncompressed PNG images, cropped and
    resized as `load_images` does it, and a `dataset.json`. That has the labels: those of the source's own
    `dataset.json`, else one class for each first-level folder, else null; with `captions`, those of the
    source, where it has any; and which file each image was made of. A few images are in memory at a time,
    however large the set is.

    Raises UserError, naming the culprit, for a source that is missing, broken or hostile, for images without
    a caption among others and for broken ones, unless they are to be skipped, and for an output that exists,
    lies inside the source or cannot be written.
    """
    config = _data_config(source, resolution, channels)
    _check_output(output, config)
    option = "--skip-uncaptioned, or all captions with --no-captions"
    rule = Uncaptioned(skip_uncaptioned, option) if captions else None
    with (
        open_pictures(config, _are_classes, rule) as pictures,
        writing(output),
        replace_file(output) as temporary,
    ):
        written = _write(temporary, pictures, skip_corrupt, progress)
    broken = [pictures.names[index] for index in written.problems]
    left_out = f"broken images are left out: {len(broken)} of {pictures.total}"
    notes = (
        *pictures.notes,
        *([f"{left_out} ({listed(broken, _MOST_NAMED)})"] if broken else []),
        *describe_changes(written.changes, len(written.kept)),
    )
    classes = {pictures.labels[index] for index in written.kept} if pictures.labels is not None else set()
    return Prepared(len(written.kept), len(classes), pictures.captions is not None, notes)


def write_subset(image_set: ImageSet, index: Sequence[int], output: Path) -> int:
    """Write the images at `index` to the zip `output` as `prepare` does, and count them.

    Raises UserError for an output that exists or cannot be written.
    """
    images, names, labels, captions = image_set.images, image_set.names, image_set.labels, image_set.captions
    _check_absent(output)
    pictures = Pictures(
        image_set.name,
        len(index),
        lambda k: (images[index[k]].numpy(), ()),
        None if labels is None else [int(labels[k]) for k in index],
        names=[names[k] for k in index] if names else (),
        captions=None if captions is None else [captions[k] for k in index],
    )
    with writing(output), replace_file(output) as temporary:
        _write(temporary, pictures, False, None)
    return len(index)


def _data_config(source: str, resolution: int, channels: int) -> DataConfig:
    shape = {"resolution": resolution, "channels": channels}
    if source in NAMED_SETS:
        place = {"source": source}
    elif source and is_there(path := expand(source)):
        place = {"source": "images", "path": str(path.absolute())}
    else:
        named = ", ".join(NAMED_SETS)
        raise UserError(f"{source!r}: nothing there; give a folder, zip or tar of images, or one of: {named}")
    return parse(DataConfig, place | shape, "data prepare")


def _check_absent(output: Path) -> None:
    if look_at(output) is not None:
        raise UserError(f"{output}: is already there; remove it, or name another --output")
    if not is_folder(output.parent):
        raise UserError(f"{output}: there is no folder {str(output.parent)!r}; make it first")


def _check_output(output: Path, config: DataConfig) -> None:
    _check_absent(output)
    if config.path and output.resolve().is_relative_to(Path(config.path).resolve()):
        raise UserError(f"{output}: lies inside the source {config.path}; name an --output outside of it")
    check_output(output)


def _are_classes(names: Sequence[str]) -> bool:
    """True when every image is in one of two or more folders that are not mere shards of a large set."""
    folders = {name.partition("/")[0] if "/" in name else "" for name in names}
    return len(folders) > 1 and "" not in folders and not all(map(_is_in_shard, names))


def _is_in_shard(name: str) -> bool:
    """True for image n in the folder of its thousand: 02000/02417.png (FFHQ), 00002/img00002417.png (EDM)."""
    found = re.fullmatch(r"([0-9]{5})/[^/0-9]*([0-9]{5,})\.\w+", name)
    if found is None:
        return False
    thousand = int(found[2]) // 1000
    return int(found[1]) in (thousand, 1000 * thousand)


def _write(path: Path, pictures: Pictures, skip_corrupt: bool, progress: Progress | None) -> _Written:
    """Write the zip, or refuse it when all broken images are known."""
    _table(pictures, range(pictures.total))  # hours before it would be refused
    written = _Written()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for index, (content, changes, problem) in enumerate(_encoded(pictures)):
            if problem:
                written.problems[index] = problem
            elif skip_corrupt or not written.problems:
                archive.writestr(zipfile.ZipInfo(_entry(len(written.kept)), _EPOCH), content)
                written.kept.append(index)
                written.changes.update(changes)
            if progress:
                progress(index + 1, pictures.total)
        if written.problems and not (skip_corrupt and written.kept):
            raise _broken(pictures, written.problems, skip_corrupt)
        archive.writestr(zipfile.ZipInfo(LABEL_FILE, _EPOCH), _table(pictures, written.kept))
    return written


def _entry(number: int) -> str:
    return f"img/{number // 1000:05}/img{number:08}.png"


def _broken(pictures: Pictures, problems: dict[int, str], skip_corrupt: bool) -> UserError:
    first, some = next(iter(problems.values())), f"{len(problems):,} of {pictures.total:,} images"
    if skip_corrupt:
        return UserError(f"{pictures.name}: none of its {pictures.total:,} images can be decoded; {first}")
    if len(problems) == 1:
        return UserError(f"{first}, or leave it out with --skip-corrupt")
    names = listed([pictures.names[index] for index in problems], _MOST_NAMED)
    return UserError(
        f"{pictures.name}: {some} are broken: {names}; replace or remove them, or leave them out with "
        "--skip-corrupt"
    )


def _table(pictures: Pictures, kept: Iterable[int]) -> str:
    """The dataset.json of those images. UserError where it would be too long to be read again."""
    named = [(_entry(number), index) for number, index in enumerate(kept)]
    labels, captions, names = pictures.labels, pictures.captions, pictures.names
    table: dict[str, list[tuple[str, int | str]] | None] = {
        "labels": None if labels is None else [(entry, int(labels[index])) for entry, index in named]
    }
    if captions is not None:
        table["captions"] = [(entry, captions[index]) for entry, index in named]
    if names:
        table["names"] = [(entry, names[index]) for entry, index in named]
    content = json.dumps(table)
    if len(content) > MAX_LABEL_BYTES:
        raise UserError(
            f"{pictures.name}: its {LABEL_FILE} would have {len(content):,} bytes, more than "
            f"{MAX_LABEL_BYTES:,}; prepare fewer images, or shorten names and captions"
        )
    return content


def _encoded(pictures: Pictures) -> Iterator[tuple[bytes, Changes, str]]:
    """The images in order, as PNG files, made on all cores, AT_ONCE at a time; or what is wrong with them."""

    def encode(index: int) -> tuple[bytes, Changes, str]:
        try:
            pixels, changes = pictures.load(index)
        except UserError as error:
            return b"", (), str(error)
        buffer = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0).squeeze()).save(buffer, "PNG")
        return buffer.getvalue(), changes, ""

    executor = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="encode")
    try:
        for start in range(0, pictures.total, AT_ONCE):
            yield from executor.map(encode, range(start, min(start + AT_ONCE, pictures.total)))
    finally:
        executor.shutdown(cancel_futures=True)
