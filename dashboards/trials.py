"""The table of all trials."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pareto_amb.dashboards.formats import ABSENT, count, figure, level_vp, number, parameter_value
from pareto_amb.declared import BASELINE, Declared, Objective, Parameter
from pareto_amb.results.points import configuration
from pareto_amb.results.size import Results

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of numbers: its heading, the key that it sorts by, and the text of a row."""

    heading: str
    key: str
    text: Callable[[Row], str]


def trial_rows(results: Results) -> list[dict[str, Any]]:
    """The last rung of every trial, train sizes rising, baselines first.

    `p_front` is how sure its point is not dominated at full budget; None for a trial that is not there.
    """
    last = results.frame.sort_values("rung").groupby("trial_id", sort=False).tail(1)
    last = last.assign(order=(last.method != BASELINE).astype(int))
    last = last.sort_values(["train_size", "order", "trial_id"])
    sure = _front_probabilities(results)
    return [
        {str(key): value for key, value in row.items()} | {"p_front": sure.get(row["trial_id"])}
        for row in last.to_dict("records")
    ]


def _front_probabilities(results: Results) -> dict[str, float]:
    """By trial at full budget; the seeds of a configuration share what their mean has."""
    found: dict[str, float] = {}
    for size in map(results.size, results.sizes()):
        sure = dict(zip(configuration(size.points), size.points.p_front, strict=True))
        found |= dict(zip(size.full.trial_id, configuration(size.full).map(sure), strict=True))
    return found


def columns(
    rows: list[dict[str, Any]], declared: Declared, parameters: Iterable[Parameter], several_sizes: bool
) -> list[Column]:
    """What the table shows of `rows`, these parameters among it; what is the same everywhere is left out."""
    several_counts = len({row["n_samples"] for row in rows if row["n_samples"]}) > 1
    images = Column("images", "train_size", lambda row: count(row["train_size"]))
    samples = Column("samples", "n_samples", lambda row: count(row["n_samples"] or None))
    return [
        *([images] if several_sizes else []),
        *(column for parameter in parameters for column in _parameter_columns(parameter, declared)),
        Column("seed", "seed", lambda row: str(row["seed"])),
        Column("budget", "budget", lambda row: _share(row["budget"] or None)),
        *([samples] if several_counts else []),
        *map(_objective_column, declared.objectives.values()),
        Column("similarity", "similarity_mean", lambda row: number(row["similarity_mean"], 3)),
        Column("on frontier", "p_front", lambda row: _share(row["p_front"])),
    ]


def _parameter_columns(parameter: Parameter, declared: Declared) -> list[Column]:
    """The values of a parameter; a noise level has a column in each unit."""
    name, label = parameter.name, parameter.label
    plain = partial(_parameter_text, declared, parameter, partial(parameter_value, parameter))
    if parameter.kind != "level":
        return [Column(label, name, plain)]
    in_vp = partial(_parameter_text, declared, parameter, level_vp)
    return [Column(f"{label} EDM", name, plain), Column(f"{label} VP", name, in_vp)]


def _parameter_text(declared: Declared, parameter: Parameter, text: Callable[[float], str], row: Row) -> str:
    """The value in rows of methods that have the parameter, a dash in those of others."""
    chosen = parameter.name in declared.method(str(row["method"])).parameter_names
    return text(row[parameter.name]) if chosen else ABSENT


def _objective_column(objective: Objective) -> Column:
    return Column(objective.label, objective.name, lambda row: figure(objective, row[objective.name]))


def _share(share: float | None) -> str:
    return ABSENT if share is None else f"{100 * share:.0f}%"
