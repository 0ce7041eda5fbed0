"""What an audit is to train: a search space or a recommendation, and a number of models."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pareto_amb import search_spaces
from pareto_amb.audit.halves import FEWEST_MODELS
from pareto_amb.config import SearchConfig, SweepConfig
from pareto_amb.config_file import apply_overrides, read_yaml
from pareto_amb.core_yaml import dump_yaml
from pareto_amb.declared import BASELINE
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.diffusion.trainer import noise_distribution
from pareto_amb.errors import UserError
from pareto_amb.printable import printable
from pareto_amb.results.recommendation_file import load_entry, training_block
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.sweep_file import parse_sweep, parse_training, without_secrets
from pareto_amb.trial import Trial

FIRST_SEED = 2_000_000
"""Seeds of the models start here, counted from the sweep's, beyond those of any sweep."""

MODELS = 16
"""Of each kind, where nothing else is said."""

N_SAMPLES = 1_000
"""Images drawn from each model where a recommendation is audited."""

_MODEL = "-m"


@dataclass(frozen=True)
class AuditPlan:
    """What an audit trains: `models` models of DDPM, and as many of another method, if that is another.

    `config` is a sweep's, of one train size, which has everything else; `parameters` are the method's.
    """

    config: SweepConfig
    method: str
    parameters: Mapping[str, float]
    models: int

    @property
    def methods(self) -> list[str]:
        """DDPM first."""
        return list(dict.fromkeys([BASELINE, self.method]))

    def trials(self, train_size: int) -> list[Trial]:
        """All trainings; the k-th models of both methods have the same half and seed."""
        return [
            Trial(
                id=f"{method}{_MODEL}{k:03}",
                method=method,
                train_size=train_size,
                seed=self.config.seed + FIRST_SEED + k,
                parameters={} if method == BASELINE else dict(self.parameters),
            )
            for k in range(self.models)
            for method in self.methods
        ]

    def to_yaml(self) -> str:
        """The content of audit.yaml."""
        sweep = self.config.model_dump(mode="json")
        chosen = {"method": self.method, "parameters": dict(self.parameters)}
        return dump_yaml({"models": self.models, **chosen, "sweep": sweep})


def model_of(trial: Trial) -> int:
    """The number of the half that a training of an audit has."""
    return int(trial.id.rpartition(_MODEL)[2])


def read_plan(path: Path) -> AuditPlan:
    """The plan of the audit in a run directory. UserError where there is none, or it cannot be used."""
    run = RunDirectory(path)
    if not run.audit.is_file():
        raise UserError(f"{printable(path)}: not the directory of an audit, it holds no audit.yaml")
    values, origin = read_yaml(run.audit), printable(run.audit)
    method, models, sweep = values.get("method"), values.get("models"), values.get("sweep")
    if method not in METHODS or not isinstance(models, int) or not isinstance(sweep, dict):
        raise UserError(f"{origin}: not what an audit wrote; restore it, or begin a new audit")
    config = parse_sweep(sweep, origin)
    block = {
        "data": sweep["data"],
        "method": method,
        "parameters": values.get("parameters"),
        "training": sweep["training"],
        "sampling": sweep["sampling"],
    }
    return make_plan(config, method, parse_training(block, origin).parameters, models)


def plan_space(space: str, recipe: str | None, overrides: Iterable[str], models: int) -> AuditPlan:
    """DDPM, and the one method of a search space at the one value that it has for each parameter.

    Raises UserError where it names no such space, or leaves a choice.
    """
    config = parse_sweep(apply_overrides(search_spaces.load(space, recipe), overrides), space)
    if len(config.search.methods) > 1:
        raise UserError(
            f"{space}: {len(config.search.methods)} methods; name one: --set search.methods=[NAME]"
        )
    method = config.search.methods[0]
    return make_plan(config, method, _parameters(config, method, space), models)


def _parameters(config: SweepConfig, name: str, origin: str) -> dict[str, float]:
    """The numbers of a method's parameters. UserError where the space leaves a choice."""
    method = METHODS[name]
    chosen = {parameter.name: _only(config, origin, parameter.name) for parameter in method.parameters}
    resolved = method.resolve(chosen, noise_distribution(config.training))
    return {key: float(value) for key, value in resolved.items()}


def _only(config: SweepConfig, space: str, name: str) -> Any:
    values = config.space[name]
    if not isinstance(values, tuple) or len(values) > 1:
        raise UserError(
            f"{space}: space.{name} leaves a choice, and an audit trains one configuration; name a value: "
            f"--set space.{name}=[VALUE], or give the recommendation.yaml of a sweep"
        )
    return values[0]


def plan_recommendation(
    path: Path, train_size: int | None, overrides: Iterable[str], models: int
) -> AuditPlan:
    """DDPM, and the training of a recommendation file, both as long as it says.

    Copies are looked for by the encoders of its sweep. Raises UserError where the file cannot be used, or
    does not settle which train size is meant.
    """
    entry = load_entry(path, train_size)
    run = parse_training(training_block(entry, path), str(path))
    if run.train_size is None:
        raise UserError(f"{printable(path)}: its training has no train_size; an audit needs one")
    dumped = run.model_dump(mode="json")
    values = {
        "name": "audit",
        "seed": run.seed,
        "data": dumped["data"],
        "space": {"train_size": [run.train_size], **{name: [v] for name, v in run.parameters.items()}},
        "training": dumped["training"],
        "sampling": dumped["sampling"],
        "evaluation": {"n_samples": N_SAMPLES, **_encoders(read_yaml(path))},
    }
    if run.method != BASELINE:
        values["search"] = {"methods": [run.method]}
    config = parse_sweep(apply_overrides(values, overrides), str(path))
    return make_plan(config, run.method, _parameters(config, run.method, str(path)), models)


def _encoders(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `evaluation` that a recommendation's environment tells."""
    node: Any = values
    for key in ("environment", "encoders"):
        node = node.get(key) if isinstance(node, Mapping) else None
    found = {}
    for role in ("fid", "similarity"):
        encoder = node.get(role) if isinstance(node, Mapping) else None
        if isinstance(encoder, Mapping) and "name" in encoder:
            found[f"{role}_encoder"] = encoder["name"]
            found |= {key: encoder[key] for key in ("preprocessing",) if encoder.get(key)}
    return found


def make_plan(config: SweepConfig, method: str, parameters: Mapping[str, float], models: int) -> AuditPlan:
    """A plan whose models are measured once, at their end.

    Raises UserError for several train sizes, or a number of models that cannot be balanced.
    """
    if models < FEWEST_MODELS or models % 2:
        raise UserError(f"--models {models}: an even number is needed, {FEWEST_MODELS} at least")
    if len(config.space.train_size) > 1:
        sizes = ", ".join(map(str, config.space.train_size))
        raise UserError(
            f"space.train_size: an audit has one; name one of {sizes}: --set space.train_size=[N]"
        )
    once = {"rungs": (1.0,), "probes": (), "final_samples": None, "other_prompts": 0, "judge": None}
    evaluation = config.evaluation.model_copy(update=once)
    search = config.search.model_copy(
        update={"branch_from": None, "controls": False, "objectives": SearchConfig().objectives}
    )
    config = config.model_copy(update={"evaluation": evaluation, "search": search})
    return AuditPlan(without_secrets(config).with_absolute_path(), method, parameters, models)
