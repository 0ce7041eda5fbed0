import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from dashboards import theme, wording
from dashboards.figures import any_budget_figure, frontier_figure, mix_figure, sigma_figure
from dashboards.search_figures import curves_figure, hypervolume_figure
from pareto_amb.search.frontier import (
    comparable,
    frontier,
    hypervolume_history,
    normalized_hypervolume,
    reference_point,
)
from pareto_amb.search.recommend import Recommendation, recommend
from pareto_amb.search.uncertainty import frontier_points

MAKERS = [
    frontier_figure,
    sigma_figure,
    any_budget_figure,
    mix_figure,
    curves_figure,
    hypervolume_figure,
]


@pytest.fixture
def recommended(results: pd.DataFrame) -> Recommendation:
    return recommend(results, 300)


def traces(figure: go.Figure, name: str) -> list[Any]:
    return [trace for trace in figure.data if trace.name and trace.name.startswith(name)]


def drawn(figure: go.Figure) -> int:
    """Points that can be pointed at."""
    return sum(len(t.x) for t in figure.data if t.mode == "markers" and t.hovertext is not None and t.x[0])


def test_frontier_draws_every_completed_trial_once(
    results: pd.DataFrame, recommended: Recommendation
) -> None:
    figure = frontier_figure(results, 300, "inception_v3", recommended)
    ids = [text for t in figure.data if t.hovertext for text in t.hovertext if "<b>" in text]
    assert len(ids) == len(set(ids)) == len(comparable(results, 300))
    (step,) = traces(figure, "front")
    front = frontier(results, 300)
    assert step.line.shape == "hv"
    assert list(step.x) == front.fid.tolist()
    assert list(step.y) == front.memorization.tolist()
    assert figure.layout.xaxis.title.text == "FID (inception_v3)"
    label = figure.layout.yaxis.title.text.replace("<br>", " ")
    assert label == "memorization: share of samples with similarity > τ = 0.914"


def test_frontier_marks_baseline_heldout_and_recommended(
    results: pd.DataFrame, recommended: Recommendation
) -> None:
    figure = frontier_figure(results, 300, "inception_v3", recommended)
    (box,) = traces(figure, "DDPM mean ±")
    assert min(box.x) == pytest.approx(recommended.baseline.fid.low)
    assert max(box.y) == pytest.approx(recommended.baseline.memorization.high)
    (line,) = traces(figure, "held-out")
    assert set(line.y) == {0.01}
    assert line.line.color == theme.HELDOUT
    (ring,) = traces(figure, "recommended")
    assert (ring.x[0], ring.y[0]) == (recommended.fid.value, recommended.memorization.value)
    assert ring.marker.line.color == theme.RECOMMENDED


def test_hover_gives_both_units_mix_ratio_and_seed(results: pd.DataFrame) -> None:
    figure = frontier_figure(results, 300, "inception_v3")
    texts = [text for t in traces(figure, "Algorithm 1") for text in t.hovertext or ()]
    row = results[(results.trial_id == "n300-algorithm1-0008") & (results.rung == 3)].iloc[0]
    (text,) = (text for text in texts if "n300-algorithm1-0008" in text)
    sigma = f"σ_tn {row.sigma_tn:.2f} EDM = {row.sigma_tn / math.hypot(1, row.sigma_tn):.3f} VP"
    assert sigma in text
    assert f"mix ratio {row.mix_ratio:.2f}" in text
    assert "seed 0" in text


def test_points_carry_their_noise_and_how_sure_they_are(results: pd.DataFrame) -> None:
    figure = frontier_figure(results, 300, "inception_v3")
    points = frontier_points(results, 300)
    points = points[points.method != "ddpm"].reset_index(drop=True)
    (bars,) = traces(figure, "± 2 s.d.")
    assert list(bars.x) == points.fid.tolist()
    assert list(bars.error_x.array) == pytest.approx((2 * points.fid_sd).tolist())
    assert list(bars.error_y.array) == pytest.approx((2 * points.memorization_sd).tolist())
    assert (np.array(bars.error_y.arrayminus) <= np.array(bars.y)).all()
    row = points[points.trial_id == "n300-algorithm1-0007"].iloc[0]
    assert 0 < row.p_front < 1
    texts = [text for t in figure.data for text in t.hovertext or () if row.trial_id in text]
    assert f"on the front in {row.p_front:.0%} of redraws" in texts[0]
    assert f"± {wording.number(2 * row.fid_sd, 2)}" in texts[0]


def test_learning_curves_end_in_a_cross_where_a_trial_was_stopped(results: pd.DataFrame) -> None:
    figure = curves_figure(results, 300, "pixels")
    stopped = [t for t in figure.data if t.name == "Algorithm 1, stopped early"]
    assert [list(t.y) for t in stopped] == [
        [
            value
            for trial in ("n300-algorithm1-0003", "n300-algorithm1-0013")
            for value in [*results[results.trial_id == trial][metric], None]
        ]
        for metric in ("fid", "memorization")
    ]
    assert [list(t.marker.symbol).count("x") for t in stopped] == [2, 2]
    others = [t for t in figure.data if t.name in {"Algorithm 1", "DDPM"}]
    assert not any("x" in t.marker.symbol for t in others)
    points = sum(y is not None for t in figure.data for y in t.y)
    assert points == 2 * results.fid.notna().sum()
    assert "2 of 16 trials (2 at 50% of the budget)" in wording.stopped_early(results, 300)
    assert "saved 1.00 full trainings" in wording.stopped_early(results, 300)
    complete = results[results.status != "pruned"]
    assert wording.stopped_early(complete, 300) == "Here nothing was stopped early."


