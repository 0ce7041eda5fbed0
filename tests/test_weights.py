"""Weights: where they are looked for, what is fetched is what is published, and what is said of them."""

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pareto_amb import weights
from pareto_amb.cli import app
from pareto_amb.errors import UserError
from pareto_amb.evaluation.encoders import ENCODERS


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights but the packaged ones, and no network."""

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.delenv(weights.WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    monkeypatch.setattr("urllib.request.urlopen", unreachable)


def answer_with(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO(content))


def publish(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Inception's weights are `content` from now on."""
    entry: Any = weights.PUBLISHED["inception_v3"]
    made = hashlib.sha256(content).hexdigest()
    published = weights.Published(entry.address, len(content), made, entry.other_files)
    monkeypatch.setitem(weights.PUBLISHED, "inception_v3", published)


def test_every_encoder_with_weights_is_published_and_auto_names_known_ones() -> None:
    assert set(ENCODERS) == {*weights.PUBLISHED, "pixels"}
    assert {name for names in weights.BEST.values() for name in names} == set(weights.PUBLISHED)


def test_what_is_fetched_is_kept_where_it_is_found_again_if_it_is_what_is_published(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    publish(monkeypatch, b"weights")
    with pytest.raises(UserError, match=r"inception_v3: no weights; download https://.*\(no route\)$"):
        weights.check_reachable("inception_v3")
    answer_with(monkeypatch, b"a page of a portal")
    with pytest.raises(UserError, match="what came is not what is published"):
        weights.fetch("inception_v3")
    assert weights.find("inception_v3") is None
    answer_with(monkeypatch, b"weights")
    printed = CliRunner().invoke(app, ["weights", "fetch", "inception_v3"]).output
    path = tmp_path / "torch" / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    assert printed == f"inception_v3: {path}\n"
    assert weights.find("inception_v3") == path
    path.write_bytes(b"changed")
    refused = CliRunner().invoke(app, ["weights", "fetch", "inception_v3"]).exception
    assert "not the published weights of inception_v3" in str(refused)
    refused = CliRunner().invoke(app, ["weights", "fetch", "inception"]).exception
    assert "did you mean 'inception_v3'?" in str(refused)


def test_the_doctor_says_what_is_here_what_is_missing_and_where_it_comes_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, ["doctor", "folder"])
    assert done.exit_code == 1
    assert "images: data.path is missing" in done.output
    assert "weights of dinov2_vitb14: missing; about 346 MB from https://huggingface.co/timm/" in done.output
    (tmp_path / "inception_v3.pth").write_bytes(b"mine")
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path))
    lines = CliRunner().invoke(app, ["doctor"]).output.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["versions", "processor"]
    mine = next(line for line in lines if line.startswith("weights of inception_v3"))
    assert hashlib.sha256(b"mine").hexdigest() in mine
    assert mine.endswith("not that of the published file")
    assert CliRunner().invoke(app, ["doctor", "smoke"]).exit_code == 0
