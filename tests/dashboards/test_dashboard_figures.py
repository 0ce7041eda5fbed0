import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from pareto_amb.dashboards import formats, theme, wording
from pareto_amb.dashboards.answer import answer
from pareto_amb.dashboards.frontier_figures import FAINT, any_budget_figure, frontier_figure
from pareto_amb.dashboards.looks import SPARE_COLOURS, look, looks
from pareto_amb.dashboards.parameter_figures import parameter_figure, two_parameters_figure
from pareto_amb.dashboards.probe_figures import probe_caption, probe_figure, probed_trainings
from pareto_amb.dashboards.search_figures import curves_figure, hypervolume_figure
from pareto_amb.declared import BASELINE, Declared
from pareto_amb.diffusion.methods.algorithm1 import MIX_RATIO, SIGMA_TN
from pareto_amb.results.recommend import recommend
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.size import SizeResults

SizeOf = Callable[..., SizeResults]
Found = Recommendation | None


def sigma_figure(size: SizeResults, encoder: str, found: Found = None) -> go.Figure:
    return parameter_figure(size, SIGMA_TN, encoder, found)


def mix_figure(size: SizeResults, encoder: str, found: Found = None) -> go.Figure:
    return two_parameters_figure(size, SIGMA_TN, MIX_RATIO, encoder, found)


MAKERS: list[Callable[[SizeResults, Found], go.Figure]] = [
    lambda size, found: frontier_figure(size, "pixels", found),
    lambda size, found: sigma_figure(size, "pixels", found),
    lambda size, found: any_budget_figure(size, "pixels", found),
    lambda size, found: mix_figure(size, "pixels", found),
    lambda size, found: curves_figure(size, "pixels", found),
    lambda size, found: hypervolume_figure(size),
]
NAMES = ["frontier", "sigma", "any", "mix", "curves", "hypervolume"]


@pytest.fixture
def size(results: pd.DataFrame, size_of: SizeOf) -> SizeResults:
    return size_of(results)


@pytest.fixture
def recommended(size: SizeResults) -> Recommendation:
    """At equal budget."""
    return recommend(size, budget="full")


def traces(figure: go.Figure, name: str) -> list[Any]:
    return [trace for trace in figure.data if trace.name and trace.name.startswith(name)]


def drawn(figure: go.Figure) -> int:
    """Points that can be pointed at."""
    return sum(len(t.x) for t in figure.data if t.mode == "markers" and t.hovertext is not None and t.x[0])


def test_frontier_draws_every_completed_trial_once(recommended: Recommendation, size: SizeResults) -> None:
    figure = frontier_figure(size, "inception_v3", recommended)
    ids = [text for t in figure.data if t.hovertext for text in t.hovertext if "<b>" in text]
    assert len(ids) == len(set(ids)) == len(size.full)
    (step,) = traces(figure, "front")
    front = size.frontier
    assert step.line.shape == "hv"
    assert list(step.x) == front.fid.tolist()
    assert list(step.y) == front.memorization.tolist()
    assert figure.layout.xaxis.title.text == "FID (inception_v3)"
    label = figure.layout.yaxis.title.text.replace("<br>", " ")
    assert label == "memorization: share of samples with similarity > τ = 0.914"


def test_frontier_marks_baseline_heldout_and_recommended(
    recommended: Recommendation, size: SizeResults
) -> None:
    figure = frontier_figure(size, "inception_v3", recommended)
    (box,) = traces(figure, "DDPM over its seeds")
    assert min(box.x) == pytest.approx(recommended.baseline["fid"].low)
    assert max(box.y) == pytest.approx(recommended.baseline["memorization"].high)
    (line,) = traces(figure, "held-out")
    assert set(line.y) == {0.01}
    assert line.line.color == theme.HELDOUT
    (ring,) = traces(figure, "recommended")
    assert (ring.x[0], ring.y[0]) == (recommended["fid"].value, recommended["memorization"].value)
    assert ring.marker.line.color == theme.RECOMMENDED


