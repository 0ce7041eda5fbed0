"""What a sweep compares, declared once: the parameters of methods, the methods, and the objectives.

Search space, table columns, MLflow parameters and metrics, axes, labels, colours and help text follow from
these declarations. A results table carries those of its sweep, so that it is read without the code of the
methods.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from pareto_amb.errors import UserError
from pareto_amb.schedule import Schedule

D = TypeVar("D")

BASELINE = "ddpm"
"""The method that all others are compared with."""


@dataclass(frozen=True)
class Parameter:
    """A number that the trials of a method differ in: a key below `space`, a column, an axis.

    `label` is what axes and tables call it, `plain` the same in plain letters; `phrase` is how a sentence
    says it, `unit` are the words behind a value that stands alone. `kind` is a noise level (EDM units, above
    0), a share in (0, 1), or any number within `limits`; `log`: its own scale is logarithmic.

    `default` is what a sweep file has when it does not name the key: a mapping with `low` and `high`, a list
    of choices, or the word auto. `words` are the choices that are no numbers, each with its meaning; the
    method's `resolve` turns them into numbers. `auto` maps the training images, uint8 (N, C, H, W), a seed
    and the highest sampled noise level to a range with `low` and `high`; `auto_meaning` says so in words.
    `absent` is what rows of methods without this parameter hold. `schedule` are the steps that noise levels
    come in, in a sweep whose network knows such steps alone.
    """

    name: str
    label: str
    description: str
    kind: Literal["level", "share", "number"] = "number"
    default: Any = None
    log: bool = False
    limits: tuple[float, float] = (-math.inf, math.inf)
    words: Mapping[str, str] = field(default_factory=dict)
    unit: str = ""
    plain: str = ""
    phrase: str = "{label} {value}"
    absent: float = 0.0
    auto_meaning: str = ""
    schedule: Schedule | None = None
    auto: Callable[[Any, int, float], Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """A declaration that was read from a table has no code: that auto means something is in its words."""
        if self.auto is not None and not self.auto_meaning:
            object.__setattr__(self, "auto_meaning", "set from the training images")

    @property
    def bounds(self) -> tuple[float, float]:
        """What a value must lie strictly between."""
        return {"level": (0.0, math.inf), "share": (0.0, 1.0)}.get(self.kind, self.limits)

    @property
    def terminal_label(self) -> str:
        """The label in plain letters."""
        return self.plain or self.name

    def steps(self, *values: float) -> str:
        """The schedule's steps of noise levels: `step 25`, `steps 25 to 100`; empty without a schedule."""
        known = self.schedule is not None and self.kind == "level" and min(values) > 0
        return self.schedule.words(*values) if known and self.schedule else ""

    def at_step(self, *values: float) -> str:
        """What stands behind noise levels that have steps: ` (step 25)`; else nothing."""
        words = self.steps(*values)
        return f" ({words})" if words else ""


@dataclass(frozen=True)
class Objective:
    """A figure that trials are judged by: a column, an axis, an MLflow metric.

    The hypervolume ends at a reference point that lies `slack` times as far from `ideal`, the value of a
    perfect model, as DDPM's mean does. `noise` says how a repeated training scatters: `normal`, or as the
    share of the samples that count (`share`). Where `constraint`, the policy match-ddpm holds it to DDPM's
    level; the others it improves. A figure that is worse than DDPM's by no more than `tolerance`, a share of
    DDPM's, counts as no worse, also where DDPM's noise is smaller. `predictors` are further columns that help
    to extrapolate it from an earlier rung. `caption` are a few words below its name. `measure` maps
    `evaluation.trial.MeasuredSamples` to the figure, or to the figure and its standard error; None in a
    declaration read from a table.
    """

    name: str
    label: str
    description: str
    direction: Literal["min", "max"] = "min"
    kind: Literal["number", "share"] = "number"
    ideal: float = 0.0
    slack: float = 1.0
    noise: Literal["normal", "share"] = "normal"
    constraint: bool = True
    tolerance: float = 0.0
    predictors: tuple[str, ...] = ()
    caption: str = ""
    measure: Callable[[Any], float | tuple[float, float]] | None = field(default=None, compare=False)

    @property
    def sign(self) -> float:
        """1 where it is minimised, -1 where it is maximised: their product with a figure is minimised."""
        return 1.0 if self.direction == "min" else -1.0

    @property
    def limits(self) -> tuple[float, float]:
        """What no figure lies beyond: shares 0 and 1, others the ideal."""
        if self.kind == "share":
            return 0.0, 1.0
        return (self.ideal, math.inf) if self.direction == "min" else (-math.inf, self.ideal)

    def text(self, value: float) -> str:
        """A figure in plain letters, as terminals and sentences have it: shares to three places, others to
        four digits."""
        return format(value, ".3f" if self.kind == "share" else ".4g")

    @property
    def error_column(self) -> str:
        """The column of its standard error over sets of samples of the same model."""
        return f"{self.name}_se"


