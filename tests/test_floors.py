"""The map's floors: imports point down, heavy libraries stay where they belong, a function fits on a page."""

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pareto_amb

PACKAGE = Path(pareto_amb.__file__).parent

FLOORS = [
    {
        "errors",
        "pretrained",
        "printable",
        "redaction",
        "credentials",
        "reading",
        "schedule",
        "storage",
        "object_store",
        "randomness",
        "signals",
        "terminal",
        "untrusted",
        "weights",
    }
    | {"environment", "notebook"},
    {"declared", "trial", "config", "config_file", "core_yaml", "needs"},
    {"data", "search_spaces"},
    {"diffusion"},
    {"evaluation", "sweep_file"},
    {"search", "theory", "audit"},
    {"results"},
    {"running", "trainables", "dashboards", "scanning", "production", "checking", "auditing", "anatomy"},
    {"interface", "explain", "commands", "cli", "__main__", "__init__"},
]
"""From the ground up: what lies in `pareto_amb`, a module or a package. Imports go down, or sideways."""

FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

SEES = {"search": {*FLOORS[0], *FLOORS[1]}, "theory": FLOORS[0]}
"""Rooms that may not use everything below them."""

LIBRARIES = {
    "ray": {"running", "trainables"},
    "mlflow": {"running"},
    "optuna": {"search", "running"},
    "torch": {"environment", "randomness", "data", "diffusion", "evaluation"}
    | {"running", "trainables", "scanning", "production", "checking", "anatomy"}
    | FLOORS[-1],
    "pandas": {"results", "running", "dashboards", "auditing"} | FLOORS[-1],
}
"""Which rooms may import a heavy library, be it inside a function."""

LONGEST_FUNCTION = 45
"""Lines of code from a function's first statement to its last, without the docstring."""


