from pathlib import Path

import pytest
import yaml

from pareto_amb import search_spaces
from pareto_amb.config_file import apply_overrides
from pareto_amb.diffusion.methods.algorithm1 import SIGMA_TN
from pareto_amb.errors import UserError
from pareto_amb.results.cautions import range_caution
from pareto_amb.results.recommendation_file import load_entry, training_block
from pareto_amb.sweep_file import parse_sweep, parse_training


@pytest.mark.parametrize(
    ("sigma_tn", "end"),
    [(0.1, "low"), (0.115, "low"), (0.12, ""), (1.0, ""), (1.7, ""), (1.75, "high"), (2.0, "high")],
)
def test_a_recommendation_at_an_end_of_the_range_says_which_key_to_move(sigma_tn: float, end: str) -> None:
    config = parse_sweep(search_spaces.load("smoke"), "smoke")  # searches 0.1 to 2
    caution = range_caution(SIGMA_TN, config.space.searched("sigma_tn", 50), sigma_tn)
    assert (f"move space.sigma_tn.{end}" in caution) if end else caution == ""


def test_at_an_end_of_the_range_that_auto_set_the_caution_asks_for_a_range() -> None:
    ranges = "space.sigma_tn={50: {low: 0.02, high: 0.8, collapse_level: 1.0}}"
    config = parse_sweep(apply_overrides(search_spaces.load("smoke"), [ranges]), "smoke")
    searched = config.space.searched("sigma_tn", 50)
    low = range_caution(SIGMA_TN, searched, 0.0205)
    assert "0.02 to 0.8; replace space.sigma_tn: auto by a range with a lower low end" in low
    assert "with a higher high end" in range_caution(SIGMA_TN, searched, 0.79)
    assert range_caution(SIGMA_TN, searched, 0.1) == ""


def test_at_an_end_of_listed_values_the_caution_asks_for_further_ones() -> None:
    listed = (0.4, 2.0, 0.1)
    assert range_caution(SIGMA_TN, listed, 0.4) == ""
    low = range_caution(SIGMA_TN, listed, 0.1)
    assert "the low end of the listed values 0.1 to 2; list lower ones in space.sigma_tn" in low
    assert "list higher ones" in range_caution(SIGMA_TN, listed, 2.0)
    assert range_caution(SIGMA_TN, (0.4,), 0.4) == range_caution(SIGMA_TN, (), 0.4) == ""


@pytest.mark.parametrize("size", [[1], {}, "50", None, 1.5])
def test_a_train_size_that_is_none_is_named(tmp_path: Path, size: object) -> None:
    path = tmp_path / "recommendation.yaml"
    path.write_text(yaml.safe_dump({"recommendations": [{"train_size": size, "training": {}}]}))
    with pytest.raises(UserError, match="key 'train_size' of a recommendation"):
        training_block(load_entry(path, None), path)


def test_a_training_block_of_an_older_version_takes_parameters_by_either_key(tmp_path: Path) -> None:
    old = {"data": {"source": "digits"}, "sigma_tn": 0.7, "mix_ratio": 0.5, "seed": 0, "training": {}}
    path = tmp_path / "recommendation.yaml"
    path.write_text(yaml.safe_dump({"recommendations": [{"train_size": 50, "training": old}]}))
    block = training_block(load_entry(path, None), path)
    assert parse_training(block, "old").parameters == {"sigma_tn": 0.7, "mix_ratio": 0.5}
    for key in ("sigma_tn", "parameters.sigma_tn"):
        changed = parse_training(apply_overrides(block, [f"{key}=0.2"]), "changed")
        assert changed.parameters == {"sigma_tn": 0.2, "mix_ratio": 0.5}
    other = apply_overrides(block, ["method=masking", "parameters={corruption: 0.5}"])
    assert parse_training(other, "other").parameters == {"corruption": 0.5}