def test_the_hypervolume_is_drawn_over_what_everything_cost(results: pd.DataFrame) -> None:
    (curve,) = hypervolume_figure(results, 300, "pixels").data
    assert list(curve.y) == hypervolume_history(results, 300).hypervolume.tolist()
    assert curve.x[-1] == pytest.approx(16 + 2 * 0.5)  # 3 baselines, 13 trials, two stopped halfway
    final = normalized_hypervolume(frontier(results, 300), reference_point(results, 300))
    assert curve.y[-1] == pytest.approx(final)
    assert f"It is {wording.percent(final)} in the end" in wording.hypervolume(results, 300)


def test_a_confirmed_trial_is_drawn_at_the_mean_of_its_fresh_seeds(
    results: pd.DataFrame, recommended: Recommendation, confirm: Callable[..., pd.DataFrame]
) -> None:
    rows = confirm(results, recommended.trial_id)
    found = recommend(rows, 300)
    assert found.trial_id == recommended.trial_id
    figure = frontier_figure(rows, 300, "inception_v3", found)
    texts = [text for t in traces(figure, "Algorithm 1") for text in t.hovertext or ()]
    (text,) = (text for text in texts if found.trial_id in text)
    assert "mean of 2 fresh seeds" in text
    (ring,) = traces(figure, "recommended")
    assert (ring.x[0], ring.y[0]) == (found.fid.value, found.memorization.value)
    (before,) = traces(figure, "in the search")
    assert before.x[:2] == (recommended.fid.value, found.fid.value)
    assert before.y[:2] == (recommended.memorization.value, found.memorization.value)
    assert before.marker.size[:2] == (9, 0)
    assert not traces(frontier_figure(results, 300, "inception_v3", recommended), "in the search")
    words = wording.confirmation(found)
    assert "Trained again with 2 fresh seeds" in words
    assert f"memorization {wording.percent(found.memorization.value)} after " in words
    assert "Not confirmed" in wording.confirmation(recommended)
    assert "It falls where fresh seeds" in wording.hypervolume(rows, 300)
    assert wording.stopped_early(rows, 300) == wording.stopped_early(results, 300)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("running", "No training of this size has reached its full budget yet"),
        ("no ddpm", "No DDPM baseline has finished"),
        ("no copies", "DDPM copies nothing here"),
        ("old", "the order of its trainings is not known"),
        ("all", ""),
    ],
)
def test_it_is_said_why_there_is_no_hypervolume(case: str, reason: str, results: pd.DataFrame) -> None:
    ddpm = results.method == "ddpm"
    tables = {
        "running": results[results.rung < 3].assign(status="running"),
        "no ddpm": results[~ddpm],
        "no copies": results.assign(memorization=results.memorization.where(~ddpm, 0.0)),
        "old": results.assign(recorded_at=math.nan),
        "all": results,
    }
    said = wording.no_hypervolume(tables[case], 300)
    assert reason in said
    assert bool(said) == bool(reason)


@pytest.mark.parametrize("make", MAKERS)
def test_one_train_size_at_a_time(make: Any, make_rows: Callable[[int], pd.DataFrame]) -> None:
    both = pd.concat([make_rows(300), make_rows(1000)], ignore_index=True)
    alone = make(both[both.train_size == 1000], 1000, "pixels", recommend(both, 1000))
    among = make(both, 1000, "pixels", recommend(both, 1000))
    assert among.to_json() == alone.to_json()


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "case", ["empty", "no ddpm", "one trial", "nan", "one seed", "no copies", "wild fid"]
)
def test_figures_survive_thin_results(make: Any, case: str, results: pd.DataFrame) -> None:
    ddpm = results.method == "ddpm"
    tables = {
        "empty": results.iloc[:0],
        "no ddpm": results[~ddpm],
        "one trial": results[results.trial_id == "n300-algorithm1-0004"],
        "nan": results.assign(fid=np.nan, similarity_mean=np.nan, heldout_memorization=np.nan),
        "one seed": results[~ddpm | (results.seed == 0)],
        "no copies": results.assign(memorization=0.0, heldout_memorization=np.nan),
        "wild fid": results.assign(fid=results.fid.where(results.sigma_tn < 5, 4000.0)),
    }
    figure = make(tables[case], 300, "pixels")
    assert isinstance(figure.to_json(), str)


