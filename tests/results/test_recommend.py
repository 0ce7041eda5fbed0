from typing import Literal

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pareto_amb.errors import UserError
from pareto_amb.results.recommend import recommend as recommend_of
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.size import Results, SizeResults
from pareto_amb.results.table import shipped

DECLARED = shipped()

DDPM = [(100.0, 0.60), (104.0, 0.62), (96.0, 0.58)]
# sigma_tn: (fid, memorization) at full budget
TRIALS = {
    0.05: (99.0, 0.59),
    0.1: (98.0, 0.40),
    0.2: (101.0, 0.30),
    0.4: (103.0, 0.20),
    0.8: (150.0, 0.05),
    1.6: (95.0, 0.61),
}


def size_of(frame: pd.DataFrame) -> SizeResults:
    if "confirms" not in frame:
        frame = frame.assign(confirms="")
    return Results(frame.fillna({"confirms": ""}).assign(controls="", branched_at=0), DECLARED).size(100)


def recommend(
    frame: pd.DataFrame,
    policy: str = "match-ddpm",
    limit: float | None = None,
    budget: Literal["any", "full"] = "any",
) -> Recommendation:
    return recommend_of(size_of(frame), policy, limit, budget=budget)


def cautions(found: Recommendation) -> dict[str, str]:
    return {caution.word: caution.sentence for caution in found.cautions}


def results(trials: dict[float, tuple[float, float]] = TRIALS) -> pd.DataFrame:
    rows = [
        {"trial_id": f"ddpm-{k}", "method": "ddpm", "sigma_tn": 0.0, "fid": f, "memorization": m}
        for k, (f, m) in enumerate(DDPM)
    ]
    rows += [
        {"trial_id": f"t{s}", "method": "algorithm1", "sigma_tn": s, "fid": f, "memorization": m}
        for s, (f, m) in trials.items()
    ]
    shared = {
        "train_size": 100,
        "mix_ratio": 0.5,
        "corruption": 0.0,
        "budget": 1.0,
        "images_seen": 1000,
        "n_samples": 500,
        "heldout_memorization": 0.01,
        "status": "complete",
    }
    return pd.DataFrame(rows).assign(**shared)


def test_match_ddpm_takes_the_least_memorization_within_ddpms_fid_noise() -> None:
    found = recommend(results())
    assert found.sigma_tn == 0.4
    assert found.baseline["fid"].value == pytest.approx(100.0)
    assert found.baseline["fid"].deviation == pytest.approx(4.0)
    assert found.window == (0.1, 0.4)
    reach = stats.t.ppf(0.975, 3)  # three seeds
    assert found.baseline["fid"].high == pytest.approx(100 + reach * np.sqrt(2 / 3 * 4**2 * (1 + 1 / 3)))
    assert found["fid"].low == pytest.approx(103 - reach * 4)
    assert found["fid"].high == pytest.approx(103 + reach * 4)
    assert "67% fewer copies" in found.summary


def test_knee_and_limit_policies() -> None:
    assert recommend(results(), "knee").sigma_tn == 0.4
    assert recommend(results(), "max-memorization", 0.35).sigma_tn == 0.2
    with pytest.raises(UserError, match=r"the lowest is 0\.05 at sigma_tn 0\.8"):
        recommend(results(), "max-memorization", 0.01)
    with pytest.raises(UserError, match="needs max_memorization"):
        recommend(results(), "max-memorization")


def test_the_window_ends_at_the_first_trial_that_does_not_beat_ddpm() -> None:
    found = recommend(results({**TRIALS, 0.3: (130.0, 0.3)}))
    assert found.sigma_tn == 0.4
    assert found.window == (0.4, 0.4)


def test_no_window_where_nothing_beats_ddpm() -> None:
    found = recommend(results({0.2: (100.0, 0.60)}))
    assert found.window is None
    assert found.verdict == "no-gain"


def test_a_better_early_stop_is_reported_at_full_budget() -> None:
    rows = results()
    early = rows.iloc[[0]].assign(budget=0.5, images_seen=500, fid=90.0, memorization=0.1)
    found = recommend(pd.concat([rows, early]), budget="full")
    assert found.early_stop is not None
    assert (found.early_stop.method, found.early_stop.images_seen) == ("ddpm", 500)
    assert "DDPM, stopped after 500 images, has FID 90" in cautions(found)["early-stopping"]
    worse = early.assign(fid=104.0)
    assert recommend(pd.concat([rows, worse]), budget="full").early_stop is None


def test_what_is_missing_is_named() -> None:
    rows = results()
    with pytest.raises(UserError, match="no DDPM baseline has finished"):
        recommend(rows[rows.method != "ddpm"])
    with pytest.raises(UserError, match="no algorithm1 trial has finished"):
        recommend(rows[rows.method == "ddpm"])
    with pytest.raises(UserError, match="no trial reaches DDPM's fid"):
        recommend(results({0.2: (200.0, 0.0)}), budget="full")


def test_one_baseline_seed_has_the_spread_of_its_measurement_alone() -> None:
    rows = results()
    one = rows[~rows.trial_id.isin(["ddpm-1", "ddpm-2"])]
    baseline = size_of(one).baseline
    assert baseline["fid"].deviation is None  # a table without standard errors
    assert baseline["fid"].low == baseline["fid"].high == 100.0
    assert np.isfinite(recommend(one)["fid"].low)
    measured_once = size_of(one.assign(fid_se=1.5)).baseline
    assert measured_once["fid"].deviation == 1.5
    assert measured_once["fid"].high - 100 > 2 * 1.5


