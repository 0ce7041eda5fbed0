"""An image set as one zip that every later load reads: square PNG images of one size, and labels."""

import io
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pareto_amb.config import DataConfig
from pareto_amb.config_file import parse
from pareto_amb.data.files import LABEL_FILE
from pareto_amb.data.image_set import Changes, Pictures, Progress, describe_changes, open_pictures
from pareto_amb.errors import UserError
from pareto_amb.reading import expand, is_folder, look_at
from pareto_amb.storage import check_output, replace_file, writing

NAMED_SETS = ("cifar10",)
AT_ONCE = 64
"""Images that are in memory together, encoded."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of every entry, so that the same images make the same bytes."""


@dataclass(frozen=True)
class Prepared:
    """What was written; `n_classes` is 0 without labels, `notes` say what was done to the images."""

    images: int
    n_classes: int
    notes: tuple[str, ...]


def prepare(
    source: str, output: Path, resolution: int, channels: int, progress: Progress | None = None
) -> Prepared:
    """Write the images of `source` to the zip `output`, whole or not at all, in EDM's layout.

    `source` is a folder, a zip or one of NAMED_SETS. Entries are uncompressed PNG images, cropped and
    resized as `load_images` does it, and a `dataset.json` with the labels: those of the source's own
    `dataset.json`, else one class for each first-level folder, else null. A few images are in memory
    at a time, however large the set is.

    Raises UserError, naming the culprit, for a source that is missing, broken or hostile, and for an
    output that exists, lies inside the source or cannot be written.
    """
    config = _data_config(source, resolution, channels)
    _check_output(output, config)
    with open_pictures(config, _are_classes) as pictures, writing(output), replace_file(output) as temporary:
        counts = _write(temporary, pictures, progress)
    notes = (*pictures.notes, *describe_changes(counts, pictures.total))
    n_classes = 0 if pictures.labels is None else len(set(pictures.labels))
    return Prepared(pictures.total, n_classes, notes)


def _data_config(source: str, resolution: int, channels: int) -> DataConfig:
    shape = {"resolution": resolution, "channels": channels}
    if source in NAMED_SETS:
        place = {"source": source}
    elif source and look_at(path := expand(source)) is not None:
        place = {"source": "images", "path": str(path.absolute())}
    else:
        named = ", ".join(NAMED_SETS)
        raise UserError(f"{source!r}: nothing there; give a folder or zip of images, or one of: {named}")
    return parse(DataConfig, place | shape, "data prepare")


def _check_output(output: Path, config: DataConfig) -> None:
    if look_at(output) is not None:
        raise UserError(f"{output}: is already there; remove it, or name another --output")
    if not is_folder(output.parent):
        raise UserError(f"{output}: there is no folder {str(output.parent)!r}; make it first")
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


def _write(path: Path, pictures: Pictures, progress: Progress | None) -> Counter[str]:
    """Write the zip; returns how often each change was made."""
    counts: Counter[str] = Counter()
    names = [f"img/{index // 1000:05}/img{index:08}.png" for index in range(pictures.total)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for done, (content, changes) in enumerate(_encoded(pictures), start=1):
            archive.writestr(zipfile.ZipInfo(names[done - 1], _EPOCH), content)
            counts.update(changes)
            if progress:
                progress(done, pictures.total)
        labels = None
        if pictures.labels is not None:
            labels = [[name, int(label)] for name, label in zip(names, pictures.labels, strict=True)]
        archive.writestr(zipfile.ZipInfo(LABEL_FILE, _EPOCH), json.dumps({"labels": labels}))
    return counts


def _encoded(pictures: Pictures) -> Iterator[tuple[bytes, Changes]]:
    """The images in order, as PNG files, made on all cores, AT_ONCE at a time."""

    def encode(index: int) -> tuple[bytes, Changes]:
        pixels, changes = pictures.load(index)
        buffer = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0).squeeze()).save(buffer, "PNG")
        return buffer.getvalue(), changes

    executor = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="encode")
    try:
        for start in range(0, pictures.total, AT_ONCE):
            yield from executor.map(encode, range(start, min(start + AT_ONCE, pictures.total)))
    finally:
        executor.shutdown(cancel_futures=True)
