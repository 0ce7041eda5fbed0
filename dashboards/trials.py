"""The table of all trials."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pareto_amb.dashboards.answer import stop_of, stops_early
from pareto_amb.dashboards.formats import ABSENT, count, figure, level_vp, number, parameter_value, signed
from pareto_amb.dashboards.wording import called
from pareto_amb.declared import BASELINE, Declared, Objective, Parameter
from pareto_amb.results.points import configuration
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.size import Results, SizeResults

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of numbers: its heading, the key that it sorts by, and the text of a row."""

    heading: str
    key: str
    text: Callable[[Row], str]


def trial_rows(results: Results) -> list[dict[str, Any]]:
    """The last rung of every trial, train sizes rising, baselines first, controls last.

    `p_front` is how sure its point is not dominated at full budget; None for a trial that is not there.
    `from_scratch` says whether it is the training from scratch of a branched trial.
    """
    branched = results.frame.trial_id[results.frame.branched_at > 0]
    last = results.frame.sort_values("rung").groupby("trial_id", sort=False).tail(1)
    last = last.assign(
        order=(last.method != BASELINE).astype(int) + 2 * (last.controls != ""),
        similarity_excess=last.similarity_mean - last.heldout_similarity_mean,
        from_scratch=last.confirms.isin(branched),
    )
    last = last.sort_values(["train_size", "order", "trial_id"])
    sure = _front_probabilities(results)
    return [
        {str(key): value for key, value in row.items()} | {"p_front": sure.get(row["trial_id"])}
        for row in last.to_dict("records")
    ]


def is_answer(row: Row, found: Recommendation | None) -> bool:
    """Whether a trial is the recommended one; where that is DDPM, each of its seeds is."""
    if found is None:
        return False
    if found.method == BASELINE:
        return bool(row["method"] == BASELINE)
    return bool(row["trial_id"] == found.trial_id)


def what_became(row: Row, found: Recommendation | None, size: SizeResults) -> str:
    """A trial's status, what it is where it is none of the search's, and why it failed."""
    said = [str(row["status"])]
    at = f", stopped after {count(row['images_seen'])} images" if row["budget"] < 1 else ", at full budget"
    if not row["rung"]:  # it has not come to where it stops
        at = ""
    if row["branched_at"]:
        said.append(f"branched from DDPM after {count(row['branched_at'])} images, on no frontier")
    if row["confirms"]:
        what = "from scratch, as chosen by" if row["from_scratch"] else "fresh seed of"
        said.append(f"{what} {row['confirms']}{at}")
    if row["controls"]:
        said.append(f"control of {row['controls']}{at}")
    if found is not None and is_answer(row, found):
        stop = (
            f", to be stopped after {count(stop_of(found, size))} images" if stops_early(found, size) else ""
        )
        said.append(f"{called(found).lower()}{stop}")
    error = f": {row['error']}" if row["error"] else ""
    return f"{' · '.join(said)}{error}"


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
        Column("images seen", "images_seen", _images_seen),
        *([samples] if several_counts else []),
        *map(_objective_column, declared.objectives.values()),
        *_similarity_columns(rows),
        Column("on frontier", "p_front", lambda row: _share(row["p_front"])),
    ]


def _parameter_columns(parameter: Parameter, declared: Declared) -> list[Column]:
    """The values of a parameter; a noise level has a column in each unit, and one of its step, if any."""
    name, label = parameter.name, parameter.label
    plain = partial(_parameter_text, declared, parameter, partial(parameter_value, parameter))
    if parameter.kind != "level":
        return [Column(label, name, plain)]
    in_vp = partial(_parameter_text, declared, parameter, level_vp)
    found = [Column(f"{label} EDM", name, plain), Column(f"{label} VP", name, in_vp)]
    if (schedule := parameter.schedule) is not None:
        step = partial(_parameter_text, declared, parameter, lambda sigma: str(schedule.step(sigma)))
        found.append(Column(f"{label} step", name, step))
    return found


def _parameter_text(declared: Declared, parameter: Parameter, text: Callable[[float], str], row: Row) -> str:
    """The value in rows of methods that have the parameter, a dash in those of others."""
    chosen = parameter.name in declared.method(str(row["method"])).parameter_names
    return text(row[parameter.name]) if chosen else ABSENT


def _similarity_columns(rows: list[dict[str, Any]]) -> list[Column]:
    """The mean similarity to the nearest training image, less that of held-out images where it is known."""
    if any(math.isfinite(row["similarity_excess"]) for row in rows):
        name = "similarity above held-out"
        return [Column(name, "similarity_excess", lambda row: signed(row["similarity_excess"]))]
    return [Column("similarity", "similarity_mean", lambda row: number(row["similarity_mean"], 3))]


def _objective_column(objective: Objective) -> Column:
    return Column(objective.label, objective.name, lambda row: figure(objective, row[objective.name]))


def _images_seen(row: Row) -> str:
    """Where the training stands or has stopped: `256,000 (50%)`."""
    return f"{count(row['images_seen'])} ({_share(row['budget'])})" if row["images_seen"] else ABSENT


def _share(share: float | None) -> str:
    return ABSENT if share is None else f"{100 * share:.0f}%"
