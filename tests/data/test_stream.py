import hashlib
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
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


# --- images in memory -----------------------------------------------------------------------------


def stream_of(images: object) -> tuple[ImageStream, list[StreamedImage]]:
    with open_stream(images, role="train") as stream:  # type: ignore[arg-type]
        return stream, list(stream.images())


def test_images_in_memory_are_streamed_like_those_of_files(folder: Path) -> None:
    pixels = np.stack([noise(seed) for seed in range(100)])
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    files = read(folder)
    for images in (pixels, pixels[:, ::1], tensor, tensor.contiguous()):
        stream, found = stream_of(images)
        assert (stream.source, stream.size, stream.names[41]) == ("train array", (6, 9), "41")
        assert [image.pixel_digest for image in found] == [image.pixel_digest for image in files]
        assert np.array_equal(stream.load("41").pixels, files[41].pixels)
        digests = [image.content_digest for image in found]
        assert stream.fingerprint(lambda done, total: None) == content_fingerprint(digests)


def test_grey_images_in_memory_become_three_equal_channels() -> None:
    grey = noise(0)[:, :, 0]
    for images in (grey[None], grey[None, None], grey[None, :, :, None]):
        (image,) = stream_of(images)[1]
        assert np.array_equal(image.pixels, np.stack([grey] * 3))
        assert image.changes == ()


def test_the_content_digest_tells_shapes_apart() -> None:
    flat = np.arange(48, dtype=np.uint8)
    one, other = (stream_of(flat.reshape(1, 4, 4, 3).reshape(1, 3, *size))[1] for size in ((4, 4), (2, 8)))
    assert one[0].pixel_digest == other[0].pixel_digest
    assert one[0].content_digest != other[0].content_digest


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 3, 8, 8)), r"train array: float64 values, .* \(x \* 255\)\.round\(\) .* \[-1, 1\]"),
        (torch.zeros(2, 3, 8, 8, requires_grad=True), "train array: float32 values"),
        (np.zeros((2, 8, 8), dtype=np.int64), "train array: int64 values"),
        (np.zeros((8, 8), dtype=np.uint8), r"train array: shape \(8, 8\), expected"),
        (np.zeros((2, 4, 8, 8), dtype=np.uint8), "1 or 3 channels"),
        (np.zeros((0, 8, 8), dtype=np.uint8), "at least one image"),
    ],
)
def test_images_in_memory_of_another_type_or_shape_are_refused(images: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        stream_of(images)
