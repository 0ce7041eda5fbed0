"""recommendation.yaml: the recommended sigma_tn and the training block that a production run starts from."""

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from pareto_amb.config import AutoRange, SweepConfig, TrainingRun, read_yaml
from pareto_amb.errors import UserError
from pareto_amb.results import load_results
from pareto_amb.run_directory import RunDirectory
from pareto_amb.search.recommend import Policy, Recommendation, recommend
from pareto_amb.storage import write_text

EDGE = 0.05
"""A sigma_tn in this share of the searched range, on its log scale, lies at the range's end."""


class ExportedRecommendation(Recommendation):
    """A recommendation with the training it stands for, and a caution where the search ended too soon."""

    caution: str = ""
    training: TrainingRun


class RecommendationFile(BaseModel):
    """What recommendation.yaml holds: one recommendation a train size, and where they came from."""

    model_config = ConfigDict(extra="ignore")

    run: str
    created: str
    policy: Policy
    recommendations: list[ExportedRecommendation] = Field(min_length=1)
    not_recommended: dict[int, str] = Field(default_factory=dict)
    trials: int
    environment: dict[str, Any] = Field(default_factory=dict)

    def to_yaml(self) -> str:
        """Render as YAML, in the order of the fields."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def build_recommendation(
    run: RunDirectory, policy: Policy = "match-ddpm", max_memorization: float | None = None
) -> RecommendationFile:
    """Recommend for every train size of a run.

    A size that the policy cannot serve is listed with the reason; UserError when no size can be served.
    """
    config, results = run.config(), load_results(run.results)
    served, refused = [], {}
    for size in config.space.train_size:
        try:
            found = recommend(results, size, policy, max_memorization)
        except UserError as error:
            refused[size] = str(error)
        else:
            training = _training_run(config, found)
            caution = _range_caution(config, size, found.sigma_tn)
            served.append(ExportedRecommendation(**found.model_dump(), caution=caution, training=training))
    if not served:
        raise UserError("; ".join(refused.values()))
    return RecommendationFile(
        run=str(run.path.name),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        policy=policy,
        recommendations=served,
        not_recommended=refused,
        trials=int(results.trial_id.nunique()),
        environment=run.read_environment(),
    )


def _range_caution(config: SweepConfig, train_size: int, sigma_tn: float) -> str:
    """One sentence when the recommended sigma_tn lies at an end of the range that was searched."""
    searched = config.space.sigma_range(train_size)
    low, high = searched.low, searched.high
    place = math.log(sigma_tn / low) / math.log(high / low)
    if EDGE <= place <= 1 - EDGE:
        return ""
    end = "low" if place < EDGE else "high"
    remedy = f"move space.sigma_tn.{end}"
    if isinstance(searched, AutoRange):
        remedy = f"replace space.sigma_tn: auto by a range with a {end}er {end} end"
    return (
        f"sigma_tn lies at the {end} end of the searched range {low:g} to {high:g}; "
        f"{remedy} and search again to see beyond it"
    )


def _training_run(config: SweepConfig, found: Recommendation) -> TrainingRun:
    return TrainingRun(
        data=config.data,
        train_size=found.train_size,
        sigma_tn=found.sigma_tn,
        mix_ratio=found.mix_ratio,
        seed=config.seed,
        training=config.training,
        sampling=config.sampling,
    )


def write_recommendation(recommendation: RecommendationFile, path: Path) -> None:
    """Write recommendation.yaml, whole or not at all. UserError when the place cannot be written."""
    try:
        write_text(path, recommendation.to_yaml())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def load_training_block(path: Path, train_size: int | None) -> dict[str, Any]:
    """The training block of a recommendation file for `train_size`, which may be None if there is one.

    Raises UserError when the file is not a recommendation, or does not settle which size is meant.
    """
    values = read_yaml(path)
    entries = values.get("recommendations")
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise UserError(f"{path}: not a recommendation file, key 'recommendations' is missing")
    blocks = {entry.get("train_size"): entry.get("training") for entry in entries}
    if train_size is None and len(blocks) == 1:
        train_size = next(iter(blocks))
    if train_size not in blocks:
        sizes = ", ".join(str(size) for size in blocks)
        raise UserError(f"{path}: choose one of its train sizes with --train-size: {sizes}")
    block = blocks[train_size]
    if not isinstance(block, dict):
        raise UserError(f"{path}: the recommendation for {train_size} has no 'training' block")
    return block
