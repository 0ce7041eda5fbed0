import gzip
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from pareto_amb.data import files
from pareto_amb.data.files import open_files, read_labels
from pareto_amb.errors import UserError
from pareto_amb.reading import shards_of

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


# Tars.


def make_tar(path: Path, entries: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in entries.items():
            add(archive, name, content)
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields: object) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for field, value in fields.items():
        setattr(entry, field, value)
    archive.addfile(entry, io.BytesIO(content))


LONG = "x" * 300


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_yields_its_images_and_their_captions(tmp_path: Path, form: int):
    long = {} if form == tarfile.USTAR_FORMAT else {f"{LONG}.png": b"3"}
    entries = {"./b.jpg": b"2", "b.txt": b"two", ".x.png": b"", "a/1.PNG": b"1", "c.json": b"{}", **long}
    path = make_tar(tmp_path / "set.tar", entries, form)
    with open_files(path, captions=True) as found:
        assert found.names == ("a/1.PNG", "b.jpg", *(f"{LONG}.png" for _ in long))
        assert found.texts == ("b.txt",)
        assert [found.read(name) for name in (*found.names, "b.txt")] == [b"1", b"2", *long.values(), b"two"]


def test_shards_are_one_set_by_pattern_and_by_folder(tmp_path: Path):
    for number in range(9, 12):
        make_tar(tmp_path / f"s-{number:03}.tar", {f"{number}.png": IMAGE, f"{number}.txt": b"a"})
    names = ("10.png", "11.png", "9.png")
    for path in (tmp_path, tmp_path / "s-{009..011}.tar"):
        with open_files(path, captions=True) as found:
            assert found.names == names
            assert all(found.read(name) == IMAGE for name in names)
    assert [path.name for path in shards_of(Path("x/s{8..11}.tar"))] == [
        "s8.tar",
        "s9.tar",
        "s10.tar",
        "s11.tar",
    ]
    assert shards_of(Path("x/s{8..11}.zip")) == shards_of(Path("{0..1}{0..1}.tar")) == []
    assert "s-012.tar" in one_line(tmp_path / "s-{009..012}.tar")
    make_tar(tmp_path / "s-012.tar", {"./9.png": IMAGE})
    assert "s-009.tar: '9.png' is in " in one_line(tmp_path)


def one_line(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_all(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b.png", "C:\\a.png", "..\\a.png"])
def test_a_tar_entry_that_points_outside_is_named(tmp_path: Path, name: str):
    assert "points outside of the tar" in refusal(make_tar(tmp_path / "set.tar", {name: IMAGE}))


@pytest.mark.parametrize(
    "fields",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "b.png"},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.CHRTYPE},
    ],
)
def test_a_tar_entry_that_is_no_file_is_refused(tmp_path: Path, fields: dict[str, object]):
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        add(archive, "a.png", **fields)
    assert "'a.png' is a link, a device or has holes" in refusal(tmp_path / "set.tar")


@pytest.mark.parametrize("cut", [100, 512, 700, 1024, 1300, 1536])
def test_a_tar_that_is_cut_short_is_refused(tmp_path: Path, cut: int):
    """In a header, after it, in an image, and where the end should be."""
    path = make_tar(tmp_path / "set.tar", {"a.png": b"1" * 500, "b.png": b"2" * 100})
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    assert "not a tar, or one cut short" in refusal(path)


def test_an_image_that_is_in_a_tar_twice_is_refused(tmp_path: Path):
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name in ("a.png", "./a.png"):
            add(archive, name, IMAGE)
    assert "'a.png' is in the tar twice" in refusal(tmp_path / "set.tar")


@pytest.mark.parametrize("size", ["-1", "-2048", str(2**40), "x"])
def test_a_tar_whose_headers_lie_about_a_size_is_refused(tmp_path: Path, size: str):
    with tarfile.open(tmp_path / "set.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "b.png", IMAGE)
        add(archive, "a.png", IMAGE, pax_headers={"size": size})
    refusal(tmp_path / "set.tar")


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path: Path):
    entry = tarfile.TarInfo("a.png")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 2**33
    path = tmp_path / "set.tar"
    with path.open("wb") as file:
        file.write(entry.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2**33 + 4096)  # of holes
    assert "a header of 8,589,934,592 bytes" in refusal(path)


@pytest.mark.parametrize("name", ["set.tar.gz", "set.tar"])
def test_a_compressed_tar_is_refused_with_what_to_do(tmp_path: Path, name: str):
    content = gzip.compress(make_tar(tmp_path / "plain", {"a.png": IMAGE}).read_bytes())
    (tmp_path / name).write_bytes(content)
    assert "uncompressed" in refusal(tmp_path / name)
