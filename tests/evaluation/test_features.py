import io
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from pareto_amb.data.stream import open_stream
from pareto_amb.errors import UserError
from pareto_amb.evaluation import features as module
from pareto_amb.evaluation.encoders import Encoder, load_encoder
from pareto_amb.evaluation.features import (
    EncodedImages,
    FeatureCache,
    encode_images,
    load_features,
    load_reference,
    save_features,
)

PIXELS = load_encoder("pixels")


def write_images(folder: Path, count: int, seed: int = 0, side: int = 8) -> torch.Tensor:
    """Random pictures as PNG files, and their pixels (N, 3, H, W)."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:04}.png")
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


def console() -> Console:
    return Console(file=io.StringIO(), width=10_000)


def said(to: Console) -> str:
    return to.file.getvalue()  # type: ignore[attr-defined]


def encode(
    folder: Path,
    *encoders: Encoder,
    cache: FeatureCache | None = None,
    skip_corrupt: bool = False,
    to: Console | None = None,
) -> list[EncodedImages]:
    with open_stream(folder, skip_corrupt) as stream:
        return encode_images(stream, encoders or (PIXELS,), to or console(), "set", cache=cache)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "set", 20)
    return tmp_path / "set"


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache")


class Counted:
    """Counts the batches that an encoder is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        forward = Encoder.forward

        def counted(encoder: Encoder, images: torch.Tensor) -> torch.Tensor:
            self.batches.append(len(images))
            return forward(encoder, images)

        monkeypatch.setattr(Encoder, "forward", counted)