@dataclass(frozen=True)
class MethodInfo:
    """What is known of a training method without its code.

    `constants` are what its rows hold of other methods' parameters, where that is not their `absent`.
    `recommended`: recommendations may come from it; otherwise it only takes part in the frontier. `control`
    names the method that is trained beside its confirming trainings, at the same parameters; empty: none.
    """

    name: str
    label: str
    description: str
    color: str = ""
    parameters: tuple[Parameter, ...] = ()
    constants: Mapping[str, float] = field(default_factory=dict)
    recommended: bool = True
    control: str = ""

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)


@dataclass(frozen=True)
class Declared:
    """The methods and objectives of a sweep, by name."""

    methods: Mapping[str, MethodInfo]
    objectives: Mapping[str, Objective]

    def __post_init__(self) -> None:
        """Raise UserError when two methods declare different parameters of one name, or a control is none."""
        known: dict[str, Parameter] = {}
        for method in self.methods.values():
            for parameter in method.parameters:
                if known.setdefault(parameter.name, parameter) != parameter:
                    raise UserError(
                        f"method {method.name}: another method declares {parameter.name} otherwise"
                    )
            if method.control:
                self._check_control(method)

    def _check_control(self, method: MethodInfo) -> None:
        """Raise UserError where a method's control cannot be trained at its parameters."""
        control, why = self.methods.get(method.control), ""
        if control is None:
            why = "is not declared"
        elif control.name in (method.name, BASELINE):
            why = "is the method itself, or the baseline"
        elif further := set(control.parameter_names) - set(method.parameter_names):
            why = f"has a parameter of its own, {min(further)}"
        if why:
            raise UserError(
                f"method {method.name}: its control '{method.control:.64}' {why}; name another, or none"
            )

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Every parameter of a method, by name, in the order of the methods."""
        return {
            parameter.name: parameter for method in self.methods.values() for parameter in method.parameters
        }

    @property
    def predictors(self) -> list[str]:
        """The columns that help to extrapolate the objectives, and are none."""
        named = [name for objective in self.objectives.values() for name in objective.predictors]
        return [name for name in dict.fromkeys(named) if name not in self.objectives]

    @property
    def reported(self) -> list[str]:
        """What a search is told of a trial at each rung: its objectives, then their predictors."""
        return [*self.objectives, *self.predictors]

    def judged_by(self, objectives: Iterable[str]) -> "Declared":
        """The same methods with these objectives, in this order. KeyError for one that is not declared."""
        return Declared(self.methods, {name: self.objectives[name] for name in objectives})

    def training(self, methods: Iterable[str]) -> "Declared":
        """The same with these methods alone: a table has columns of what they declare."""
        return replace(self, methods={name: self.methods[name] for name in methods})

    def in_steps(self, schedule: Schedule | None) -> "Declared":
        """The same with the steps of a network's schedule beside noise levels, where it has one."""
        methods = {
            name: replace(
                method,
                parameters=tuple(
                    replace(parameter, schedule=schedule) if parameter.kind == "level" else parameter
                    for parameter in method.parameters
                ),
            )
            for name, method in self.methods.items()
        }
        return replace(self, methods=methods)

    def method(self, name: str) -> MethodInfo:
        """A method by name; one that is not known has its name for a label and no parameters."""
        return self.methods.get(name) or MethodInfo(name, name, "")

    def columns_of(self, method: str, values: Mapping[str, float]) -> dict[str, float]:
        """All parameter columns of a trial's row: its own `values`, and what stands for those of others."""
        given = {**self.method(method).constants, **values}
        return {name: given.get(name, parameter.absent) for name, parameter in self.parameters.items()}

    def describe(self, method: str, values: Mapping[str, Any]) -> str:
        """What was chosen for a trial, in plain letters: `sigma_tn 0.3, mix ratio 0.5`; empty for DDPM."""
        chosen = self.method(method).parameters
        return ", ".join(
            f"{p.terminal_label} {values[p.name]:.3g}{p.at_step(values[p.name])}" for p in chosen
        )

    def in_words(self, method: str, values: Mapping[str, Any]) -> str:
        """What is known to be chosen for a trial, within a sentence: `sigma_tn 0.3 and mix ratio 0.50`."""
        specs = {"share": ".2f", "level": ".3g", "number": ".3g"}
        chosen = [parameter for parameter in self.method(method).parameters if parameter.name in values]
        return " and ".join(
            f"{p.terminal_label} {values[p.name]:{specs[p.kind]}}{p.at_step(values[p.name])}" for p in chosen
        )

    def to_json(self) -> dict[str, Any]:
        """The declarations without code, as plain data."""
        return {
            "methods": [_plain(method) for method in self.methods.values()],
            "objectives": [_plain(objective) for objective in self.objectives.values()],
        }

    @classmethod
    def from_json(cls, values: Any) -> "Declared":
        """What `to_json` wrote, here or in another version: what is not known is left out.

        Raises ValueError or UserError, on one line, for anything else.
        """
        if not isinstance(values, Mapping):
            raise ValueError("its declarations are no mapping")
        methods = [_declaration(MethodInfo, entry) for entry in _entries(values, "methods")]
        objectives = [_declaration(Objective, entry) for entry in _entries(values, "objectives")]
        declared = cls({method.name: method for method in methods}, {o.name: o for o in objectives})
        names = [*(method.name for method in methods), *declared.parameters, *(o.name for o in objectives)]
        for name in names:
            if not _NAME.fullmatch(name) or names.count(name) > 1:
                raise ValueError(f"its declarations name {name!r:.80}, or name it twice")
        if not {"fid", "memorization"} <= declared.objectives.keys():
            raise ValueError("its declarations lack the objective fid or memorization")
        return declared


