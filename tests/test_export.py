import pytest

import search_spaces
from pareto_amb.config import SweepConfig, apply_overrides, parse
from pareto_amb.export import _range_caution


@pytest.mark.parametrize(
    ("sigma_tn", "end"),
    [(0.1, "low"), (0.115, "low"), (0.12, ""), (1.0, ""), (1.7, ""), (1.75, "high"), (2.0, "high")],
)
def test_a_recommendation_at_an_end_of_the_range_says_which_key_to_move(sigma_tn: float, end: str) -> None:
    config = parse(SweepConfig, search_spaces.load("smoke"), "smoke")  # searches 0.1 to 2
    caution = _range_caution(config, 50, sigma_tn)
    assert (f"move space.sigma_tn.{end}" in caution) if end else caution == ""


def test_at_an_end_of_the_range_that_auto_set_the_caution_asks_for_a_range() -> None:
    ranges = "space.sigma_tn={50: {low: 0.02, high: 0.8, collapse_level: 1.0}}"
    config = parse(SweepConfig, apply_overrides(search_spaces.load("smoke"), [ranges]), "smoke")
    assert "0.02 to 0.8; replace space.sigma_tn: auto by a range with a lower low end" in _range_caution(
        config, 50, 0.0205
    )
    assert "with a higher high end" in _range_caution(config, 50, 0.79)
    assert _range_caution(config, 50, 0.1) == ""
