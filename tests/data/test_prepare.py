import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pareto_amb.config import DataConfig
from pareto_amb.data import ImageSet, image_set, load_images
from pareto_amb.data import prepare as preparing
from pareto_amb.data.decoding import decode
from pareto_amb.data.prepare import AT_ONCE, prepare
from pareto_amb.errors import UserError


def picture(seed: int, size=(12, 9), mode="RGB", kind="PNG") -> bytes:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def fill(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed, kind="JPEG" if name.endswith("jpg") else "PNG"))
    return folder


def make_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def load(path: Path, **options) -> ImageSet:
    shape = {"resolution": 8, "channels": 3} | options
    return load_images(DataConfig(source="images", path=str(path), **shape))


def table_in(path: Path) -> dict[str, object]:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("dataset.json"))


def labels_in(path: Path) -> object:
    return table_in(path)["labels"]


def refusal(source: object, output: Path, resolution=8, channels=3, **options) -> str:
    before = sorted(output.parent.rglob("*")) if output.parent.is_dir() else None
    with pytest.raises(UserError) as caught:
        prepare(str(source), output, resolution, channels, **options)
    assert "\n" not in str(caught.value)
    after = sorted(output.parent.rglob("*")) if output.parent.is_dir() else None
    assert after == before
    return str(caught.value)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "set.zip"


