"""Files of configurations: reading, overriding, validating, writing.

A file that names an unknown key or an impossible value is refused with one line that names the key, what
is wrong with it and, for a misspelt key, the nearest one that exists.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from pareto_amb.config import nearest
from pareto_amb.core_yaml import dump_yaml, load_yaml, plain
from pareto_amb.errors import UserError
from pareto_amb.printable import printable, reason
from pareto_amb.reading import read_text
from pareto_amb.redaction import redact

MAX_FILE_BYTES = 1_000_000

M = TypeVar("M", bound=BaseModel)

_UNION_TAGS = {"auto", "range", "by_size", "choices", "lognormal", "uniform_time", "schedule"}
_UNION_TAGS |= {"full", "lora", "float", "str"}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping that a user handed in; `core_yaml` says what it may hold.

    Raises UserError when the file is missing, unreadable, no regular one, huge, not YAML or not a mapping.
    """
    text = read_text(path, MAX_FILE_BYTES)
    try:
        loaded = load_yaml(text)
    except ValueError as error:
        raise UserError(f"{printable(path)}: not a YAML file to be used ({reason(error)})") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{printable(path)}: holds no keys; expected a mapping such as 'name: digits'")
    return loaded


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return `values` with each `key.path=value` of `overrides` set; values are read as YAML.

    Raises UserError for an override that is not of that form.
    """
    return apply_changes(values, dict(_parse_overrides(overrides)))


def _parse_overrides(overrides: Iterable[str]) -> Iterator[tuple[str, Any]]:
    for override in overrides:
        shown = printable(f"--set {override:.200}")
        key, separator, text = override.partition("=")
        if not separator or not all(key.split(".")):
            raise UserError(f"{shown}: expected key=value, e.g. training.batch_size=32")
        try:
            yield key, load_yaml(text)
        except ValueError as error:
            raise UserError(f"{shown}: the value is not YAML to be used ({reason(error)})") from error


def apply_changes(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with the keys of `changes` set, each a path such as search.trials.

    Raises UserError where either is not what a file can hold.
    """
    result: dict[str, Any] = _plain(values, "the sweep")
    for key, value in _plain(changes, "changes").items():
        node = result
        *parents, leaf = key.split(".")
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        node[leaf] = value
    return result


def _plain(values: Any, origin: str) -> Any:
    try:
        return plain(values)
    except ValueError as error:
        raise UserError(f"{origin}: {reason(error)}") from error


def parse(
    model: type[M], values: Mapping[str, Any], origin: str, context: Mapping[str, Any] | None = None
) -> M:
    """Validate `values` against `model`, in a `context` of what is declared and registered.

    Raises UserError with one line that starts with `origin` and names the first offending key.
    """
    try:
        return model.model_validate(_plain(values, origin), context=context)
    except ValidationError as error:
        raise UserError(f"{origin}: {_first_problem(model, error)}") from error


def _first_problem(model: type[BaseModel], error: ValidationError) -> str:
    problem = error.errors()[0]
    *parents, last = problem["loc"] or ("",)
    location = [part for part in parents if part not in _UNION_TAGS]
    if last and (last not in _UNION_TAGS or problem["type"] == "extra_forbidden"):
        location.append(last)
    key = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        names = problem.get("ctx", {}).get("known") or _field_names(model, location[:-1])
        return f"unknown key '{key}': {nearest(str(location[-1]), (n for n in names if n != location[-1]))}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"key '{key}' is missing"
    got = problem.get("input")
    shown = "" if isinstance(got, (dict, BaseModel)) else f" (got {redact(repr(got)):.80})"
    return f"{key}: {message}{shown}" if key else f"{message}"


def _field_names(model: type[BaseModel], location: list[Any]) -> list[str]:
    """The keys that are known at `location`, below `model`."""
    models = [model]
    for part in (part for part in location if not str(part).isdecimal()):
        annotations = [_annotation_of(m, str(part)) for m in models]
        models = [found for annotation in annotations for found in models_in(annotation)]
    return sorted({name for found in models for name in found.model_fields})


def _annotation_of(model: type[BaseModel], key: str) -> Any:
    """The type of a key: of a field, or of all further keys where a model takes those."""
    if key in model.model_fields:
        return model.model_fields[key].annotation
    return model.__annotations__.get("__pydantic_extra__")


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models among the types that an annotation admits."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in models_in(part)]


def to_yaml(model: BaseModel) -> str:
    """Render a configuration with every default written out, in the order of its definition."""
    return dump_yaml(model.model_dump(mode="json"))