def test_hover_gives_both_units_mix_ratio_and_seed(results: pd.DataFrame, size: SizeResults) -> None:
    figure = frontier_figure(size, "inception_v3")
    texts = [text for t in traces(figure, "Algorithm 1") for text in t.hovertext or ()]
    row = results[(results.trial_id == "n300-algorithm1-0008") & (results.rung == 3)].iloc[0]
    (text,) = (text for text in texts if "n300-algorithm1-0008" in text)
    sigma = f"σ_tn {row.sigma_tn:.2f} EDM = {row.sigma_tn / math.hypot(1, row.sigma_tn):.3f} VP"
    assert sigma in text
    assert f"mix ratio {row.mix_ratio:.2f}" in text
    assert "seed 0" in text


def test_points_carry_their_noise_and_how_sure_they_are(size: SizeResults) -> None:
    figure = frontier_figure(size, "inception_v3")
    points = size.points
    points = points[points.method != "ddpm"].reset_index(drop=True)
    (bars,) = traces(figure, "± 2 s.d.")
    assert list(bars.x) == points.fid.tolist()
    assert list(bars.error_x.array) == pytest.approx((2 * points.fid_sd).tolist())
    assert list(bars.error_y.array) == pytest.approx((2 * points.memorization_sd).tolist())
    assert (np.array(bars.error_y.arrayminus) <= np.array(bars.y)).all()
    row = points[points.trial_id == "n300-algorithm1-0007"].iloc[0]
    assert 0 < row.p_front < 1
    texts = [text for t in figure.data for text in t.hovertext or () if row.trial_id in text]
    assert f"on the frontier in {row.p_front:.0%} of redraws" in texts[0]
    assert f"± {formats.number(2 * row.fid_sd, 2)}" in texts[0]


def test_learning_curves_end_in_a_cross_where_a_trial_was_stopped(
    results: pd.DataFrame, size: SizeResults, size_of: SizeOf
) -> None:
    figure = curves_figure(size, "pixels")
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
    assert "2 of 16 trials (2 at 50% of the budget)" in wording.stopped_early(size)
    assert "saved 1.00 full trainings" in wording.stopped_early(size)
    complete = size_of(results[results.status != "paused"])
    assert wording.stopped_early(complete) == "Here nothing was stopped early."


def test_the_hypervolume_is_drawn_over_what_everything_cost(size: SizeResults) -> None:
    (curve,) = hypervolume_figure(size).data
    assert list(curve.y) == size.hypervolume_history.hypervolume.tolist()
    assert curve.x[-1] == pytest.approx(16 + 2 * 0.5)  # 3 baselines, 13 trials, two stopped halfway
    final = size.normalized_hypervolume(size.frontier)
    assert curve.y[-1] == pytest.approx(final)
    assert f"It is {formats.percent(final)} in the end" in wording.hypervolume(size)


def test_a_confirmed_trial_is_drawn_at_the_mean_of_its_fresh_seeds(
    results: pd.DataFrame,
    recommended: Recommendation,
    confirm: Callable[..., pd.DataFrame],
    size: SizeResults,
    size_of: SizeOf,
) -> None:
    rows = confirm(results, recommended.trial_id)
    more = size_of(rows)
    found = recommend(more, budget="full")
    assert found.trial_id == recommended.trial_id
    figure = frontier_figure(more, "inception_v3", found)
    texts = [text for t in traces(figure, "Algorithm 1") for text in t.hovertext or ()]
    (text,) = (text for text in texts if found.trial_id in text)
    assert "mean of 2 fresh seeds" in text
    (ring,) = traces(figure, "recommended")
    assert (ring.x[0], ring.y[0]) == (found["fid"].value, found["memorization"].value)
    (before,) = traces(figure, "in the search")
    assert before.x[:2] == (recommended["fid"].value, found["fid"].value)
    assert before.y[:2] == (recommended["memorization"].value, found["memorization"].value)
    assert before.marker.size[:2] == (9, 0)
    assert not traces(frontier_figure(size, "inception_v3", recommended), "in the search")
    words = wording.confirmation(found, size.objectives)
    assert "Trained again with 2 fresh seeds" in words
    assert f"memorization {formats.percent(found['memorization'].value)} after " in words
    assert wording.confirmation(recommended, size.objectives) == ""
    assert "not-confirmed" in {caution.word for caution in recommended.cautions}
    assert "It falls where fresh seeds" in wording.hypervolume(more)
    assert wording.stopped_early(more) == wording.stopped_early(size)


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
def test_it_is_said_why_there_is_no_hypervolume(
    case: str, reason: str, results: pd.DataFrame, size_of: SizeOf
) -> None:
    ddpm = results.method == "ddpm"
    tables = {
        "running": results[results.rung < 3].assign(status="running"),
        "no ddpm": results[~ddpm],
        "no copies": results.assign(memorization=results.memorization.where(~ddpm, 0.0)),
        "old": results.assign(recorded_at=math.nan),
        "all": results,
    }
    said = wording.no_hypervolume(size_of(tables[case]))
    assert reason in said
    assert bool(said) == bool(reason)


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
def test_one_train_size_at_a_time(
    make: Any, make_rows: Callable[[int], pd.DataFrame], size_of: SizeOf
) -> None:
    both = pd.concat([make_rows(300), make_rows(1000)], ignore_index=True)
    found = recommend(size_of(both, 1000))
    alone = make(size_of(both[both.train_size == 1000], 1000), found)
    among = make(size_of(both, 1000), found)
    assert among.to_json() == alone.to_json()


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
@pytest.mark.parametrize(
    "case", ["empty", "no ddpm", "one trial", "nan", "one seed", "no copies", "wild fid"]
)
def test_figures_survive_thin_results(make: Any, case: str, results: pd.DataFrame, size_of: SizeOf) -> None:
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
    figure = make(size_of(tables[case]), None)
    assert isinstance(figure.to_json(), str)