@pytest.mark.parametrize("batch", [3, 20, 128])
def test_a_stream_is_encoded_like_the_same_images_at_once(
    tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite = load_encoder("efficientnet_lite0")
    images = write_images(tmp_path / "set", 20)
    monkeypatch.setattr(module, "BATCH_SIZE", batch)
    by_pixels, by_lite = encode(tmp_path / "set", PIXELS, lite)
    assert torch.equal(by_pixels.features, PIXELS.encode(images))
    torch.testing.assert_close(by_lite.features, lite.encode(images), rtol=1e-4, atol=1e-4)
    made_of = by_lite.provenance
    assert (made_of.encoder, made_of.preprocessing) == ("efficientnet_lite0", "standard")
    assert (made_of.count, made_of.height, made_of.width) == (20, 8, 8)
    assert made_of.content_fingerprint == by_pixels.provenance.content_fingerprint


def test_large_images_are_encoded_in_smaller_batches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_PIXELS", 6 * 64 + 5)
    counted = Counted(monkeypatch)
    encode(folder)
    assert counted.batches == [6, 6, 6, 2]


def test_features_are_encoded_once_and_found_by_content(
    folder: Path, cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    (first,) = encode(folder, cache=cache)
    folder.rename(tmp_path / "moved")
    (again,) = encode(tmp_path / "moved", cache=cache)
    assert counted.batches == [20]
    assert torch.equal(again.features, first.features)
    assert torch.equal(again.pixel_digests, first.pixel_digests)
    assert again.provenance == first.provenance
    encode(tmp_path / "moved", load_encoder("pixels", "paper"), cache=cache)
    assert counted.batches == [20, 20]
    write_images(tmp_path / "moved", 20, seed=1)
    encode(tmp_path / "moved", cache=cache)
    assert counted.batches == [20, 20, 20]


def test_without_a_cache_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    encode(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_the_cache_lies_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETO_AMB_CACHE", str(tmp_path / "mine"))
    assert FeatureCache.default().folder == tmp_path / "mine" / "features"
    monkeypatch.delenv("PARETO_AMB_CACHE")
    assert FeatureCache.default().folder == Path.home() / ".cache" / "pareto-amb" / "features"


@pytest.mark.parametrize("damage", ["cut", "text", "other"])
def test_a_damaged_cache_file_is_made_again_with_a_note(
    folder: Path, cache: FeatureCache, damage: str
) -> None:
    (first,) = encode(folder, cache=cache)
    (path,) = cache.folder.iterdir()
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "text":
        path.write_bytes(b"not features")
    else:
        provenance = first.provenance.model_copy(update={"content_fingerprint": "another"})
        save_features(EncodedImages(first.features, first.pixel_digests, provenance), path)
    to = console()
    (again,) = encode(folder, cache=cache, to=to)
    assert torch.equal(again.features, first.features)
    assert f"note: {path}: " in said(to)
    assert load_features(path).provenance == first.provenance


def test_a_cache_that_cannot_be_written_is_a_note(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    to = console()
    (found,) = encode(folder, cache=FeatureCache(tmp_path / "file" / "features"), to=to)
    assert len(found.features) == 20
    assert "cannot be written" in said(to)


def test_broken_images_are_left_out_by_position_and_never_silently(folder: Path, cache: FeatureCache) -> None:
    (whole,) = encode(folder)
    for name in ("0003.png", "0019.png"):
        (folder / name).write_bytes(b"")
    (found,) = encode(folder, cache=cache, skip_corrupt=True)
    kept = [position for position in range(20) if position not in (3, 19)]
    assert found.provenance.skipped == (3, 19)
    assert found.provenance.count == 18
    assert torch.equal(found.features, whole.features[kept])
    assert torch.equal(found.pixel_digests, whole.pixel_digests[kept])
    with pytest.raises(UserError, match=r"'0003\.png': broken"):
        encode(folder, cache=cache)  # the cache knows the set, but the user did not agree to leave some out


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from rich.console import Console
from pareto_amb.data.stream import open_stream
from pareto_amb.evaluation import features
from pareto_amb.evaluation.encoders import load_encoder

def half(tensors, path, metadata):
    path.write_bytes(b"half of it")
    os.kill(os.getpid(), signal.SIGKILL)

features.save_file = half
with open_stream(Path(sys.argv[1])) as stream:
    cache = features.FeatureCache(Path(sys.argv[2]))
    features.encode_images(stream, [load_encoder("pixels")], Console(), "set", cache=cache)
"""


@pytest.mark.slow
def test_a_process_killed_while_writing_leaves_nothing_that_is_read(
    folder: Path, cache: FeatureCache
) -> None:
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(folder), str(cache.folder)]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL
    assert list(cache.folder.glob("*.safetensors")) == []
    to = console()
    (found,) = encode(folder, cache=cache, to=to)
    assert "note" not in said(to)
    (path,) = cache.folder.glob("*.safetensors")
    assert torch.equal(load_features(path).features, found.features)


WRITES_AND_READS = """
import sys
from pathlib import Path
from rich.console import Console
from pareto_amb.evaluation.encoders import load_encoder
from pareto_amb.evaluation.features import FeatureCache, load_features

stored, encoder = load_features(Path(sys.argv[1])), load_encoder("pixels")
cache = FeatureCache(Path(sys.argv[2]))
for _ in range(40):
    cache.store(stored, Console())
    found = cache.load(stored.provenance.content_fingerprint, encoder, Console())
    assert found is not None and found.features.equal(stored.features)
"""


@pytest.mark.slow
def test_writers_of_the_same_features_do_no_harm(folder: Path, cache: FeatureCache, tmp_path: Path) -> None:
    (found,) = encode(folder)
    save_features(found, tmp_path / "stored.npz")
    command = [sys.executable, "-c", WRITES_AND_READS, str(tmp_path / "stored.npz"), str(cache.folder)]
    writers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    for writer in writers:
        output, _ = writer.communicate(timeout=120)
        assert (writer.returncode, output) == (0, "")
    assert len(list(cache.folder.iterdir())) == 1


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_of_features_comes_back_as_it_was(folder: Path, tmp_path: Path, suffix: str) -> None:
    (found,) = encode(folder)
    path = tmp_path / f"features{suffix}"
    save_features(found, path)
    again = load_features(path)
    assert torch.equal(again.features, found.features)
    assert torch.equal(again.pixel_digests, found.pixel_digests)
    assert again.provenance == found.provenance


def test_a_failed_write_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = encode(folder)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_features(found, tmp_path / "out" / "f.safetensors")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_what_is_no_file_of_features_is_refused(folder: Path, tmp_path: Path, suffix: str) -> None:
    (found,) = encode(folder)
    path = tmp_path / f"f{suffix}"
    provenance = found.provenance.model_dump_json()

    def refused(match: str = ".") -> None:
        with pytest.raises(UserError, match=match) as caught:
            load_features(path)
        assert str(caught.value).startswith(f"{path}: not a file of features")
        assert "\n" not in str(caught.value)

    def write(features: torch.Tensor, digests: torch.Tensor, text: str) -> None:
        if suffix == ".npz":
            np.savez(path, features=features.numpy(), pixel_digests=digests.numpy(), provenance=text)
        else:
            tensors = {"features": features.contiguous(), "pixel_digests": digests.contiguous()}
            save_file(tensors, path, metadata={"provenance": text})

    refused("No such file")
    path.write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    refused()
    write(found.features[:5], found.pixel_digests[:5], provenance)
    refused(r"not float32 \(20, D\)")
    write(found.features, found.pixel_digests[:5], provenance)
    refused("pixel_digests")
    write(found.features.clone().fill_(torch.nan), found.pixel_digests, provenance)
    refused("NaN")
    write(found.features, found.pixel_digests, provenance.replace('"count":20', '"count":"many"'))
    refused("provenance count")
    save_features(found, path)
    path.write_bytes(path.read_bytes()[:-100])
    refused()


def test_pickled_objects_in_an_npz_are_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return (exec, (f"open({str(tmp_path / 'owned')!r}, 'w')",))

    np.savez(tmp_path / "trap.npz", provenance=np.array([Trap()], dtype=object))
    with pytest.raises(UserError, match="not a file of features"):
        load_features(tmp_path / "trap.npz")
    assert not (tmp_path / "owned").exists()


SIGMA = np.eye(4)


@pytest.mark.parametrize(
    "arrays",
    [
        {"mu": np.zeros(4), "sigma": SIGMA * (1 + 1j)}, {"mu": np.zeros(4, complex), "sigma": SIGMA},
        {"mu": np.array([None] * 4), "sigma": SIGMA}, {"mu": np.array(["1"] * 4), "sigma": SIGMA},
        {"mu": np.zeros((2, 2)), "sigma": SIGMA}, {"mu": np.zeros(3), "sigma": SIGMA},
        {"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, {"mu": np.full(4, np.nan), "sigma": SIGMA},
        {"mu": np.zeros(4), "sigma": SIGMA * 1e308}, {"mu": np.zeros(4), "sigma": -SIGMA},
        {"mu": np.zeros(4), "sigma": np.triu(np.ones((4, 4)))}, {"mu": np.zeros(4), "sigma": SIGMA > 0},
    ],
)  # fmt: skip
def test_statistics_that_are_none_are_named(tmp_path: Path, arrays: dict[str, Any]) -> None:
    path = tmp_path / "statistics.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=r"^\S*statistics\.npz: [^\n]*$"):
        load_reference(path, [], (8, 8))


def test_pipes_and_bombs_are_no_features(tmp_path: Path) -> None:
    for name in ("pipe.npz", "pipe.safetensors"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match="not a regular file"):
            load_features(tmp_path / name)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**6,) * 2}
    )
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("mu.npy", header.getvalue())
        archive.writestr("sigma.npy", header.getvalue())
    with pytest.raises(UserError, match="more than"):
        load_reference(tmp_path / "bomb.npz", [], (8, 8))
