import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pareto_amb.dashboards.gallery import (
    CLOSEST,
    LONGEST_CAPTION,
    PLAIN,
    build_gallery,
    data_uri,
    read_samples,
)
from pareto_amb.errors import UserError
from pareto_amb.storage import Storage


def store(run_dir: Path, content: bytes) -> Storage:
    path = run_dir / "samples" / "t" / "rung-1.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return Storage(str(run_dir))


@pytest.mark.parametrize("channels", [1, 3])
def test_closest_pairs_come_first(tmp_path: Path, make_samples: Callable[..., bytes], channels: int) -> None:
    stored = read_samples(store(tmp_path, make_samples(0, 0.3, channels)), "t", 1)
    assert stored is not None
    gallery = build_gallery(stored, 1000, 25)
    similarities = [pair.similarity for pair in gallery.closest]
    assert similarities == sorted(stored.similarity.tolist(), reverse=True)[:CLOSEST]
    assert (gallery.kept, gallery.total, gallery.copies) == (40, 1000, 25)
    assert gallery.plain == [data_uri(image) for image in stored.samples[:PLAIN]]


def test_only_the_first_samples_are_shown_as_they_came(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8)).astype(np.uint8)
    content = io.BytesIO()
    np.savez(
        content, seed=[0, 1, 2, 9, 4], samples=images, neighbours=images, similarity=np.zeros(5),
        copied=np.zeros(5),
    )  # fmt: skip
    stored = read_samples(store(tmp_path, content.getvalue()), "t", 1)
    assert stored is not None
    assert build_gallery(stored, 1000, None).plain == [data_uri(image) for image in images[:3]]


def captioned(prompts: list[object], captions: list[str], **more: NDArray[np.uint8]) -> bytes:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8)).astype(np.uint8)
    content = io.BytesIO()
    np.savez(
        content, seed=[0, 1], samples=images, neighbours=images, similarity=[0.2, 0.9],
        copied=[False, True], prompt=np.array(prompts), caption=np.array(captions), **more,
    )  # fmt: skip
    return content.getvalue()


def test_pairs_have_the_prompt_of_the_sample_and_the_caption_of_its_neighbour(tmp_path: Path) -> None:
    stored = read_samples(store(tmp_path, captioned(["a fox", "a " * 500], ["a cat", "a cow"])), "t", 1)
    assert stored is not None
    closest, other = build_gallery(stored, 2, 1).closest
    assert (other.prompt, other.caption, closest.caption) == ("a fox", "a cat", "a cow")
    assert len(closest.prompt) == LONGEST_CAPTION


def test_images_of_captions_that_are_not_as_many_are_named(tmp_path: Path) -> None:
    place = store(tmp_path, captioned(["a", "b"], ["a", "b"], asked=np.zeros((1, 1, 4, 4), np.uint8)))
    with pytest.raises(UserError, match="its images of captions are not as many as its first samples"):
        read_samples(place, "t", 1)


@pytest.mark.parametrize("prompts", [["a"], [1, 2], ["a", "b", "c"]])
def test_captions_that_are_none_are_named(tmp_path: Path, prompts: list[object]) -> None:
    place = store(tmp_path, captioned(prompts, ["a", "b"]))
    with pytest.raises(UserError, match="not a file of samples"):
        read_samples(place, "t", 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_data_uri_round_trip(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (channels, 5, 7)).astype(np.uint8)
    head, _, body = data_uri(image).partition(",")
    assert head == "data:image/png;base64"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))
    assert np.array_equal(pixels if channels == 1 else np.moveaxis(pixels, -1, 0), image.squeeze())


def test_a_picture_takes_no_more_than_it_may() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 300, 400)).astype(np.uint8)
    sides = []
    for limit in (400_000, 20_000, 2_000):
        found = data_uri(image, limit)
        assert len(found) <= limit
        sides.append(Image.open(io.BytesIO(base64.b64decode(found.partition(",")[2]))).size[0])
    assert sides[0] == 400 > sides[1] > sides[2]
    small = image[:, :30, :40]
    assert data_uri(small).startswith("data:image/png")
    assert data_uri(small, 10).startswith("data:image/webp")


def test_missing_file_is_not_an_error(tmp_path: Path) -> None:
    assert read_samples(Storage(str(tmp_path)), "t", 1) is None


def damage(good: bytes) -> dict[str, bytes]:
    flipped = bytearray(good)
    flipped[200:260] = b"\xff" * 60
    npy, pickled, lacking, wrong = (io.BytesIO() for _ in range(4))
    np.save(npy, np.zeros(3))
    np.savez(pickled, samples=np.array([object()]))
    images = np.zeros((2, 3, 4, 4), np.uint8)
    np.savez(lacking, samples=images)
    np.savez(wrong, samples=images, neighbours=images[:1], similarity=np.zeros(2), copied=np.zeros(2))
    return {
        "empty": b"",
        "text": b"hello",
        "cut off": good[: len(good) // 2],
        "flipped": bytes(flipped),
        "one array": npy.getvalue(),
        "pickled": pickled.getvalue(),
        "array missing": lacking.getvalue(),
        "lengths differ": wrong.getvalue(),
    }


@pytest.mark.parametrize("case", list(damage(b"")))
def test_damaged_file_is_named(tmp_path: Path, make_samples: Callable[..., bytes], case: str) -> None:
    content = damage(make_samples(0, 0.3))[case]
    with pytest.raises(UserError, match=r"samples/t/rung-1\.npz: not a file of samples"):
        read_samples(store(tmp_path, content), "t", 1)
