"""Published figures beside a run's own: whose they are, where they are drawn, and what differs."""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

from pareto_amb import search_spaces
from pareto_amb.config import DataConfig, SweepConfig
from pareto_amb.dashboards.frontier_figures import any_budget_figure, frontier_figure
from pareto_amb.dashboards.plots import Plot, draw_plots
from pareto_amb.dashboards.published import LABELS, Comparison, compare, paper_results
from pareto_amb.dashboards.published_figures import thresholds_figure
from pareto_amb.dashboards.report import write_report
from pareto_amb.results.baseline import Figures, Spread
from pareto_amb.results.recommend import recommend
from pareto_amb.results.recommendation import FinalFigures, Recommendation
from pareto_amb.results.size import SizeResults
from pareto_amb.sweep_file import parse_sweep

SizeOf = Callable[..., SizeResults]
CIFAR = {"data.images": "50000"}
FFHQ = {"data.images": "70000"}
PRESETS = {
    "cifar10": "cifar10",
    "ffhq": "ffhq",
    "ffhq-table2": "ffhq",
    "ffhq300": "ffhq",
    "tiny-imagenet": "tiny-imagenet",
}


def preset(name: str, **changes: Mapping[str, Any]) -> SweepConfig:
    """A preset, some keys of its blocks replaced."""
    values = search_spaces.load(name)
    for block, keys in changes.items():
        values[block] = values.get(block, {}) | keys
    return parse_sweep(values, name)


def measured_at(rows: pd.DataFrame, thresholds: tuple[float, ...], primary: int = 1) -> pd.DataFrame:
    """`rows` as a sweep with these thresholds would have them."""
    shares = {
        f"memorization_at_{t:.3f}": rows.memorization * (1.2 - 0.2 * i) for i, t in enumerate(thresholds)
    }
    return rows.assign(threshold=thresholds[primary], **shares)


@pytest.fixture
def cifar(results: pd.DataFrame) -> pd.DataFrame:
    return measured_at(results, (0.9, 0.925, 0.95))


@pytest.fixture
def size(cifar: pd.DataFrame, size_of: SizeOf) -> SizeResults:
    return size_of(cifar)


def found(config: SweepConfig, environment: Mapping[str, str], size: SizeResults) -> Comparison:
    comparison = compare(config, environment, size)
    assert comparison is not None
    return comparison


def hollow(figure: Any) -> dict[str, tuple[float, float]]:
    """Where the published points of a figure are, by name."""
    points = [t for t in figure.data if (t.name or "").startswith("published: ")]
    assert all(t.marker.symbol.endswith("-open-dot") for t in points)
    return {t.name.removeprefix("published: "): (t.x[0], t.y[0]) for t in points}


def test_every_published_number_is_in_range():
    results = paper_results()
    assert results.source == "arXiv 2502.21278"
    assert set(results.sets) == set(get_args(get_args(DataConfig.model_fields["published"].annotation)[0]))
    for paper in results.sets.values():
        assert "Table 1" in paper.table.replace("Tables", "Table")
        assert list(paper.thresholds) == sorted(set(paper.thresholds))
        assert all(0 < threshold < 1 for threshold in paper.thresholds)
        assert paper.conditions.keys() == LABELS.keys()
        for cells in paper.figures.values():
            assert list(cells)[:2] == ["ddpm", "algorithm1"]
            for cell in cells.values():
                assert math.isfinite(cell.fid)
                assert 0 < cell.fid < 100
                assert len(cell.memorization) == len(paper.thresholds)
                assert all(0 <= share <= 100 for share in cell.memorization)
                assert list(cell.memorization) == sorted(cell.memorization, reverse=True)
            ddpm, ours = cells["ddpm"], cells["algorithm1"]
            assert all(a <= b for a, b in zip(ours.memorization, ddpm.memorization, strict=True))
    table_2 = [list(cells) for cells in results.sets["ffhq"].figures.values()]
    assert table_2 == 3 * [["ddpm", "algorithm1", "masking", "noise_only"]]


def test_cells_are_those_of_the_tables():
    sets = paper_results().sets
    assert sets["cifar10"].figures[300]["ddpm"].memorization == (78.96, 67.2, 56.56)
    assert sets["cifar10"].figures[3000]["algorithm1"].fid == 14.26
    assert sets["ffhq"].figures[1000]["noise_only"].memorization == (14.83, 9.37, 6.49)
    assert sets["tiny-imagenet"].figures[1000]["algorithm1"].fid == 47.19


