"""Image sets measured from Python: folders, arrays and tensors alike, and nothing printed."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from pareto_amb.config import EvaluationConfig
from pareto_amb.errors import UserError
from pareto_amb.evaluation import features
from pareto_amb.evaluation.encoders import load_encoder
from pareto_amb.evaluation.features import FeatureCache
from pareto_amb.evaluation.image_sets import evaluate_image_sets
from pareto_amb.evaluation.memorization import (
    copied_training_images,
    is_copy,
    nearest_neighbours,
    share_above,
)
from pareto_amb.evaluation.report import COPYING, PIXEL_METRICS, QUALITY, to_json, verdict
from pareto_amb.evaluation.trial import build_references, evaluate_samples
from pareto_amb.results.table import shipped

PIXELS = load_encoder("pixels")
OBJECTIVES = shipped().objectives

Sets = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def sets(digits: torch.Tensor) -> Sets:
    """Grey images (N, H, W); of the generated ones a tenth are training images."""
    pixels = digits[:, 0].numpy()
    generated = np.concatenate([pixels[:8], pixels[300:372]])
    return {"generated": generated, "train": pixels[:120], "heldout": pixels[120:240]}


def save(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:04}.png")
    return folder


def figures(report: object) -> str:
    """The report as JSON, without what the sources are called and how long it took."""
    found = to_json(report)  # type: ignore[arg-type]
    del found["environment"]["seconds"]
    for images in found["images"].values():
        del images["path"], images["fingerprint"]
    for copy in found["copies"]:
        for role in ("generated", "train"):
            copy[role] = int(copy[role].removesuffix(".png"))
    return json.dumps(found)


def test_pixels_in_memory_give_the_figures_of_the_same_pixels_in_files(
    sets: Sets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {role: save(tmp_path / role, images) for role, images in sets.items()}
    from_files = evaluate_image_sets(**folders, encoders="pixels")
    assert from_files.finding == "copies"
    assert from_files.copies[0].generated == "0000.png"
    in_memory = {
        "grey arrays": sets,
        "channels last": {role: np.stack([images] * 3, axis=-1) for role, images in sets.items()},
        "tensors": {role: torch.from_numpy(images)[:, None] for role, images in sets.items()},
        "mixed": {**folders, "train": sets["train"], "generated": str(folders["generated"])},
    }
    for given in in_memory.values():
        report = evaluate_image_sets(**given, encoders=["pixels"])
        assert figures(report) == figures(from_files)
        for one, other in zip(report.closest, from_files.closest, strict=True):
            assert np.array_equal(one.generated_pixels, other.generated_pixels)
            assert np.array_equal(one.train_pixels, other.train_pixels)
    assert capsys.readouterr() == ("", "")


def test_messages_and_report_name_an_array_by_its_role(sets: Sets) -> None:
    report = evaluate_image_sets(**sets, encoders=PIXELS, reference=sets["heldout"])
    assert report.image_sets["train"].path == "train array"
    assert report.reference == "reference array"
    assert report.copies[0].generated == "0"
    with pytest.raises(UserError, match=r"heldout array: 120 of 120 held-out .* such as '0' \(there: '0'\)"):
        evaluate_image_sets(sets["generated"], sets["train"], sets["train"], encoders="pixels")
    with pytest.raises(UserError, match="train array: 1 train image, at least 2 are needed"):
        evaluate_image_sets(sets["generated"], sets["train"][:1], encoders="pixels")
    with pytest.raises(UserError, match="train array: the train images have 8 x 7 pixels"):
        evaluate_image_sets(sets["generated"], sets["train"][:, 1:], encoders="pixels")
    with pytest.raises(UserError, match=r"generated array: float64 values, uint8 .* \* 127.5"):
        evaluate_image_sets(sets["generated"] / 255, sets["train"], encoders="pixels")


def test_features_of_arrays_are_kept_by_their_content(sets: Sets, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    first = evaluate_image_sets(**sets, encoders="pixels", cache=cache)
    with mock.patch.object(features, "_encode", side_effect=AssertionError):
        again = evaluate_image_sets(**sets, encoders="pixels", cache=cache)
    assert figures(again) == figures(first)
    turned = sets["generated"].transpose(0, 2, 1)
    other = evaluate_image_sets(turned, sets["train"], sets["heldout"], encoders="pixels", cache=cache)
    assert other.image_sets["generated"].fingerprint != first.image_sets["generated"].fingerprint


def test_a_similarity_that_float32_rounds_to_the_threshold_is_a_copy_everywhere(digits: torch.Tensor) -> None:
    train, samples = digits[:120], digits[300:372]
    in_pixels = [PIXELS.encode(images.expand(-1, 3, -1, -1)) for images in (samples, train)]
    similarity, neighbour = nearest_neighbours(*in_pixels)
    place = int(similarity.argsort()[len(similarity) // 2])
    threshold = float(similarity[place]) - 1e-10
    assert np.float32(threshold) == similarity[place]
    copied = [value > threshold for value in similarity.tolist()]
    assert copied[place]
    share = sum(copied) / len(copied)

    assert is_copy(similarity, threshold).tolist() == copied
    assert share_above(similarity, threshold) == share
    assert copied_training_images(similarity, neighbour, threshold, 120).counts.sum() == sum(copied)
    report = evaluate_image_sets(samples, train, encoders="pixels", threshold=threshold)
    assert report.encoders[0].metrics["memorization"].value == share
    assert {int(copy.generated) for copy in report.copies} == {i for i, yes in enumerate(copied) if yes}
    for pair in (*report.closest, *report.borderline):
        assert pair.copied == copied[int(pair.names.generated)]
    assert str(place) in {pair.names.generated for pair in report.borderline}
    config = EvaluationConfig(thresholds=(threshold,))
    colour = digits.expand(-1, 3, -1, -1)
    splits = {120: (torch.arange(120), torch.arange(120, 240))}
    reference = build_references(colour, splits, PIXELS, PIXELS, config)[120]
    found = evaluate_samples(colour[300:372], reference, OBJECTIVES, PIXELS, PIXELS)
    assert found.copied.tolist() == copied
    assert found.metrics["memorization"] == share


class Cells(HTMLParser):
    """The texts of a page, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_notebook_shows_verdict_notes_and_figures_escaped(sets: Sets) -> None:
    report = evaluate_image_sets(**sets, encoders="pixels")
    report = replace(report, notes=("<script>\udcff & more",))
    page = report._repr_html_()
    page.encode("utf-8")
    found = Cells(page)
    assert verdict(report) in found.texts
    assert "<script>\\xff & more" in found.texts
    assert "10.0%" in found.texts
    for metric in (*COPYING, *QUALITY, *PIXEL_METRICS):
        assert any(text.startswith(metric.label) for text in found.texts)
    assert found.tags == {"p", "ul", "li", "table", "caption", "tr", "th", "td"}


def test_what_cannot_be_meant_is_refused(sets: Sets) -> None:
    pair = sets["generated"], sets["train"]
    with pytest.raises(UserError, match="unknown encoder 'pixel': did you mean 'pixels'"):
        evaluate_image_sets(*pair, encoders=["pixel"])
    with pytest.raises(UserError, match="a cosine similarity is at least -1 and below 1"):
        evaluate_image_sets(*pair, encoders="pixels", threshold=1.0)
    with pytest.raises(UserError, match="nothing there"):
        evaluate_image_sets("nowhere", sets["train"], encoders="pixels")
