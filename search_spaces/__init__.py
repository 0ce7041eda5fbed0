"""The sweeps that ship with pareto-amb: one YAML file each, and the loader that finds them by name.

A sweep file may hold `recipes`: readings of what it stands for, each a mapping from key paths to values. One
of them is applied when the file is loaded, `recipe` being its name from then on.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from pareto_amb.config import nearest
from pareto_amb.config_file import apply_changes, read_yaml
from pareto_amb.core_yaml import dump_yaml, load_yaml
from pareto_amb.errors import UserError
from pareto_amb.printable import printable


def names() -> list[str]:
    """The names of the search spaces that ship with the package, sorted."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in files(__name__).iterdir()
        if entry.name.endswith(".yaml")
    )


def load(name_or_path: str, recipe: str | None = None) -> dict[str, Any]:
    """Read a search space by name, or a sweep file by its path (it ends in .yaml or .yml).

    Its `recipe` is applied, where it has recipes: see `with_recipe`. Raises UserError for an unknown name,
    with the nearest known one, for an unreadable file, and for a recipe that it has not.
    """
    return with_recipe(_read(name_or_path), recipe, name_or_path)


def _read(name_or_path: str) -> dict[str, Any]:
    if name_or_path.endswith((".yaml", ".yml")):
        return read_yaml(Path(name_or_path))
    if name_or_path not in names():
        hint = nearest(name_or_path, names())
        raise UserError(f"unknown search space '{name_or_path}': {hint} (or give a .yaml file)")
    text = files(__name__).joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = load_yaml(text)
    return loaded


def with_recipe(values: Mapping[str, Any], recipe: str | None, origin: str) -> dict[str, Any]:
    """The content of a sweep file with one of its `recipes` applied, that of its own `recipe` by default.

    The result has no `recipes`, and names the one applied as its `recipe`. A file without recipes stays as
    it is. Raises UserError, beginning with `origin`, for a recipe that is not there.
    """
    recipes = _recipes(values, origin)
    if not recipes:
        if recipe is not None:
            raise UserError(f"{origin}: has no recipes; leave out the recipe {_shown(recipe)}")
        return dict(values)
    chosen = values.get("recipe") if recipe is None else recipe
    if chosen is None:
        raise UserError(f"{origin}: recipe is missing; set it to one of {', '.join(recipes)}")
    if not isinstance(chosen, str) or chosen not in recipes:
        raise UserError(f"{origin}: unknown recipe {_shown(chosen)}: {nearest(str(chosen), recipes)}")
    rest = {key: value for key, value in values.items() if key != "recipes"}
    return {**apply_changes(rest, recipes[chosen]), "recipe": chosen}


def titled(values: Mapping[str, Any], name_or_path: str, name: str | None = None) -> dict[str, Any]:
    """A sweep under the `name` that is wanted; one that ships, of other images, under that of these.

    The description of a space that ships is of its own images, or of how to name some: it does not stand for
    others. It stays where the space says what its images are, wherever they lie (`data.origin`), and so does
    what a sweep file of somebody's own says of itself.
    """
    found = dict(values)
    if name_or_path in names():
        shipped = _read(name_or_path)
        data, before = found.get("data"), shipped["data"]
        if isinstance(data, Mapping) and not before.get("origin") and _other_images(data, before):
            found["description"] = "" if _same(found, shipped, "description") else found["description"]
            if _same(found, shipped, "name"):
                found["name"] = _name_of(str(data.get("path") or data.get("source"))) or found["name"]
    return found if name is None else {**found, "name": name}


def _same(values: Mapping[str, Any], shipped: Mapping[str, Any], key: str) -> bool:
    return bool(values.get(key) == shipped[key])


def _other_images(data: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    return any(data.get(key) != before.get(key) for key in ("source", "path"))


def _name_of(path: str) -> str:
    """A name for a sweep of the images at a path, empty where there is none in it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).stem).strip("-._")[:64]


def describe_recipe(chosen: str | None, name_or_path: str | None) -> list[str]:
    """Lines on the recipe of a sweep and what the others of its space set; none where it has no recipe."""
    if chosen is None:
        return []
    recipes = {} if name_or_path is None else _recipes(_read(name_or_path), name_or_path)
    others = {name: changes for name, changes in recipes.items() if name != chosen}
    lines = [f"recipe: {chosen}", *(f"  --recipe {name}: {_flow(others[name])}" for name in others)]
    return [printable(line) for line in lines]


def _recipes(values: Mapping[str, Any], origin: str) -> dict[str, Mapping[str, Any]]:
    """The recipes of a sweep file, by name; none where it has none."""
    recipes = values.get("recipes")
    if recipes is None:
        return {}
    if not isinstance(recipes, Mapping):
        raise UserError(f"{origin}: recipes: expected names, each with keys such as training.images")
    for name, changes in recipes.items():
        if not isinstance(changes, Mapping):
            raise UserError(f"{origin}: recipes.{name!s:.40}: expected keys such as training.images")
    return {str(name): changes for name, changes in recipes.items()}


def _flow(changes: Mapping[str, Any]) -> str:
    return dump_yaml(changes, flow=True, width=10**6).strip()


def _shown(recipe: object) -> str:
    return printable(f"'{recipe!s:.40}'")
