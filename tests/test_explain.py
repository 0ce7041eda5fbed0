"""Every key and every column says what it is, to people and to editors."""

import json
import runpy
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from pareto_amb import config, search_spaces
from pareto_amb.cli import app
from pareto_amb.errors import UserError
from pareto_amb.explain import explain_columns, explain_sweep, sweep_schema
from pareto_amb.results.table import shipped
from pareto_amb.sweep_file import declare, parse_sweep

DECLARED = declare()


def models() -> Iterator[type[BaseModel]]:
    for found in vars(config).values():
        if isinstance(found, type) and issubclass(found, BaseModel) and found is not BaseModel:
            yield found


def test_every_key_has_a_description() -> None:
    for model in models():
        for name, field in model.model_fields.items():
            of_section = getattr(field.annotation, "__doc__", "") if "Config" in str(field.annotation) else ""
            assert field.description or of_section, f"{model.__name__}.{name}"
    assert all(parameter.description for parameter in DECLARED.parameters.values())
    assert all(method.description for method in DECLARED.methods.values())


def test_every_column_has_a_description() -> None:
    assert all(meaning for _, _, meaning in explain_columns(shipped()))


@pytest.mark.parametrize("name", search_spaces.names())
def test_an_explained_sweep_is_that_sweep(name: str) -> None:
    sweep = parse_sweep(search_spaces.load(name), name)
    text = explain_sweep(sweep, DECLARED)
    assert parse_sweep(yaml.safe_load(text), name) == sweep
    keys = [
        line.split(":")[0].strip() for line in text.splitlines() if line and not line.strip().startswith("#")
    ]
    assert {"sigma_tn", "mix_ratio", "candidates", "storage"} <= set(keys)


@pytest.mark.parametrize("name", search_spaces.names())
def test_the_schema_admits_what_ships_and_refuses_what_does_not_exist(name: str) -> None:
    schema = json.loads(json.dumps(sweep_schema(DECLARED)))
    jsonschema.Draft202012Validator.check_schema(schema)
    values = search_spaces.load(name)
    jsonschema.validate(values, schema)
    for wrong in ({"sigma": 1}, {"mix_ratio": "natrual"}, {"corruption": "auto"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**values, "space": {**values["space"], **wrong}}, schema)


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*arguments: str) -> str:
        app(["spaces", *arguments], standalone_mode=False)
        return capsys.readouterr().out

    explained = printed("digits", "--explain")
    assert parse_sweep(yaml.safe_load(explained), "explained").name == "digits"
    assert "#   memorization" in explained
    assert json.loads(printed("--schema"))["required"]
    assert yaml.safe_load(printed("smoke"))["sampling"]["rho"] == 7.0
    for wrong in (["--explain"], ["digits", "--schema"]):
        with pytest.raises(UserError):
            printed(*wrong)


def test_the_page_of_keys_and_columns_is_up_to_date() -> None:
    script = Path(__file__).parents[1] / "docs" / "reference.py"
    page = script.with_suffix(".md").read_text(encoding="utf-8")
    assert page == runpy.run_path(str(script))["reference"](), "run: python docs/reference.py"
