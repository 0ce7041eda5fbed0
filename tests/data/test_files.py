import io
import json
import os
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from pareto_amb.data import files
from pareto_amb.data.files import open_files, read_labels
from pareto_amb.errors import UserError

PNG = io.BytesIO()
Image.new("RGB", (4, 4)).save(PNG, "PNG")
IMAGE = PNG.getvalue()


def make_zip(path: Path, entries: dict[str, bytes], method=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def labelled(path: Path, labels: object) -> Path:
    content = json.dumps({"labels": labels}).encode()
    return make_zip(path, {"0/a.png": IMAGE, "0/b.png": IMAGE, "dataset.json": content})


def read_all(path: Path) -> None:
    with open_files(path) as found:
        read_labels(path, found, from_folders=True)
        for name in found.names:
            found.read(name)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_all(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "set.zip"


def test_a_zip_yields_its_images_sorted_and_nothing_else(path: Path):
    entries = ["b/1.png", "a.JPG", ".x.png", "__MACOSX/._a.png", "notes.txt", "b/"]
    make_zip(path, dict.fromkeys(entries, b"1"))
    with open_files(path) as found:
        assert found.names == ("a.JPG", "b/1.png")
        assert found.read("a.JPG") == b"1"
        assert found.label_file is None


@pytest.mark.parametrize(
    "name", ["/etc/0.png", "../0.png", "a/../../0.png", "..\\0.png", "C:\\0.png", "\\\\host\\0.png"]
)
def test_an_entry_that_points_outside_is_named(path: Path, name: str):
    message = refusal(make_zip(path, {"ok.png": IMAGE, name: IMAGE}))
    assert "points outside" in message
    assert repr(name) in message


def test_an_encrypted_entry_is_named(path: Path):
    content = bytearray(make_zip(path, {"a.png": IMAGE}).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "'a.png' is encrypted" in refusal(path)


@pytest.mark.parametrize("kept", [0, 30, 0.5, 0.95])
def test_a_truncated_zip_is_named(path: Path, kept: float):
    content = make_zip(path, {"a.png": IMAGE, "b.png": IMAGE}).read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    assert "cut short" in refusal(path)


def test_a_damaged_entry_is_named(path: Path):
    content = bytearray(make_zip(path, {"a.png": IMAGE}).read_bytes())
    content[50] ^= 255
    path.write_bytes(content)
    assert "'a.png' is damaged" in refusal(path)


def test_an_entry_that_unpacks_to_more_than_it_declares_is_refused(path: Path):
    make_zip(path, {"a.png": bytes(10**6)}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02") + 24
    content[start : start + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    assert "'a.png' is damaged" in refusal(path)


def test_a_huge_entry_is_named_before_it_is_read(path: Path):
    make_zip(path, {"a.png": IMAGE})
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02") + 24
    content[start : start + 4] = (256 * 2**20 + 1).to_bytes(4, "little")
    path.write_bytes(content)
    assert "'a.png' has 268,435,457 bytes" in refusal(path)


def test_a_huge_file_of_a_folder_is_named(tmp_path: Path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(files.MAX_IMAGE_BYTES + 1)  # sparse: takes no space
    assert "a.png" in refusal(tmp_path)


def test_an_unusual_compression_is_named(path: Path):
    assert "method 14" in refusal(make_zip(path, {"a.png": IMAGE}, zipfile.ZIP_LZMA))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(path: Path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", IMAGE)
        archive.writestr("a.png", IMAGE)
    assert "'a.png' is in the zip twice" in refusal(path)


def test_a_zip_without_images_is_refused(path: Path):
    assert "no images in" in refusal(make_zip(path, {"a.txt": b""}))


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(IMAGE)
    assert "not a zip" in refusal(tmp_path / "a.png")


def test_a_pipe_and_a_dangling_link_are_named(tmp_path: Path):
    os.mkfifo(tmp_path / "a.png")
    assert "not a regular file" in refusal(tmp_path)
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.png").symlink_to("nowhere")
    assert "cannot be read (No such file" in refusal(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_without_permission_is_named(tmp_path: Path):
    (tmp_path / "closed").mkdir(mode=0)
    assert "closed': cannot be read" in refusal(tmp_path)


def test_labels_follow_the_images_not_the_json(path: Path):
    labelled(path, [["0/b.png", 7], ["0/a.png", 2]])
    with open_files(path) as found:
        assert read_labels(path, found, from_folders=False) == (2, 7)


def test_null_labels_are_no_labels_even_in_folders(path: Path):
    labelled(path, None)
    with open_files(path) as found:
        assert read_labels(path, found, from_folders=True) is None


@pytest.mark.parametrize("label", [-1, 1.5, True, "3", None, [0, 1], files.MAX_CLASSES, 10**400], ids=str)
def test_a_label_that_is_no_small_whole_number_is_refused(path: Path, label: object):
    message = refusal(labelled(path, [["0/a.png", 0], ["0/b.png", label]]))
    assert "is not [name, class]" in message
    assert "0/b.png" in message


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"0/a.png": 1}, "must be a list"),
        ([["0/a.png"]], "is not [name, class]"),
        ([["0/a.png", 0], ["0/b.png", 0], ["0/c.png", 0]], "names '0/c.png', which is not there"),
        ([["0/a.png", 0]], "no label for '0/b.png'"),
        ([["0/a.png", 0], ["0/a.png", 1]], "names '0/a.png' twice"),
    ],
)
def test_labels_that_do_not_fit_are_refused(path: Path, labels: object, said: str):
    assert said in refusal(labelled(path, labels))


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\xff", b"[" * 100_000, b"1" * 10_000])
def test_a_dataset_json_that_is_not_json_is_refused(path: Path, content: bytes):
    assert "is not JSON" in refusal(make_zip(path, {"a.png": IMAGE, "dataset.json": content}))


def test_a_dataset_json_that_is_no_mapping_is_refused(path: Path):
    message = refusal(make_zip(path, {"a.png": IMAGE, "dataset.json": b"[]"}))
    assert "must be a mapping" in message


def test_a_huge_dataset_json_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "MAX_LABEL_BYTES", 10)
    assert "'dataset.json' has" in refusal(labelled(path, None))
