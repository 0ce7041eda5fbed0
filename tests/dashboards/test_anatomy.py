"""`explain`: which models it takes, what it refuses, and what its page says."""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

from pareto_amb.anatomy import measure
from pareto_amb.anatomy.measure import Anatomy, dissect
from pareto_amb.anatomy.subject import Subject, read_subject, with_checkpoint, with_more_data
from pareto_amb.cli import app
from pareto_amb.config import ScheduleConfig, SweepConfig
from pareto_amb.dashboards import anatomy as page
from pareto_amb.dashboards.formats import level
from pareto_amb.data import Split, TrainingSet
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.errors import UserError
from pareto_amb.evaluation.intervals import Estimate
from pareto_amb.results.run_directory import checkpoint_name
from pareto_amb.results.size import Results
from pareto_amb.terminal import make_console

CONSOLE = make_console(quiet=True)
DDPM = "n300-ddpm-s0"


@pytest.fixture(scope="module")
def config(make_config: Callable[..., SweepConfig]) -> SweepConfig:
    return make_config(
        data={"source": "digits", "resolution": 8, "channels": 1},
        training={
            "images": 512_000,
            "network": {"name": "tiny", "options": {"model_channels": 4}},
            "batch_size": 8,
        },
        evaluation={
            "fid_encoder": "pixels",
            "similarity_encoder": "pixels",
            "n_samples": 5000,
            "rungs": [0.25, 0.5, 1.0],
        },
        sampling={"steps": 3},
    )


def checkpoint(config: SweepConfig, method: str, parameters: dict[str, float], images_seen: int) -> bytes:
    """That of a model after one step, said to have seen so many images."""
    side = config.data.resolution
    images = torch.randint(0, 256, (8, 1, side, side), generator=torch.Generator().manual_seed(0))
    part = TrainingSet(images.to(torch.uint8), list(range(8)), None, 0)
    trainer = Trainer(part, config.training, METHODS[method].create(parameters, 80.0), seed=0)
    trainer.train(8)
    trainer.images_seen = images_seen
    return trainer.checkpoint()


@pytest.fixture(scope="module")
def original(
    tmp_path_factory: pytest.TempPathFactory,
    put_run: Callable[..., Path],
    make_rows: Callable[[int], pd.DataFrame],
    config: SweepConfig,
) -> Path:
    """A run whose DDPM and recommended trial have their models, to be left as it is."""
    folder = tmp_path_factory.mktemp("explained") / "run"
    run_dir = put_run(folder, make_rows(300), config, recommend_for=(300,), samples=False)
    entry = answer(run_dir)
    content = checkpoint(config, "algorithm1", entry["parameters"], entry["images_seen"])
    put(run_dir, DDPM, checkpoint(config, "ddpm", {}, 512_000))
    put(run_dir, entry["trial_id"], content)
    return run_dir


@pytest.fixture
def explained(original: Path, tmp_path: Path) -> Path:
    """The same run, to be changed."""
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture(scope="module")
def subject(original: Path) -> Subject:
    """What there is to explain of it."""
    return subject_of(original)


def answer(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((run_dir / "recommendation.yaml").read_text())["recommendations"][
        0
    ]
    return found


def put(folder: Path, trial_id: str, content: bytes) -> None:
    path = folder / checkpoint_name(trial_id)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content)


def subject_of(run_dir: Path, trust: bool = False) -> Subject:
    return read_subject(run_dir, None, trust, CONSOLE)


def refused(run_dir: Path, *arguments: str) -> str:
    """The one line that `explain` ends with; it leaves no page."""
    before = sorted(run_dir.rglob("*"))
    done = CliRunner().invoke(app, ["explain", str(run_dir), *arguments])
    assert isinstance(done.exception, UserError)
    assert done.exception.exit_code == 2
    assert sorted(run_dir.rglob("*")) == before
    message = str(done.exception)
    assert "\n" not in message
    return message