@pytest.mark.parametrize("name", search_spaces.names())
def test_presets_of_the_paper_and_no_others_say_whose_images_they_are(name: str):
    config = preset(name)
    assert config.data.published == PRESETS.get(name)
    if config.data.published is None:
        return
    paper = paper_results().sets[config.data.published]
    assert set(config.space.train_size) <= set(paper.figures)
    assert config.evaluation.thresholds == paper.thresholds
    assert config.data.resolution == paper.resolution
    for recipe in ("text", "released"):
        values = parse_sweep(search_spaces.load(name, recipe), name).model_dump()
        for key, published in paper.conditions.items():
            here: Any = values
            for part in key.split("."):
                here = here[part]
            if isinstance(published, dict):
                published = published.get(recipe, here)
            if (key, recipe) != ("training.noise.kind", "text"):  # docs/fidelity.md says why
                assert here == published, (recipe, key)


def test_published_points_are_drawn_at_the_threshold_of_the_figure(size: SizeResults):
    config = preset("cifar10")
    comparison = found(config, CIFAR, size)
    expected = {"DDPM": (25.1, 0.672), "Algorithm 1": (23.91, pytest.approx(0.2022))}
    assert hollow(frontier_figure(size, "inception_v3", None, comparison)) == expected
    assert hollow(any_budget_figure(size, "inception_v3", None, comparison)) == expected
    assert hollow(frontier_figure(size, "inception_v3")) == {}
    others = [t for t in thresholds_figure(size, "inception_v3", comparison).data if "published" in t.name]
    assert [(t.x[0], t.y[0]) for t in others] == [
        (25.1, 0.7896), (23.91, 0.4484), (25.1, 0.5656), (23.91, 0.0964),
    ]  # fmt: skip
    assert [t.yaxis for t in others] == ["y", "y", "y2", "y2"]


def test_our_own_points_are_drawn_above_the_same_threshold(cifar: pd.DataFrame, size: SizeResults):
    figure = thresholds_figure(size, "inception_v3", found(preset("cifar10"), CIFAR, size))
    for axis, column in (("y", "memorization_at_0.900"), ("y2", "memorization_at_0.950")):
        drawn = [y for t in figure.data if t.yaxis == axis and "published" not in t.name for y in t.y]
        assert sorted(drawn) == pytest.approx(sorted(size.full[column]))
    assert figure.layout.yaxis.title.text == "share with<br>similarity > 0.9"
    texts = [text for t in figure.data if t.name == "DDPM" for text in t.hovertext]
    assert all("above 0.9" in text for text in texts)


def test_ffhq_has_the_four_methods_of_table_2(results: pd.DataFrame, size_of: SizeOf):
    size = size_of(measured_at(results, (0.85, 0.875, 0.9)))
    comparison = found(preset("ffhq"), FFHQ, size)
    figure = frontier_figure(size, "inception_v3", None, comparison)
    assert list(hollow(figure)) == ["DDPM", "Algorithm 1", "Masking", "Noise only"]
    (text,) = next(t.hovertext for t in figure.data if t.name == "published: Masking")
    assert "Tables 1 and 2" in text
    assert "FID 23.40 and memorization 41.4%" in text


def test_published_points_take_part_in_nothing(size: SizeResults):
    comparison = found(preset("cifar10"), CIFAR, size)
    plain, beside = (
        json.loads(frontier_figure(size, "inception_v3", recommend(size), c).to_json())
        for c in (None, comparison)
    )
    assert beside["layout"] == plain["layout"]
    assert [t for t in beside["data"] if not t["name"].startswith("published")] == plain["data"]


@pytest.mark.parametrize(
    ("further", "copies", "drawn"),
    [(0.0, 1.0, 2), (60.0, 1.0, 0), (900.0, 1.0, 0), (0.0, 0.02, 0), (0.0, 0.0, 0)],
)
def test_points_too_far_off_are_told_and_not_drawn(
    further: float, copies: float, drawn: int, results: pd.DataFrame, size_of: SizeOf
):
    rows = results.assign(fid=results.fid + further, memorization=copies * results.memorization)
    size = size_of(measured_at(rows, (0.9, 0.925, 0.95)))
    plot = draw_plots(size, preset("cifar10"), None, found(preset("cifar10"), CIFAR, size))[0]
    assert plot.spec is not None
    assert plot.published is not None
    assert sum((t.get("name") or "").startswith("published") for t in plot.spec["data"]) == drawn
    words = " ".join(plot.published.lines)
    assert ("Too far off" in words) == (drawn == 0)
    assert "DDPM at FID 25.10 and memorization 67.2%" in (plot.alt if drawn else words)
    assert plot.published.rows[0].fid == 25.1