def test_other_methods_take_part_in_the_frontier_but_are_not_recommended() -> None:
    rows = results()
    masking = rows[rows.trial_id == "t0.4"].assign(
        trial_id="m0", method="masking", sigma_tn=0.0, corruption=0.5, fid=90.0, memorization=0.01
    )
    noise_only = masking.assign(trial_id="o0", method="noise_only", sigma_tn=0.3, corruption=0.0, fid=89.0)
    everything = pd.concat([rows, masking, noise_only])
    assert "o0" in set(size_of(everything).frontier.trial_id)
    for policy in ("match-ddpm", "knee"):
        assert recommend(everything, policy).trial_id == "t0.4"
    assert recommend(everything).window == recommend(rows).window
    early = pd.concat([everything, masking.assign(budget=0.5, images_seen=500)])
    assert recommend(early, budget="full").early_stop is None


def measured(trials: dict[float, tuple[float, float]], fid_se: float, n_samples: int) -> pd.DataFrame:
    return results(trials).assign(fid_se=fid_se, n_samples=n_samples)


def test_sampling_error_widens_the_interval_of_the_recommended_trial() -> None:
    exact, coarse = (recommend(measured(TRIALS, se, 500)) for se in (0.0, 3.9))
    assert (
        exact["fid"].deviation == coarse["fid"].deviation == pytest.approx(4.0)
    )  # DDPM's spread has it in it
    more = recommend(measured(TRIALS, 10.0, 500))
    assert more["fid"].deviation == pytest.approx(10.0)
    assert more["fid"].high - more["fid"].value == pytest.approx(stats.t.ppf(0.975, 3) * 10)
    few = recommend(measured(TRIALS, 0.0, 50))["memorization"].deviation
    assert few is not None
    assert exact["memorization"].deviation is not None
    assert few > 2 * exact["memorization"].deviation


def test_a_hopeless_point_is_never_on_the_front() -> None:
    rows = measured({0.1: (80.0, 0.20), 0.4: (140.0, 0.5)}, 1.0, 1000)
    assert recommend(rows).p_front == 1.0
    points = size_of(rows).points.set_index("trial_id")
    assert points.p_front["t0.4"] == 0.0


def repeated(sigma_tn: float, *figures: tuple[float, float]) -> pd.DataFrame:
    """The trial of TRIALS at `sigma_tn` trained again with fresh seeds."""
    (row,) = results()[results().sigma_tn == sigma_tn].to_dict("records")
    name = row["trial_id"]
    return pd.DataFrame(
        {**row, "trial_id": f"{name}-c{k}", "confirms": name, "fid": fid, "memorization": memorization}
        for k, (fid, memorization) in enumerate(figures, 1)
    )


def with_repeats(*repeats: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([results().assign(confirms=""), *repeats], ignore_index=True)


def test_fresh_seeds_replace_the_figures_that_a_trial_was_picked_for() -> None:
    rows = with_repeats(repeated(0.4, (104.0, 0.26), (106.0, 0.30)), repeated(0.2, (100.0, 0.31)))
    found = recommend(rows)
    assert (found.trial_id, found.sigma_tn) == ("t0.4", 0.4)
    assert (found["fid"].value, found["memorization"].value) == pytest.approx((105.0, 0.28))
    assert found["fid"].high == pytest.approx(105 + stats.t.ppf(0.975, 3) * 4 / np.sqrt(2))
    confirmation = found.confirmation
    assert confirmation is not None
    assert confirmation.trials == ["t0.4-c1", "t0.4-c2"]
    assert (confirmation.searched("fid"), confirmation.searched("memorization")) == (103.0, 0.2)
    assert (confirmation.change("fid"), confirmation.change("memorization")) == pytest.approx((2.0, 0.08))
    assert "2 fresh seeds: FID 105 after 103 in the search, memorization 0.280 after 0.200" in found.summary
    assert "memorization 0.28" in found.summary
    assert found.refuted == []


def test_the_luckiest_of_the_unconfirmed_does_not_beat_a_confirmed_trial() -> None:
    rows = with_repeats(repeated(0.4, (105.0, 0.45), (105.0, 0.45)), repeated(0.2, (100.0, 0.42)))
    found = recommend(rows)  # t0.1 measured 0.40, once
    assert found.sigma_tn == 0.2
    assert found.confirmation is not None
    assert found.interval is not None
    assert found.interval[0] < 0.2


def test_where_fresh_seeds_refute_every_candidate_an_unconfirmed_trial_is_left() -> None:
    rows = with_repeats(repeated(0.4, (120.0, 0.2)), repeated(0.2, (115.0, 0.3)))
    found = recommend(rows)
    assert found.sigma_tn == 0.1
    assert found.confirmation is None
    assert found.refuted == ["t0.2", "t0.4"]


def test_other_policies_weigh_all_points_alike() -> None:
    rows = with_repeats(repeated(0.4, (105.0, 0.45)))
    assert recommend(rows, "max-memorization", 0.41).sigma_tn == 0.1
    assert recommend(rows, "max-memorization", 0.39).sigma_tn == 0.2