def name_of(path: Path) -> str:
    """The module in a file: `pareto_amb.data.files`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(["pareto_amb", *parts]).removesuffix(".__init__")


def read_package() -> dict[str, tuple[Path, ast.Module]]:
    """Every module of the package by name, also those behind a link: its file and its syntax tree."""
    paths = [
        Path(folder, file)
        for folder, _, files in os.walk(PACKAGE, followlinks=True)
        for file in files
        if file.endswith(".py")
    ]
    return {name_of(path): (path, ast.parse(path.read_text(encoding="utf-8"))) for path in sorted(paths)}


MODULES = read_package()


def room_of(module: str) -> str:
    """The part of the package that a module is in; `__init__` for the package itself."""
    return module.split(".")[1] if "." in module else "__init__"


def imports_of(module: str) -> Iterator[tuple[str, str]]:
    """What a module imports anywhere, also inside functions: where, `file:line`, and the imported module.

    `from package import name` imports `package.name` where that is a module.
    """
    path, tree = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            inner = [f"{origin}.{alias.name}" for alias in node.names]
            targets = [name if name in MODULES else origin for name in inner]
        else:
            continue
        for target in dict.fromkeys(targets):
            yield f"pareto_amb/{path.relative_to(PACKAGE)}:{node.lineno}", target


def within(module: str) -> Iterator[tuple[str, str]]:
    """What a module imports of the package: where, and which module."""
    for where, target in imports_of(module):
        if target.partition(".")[0] == "pareto_amb":
            yield where, target


def sideways() -> Iterator[tuple[str, str, str, str]]:
    """Imports from another room of the same floor: where, the room, the other room, and the module."""
    for module in MODULES:
        room = room_of(module)
        for where, target in within(module):
            there = room_of(target)
            if there != room and FLOOR[there] == FLOOR[room]:
                yield where, room, there, target


def test_every_room_has_a_floor() -> None:
    missing = sorted({room_of(module) for module in MODULES} - FLOOR.keys())
    assert missing == [], f"give these a floor in FLOORS: {missing}"


def test_imports_point_down() -> None:
    wrong = []
    for module in MODULES:
        room = room_of(module)
        for where, target in within(module):
            there = room_of(target)
            if there != room and (FLOOR[there] > FLOOR[room] or there not in SEES.get(room, {there})):
                wrong.append(f"{where}: {room} (floor {FLOOR[room]}) imports {target} (floor {FLOOR[there]})")
    assert wrong == [], "\n" + "\n".join(wrong)


def test_imports_on_one_floor_make_no_circle() -> None:
    behind: dict[str, set[str]] = {room: set() for room in FLOOR}
    for _, room, there, _ in sideways():
        behind[room].add(there)
    for between in behind:  # Warshall's transitive closure
        for seen in behind.values():
            if between in seen:
                seen |= behind[between]
    circles = [
        f"{where}: {room} imports {target}, and {there} needs {room}"
        for where, room, there, target in sideways()
        if room in behind[there]
    ]
    assert circles == [], "\n" + "\n".join(circles)


def test_no_room_imports_a_library_that_belongs_elsewhere() -> None:
    wrong = [
        f"{where}: {room_of(module)} imports {target}"
        for module in MODULES
        for where, target in imports_of(module)
        if room_of(module) not in LIBRARIES.get(target.partition(".")[0], {room_of(module)})
    ]
    assert wrong == [], "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("rooms", "forbidden"),
    [
        ({"errors", "terminal", "storage", "environment", "notebook", "weights"},
         {"torch", "ray", "optuna", "mlflow", "pandas"}),
        ({"declared", "trial", "config", "config_file", "needs", "search_spaces"},
         {"torch", "ray", "optuna", "mlflow", "pandas"}),
        ({"search"}, {"ray", "mlflow", "torch"}),
        ({"theory", "audit"}, {"torch", "ray", "mlflow", "optuna", "pandas"}),
        ({"results", "dashboards", "auditing"}, {"ray", "mlflow", "torch", "optuna"}),
        ({"randomness", "data", "diffusion", "evaluation", "sweep_file", "scanning"},
         {"ray", "mlflow", "optuna"}),
        ({"trainables"}, {"mlflow", "optuna", "scipy.stats"}),
    ],
    ids=["ground", "declared", "search", "theory", "reading", "images", "workers"],
)  # fmt: skip
def test_no_heavy_library_comes_along(rooms: set[str], forbidden: set[str]) -> None:
    modules = [module for module in MODULES if room_of(module) in rooms]
    assert {room_of(module) for module in modules} == rooms
    code = (
        f"import importlib, sys\nleft = {forbidden}\nfor module in {modules}:\n"
        "    importlib.import_module(module)\n"
        "    for library in sorted(left & set(sys.modules)):\n"
        "        print(f'{module} brings {library} along')\n"
        "        left.discard(library)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "", "\n" + done.stdout


@pytest.mark.parametrize(
    "statement",
    [
        "import pareto_amb",
        "sys.argv[1:] = ['--help']\ntry: runpy.run_module('pareto_amb', run_name='__main__')\n"
        "except SystemExit: pass",
    ],
)
def test_import_and_help_need_no_heavy_library(statement: str) -> None:
    heavy = "{'torch', 'ray', 'optuna', 'mlflow', 'pandas'}"
    code = f"import runpy, sys\n{statement}\nprint(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_a_package_offers_exists() -> None:
    for module, (_, tree) in MODULES.items():
        names = {target.id for node in tree.body if isinstance(node, ast.Assign)
                 for target in node.targets if isinstance(target, ast.Name)}  # fmt: skip
        if "__all__" in names:
            loaded = importlib.import_module(module)
            assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == [], module


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the last."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_a_function_is_at_most_a_page() -> None:
    long = [
        f"pareto_amb/{path.relative_to(PACKAGE)}:{node.lineno}: {node.name} has {code_lines(node)} lines"
        for path, tree in MODULES.values()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and code_lines(node) > LONGEST_FUNCTION
    ]
    assert long == [], "\n" + "\n".join(long)
