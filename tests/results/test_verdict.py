"""What a recommendation amounts to, and that every surface says it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from pareto_amb import search_spaces
from pareto_amb.cli import app
from pareto_amb.commands.sweep import _print_summary
from pareto_amb.config_file import apply_overrides, to_yaml
from pareto_amb.dashboards.report import write_report
from pareto_amb.results.cautions import _CAUTIONS
from pareto_amb.results.recommend import recommend
from pareto_amb.results.recommendation import VerdictWord
from pareto_amb.results.recommendation_file import build_recommendation, write_recommendation
from pareto_amb.results.run import Run
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.results.size import Results
from pareto_amb.results.table import ResultsTable, columns, shipped
from pareto_amb.sweep_file import parse_sweep
from pareto_amb.trial import Trial

SHIPPED = shipped()
ALGORITHM1 = replace(SHIPPED.methods["algorithm1"], control="control")
DECLARED = replace(SHIPPED, methods={**SHIPPED.methods, "algorithm1": ALGORITHM1})
KEYS = ["search.trials=3", "search.baseline_seeds=2", "search.confirm.candidates=0"]
CONFIG = parse_sweep(apply_overrides(search_spaces.load("smoke"), KEYS), "smoke")

COPYING = [(100.0, 0.60), (104.0, 0.62)]
BETTER = [(99.0, 0.10), (101.0, 0.30), (150.0, 0.05)]
SAME = [(99.0, 0.60), (101.0, 0.61), (150.0, 0.59)]
WORSE = [(300.0, 0.10), (310.0, 0.10), (320.0, 0.10)]


def rows(
    ddpm: list[tuple[float, float]] = COPYING, ours: list[tuple[float, float]] = BETTER, **more: Any
) -> list[dict[str, Any]]:
    numbers = {
        name: 1.0
        for name, column in columns(DECLARED).items()
        if column.dtype == "float64" and not name.startswith("final_")
    }
    fixed: dict[str, Any] = {
        **numbers, "rung": 1, "images_seen": 1000, "n_samples": 1000, "heldout_memorization": 0.01,
        "heldout_images": 500.0, "heldout_similarity_mean": 0.6, "similarity_p95": 0.9, "fid_se": 1.0,
        "status": "complete", "error": "", "confirms": "", "controls": "", "branched_at": 0,
    }  # fmt: skip
    trials = [Trial(f"n50-ddpm-s{k}", "ddpm", 50, k) for k in range(len(ddpm))]
    for k in range(len(ours)):
        parameters = {"sigma_tn": 0.2 * 2**k, "mix_ratio": 0.5}
        trials.append(Trial(f"n50-algorithm1-{k:04d}", "algorithm1", 50, k, parameters))
    figures = [{"fid": fid, "memorization": copies} for fid, copies in (*ddpm, *ours)]
    return [
        {**fixed, **_columns(trial), **found, **more} for trial, found in zip(trials, figures, strict=True)
    ]


def _columns(trial: Trial) -> dict[str, Any]:
    return {
        "trial_id": trial.id, "method": trial.method, "train_size": 50, "seed": trial.seed,
        **DECLARED.columns_of(trial.method, trial.parameters),
    }  # fmt: skip


def run_of(path: Path, table_rows: list[dict[str, Any]]) -> RunDirectory:
    path.mkdir()
    (path / "sweep.yaml").write_text(to_yaml(CONFIG), encoding="utf-8")
    table = ResultsTable(path / "results.parquet", DECLARED)
    for row in table_rows:
        table.record(row)
    return RunDirectory(path)


def found_in(
    table_rows: list[dict[str, Any]],
    policy: str = "match-ddpm",
    limit: float | None = None,
    budget: Literal["any", "full"] = "any",
) -> Any:
    size = Results(pd.DataFrame(table_rows), DECLARED).size(50)
    return recommend(size, policy, limit, CONFIG, budget=budget)


def words_of(table_rows: list[dict[str, Any]], **more: Any) -> dict[str, str]:
    return {c.word: c.sentence for c in found_in(table_rows, **more).cautions}


CASES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "better": ("copies-less", rows()),
    "same": ("no-gain", rows(ours=SAME)),
    "below the yardstick": ("ddpm-does-not-copy", rows([(100.0, 0.004), (104.0, 0.006)])),
    "at the yardstick": ("ddpm-does-not-copy", rows(heldout_memorization=0.61)),
    "copies nothing": ("ddpm-does-not-copy", rows([(100.0, 0.0), (104.0, 0.0)])),
    "no yardstick": ("unknown", rows(heldout_memorization=float("nan"))),
    "no images": ("unknown", rows(similarity_p95=0.2)),
    "too few": ("unknown", rows([(100.0, 0.08), (104.0, 0.03)], n_samples=40, heldout_images=20.0)),
}
ADVICE = ("train with", "pareto-amb train", "fewer copies")


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_is_the_first_thing_on_every_surface(case: str, tmp_path: Path) -> None:
    word, table_rows = CASES[case]
    run = run_of(tmp_path / "run", table_rows)
    written = build_recommendation(run)
    (found,) = written.recommendations
    assert found.verdict == word
    write_recommendation(written, run.recommendation)
    (entry,) = yaml.safe_load(run.recommendation.read_text(encoding="utf-8"))["recommendations"]
    assert list(entry)[:4] == ["train_size", "verdict", "verdict_words", "cautions"]
    assert (entry["verdict"], entry["verdict_words"]) == (word, found.verdict_words)
    assert entry["training"]["method"] == found.method
    assert entry["training"]["parameters"].get("sigma_tn") == found.sigma_tn
    terminal = CliRunner().invoke(app, ["recommend", str(run.path)]).output
    assert terminal.startswith(found.verdict_words)
    page = write_report(run.path).read_text(encoding="utf-8").replace("&#39;", "'")
    answer = page[page.index('id="answer"') :]
    assert found.verdict_words in answer[: answer.index('class="headline"')]
    notebook = written._repr_html_().replace("&#x27;", "'")
    assert notebook.startswith(f"<ul><li>{found.verdict_words}")
    assert found.tags()["verdict"] == word
    assert next(iter(found.tags())) == "verdict"
    surfaces = (terminal, answer[: answer.index("<figure")], notebook, "\n".join(found.tags().values()))
    for said in surfaces:
        assert (word == "copies-less") == any(advice in said for advice in ADVICE)
        assert found.cautions
        for caution in found.cautions:
            assert caution.sentence[1:] in said  # the report begins it with a capital


@pytest.mark.parametrize("case", ["better", "below the yardstick"])
def test_the_summary_of_a_sweep_proposes_a_training_only_where_it_is_advised(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path / "run", CASES[case][1])
    run.environment.write_text('{"tracking_uri": "sqlite:///x.db"}', encoding="utf-8")
    found = build_recommendation(run)
    outcome: Any = SimpleNamespace(
        run=run,
        recommendation=found,
        seconds=1.0,
        stopped="",
        failed=0,
        interrupted=0,
        tracking_problem="",
        tracking_uri="sqlite:///x.db",
        tracking_link="",
        unfinished=0,
    )
    _print_summary(outcome, "pareto-amb sweep --resume run", [])
    printed = capsys.readouterr().out
    assert found.recommendations[0].verdict_words in printed
    assert all(caution.sentence in printed for caution in found.recommendations[0].cautions)
    assert ("pareto-amb train" in printed) == (case == "better")


def test_less_copying_at_worse_quality_is_advised_as_such() -> None:
    found = found_in(rows(ours=WORSE), policy="max-memorization", limit=0.2)
    assert (found.verdict, found.advised) == ("copies-less-at-worse-quality", True)
    assert found.summary.startswith("Copies less than DDPM, at worse image quality. With 50 training images,")


def test_the_verdict_and_the_cautions_of_an_older_file_come_from_the_table(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", rows([(100.0, 0.004), (104.0, 0.006)]))
    write_recommendation(build_recommendation(run), run.recommendation)
    new = Run.read(run.path).recommendations
    values = yaml.safe_load(run.recommendation.read_text(encoding="utf-8"))
    for entry in values["recommendations"]:
        for key in ("verdict", "verdict_words", "cautions", "served"):
            del entry[key]
        entry["caution"], entry["summary"] = "", "With 50 training images, train with sigma_tn 1.63"
    run.recommendation.write_text(yaml.safe_dump(values), encoding="utf-8")
    old = Run.read(run.path).recommendations
    assert new is not None
    assert old is not None
    assert old[50].verdict == "ddpm-does-not-copy"
    assert old[50].cautions == new[50].cautions
    assert old[50].summary == new[50].summary


def test_each_caution_is_said_where_it_applies_and_only_there() -> None:
    plain = words_of(rows())
    said = {"not-confirmed", "still-copies", "early-stopping-untested", "unsettled", "control-untested"}
    assert set(plain) == said
    assert "small differences mean nothing" in words_of(rows(COPYING[:1]))["one-baseline-seed"]
    assert "no held-out images" in words_of(rows(heldout_memorization=float("nan")))["no-yardstick"]
    assert "20.0% of held-out images" in words_of(rows(heldout_memorization=0.2))["yardstick-high"]
    few = words_of(rows([(100.0, 0.01), (104.0, 0.0)], n_samples=40, heldout_images=20.0))
    assert "40 samples only" in few["few-samples"]
    assert "percentage points above" in few["copying-unsure"]
    assert "DDPM and this training" in words_of(rows(similarity_p95=0.2))["no-quality"]
    table = rows()
    mixed = [*table[:-1], {**table[-1], "n_samples": 500}]
    assert "500 and 1,000" in words_of(mixed)["few-samples"]
    rival = {**table[2], **_columns(Trial("m", "masking", 50, 0, {"corruption": 0.5})), "fid": 90.0}
    assert "Masking at" in words_of([*table, rival])["better-method"]
    early = {**table[0], "rung": 1, "budget": 0.5, "images_seen": 500, "fid": 50.0, "memorization": 0.0}
    at_full = words_of([*table, early], budget="full")
    assert "DDPM, stopped after 500 images, has FID 50" in at_full["early-stopping"]


def test_trainings_that_have_not_finished_are_said() -> None:
    table = rows()
    assert "unfinished" not in words_of(table)
    running = {**table[-1], "status": "running", "budget": 0.5}
    assert "1 of 5 trainings have not finished" in words_of([*table[:-1], running])["unfinished"]
    paused = {**running, "status": "paused"}
    assert "unfinished" not in words_of([*table[:-1], paused])
    both = words_of([*table[:3], paused])["unfinished"]
    assert both.startswith("1 of 5 trainings have not finished, and 1 that paused may go on")
    failed = {**table[-1], "status": "failed", "fid": float("nan"), "memorization": float("nan")}
    assert words_of([*table[:-1], failed])["failed"] == "1 of 5 trainings failed and tell nothing"
    size = Results(pd.DataFrame(table[:-1]), DECLARED).size(50)
    ended = recommend(size, config=CONFIG, stopped="the search ended itself")
    assert "unfinished" not in {caution.word for caution in ended.cautions}


def test_what_follows_the_search_and_has_not_finished_is_said() -> None:
    keys = ["search.trials=3", "search.baseline_seeds=2", "search.confirm={candidates: 2, seeds: 2}"]
    config = parse_sweep(apply_overrides(search_spaces.load("smoke"), keys), "smoke")

    def said(table: list[dict[str, Any]], *changes: str) -> str:
        with_changes = parse_sweep(apply_overrides(config.model_dump(mode="json"), list(changes)), "smoke")
        found = recommend(Results(pd.DataFrame(table), DECLARED).size(50), config=with_changes)
        return {c.word: c.sentence for c in found.cautions}.get("unfinished", "")

    search = rows()
    follow = [
        {**search[2 + k], "trial_id": f"{trial_id}-r1-c{seed}", "confirms": trial_id}
        for k, trial_id in enumerate(("n50-algorithm1-0000", "n50-algorithm1-0001"))
        for seed in (1, 2)
    ]
    follow += [
        {**row, "trial_id": f"{row['trial_id']}-control", "method": "control", "confirms": "",
         "controls": row["confirms"]}
        for row in follow
    ]  # fmt: skip
    assert said(search).startswith("8 of 8 trainings that follow the search, ")
    assert said(search + follow[:3]).startswith("5 of 8 ")
    assert said(search + follow[:4], "search.controls=false") == ""
    assert said(search + follow) == said(search, "search.confirm.seeds=0") == ""
    cut = [{**follow[-1], "status": "interrupted"}, {**follow[-2], "status": "failed"}]
    assert said(search + follow[:6] + cut).startswith("1 of 8 ")
    assert said(search[:-1]).startswith("1 of 5 trainings have not finished")


def test_of_a_grid_its_points_are_planned_and_not_as_many_trials_as_it_may_have() -> None:
    grid = ["search.sampler=grid", "search.trials=24", "space.mix_ratio=[0.5]"]
    for listed, left in (([0.1, 0.4, 1], 0), ([0.1, 0.4, 1, 2], 1)):
        keys = [*KEYS, *grid, f"space.sigma_tn={listed}"]
        config = parse_sweep(apply_overrides(search_spaces.load("smoke"), keys), "smoke")
        found = recommend(Results(pd.DataFrame(rows()), DECLARED).size(50), config=config)
        said = {caution.word: caution.sentence for caution in found.cautions}
        assert said.get("unfinished", "").startswith(f"{left} of 6 trainings" if left else "")
        assert ("unfinished" in said) == bool(left)


def test_every_verdict_and_caution_is_explained() -> None:
    page = (Path(__file__).parents[2] / "docs" / "frontier.md").read_text(encoding="utf-8")
    assert [word for word in (*get_args(VerdictWord), *_CAUTIONS) if f"`{word}`" not in page] == []
