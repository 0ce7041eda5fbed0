"""What was worked out of images, in files: there as a whole or not at all, and mapped as it was written."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pareto_amb.data.encoded import FOLDER, EncodedFiles, read_note, write_encoded
from pareto_amb.errors import UserError
from pareto_amb.storage import Storage

OF = "ab" * 32
MEAN = torch.arange(60, dtype=torch.float32).reshape(5, 3, 2, 2)
TEXT = torch.arange(20, dtype=torch.float32).reshape(5, 4).half()


def parts() -> Iterator[dict[str, Tensor]]:
    for rows in (slice(0, 2), slice(2, 4), slice(4, 5)):
        yield {"mean": MEAN[rows], "text": TEXT[rows]}


def written(storage: Storage) -> EncodedFiles:
    assert list(write_encoded(storage, OF, 5, parts())) == [2, 4, 5]
    files = read_note(storage, OF)
    assert files is not None
    return files


def test_rows_are_mapped_as_they_were_written_and_never_changed(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    files = written(storage)
    found = files.open(storage)
    assert {name: value.dtype for name, value in found.items()} == {
        "mean": torch.float32,
        "text": torch.float16,
    }
    assert torch.equal(found["mean"], MEAN)
    assert torch.equal(found["text"], TEXT)
    found["mean"].zero_()  # of this process alone
    assert torch.equal(files.open(storage)["mean"], MEAN)
    assert read_note(storage, "cd" * 32) is None


def test_files_that_are_cut_off_are_not_there(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    writing = write_encoded(storage, OF, 5, parts())
    next(writing)
    writing.close()
    assert read_note(storage, OF) is None
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_a_storage_that_is_no_folder_is_fetched_from_once_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path / "remote"))
    storage._local = False
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files = written(storage)
    assert torch.equal(files.open(storage)["text"], TEXT)
    for array in (tmp_path / "remote" / FOLDER).glob("*.npy"):
        array.unlink()
    assert torch.equal(files.open(storage)["mean"], MEAN)
    (cache,) = tmp_path.glob("pareto-amb-*")
    assert cache.stat().st_mode & 0o077 == 0
    cache.chmod(0o777)
    with pytest.raises(UserError, match="not a folder of yours alone; remove it, or set TMPDIR"):
        files.open(storage)


@pytest.mark.parametrize(
    "changes",
    [
        {"mark": "../x"},
        {"count": "5"},
        {"arrays": {"../mean": ["float32", [3]]}},
        {"arrays": {"mean": ["object", [3]]}},
        {"arrays": {"mean": ["float32", [-3]]}},
        {"arrays": []},
    ],
)
def test_a_note_that_no_sweep_wrote_counts_for_nothing(tmp_path: Path, changes: dict[str, object]) -> None:
    storage = Storage(str(tmp_path))
    written(storage)
    note = tmp_path / FOLDER / "encoded.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), **changes}))
    assert read_note(storage, OF) is None


@pytest.mark.parametrize("damage", ["cut short", "another shape", "pickled", "no array"])
def test_an_array_that_was_replaced_is_refused(tmp_path: Path, damage: str) -> None:
    storage = Storage(str(tmp_path))
    files = written(storage)
    (path,) = (tmp_path / FOLDER).glob("*mean.npy")
    content = path.read_bytes()
    if damage == "another shape":
        np.save(path, np.zeros((5, 3, 2, 1), np.float32))
    elif damage == "pickled":
        np.save(path, np.array([{"a": 1}] * 5), allow_pickle=True)
    else:
        path.write_bytes(content[:-8] if damage == "cut short" else b"not one")
    with pytest.raises(UserError, match="not what the sweep left there") as said:
        files.open(storage)
    assert "\n" not in str(said.value)
