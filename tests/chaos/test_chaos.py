"""A sweep that loses a worker and its driver at random moments, beside one that nothing disturbs."""

import importlib.util
import random
import sys
from pathlib import Path

import pandas as pd
import pytest

_SPEC = importlib.util.spec_from_file_location("chaos", Path(__file__).with_name("chaos.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
chaos = importlib.util.module_from_spec(_SPEC)
sys.modules["chaos"] = chaos
_SPEC.loader.exec_module(chaos)


def table(**changes: list[object]) -> pd.DataFrame:
    found = {
        "trial_id": ["a", "a", "b"],
        "rung": [1, 2, 1],
        "fid": [1.0, float("nan"), 3.0],
        "eval_seconds": 1.0,
    }
    return pd.DataFrame({**found, **changes})


def test_what_is_lost_repeated_or_otherwise_is_named() -> None:
    assert chaos.differences(table(eval_seconds=[5.0, 6.0, 7.0]), table()) == []
    assert chaos.differences(table(fid=[1.0, float("nan"), 4.0]), table()) == ["b 1 fid"]
    assert chaos.differences(table()[:2], table()) == ["b 1 left_only"]
    assert chaos.differences(table(), table()[1:]) == ["a 1 right_only"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds its victims by /proc")
def test_faults_at_random_moments_change_no_result(tmp_path: Path) -> None:
    for name in ("quiet", "disturbed"):
        (tmp_path / name).mkdir()
    wanted, seconds = chaos.quiet(tmp_path / "quiet")
    kinds = [("worker", "SIGKILL"), ("driver", "SIGKILL")]
    faults = list(chaos.disturbed(tmp_path / "disturbed", kinds, random.Random(0), seconds / 3))
    assert [(fault.victim, fault.signal) for fault in faults] == kinds
    found = pd.read_parquet(tmp_path / "disturbed" / "run" / "results.parquet")
    assert chaos.differences(found, wanted) == []