def test_any_budget_shows_every_stopping_point_once_and_the_joint_front(size: SizeResults) -> None:
    figure = any_budget_figure(size, "pixels")
    stops = size.over("any")
    assert drawn(figure) == len(stops.points) == 43 + 3  # DDPM's three seeds are one point at each
    (front,) = traces(figure, "frontier over all stopping points")
    assert list(front.x) == stops.frontier.fid.tolist()
    (ddpm,) = (t for t in figure.data if t.name == "DDPM")
    assert list(ddpm.marker.color) == [look(size.declared, "ddpm").colour, theme.PAPER, theme.PAPER]
    assert list(ddpm.marker.size) == sorted(ddpm.marker.size, reverse=True)
    assert "mean of 3 seeds" in ddpm.hovertext[0]
    assert "256,000 images (50%)" in ddpm.hovertext[1]
    row = stops.points[(stops.points.method == "ddpm") & (stops.points.rung == 2)].iloc[0]
    lean = row.similarity_mean - row.heldout_similarity_mean
    assert f"{formats.signed(lean)} against held-out images" in ddpm.hovertext[1]


def test_any_budget_marks_the_answer_and_ddpm_where_it_is_best_and_in_full(
    results: pd.DataFrame, size_of: SizeOf
) -> None:
    early = (results.method == "ddpm") & (results.rung == 2)
    size = size_of(results.assign(fid=results.fid.where(~early, results.fid - 4)))
    found = recommend(size, budget="any")
    figure = any_budget_figure(size, "pixels", found)
    best, full = size.over("any").baseline, size.baseline
    assert best.images_seen == 256_000
    for name, at in (
        ("recommended: ", found),
        ("DDPM at its best stop, after 256,000 images", best),
        ("DDPM at full budget", full),
    ):
        (mark,) = traces(figure, name)
        assert (mark.x[0], mark.y[0]) == (at["fid"].value, at["memorization"].value)
    assert not traces(any_budget_figure(size_of(results), "pixels"), "DDPM where")  # best in full


def test_what_stops_early_is_marked_where_it_stops_and_nowhere_else(
    size: SizeResults, stopped: Callable[..., Recommendation]
) -> None:
    found = stopped(size, "n300-algorithm1-0007")
    assert found.equal_budget is not None
    full = frontier_figure(size, "pixels", found)
    assert not traces(full, "recommended")
    (ring,) = traces(full, "at equal budget")
    assert (ring.x[0], ring.y[0]) == (found.equal_budget["fid"], found.equal_budget["memorization"])
    rings = traces(curves_figure(size, "pixels", found), "recommended")
    assert [ring.x[0] for ring in rings] == [256_000, 256_000]
    assert [ring.y[0] for ring in rings] == [found["fid"].value, found["memorization"].value]
    figure = sigma_figure(size, "pixels", found)
    there = size.anytime[(size.anytime.rung == 2) & (size.anytime.method != "ddpm")]
    assert drawn(figure) == 3 * len(there)  # in three panels
    (ring, *_) = traces(figure, "recommended")
    assert ring.y[0] == pytest.approx(found["memorization"].value)
    assert traces(figure, "DDPM after 512,000 images over its seeds")