@pytest.mark.parametrize("size", [(150, 131), (40, 40), (9, 6)])
def test_preparing_resizes_as_pillows_plain_lanczos_does(tmp_path: Path, output: Path, size: tuple[int, int]):
    source = tmp_path / "set"
    source.mkdir()
    (source / "a.png").write_bytes(picture(0, size))
    prepare(str(source), output, 8, 3)
    side, image = min(size), Image.open(source / "a.png")
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    square = image.crop((left, top, left + side, top + side))
    plain = np.asarray(square.resize((8, 8), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    assert np.array_equal(load(output).images[0].numpy(), plain)
    assert np.array_equal(load(source).images[0].numpy(), plain)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_classes_survives_the_round_trip(tmp_path: Path, output: Path, channels: int):
    source = fill(tmp_path / "set", "dog/1.png", "cat/2.jpg", "dog/0.png", "ant/x/y.png")
    done = prepare(str(source), output, 8, channels)
    expected = load(source, channels=channels, conditional=True)
    found = load(output, channels=channels)
    assert torch.equal(found.images, expected.images)
    assert found.labels is not None
    assert torch.equal(found.labels, expected.labels)
    assert found.fingerprint == expected.fingerprint
    assert not found.notes
    assert (done.images, done.n_classes, done.notes) == (4, 3, expected.notes)


def test_the_zip_is_laid_out_as_edm_expects_and_its_bytes_repeat(tmp_path: Path, output: Path):
    source = fill(tmp_path / "set", *(f"{k:04}.png" for k in range(AT_ONCE + 3)))
    prepare(str(source), output, 8, 3)
    with zipfile.ZipFile(output) as archive:
        entries = archive.infolist()
    assert entries[0].filename == "img/00000/img00000000.png"
    assert entries[AT_ONCE + 2].filename == f"img/00000/img{AT_ONCE + 2:08}.png"
    assert entries[-1].filename == "dataset.json"
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert torch.equal(load(output).images, load(source).images)
    assert labels_in(output) is None
    prepare(str(source), tmp_path / "again.zip", 8, 3)
    assert (tmp_path / "again.zip").read_bytes() == output.read_bytes()


def test_a_labelled_zip_survives_the_round_trip(tmp_path: Path, output: Path):
    names = {"b/1.png": 4, "a/0.png": 2, "c.png": 4}
    entries = {name: picture(seed) for seed, name in enumerate(names)}
    content = json.dumps({"labels": [list(pair) for pair in names.items()]}).encode()
    source = make_zip(tmp_path / "source.zip", entries | {"dataset.json": content})
    done = prepare(str(source), output, 8, 3)
    found, expected = load(output), load(source)
    assert found.fingerprint == expected.fingerprint
    assert found.labels is not None
    assert found.labels.tolist() == [2, 4, 4]
    assert done.n_classes == 2


@pytest.mark.parametrize(
    "names",
    [
        ["00000/00007.png", "01000/01002.png", "69000/69999.png"],  # FFHQ
        ["00000/img00000007.png", "00012/img00012002.png"],  # EDM
        ["00007.png", "00008.png"],
        ["all/a.png", "all/b.png"],
        ["dog/a.png", "cat/b.png", "stray.png"],
    ],
)
def test_folders_that_are_no_classes_give_no_labels(tmp_path: Path, output: Path, names: list[str]):
    assert prepare(str(fill(tmp_path / "set", *names)), output, 8, 3).n_classes == 0
    assert labels_in(output) is None


def test_numbered_class_folders_are_classes(tmp_path: Path, output: Path):
    source = fill(tmp_path / "set", "0/00000.png", "1/00000.png", "1/00001.png")
    assert prepare(str(source), output, 8, 3).n_classes == 2


def test_cifar10_is_a_named_set(output: Path, monkeypatch: pytest.MonkeyPatch):
    class Downloaded:
        data = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
        targets = (3, 1, 4, 1, 5)

        def __init__(self, *arguments, **options):
            pass

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Downloaded)
    prepare("cifar10", output, 32, 3)
    found = load(output, resolution=32)
    assert np.array_equal(found.images.permute(0, 2, 3, 1).numpy(), Downloaded.data)
    assert found.labels is not None
    assert found.labels.tolist() == [3, 1, 4, 1, 5]
    assert list(table_in(output)) == ["labels"]


def test_few_images_are_in_memory_however_large_the_set(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
):
    source = fill(tmp_path / "set", *(f"{k}.png" for k in range(3 * AT_ONCE)))
    decoded, ahead = [], []

    def count(*arguments):
        decoded.append(1)
        return decode(*arguments)

    monkeypatch.setattr(image_set, "decode", count)
    prepare(str(source), output, 8, 3, lambda done, total: ahead.append(len(decoded) - done))
    assert len(ahead) == 3 * AT_ONCE
    assert max(ahead) < AT_ONCE


def test_hostile_and_broken_zips_are_named_and_leave_nothing(tmp_path: Path, output: Path):
    outside = make_zip(tmp_path / "outside.zip", {"a.png": picture(0), "../b.png": picture(1)})
    assert "'../b.png' points outside" in refusal(outside, output)
    whole = make_zip(tmp_path / "whole.zip", {f"{k}.png": picture(k) for k in range(9)}).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-200])
    assert "cut.zip" in refusal(tmp_path / "cut.zip", output)
    damaged = bytearray(whole)
    damaged[len(whole) // 3 : len(whole) // 3 + 40] = bytes(40)
    (tmp_path / "damaged.zip").write_bytes(damaged)
    assert "damaged.zip: '" in refusal(tmp_path / "damaged.zip", output)
    text = make_zip(tmp_path / "text.zip", {"0.png": picture(0), "1.png": b"no image"})
    assert "text.zip: '1.png'" in refusal(text, output)
    (tmp_path / "notes.txt").write_text("no zip")
    assert "notes.txt: not a zip" in refusal(tmp_path / "notes.txt", output)


def test_an_image_cut_short_late_in_a_folder_leaves_nothing(tmp_path: Path, output: Path):
    source = fill(tmp_path / "set", *(f"{k:03}.png" for k in range(2 * AT_ONCE)))
    (source / "zzz.png").write_bytes(picture(0)[:60])
    assert refusal(source, output).endswith("replace or remove it, or leave it out with --skip-corrupt")
    assert "'zzz.png'" in refusal(source, output)


def test_the_zip_says_which_file_each_image_was_made_of(tmp_path: Path, output: Path):
    source = fill(tmp_path / "set", "b/1.png", "a/0.jpg")
    (source / "a" / "two\nlines, \udcff.png").write_bytes(picture(7))
    prepare(str(source), output, 8, 3)
    assert table_in(output)["names"] == [
        ["img/00000/img00000000.png", "a/0.jpg"],
        ["img/00000/img00000001.png", "a/two\nlines, \udcff.png"],
        ["img/00000/img00000002.png", "b/1.png"],
    ]
    prepare(str(output), tmp_path / "again.zip", 8, 3)
    assert load(tmp_path / "again.zip").fingerprint == load(output).fingerprint


def test_broken_images_are_all_named(tmp_path: Path, output: Path):
    source = fill(tmp_path / "set", *(f"{k:03}.png" for k in range(AT_ONCE + 30)))
    for k in (5, AT_ONCE + 2):
        (source / f"{k:03}.png").write_bytes(picture(0)[:60])
    message = refusal(source, output)
    assert f"set: 2 of {AT_ONCE + 30} images are broken: '005.png', '{AT_ONCE + 2:03}.png'; " in message
    assert "--skip-corrupt" in message
    for k in range(30):
        (source / f"{k:03}.png").write_bytes(b"")
    message = refusal(source, output)
    assert "'018.png', '019.png' and 11 more; " in message


def test_broken_images_are_left_out_when_asked(tmp_path: Path, output: Path):
    source = fill(tmp_path / "set", "a/0.png", "a/1.png", "b/2.png", "c/3.png")
    texts = [{"file_name": f"{k}.png", "text": f"number {k}"} for k in range(4)]
    for folder, row in zip("aabc", texts, strict=True):
        with (source / folder / "metadata.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    whole = load(source, captions=True)
    for broken in ("a/0.png", "c/3.png"):
        (source / broken).write_bytes(b"no image")
    done = prepare(str(source), output, 8, 3, skip_corrupt=True)
    assert (done.images, done.n_classes) == (2, 2)
    assert done.notes[0] == "broken images are left out: 2 of 4 ('a/0.png', 'c/3.png')"
    assert done.notes[1].startswith("2 of 2 images were ")
    found = load(output, captions=True)
    assert torch.equal(found.images, whole.images[1:3])
    assert found.captions == ("number 1", "number 2")
    assert table_in(output) == {
        "labels": [["img/00000/img00000000.png", 0], ["img/00000/img00000001.png", 1]],
        "captions": [["img/00000/img00000000.png", "number 1"], ["img/00000/img00000001.png", "number 2"]],
        "names": [["img/00000/img00000000.png", "a/1.png"], ["img/00000/img00000001.png", "b/2.png"]],
    }


def test_a_set_of_broken_images_alone_is_refused(tmp_path: Path, output: Path):
    source = fill(tmp_path / "set", "0.png", "1.png")
    for path in source.iterdir():
        path.write_bytes(b"no image")
    message = refusal(source, output, skip_corrupt=True)
    assert "set: none of its 2 images can be decoded; " in message
    assert "'0.png': broken or cut short" in message


def test_where_one_image_has_a_caption_all_must_unless_told_otherwise(tmp_path: Path, output: Path):
    source = fill(tmp_path / "set", "0.png", "1.png", "2.png")
    (source / "1.txt").write_text("a fox")
    message = refusal(source, output)
    assert "2 of 3 images have no caption: '0.png', '2.png'; " in message
    assert "--skip-uncaptioned" in message
    assert "--no-captions" in message
    done = prepare(str(source), output, 8, 3, captions=False)
    assert (done.images, done.captioned) == (3, False)
    assert "captions" not in table_in(output)
    output.unlink()
    done = prepare(str(source), output, 8, 3, skip_uncaptioned=True)
    assert (done.images, done.captioned) == (1, True)
    assert done.notes[0] == "images without a caption are left out: 2 of 3"
    assert table_in(output)["names"] == [["img/00000/img00000000.png", "1.png"]]


def test_a_table_too_long_to_be_read_again_is_refused_before_an_image_is_decoded(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
):
    source = fill(tmp_path / "set", "0.png")
    monkeypatch.setattr(preparing, "MAX_LABEL_BYTES", 60)
    monkeypatch.setattr(image_set, "decode", None)
    assert "dataset.json would have 67 bytes, more than 60" in refusal(source, output)


def test_the_output_must_be_new_and_outside_of_the_source(tmp_path: Path, output: Path):
    source = fill(tmp_path / "set", "a/0.png", "b/0.png")
    output.write_text("mine")
    assert "is already there" in refusal(source, output)
    assert output.read_text() == "mine"
    assert "lies inside the source" in refusal(source, source / "set.zip")
    assert "lies inside the source" in refusal(source, source / "a" / ".." / "b" / "set.zip")
    assert "there is no folder" in refusal(source, tmp_path / "nowhere" / "set.zip")


def test_an_output_that_cannot_be_written_is_named(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
):
    source = fill(tmp_path / "set", "0.png")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    assert "set.zip: cannot be written (No space left on device)" in refusal(source, output)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": 2}, "channels"),
        ({"resolution": 0}, "resolution"),
        ({"resolution": 20_000}, "resolution: Input should be less than or equal to 8192"),
    ],
)
def test_an_impossible_shape_is_refused(tmp_path: Path, output: Path, options: dict[str, int], words: str):
    assert words in refusal(fill(tmp_path / "set", "0.png"), output, **options)


def test_a_source_that_is_not_there_is_named(tmp_path: Path, output: Path):
    assert "nothing there" in refusal(tmp_path / "nowhere", output)
    (tmp_path / "empty").mkdir()
    assert "no images in" in refusal(tmp_path / "empty", output)


def test_captions_and_names_of_shards_are_kept(tmp_path: Path) -> None:
    for shard in range(2):
        folder = fill(tmp_path / f"in-{shard}", f"{shard}7.jpg")
        (folder / f"{shard}7.txt").write_text(f"caption {shard}")
        with tarfile.open(tmp_path / f"s{shard}.tar", "w") as archive:
            archive.add(folder, arcname=".")
    output = tmp_path / "out.zip"
    done = prepare(str(tmp_path / "s{0..1}.tar"), output, 8, 3)
    assert (done.images, done.n_classes, done.captioned) == (2, 0, True)
    first, second = "img/00000/img00000000.png", "img/00000/img00000001.png"
    assert table_in(output)["captions"] == [[first, "caption 0"], [second, "caption 1"]]
    assert table_in(output)["names"] == [[first, "07.jpg"], [second, "17.jpg"]]
    assert "s2.tar" in refusal(tmp_path / "s{1..2}.tar", tmp_path / "b.zip")
