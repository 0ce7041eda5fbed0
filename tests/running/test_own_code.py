"""A program's own methods and objectives reach workers that cannot import them."""

import importlib.util
import pickle
import sys
import threading
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from ray import cloudpickle

from pareto_amb.declared import Declared, Objective
from pareto_amb.diffusion.methods import METHODS, Algorithm1
from pareto_amb.errors import UserError
from pareto_amb.evaluation.objectives import FID
from pareto_amb.running.own_code import check_travels, travelling

SOURCE = """
from pareto_amb.diffusion.methods import Algorithm1

LEVEL = 0.25

class Own(Algorithm1):
    name = "own"

    @staticmethod
    def level():
        return LEVEL

def measure(samples):
    return LEVEL * len(samples)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that is loaded here and lies on no path."""
    path = tmp_path / "own_program.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("own_program", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "own_program", module)
    spec.loader.exec_module(module)
    return module


def test_own_code_is_sent_by_value_and_only_during_the_sweep(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Objective("own", "own", "", measure=program.measure)
    declared = Declared({}, {"fid": FID, "own": own})
    with travelling({**METHODS, "own": program.Own}, declared):
        sent = cloudpickle.dumps((program.Own, declared, Algorithm1))
    after = cloudpickle.dumps(program.Own)

    monkeypatch.delitem(sys.modules, "own_program")  # as on a worker
    method, arrived, shipped = pickle.loads(sent)
    assert method.level() == 0.25
    assert issubclass(method, Algorithm1)
    assert arrived.objectives["own"].measure("abcd") == 1.0
    assert arrived.objectives["fid"].measure is FID.measure
    assert shipped is Algorithm1
    with pytest.raises(ModuleNotFoundError):
        pickle.loads(after)


def test_a_partial_takes_the_module_of_its_function_along(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = Declared({}, {"own": Objective("own", "own", "", measure=partial(program.measure))})
    with travelling(METHODS, declared):
        sent = cloudpickle.dumps(declared)
    monkeypatch.delitem(sys.modules, "own_program")
    assert pickle.loads(sent).objectives["own"].measure("abcd") == 1.0


def test_code_that_cannot_be_sent_is_refused_in_one_line() -> None:
    lock = threading.Lock()
    declared = Declared({}, {"own": Objective("own", "own", "", measure=lambda samples: lock.locked() * 1.0)})
    with pytest.raises(UserError, match=r"own methods and objectives cannot be sent to workers: .*lock"):
        check_travels(METHODS, declared)