_CODE = {"auto", "measure"}
"""Fields of a declaration that no file holds."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")

_MOST = 100
"""Entries of a list of declarations, at most."""


def _entries(values: Mapping[str, Any], key: str) -> Sequence[Any]:
    found = values.get(key, ())
    if not isinstance(found, (list, tuple)) or len(found) > _MOST:
        raise ValueError(f"its declarations have no list of at most {_MOST} {key}")
    return found


def _declaration(kind: type[D], values: Any) -> D:
    """The fields of `kind` among `values`, as it has them. ValueError where one is something else."""
    if not isinstance(values, Mapping):
        raise ValueError(f"its declarations hold {values!r:.80} in the place of a mapping")
    known = {e.name: values[e.name] for e in fields(kind) if e.name in values and e.name not in _CODE}  # type: ignore[arg-type]
    if kind is MethodInfo:
        known["parameters"] = tuple(_declaration(Parameter, each) for each in _entries(values, "parameters"))
    if "limits" in known:
        known["limits"] = _limits(known["limits"])
    try:
        found: D = _adapter(kind).validate_python(known)  # type: ignore[arg-type]
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise ValueError(f"its declarations, {place}: {problem['msg']}") from error
    _check_numbers(found)
    return found


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    """It takes longer to make than a table to read."""
    return TypeAdapter(kind)


def _limits(values: Any) -> tuple[Any, Any]:
    """Where a parameter lies; JSON knows no infinity and has null instead."""
    if not isinstance(values, (list, tuple)) or len(values) != 2:
        raise ValueError(f"its declarations, limits: {values!r:.80} are no two numbers")
    low, high = values
    return -math.inf if low is None else low, math.inf if high is None else high


def _check_numbers(found: Any) -> None:
    """Raise ValueError for a number that nothing can be measured by."""
    if isinstance(found, Parameter) and not (found.bounds[0] < found.bounds[1] and abs(found.absent) < 1e30):
        raise ValueError(f"its declarations, {found.name:.80}: no range of numbers")
    if isinstance(found, Objective) and not 0 <= found.tolerance < 1:
        raise ValueError(f"its declarations, {found.name:.80}: the tolerance is no share below 1")
    if isinstance(found, Objective) and not (abs(found.ideal) < 1e30 and 0 < found.slack < 1e30):
        raise ValueError(f"its declarations, {found.name:.80}: ideal or slack is no number to measure by")
    if isinstance(found, MethodInfo) and not all(abs(value) < 1e30 for value in found.constants.values()):
        raise ValueError(f"its declarations, {found.name:.80}: a constant is no number to measure by")


def _plain(declaration: Any) -> Any:
    """A declaration as JSON has it: no functions, no infinities."""
    if isinstance(declaration, (Parameter, Objective, MethodInfo, Schedule)):
        return {
            entry.name: _plain(getattr(declaration, entry.name))
            for entry in fields(declaration)
            if entry.name not in _CODE
        }
    if isinstance(declaration, Mapping):
        return {str(key): _plain(value) for key, value in declaration.items()}
    if isinstance(declaration, (tuple, list)):
        return [_plain(value) for value in declaration]
    return None if isinstance(declaration, float) and math.isinf(declaration) else declaration
