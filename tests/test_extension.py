"""A method and an objective of a program's own, through the Python interface, with no other file touched."""

import inspect
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from torch import Tensor

import pareto_amb
from pareto_amb.declared import Objective, Parameter
from pareto_amb.diffusion.losses import edm_weight
from pareto_amb.diffusion.methods import Augment, Batch, Method
from pareto_amb.diffusion.noise import NoiseDistribution, draw_sigma
from pareto_amb.evaluation.objectives import FID
from pareto_amb.evaluation.trial import MeasuredSamples
from pareto_amb.results.run import Run

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Jitter(Method):
    """Clean images, each moved by a constant of its own in brightness."""

    strength: float

    name = "jitter"
    label = "Jitter"
    color = "#009E73"
    parameters = (
        Parameter(
            "strength",
            label="strength",
            description="standard deviation of each image's shift in brightness, in units of the pixels",
            default={"low": 0.01, "high": 0.5},
            log=True,
            limits=(0.0, 2.0),
        ),
    )

    def material(self, clean: Tensor, ids: Sequence[int], seed: int) -> Tensor:
        """The shifted images: (N, C, H, W)."""
        generator = torch.Generator().manual_seed(seed)
        shift = torch.randn(len(clean), 1, 1, 1, generator=generator)
        return clean + self.strength * shift.to(clean)

    def draw(
        self,
        material: Tensor,
        index: Tensor,
        noise: NoiseDistribution,
        generator: torch.Generator,
        augment: Augment,
    ) -> Batch:
        """Shifted images with noise."""
        nature = torch.zeros_like(index, dtype=torch.bool)
        sigma = draw_sigma(noise, nature, 0.0, generator)
        target, told = augment(material[index], nature)
        eps = torch.randn(target.shape, generator=generator, device=target.device)
        return Batch(target + sigma.view(-1, 1, 1, 1) * eps, sigma, target, nature, told)

    def loss(self, denoised: Tensor, batch: Batch, sigma_data: float) -> Tensor:
        """EDM's loss against the shifted images."""
        error = (denoised - batch.target).square().flatten(1).mean(1)
        return edm_weight(batch.sigma, sigma_data) * error


def measure_contrast(samples: MeasuredSamples) -> float:
    """The standard deviation of a sample's pixels, averaged over the samples, as a share of the highest."""
    return float((samples.samples.float() / 127.5).flatten(1).std(dim=1).mean())


CONTRAST = Objective(
    "contrast",
    label="contrast",
    description="spread of the pixels of a sample, averaged",
    direction="max",
    ideal=1.0,
    slack=2.0,
    measure=measure_contrast,
)

