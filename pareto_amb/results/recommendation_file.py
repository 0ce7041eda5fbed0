"""recommendation.yaml: the recommended sigma_tn and the training block that a production run starts from."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field

from pareto_amb.config import SweepConfig, TrainingRun, gather_parameters, nearest
from pareto_amb.config_file import read_yaml
from pareto_amb.core_yaml import dump_yaml
from pareto_amb.errors import UserError
from pareto_amb.notebook import html_list
from pareto_amb.printable import printable
from pareto_amb.results.points import Budget
from pareto_amb.results.policies import make_policy
from pareto_amb.results.recommend import recommend
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.results.size import Results
from pareto_amb.storage import write_text


class ExportedRecommendation(Recommendation):
    """A recommendation with the training it stands for."""

    training: TrainingRun


class RecommendationFile(BaseModel):
    """What recommendation.yaml holds: one recommendation a train size, and where they came from."""

    model_config = ConfigDict(extra="ignore")

    run: str
    created: str
    policy: str
    recommendations: list[ExportedRecommendation] = Field(min_length=1)
    not_recommended: dict[int, str] = Field(default_factory=dict)
    trials: int
    environment: dict[str, Any] = Field(default_factory=dict)

    @property
    def advised(self) -> bool:
        """Whether a training is advised for any train size."""
        return any(found.advised for found in self.recommendations)

    def _repr_html_(self) -> str:
        refused = (f"{size:,} training images: {why}" for size, why in self.not_recommended.items())
        entries = (line for found in self.recommendations for line in found.lines())
        return html_list([*entries, *refused])

    def to_yaml(self) -> str:
        """Render as YAML, in the order of the fields; figures come before the training block."""
        values = self.model_dump(mode="json")
        for entry in values["recommendations"]:
            entry["training"] = entry.pop("training")
        return dump_yaml(values)


def build_recommendation(
    run: RunDirectory,
    policy: str = "match-ddpm",
    max_memorization: float | None = None,
    results: Results | None = None,
    budget: str = "any",
) -> RecommendationFile:
    """Recommend for every train size of a run, whose table is read where its `results` are not given.

    `budget` is any, all stopping points of all trainings, or full, full trainings alone. A size that the
    policy cannot serve is listed with the reason; UserError when no size can be served, or for an unknown
    budget.
    """
    make_policy(policy, max_memorization)  # refused once, not for every train size
    over = _budget(budget)
    results = results or run.load()
    config, stopped = run.config(results.declared), run.why_stopped()
    served, refused = [], {}
    for size in config.space.train_size:
        try:
            found = recommend(results.size(size), policy, max_memorization, config, stopped, over)
        except UserError as error:
            refused[size] = str(error)
        else:
            served.append(_exported(config, found))
    if not served:
        raise UserError("; ".join(refused.values()))
    return RecommendationFile(
        run=str(run.path.name),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        policy=policy,
        recommendations=served,
        not_recommended=refused,
        trials=int(results.frame.trial_id.nunique()),
        environment=run.read_environment(),
    )


def _budget(name: str) -> Budget:
    if name not in ("any", "full"):
        raise UserError(f"unknown budget '{printable(name)}': {nearest(name, get_args(Budget))}")
    return "any" if name == "any" else "full"


def _exported(config: SweepConfig, found: Recommendation) -> ExportedRecommendation:
    training = TrainingRun(
        data=config.data,
        train_size=found.train_size,
        method=found.method,
        parameters=found.parameters,
        seed=config.seed,
        training=config.training.model_copy(update={"images": found.images_seen}),
        sampling=config.sampling,
    )
    return ExportedRecommendation(**found.model_dump(), training=training)


def write_recommendation(recommendation: RecommendationFile, path: Path) -> None:
    """Write recommendation.yaml, whole or not at all. UserError when the place cannot be written."""
    try:
        write_text(path, recommendation.to_yaml())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def training_block(entry: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The training block of an entry of the recommendation file at `path`. UserError when it has none."""
    block = entry.get("training")
    if not isinstance(block, dict):
        raise UserError(f"{path}: the recommendation for {entry['train_size']} has no 'training' block")
    return gather_parameters(block)


def load_entries(path: Path) -> dict[int, dict[str, Any]]:
    """The entries of a recommendation file by train size. UserError when the file is not a recommendation."""
    values = read_yaml(path)
    entries = values.get("recommendations")
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise UserError(f"{path}: not a recommendation file, key 'recommendations' is missing")
    if not all(isinstance(entry.get("train_size"), int) for entry in entries):
        raise UserError(f"{path}: key 'train_size' of a recommendation must be a whole number")
    return {entry["train_size"]: entry for entry in entries}


def load_entry(path: Path, train_size: int | None) -> dict[str, Any]:
    """The entry of a recommendation file for `train_size`, which may be None if there is one.

    Raises UserError when the file is not a recommendation, or does not settle which size is meant.
    """
    sizes = load_entries(path)
    if train_size is None and len(sizes) == 1:
        train_size = next(iter(sizes))
    if train_size not in sizes:
        known = ", ".join(str(size) for size in sizes)
        raise UserError(f"{path}: choose one of its train sizes with --train-size: {known}")
    return sizes[train_size]


def why_it_stops(entry: Mapping[str, Any], images: int) -> str:
    """Why a training of an entry of recommendation.yaml stops after `images`, on one line."""
    if images != entry.get("images_seen"):
        return "as set"
    words = printable(str(entry.get("verdict_words", "")))
    return f"the recommended stopping point: {words}" if words else "the recommended stopping point"
