"""The rungs of a resumed sweep are those that its rows were measured at."""

from pathlib import Path
from typing import Any

import pytest

from pareto_amb import search_spaces
from pareto_amb.config import SweepConfig
from pareto_amb.config_file import apply_overrides, to_yaml
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.errors import UserError
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.results.table import ResultsTable, shipped, trial_columns
from pareto_amb.running.state import SweepState
from pareto_amb.sweep_file import parse_sweep
from pareto_amb.trial import Trial

DECLARED = shipped()
TRIAL = Trial("n50-ddpm-s0", "ddpm", 50, 0)


def make_config(*changes: str) -> SweepConfig:
    return parse_sweep(apply_overrides(search_spaces.load("smoke"), changes), "smoke")


def begun(folder: Path, config: SweepConfig, rungs: int) -> RunDirectory:
    """A run of which the first rungs of DDPM were measured."""
    run = RunDirectory(folder)
    run.sweep.write_text(to_yaml(config))
    table = ResultsTable(run.results, DECLARED)
    for rung, images in enumerate(config.rung_images()[:rungs], 1):
        sampled: dict[str, Any] = {"n_samples": 0}
        if rung >= config.first_full_rung:
            sampled = {"n_samples": 5, "fid": 3.0, "memorization": 0.5}
        place = {"rung": rung, "images_seen": images, "budget": images / config.rung_images()[-1]}
        table.record({**trial_columns(TRIAL, DECLARED), **place, **sampled, "status": "running", "error": ""})
    return run


@pytest.mark.parametrize("rungs", [1, 2])
def test_a_trial_goes_on_after_the_rung_that_was_measured_last(tmp_path: Path, rungs: int) -> None:
    config = make_config("search.early_stopping=true")
    run = begun(tmp_path, config, rungs)
    state = SweepState.open(run, config, DECLARED, METHODS)
    handed = state.searcher.suggest("ray")
    assert isinstance(handed, dict)
    assert Trial.from_config(handed) == TRIAL.after(rungs)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ("evaluation.probes=[]", r"measured at 1,600 images seen, rung 1, which is at 6,400 now"),
        ("evaluation.probes=[0.25]", r"measured at 1,600 images seen, rung 1, which is at 3,200 now"),
        ("evaluation.rungs=[0.25,1]", r"measured at 6,400 images seen, rung 2, which is at 3,200 now"),
    ],
)
def test_rungs_that_the_rows_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, change: str, where: str
) -> None:
    run = begun(tmp_path, make_config(), 2)
    content = run.results.read_bytes()
    with pytest.raises(
        UserError, match=rf"^evaluation.rungs: trial n50-ddpm-s0 was {where}; restore"
    ) as caught:
        SweepState.foresee(run, make_config(change), DECLARED, METHODS)
    assert "\n" not in str(caught.value)
    assert run.results.read_bytes() == content


def test_a_rung_that_is_there_no_more_is_refused(tmp_path: Path) -> None:
    run = begun(tmp_path, make_config(), 3)
    shorter = make_config("training.images=6400", "evaluation.probes=[0.25]", "evaluation.rungs=[1.0]")
    with pytest.raises(UserError, match="measured at 12,800 images seen, rung 3, which is nowhere now"):
        SweepState.foresee(run, shorter, DECLARED, METHODS)


def test_a_sweep_of_a_version_without_probe_rungs_has_none(tmp_path: Path) -> None:
    run = begun(tmp_path, make_config("evaluation.probes=[]"), 2)
    lines = run.sweep.read_text().splitlines(keepends=True)
    run.sweep.write_text("".join(line for line in lines if "probes" not in line))
    assert "probes" not in run.sweep.read_text()
    config = run.config()
    assert config.first_full_rung == 1
    SweepState.foresee(run, config, DECLARED, METHODS)
