"""The interval of the main parameter, on tables whose best value is known."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pareto_amb import search_spaces
from pareto_amb.config import SweepConfig
from pareto_amb.config_file import apply_overrides
from pareto_amb.declared import MethodInfo
from pareto_amb.errors import UserError
from pareto_amb.results.policies import Candidates, make_policy
from pareto_amb.results.recommend import Recommendation, recommend
from pareto_amb.results.size import Results
from pareto_amb.results.table import shipped
from pareto_amb.sweep_file import parse_sweep

DECLARED = shipped()
LOW, HIGH = 0.1, 5.0
SAMPLES, TRAINING, SAMPLING = 1000, 2.0, 1.5
DDPM = (112.0, 0.42)


def config_of(
    searched: str = f"{{low: {LOW}, high: {HIGH}}}", mix: str = "{low: 0.2, high: 0.8}"
) -> SweepConfig:
    changes = ["space.train_size=[100]", f"space.sigma_tn={searched}", f"space.mix_ratio={mix}"]
    return parse_sweep(apply_overrides(search_spaces.load("smoke"), changes), "smoke")


CONFIG = config_of()


def true_figures(sigma: Any, mix: Any) -> tuple[Any, Any]:
    fid = 100 + 12 * np.log(sigma / 0.6) ** 2 + 20 * (mix - 0.5) ** 2
    return fid, 0.02 + 0.4 / (1 + (sigma / 0.4) ** 1.5)


def table(n: int, seed: int = 0, sigmas: Any = None) -> pd.DataFrame:
    """`n` trials evenly spread at random, and three seeds of DDPM, all measured with noise."""
    rng = np.random.default_rng(seed)
    if sigmas is None:
        sigmas = LOW * (HIGH / LOW) ** ((rng.permutation(n) + rng.random(n)) / n)
    mixes = rng.uniform(0.2, 0.8, n)
    rows = [("ddpm", 0.0, 0.0, *DDPM)] * 3
    rows += [("algorithm1", s, m, *true_figures(s, m)) for s, m in zip(sigmas, mixes, strict=True)]
    frame = pd.DataFrame(rows, columns=["method", "sigma_tn", "mix_ratio", "fid", "memorization"])
    return frame.assign(
        trial_id=[f"t{k}" for k in range(len(frame))], seed=0, train_size=100, corruption=0.0, budget=1.0,
        images_seen=1000, rung=1, n_samples=SAMPLES, heldout_memorization=0.01, status="complete",
        confirms="", controls="", branched_at=0,
        fid=frame.fid + rng.normal(0, np.hypot(TRAINING, SAMPLING), len(frame)), fid_se=SAMPLING,
        memorization=rng.binomial(SAMPLES, frame.memorization) / SAMPLES,
    )  # fmt: skip


def found_in(frame: pd.DataFrame, policy: str = "knee", config: SweepConfig = CONFIG) -> Recommendation:
    limit = 0.2 if policy == "max-memorization" else None
    return recommend(Results(frame, DECLARED).size(100), policy, limit, config)


def interval_of(found: Recommendation) -> tuple[float, float]:
    assert found.interval is not None
    return found.interval


def true_choice(policy: str, mix: float) -> float:
    """What the policy takes of the true figures, DDPM's true level and noise."""
    grid = np.geomspace(LOW, HIGH, 2001)
    copies = DDPM[1] + 2 * np.sqrt(DDPM[1] * (1 - DDPM[1]) / SAMPLES)
    worst = np.array([DDPM[0] + 2 * np.hypot(TRAINING, SAMPLING), copies])
    values = np.stack(true_figures(grid, mix), axis=1)
    limit = 0.2 if policy == "max-memorization" else None
    place = make_policy(policy, limit).pick(Candidates(values, worst, tuple(DECLARED.objectives.values())))
    assert place is not None
    return float(grid[place])


def width(interval: tuple[float, float]) -> float:
    return float(np.log(interval[1] / interval[0]) / np.log(HIGH / LOW))


@pytest.mark.parametrize("policy", ["match-ddpm", "knee", "max-memorization"])
def test_the_interval_covers_the_best_value_and_shrinks_with_more_trials(policy: str) -> None:
    """Of 40 replications at least 80% of those that the policy serves."""
    covered, widths = [], {6: list[float](), 12: list[float](), 30: list[float]()}
    for seed in range(40):
        n = (6, 12, 12, 30)[seed % 4]
        try:
            found = found_in(table(n, seed), policy)
        except UserError:
            continue
        low, high = interval_of(found)
        assert low < high
        assert found.sigma_tn is not None
        assert LOW <= low <= found.sigma_tn <= high <= HIGH
        covered.append(low <= true_choice(policy, found.parameters["mix_ratio"]) <= high)
        widths[n].append(width((low, high)))
    assert len(covered) > 30
    assert np.mean(covered) >= 0.8
    few, some, many = (float(np.median(found)) for found in widths.values())
    assert few > some > many
    assert many < 0.3


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_few_trials_leave_much_open(n: int) -> None:
    low, high = interval_of(found_in(table(n, seed=3, sigmas=[0.3, 0.6, 1.2][:n])))
    assert width((low, high)) > 0.4


def test_trials_at_one_place_do_not_make_it_certain() -> None:
    """Every redraw took the one value that was tried."""
    low, high = interval_of(found_in(table(4, sigmas=[0.5, 0.5, 0.5, 0.5])))
    assert width((low, high)) > 0.2


def test_it_is_the_same_every_time_and_quick() -> None:
    frame = table(100)
    started = time.process_time()
    found = found_in(frame)
    assert time.process_time() - started < 3  # a second on a free core, redraws of the front included
    assert found_in(frame).interval == found.interval


def test_choices_are_places_between_which_the_curve_runs() -> None:
    config = config_of("[0.2, 0.5, 1.0, 2.0]", "[0.5, natural]")
    found = found_in(table(8, sigmas=[0.2, 0.5, 1.0, 2.0] * 2), config=config)
    low, high = interval_of(found)
    assert 0.2 <= low < high <= 2.0
    alone = found_in(table(3, sigmas=[0.5] * 3), config=config_of("[0.5]"))
    assert alone.interval is None  # nothing was searched


def test_where_hardly_any_draw_admits_anything_that_is_said() -> None:
    frame = table(24)
    ours = frame.method == "algorithm1"
    bad = frame.assign(fid=frame.fid.where(~ours, 130.0))
    bad.loc[bad.index[ours][9], "fid"] = 116.0
    found = found_in(bad.assign(fid_se=4.0), "match-ddpm")
    assert found.served is not None
    assert found.served < 0.5
    assert "seldom-served" in {caution.word for caution in found.cautions}


def test_a_method_without_parameters_has_none() -> None:
    frame = table(3)
    bare = frame.assign(method=frame.method.replace("algorithm1", "bare"))
    declared = replace(DECLARED, methods={**DECLARED.methods, "bare": MethodInfo("bare", "Bare", "")})
    found = recommend(Results(bare, declared).size(100), "knee")
    assert found.interval is None
    assert found.tags()["method"] == "bare"
