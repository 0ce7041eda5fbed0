"""A program's own methods and objectives, taken along to workers that cannot import them."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from ray import cloudpickle

from pareto_amb.declared import Declared
from pareto_amb.diffusion.methods import Method
from pareto_amb.errors import UserError


@contextmanager
def travelling(methods: Mapping[str, type[Method]], declared: Declared) -> Iterator[None]:
    """Send what is not of this package by value for the length of the block.

    It may be defined in a script, a notebook or a test, which no worker can import.
    """
    modules = [sys.modules[name] for name in sorted(_homes(methods, declared)) if name in sys.modules]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def check_travels(methods: Mapping[str, type[Method]], declared: Declared) -> None:
    """Raise UserError when own code cannot be sent to workers."""
    with travelling(methods, declared):
        try:
            cloudpickle.dumps((dict(methods), declared))
        except Exception as error:  # what an object raises that cannot be pickled is its own affair
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"own methods and objectives cannot be sent to workers: {reason}") from error


def _homes(methods: Mapping[str, type[Method]], declared: Declared) -> set[str]:
    """The modules that a program's own methods, their bases and its functions are defined in."""
    code: list[Any] = [base for method in methods.values() for base in method.__mro__]
    code += [objective.measure for objective in declared.objectives.values()]
    code += [parameter.auto for parameter in declared.parameters.values()]
    names = {str(getattr(_innermost(part), "__module__", "")) for part in code if part is not None}
    ours = {"pareto_amb", "__main__", "", *sys.stdlib_module_names}
    return {name for name in names if name.partition(".")[0] not in ours}


def _innermost(function: Any) -> Any:
    """The function that a functools.partial calls in the end."""
    while isinstance(function, partial):
        function = function.func
    return function