def test_controls_are_points_of_no_figure(
    results: pd.DataFrame, followed: Callable[..., pd.DataFrame], size_of: SizeOf
) -> None:
    size = size_of(followed(results, "n300-algorithm1-0007"))
    found = recommend(size, budget="any")
    assert (size.frame.controls != "").sum() == 2
    for make in MAKERS:
        figure = make(size, found)
        assert not any("control" in text for t in figure.data for text in t.hovertext or ())
        assert not any("Control" in (t.name or "") for t in figure.data)


def test_sigma_figure_marks_window_and_noise_level_in_both_units(
    recommended: Recommendation, size: SizeResults
) -> None:
    figure = sigma_figure(size, "pixels", recommended)
    assert recommended.window is not None
    rectangles = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert len(rectangles) == 3
    assert rectangles[0].x0 == pytest.approx(recommended.window[0], rel=0.02)
    assert rectangles[0].x1 == pytest.approx(recommended.window[1], rel=0.02)
    tick = dict(zip(figure.layout.xaxis3.tickvals, figure.layout.xaxis3.ticktext, strict=True))[1.0]
    assert tick.startswith("1<br>")
    assert "0.71" in tick


def test_names_from_the_table_are_not_read_as_tags(results: pd.DataFrame, size_of: SizeOf) -> None:
    nasty = results.assign(trial_id=results.trial_id + "<a href='http://evil.test'>x</a>")
    nasty["method"] = nasty.method.replace("algorithm1", "<i>mine</i>")
    for make in MAKERS:
        figure = make(size_of(nasty), None)
        for trace in figure.data:
            assert "<i>" not in (trace.name or "")
            assert not any("<a" in text for text in trace.hovertext or ())


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.0, 3, "0"), (12.345, 4, "12.35"), (0.01234, 3, "0.0123"), (12345.6, 3, "12,346"), (math.nan, 3, "–")],
)
def test_number(value: float, digits: int, text: str) -> None:
    assert formats.number(value, digits) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0%"), (0.0012, "0.12%"), (0.123, "12.3%"), (1.0, "100.0%"), (math.nan, "–")],
)
def test_percent(share: float, text: str) -> None:
    assert formats.percent(share) == text


def test_vp_levels_close_to_one_keep_their_digits() -> None:
    assert formats.level_vp(1.0) == "0.707"
    assert formats.level_vp(80.0) == "0.99992"


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


def test_other_methods_have_their_own_colour_symbol_and_hover(
    results: pd.DataFrame, size: SizeResults, size_of: SizeOf
) -> None:
    rivals = size_of(with_rivals(results))
    figure = frontier_figure(rivals, "pixels", recommend(rivals))
    (masking,), (noise_only,) = traces(figure, "Masking"), traces(figure, "Noise only")
    symbols = {
        masking.marker.symbol,
        noise_only.marker.symbol,
        traces(figure, "Algorithm 1")[0].marker.symbol,
    }
    assert len(symbols) == 3
    assert masking.marker.color == look(size.declared, "masking").colour != noise_only.marker.color
    assert "40.0% of pixels missing" in masking.hovertext[0]
    assert "σ_tn" not in masking.hovertext[0]
    assert "σ_tn" in noise_only.hovertext[0]
    assert "mix ratio" not in noise_only.hovertext[0]
    (front,) = traces(figure, "front")
    assert min(masking.x) in front.x


def test_other_methods_keep_to_the_figures_they_belong_to(
    results: pd.DataFrame, size: SizeResults, size_of: SizeOf
) -> None:
    rivals = size_of(with_rivals(results))
    sigma = {t.name for t in sigma_figure(rivals, "pixels").data}
    assert "Noise only" in sigma
    assert "Masking" not in sigma
    corruption = parameter_figure(rivals, size.declared.parameters["corruption"], "pixels")
    labels = {method.label for method in size.declared.methods.values()}
    assert {t.name for t in corruption.data} & labels == {"Masking"}
    assert corruption.layout.xaxis3.title.text == "missing pixels"
    assert corruption.layout.xaxis3.tickformat == "~%"
    assert drawn(mix_figure(rivals, "pixels")) == drawn(mix_figure(size, "pixels"))
    figure = any_budget_figure(rivals, "pixels")
    assert drawn(figure) == len(rivals.over("any").points)
    (masking,) = traces(figure, "Masking")
    assert masking.marker.line.color == look(size.declared, "masking").colour


