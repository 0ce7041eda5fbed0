"""The sweeps that ship with pareto-amb: one YAML file each, and the loader that finds them by name."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from pareto_amb.config import nearest
from pareto_amb.config_file import read_yaml
from pareto_amb.core_yaml import load_yaml
from pareto_amb.errors import UserError


def names() -> list[str]:
    """The names of the search spaces that ship with the package, sorted."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in files(__name__).iterdir()
        if entry.name.endswith(".yaml")
    )


def load(name_or_path: str) -> dict[str, Any]:
    """Read a search space by name, or a sweep file by its path (it ends in .yaml or .yml).

    Raises UserError for an unknown name, with the nearest known one, and for an unreadable file.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        return read_yaml(Path(name_or_path))
    if name_or_path not in names():
        hint = nearest(name_or_path, names())
        raise UserError(f"unknown search space '{name_or_path}': {hint} (or give a .yaml file)")
    text = files(__name__).joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = load_yaml(text)
    return loaded
