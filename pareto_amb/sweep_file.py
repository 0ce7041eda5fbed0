"""Sweep files, read against what ships with pareto-amb and what a user's own program adds to it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pareto_amb.config import TEXT_NETWORKS, SweepConfig, TrainingRun
from pareto_amb.config_file import parse
from pareto_amb.credentials import take_credentials
from pareto_amb.declared import BASELINE, Declared, Objective
from pareto_amb.diffusion.methods import METHODS, Method
from pareto_amb.diffusion.networks import ARCHITECTURES, check_buildable, resolve_architecture
from pareto_amb.diffusion.sampler import SOLVERS
from pareto_amb.diffusion.text.build import check_options
from pareto_amb.errors import UserError
from pareto_amb.evaluation.encoders import ENCODERS
from pareto_amb.evaluation.objectives import OBJECTIVES
from pareto_amb.weights import AUTO


def declare(methods: Iterable[type[Method]] = (), objectives: Iterable[Objective] = ()) -> Declared:
    """All that ships, and a program's own `methods` and `objectives`.

    Raises UserError for a name that is taken, an objective that says not how it is measured, a maximised one
    without an ideal, or methods that declare a parameter of one name differently.
    """
    known_methods = dict(METHODS)
    for method in methods:
        if not isinstance(method, type):
            raise UserError(f"method {method.name}: give the class, not one at certain parameters")
        if known_methods.setdefault(method.name, method) is not method:
            raise UserError(f"method {method.name}: there is another of that name")
    known_objectives = dict(OBJECTIVES)
    for objective in objectives:
        if objective.measure is None:
            raise UserError(f"objective {objective.name}: says not how it is measured")
        if objective.direction == "max" and objective.ideal == 0:
            raise UserError(f"objective {objective.name}: is maximised, so give its ideal, a perfect model's")
        if known_objectives.setdefault(objective.name, objective) is not objective:
            raise UserError(f"objective {objective.name}: there is another of that name")
    return Declared({name: method.info() for name, method in known_methods.items()}, known_objectives)


def context(declared: Declared | None = None) -> dict[str, Any]:
    """What a configuration is validated against; all that ships where nothing is `declared`."""
    return {
        "declared": declared or declare(),
        "network": (*ARCHITECTURES, *TEXT_NETWORKS),
        "network_options": _check_options,
        "build_network": _check_network,
        "solver": tuple(SOLVERS),
        "encoder": (*ENCODERS, AUTO),
    }


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that the network has not, or a value that is none of it."""
    try:
        if name in TEXT_NETWORKS:
            check_options(name, options)
        else:
            resolve_architecture(name, options)
    except UserError as error:
        raise ValueError(str(error)) from error


def _check_network(name: str, options: Mapping[str, Any], resolution: int, channels: int) -> None:
    """Raise ValueError where the network cannot be applied to images of that shape."""
    try:
        check_buildable(name, json.dumps(options), resolution, channels)
    except UserError as error:
        raise ValueError(f"training.network: {error}") from error


def parse_sweep(values: Mapping[str, Any], origin: str, declared: Declared | None = None) -> SweepConfig:
    """A sweep, every default written out. UserError names the first key that cannot be used."""
    return parse(SweepConfig, values, origin, context(declared))


def trained_methods(config: SweepConfig, methods: Mapping[str, type[Method]]) -> list[str]:
    """The names of all methods that a sweep trains: DDPM, those that compete, and their controls."""
    competing = [BASELINE, *config.search.methods]
    controls = [
        methods[name].control for name in competing if config.search.controls and methods[name].control
    ]
    return list(dict.fromkeys([*competing, *controls]))


def without_secrets(config: SweepConfig) -> SweepConfig:
    """A sweep whose storage URI holds no secrets; those of s3:// are in the environment from now on.

    To be called before anything of a configuration is printed or written. Raises UserError where the URI has
    a secret of another kind.
    """
    if config.storage is None:
        return config
    return config.model_copy(update={"storage": take_credentials(config.storage)})


def parse_training(values: Mapping[str, Any], origin: str, declared: Declared | None = None) -> TrainingRun:
    """A production training. UserError names the first key that cannot be used."""
    return parse(TrainingRun, values, origin, context(declared))
