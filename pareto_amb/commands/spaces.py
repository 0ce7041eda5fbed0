"""`spaces`: the sweeps that ship, and what every key of one means."""

import json
from typing import Annotated

import typer

from pareto_amb.commands.options import Recipe, complete_space
from pareto_amb.errors import UserError


def spaces(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE.yaml",
            help="Print it, every default written out.",
            autocompletion=complete_space,
        ),
    ] = None,
    recipe: Recipe = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what each key means, and each column of the results.")
    ] = False,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema", help="Print the JSON schema of sweep files, with which editors complete them."
        ),
    ] = False,
) -> None:
    """List the search spaces that ship with pareto-amb, or print one."""
    from pareto_amb import search_spaces

    if schema:
        _print_schema(name, explain)
    elif name is not None:
        _print_space(name, recipe, explain)
    elif explain or recipe is not None:
        raise UserError("--explain and --recipe need the name of a search space, such as digits")
    else:
        for each in search_spaces.names():
            print(f"{each:14} {search_spaces.load(each)['description']}")


def _print_schema(name: str | None, explain: bool) -> None:
    from pareto_amb.explain import sweep_schema
    from pareto_amb.sweep_file import declare

    if name is not None or explain:
        raise UserError("--schema is one for all search spaces: give no name and no --explain")
    print(json.dumps(sweep_schema(declare()), indent=2))


def _print_space(name: str, recipe: str | None, explain: bool) -> None:
    from pareto_amb import search_spaces
    from pareto_amb.config_file import to_yaml
    from pareto_amb.diffusion.methods import METHODS
    from pareto_amb.explain import explain_columns, explain_sweep
    from pareto_amb.sweep_file import declare, parse_sweep, trained_methods

    declared = declare()
    config = parse_sweep(search_spaces.load(name, recipe), name, declared)
    for line in search_spaces.describe_recipe(config.recipe, name):
        print(f"# {line}")
    if not explain:
        print(to_yaml(config), end="")
        return
    print(explain_sweep(config, declared))
    print("# The methods that search.methods may name; DDPM always competes:")
    for method in declared.methods.values():
        print(f"#   {method.name:24} {method.description}")
    print("# The columns of results.parquet:")
    recorded = declared.judged_by(config.search.objectives).training(trained_methods(config, METHODS))
    for column, kind, meaning in explain_columns(recorded):
        print(f"#   {column:24} {kind:8} {meaning}")