SMALL = {
    "training.images": 1600,
    "training.batch_size": 32,
    "training.lr_warmup_images": 320,
    "evaluation.fid_encoder": "pixels",
    "evaluation.similarity_encoder": "pixels",
    "evaluation.n_samples": 40,
    "evaluation.n_shown": 4,
    "evaluation.thresholds": [0.6],
    "search.trials": 3,
    "search.methods": ["jitter"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("extension")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        return pareto_amb.sweep(
            "smoke", folder / "run", changes=SMALL, methods=[Jitter], objectives=[CONTRAST]
        )


def test_the_page_on_extending_shows_this_code() -> None:
    page = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
    assert textwrap.indent(inspect.getsource(Jitter), "    ", lambda line: bool(line.strip())) in page
    assert (
        textwrap.indent(inspect.getsource(measure_contrast), "    ", lambda line: bool(line.strip())) in page
    )


def test_every_trial_has_the_parameter_and_the_objective_in_columns_of_their_own(run: Run) -> None:
    searched = run.frame[run.frame.method == "jitter"]
    assert searched.strength.between(0.01, 0.5).all()
    assert searched.strength.nunique() == 3
    assert (run.frame[run.frame.method == "ddpm"].strength == 0).all()
    measured = run.frame[run.frame.n_samples > 0]
    assert measured.contrast.between(0, 1).all()
    assert measured.contrast.nunique() > 3
    assert not run.frame.status.isin(["failed"]).any()


def test_the_run_is_read_without_the_code_of_the_method(run: Run) -> None:
    again = pareto_amb.load_run(run.directory.path)
    assert again.config.space["strength"] == run.config.space["strength"]
    assert [objective.name for objective in again.results.objectives] == ["fid", "memorization", "contrast"]
    assert again.results.declared.method("jitter").label == "Jitter"
    assert "complete" in again._repr_html_()


def test_the_front_is_of_three_objectives_one_of_them_maximised(run: Run) -> None:
    size = run.size(50)
    points = size.configurations

    def beaten(row: pd.Series, other: pd.Series) -> bool:
        ours = (row.fid, row.memorization, -row.contrast)
        theirs = (other.fid, other.memorization, -other.contrast)
        return all(b <= a for a, b in zip(ours, theirs, strict=True)) and theirs != ours

    rows = [row for _, row in points.iterrows()]
    expected = {row.trial_id for row in rows if not any(beaten(row, other) for other in rows)}
    assert set(size.frontier.trial_id) == expected
    assert points.contrast.idxmax() in size.frontier.index


def test_a_training_of_the_method_is_recommended_by_its_own_parameter(run: Run) -> None:
    found = pareto_amb.recommend(run, "knee").recommendations[0]
    assert found.method == "jitter"
    assert found.parameters.keys() == {"strength"}
    assert found.main == "strength"
    assert found.interval is not None
    assert found.interval[0] <= found.parameters["strength"] <= found.interval[1]
    point = run.size(50).configurations.set_index("trial_id").loc[found.trial_id]
    assert [found[name].value for name in found.objectives()] == [
        point.fid,
        point.memorization,
        point.contrast,
    ]
    assert found.sigma_tn is None
    assert "strength" in found.summary
    assert found.training.parameters == found.parameters


def test_the_report_has_their_columns_and_axes(run: Run) -> None:
    page = run.directory.report.read_text(encoding="utf-8")
    for text in ("Jitter", "contrast", "strength", "higher is better"):
        assert text in page


def test_mlflow_has_the_parameter_and_the_metric(run: Run) -> None:
    uri = dict(run.environment)["tracking_uri"]
    client = mlflow.MlflowClient(tracking_uri=uri)
    (experiment,) = client.search_experiments(filter_string="name = 'pareto-amb'")
    runs = client.search_runs([experiment.experiment_id], "tags.method = 'jitter'")
    by_trial = run.frame.set_index("trial_id").strength.to_dict()
    assert len(runs) >= 3
    for found in runs:
        assert float(found.data.params["strength"]) == pytest.approx(by_trial[found.data.tags["trial_id"]])
        assert 0 <= found.data.metrics["contrast"] <= 1


def test_a_resumed_sweep_goes_on_with_the_methods_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Path(run.directory.results).read_bytes()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dict(run.environment)["tracking_uri"])
    again = pareto_amb.sweep(resume=run.directory.path, methods=[Jitter], objectives=[CONTRAST])
    pd.testing.assert_frame_equal(again.frame, run.frame)
    assert Path(run.directory.results).read_bytes() == before


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"changes": {"search.methods": ["jiter"]}}, "unknown method 'jiter': did you mean 'jitter'"),
        ({"changes": {"space.strength": {"low": 0.1, "high": 3}}}, "space.strength.high"),
        ({"objectives": [Objective("fid", "FID", "another")]}, "objective fid: says not how"),
        ({"objectives": [replace(CONTRAST, name="fid")]}, "objective fid: there is another"),
        ({"objectives": [replace(FID, measure=measure_contrast)]}, "objective fid: there is another"),
        ({"objectives": [replace(CONTRAST, ideal=0.0)]}, "objective contrast: is maximised, so give"),
        ({"resume": "nowhere"}, "a resumed run keeps its output"),
        ({"objectives": [replace(CONTRAST, name="train_loss")]}, "train_loss: the name is taken"),
        ({"objectives": [replace(CONTRAST, name="window")]}, "window: the name is taken"),
        ({"objectives": [replace(CONTRAST, name="a b")]}, "named with letters, digits"),
        ({"methods": [Jitter(0.1)]}, "method jitter: give the class"),
        ({"minutes": -1}, "minutes -1: must be above 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(
    tmp_path: Path, extra: dict[str, object], message: str
) -> None:
    arguments: dict[str, object] = {"methods": [Jitter], **extra}
    with pytest.raises(pareto_amb.UserError, match=message):
        pareto_amb.sweep("smoke", tmp_path / "run", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
