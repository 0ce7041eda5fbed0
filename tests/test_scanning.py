"""`pareto-amb scan`: what it finds, prints and draws, and what it refuses."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
import yaml
from PIL import Image

from pareto_amb.cli import main
from pareto_amb.config import DataConfig, SpaceConfig, TrainingRun
from pareto_amb.dashboards.page import plotly_js
from pareto_amb.dashboards.scan import effective_figure, leakage_figure, merging_figure, write_scan
from pareto_amb.data import ImageSet, load_images, split
from pareto_amb.data.image_set import from_pixels
from pareto_amb.diffusion.text.denoiser import space_of
from pareto_amb.diffusion.text.pipeline import load_pipeline
from pareto_amb.diffusion.theory import TrainingPosterior
from pareto_amb.errors import UserError
from pareto_amb.evaluation.encoders import load_encoder
from pareto_amb.scanning import DRAWS, EPSILON, Scan, ladder, scan_images
from pareto_amb.theory.leakage import leakage, leakage_bound
from pareto_amb.theory.merging import cluster, merging_curve, subpopulations

DIGITS = DataConfig(source="digits", resolution=8, channels=1)


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load_images(DIGITS)


@pytest.fixture(scope="module")
def scanned(digits: ImageSet) -> Scan:
    return scan_images(digits, [20, 100])


def save_pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for k in range(count):
        noise = np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{k:03}.png")
    return folder


def test_each_size_is_measured_on_the_images_that_a_sweep_would_draw(digits: ImageSet, scanned: Scan) -> None:
    assert [size.train_size for size in scanned.sizes] == [20, 100]
    for size in scanned.sizes:
        posterior = TrainingPosterior(digits.images[split(digits, size.train_size, 0, False).train])
        assert size.searched.collapse_level == pytest.approx(posterior.collapse_level(), rel=0.005)
        expected = [posterior.effective_number(sigma) for sigma in scanned.sigmas]
        assert size.effective_numbers == pytest.approx(expected)
        assert size.effective_numbers[0] == pytest.approx(1, abs=1e-6)
        assert size.effective_numbers[-1] == pytest.approx(size.train_size, rel=0.05)
    assert set(scanned.round_sigmas) < set(scanned.sigmas)


def test_subpopulations_and_leakage_are_those_of_the_pixels() -> None:
    """Of 30 images of 192 numbers each, which are compared by their products alone: three kinds of eight."""
    generator = np.random.default_rng(0)
    kinds = generator.integers(60, 196, (3, 3, 8, 8)).repeat(8, axis=0)
    near = kinds + generator.integers(-40, 41, kinds.shape)
    pixels = np.concatenate([near, generator.integers(0, 256, (6, 3, 8, 8))]).astype(np.uint8)
    pictures = from_pixels(pixels, "pictures")
    found = scan_images(pictures, [15, 30])
    order = split(pictures, 30, 0, False).train
    points = pictures.images[order].flatten(1).double().numpy() / 127.5 - 1
    for size in found.sizes:
        some = points[: size.train_size]
        groups = subpopulations(some, cluster(some, 5))
        expected = merging_curve(groups, found.sigmas, size.train_size, EPSILON)
        assert size.merging is not None
        assert size.merging.number.tolist() == expected.number.tolist()
        assert size.merging.heavy_tail == pytest.approx(expected.heavy_tail)
        assert size.merging.tau_1 == pytest.approx(expected.tau_1, nan_ok=True)
        assert size.merging.number[-1] == 1
    assert found.sizes[1].merging is not None
    assert found.sizes[1].merging.number[0] == 9  # three kinds, six alone
    covariance = np.cov(points.T)
    assert found.leakage.copy == pytest.approx(leakage(covariance, found.sigmas), rel=1e-6)
    assert found.leakage.drawn == pytest.approx(leakage(covariance, found.sigmas, DRAWS), rel=1e-6)
    assert found.leakage.bound == pytest.approx(leakage_bound(covariance, found.sigmas, DRAWS), rel=1e-6)
    assert "spans 29 of 192 directions" in found.leakage.caution


def test_features_are_clustered_and_pixels_compared(digits: ImageSet, scanned: Scan) -> None:
    found = scan_images(digits, [20], encoder="efficientnet_lite0")
    images = digits.images[split(digits, 20, 0, False).train]
    groups = cluster(np.asarray(load_encoder("efficientnet_lite0").encode(images)))
    points = images.flatten(1).double().numpy() / 127.5 - 1
    expected = merging_curve(subpopulations(points, groups), found.sigmas, 20, EPSILON)
    assert found.sizes[0].merging is not None
    assert found.sizes[0].merging.number.tolist() == expected.number.tolist()
    assert 1 < expected.number[0] < 20
    assert found.sizes[0].searched == scanned.sizes[0].searched
    assert found.grouped_by == "clusters of efficientnet_lite0 features"


def test_labels_take_the_place_of_clusters(digits: ImageSet, scanned: Scan) -> None:
    found = scan_images(digits, [100], by_label=True).sizes[0].merging
    assert found is not None
    assert found.number[0] == 10
    assert found.heavy_tail.max() == 0
    assert scanned.sizes[1].merging is not None
    assert scanned.sizes[1].merging.number[0] > 10
    assert scanned.leakage.caution == ""  # 100 images of 64 pixels


def test_kinds_that_lie_close_keep_their_width() -> None:
    """Labels that say nothing: 100 images of 768 numbers in two groups, whose width is what counts."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 3, 16, 16), dtype=np.uint8)
    labels = np.arange(100) % 2
    random = replace(from_pixels(pixels, "random"), labels=torch.from_numpy(labels), n_classes=2)
    found = scan_images(random, [100], by_label=True)
    points = pixels.reshape(100, -1) / 127.5 - 1
    expected = merging_curve(subpopulations(points, labels), found.sigmas, 100, EPSILON)
    assert found.sizes[0].merging is not None
    assert found.sizes[0].merging.number.tolist() == expected.number.tolist()
    assert set(expected.number.tolist()) == {1, 2}