def test_a_better_rival_is_named(results: pd.DataFrame, size: SizeResults, size_of: SizeOf) -> None:
    rows = with_rivals(results)
    rivals = size_of(rows)
    found = recommend(rivals)
    assert found.trial_id == recommend(size).trial_id
    assert wording.rivals(rivals, found) == ""
    (caution,) = (c.sentence for c in found.cautions if c.word == "better-method")
    assert "another method does at least as well: Masking at " in caution
    worse = rows.assign(fid=rows.fid.where(rows.method != "masking", 1e3))
    worse = worse.assign(fid=worse.fid.where(rows.method != "noise_only", 1e3))
    words = wording.rivals(size_of(worse), recommend(size_of(worse)))
    assert "(Masking, Noise only): none" in words


Three = tuple[pd.DataFrame, Declared]


@pytest.fixture
def size3(three: Three, size_of: SizeOf) -> SizeResults:
    rows, declared = three
    return size_of(rows, declared=declared)


def test_three_objectives_are_linked_views_of_one_front(size3: SizeResults) -> None:
    found = recommend(size3)
    figure = frontier_figure(size3, "pixels", found)
    panels = [[t for t in figure.data if t.yaxis == axis and t.hovertext] for axis in ("y", "y2", "y3")]
    assert [len(panel) for panel in panels] == [4, 4, 4]  # 2 methods, DDPM's seeds and mean
    (first, second, third) = panels
    for left, middle, right in zip(first, second, third, strict=True):
        assert left.name == middle.name == right.name
        assert left.hovertext == middle.hovertext
        assert left.customdata == middle.customdata == right.customdata
        assert left.legendgroup == middle.legendgroup == right.legendgroup
        assert (left.y, left.x, middle.x) == (middle.y, right.y, right.x)
    titles = [axis.title.text.partition("<")[0] for axis in figure.select_xaxes()]
    assert titles == ["FID (pixels)", "diversity", "diversity"]
    shown = [t.name for t in figure.data if t.name and t.showlegend is not False]
    assert len(shown) == len(set(shown)), "each name once in the legend"
    front = set(size3.frontier.trial_id)
    circled = traces(figure, "frontier at full budget, in all 3 objectives")
    assert [t.x for t in circled] == [
        tuple(size3.frontier[name]) for name in ("fid", "diversity", "diversity")
    ]
    boxes = traces(figure, "DDPM over its seeds")
    assert boxes[2].x[:2] == (size3.baseline["diversity"].low, size3.baseline["diversity"].high)
    drawn = [t for t in panels[1] if t.marker.opacity]
    opaque = {
        text[3:].partition("<")[0]
        for t in drawn
        for text, opacity in zip(t.hovertext, t.marker.opacity, strict=True)
        if opacity == 1
    }
    assert opaque == front - {"n300-ddpm-s0"}
    assert {opacity for t in drawn for opacity in t.marker.opacity} == {FAINT, 1.0}
    (text,) = {text for t in drawn for text in t.hovertext if found.trial_id in text}
    row = size3.points[size3.points.trial_id == found.trial_id].iloc[0]
    assert f"diversity {formats.percent(row.diversity)} ± {formats.percent(2 * row.diversity_sd)}" in text
    for make in (curves_figure, any_budget_figure):
        drawn_axes = [*make(size3, "pixels").select_yaxes(), *make(size3, "pixels").select_xaxes()]
        assert "diversity<br>(higher is better)" in [axis.title.text for axis in drawn_axes]


def test_a_parameter_of_a_users_own_has_its_axis_and_a_spare_colour(size3: SizeResults) -> None:
    temperature = size3.declared.parameters["temperature"]
    figure = parameter_figure(size3, temperature, "pixels", recommend(size3))
    (points, *_) = traces(figure, "Smoothed &lt;b&gt;")
    assert set(points.x) == {1.0, 2.0, 3.0, 4.0}
    assert points.marker.color == SPARE_COLOURS[0]
    assert figure.layout.xaxis4.title.text == "temperature &lt;T&gt;"
    assert figure.layout.xaxis4.type == "linear"
    assert "temperature &lt;T&gt; 2.00" in points.hovertext[1]
    panels = [axis.title.text.partition("<")[0] for axis in figure.select_yaxes()]
    assert panels == ["memorization", "FID", "diversity", "mean similarity"]


