"""An audit that trains: what it refuses, what its models leave, and how it goes on after a kill."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from pareto_amb.audit.halves import balanced_halves
from pareto_amb.audit.report import compare
from pareto_amb.cli import main
from pareto_amb.dashboards.audit import render
from pareto_amb.errors import UserError
from pareto_amb.results.run_directory import RunDirectory, answers_name, checkpoint_name
from pareto_amb.results.table import ResultsTable, shipped
from pareto_amb.running.audit import AuditOutcome, start_audit
from pareto_amb.running.audit_plan import (
    AuditPlan,
    make_plan,
    model_of,
    plan_recommendation,
    plan_space,
    read_plan,
)

ONE = ["space.sigma_tn=[0.4]", "space.mix_ratio=[natural]"]
TINY = [*ONE, "training.images=640", "evaluation.n_samples=20", "space.train_size=[20]"]


def plan_of(*changes: str, models: int = 8) -> AuditPlan:
    return plan_space("smoke", None, [*TINY, *changes], models)


# --- plans ----------------------------------------------------------------------------------------


def test_a_plan_has_ddpm_and_the_configuration_on_the_same_halves_and_seeds() -> None:
    plan = plan_of()
    trials = plan.trials(20)
    assert [trial.method for trial in trials] == ["ddpm", "algorithm1"] * 8
    assert [model_of(trial) for trial in trials] == [k for k in range(8) for _ in range(2)]
    assert trials[0].seed == trials[1].seed != trials[2].seed
    assert len({trial.id for trial in trials}) == 16
    assert trials[1].parameters["sigma_tn"] == 0.4
    assert 0 < trials[1].parameters["mix_ratio"] < 1  # natural, resolved
    assert trials[0].parameters == {}
    assert plan.config.rung_images() == (640,)


@pytest.mark.parametrize(
    ("changes", "models", "words"),
    [
        (["space.sigma_tn={low: 0.1, high: 1}"], 8, "space.sigma_tn leaves a choice"),
        (["space.mix_ratio=[natural, 0.5]"], 8, "space.mix_ratio leaves a choice"),
        (["search.methods=[algorithm1, masking]"], 8, "2 methods"),
        (["space.train_size=[20, 30]"], 8, "space.train_size: an audit has one"),
        ([], 6, "--models 6: an even number is needed, 8 at least"),
        ([], 9, "--models 9"),
    ],
)
def test_what_names_no_one_configuration_is_refused(changes: list[str], models: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        plan_of(*changes, models=models)


def recommendation(folder: Path, **training: Any) -> Path:
    plan = plan_of()
    sweep = plan.config.model_dump(mode="json")
    block = {
        "data": sweep["data"], "train_size": 20, "method": "algorithm1", "seed": 5,
        "parameters": {"sigma_tn": 0.4, "mix_ratio": 0.5},
        "training": sweep["training"], "sampling": sweep["sampling"], **training,
    }  # fmt: skip
    encoder = {"name": "efficientnet_lite0", "preprocessing": "standard"}
    values = {
        "recommendations": [{"train_size": 20, "training": block}],
        "environment": {"encoders": {"fid": encoder, "similarity": encoder}},
    }
    path = folder / "recommendation.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_a_recommendation_is_audited_with_the_encoders_of_its_sweep(tmp_path: Path) -> None:
    plan = plan_recommendation(recommendation(tmp_path), None, [], 16)
    assert (plan.method, plan.parameters) == ("algorithm1", {"sigma_tn": 0.4, "mix_ratio": 0.5})
    assert (plan.config.seed, plan.config.training.images) == (5, 640)
    assert plan.config.evaluation.similarity_encoder == "efficientnet_lite0"
    changed = plan_recommendation(recommendation(tmp_path), 20, ["space.sigma_tn=[0.7]"], 16)
    assert changed.parameters["sigma_tn"] == 0.7


def test_where_ddpm_is_recommended_it_is_audited_alone(tmp_path: Path) -> None:
    plan = plan_recommendation(recommendation(tmp_path, method="ddpm", parameters={}), None, [], 8)
    assert {trial.method for trial in plan.trials(20)} == {"ddpm"}


def test_a_recommendation_for_the_whole_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no train_size"):
        plan_recommendation(recommendation(tmp_path, train_size=None), None, [], 8)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = plan_of()
    (tmp_path / "audit.yaml").write_text(plan.to_yaml(), encoding="utf-8")
    assert read_plan(tmp_path) == plan
    (tmp_path / "audit.yaml").write_text("models: 8\n", encoding="utf-8")
    with pytest.raises(UserError, match="not what an audit wrote"):
        read_plan(tmp_path)
    with pytest.raises(UserError, match=r"holds no audit\.yaml"):
        read_plan(tmp_path / "nowhere")


def test_too_few_images_to_halve_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for k in range(15):
        Image.fromarray(np.full((8, 8), 10 * k, np.uint8)).save(tmp_path / f"photos/{k}.png")
    plan = plan_of("data={source: images, resolution: 8, channels: 1, path: PLACE}".replace(
        "PLACE", str(tmp_path / "photos")), "space.train_size=[8]")  # fmt: skip
    with pytest.raises(UserError, match="halves of 6 can be made"):
        start_audit(plan, tmp_path / "run", console=Console(quiet=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "one of them"),
        (["smoke", "--scores", "a.csv"], "one of them"),
        (["smoke"], "space.sigma_tn leaves a choice"),
        (["--scores", "a.csv", "--models", "8"], "--scores FILE trains nothing"),
        (["--resume", "nowhere"], "not the directory of an audit"),
        (["--resume", "nowhere", "--models", "8"], "--resume DIR takes models"),
        (["smoke", "--train-size", "20"], "--train-size goes with a recommendation"),
        (["smoke", *[part for one in ONE for part in ("--set", one)], "--models", "6"], "--models 6"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    arguments: Sequence[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pareto-amb", "audit", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    error = capsys.readouterr().err
    assert (end.value.code, error.count("\n")) == (2, 1)
    assert words in error
    assert list(tmp_path.iterdir()) == []


# --- a run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AuditOutcome]:
    """A whole audit of 40 digits by 8 + 8 models that have hardly learned anything."""
    path = tmp_path_factory.mktemp("audit") / "run"
    return path, start_audit(plan_of(), path, console=Console(quiet=True))


@pytest.mark.slow
def test_models_are_trained_on_their_halves_and_asked_about_all(audited: tuple[Path, AuditOutcome]) -> None:
    _, outcome = audited
    ddpm, ours = outcome.audits
    assert (outcome.unfinished, outcome.images.shape) == (0, (40, 1, 8, 8))
    assert ddpm.name == "DDPM"
    assert "0.4" in ours.name
    halves = balanced_halves(8, 40, 0)
    for found in (ddpm, ours):
        assert (found.scores.member == halves).all()
        assert found.scores.values.shape == (8, 40, 10)
        assert found.copies is not None
        assert len(set(found.scores.images)) == 40
    assert sum(map(len, compare(ddpm, ours).values())) <= 40
    assert all(image.name in render(outcome.audits, None, outcome.images) for image in [ddpm])


@pytest.mark.slow
def test_averaged_over_images_mem_is_the_gap_in_the_table(audited: tuple[Path, AuditOutcome]) -> None:
    path, outcome = audited
    rows = ResultsTable(RunDirectory(path).results, shipped()).frame()
    assert set(rows.status) == {"complete"}
    for method, found in zip(("ddpm", "algorithm1"), outcome.audits, strict=True):
        table = rows[rows.method == method]
        gaps = np.stack(table.probe_heldout.tolist()) - np.stack(table.probe_train.tolist())
        errors = np.exp(found.scores.values)
        member = found.scores.member[:, :, None]
        inside = (errors * member).sum(axis=0) / 4
        outside = (errors * ~member).sum(axis=0) / 4
        assert (outside - inside).mean(axis=0) == pytest.approx(gaps.mean(axis=0))


@pytest.mark.slow
def test_after_a_kill_only_what_is_missing_is_trained(audited: tuple[Path, AuditOutcome]) -> None:
    path, before = audited
    run = RunDirectory(path)
    lost = ["ddpm-m003", "algorithm1-m007"]
    frame = pd.read_parquet(run.results)
    left = ResultsTable(path / "left.parquet", shipped())
    for row in ResultsTable(run.results, shipped()).frame().to_dict("records"):
        if row["trial_id"] not in lost:
            left.record({str(key): value for key, value in row.items()})
    (path / "left.parquet").replace(run.results)
    (path / answers_name(lost[0])).unlink()
    kept = path / answers_name("ddpm-m000")
    times = kept.stat().st_mtime_ns, (path / checkpoint_name("ddpm-m000")).stat().st_mtime_ns
    after = start_audit(read_plan(path), path, resumed=True, console=Console(quiet=True))
    assert (kept.stat().st_mtime_ns, (path / checkpoint_name("ddpm-m000")).stat().st_mtime_ns) == times
    assert len(pd.read_parquet(run.results)) == len(frame)
    for one, other in zip(before.audits, after.audits, strict=True):
        assert np.array_equal(one.scores.values, other.scores.values)
        assert one.first.auc == other.first.auc


@pytest.mark.slow
def test_a_finished_audit_is_written_again_without_ray(
    audited: tuple[Path, AuditOutcome], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, outcome = audited
    monkeypatch.setattr("pareto_amb.running.audit.ray_cluster", None)
    monkeypatch.setattr("sys.argv", ["pareto-amb", "audit", "--resume", str(path), "--no-thumbnails"])
    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code or 0) == 0, capsys.readouterr().err
    told = json.loads((path / "audit.json").read_text())
    assert [audit["name"] for audit in told["audits"]] == [audit.name for audit in outcome.audits]
    assert set(told["comparison"]) == {"protected", "still_at_risk", "newly_at_risk"}
    rows = pd.read_csv(path / "audit.csv")
    assert len(rows) == 80
    assert rows["copies"].notna().all()
    assert '<img src="data:' not in (path / "audit.html").read_text()


@pytest.mark.slow
def test_answers_that_are_none_are_named(audited: tuple[Path, AuditOutcome]) -> None:
    path, _ = audited
    answers = path / answers_name("ddpm-m001")
    whole = answers.read_bytes()
    content = io.BytesIO()
    np.savez(content, errors=np.zeros((3, 10)), copies=np.zeros(3, dtype=int))
    try:
        for broken in (b"nothing", content.getvalue()):
            answers.write_bytes(broken)
            with pytest.raises(UserError, match=r"answers/ddpm-m001\.npz: not what a model"):
                start_audit(read_plan(path), path, resumed=True, console=Console(quiet=True))
        answers.unlink()
        with pytest.raises(UserError, match="is missing"):
            start_audit(read_plan(path), path, resumed=True, console=Console(quiet=True))
    finally:
        answers.write_bytes(whole)


@pytest.mark.slow
def test_other_images_are_another_audit(audited: tuple[Path, AuditOutcome]) -> None:
    path, _ = audited
    plan = read_plan(path)
    changed = plan.config.data.model_copy(update={"resolution": 16})
    other = make_plan(plan.config.model_copy(update={"data": changed}), plan.method, plan.parameters, 8)
    with pytest.raises(UserError, match="the data changed since this audit began"):
        start_audit(other, path, resumed=True, console=Console(quiet=True))