def test_a_page_from_the_command_line(explained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LIMIT_SAMPLES": 6, "STARTS": 4, "WIDTHS": (0.0, 1.0), "NOISY_IMAGES": 8}.items():
        monkeypatch.setattr(measure, name, value)
    more = explained.parent / "more <b>.safetensors"
    more.write_bytes((explained / checkpoint_name(DDPM)).read_bytes())
    done = CliRunner().invoke(app, ["explain", str(explained), "--more-data-checkpoint", str(more)])
    assert done.exception is None, done.output
    html = (explained / "explain.html").read_text()
    found = answer(explained)
    name = f"Algorithm 1 at σ_tn {level(found['sigma_tn'])}"
    for text in (name, "Optimal Algorithm 1", "more &lt;b&gt;.safetensors", found["trial_id"], DDPM):
        assert text in html
    assert "more <b>" not in html
    specs = re.findall(r'data-plot="(\w+)">(.*?)</script>', html)
    assert [key for key, _ in specs] == ["gap", "basins", "limit"]
    assert all(json.loads(spec)["data"] for _, spec in specs)
    assert html.count('<img src="data:image/png') == 4 * (1 + 6 * 6)
    assert "of exact optimal denoisers" in done.output.replace("\n", " ")
    assert "sampling from optimal denoisers" in done.output


def test_the_models_are_those_of_the_recommendation(original: Path, subject: Subject) -> None:
    found = answer(original)
    ddpm, other = subject.models
    assert (ddpm.trial_id, ddpm.images_seen, ddpm.sigma_tn) == (DDPM, 512_000, 0)
    assert (other.trial_id, other.images_seen) == (found["trial_id"], found["images_seen"])
    assert other.parameters == found["parameters"]
    assert subject.threshold == 0.9137
    assert subject.notes == []
    assert len(subject.train.images) == 300
    assert not set(subject.train.ids) & set(subject.heldout.ids)


def test_a_repeat_at_the_stop_is_taken_before_the_trial_itself(
    new_run: Callable[..., Path],
    results: pd.DataFrame,
    followed: Callable[..., pd.DataFrame],
    config: SweepConfig,
) -> None:
    run_dir = new_run(
        followed(results, "n300-algorithm1-0009"), config=config, recommend_for=(300,), samples=False
    )
    found = answer(run_dir)
    assert found["trial_id"] == "n300-algorithm1-0009"
    assert found["images_seen"] == 256_000
    put(run_dir, DDPM, checkpoint(config, "ddpm", {}, 512_000))
    put(run_dir, found["trial_id"], checkpoint(config, "algorithm1", found["parameters"], 512_000))
    at_end = subject_of(run_dir)
    assert at_end.models[1].images_seen == 512_000
    assert "256,000 images, is not kept; the one shown has seen 512,000" in at_end.notes[0]
    put(run_dir, "n300-algorithm1-0009-c2", checkpoint(config, "algorithm1", found["parameters"], 256_000))
    repeat = subject_of(run_dir)
    assert (repeat.models[1].trial_id, repeat.trial_id) == ("n300-algorithm1-0009-c2", found["trial_id"])
    assert repeat.models[1].seed == 1_000_002
    assert repeat.notes == []


def test_where_ddpm_is_recommended_the_best_full_training_stands_beside_it(
    explained: Path, config: SweepConfig
) -> None:
    path = explained / "recommendation.yaml"
    document = yaml.safe_load(path.read_text())
    entry = document["recommendations"][0]
    full = {key: entry[key] for key in ("method", "sigma_tn", "parameters")}
    entry |= {"method": "ddpm", "parameters": {}, "main": "", "sigma_tn": None, "mix_ratio": None}
    entry |= {"trial_id": DDPM, "images_seen": 128_000, "interval": None, "window": None}
    entry["equal_budget"] = {**full, "images_seen": 512_000, "fid": 14.0, "memorization": 0.1}
    trial_id = answer(explained)["trial_id"]
    path.write_text(yaml.safe_dump(document))
    put(explained, trial_id, checkpoint(config, "algorithm1", full["parameters"], 512_000))
    subject = subject_of(explained)
    assert [model.trial_id for model in subject.models] == [DDPM, trial_id]
    assert "Recommended is DDPM itself, after 128,000 images" in subject.notes[0]
    assert len(subject.notes) == 1
    entry["equal_budget"] = None
    path.write_text(yaml.safe_dump(document))
    alone = subject_of(explained)
    assert len(alone.models) == 1
    assert "no full training of another method competes" in alone.notes[0]


def test_storage_elsewhere_is_read_of_a_trusted_run_alone(
    explained: Path, config: SweepConfig, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (explained / "checkpoints").rename(tmp_path / "kept")
    elsewhere.mkdir()
    (tmp_path / "kept").rename(elsewhere / "checkpoints")
    sweep = yaml.safe_load((explained / "sweep.yaml").read_text())
    (explained / "sweep.yaml").write_text(yaml.safe_dump({**sweep, "storage": str(elsewhere)}))
    assert "elsewhere; give --trust-run if the run is your own" in refused(explained)
    assert len(subject_of(explained, trust=True).models) == 2
    (explained / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    (explained / "checkpoints").symlink_to(elsewhere / "checkpoints")
    assert "lies outside the run directory; give --trust-run" in refused(explained)
    assert len(subject_of(explained, trust=True).models) == 2


def test_what_is_missing_is_named(explained: Path) -> None:
    trial_id = answer(explained)["trial_id"]
    (explained / checkpoint_name(trial_id)).unlink()
    assert f"no checkpoint of {trial_id} is left" in refused(explained)
    (explained / checkpoint_name(DDPM)).unlink()
    assert "no checkpoint of DDPM with 300 training images is left" in refused(explained)
    (explained / "recommendation.yaml").unlink()
    assert "make one with pareto-amb recommend" in refused(explained)
    assert "not a run directory" in refused(explained / "checkpoints")


def test_other_images_other_sizes_and_captions_are_refused(explained: Path) -> None:
    assert "--train-size: 300" in refused(explained, "--train-size", "200")
    assert "give one of them" in refused(explained, "--more-data", "9", "--more-data-checkpoint", "x")
    assert "more than the 300 images of the run and at most 1795" in refused(explained, "--more-data", "1796")
    assert "more than the 300" in refused(explained, "--more-data", "300")
    environment = {"data": {"fingerprint": "0" * 64}}
    (explained / "environment.json").write_text(json.dumps(environment))
    assert "digits has changed since the sweep" in refused(explained)
    sweep = yaml.safe_load((explained / "sweep.yaml").read_text())
    sweep["data"]["captions"] = True
    sweep["training"]["network"] = {"name": "captioned", "options": {}}
    (explained / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    assert "explain is for models of pixels" in refused(explained)


def test_a_checkpoint_of_other_images_is_refused(
    subject: Subject, config: SweepConfig, tmp_path: Path
) -> None:
    larger = config.model_copy(update={"data": config.data.model_copy(update={"resolution": 16})})
    path = tmp_path / "larger.safetensors"
    path.write_bytes(checkpoint(larger, "ddpm", {}, 8))
    with pytest.raises(UserError, match=r"larger\.safetensors: its model is of other images"):
        with_checkpoint(subject, path)


def test_more_data_is_trained_once(explained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = yaml.safe_load((explained / "sweep.yaml").read_text())
    sweep["training"]["images"] = 32
    (explained / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    subject, steps = subject_of(explained), []
    step = Trainer._step
    monkeypatch.setattr(Trainer, "_step", lambda self: (steps.append(1), step(self)))
    for _ in range(2):
        more = with_more_data(subject, 1000, tmp_path / "more", CONSOLE).more
        assert more is not None
        assert (more.key, more.train_size, len(steps)) == ("more", 1000, 4)
    assert yaml.safe_load((tmp_path / "more/training.yaml").read_text())["train_size"] == 1000


def anatomy_of(subject: Subject, gaps: list[Estimate]) -> Anatomy:
    share = Estimate(0.5, 0.4, 0.6)
    low = Estimate(0.1, 0.05, 0.2)
    both = {"ddpm", "other"}
    limit = measure.Limit((0.0, 0.1, 1.0), (0.0, 1.0), 2.5, [[share] * 3, [low] * 3])
    return Anatomy(
        subject, 0.8, (), [], (0.1, 1.0), dict.fromkeys(both, gaps), (0.1, 1.0),
        dict.fromkeys(both, measure.Basins([share, share], [low, share])), limit,
    )  # fmt: skip


def test_sentences_say_no_more_than_the_intervals(subject: Subject) -> None:
    alike, apart = Estimate(1.2, 0.95, 1.5), Estimate(1.3, 1.1, 1.6)
    none = page.findings(anatomy_of(subject, [alike, alike]))
    assert sum("at no noise level is its error on held-out images larger" in line for line in none) == 2
    some = page.findings(anatomy_of(subject, [alike, apart]))
    assert "95% interval, at σ 1.00, most at σ 1.00" in some[0]
    both = page.findings(anatomy_of(subject, [apart, apart]))
    assert "at σ 0.100 to 1.00, most" in both[0]
    assert "1.30 times (1.10 to 1.60)" in some[0]
    assert "up to σ 0.100 its sampler returns" in some[1]
    assert "50.0% (40.0% to 60.0%) against 10.0% (5.0% to 20.0%)" in some[1]
    assert "50.0% of 200 samples each are copies; of smoothed ones 10.0% at d" in some[-1]


def test_steps_of_a_schedule_stand_beside_sigma_tn(subject: Subject) -> None:
    schedule, results = ScheduleConfig().schedule, subject.run.results
    stepped = Results(results.frame, results.declared.in_steps(schedule))
    there = replace(subject, run=replace(subject.run, results=stepped))
    lines = page.findings(anatomy_of(there, [Estimate(1.3, 1.1, 1.6)] * 2))
    assert f"σ_tn 0.100 to 1.00 (steps {schedule.step(0.1)} to {schedule.step(1.0)})" in lines[-1]
    ours = subject.models[-1].sigma_tn
    assert f"at σ_tn {level(ours)} (step {schedule.step(ours)}): " in lines[2]


def test_the_page_shows_the_probes_of_the_training(
    explained: Path, results: pd.DataFrame, probed: Callable[..., pd.DataFrame], new_run: Callable[..., Path],
    config: SweepConfig,
) -> None:  # fmt: skip
    entry = answer(explained)
    new_run(probed(results), config=config, samples=False)
    subject = subject_of(explained)
    figures = {plot.key: plot for plot in page._plots(anatomy_of(subject, [Estimate(1.2, 1.1, 1.5)] * 2))}
    assert list(figures) == ["gap", "probes", "basins", "limit"]
    titles = [note["text"] for note in figures["probes"].spec["layout"]["annotations"]]
    assert f"Algorithm 1 at σ_tn {level(entry['sigma_tn'])}" in titles


@pytest.mark.slow
def test_the_page_works_from_disk_also_on_a_phone(browser: Any, subject: Subject, tmp_path: Path) -> None:
    path = tmp_path / "explain.html"
    page.write_anatomy(anatomy_of(subject, [Estimate(1.2, 1.1, 1.5)] * 2), path)
    device = {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    browser.get(path.as_uri())
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map("
        "p => [p.id, p.querySelectorAll('.scatterlayer .trace').length])"
    )
    assert [name for name, _ in drawn] == ["gap", "basins", "limit"]
    assert all(traces >= 2 for _, traces in drawn)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 420
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith(("data:", "blob:")) for name in loaded)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_an_optimum_on_the_runs_own_images_copies_them_whatever_sigma_tn(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "LIMIT_SAMPLES", 20)
    monkeypatch.setattr(measure, "WIDTHS", (0.0, 1.0))
    done: list[int] = []
    limit = measure._limit(subject, (0.0, 0.05, 0.8, 6.4), done.append)
    assert [share.value for share in limit.shares[0]] == [1.0] * 4
    assert sum(done) == 8
    points = subject.clean.flatten(1).double().numpy()
    apart = np.sqrt(((points[:, None] - points) ** 2).sum(axis=2)) + np.diag([math.inf] * len(points))
    assert limit.spacing == pytest.approx(np.median(apart.min(axis=1)), rel=1e-6)


def test_training_images_that_are_all_the_same_are_refused(subject: Subject) -> None:
    first = Split(subject.parts.train[:1].repeat(300), subject.parts.heldout)
    with pytest.raises(UserError, match="all the same"):
        dissect(replace(subject, parts=first), CONSOLE)