def test_every_declared_method_has_a_look_of_its_own(size3: SizeResults) -> None:
    found = looks(size3.declared)
    assert {name: drawn.colour for name, drawn in found.items()} == {
        name: method.color or SPARE_COLOURS[0] for name, method in size3.declared.methods.items()
    }
    assert len({drawn.symbol for drawn in found.values()}) == len(found)
    assert found[BASELINE].colour == theme.DDPM
    hostile = replace(size3.declared.methods["smoothed"], color="red; x")
    declared = replace(size3.declared, methods={**size3.declared.methods, "smoothed": hostile})
    assert look(declared, "smoothed").colour == SPARE_COLOURS[0]


def test_sentences_speak_of_three_objectives(size3: SizeResults) -> None:
    found = recommend(size3)
    objectives = size3.objectives
    assert wording.on_all(objectives) == "on FID, memorization and diversity"
    assert "Diversity is " in answer(found, size3).lead
    assert wording.tone(found) == "good"
    assert found.verdict_words == "Copies less than DDPM, no worse on FID and diversity"
    assert "diversity 100.0%" in wording.hypervolume(size3)


def test_two_parameters_are_drawn_at_the_answers_stopping_point(
    size_of: SizeOf, results: pd.DataFrame, stopped: Callable[..., Recommendation]
) -> None:
    size = size_of(results)
    found = stopped(size, "n300-algorithm1-0003", rung=2)
    for recommendation, budget, images in ((found, "any", found.images_seen), (None, "full", 512_000)):
        points = size.over(budget).points
        expected = points[(points.method == "algorithm1") & (points.images_seen == images)]
        drawn = mix_figure(size, "pixels", recommendation).data[0]
        assert sorted(drawn.marker.color) == sorted(expected.memorization)


def test_the_gap_of_ddpm_stands_beside_that_of_the_answer_a_line_a_rung(
    results: pd.DataFrame, size_of: SizeOf, probed: Callable[..., pd.DataFrame]
) -> None:
    rows = probed(results)
    seed = (rows.trial_id == "n300-ddpm-s1") & (rows.budget == 1)
    rows.loc[seed, "probe_heldout"] = rows[seed].probe_heldout.map(lambda errors: [4 * e for e in errors])
    size = size_of(rows)
    found = recommend(size, budget="full")
    trainings = probed_trainings(size, found)
    figure = probe_figure(size, trainings)
    lines = [(trace.xaxis, trace.name, list(trace.y), list(trace.x)) for trace in figure.data]
    names = [f"{share} of the budget" for share in ("12.5%", "25%", "50%", "100%")]
    assert [[name for axis, name, *_ in lines if axis == panel] for panel in ("x", "x2")] == [names] * 2
    assert len({trace.line.color for trace in figure.data}) == 4
    assert sum(bool(trace.showlegend) for trace in figure.data) == 4
    one = rows[(rows.trial_id == "n300-ddpm-s0") & (rows.budget == 1)].iloc[0]
    expected = np.array(one.probe_heldout) / np.array(one.probe_train) * 4 ** (1 / 3)
    assert lines[3][2] == pytest.approx(expected.tolist()), "the geometric mean of three seeds"
    assert lines[3][3] == one.probe_levels
    assert "σ_c" in [note.text for note in figure.layout.annotations]
    at = [shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1]
    assert at == pytest.approx([0.8, 0.8])
    caption = probe_caption(size, trainings)
    assert "DDPM: above 1.1 from 12.5% of the budget on, first at σ" in caption
    assert "The recommended training: above 1.1 from" in caption


def test_nothing_is_drawn_of_probes_that_were_not_made_or_have_no_held_out_images(
    results: pd.DataFrame, size: SizeResults, size_of: SizeOf, probed: Callable[..., pd.DataFrame]
) -> None:
    assert probed_trainings(size, recommend(size)) == []
    rows = probed(results)
    alone = rows.assign(probe_heldout=[[] for _ in range(len(rows))])
    assert probed_trainings(size_of(alone), None) == []
    assert len(probed_trainings(size_of(rows), None)) == 1
