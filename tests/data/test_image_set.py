import json
import os
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pareto_amb.config import DataConfig
from pareto_amb.data import ImageSet, load_images
from pareto_amb.errors import UserError


def save(path: Path, colour=(10, 20, 30), size=(8, 8), mode="RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def load(path: Path, resolution=8, channels=3, **options) -> ImageSet:
    return load_images(
        DataConfig(source="images", path=str(path), resolution=resolution, channels=channels, **options)
    )


def refusal(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, red in (("b/1.png", 2), ("b/0.png", 1), ("a/9.PNG", 0)):
        save(tmp_path / "set" / name, (red, 0, 0))
    return tmp_path / "set"


def test_digits_are_bytes_with_ten_classes():
    digits = load_images(DataConfig(source="digits", resolution=8, channels=1))
    assert digits.images.shape == (1797, 1, 8, 8)
    assert digits.images.dtype == torch.uint8
    assert digits.images.max() == 255
    assert digits.n_classes == 10
    assert digits.labels is not None
    assert digits.labels.dtype == torch.int64
    assert not digits.notes


def test_digits_at_another_shape_go_through_the_file_path():
    digits = load_images(DataConfig(source="digits", resolution=16, channels=3))
    assert digits.images.shape == (1797, 3, 16, 16)
    assert any("enlarged" in note for note in digits.notes)
    assert any("grey" in note for note in digits.notes)


def test_a_folder_is_read_in_the_order_of_relative_paths(folder: Path):
    loaded = load(folder)
    assert loaded.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert loaded.images.is_contiguous()
    assert loaded.labels is None
    assert loaded.n_classes == 0
    assert loaded.name == "set"


def test_sub_folders_are_classes_when_conditional(folder: Path):
    loaded = load(folder, conditional=True)
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [0, 1, 1]
    assert loaded.n_classes == 2


def test_an_image_outside_of_the_class_folders_is_refused(folder: Path):
    save(folder / "stray.png")
    assert "'stray.png' is in no class folder" in refusal(folder, conditional=True)


def test_one_class_folder_is_refused_when_conditional(tmp_path: Path):
    save(tmp_path / "only" / "0.png")
    assert "'only'" in refusal(tmp_path, conditional=True)


def test_conditional_without_labels_is_refused(tmp_path: Path):
    save(tmp_path / "0.png")
    assert "data.conditional" in refusal(tmp_path, conditional=True)


def test_a_folder_and_its_zip_are_the_same_set(folder: Path, tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.rglob("*.*"):
            archive.write(file, file.relative_to(folder))
    zipped = load(tmp_path / "set.zip")
    assert zipped.fingerprint == load(folder).fingerprint
    assert torch.equal(zipped.images, load(folder).images)


def test_dataset_json_of_a_folder_decides_over_its_sub_folders(folder: Path):
    labels = [["a/9.PNG", 3], ["b/0.png", 0], ["b/1.png", 1]]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    loaded = load(folder, conditional=True)
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [3, 0, 1]
    assert loaded.n_classes == 4


def test_hidden_and_other_files_are_ignored(folder: Path):
    save(folder / ".hidden" / "0.png")
    save(folder / ".0.png")
    (folder / "readme.txt").write_text("no image")
    assert len(load(folder).images) == 3


def test_linked_folders_are_noted_and_not_followed(folder: Path):
    (folder / "loop").symlink_to(folder)
    loaded = load(folder)
    assert len(loaded.images) == 3
    assert loaded.notes == ("linked folders are not followed: 1 left out",)


def test_a_folder_without_images_is_refused(tmp_path: Path):
    assert "no images in" in refusal(tmp_path)
    assert ".png, .jpg" in refusal(tmp_path)


def test_the_fingerprint_changes_with_one_pixel_and_with_a_label(tmp_path: Path):
    paths = [save(tmp_path / name) for name in ("a.png", "b.png")]
    labels = tmp_path / "dataset.json"
    first = load(tmp_path).fingerprint
    assert load(tmp_path).fingerprint == first
    labels.write_text('{"labels": [["a.png", 0], ["b.png", 1]]}')
    labelled = load(tmp_path).fingerprint
    labels.write_text('{"labels": [["a.png", 1], ["b.png", 0]]}')
    swapped = load(tmp_path).fingerprint
    labels.unlink()
    with Image.open(paths[0]) as image:
        image.putpixel((3, 4), (10, 20, 31))
        image.save(paths[0])
    assert len({first, labelled, swapped, load(tmp_path).fingerprint}) == 4


def test_notes_count_each_conversion(tmp_path: Path):
    save(tmp_path / "0.png", 7, mode="L")
    save(tmp_path / "1.png", 7, mode="L")
    save(tmp_path / "2.png", size=(16, 8))
    save(tmp_path / "3.png")
    assert load(tmp_path).notes == (
        "2 of 4 images were grey: converted to RGB",
        "1 of 4 images was not 8 x 8: centre-cropped",
    )


def test_progress_ends_with_all_images_done(folder: Path):
    calls: list[tuple[int, int]] = []
    load_images(
        DataConfig(source="images", path=str(folder), resolution=8),
        lambda done, total: calls.append((done, total)),
    )
    assert calls[-1] == (3, 3)
    assert calls == sorted(calls)


def test_a_broken_image_is_named_and_stops_the_load(folder: Path):
    whole = (folder / "b/0.png").read_bytes()
    (folder / "b/0.png").write_bytes(whole[:50])
    assert "'b/0.png': broken or cut short" in refusal(folder)


def test_a_name_with_a_line_break_stays_on_one_line(folder: Path):
    (folder / "two\nlines.png").write_bytes(b"")
    assert r"two\nlines.png" in refusal(folder)


def test_a_set_larger_than_memory_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def too_much(*_, **__):
        raise MemoryError

    monkeypatch.setattr(np, "empty", too_much)
    assert "data.resolution" in refusal(folder)


def test_a_missing_data_path_is_named():
    with pytest.raises(UserError, match=r"--set data\.path="):
        load_images(DataConfig(source="images"))


def test_a_relative_path_is_looked_for_here_and_then_in_the_data_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("PARETO_AMB_DATA", str(tmp_path))
    assert len(load(Path("set")).images) == 3
    save(here / "set" / "0.png")
    assert len(load(Path("set")).images) == 1


def test_a_path_not_found_names_both_places_and_the_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARETO_AMB_DATA", "/elsewhere")
    message = refusal(Path("gone.zip"), origin="get it from\nexample.org")
    assert f"{tmp_path}/gone.zip" in message
    assert "/elsewhere/gone.zip" in message
    assert message.endswith("get it from example.org")
    monkeypatch.delenv("PARETO_AMB_DATA")
    assert "PARETO_AMB_DATA (which is not set)" in refusal(Path("gone.zip"))


def test_unreadable_places_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def denied(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", denied)
        assert "a/9.PNG: cannot be read (Permission denied)" in refusal(folder)
    monkeypatch.setattr(Path, "stat", denied)
    assert "cannot be read (Permission denied)" in refusal(folder)


def test_cifar10_from_a_folder_of_images(folder: Path):
    config = DataConfig(source="cifar10", path=str(folder), resolution=8)
    assert len(load_images(config).images) == 3


def test_cifar10_without_network_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def offline(*_, **__):
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setenv("PARETO_AMB_DATA", str(tmp_path))
    with pytest.raises(UserError) as caught:
        load_images(DataConfig(source="cifar10", resolution=32))
    message = str(caught.value)
    assert "https://www.cs.toronto.edu" in message
    assert str(tmp_path) in message
    assert "cifar-10-python.tar.gz" in message
    assert "\n" not in message


def test_cifar10_arrays_keep_their_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Downloaded:
        url, filename = "url", "file"
        data = np.arange(2 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 32, 32, 3)
        targets = (3, 1)

        def __init__(self, *_, **__):
            pass

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Downloaded)
    loaded = load_images(DataConfig(source="cifar10", path=str(tmp_path), resolution=32))
    assert np.array_equal(loaded.images.permute(0, 2, 3, 1).numpy(), Downloaded.data)
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [3, 1]


def test_files_keep_their_names(folder: Path) -> None:
    assert load(folder).names == ("a/9.PNG", "b/0.png", "b/1.png")
    assert load_images(DataConfig(source="digits", resolution=8, channels=1)).names == ()