def test_too_many_images_have_no_subpopulations_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pareto_amb.scanning.MAX_COMPARED", 30)
    page = tmp_path / "page.html"
    arguments = ("digits", "--train-size", "20", "--train-size", "40", "--output", str(page))
    assert scan(monkeypatch, *arguments) == 0
    assert "note: 40 training images are too many to compare" in capsys.readouterr().out
    assert "<li>40 training images are too many to compare" in page.read_text(encoding="utf-8")


def test_a_pipeline_has_its_latents_compared(
    write_pipeline: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipeline, pictures = write_pipeline(), save_pictures(tmp_path / "set", 12)
    page = tmp_path / "page.html"
    arguments = ("--pipeline", str(pipeline), "--output", str(page))
    assert scan(monkeypatch, str(pictures), "--resolution", "16", *arguments) == 0
    printed, schedule = capsys.readouterr().out, load_pipeline(str(pipeline)).schedule.schedule
    assert "12 images of 16 x 16, colour, as latents of 4 x 8 x 8" in printed
    assert "Subpopulations are clusters of latents" in page.read_text(encoding="utf-8")
    assert "compared as latents of 4 × 8 × 8" in page.read_text(encoding="utf-8")
    image_set = load_images(DataConfig(path=str(pictures), resolution=16))
    space = space_of(load_pipeline(str(pipeline)), (3, 16, 16))
    latents = space.encode(image_set.images[split(image_set, 12, 0, False).train]).mean
    level = TrainingPosterior(latents).collapse_level()
    found = scan_images(image_set, pipeline=str(pipeline))
    assert found.sizes[0].levels[0] == pytest.approx(level, rel=0.005)
    _, low, high = found.sizes[0].levels
    steps = f"steps {schedule.step(low)} to {schedule.step(high)}"
    assert f"; {steps})" in printed
    assert f"<td>{steps}</td>" in page.read_text(encoding="utf-8")
    assert f"(step {schedule.step(found.sizes[0].tried_first)})" in page.read_text(encoding="utf-8")
    assert scan(monkeypatch, "digits", *arguments) == 2
    error = capsys.readouterr().err
    assert "encodes images of 3 channels and sides that are multiples of 2, not 1 x 8 x 8" in error
    assert scan(monkeypatch, "digits", "--pipeline", "nowhere") == 2
    assert "--pipeline 'nowhere'" in capsys.readouterr().err


def write_recommendation(path: Path, **training: Any) -> Path:
    data = {"source": "digits", "resolution": 8, "channels": 1}
    run = TrainingRun.model_validate(
        {"data": data, "train_size": 30, "parameters": {"sigma_tn": 0.25, "mix_ratio": 0.5},
         "training": {"images": 1000}, **training}
    )  # fmt: skip
    entry = {"train_size": 30, "training": run.model_dump(mode="json")}
    path.write_text(yaml.safe_dump({"recommendations": [entry]}), encoding="utf-8")
    return path


def test_what_a_sweep_recommended_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_recommendation(tmp_path / "recommendation.yaml")
    assert scan(monkeypatch, "digits", "--recommendation", str(path)) == 0
    assert "recommended for 30: sigma_tn 0.25 (VP 0.243)" in capsys.readouterr().out
    assert "Green: the recommended σ_tn" in Path("scan.html").read_text(encoding="utf-8")
    assert scan(monkeypatch, "digits", "--train-size", "50", "--recommendation", str(path)) == 2
    assert "recommends for other train sizes, 30" in capsys.readouterr().err
    write_recommendation(path, method="ddpm", parameters={})
    assert scan(monkeypatch, "digits", "--recommendation", str(path)) == 0
    assert "recommended for 30: DDPM" in capsys.readouterr().out


def test_the_usual_sizes_leave_images_to_hold_out(digits: ImageSet, tmp_path: Path) -> None:
    assert [size.train_size for size in scan_images(digits).sizes] == [100, 300, 1000]
    few = load_images(DataConfig(path=str(save_pictures(tmp_path / "few", 9)), resolution=8))
    assert [size.train_size for size in scan_images(few).sizes] == [9]
    with pytest.raises(UserError, match=r"--train-size 10: more than the 9 images of few"):
        scan_images(few, [5, 10])


def test_a_ladder_rises_through_round_levels_within_its_ends() -> None:
    assert ladder(0.15, 7) == (0.15, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7)
    fine = ladder(0.15, 7, steps=3)
    assert list(fine) == sorted(fine)
    assert set(ladder(0.15, 7)) < set(fine)
    assert max(later / earlier for earlier, later in pairwise(fine)) < 1.2


def marks(figure: go.Figure) -> tuple[list[tuple[float, float]], list[float]]:
    """The ranges that are shaded, and the levels that a line marks, in the first row."""
    shapes = [shape for shape in figure.layout.shapes if shape.yref == "y domain"]
    return (
        [(shape.x0, shape.x1) for shape in shapes if shape.type == "rect"],
        [shape.x0 for shape in shapes if shape.type == "line"],
    )


def test_the_curves_of_every_size_are_drawn_with_its_range(digits: ImageSet) -> None:
    scanned = scan_images(digits, [20, 100], recommended={100: 0.3})
    effective, merging = effective_figure(scanned), merging_figure(scanned)
    for figure in (effective, merging):
        assert [trace.name for trace in figure.data if trace.showlegend is not False] == [
            "20 images",
            "100 images",
        ]
    for trace, size in zip(effective.data, scanned.sizes, strict=True):
        assert tuple(trace.x) == scanned.sigmas
        assert tuple(trace.y) == size.effective_numbers
    for number, size in enumerate(scanned.sizes):
        assert size.merging is not None
        found = [trace.y for trace in merging.data[3 * number : 3 * number + 3]]
        price = [100 * value if size.train_size == 100 else 20 * value for value in size.merging.tau_1]
        assert list(found[0]) == size.merging.number.tolist()
        assert list(found[1]) == size.merging.heavy_tail.tolist()
        assert list(found[2]) == [None if np.isnan(value) else pytest.approx(value) for value in price]
    leaked = leakage_figure(scanned)
    curve = scanned.leakage
    assert [list(trace.y) for trace in leaked.data] == [
        x.tolist() for x in (curve.copy, curve.drawn, curve.bound)
    ]
    searched = [(size.searched.low, size.searched.high) for size in scanned.sizes]
    levels = [level for size in scanned.sizes for level in (size.levels[0], size.tried_first)]
    for figure in (effective, merging, leaked):
        assert marks(figure) == (searched, [*levels, 0.3])


def test_the_page_is_complete_in_itself_and_trusts_no_name(digits: ImageSet, tmp_path: Path) -> None:
    attack = "</script><script>alert(1)</script>{{ 7*7 }}"
    few = ImageSet(digits.images[:30], None, 0, attack, "")
    write_scan(scan_images(few, [10]), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    ours = page.replace(plotly_js(), "")
    assert len(ours) < len(page)
    assert "alert(1)</script>" not in ours
    assert not re.search(r"(src|href)=|https?://", ours)
    figures = re.findall(r'<script type="application/json" data-plot="\w+">(.*?)</script>', ours, re.DOTALL)
    assert [len(json.loads(figure)["data"]) for figure in figures] == [1, 3, 3]
    assert json.loads(figures[0])["data"][0]["name"] == "10 images"
    assert "{{ 7*7 }}" in ours


def scan(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["pareto-amb", "scan", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_the_command_prints_ranges_that_a_sweep_file_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = save_pictures(tmp_path / "set", 12)
    (pictures / "again.png").write_bytes((pictures / "000.png").read_bytes())
    arguments = ("set", "--resolution", "8", "--train-size", "5", "--train-size", "13")
    assert scan(monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out
    assert "set: 13 images of 8 x 8, colour" in printed
    assert "note: 12 of 13 training images differ; copies count once" in printed
    assert printed.endswith("the curves: scan.html\n")
    lines = yaml.safe_load(printed.partition("under space:\n")[2].partition("\n\n")[0])
    assert SpaceConfig.model_validate(lines).sigma_tn == "auto"
    found = scan_images(load_images(DataConfig(path="set", resolution=8)), [5, 13])
    for size in found.sizes:
        assert f"{size.searched.low:g} to {size.searched.high:g}" in printed
        assert f"{size.searched.collapse_level:g}" in printed
    fixed = yaml.safe_load(printed.partition("range for all: ")[2].partition("\n")[0])
    assert fixed["low"] == min(size.searched.low for size in found.sizes)
    assert fixed["high"] == max(size.searched.high for size in found.sizes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.html", "set"]


def test_named_sets_come_in_their_own_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "digits.html"
    assert scan(monkeypatch, "digits", "--train-size", "30", "--output", str(page)) == 0
    assert "digits: 1,797 images of 8 x 8, grey" in capsys.readouterr().out
    told = page.read_text(encoding="utf-8")
    assert "1,797 images of 8 × 8 pixels" in told
    assert f"pareto-amb scan digits --train-size 30 --output {page}" in told
    assert "Nothing was trained." in told
    assert scan(monkeypatch, "digits", "--train-size", "30", "--output", str(page), "--redact") == 0
    told = page.read_text(encoding="utf-8")
    assert "pareto-amb scan digits --train-size 30 --output …/digits.html" in told
    assert str(tmp_path) not in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], ["'nowhere': nothing at", "or the word digits or cifar10"]),
        (["digits", "--train-size", "3000"], ["--train-size 3000", "1,797 images of digits"]),
        (["digits", "--resolution", "0"], ["resolution", "greater than 0"]),
        (["digits", "--channels", "2"], ["channels", "1 or 3"]),
        (["same", "--resolution", "8"], ["two different training images"]),
        (["same", "--resolution", "8", "--by-label"], ["same has no labels to group images by"]),
        (["digits", "--recommendation", "same/0.png"], ["0.png"]),
        (["digits", "--encoder", "nothing"], ["unknown encoder 'nothing'"]),
        (["digits", "--by-label", "--encoder", "pixels"], ["labels or clusters; leave one out"]),
        (
            ["digits", "--train-size", "9", "--output", "same/0.png/x.html"],
            ["0.png is a file"],
        ),
    ],
)
def test_what_cannot_be_scanned_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "same").mkdir()
    for k in range(5):
        Image.new("RGB", (8, 8), "teal").save(tmp_path / "same" / f"{k}.png")
    assert scan(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("pareto-amb: error: ")
    assert said.count("\n") == 1
    for word in words:
        assert word in said
    assert [path.name for path in tmp_path.iterdir()] == ["same"]
