"""What every key of a sweep file and every column of a results table means: for people, and for editors."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from pareto_amb.config import Range, SweepConfig
from pareto_amb.core_yaml import dump_yaml
from pareto_amb.declared import Declared, Parameter
from pareto_amb.results.table import columns

WIDTH = 100


def explain_sweep(config: SweepConfig, declared: Declared) -> str:
    """The sweep file with every default written out and each key explained, itself a sweep file."""
    return "\n".join(_explained(config, declared, "")) + "\n"


def _explained(model: BaseModel, declared: Declared, indent: str) -> Iterator[str]:
    for name, value in model:
        about = _describe(type(model), name, value, declared)
        yield from _comment(about, indent)
        if isinstance(value, BaseModel) and not isinstance(value, Range):
            yield f"{indent}{name}:"
            yield from _explained(value, declared, f"{indent}  ")
        else:
            plain = model.model_dump(mode="json")[name]
            flow = None if isinstance(plain, (list, dict)) else False
            text = dump_yaml({name: plain}, flow, width=10**6)
            yield from (f"{indent}{line}" for line in text.splitlines())
        if not indent:
            yield ""


def _describe(model: type[BaseModel], name: str, value: Any, declared: Declared) -> str:
    """What a key is for: the description of a value, the first line of a section's own docstring."""
    if name not in model.model_fields:
        return describe_parameter(declared.parameters[name])
    if isinstance(value, BaseModel):
        return (type(value).__doc__ or "").strip().partition("\n")[0]
    return model.model_fields[name].description or ""


def describe_parameter(parameter: Parameter) -> str:
    """What a parameter is, and what its words mean."""
    words = "".join(f"; {word}: {meaning}" for word, meaning in parameter.words.items())
    auto = f"; auto: {parameter.auto_meaning}" if parameter.auto_meaning else ""
    return f"{parameter.description}{words}{auto}"


def _comment(text: str, indent: str) -> Iterator[str]:
    line = ""
    for word in text.split():
        if line and len(indent) + len(line) + len(word) + 3 > WIDTH:
            yield f"{indent}# {line}"
            line = ""
        line = f"{line} {word}".strip()
    if line:
        yield f"{indent}# {line}"


def explain_columns(declared: Declared) -> list[tuple[str, str, str]]:
    """(name, type, meaning) of every column that each row of a results table has."""
    return [(c.name, c.dtype, c.description) for c in columns(declared).values()]


def sweep_schema(declared: Declared) -> dict[str, Any]:
    """The JSON schema of a sweep file, with which editors complete and check one."""
    schema = SweepConfig.model_json_schema()
    keys = {"type": "object", "description": "values by the paths of their keys: training.images"}
    schema["properties"]["recipes"] = {
        "type": "object",
        "description": "readings of this file, by name; `recipe` and --recipe choose the one that is applied",
        "additionalProperties": keys,
    }
    space = schema["$defs"]["SpaceConfig"]
    space["additionalProperties"] = False
    for parameter in declared.parameters.values():
        space["properties"][parameter.name] = {
            "description": describe_parameter(parameter),
            "default": parameter.default,
            "anyOf": list(_searched_schema(parameter)),
        }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _searched_schema(parameter: Parameter) -> Iterator[dict[str, Any]]:
    choice = {"anyOf": [{"type": "number"}, {"enum": list(parameter.words)}]}
    yield from ({"$ref": "#/$defs/Range"}, {"type": "array", "items": choice, "minItems": 1}, choice)
    if parameter.auto_meaning:
        yield {"const": "auto"}
        yield {"type": "object", "additionalProperties": {"$ref": "#/$defs/AutoRange"}}