def test_any_budget_shows_every_rung_and_the_joint_front(results: pd.DataFrame) -> None:
    figure = any_budget_figure(results, 300, "pixels")
    rows = comparable(results, 300, "any")
    assert drawn(figure) == len(rows)
    names = {trace.name for trace in figure.data if trace.name}
    assert {"DDPM, 25% of budget", "Algorithm 1, 100% of budget", "front over all budgets"} <= names


def test_sigma_figure_marks_window_and_noise_level_in_both_units(
    results: pd.DataFrame, recommended: Recommendation
) -> None:
    figure = sigma_figure(results, 300, "pixels", recommended)
    assert recommended.window is not None
    rectangles = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert len(rectangles) == 3
    assert rectangles[0].x0 == pytest.approx(recommended.window[0], rel=0.02)
    assert rectangles[0].x1 == pytest.approx(recommended.window[1], rel=0.02)
    tick = dict(zip(figure.layout.xaxis3.tickvals, figure.layout.xaxis3.ticktext, strict=True))[1.0]
    assert tick.startswith("1<br>")
    assert "0.71" in tick


def test_names_from_the_table_are_not_read_as_tags(results: pd.DataFrame) -> None:
    nasty = results.assign(trial_id=results.trial_id + "<a href='http://evil.test'>x</a>")
    nasty["method"] = nasty.method.replace("algorithm1", "<i>mine</i>")
    for make in MAKERS:
        figure = make(nasty, 300, "pixels")
        for trace in figure.data:
            assert "<i>" not in (trace.name or "")
            assert not any("<a" in text for text in trace.hovertext or ())


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.0, 3, "0"), (12.345, 4, "12.35"), (0.01234, 3, "0.0123"), (12345.6, 3, "12,346"), (math.nan, 3, "–")],
)
def test_number(value: float, digits: int, text: str) -> None:
    assert wording.number(value, digits) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0%"), (0.0012, "0.12%"), (0.123, "12.3%"), (1.0, "100.0%"), (math.nan, "–")],
)
def test_percent(share: float, text: str) -> None:
    assert wording.percent(share) == text


def test_vp_levels_close_to_one_keep_their_digits() -> None:
    assert wording.level_vp(1.0) == "0.707"
    assert wording.level_vp(80.0) == "0.99992"


def with_rivals(results: pd.DataFrame) -> pd.DataFrame:
    """Two masking and two noise-only trainings beside the others; the first masks better than all."""
    chosen = results[results.trial_id.isin(["n300-algorithm1-0006", "n300-algorithm1-0007"])]
    masking = chosen.assign(
        trial_id=chosen.trial_id.str.replace("algorithm1", "masking"), method="masking", sigma_tn=0.0,
        mix_ratio=0.0, corruption=0.4, fid=chosen.fid * 0.5, memorization=0.001,
    )  # fmt: skip
    noise_only = chosen.assign(
        trial_id=chosen.trial_id.str.replace("algorithm1", "noise_only"), method="noise_only", mix_ratio=1.0
    )
    return pd.concat([results, masking, noise_only], ignore_index=True)


def test_other_methods_have_their_own_colour_symbol_and_hover(results: pd.DataFrame) -> None:
    rows = with_rivals(results)
    figure = frontier_figure(rows, 300, "pixels", recommend(rows, 300))
    (masking,), (noise_only,) = traces(figure, "Masking"), traces(figure, "Noise only")
    symbols = {
        masking.marker.symbol,
        noise_only.marker.symbol,
        traces(figure, "Algorithm 1")[0].marker.symbol,
    }
    assert len(symbols) == 3
    assert masking.marker.color == theme.OTHER_METHODS["masking"] != noise_only.marker.color
    assert "40.0% of pixels missing" in masking.hovertext[0]
    assert "σ_tn" not in masking.hovertext[0]
    assert "σ_tn" in noise_only.hovertext[0]
    assert "mix ratio" not in noise_only.hovertext[0]
    (front,) = traces(figure, "front")
    assert min(masking.x) in front.x


def test_other_methods_keep_to_the_figures_they_belong_to(results: pd.DataFrame) -> None:
    rows = with_rivals(results)
    sigma = {t.name for t in sigma_figure(rows, 300, "pixels").data}
    assert "Noise only" in sigma
    assert "Masking" not in sigma
    assert drawn(mix_figure(rows, 300, "pixels")) == drawn(mix_figure(results, 300, "pixels"))
    figure = any_budget_figure(rows, 300, "pixels")
    assert drawn(figure) == len(comparable(rows, 300, "any"))
    (full,) = traces(figure, "Masking, 100%")
    assert full.marker.line.color == theme.OTHER_METHODS["masking"]


def test_a_better_rival_is_named(results: pd.DataFrame) -> None:
    rows = with_rivals(results)
    found = recommend(rows, 300)
    assert found.trial_id == recommend(results, 300).trial_id
    assert wording.rivals(results, found) == ""
    assert "Another method does better here: Masking (40.0% of pixels" in wording.rivals(rows, found)
    worse = rows.assign(fid=rows.fid.where(rows.method != "masking", 1e3))
    worse = worse.assign(fid=worse.fid.where(rows.method != "noise_only", 1e3))
    assert "(Masking, Noise only): none" in wording.rivals(worse, found)
