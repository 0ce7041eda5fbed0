"""Write docs/reference.md: every sweep key and every results column."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from pareto_amb.config import SpaceConfig, SweepConfig
from pareto_amb.config_file import models_in
from pareto_amb.declared import Declared
from pareto_amb.explain import describe_parameter, explain_columns
from pareto_amb.results.table import shipped

PAGE = """# Every sweep key, every results column

`python docs/reference.py` writes this page. `pareto-amb spaces NAME --explain` prints the same for one sweep,
`pareto-amb spaces --schema` a JSON schema with which editors complete a sweep file.

## Keys of a sweep file

| key | default | meaning |
|---|---|---|
{keys}

## Columns of results.parquet

Further float columns may follow: `memorization_at_T` and `heldout_memorization_at_T`, the shares above each
threshold T, `heldout_images`, how many held-out images such figures rest on, and `NAME_se`, the standard
error of an objective. Each field of the file carries its description as metadata.

| column | type | meaning |
|---|---|---|
{columns}
"""


def reference() -> str:
    """The page."""
    declared = shipped()
    keys: dict[str, str] = {}
    for key, default, about in _keys(SweepConfig, declared):
        keys.setdefault(key, f"| `{key}` | {default} | {about} |")  # of kinds that share a key, the default's
    columns = [f"| `{name}` | {kind} | {about} |" for name, kind, about in explain_columns(declared)]
    return PAGE.format(keys="\n".join(keys.values()), columns="\n".join(columns))


def _keys(model: type[BaseModel], declared: Declared, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(key, default, meaning) of every key below `prefix`."""
    for name, field in model.model_fields.items():
        if sections := models_in(field.annotation):
            for section in sections:
                yield from _keys(section, declared, f"{prefix}{name}.")
        else:
            default = "" if field.is_required() else _shown(field.get_default(call_default_factory=True))
            yield f"{prefix}{name}", default, field.description or ""
    if model is SpaceConfig:
        for parameter in declared.parameters.values():
            yield f"{prefix}{parameter.name}", _shown(parameter.default), describe_parameter(parameter)


def _shown(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return f"`{yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=1000).splitlines()[0]}`"


if __name__ == "__main__":
    page = Path(__file__).with_suffix(".md")
    page.write_text(reference(), encoding="utf-8")
    print(page)