@pytest.mark.parametrize(
    ("config", "environment", "reason"),
    [
        (preset("ffhq"), {"data.images": "300"}, "there are 300 where FFHQ has 70,000"),
        (preset("cifar10"), {}, "environment.json does not record how many there are"),
        (preset("cifar10"), {"data.images": "9" * 5000}, "does not record how many"),
        (preset("cifar10", data={"resolution": 16}), CIFAR, "16 pixels a side where the paper’s have 32"),
        (preset("cifar10", data={"channels": 1}), CIFAR, "but they are grey"),
        (preset("tiny-imagenet"), {"data.images": "100000"}, "figures for 1,000 and 3,000 training images"),
    ],
)
def test_a_name_is_no_proof(config: SweepConfig, environment: dict[str, str], reason: str, size: SizeResults):
    comparison = found(config, environment, size)
    assert reason in comparison.reason
    assert comparison.points(0.925) == []
    plots = draw_plots(size, config, None, comparison)
    assert "published" not in json.dumps([plot.spec for plot in plots])
    (note,) = [plot.published for plot in plots if plot.published]
    assert note.lines == [f"No published figures are drawn: {comparison.reason}."]
    assert not note.rows


def test_a_run_that_does_not_say_whose_images_it_has_is_not_compared(size: SizeResults, size_of: SizeOf):
    silent = preset("ffhq", data={"published": None})
    assert compare(silent, FFHQ, size) is None
    unfinished = size_of(size.frame[size.frame.rung < 3].assign(status="running"))
    assert compare(preset("cifar10"), CIFAR, unfinished) is None


@pytest.mark.parametrize("thresholds", [None, [0.8, 0.9251], [0.925, 0.9251]])
def test_a_near_threshold_is_not_the_same(
    thresholds: list[float] | None, results: pd.DataFrame, size_of: SizeOf
):
    at = tuple(thresholds or [0.9249, 0.9249])
    rows = measured_at(results, at)
    config = preset(
        "cifar10", evaluation={"thresholds": thresholds, "primary_threshold": 1 if thresholds else 0}
    )
    comparison = found(config, CIFAR, size_of(rows))
    assert "the paper’s memorization is at the similarity thresholds 0.9, 0.925 and 0.95" in comparison.reason
    assert ("calibrated on held-out images" in comparison.reason) == (thresholds is None)


def test_where_only_another_threshold_is_shared_only_that_is_drawn(results: pd.DataFrame, size_of: SizeOf):
    size = size_of(measured_at(results, (0.7, 0.9), primary=0))
    config = preset("cifar10", evaluation={"thresholds": [0.7, 0.9], "primary_threshold": 0})
    comparison = found(config, CIFAR, size)
    plots = {plot.key: plot for plot in draw_plots(size, config, None, comparison)}
    frontier = plots["frontier-300"]
    assert frontier.published is not None
    assert "the paper has no figures at this figure’s similarity threshold" in frontier.published.lines[-1]
    assert "published" not in json.dumps(frontier.spec)
    assert "published: DDPM" in json.dumps(plots["thresholds-300"].spec)
    assert "Hollow" in plots["thresholds-300"].caption
    assert "Hollow" not in plots["any-300"].caption
    differences = {d.what: d for d in comparison.differences}
    assert differences["similarity thresholds"].here == "of these 0.9"
    ours = next(row for row in frontier.published.rows if row.who == "this run: DDPM, mean of 3 seeds")
    assert np.isnan(ours.memorization[1:]).all()


