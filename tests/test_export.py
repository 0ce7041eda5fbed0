import pytest

import search_spaces
from pareto_amb.config import SweepConfig, parse
from pareto_amb.export import _range_caution


@pytest.mark.parametrize(
    ("sigma_tn", "end"),
    [(0.1, "low"), (0.115, "low"), (0.12, ""), (1.0, ""), (1.7, ""), (1.75, "high"), (2.0, "high")],
)
def test_a_recommendation_at_an_end_of_the_range_says_which_key_to_move(sigma_tn: float, end: str) -> None:
    config = parse(SweepConfig, search_spaces.load("smoke"), "smoke")  # searches 0.1 to 2
    caution = _range_caution(config, sigma_tn)
    assert (f"move space.sigma_tn.{end}" in caution) if end else caution == ""
