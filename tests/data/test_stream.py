import hashlib
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pareto_amb.data import stream as module
from pareto_amb.data.stream import ImageStream, StreamedImage, content_fingerprint, open_stream
from pareto_amb.errors import UserError


def noise(seed: int, height: int = 6, width: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png"), reverse=True):
            archive.write(file, file.relative_to(folder))
    return path


def read(path: Path, skip_corrupt: bool = False) -> list[StreamedImage]:
    with open_stream(path, skip_corrupt) as stream:
        return list(stream.images())


def refusal(path: Path, skip_corrupt: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        read(path, skip_corrupt)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fingerprint(path: Path) -> str:
    with open_stream(path) as stream:
        return stream.fingerprint(lambda done, total: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(100):
        save(tmp_path / "set" / f"{seed // 40}/{seed:03}.png", noise(seed))
    return tmp_path / "set"


@pytest.mark.parametrize("packed", [False, True])
def test_images_come_in_the_order_of_their_names_at_their_own_size(folder: Path, packed: bool) -> None:
    images = read(zipped(folder) if packed else folder)
    assert [image.name for image in images] == [f"{n // 40}/{n:03}.png" for n in range(100)]
    for seed, image in enumerate(images):
        assert image.pixels is not None
        assert np.array_equal(image.pixels, noise(seed).transpose(2, 0, 1))
        assert image.content_digest == hashlib.sha256((folder / image.name).read_bytes()).digest()


def test_equal_pixels_have_equal_digests_whatever_their_file(tmp_path: Path) -> None:
    grey = noise(0)[:, :, 0]
    save(tmp_path / "a.png", grey)
    save(tmp_path / "b.bmp", np.stack([grey] * 3, axis=2))
    save(tmp_path / "c.png", grey ^ 1)
    a, b, c = read(tmp_path)
    assert a.pixel_digest == b.pixel_digest != c.pixel_digest
    assert a.content_digest != b.content_digest
    assert a.changes == ()


def test_what_was_changed_on_decoding_is_said(tmp_path: Path) -> None:
    Image.fromarray(noise(0)).convert("CMYK").save(tmp_path / "a.tif")
    (image,) = read(tmp_path)
    assert image.changes == ("of type CMYK: converted to RGB",)


def test_the_fingerprint_is_of_contents_in_order_and_the_same_when_decoded(folder: Path) -> None:
    found = fingerprint(folder)
    assert found == content_fingerprint([image.content_digest for image in read(folder)])
    assert found == fingerprint(zipped(folder))
    (folder / "0/000.png").rename(folder / "0/000a.png")
    assert fingerprint(folder) == found
    (folder / "0/000a.png").rename(folder / "3.png")
    assert fingerprint(folder) != found


def test_few_images_are_decoded_before_they_are_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, settled = count_decoded(monkeypatch)
    monkeypatch.setattr(module, "PIXELS_AHEAD", 20 * 6 * 9)
    with open_stream(folder) as stream:
        images = stream.images()
        next(images)
        settled()
        assert len(decoded) < 50
        assert len(list(images)) == 99


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], Callable[[], None]]:
    """The names decoded so far, and a wait for the threads to have done what was given to them."""
    decoded: list[str] = []
    load, executors = ImageStream.load, []

    class Executor(module.ThreadPoolExecutor):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            executors.append(self)

    def counted(stream: ImageStream, name: str) -> StreamedImage:
        decoded.append(name)
        return load(stream, name)

    def settled() -> None:
        workers = executors[-1]._max_workers
        barrier = threading.Barrier(workers, timeout=30)
        for future in [executors[-1].submit(barrier.wait) for _ in range(workers)]:
            future.result()

    monkeypatch.setattr(module, "ThreadPoolExecutor", Executor)
    monkeypatch.setattr(ImageStream, "load", counted)
    return decoded, settled


def test_another_size_is_refused_by_name_even_when_broken_images_are_skipped(folder: Path) -> None:
    save(folder / "1/odd.png", noise(0, 9, 6))
    for skip_corrupt in (False, True):
        said = refusal(folder, skip_corrupt)
        assert "'1/odd.png' has 6 x 9 pixels, the first image has 9 x 6" in said


@pytest.mark.parametrize("name", ["0/000.png", "1/055.png", "2/099.png"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_broken_image_is_refused_by_name_or_skipped(folder: Path, name: str, packed: bool) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:70])
    path = zipped(folder) if packed else folder
    said = refusal(path)
    assert f"{path}: '{name}': broken or cut short" in said
    assert "--skip-corrupt" in said
    images = read(path, skip_corrupt=True)
    assert len(images) == 100
    (broken,) = (image for image in images if image.pixels is None)
    assert (broken.name, name in broken.problem) == (name, True)


def test_a_damaged_entry_of_a_zip_is_refused_by_name_or_skipped(folder: Path) -> None:
    path = zipped(folder)
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("1/055.png")
    content = bytearray(path.read_bytes())
    content[entry.header_offset + 60] ^= 255
    path.write_bytes(content)
    assert "'1/055.png' is damaged" in refusal(path)
    (broken,) = (image for image in read(path, skip_corrupt=True) if image.pixels is None)
    assert broken.name == "1/055.png"
    assert fingerprint(path) == content_fingerprint(
        [image.content_digest for image in read(path, skip_corrupt=True)]
    )


def test_nothing_there_no_image_and_no_good_image(tmp_path: Path) -> None:
    assert "nowhere': nothing there" in refusal(tmp_path / "nowhere")
    assert "no images in" in refusal(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(b"text")
    assert "none of its 2 images can be decoded" in refusal(tmp_path, skip_corrupt=True)
    assert "'a.png': broken" in refusal(tmp_path)