def test_differences_are_those_of_the_run(results: pd.DataFrame, size_of: SizeOf):
    rows = measured_at(results, (0.9, 0.925, 0.95)).assign(n_samples=50_000)
    alike = preset("cifar10")
    whats = {d.what: (d.published, d.here) for d in found(alike, CIFAR, size_of(rows)).differences}
    assert "samples a measurement" not in whats
    assert not {"FID in features of", "similarity in features of", "FID against", "network"} & whats.keys()
    assert whats["images seen in training"] == ("7,680,000 (text), 30,000,000 (released)", "7,680,000")
    assert whats["recipe"] == ("text or released: not told", "text")
    assert found(alike, CIFAR, size_of(rows)).cautions == ()
    other = preset(
        "cifar10",
        training={
            "images": 256_000,
            "optimizer": "adamw",
            "network": {"name": "tiny"},
            "init_from": "s3://k:v@b/x",
        },
        evaluation={
            "fid_encoder": "efficientnet_lite0",
            "similarity_encoder": "dinov2_vitb14",
            "preprocessing": "standard",
            "reference": "heldout",
        },
        sampling={"steps": 10},
    )
    comparison = found(other, CIFAR, size_of(rows.assign(n_samples=5000)))
    whats = {d.what: (d.published, d.here) for d in comparison.differences}
    assert whats["samples a measurement"] == ("50,000", "5,000; 50,000 in the final measurement")
    assert whats["FID against"] == ("50,000 images of the set", "images left out of training")
    assert whats["FID in features of"] == ("inception_v3", "efficientnet_lite0")
    assert whats["similarity in features of"] == ("dinov2_vitg14", "dinov2_vitb14")
    assert whats["preprocessing for DINOv2"] == ("paper", "standard")
    assert whats["optimizer"] == ("adam", "adamw")
    assert whats["network"] == ("ddpmpp", "tiny")
    assert whats["sampling steps"] == ("18", "10")
    assert whats["first weights"] == ("random", "s3://***@b/x")
    assert len(comparison.cautions) == 2


def test_the_page_shows_the_figures_and_what_differs(new_run: Callable[..., Path], cifar: pd.DataFrame):
    config = preset("cifar10", space={"train_size": [300]})
    run_dir = new_run(cifar, config, recommend_for=(300,), budget="full")
    path = run_dir / "environment.json"
    path.write_text(json.dumps({"data": {"name": "cifar10", "images": 50_000}}))
    page = write_report(run_dir).read_text(encoding="utf-8")
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert "the run says that its images are CIFAR-10 (data.published), and there are as many of them" in text
    assert "published: DDPM 25.10 79.0% 67.2% 56.6%" in text
    assert "this run: DDPM, mean of 3 seeds" in text
    assert "this run: Algorithm 1, recommended" in text
    assert "recipe text or released: not told text" in text
    assert "samples a measurement 50,000 5,000; 50,000 in the final measurement" in text
    (alt,) = re.findall(r'id="frontier-300" role="img" aria-label="([^"]*)"', page)
    assert "published, as hollow points: DDPM at FID 25.10 and memorization 67.2%" in alt


def test_final_figures_of_as_many_samples_have_an_axis_and_rows_of_their_own(
    size: SizeResults, stopped: Callable[..., Recommendation]
):
    found_here = stopped(size, "n300-algorithm1-0007")
    training = Figures(
        fid=Spread(value=22.5, low=22, high=23), memorization=Spread(value=0.3, low=0.2, high=0.4)
    )
    ddpm = Figures(fid=Spread(value=24.5, low=24, high=25), memorization=Spread(value=0.6, low=0.5, high=0.7))
    final = FinalFigures(n_samples=50_000, training=training, ddpm=ddpm)
    config = preset("cifar10")
    comparison = found(config, CIFAR, size)
    again = found_here.model_copy(update={"final": final})
    plots = {plot.key: plot for plot in draw_plots(size, config, again, comparison)}
    drawn = [key for key, plot in plots.items() if '"published: ' in json.dumps(plot.spec)]
    assert drawn == ["final-300"]
    plot = plots["final-300"]
    assert plot.spec is not None
    assert plot.published is not None
    points = {trace["name"]: (trace["x"][0], trace["y"][0]) for trace in plot.spec["data"]}
    assert points["the answer"] == (22.5, 0.3)
    assert points["DDPM at full budget"] == (24.5, 0.6)
    assert points["published: DDPM"] == (25.1, 0.672)
    assert len(points) == 4
    rows = {row.who: (row.fid, row.memorization[1]) for row in plot.published.rows}
    assert rows["this run: recommended, final measurement"] == (22.5, 0.3)
    assert rows["this run: DDPM, final measurement"] == (24.5, 0.6)
    assert not any("seeds" in who for who in rows)
    assert not [d for d in plot.published.differences if "samples" in d.what]
    assert plots["frontier-300"].published is None
    assert "published, as hollow points: DDPM at FID 25.10" in plot.alt
    fewer = found_here.model_copy(update={"final": final.model_copy(update={"n_samples": 20_000})})
    plots = {plot.key: plot for plot in draw_plots(size, config, fewer, comparison)}
    assert "final-300" not in plots
    assert plots["frontier-300"].published is not None


def test_plots_without_a_comparison_are_as_before(size: SizeResults):
    plots: list[Plot] = draw_plots(size, preset("cifar10"), None)
    assert all(plot.published is None for plot in plots)
