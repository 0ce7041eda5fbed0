"""`pareto-amb scan`: what it finds, prints and draws, and what it refuses."""

import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pareto_amb.cli import main
from pareto_amb.config import DataConfig, SpaceConfig
from pareto_amb.dashboards.page import plotly_js
from pareto_amb.dashboards.scan import scan_figure, write_scan
from pareto_amb.data import ImageSet, load_images, split
from pareto_amb.diffusion.theory import TrainingPosterior
from pareto_amb.errors import UserError
from pareto_amb.scanning import Scan, ladder, scan_images

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


def test_the_curve_of_every_size_is_drawn_with_its_range(scanned: Scan) -> None:
    figure = scan_figure(scanned)
    assert [trace.name for trace in figure.data] == ["20 images", "100 images"]
    for trace, size in zip(figure.data, scanned.sizes, strict=True):
        assert tuple(trace.x) == scanned.sigmas
        assert tuple(trace.y) == size.effective_numbers
    shaded = [(s.x0, s.x1) for s in figure.layout.shapes if s.type == "rect"]
    assert shaded == [(size.searched.low, size.searched.high) for size in scanned.sizes]
    marked = [s.x0 for s in figure.layout.shapes if s.type == "line"]
    assert marked == [size.searched.collapse_level for size in scanned.sizes]


def test_the_page_is_complete_in_itself_and_trusts_no_name(digits: ImageSet, tmp_path: Path) -> None:
    attack = "</script><script>alert(1)</script>{{ 7*7 }}"
    few = ImageSet(digits.images[:30], None, 0, attack, "")
    write_scan(scan_images(few, [10]), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    ours = page.replace(plotly_js(), "")
    assert len(ours) < len(page)
    assert "alert(1)</script>" not in ours
    assert not re.search(r"(src|href)=|https?://", ours)
    figure = re.search(r'<script type="application/json" data-plot="plot">(.*?)</script>', ours, re.DOTALL)
    assert figure is not None
    assert json.loads(figure[1])["data"][0]["name"] == "10 images"
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
    assert printed.endswith("the curve: scan.html\n")
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
