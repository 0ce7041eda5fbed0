import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pareto_amb.config import ScheduleConfig, SweepConfig
from pareto_amb.dashboards import formats, wording
from pareto_amb.dashboards.answer import lead, stops_early
from pareto_amb.dashboards.formats import count, percent
from pareto_amb.dashboards.gallery import SHOWN
from pareto_amb.dashboards.limits import limits_of_report
from pareto_amb.dashboards.page import plotly_js
from pareto_amb.dashboards.prompt_gallery import PromptGallery, prompt_gallery
from pareto_amb.dashboards.provenance import duration_of, provenance
from pareto_amb.dashboards.report import write_report
from pareto_amb.dashboards.trials import trial_rows, what_became
from pareto_amb.declared import Declared
from pareto_amb.errors import UserError
from pareto_amb.results.noise import probability_non_dominated
from pareto_amb.results.recommend import recommend
from pareto_amb.results.recommendation import Confirmation
from pareto_amb.results.run import Run
from pareto_amb.results.size import Results
from pareto_amb.results.stall import describe_stall
from pareto_amb.results.table import shipped
from pareto_amb.results.words import capitalized, describe, gained

PROBES = ["probe_levels", "probe_train", "probe_heldout"]
ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}"


class Page(HTMLParser):
    """The tags of a page with their attributes, its text, and what stands in each script."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._open = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


FIGURES = ["any-300", "frontier-300", "sigma-300", "mix-300", "curves-300", "hypervolume-300"]
AT_FULL = ["frontier-300", "sigma-300", "any-300", "mix-300", "curves-300", "hypervolume-300"]


def page_of(run_dir: Path) -> Page:
    return Page(write_report(run_dir).read_text(encoding="utf-8"))


def figures(page: Page) -> list[str]:
    return [str(attrs["id"]) for tag, attrs in page.tags if attrs.get("class") == "plot"]


def test_report_answers_first(run_dir: Path, results: pd.DataFrame) -> None:
    page = page_of(run_dir)
    found = recommend(Results(results, shipped()).size(300))
    words = page.words
    assert "faces-300" in words
    assert (
        words.index("The answer")
        < words.index("Quality against copying")
        < words.index("The last measurement")
    )
    assert f"{found.sigma_tn:.2f} EDM units" in words
    assert f"{found.sigma_tn_vp:.3f} VP units" in words
    assert "Yardstick: 1.0% of real images" in words
    assert "beats DDPM: FID no worse" in words
    assert "NVIDIA A100 80GB" in words
    assert "Every point rests on 5,000 generated samples." in words
    assert figures(page) == FIGURES
    assert f"{count(found.images_seen)} images 25% of the budget" in words
    assert f"and stop after {count(found.images_seen)} images (25% of the budget)" in words
    low, high = found.interval or (0, 0)
    assert f"90% interval {low:.2f} to {high:.2f}" in words
    assert f"no other point dominates this one in {found.p_front:.0%}" in words
    assert "Stopped early: 2 of 16 trials" in words


def test_the_searched_range_is_told_in_both_units_and_whether_auto_set_it(
    new_run: Callable[..., Path], make_config: Callable[..., SweepConfig], results: pd.DataFrame
) -> None:
    assert "0.100 to 10.0 (VP 0.100 to 0.995), log-uniformly" in page_of(new_run(results)).words
    ranges = {300: {"low": 0.1, "high": 4.0, "collapse_level": 5.0}}
    config = make_config(space={"train_size": [300], "sigma_tn": ranges, "mix_ratio": [0.5]})
    words = page_of(new_run(results, config)).words
    assert "auto: 0.100 to 4.00 (VP 0.100 to 0.970) at 300 images, whose collapse level is 5.00" in words
    unresolved = make_config(space={"train_size": [300]})
    assert "auto, not set yet" in page_of(new_run(results, unresolved)).words


def test_a_grid_is_told_with_its_values_and_its_own_number_of_trials(
    new_run: Callable[..., Path], make_config: Callable[..., SweepConfig], results: pd.DataFrame
) -> None:
    space = {"train_size": [300], "sigma_tn": [0.1, 0.4, 1.0], "mix_ratio": ["natural", 0.5]}
    words = page_of(new_run(results, make_config(space=space, search={"sampler": "grid"}))).words
    assert "grid, every combination of the listed values: 6 trials for each train size" in words
    assert "0.100 (VP 0.100), 0.400 (VP 0.371), 1.00 (VP 0.707)" in words
    assert "spread evenly" not in words


def test_gallery_and_failed_trial_are_shown(run_dir: Path) -> None:
    page = page_of(run_dir)
    images = [str(attrs["src"]) for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 2 * (2 * 12 + 30)
    assert all(image.startswith("data:image/png;base64,") for image in images)
    assert "failed: loss became nan at image 12,800" in page.words
    assert "· copy" in page.words


def test_copies_are_counted_over_all_samples_not_over_those_kept(
    new_run: Callable[..., Path], results: pd.DataFrame
) -> None:
    changed = results.assign(n_samples=1000, memorization=results.memorization.round(3))
    words = page_of(new_run(changed, recommend_for=(300,))).words
    assert "of the 40 samples kept as pictures, a selection: the first ones and the most similar" in words
    share = changed[(changed.trial_id == "n300-ddpm-s0") & (changed.rung == 3)].memorization.item()
    assert f"{1000 * share:.0f} of all 1,000 samples count as copies" in words
    assert "of those kept" not in words


def test_what_real_images_reach_stands_beside_fid(
    new_run: Callable[..., Path], results: pd.DataFrame
) -> None:
    assert "against the other real images" not in page_of(new_run(results, recommend_for=(300,))).words
    changed = results.assign(heldout_fid=3.21)
    words = page_of(new_run(changed, recommend_for=(300,))).words
    assert "3.210as many, against the other real images" in words


def test_the_table_says_how_sure_each_trial_is_on_the_front(results: pd.DataFrame) -> None:
    found = Results(results, shipped())
    points = found.size(300).points.set_index("trial_id").p_front
    rows = {row["trial_id"]: row for row in trial_rows(found)}
    assert rows["n300-algorithm1-0007"]["p_front"] == points["n300-algorithm1-0007"]
    assert {rows[f"n300-ddpm-s{k}"]["p_front"] for k in range(3)} == {points["n300-ddpm-s0"]}
    assert rows["n300-algorithm1-0003"]["p_front"] is None  # stopped early
    assert rows["n300-algorithm1-0015"]["p_front"] is None  # failed


def test_at_full_budget_early_stopping_is_said_either_way(
    new_run: Callable[..., Path], results: pd.DataFrame
) -> None:
    early = (results.method == "ddpm") & (results.budget < 1)
    better = results.assign(
        fid=results.fid.where(~early, 5.0), memorization=results.memorization.where(~early, 0.001)
    )
    page = page_of(new_run(better, recommend_for=(300,), budget="full"))
    assert "Training less does at least as well: DDPM, stopped after 128,000 images" in page.words
    assert (
        "DDPM stopped early competes here and holds part of the joint frontier: 2 of its 2 earlier"
        in page.words
    )
    assert figures(page) == AT_FULL
    assert "512,000 images the full budget" in page.words
    assert "At equal budget" not in page.words
    worse = results.assign(fid=results.fid.where(results.budget == 1, 90.0))
    words = page_of(new_run(worse, recommend_for=(300,), budget="full")).words
    assert "Early stopping does not beat it" in words
    assert "competes here and does not win" in words
    final = results[(results.budget == 1) | (results.rung == 0)]
    words = page_of(new_run(final, recommend_for=(300,), budget="full")).words
    assert "Early stopping was not tested" in words


def test_over_all_stopping_points_the_answer_says_where_to_stop_and_what_equal_budget_gives(
    run_dir: Path, results: pd.DataFrame
) -> None:
    size = Results(results, shipped()).size(300)
    found, full = recommend(size, budget="any"), recommend(size, budget="full")
    page = page_of(run_dir)
    words = page.words
    assert "At equal budget, the paper’s comparison, where every training sees all 512,000 images, " in words
    assert f"the policy takes Algorithm 1 at σ_tn {full.sigma_tn:.2f}" in words
    assert f": FID {full['fid'].value:.2f} ({formats.interval(size.objectives[0], full['fid'])})" in words
    assert f"{formats.signed(found.similarity_excess)}" in words
    assert "The answer is taken from this figure" in words
    assert "recommended, to be stopped after 128,000 images" in words
    alt = next(a["aria-label"] for _, a in page.tags if a.get("id") == "any-300")
    assert alt is not None
    assert f"recommended, σ_tn {found.sigma_tn:.2f}, stopped after 128,000 images: FID " in alt
    assert "DDPM at full budget: FID " in alt
    assert "n300-algorithm1-0003, rung" not in words
    assert "stopped after 128,000 images · " in words  # above its pictures, those of that rung


def test_where_ddpm_stopped_early_wins_the_answer_is_ddpm(
    new_run: Callable[..., Path], results: pd.DataFrame
) -> None:
    early = (results.method == "ddpm") & (results.rung == 2)
    better = results.assign(
        fid=results.fid.where(~early, results.fid - 9),
        memorization=results.memorization.where(~early, 0.011),
    )
    found = recommend(Results(better, shipped()).size(300), budget="any")
    assert found.verdict == "stop-early"
    page = page_of(new_run(better, recommend_for=(300,)))
    answer = page.words.partition("The answer")[2].partition("Quality against copying")[0]
    assert found.verdict_words in answer
    assert "Recommended: methodDDPM stop training after256,000 images 50% of the budget" in answer
    assert "train plain DDPM and stop after 256,000 images (50% of the budget)" in answer
    assert "for DDPM trained to its full budget" in answer
    assert "EDM units" not in answer
    assert "What the gain is made of" not in page.words
    assert ("section", {"class": "card answer good"}) in page.tags
    assert "among all stopping points: the seeds of DDPM." in answer
    rows = [attrs for tag, attrs in page.tags if tag == "tr" and "recommended" in str(attrs.get("class"))]
    assert len(rows) == 3
    assert "DDPM after 512,000 images · n300-ddpm-s0, rung 3" in page.words
    assert "Recommended, DDPM, stopped after 256,000 images · n300-ddpm-s0, rung 2" in page.words


def test_an_answer_that_is_the_full_training_is_the_one_at_equal_budget(
    new_run: Callable[..., Path], results: pd.DataFrame
) -> None:
    worse = results.assign(fid=results.fid.where((results.budget == 1) | (results.rung == 0), 90.0))
    words = page_of(new_run(worse, recommend_for=(300,))).words
    assert "sees all 512,000 images, the policy takes the same training." in words
    assert "train for512,000 images the full budget" in words
    copies = results.assign(memorization=results.memorization.where(results.method == "ddpm", 0.99))
    words = page_of(new_run(copies, recommend_for=(300,))).words
    assert "would take DDPM, with 46.5%. Memorization" not in words
    assert words.count("n300-ddpm-s0, rung 3") == 1  # its pictures, once
    assert "FID is " not in words.partition("Quality against copying")[0]


def test_repeats_and_controls_are_told_apart_and_the_gain_is_split(
    new_run: Callable[..., Path], results: pd.DataFrame, followed: Callable[..., pd.DataFrame]
) -> None:
    rows = followed(results, "n300-algorithm1-0009")
    size = Results(rows, shipped()).size(300)
    found = recommend(size, budget="any")
    assert found.trial_id == "n300-algorithm1-0009"
    assert found.gain is not None
    assert found.final is not None
    words = page_of(new_run(rows, recommend_for=(300,), samples=False)).words
    assert "fresh seed of n300-algorithm1-0009, stopped after 256,000 images" in words
    assert "control of n300-algorithm1-0009, stopped after 256,000 images" in words
    assert "What the gain is made of Three trainings, each stopped after 256,000 images" in words
    control, ours = found.gain.control["memorization"], found["memorization"]
    share = size.objectives[1]
    assert f"Control (clean images), 2 seeds {formats.figure(share, control.value)}" in words
    assert f"{formats.change(share, ours.value - control.value)}{formats.interval(share, ours)}" in words
    assert capitalized(gained(found.gain, found, size.objectives)) in words
    assert "Measured again on 50,000 samples" in words
    assert f"{formats.figure(size.objectives[0], found.final.training['fid'].value)}" in words


def test_of_repeats_that_never_came_to_their_stopping_point_none_is_told(
    results: pd.DataFrame, followed: Callable[..., pd.DataFrame]
) -> None:
    found = Results(followed(results, "n300-algorithm1-0009"), shipped())
    row = next(row for row in trial_rows(found) if row["confirms"])
    assert "fresh seed of n300-algorithm1-0009, stopped after" in what_became(row, None, found.size(300))
    failed = {**row, "rung": 0, "images_seen": 0, "budget": 0.0, "status": "failed", "error": "no memory"}
    told = what_became(failed, None, found.size(300))
    assert told == "failed · fresh seed of n300-algorithm1-0009: no memory"


def test_branched_trials_are_listed_as_such_and_what_they_have_chosen_too(
    results: pd.DataFrame, new_run: Callable[..., Path]
) -> None:
    """Their figures are in the list of trials alone."""
    name = "n300-algorithm1-0009"
    own = results[results.trial_id == name]
    scratch = own.assign(trial_id=f"{name}-r3-c0", confirms=name, fid=own.fid + 5)
    ours = results.method == "algorithm1"
    rows = results.assign(branched_at=results.branched_at.mask(ours, 64_000))
    rows = pd.concat([rows, scratch], ignore_index=True)
    words = page_of(new_run(rows, recommend_for=(300,), samples=False)).words
    assert "branched from DDPM after 64,000 images, on no frontier" in words
    assert f"from scratch, as chosen by {name}, at full budget" in words
    assert "went on from a DDPM baseline after 64,000 images" in words


def test_without_advice_the_lead_says_which_ddpm_the_quality_is_held_against(
    results: pd.DataFrame,
) -> None:
    early = (results.method == "ddpm") & (results.rung == 2)
    better = results.assign(fid=results.fid.where(~early, results.fid - 3))
    size = Results(better, shipped()).size(300)
    found = recommend(size, "knee")
    assert stops_early(found.baseline, size)
    unsure = found.model_copy(update={"verdict": "no-gain"})
    fid = formats.figure(size.objectives[0], found.baseline["fid"].value)
    assert f"against {fid} for DDPM stopped after 256,000 images (lower is better)" in lead(unsure, size)
    assert f"against DDPM’s {fid} (lower is better)" in lead(found, size)


def test_a_confirming_run_is_advised_only_of_what_was_not_confirmed(results: pd.DataFrame) -> None:
    size = Results(results, shipped()).size(300)
    found = recommend(size, budget="full")
    found = found.model_copy(update={"window": (found.sigma_tn, found.sigma_tn)})
    assert wording.window(found, size).endswith("neighbours do not, so a confirming run is advisable.")
    confirmed = found.model_copy(update={"confirmation": Confirmation(trials=["a-c1"])})
    assert wording.window(confirmed, size).endswith("beats DDPM; its neighbours do not.")


def test_a_report_is_written_of_a_table_that_has_lost_its_baselines_and_of_an_older_early_stop(
    new_run: Callable[..., Path], results: pd.DataFrame
) -> None:
    run_dir = new_run(results, recommend_for=(300,))
    path = run_dir / "recommendation.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    (entry,) = values["recommendations"]
    other = entry["equal_budget"]
    entry["early_stop"] = {key: value for key, value in other.items() if key != "parameters"}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    pq.write_table(
        pa.Table.from_pandas(
            results[results.method != "ddpm"].drop(columns=PROBES),  # older, too
            preserve_index=False,
        ),
        run_dir / "results.parquet",
    )
    words = page_of(run_dir).words
    assert f"the policy takes Algorithm 1 at σ_tn {other['sigma_tn']:.2f}" in words
    assert "DDPM’s there" not in words
    assert f"Training less does at least as well: Algorithm 1 at sigma_tn {other['sigma_tn']:.3g}, " in words


def test_where_no_controls_were_trained_the_key_is_named(run_dir: Path) -> None:
    words = page_of(run_dir).words
    assert (
        "What the gain is made of What part of this the noise levels alone would gain was not tested" in words
    )
    assert "(search.controls, for trials that fresh seeds confirm)" in words
    assert "Measured again" not in words


def test_a_final_measurement_that_is_missing_is_said(
    new_run: Callable[..., Path], results: pd.DataFrame, make_config: Callable[..., SweepConfig]
) -> None:
    evaluation = make_config().evaluation.model_dump() | {"final_samples": 50_000}
    words = page_of(new_run(results, make_config(evaluation=evaluation), recommend_for=(300,))).words
    assert "This training has not been measured again (evaluation.final_samples)" in words
    assert "Samples of the final measurement50,000" in words


def test_two_train_sizes_have_their_own_sections(
    new_run: Callable[..., Path],
    make_config: Callable[..., SweepConfig],
    make_rows: Callable[[int], pd.DataFrame],
) -> None:
    both = pd.concat([make_rows(300), make_rows(1000)], ignore_index=True)
    space = make_config().space.model_copy(update={"train_size": (300, 1000)}).model_dump()
    page = page_of(new_run(both, make_config(space=space), recommend_for=(300, 1000)))
    assert len(figures(page)) == len(set(figures(page))) == 12
    assert "With 1,000 training images, train with" in page.words
    assert sum(script.startswith("/**\n* plotly.js") for script in page.scripts) == 1


def test_a_third_objective_and_an_own_parameter_are_on_the_page(
    new_run: Callable[..., Path],
    make_config: Callable[..., SweepConfig],
    three: tuple[pd.DataFrame, Declared],
) -> None:
    rows, declared = three
    search = {
        "methods": ["algorithm1", "smoothed"],
        "objectives": ["fid", "memorization", "diversity"],
        "baseline_seeds": 3,
    }
    space = make_config().space.model_dump() | {"temperature": {"low": 0.5, "high": 5.0}}
    config = make_config(search=search, space=space)
    page = page_of(new_run(rows, config, recommend_for=(300,), declared=declared))
    assert figures(page) == [*FIGURES[:3], "temperature-300", *FIGURES[3:]]
    found = Results(rows, declared).size(300)
    value = percent(recommend(found)["diversity"].value)
    assert f"higher is better {value}" in page.words
    assert f"Diversity is {value} against DDPM’s" in page.words
    assert "no other training beats on FID, memorization and diversity." in page.words
    assert "Temperature <T> searched0.500 to 5.00" in page.words
    assert "mix ratiotemperature <T>seedimages seenFIDmemorizationdiversitysimilarity" in page.words


def test_a_run_of_an_older_version_still_has_its_report(
    new_run: Callable[..., Path], results: pd.DataFrame
) -> None:
    run_dir = new_run(results, recommend_for=(300,), budget="full")
    new = page_of(run_dir)
    old = results.assign(status=results.status.replace("paused", "pruned"))
    newer = [name for name in old if name.startswith("final_")]
    old = old.drop(columns=["confirms", "controls", *newer, *PROBES])
    old.to_parquet(run_dir / "results.parquet", index=False)
    path = run_dir / "recommendation.yaml"
    document = yaml.safe_load(path.read_text())
    for entry in document["recommendations"]:
        entry["sigma_tn_interval"] = entry.pop("interval")
        for name in (
            "method",
            "parameters",
            "main",
            "budget",
            "images_seen",
            "equal_budget",
            "gain",
            "final",
        ):
            del entry[name]
        del entry["baseline"]["images_seen"]
        entry["training"] = {"sigma_tn": entry["sigma_tn"], "mix_ratio": entry["mix_ratio"]}
    path.write_text(yaml.safe_dump(document))
    report = page_of(run_dir)
    written = re.compile(r"written \S+ \S+|(?<=results\.parquet)[0-9a-f]{64}")
    assert written.sub("", report.words) == written.sub("", new.words)
    assert [s for s in report.scripts if s.startswith("{")] == [s for s in new.scripts if s.startswith("{")]
    for entry in document["recommendations"]:
        del entry["similarity_excess"], entry["baseline"]["similarity_excess"]
    path.write_text(yaml.safe_dump(document))
    older = page_of(run_dir).words
    assert "train for512,000 images the full budget" in older
    assert "Similarity above held-out" in new.words
    assert "Similarity above held-out" not in older


def test_the_redraws_run_once_for_each_frontier(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*given: Any) -> Any:
        calls.append(given)
        return probability_non_dominated(*given)

    monkeypatch.setattr("pareto_amb.results.size.probability_non_dominated", counted)
    write_report(run_dir)
    assert len(calls) == 2


def test_a_signer_finds_what_is_not_shown_and_where_it_comes_from(
    new_run: Callable[..., Path], results: pd.DataFrame
) -> None:
    run_dir = new_run(results.assign(recorded_at=1e9 + 60 * results.rung), recommend_for=(300,))
    environment = {
        "command": "pareto-amb sweep faces.yaml", "cpus": 8, "gpus": [], "python": "3.12.1",
        "git_revision": "abc", "versions": {"pareto-amb": "0.1.0"}, "data": {"fingerprint": "f1f2"},
    }  # fmt: skip
    (run_dir / "environment.json").write_text(json.dumps(environment))
    words = page_of(run_dir).words
    for told in (
        "Commandpareto-amb sweep faces.yaml",
        "Versionpareto-amb 0.1.0, git revision abc",
        "Hardware8 CPUs; no GPU",
        "Fingerprint of dataf1f2",
        f"SHA-256 of results.parquet{sha256((run_dir / 'results.parquet').read_bytes()).hexdigest()}",
        "in features of dinov2_vitg14",
        "less often than once in 1,666 samples can well be missing from all 5,000",
        "It is no proof of privacy.",
    ):
        assert told in words
    assert dict(provenance({}, "", []))["Command"] == "not recorded"
    assert "nothing says how many copies are normal" in " ".join(limits_of_report(9, "a", "b", False))


def test_the_duration_counts_no_second_twice(results: pd.DataFrame) -> None:
    columns = ["train_size", "trial_id", "rung", "images_seen", "branched_at", "train_seconds"]
    rows = pd.DataFrame(
        [(300, "n300-ddpm-s0", 1, 500, 0, 50.0), (300, "n300-ddpm-s0", 2, 1000, 0, 100.0),
         (300, "a", 1, 1000, 500, 110.0)],
        columns=columns,
    ).assign(eval_seconds=10.0, recorded_at=[60.0, 120.0, 190.0])  # fmt: skip
    told = duration_of(rows)
    assert told.startswith("3m10s from the first training to the last measurement")
    assert told.endswith("together 2m40s of training and 30s of measuring")  # 60 of them behind the branch
    assert duration_of(results.iloc[:0]) == duration_of(results.assign(recorded_at=math.nan)) == ""


def test_a_redacted_page_has_no_path_of_this_machine(
    new_run: Callable[..., Path], results: pd.DataFrame, make_config: Callable[..., SweepConfig]
) -> None:
    home = "/home/jane doe/secret plans"
    nasty = results.assign(error=results.error.where(results.error == "", f"no such file: '{home}/a.png'"))
    config = make_config(
        description=f"Images of {home}/faces.zip.",
        data={"source": "images", "path": f"{home}/faces.zip"},
        storage=f"{home}/bucket",
    )
    run_dir = new_run(nasty, config, recommend_for=(300,))
    environment = {"command": f"pareto-amb sweep '{home}/x.yaml'", "tracking_uri": f"sqlite:///{home}/m.db"}
    (run_dir / "environment.json").write_text(json.dumps(environment))
    plain = page_of(run_dir)
    assert plain.words.count("secret plans") >= 5
    source = write_report(run_dir, redacted=True).read_text(encoding="utf-8")
    assert not re.search("secret|plans|jane|/home", source)
    page = Page(source)
    assert all(f"…/{name}" in page.words for name in ("a.png", "faces.zip", "x.yaml", "m.db", "bucket"))
    figures = [s for s in plain.scripts if s.startswith("{")]
    assert [s for s in page.scripts if s.startswith("{")] == figures  # no path among them, so none is touched


def test_a_page_of_several_sizes_and_large_pictures_stays_below_2_mb(
    new_run: Callable[..., Path], make_rows: Callable[[int], pd.DataFrame], make_samples: Callable[..., bytes]
) -> None:
    sizes = (300, 1000)
    rows = pd.concat(map(make_rows, sizes), ignore_index=True)
    run_dir = new_run(rows, recommend_for=sizes)
    for number, path in enumerate(sorted(run_dir.glob("samples/*/*.npz"))):
        path.write_bytes(make_samples(number, 0.3, side=64))
    path = write_report(run_dir)
    assert path.stat().st_size < 2_000_000
    page = Page(path.read_text(encoding="utf-8"))
    pictures = [str(attrs["src"]) for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 2 * len(sizes) * SHOWN
    drawn = {t.get("type") for s in page.scripts if s.startswith("{") for t in json.loads(s).get("data", [])}
    assert drawn <= {"scatter", "bar"}  # what Plotly's basic bundle draws


def test_page_loads_nothing(run_dir: Path) -> None:
    source = write_report(run_dir).read_text(encoding="utf-8")
    assert source.count(plotly_js()) == 1
    own = source.replace(plotly_js(), "")
    assert not re.search(r"https?:|@import|url\(|src=\"(?!data:)", own)
    assert not [attrs for tag, attrs in Page(own).tags if tag in {"link", "iframe", "base", "object"}]
    links = [str(attrs["href"]) for tag, attrs in Page(own).tags if "href" in attrs]
    assert all(link.startswith("#") for link in links)


def test_everything_from_the_run_is_escaped(
    new_run: Callable[..., Path], results: pd.DataFrame, make_config: Callable[..., SweepConfig]
) -> None:
    nasty = results.assign(
        error=results.error.where(results.error == "", ATTACK),
        method=results.method.where(results.trial_id != "n300-algorithm1-0004", "unknown"),
    )
    config = make_config(description=ATTACK, data={"source": "images", "path": ATTACK})
    run_dir = new_run(nasty, config, recommend_for=(300,), samples=False)
    (run_dir / "environment.json").write_text(json.dumps({ATTACK: [ATTACK]}))
    page, plain = page_of(run_dir), page_of(new_run(results, recommend_for=(300,), samples=False))
    assert len(page.scripts) == len(plain.scripts)
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert ATTACK in page.text
    for script in page.scripts:
        if script.startswith('{"'):
            json.loads(script)
            assert "<" not in script


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("no rows", "No trial has reported yet."),
        ("failed only", "No training of this size has been measured yet."),
        ("no ddpm", "no DDPM baseline has finished"),
        ("ddpm only", "no algorithm1 trial has finished"),
        ("running", "No training of this size has reached its full budget yet"),
        ("one trial", "no DDPM baseline has finished"),
        ("nan", "no DDPM baseline has finished"),
        ("one seed", "Its trials suffice for one: run pareto-amb recommend"),
    ],
)
def test_thin_runs_say_what_is_missing(
    new_run: Callable[..., Path], results: pd.DataFrame, case: str, expected: str
) -> None:
    ddpm = results.method == "ddpm"
    tables = {
        "no rows": results.iloc[:0],
        "failed only": results[results.status == "failed"],
        "no ddpm": results[~ddpm],
        "ddpm only": results[ddpm],
        "running": results[results.rung < 3].assign(status="running"),
        "one trial": results[results.trial_id == "n300-algorithm1-0004"],
        "nan": results.assign(fid=np.nan, memorization=np.nan, heldout_memorization=np.nan),
        "one seed": results[~ddpm | (results.seed == 0)],
    }
    page = page_of(new_run(tables[case]))
    assert expected in page.words
    assert "No recommendation yet" in page.words


def test_one_seed_recommendation_owns_up_to_unknown_noise(
    new_run: Callable[..., Path], results: pd.DataFrame
) -> None:
    thin = results[(results.method != "ddpm") | (results.seed == 0)]
    words = page_of(new_run(thin, recommend_for=(300,))).words
    assert "trained with one seed only, so what another seed changes is unknown" in words


def test_a_search_that_ended_itself_is_said(run_dir: Path) -> None:
    assert "The search ended itself" not in page_of(run_dir).words
    (run_dir / "stopped.txt").write_text(f"{describe_stall(5)}\n", encoding="utf-8")
    assert "The search ended itself: over the last 5 full trainings of every" in page_of(run_dir).words
    (run_dir / "stopped.txt").write_text(ATTACK, encoding="utf-8")
    assert ATTACK in page_of(run_dir).text


def test_missing_pictures_and_environment_are_said(
    new_run: Callable[..., Path], results: pd.DataFrame
) -> None:
    run_dir = new_run(results, recommend_for=(300,), samples=False)
    (run_dir / "environment.json").unlink()
    words = page_of(run_dir).words
    assert words.count("No pictures were kept of this training.") == 2
    assert "The run has no environment.json" in words


def test_pictures_come_from_the_storage_of_the_sweep(
    new_run: Callable[..., Path],
    results: pd.DataFrame,
    tmp_path: Path,
    make_config: Callable[..., SweepConfig],
) -> None:
    run_dir = new_run(results, make_config(storage=str(tmp_path / "bucket")), recommend_for=(300,))
    (run_dir / "samples").rename(tmp_path / "samples")
    (tmp_path / "bucket").mkdir()
    (tmp_path / "samples").rename(tmp_path / "bucket" / "samples")
    page = page_of(run_dir)
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert f"The pictures lie in {tmp_path / 'bucket'}; write the report with --trust-run" in page.words
    source = write_report(run_dir, trust=True).read_text(encoding="utf-8")
    assert [tag for tag, _ in Page(source).tags if tag == "img"]


def test_stale_recommendation_is_said(run_dir: Path, results: pd.DataFrame) -> None:
    path = run_dir / "recommendation.yaml"
    document = yaml.safe_load(path.read_text())
    document["recommendations"][0]["trial_id"] = "gone"
    path.write_text(yaml.safe_dump(document))
    assert "The recommended trial gone is not in the results table." in page_of(run_dir).words


def test_natural_mix_ratio_has_no_map_of_its_own(
    new_run: Callable[..., Path], results: pd.DataFrame, make_config: Callable[..., SweepConfig]
) -> None:
    space = make_config().space.model_dump() | {"mix_ratio": ["natural"]}
    page = page_of(new_run(results, make_config(space=space)))
    assert "mix-300" not in figures(page)
    assert "natural: P(σ ≥ σ_tn)" in page.words


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("recommendation.yaml", "recommendations: 3"),
        ("recommendation.yaml", "recommendations: [{policy: knee}]"),
        ("recommendation.yaml", "recommendations: [1]"),
        ("environment.json", "{"),
        ("results.parquet", "x"),
        ("sweep.yaml", "name: a"),
        ("stopped.txt", b"\xff\xfe"),
    ],
)
def test_unusable_files_are_named(run_dir: Path, name: str, content: str | bytes) -> None:
    (run_dir / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=re.escape(str(run_dir / name))):
        write_report(run_dir)
    assert not (run_dir / "report.html").exists()


@pytest.mark.parametrize(
    ("lost", "within"),
    [("fid", ()), ("fid", ("baseline",)), ("mix_ratio", ("parameters",)), ("memorization", ("early_stop",))],
)
def test_a_recommendation_that_lacks_a_figure_is_named(
    run_dir: Path, lost: str, within: tuple[str, ...]
) -> None:
    path = run_dir / "recommendation.yaml"
    document = yaml.safe_load(path.read_text())
    (entry,) = document["recommendations"]
    entry["early_stop"] = {"method": "ddpm", "sigma_tn": 0.0, "images_seen": 9, "fid": 1, "memorization": 0}
    entry.pop("mix_ratio")
    place = entry
    for key in within:
        place = place[key]
    del place[lost]
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(UserError, match=rf"recommendation.yaml: recommendations.{lost} is missing"):
        write_report(run_dir)


def test_report_needs_no_training_library() -> None:
    code = (
        "import sys, pareto_amb.dashboards.report; "
        "print([m for m in ('ray', 'optuna', 'mlflow', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_probes_add_a_figure_and_their_rungs_are_no_measurements(
    new_run: Callable[..., Path], results: pd.DataFrame, probed: Callable[..., pd.DataFrame]
) -> None:
    rows = probed(results)
    rows.loc[rows.trial_id == "n300-algorithm1-0003", "status"] = "running"
    only_probed = (rows.trial_id == "n300-algorithm1-0003") & (rows.n_samples > 0)
    page = page_of(new_run(rows[~only_probed], recommend_for=(300,)))
    drawn = [
        name for tag, attributes in page.tags if tag == "script" and (name := attributes.get("data-plot"))
    ]
    assert drawn == [*FIGURES[:-1], "probes-300", FIGURES[-1]]
    assert "Where, and from when, the model knows its training images" in page.words
    assert "the collapse level σ_c = 0.800 of the training images" in page.words
    assert "DDPM: above 1.1 from 12.5% of the budget on, first at σ " in page.words
    assert "nan" not in page.words.lower()
    assert "probed at32,000, 64,000 images seen" in page.words
    assert "The training is not in" not in page.words


def test_a_table_without_probes_has_no_figure_of_them(run_dir: Path) -> None:
    assert "knows its training images" not in page_of(run_dir).words


def test_a_sweep_with_captions_shows_what_triggers_copies(
    new_run: Callable[..., Path], make_rows: Callable[[int], pd.DataFrame]
) -> None:
    rows = make_rows(300)
    assert "Which captions" not in write_report(new_run(rows, recommend_for=(300,))).read_text()
    figures = {
        "memorization_shuffled_captions": rows.memorization / 2,
        "memorization_unseen_captions": np.nan,
        "caption_detection_auc": 0.75,
    }
    report = write_report(new_run(rows.assign(**figures), recommend_for=(300,))).read_text()
    assert "Which captions trigger copies" in report
    assert "Shuffled captions" in report
    assert "Unseen captions" not in report  # none were drawn
    ended = rows[(rows.method == "ddpm") & (rows.budget == 1)]
    assert f"<b>{ended.memorization.mean() / 2:.3f}</b>" in report
    assert "3 trainings" in report


def captioned_samples(path: Path, content: bytes, shift: int) -> None:
    """A file of samples by captions, of which two are the same, with the images of the first 30 captions."""
    with np.load(io.BytesIO(content)) as stored:
        arrays = dict(stored)
    seeds = [*range(30), *range(100, 110)]
    said = np.array([f"caption <{1 if seed == 2 else seed}>" for seed in seeds])
    similarity = np.roll(np.linspace(0.5, 0.9, len(seeds)).astype(np.float32), shift)
    arrays |= {"seed": np.array(seeds), "prompt": said, "caption": said, "similarity": similarity}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays, asked=arrays["neighbours"][:30])


def test_samples_by_the_same_captions_stand_beside_each_other(
    new_run: Callable[..., Path], make_rows: Callable[[int], pd.DataFrame], make_samples: Callable[..., bytes]
) -> None:
    rows = make_rows(300).assign(caption_detection_auc=0.75)
    run_dir = new_run(rows, recommend_for=(300,), budget="full")
    size = Results(rows, shipped()).size(300)
    found = recommend(size, budget="full")

    def gallery() -> PromptGallery:
        made = prompt_gallery(Run.read(run_dir), size, found)
        assert made is not None
        return made

    assert gallery().missing == "No pictures by the same captions were kept of these trainings."
    captioned_samples(run_dir / "samples" / "n300-ddpm-s0" / "rung-3.npz", make_samples(1, 0.5), 0)
    assert "No such pictures were kept of Recommended: Algorithm 1" in gallery().about
    captioned_samples(run_dir / "samples" / found.trial_id / "rung-3.npz", make_samples(2, 0.05), 9)
    page = page_of(run_dir)
    table = page.words.partition("The same captions, method by method")[2].partition("Left of each pair")[0]
    assert "DDPM after 512,000 images (the full budget) makes of them is most similar" in table
    assert "the policy match-ddpm ranks first among its full trainings" in table
    assert "No such pictures" not in table
    shown = re.findall(r"“caption <(\d+)>”", table)
    assert shown == ["0", "1", "3", "29", "28", "27"], "the first, each once, then those closest for DDPM"
    images = [a for tag, a in page.tags if tag == "img"]
    assert sum(a["alt"] == "the training image of this caption" for a in images) == 6
    assert sum(str(a["alt"]).startswith("sample by this caption") for a in images) == 2 * 6


def test_a_noise_level_stands_beside_its_step_wherever_it_is_shown(
    new_run: Callable[..., Path], results: pd.DataFrame
) -> None:
    schedule = ScheduleConfig().schedule
    declared = shipped().in_steps(schedule)
    run_dir = new_run(results, recommend_for=(300,), declared=declared)
    read = Run.read(run_dir)
    (found,) = (read.recommendations or {}).values()
    assert found.sigma_tn is not None
    assert found.interval is not None
    step, ends = schedule.step(found.sigma_tn), schedule.words(*found.interval)
    assert found.sigma_tn_step == step
    assert found.tags()["sigma_tn_step"] == str(step)
    assert f"sigma_tn {found.sigma_tn:.3g} (step {step}) and mix ratio" in found.summary
    (terminal,) = [line for line in describe(found, read.results.declared) if line.startswith("  sigma_tn")]
    assert f", step {step}), 90% interval" in terminal
    assert terminal.endswith(f", {ends})")
    page = page_of(run_dir)
    assert f"the nearest step of its schedule{step} of 1,000" in page.words
    assert f"({ends})" in page.words
    assert "σ_tn EDMσ_tn VPσ_tn stepmix ratio" in page.words
    assert f"train with σ_tn {found.sigma_tn:.2f} (step {step})" in page.words
    assert f"VP 0.100 to 0.995, {schedule.words(0.1, 10.0)}), log-uniformly" in page.words
