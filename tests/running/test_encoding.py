"""Latents and embeddings are encoded once a sweep, elsewhere, and a failure there is one line."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.exceptions import OutOfMemoryError, RayTaskError
from rich.console import Console

from pareto_amb.config import SweepConfig
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.errors import ExitCode, UserError
from pareto_amb.evaluation.probes import N_PROBES
from pareto_amb.running import encoding
from pareto_amb.running.assets import bare_training_sets, training_pixels
from pareto_amb.running.encoding import encode_on_worker, find_encoded
from pareto_amb.running.materials import Materials, load_materials, load_training_images
from pareto_amb.running.room import describe_room, room_needed
from pareto_amb.storage import Storage
from pareto_amb.sweep_file import parse_sweep
from pareto_amb.trainables.faults import MachineError
from pareto_amb.trainables.trial_trainable import TrialTrainable

pytest.importorskip("diffusers")

QUIET = Console(quiet=True)


class Remote:
    """Stands for Ray: what it is asked to call is called here, when it is asked for it."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.remote = call


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding.ray, "remote", lambda **_: Remote)
    monkeypatch.setattr(encoding.ray, "get", lambda said: said)


@pytest.fixture
def config(write_pipeline: Callable[..., Path]) -> SweepConfig:
    return parse_sweep(
        {
            "name": "captions",
            "data": {"source": "digits", "resolution": 16, "channels": 3, "captions": True},
            "space": {"train_size": [6, 10], "sigma_tn": {"low": 0.1, "high": 1.0}},
            "training": {
                "network": {"name": "pipeline", "options": {"path": str(write_pipeline())}},
                "noise": {"kind": "schedule"},
                "images": 64,
                "batch_size": 8,
            },
            "sampling": {"sigma_min": 0.03, "sigma_max": 14.6},
            "evaluation": {"fid_encoder": "pixels", "similarity_encoder": "pixels", "rungs": [1.0]},
        },
        "check",
    )


def test_a_trial_is_trained_on_what_this_process_would_have_encoded(
    config: SweepConfig, tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, materials = Storage(str(tmp_path)), load_materials(config, QUIET)
    assert materials.unencoded
    assert find_encoded(materials, storage) is None
    done = encode_on_worker(config, materials, str(tmp_path), 0, QUIET)
    assert not done.unencoded
    assert done.files is not None
    written = sum(value.nbytes for value in done.files.open(storage).values()) / done.files.count
    room = room_needed(config, METHODS, materials.text_model, 2)
    most = 10 + 2 * N_PROBES  # images of both sizes' probes may be the same
    assert room.encoded == written * most
    assert "latents and text embeddings" in describe_room(room)
    expected = load_training_images(config, QUIET)
    for size, images in expected.training_sets.items():
        trial = trial_of(done, size, storage)._find_images().open()
        assert trial.images.shape == (0, 3, 16, 16)
        assert trial.encoded is not None
        assert images.encoded is not None
        assert torch.allclose(trial.encoded.mean, images.encoded.mean, atol=1e-6)
        assert torch.equal(trial.told["tokens"], images.told["tokens"])
        assert torch.allclose(trial.told["text"].float(), images.told["text"].float(), atol=2e-3)
        assert (trial.ids, trial.captions) == (images.ids, images.captions)
    probes, known = done.heldout_probes[6], expected.heldout_probes[6]
    assert probes.encoded is not None
    assert known.encoded is not None
    assert probes.ids == known.ids
    assert torch.allclose(probes.encoded.mean, known.encoded.mean, atol=1e-6)

    monkeypatch.setattr(encoding, "encode_rows", lambda *_: pytest.fail("encoded again"))
    again = find_encoded(materials, storage)
    assert again is not None
    assert again.files == done.files
    next((tmp_path / "encoded").glob("*-text.npy")).unlink()
    assert find_encoded(materials, storage) is None


def trial_of(materials: Materials, size: int, storage: Storage) -> TrialTrainable:
    trial: Any = TrialTrainable.__new__(TrialTrainable)
    trial._trial = SimpleNamespace(train_size=size)
    trial._assets = SimpleNamespace(
        training_sets=bare_training_sets(materials),
        encoded=materials.files,
        pixels=training_pixels(materials),
        storage_uri=str(storage.folder),
    )
    assert all(images.encoded is None for images in trial._assets.training_sets.values())
    assert all(set(images.told) == {"tokens"} for images in trial._assets.training_sets.values())
    return trial


def raised(cause: Exception) -> Exception:
    return RayTaskError("encode", f"Traceback\nof Ray\n{cause}", cause).as_instanceof_cause()


FAILURES = [
    (raised(UserError("a line; a remedy")), "^a line; a remedy$", ExitCode.BAD_INPUT),
    (raised(MachineError("OutOfMemoryError: CUDA")), r"worker \(OutOfMemoryError: CUDA\)", ExitCode.FAILED),
    (raised(ValueError("two\nlines")), r"on the worker \(ValueError: two lines\); mend", ExitCode.FAILED),
    (OutOfMemoryError("killed\nby Ray"), "on the worker .OutOfMemoryError: by Ray.", ExitCode.FAILED),
]


def test_a_failure_on_the_worker_is_one_line(
    config: SweepConfig, tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    materials, place = load_materials(config, QUIET), str(tmp_path)
    for error, said, code in FAILURES:

        def fail(_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(encoding.ray, "get", fail)
        with pytest.raises(UserError, match=said) as found:
            encode_on_worker(config, materials, place, 0, QUIET)
        assert "\n" not in str(found.value)
        assert found.value.exit_code == code
    monkeypatch.setattr(encoding, "_follow", lambda *_: None)
    with pytest.raises(UserError, match="what a worker wrote there is not seen here; name a URI or a folder"):
        encode_on_worker(config, materials, place, 0, QUIET)
