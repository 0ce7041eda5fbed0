"""The recommendation over sigma_tn, mix ratio and images to train: where DDPM stopped early competes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from pareto_amb import interface, search_spaces
from pareto_amb.cli import app
from pareto_amb.config_file import apply_overrides, to_yaml
from pareto_amb.dashboards.report import write_report
from pareto_amb.dashboards.tables import tables
from pareto_amb.declared import Objective
from pareto_amb.errors import UserError
from pareto_amb.evaluation.objectives import ALIGNMENT
from pareto_amb.results.policies import POLICIES
from pareto_amb.results.recommend import recommend
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.recommendation_file import (
    build_recommendation,
    load_entry,
    training_block,
    why_it_stops,
    write_recommendation,
)
from pareto_amb.results.run import Run
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.results.size import Results, SizeResults
from pareto_amb.results.table import ResultsTable, columns, shipped
from pareto_amb.results.words import describe
from pareto_amb.sweep_file import parse_sweep, parse_training

_SHIPPED = shipped()
DECLARED = replace(
    _SHIPPED,
    methods={**_SHIPPED.methods, "algorithm1": replace(_SHIPPED.methods["algorithm1"], control="control")},
)
PAIR = tuple(DECLARED.objectives.values())
STOPS = (24_000, 48_000, 72_000, 96_000)
Figures = tuple[float, float]


def training(trial_id: str, *figures: Figures, last: int = 4, **more: Any) -> list[dict[str, Any]]:
    """The rows of a training, (FID, memorization) at each stopping point, the last one at rung `last`."""
    method = "ddpm" if trial_id.startswith("ddpm") else "algorithm1"
    chosen = {} if method == "ddpm" else {"sigma_tn": 0.4, "mix_ratio": 0.5}
    numbers = {
        name: 1.0
        for name, column in columns(_SHIPPED).items()
        if column.dtype == "float64" and not name.startswith("final_")
    }
    shared = {
        **numbers, **DECLARED.columns_of(method, chosen), "trial_id": trial_id, "method": method,
        "train_size": 50, "seed": 0, "n_samples": 1000, "fid_se": 1.0, "similarity_p95": 0.9,
        "heldout_memorization": 0.01, "heldout_images": 500.0, "heldout_similarity_mean": 0.6,
        "heldout_similarity_p95": 0.8, "status": "complete", "error": "", "confirms": "", "controls": "",
        "branched_at": 0,
    }  # fmt: skip
    rows = []
    for rung, (fid, copies) in enumerate(figures, last + 1 - len(figures)):
        at = {"rung": rung, "budget": rung / 4, "images_seen": STOPS[rung - 1]}
        values = {"fid": fid, "memorization": copies, "similarity_mean": 0.6 + copies}
        rows.append({**shared, **at, **values, **more})
    return rows


def ddpm(*figures: Figures, seeds: Sequence[float] = (-1.0, 0.0, 1.0)) -> list[dict[str, Any]]:
    """DDPM's seeds around these figures."""
    return [
        row
        for k, d in enumerate(seeds)
        for row in training(f"ddpm-s{k}", *((fid + 2 * d, copies * (1 + 0.1 * d)) for fid, copies in figures))
    ]


def size_of(*trainings: list[dict[str, Any]]) -> SizeResults:
    frame = pd.DataFrame([row for rows in trainings for row in rows])
    return Results(frame, DECLARED).size(50)


def found_in(
    *trainings: list[dict[str, Any]], budget: Literal["any", "full"] = "any", policy: str = "match-ddpm"
) -> Recommendation:
    return recommend(size_of(*trainings), policy, budget=budget)


def cautions(found: Recommendation) -> dict[str, str]:
    return {caution.word: caution.sentence for caution in found.cautions}


GARMENTS = (
    ddpm((240.0, 0.001), (210.0, 0.004), (190.2, 0.009), (194.6, 0.052)),
    training("a", (250.0, 0.0), (220.0, 0.001), (204.0, 0.004), (190.6, 0.016), sigma_tn=0.127),
    training("b", (250.0, 0.0), (225.0, 0.001), (210.0, 0.006), (199.0, 0.02), sigma_tn=0.5),
)
DIGITS = (
    ddpm((170.0, 0.001), (147.1, 0.022), (135.4, 0.069), (137.3, 0.206)),
    training("a", (180.0, 0.0), (150.0, 0.005), (122.0, 0.015), (131.0, 0.03), sigma_tn=0.108),
    training("b", (190.0, 0.0), (155.0, 0.004), (141.0, 0.017), (127.8, 0.028), sigma_tn=0.021),
)


def repeats(trial_id: str, last: int, *figures: Figures, **more: Any) -> list[dict[str, Any]]:
    return [
        row
        for k, figure in enumerate(figures, 1)
        for row in training(f"{trial_id}-c{k}", figure, last=last, confirms=trial_id, **more)
    ]


def controls(trial_id: str, last: int, *figures: Figures) -> list[dict[str, Any]]:
    return [
        row
        for k, figure in enumerate(figures, 1)
        for row in training(f"{trial_id}-k{k}", figure, last=last, controls=trial_id, method="control")
    ]


def test_where_stopping_ddpm_early_wins_that_is_the_recommendation_in_these_words() -> None:
    found = found_in(*GARMENTS)
    assert (found.method, found.parameters, found.main, found.sigma_tn) == ("ddpm", {}, "", None)
    assert (found.budget, found.images_seen, found.verdict, found.advised) == (
        "any", 72_000, "stop-early", True,
    )  # fmt: skip
    assert found["fid"].value == pytest.approx(190.2)
    assert found.baseline.images_seen == 72_000
    assert found.verdict_words == "Stopping DDPM early does it: no sigma_tn does better"
    assert "stopped after 72,000 of 96,000 images" in found.summary
    assert "FID 194.6 and memorization 0.052 of DDPM at its end: 83% fewer copies" in found.summary
    assert (
        "at equal budget, among full trainings, it would take Algorithm 1 at sigma_tn 0.127" in found.summary
    )
    assert found.equal_budget is not None
    assert found.equal_budget.images_seen == 96_000
    assert (found.equal_budget["fid"], found.equal_budget["memorization"]) == (190.6, 0.016)
    said = cautions(found)
    assert "0.009 above held-out images', DDPM's at full budget 0.052 above" in said["early-stop-no-proof"]
    assert not {"not-confirmed", "control-untested", "ddpm-close", "range-end"} & said.keys()
    equal = found_in(*GARMENTS, budget="full")
    assert (equal.trial_id, equal.baseline.images_seen, equal.equal_budget) == ("a", 96_000, None)
    assert "DDPM, stopped after 72,000 images, has FID 190.2" in cautions(equal)["early-stopping"]


def test_algorithm_1_stopped_early_wins_where_it_is_better() -> None:
    found = found_in(*DIGITS)
    assert (found.method, found.trial_id, found.images_seen) == ("algorithm1", "a", 72_000)
    assert (found.verdict, found["memorization"].value) == ("copies-less", 0.015)
    assert found.verdict_words == "Copies less than DDPM at its best stop, image quality no worse"
    assert found.baseline["memorization"].value == pytest.approx(0.069)
    assert "sigma_tn 0.108 and mix ratio 0.50 (stopped after 72,000 of 96,000 images) give" in found.summary
    assert "it would take Algorithm 1 at sigma_tn 0.021" in found.summary
    assert "(DDPM FID 137.3 and memorization 0.206)" in found.summary
    assert found.similarity_excess == pytest.approx(0.015)
    said = cautions(found)
    assert "0.015 above" in said["early-stop-no-proof"]
    assert "no control of this training was measured (search.controls" in said["control-untested"]
    assert "not-confirmed" in said
    equal = found_in(*DIGITS, budget="full")
    assert (equal.trial_id, equal.images_seen, equal.verdict) == ("b", 96_000, "copies-less")
    assert (
        "Algorithm 1 at sigma_tn 0.108 and mix ratio 0.50, stopped after 72,000"
        in (cautions(equal)["early-stopping"])
    )
    assert "early-stop-no-proof" not in cautions(equal)


def test_where_the_quality_still_rises_at_the_end_the_end_is_recommended() -> None:
    falling = ddpm((240.0, 0.1), (200.0, 0.2), (170.0, 0.3), (150.0, 0.4))
    ours = training("a", (240.0, 0.1), (200.0, 0.1), (170.0, 0.1), (149.0, 0.1))
    found = found_in(falling, ours)
    assert (found.trial_id, found.images_seen, found.verdict) == ("a", 96_000, "copies-less")
    assert found.baseline.images_seen == 96_000
    assert "(trained to the end, 96,000 images)" in found.summary
    assert "takes it among all stopping points, and among full trainings too" in found.summary
    assert "early-stop-no-proof" not in cautions(found)
    same = found_in(falling, training("a", (240.0, 0.1), (200.0, 0.2), (170.0, 0.3), (150.0, 0.41)))
    assert (same.verdict, same.method, same.images_seen) == ("no-gain", "ddpm", 96_000)


def test_a_gain_within_the_noise_of_ddpms_best_stop_is_none() -> None:
    """What is not fewer copies than DDPM's at its best stop yields to it, though it has fewer by its mean."""
    close = training("a", (200.0, 0.0), (170.0, 0.01), (136.0, 0.06), (140.0, 0.2))
    found = found_in(DIGITS[0], close)
    assert (found.method, found.images_seen, found.verdict) == ("ddpm", 72_000, "stop-early")
    clear = training("a", (200.0, 0.0), (170.0, 0.01), (136.0, 0.02), (140.0, 0.2))
    assert found_in(DIGITS[0], clear).method == "algorithm1"
    assert found_in(DIGITS[0], close, policy="knee").budget == "any"


def test_with_every_policy_what_cannot_be_told_from_ddpms_best_stop_yields_to_it() -> None:
    close = training("a", (200.0, 0.3), (170.0, 0.1), (134.0, 0.065), (140.0, 0.2))
    early = ddpm((170.0, 0.3), (147.1, 0.2), (135.4, 0.069), (137.3, 0.206))
    for policy, limit in (("match-ddpm", None), ("knee", None), ("max-memorization", 0.08)):
        found = recommend(size_of(early, close), policy, limit)
        assert (found.method, found.images_seen, found.verdict) == ("ddpm", 72_000, "stop-early"), policy
    forbidden = recommend(size_of(early, close), "max-memorization", 0.066)
    assert (forbidden.method, forbidden.verdict) == ("algorithm1", "no-gain")
    assert forbidden.verdict_words == "No gain over DDPM at its best stop beyond its own noise"
    sharper = training("a", (200.0, 0.3), (170.0, 0.1), (100.0, 0.065), (140.0, 0.2))
    found = recommend(size_of(early, sharper), "max-memorization", 0.08)
    assert (found.method, found.verdict, found["fid"].value) == ("algorithm1", "no-gain", 100.0)
    assert found.verdict_words.endswith("beyond its own noise, only a better FID")
    refuted = repeats("a", 3, (160.0, 0.065), (160.0, 0.065))
    found = recommend(size_of(early, close, refuted), "max-memorization", 0.08)
    assert found.verdict_words == "Stopping DDPM early does it: no sigma_tn does better"


def test_the_limit_of_a_policy_stands_wherever_its_answer_does(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", *DIGITS)
    written = build_recommendation(run, "max-memorization", 0.04)
    write_recommendation(written, run.recommendation)
    assert load_entry(run.recommendation, None)["max_memorization"] == 0.04
    (found,) = (Run.read(run.path).recommendations or {}).values()
    assert "policy max-memorization (best FID with memorization at most 0.04) takes it" in found.summary
    assert found.tags()["max_memorization"] == "0.04"
    assert "policy max-memorization (at most 4.0%) among" in write_report(run.path).read_text(
        encoding="utf-8"
    )
    assert "max_memorization" not in found_in(*DIGITS).tags()


def test_one_seed_may_have_picked_ddpms_best_stop_by_luck() -> None:
    alone = ddpm((170.0, 0.3), (147.1, 0.4), (135.4, 0.6), (137.3, 0.8), seeds=(0.0,))
    ours = training("a", (120.0, 0.1))
    lucky = "its best stopping point, picked on that seed alone, may be that seed's luck"
    assert lucky in cautions(found_in(alone, ours))["one-baseline-seed"]
    assert lucky not in cautions(found_in(alone, ours, budget="full"))["one-baseline-seed"]


def test_a_confirmed_trial_that_failed_later_is_confirmed_and_there() -> None:
    confirmed = repeats("a", 3, (124.0, 0.016), (128.0, 0.018), sigma_tn=0.108)
    failed = [{**row, "status": "failed", "error": "the loss is nan"} for row in DIGITS[1]]
    found = found_in(DIGITS[0], failed, confirmed)
    assert (found.trial_id, found.images_seen) == ("a", 72_000)
    assert found.confirmation is not None
    assert found.confirmation.searched("fid") == 122.0
    assert not {"trial-gone", "not-confirmed"} & cautions(found).keys()


def test_whether_ddpm_copies_is_judged_at_its_end() -> None:
    quiet = ddpm((200.0, 0.001), (150.0, 0.002), (140.0, 0.003), (145.0, 0.004))
    found = found_in(quiet, training("a", (139.0, 0.0)))
    assert found.verdict == "ddpm-does-not-copy"
    late = ddpm((200.0, 0.001), (150.0, 0.002), (140.0, 0.003), (145.0, 0.4))
    assert found_in(late, training("a", (160.0, 0.1))).verdict == "stop-early"


def test_a_trial_confirmed_at_its_own_stop_counts_there_with_its_fresh_seeds() -> None:
    confirmed = repeats("a", 3, (124.0, 0.016), (128.0, 0.018), sigma_tn=0.108)
    size = size_of(*DIGITS, confirmed).over("any")
    ours = size.points[size.points.trial_id == "a"].set_index("images_seen")
    assert ours.fid.to_dict() == {24_000: 180.0, 48_000: 150.0, 72_000: 126.0, 96_000: 131.0}
    assert ours.confirmed.to_dict() == dict.fromkeys(STOPS, False) | {72_000: True}
    assert ours.seeds.to_dict() == dict.fromkeys(STOPS, 1) | {72_000: 2}
    found = recommend(size)
    assert (found.trial_id, found.images_seen, found["fid"].value) == ("a", 72_000, 126.0)
    assert found.confirmation is not None
    assert found.confirmation.trials == ["a-c1", "a-c2"]
    assert (found.confirmation.searched("fid"), found.confirmation.change("fid")) == (122.0, 4.0)
    full = size.over("full").points.set_index("trial_id")
    assert (full.fid["a"], full.seeds["a"]) == (131.0, 1)


def test_ddpm_of_several_seeds_is_as_sure_as_what_fresh_seeds_confirmed() -> None:
    """Fresh seeds refute the trial: DDPM stopped early is taken, not the luckiest of the unconfirmed."""
    refuted = repeats("a", 3, (160.0, 0.01), (160.0, 0.01))
    found = found_in(*DIGITS, refuted)
    assert (found.method, found.verdict, found.refuted) == ("ddpm", "stop-early", ["a"])
    assert found.verdict_words.endswith("no sigma_tn that fresh seeds confirmed does better")
    alone = ddpm((170.0, 0.3), (147.1, 0.4), (135.4, 0.6), (137.3, 0.8), seeds=(0.0,))
    assert found_in(alone, *DIGITS[1:], refuted).trial_id == "b"  # one seed may be lucky as well
    plain = ddpm((240.0, 0.1), (200.0, 0.2), (170.0, 0.3), (150.0, 0.4))
    ours = training("a", (149.0, 0.1)), training("b", (149.0, 0.2)), repeats("a", 4, (190.0, 0.1))
    assert found_in(plain, *ours).trial_id == "b"  # that plain DDPM copies is no reason to train so


def test_an_early_stop_that_copies_no_less_beyond_noise_is_no_gain() -> None:
    hardly = ddpm((240.0, 0.3), (210.0, 0.4), (180.2, 0.5), (194.6, 0.52))
    found = found_in(hardly, training("a", (250.0, 0.5), (220.0, 0.5), (204.0, 0.5), (200.0, 0.6)))
    assert (found.method, found.images_seen, found.verdict) == ("ddpm", 72_000, "no-gain")
    assert "the policy match-ddpm would take DDPM (stopped after 72,000 of 96,000 images)" in found.summary
    assert not found.advised


def test_a_control_that_shares_a_mitigation_says_so_wherever_the_gain_is_split() -> None:
    rows = pd.DataFrame([row for rows in (*DIGITS, repeats("a", 3, (122.0, 0.015)),
                                          controls("a", 3, (132.0, 0.04))) for row in rows])  # fmt: skip
    mitigated = {"algorithm1": "s23_algorithm1", "control": "s23_control"}
    rows = rows.assign(method=rows.method.replace(mitigated), text_noise=rows.sigma_tn.gt(0) * 0.1)
    size = Results(rows, DECLARED).size(50)
    found = recommend(size, "match-ddpm")
    assert found.gain is not None
    assert found.gain.beside == ["text noise"]
    assert "the noise levels and the text noise (clean images at the same levels" in found.summary
    assert "with the same text noise" in tables(found, size, CONFIG)[0].caption


def test_controls_take_no_part_and_split_the_gain() -> None:
    confirmed = repeats("a", 3, (123.0, 0.014), (123.0, 0.018), sigma_tn=0.108)
    better = controls("a", 3, (131.0, 0.038), (133.0, 0.042))
    found = found_in(*DIGITS, confirmed, better)
    gain = found.gain
    assert gain is not None
    assert gain.trials == ["a-k1", "a-k2"]
    assert (gain.control["fid"].value, gain.control["memorization"].value) == pytest.approx((132.0, 0.04))
    assert (gain.ddpm["fid"].value, gain.ddpm["memorization"].value) == pytest.approx((135.4, 0.069))
    assert gain.control["fid"].low < 132 < gain.control["fid"].high
    # the deviation of a point of two trainings: sampling error 1, DDPM's seeds scatter by 2
    assert gain.control["fid"].deviation == pytest.approx(np.sqrt((1 + 2**2 - 1) / 2))
    words = "change FID by -3.4 (within noise) and memorization by -0.029, the noisy copies then FID by -9"
    assert words in found.summary
    assert "control-untested" not in cautions(found)
    unbeatable = controls("a", 3, (10.0, 0.0), (10.0, 0.0))
    for budget in ("any", "full"):
        with_control = size_of(*DIGITS, confirmed, unbeatable).over(budget)
        assert "control" not in set(with_control.points.method) | set(with_control.frontier.method)
        assert len(with_control.hypervolume_history) == len(size_of(*DIGITS, confirmed).hypervolume_history)
    elsewhere = found_in(*DIGITS, confirmed, controls("a", 2, (131.0, 0.04)))
    assert elsewhere.gain is None
    assert "control-untested" in cautions(elsewhere)
    one = [better[0], {**better[1], "status": "failed"}]
    assert "(clean images at the same levels, 1 seed: " in found_in(*DIGITS, confirmed, one).summary
    assert "(clean images at the same levels, 2 seeds: " in found.summary
    unfinished = [{**row, "status": "failed"} for row in better]
    assert found_in(*DIGITS, confirmed, unfinished).gain is None


def test_final_figures_are_of_the_fresh_seeds_and_of_ddpm_at_its_end_and_stand_apart() -> None:
    measured = {"final_n_samples": 5000.0, "final_fid_se": 0.5, "final_memorization_se": 0.001}
    confirmed = repeats("a", 3, (123.0, 0.014), (123.0, 0.018), **measured)
    for row, fid in zip(confirmed, (110.0, 114.0), strict=True):
        row.update(final_fid=fid, final_memorization=0.02)
    whole = [dict(row) for row in DIGITS[0]]
    for row in whole:
        if row["rung"] == 4:
            row.update(measured, final_fid=120.0, final_memorization=0.21)
    found = found_in(whole, *DIGITS[1:], confirmed)
    final = found.final
    assert final is not None
    assert final.ddpm is not None
    assert (final.n_samples, final.training["fid"].value, final.ddpm["fid"].value) == (5000, 112.0, 120.0)
    assert final.training["fid"].low < 112 < final.training["fid"].high
    assert found["fid"].value == 123.0
    (line,) = [line for line in describe(found, DECLARED) if "measured again" in line]
    assert "measured again on 5,000 samples: FID 112 (" in line
    assert "DDPM at its end FID 120 (" in line
    tags = found.tags()
    assert (tags["final_n_samples"], tags["final_fid"], tags["final_ddpm_fid"]) == ("5000", "112.0", "120.0")
    fewer = [{**row, "final_n_samples": 4000.0} for row in whole]
    other = found_in(fewer, *DIGITS[1:], confirmed).final
    assert other is not None
    assert other.ddpm is None
    assert found_in(*DIGITS).final is None


def test_ddpm_stopped_early_that_comes_close_is_said() -> None:
    noisy = ddpm((170.0, 0.03), (139.0, 0.033), (135.4, 0.2), (137.3, 0.4))
    ours = training("a", (180.0, 0.0), (150.0, 0.1), (136.0, 0.03), (140.0, 0.2))
    found = found_in(noisy, ours)
    assert found.method == "algorithm1"
    assert "after 48,000 images it has FID 139" in cautions(found)["ddpm-close"]
    assert "ddpm-close" not in cautions(found_in(*DIGITS))
    assert "ddpm-close" not in cautions(found_in(noisy, ours, budget="full"))


def test_the_interval_and_the_window_are_those_of_the_recommended_stopping_point() -> None:
    grid = [
        training(f"t{k}", (150.0, 0.005), (122.0 + k, 0.015 + 0.001 * k), (900.0, 0.9), sigma_tn=sigma)
        for k, sigma in enumerate((0.1, 0.2, 0.4, 0.8))
    ]
    lone = training("far", (900.0, 0.9), sigma_tn=50.0)  # measured at the end only
    found = found_in(DIGITS[0], *grid, lone)
    assert (found.trial_id, found.images_seen) == ("t0", 72_000)
    assert found.window == (0.1, 0.8)
    assert found.interval is not None
    assert 0.1 <= found.interval[0] < found.interval[1] <= 0.8
    moved = [dict(row) for rows in grid for row in rows]
    for row in moved:
        if row["rung"] != 3:
            row["fid"] += 77.0
    again = found_in(DIGITS[0], moved, lone)
    assert again.interval == found.interval


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(8))
def test_every_stopping_point_of_every_training_is_a_candidate(policy: str, seed: int) -> None:
    """By brute force over the points, nothing being confirmed."""
    rng = np.random.default_rng(seed)
    fids = 150 + rng.integers(0, 40, (4, 4)) - 10 * np.arange(4)
    shares = 0.3 + 0.04 * rng.integers(0, 6, (4, 4))
    whole = ddpm(*zip(fids[0], shares[0], strict=True))
    ours = [training(f"t{k}", *zip(fids[k], shares[k] / 4, strict=True)) for k in range(1, 4)]
    size = size_of(whole, *ours)
    found = recommend(size, policy, 0.1 if policy == "max-memorization" else None)
    worst = size.over("any").limits[0][0]
    best_stop = min(range(4), key=lambda rung: (fids[0][rung], rung))
    assert found.baseline.images_seen == STOPS[best_stop]
    points = {("ddpm", STOPS[rung]): (fids[0][rung], shares[0][rung]) for rung in range(4)}
    points |= {(f"t{k}", STOPS[r]): (fids[k][r], shares[k][r] / 4) for k in range(1, 4) for r in range(4)}
    name = "ddpm" if found.method == "ddpm" else found.trial_id
    ours_found = points[name, found.images_seen or 0]
    assert (found["fid"].value, found["memorization"].value) == pytest.approx(ours_found)
    if policy == "match-ddpm":
        admitted = [(copies, fid) for fid, copies in points.values() if fid <= worst]
        assert found["memorization"].value == pytest.approx(min(admitted)[0])
    if policy == "max-memorization":
        assert found["fid"].value == min(fid for fid, copies in points.values() if copies <= 0.1)
    if policy == "knee":
        assert not any(
            fid <= ours_found[0] and copies <= ours_found[1] and (fid, copies) != ours_found
            for fid, copies in points.values()
        )


CONFIG = parse_sweep(apply_overrides(search_spaces.load("smoke"), ["search.trials=2"]), "smoke")


def run_of(path: Path, *trainings: list[dict[str, Any]]) -> RunDirectory:
    path.mkdir()
    (path / "sweep.yaml").write_text(to_yaml(CONFIG), encoding="utf-8")
    table = ResultsTable(path / "results.parquet", _SHIPPED)
    for rows in trainings:
        for row in rows:
            table.record({name: value for name, value in row.items() if name != "controls" or value})
    return RunDirectory(path)


def test_an_early_stop_is_trained_as_recommended_after_a_round_through_the_file(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", *GARMENTS)
    written = build_recommendation(run)
    write_recommendation(written, run.recommendation)
    block = training_block(load_entry(run.recommendation, None), run.recommendation)
    training_run = parse_training(block, "file")
    assert (training_run.method, training_run.parameters) == ("ddpm", {})
    assert training_run.training.images == 72_000
    assert training_run.seed == CONFIG.seed
    entry = load_entry(run.recommendation, None)
    assert why_it_stops(entry, 72_000).startswith(
        "the recommended stopping point: Stopping DDPM early does it"
    )
    assert why_it_stops(entry, 96_000) == "as set"
    read = Run.read(run.path).recommendations
    assert read is not None
    assert read[50] == Recommendation(**written.recommendations[0].model_dump(exclude={"training"}))
    shown = CliRunner().invoke(app, ["recommend", str(run.path)]).output
    assert shown.startswith("Stopping DDPM early does it")
    assert "stops after 72,000 images" in shown
    assert "mean similarity 0.009 above held-out images'" in shown
    full = CliRunner().invoke(app, ["recommend", str(run.path), "--budget", "full"]).output
    assert "trained to the end" in full
    assert interface.recommend(run.path, budget="full").recommendations[0].budget == "full"
    with pytest.raises(UserError, match="unknown budget 'ful': did you mean 'full'"):
        interface.recommend(run.path, budget="ful")


@pytest.mark.parametrize(
    "lost", ["equal_budget", "gain", "final", "images_seen", "budget", "similarity_excess"]
)
def test_what_older_files_lack_is_not_missed(tmp_path: Path, lost: str) -> None:
    run = run_of(tmp_path / "run", *DIGITS)
    write_recommendation(build_recommendation(run, budget="full"), run.recommendation)
    values = yaml.safe_load(run.recommendation.read_text(encoding="utf-8"))
    entry = values["recommendations"][0]
    del entry[lost]
    if lost in {"images_seen", "similarity_excess"}:
        del entry["baseline"][lost]
    run.recommendation.write_text(yaml.safe_dump(values), encoding="utf-8")
    read = Run.read(run.path).recommendations
    assert read is not None
    assert (read[50].verdict, read[50].budget, read[50].trial_id) == ("copies-less", "full", "b")


def test_tags_tell_where_to_stop_and_what_the_gain_is_made_of() -> None:
    confirmed = repeats("a", 3, (123.0, 0.014), (123.0, 0.018), sigma_tn=0.108)
    tags = found_in(*DIGITS, confirmed, controls("a", 3, (131.0, 0.038), (133.0, 0.042))).tags()
    assert (tags["budget"], tags["images_seen"], tags["ddpm_images_seen"]) == ("any", "72000", "72000")
    assert float(tags["similarity_excess"]) == pytest.approx(0.016)
    assert float(tags["ddpm_similarity_excess"]) == pytest.approx(0.069)
    assert float(tags["control_fid"]) == 132.0
    assert float(tags["ddpm_same_stop_memorization"]) == pytest.approx(0.069)
    assert float(tags["control_fid_low"]) < 132 < float(tags["control_fid_high"])
    stopped = found_in(*GARMENTS).tags()
    assert stopped["verdict"] == "stop-early"
    assert "sigma_tn" not in stopped
    assert all(value == value.strip() for value in stopped.values())


def test_what_an_objective_tolerates_is_no_worse_than_ddpm_and_is_said() -> None:
    """DDPM scores 0.99 with a standard error of 0.002: 0.982 is worse beyond noise, and by less than 1%."""

    def found(score: float, objective: Objective) -> Recommendation:
        rows = [
            row | {"alignment": score if row["trial_id"] == "a" else 0.99, "alignment_se": 0.002}
            for row in [
                *ddpm((150.0, 0.05), (140.0, 0.1), (135.0, 0.15), (130.0, 0.2)),
                *training("a", (180.0, 0.0), (150.0, 0.005), (128.0, 0.015), (126.0, 0.03)),
            ]
        ]
        declared = replace(DECLARED, objectives={**DECLARED.objectives, "alignment": objective})
        return recommend(Results(pd.DataFrame(rows), declared).size(50))

    taken = found(0.982, ALIGNMENT)
    assert (taken.trial_id, taken.verdict) == ("a", "copies-less")
    assert taken.verdict_words.endswith("no worse on FID, within 1% of its caption score")
    assert taken.tolerance == {"alignment": 0.01}
    assert "0.982 against 0.99, and counts as no worse" in cautions(taken)["within-tolerance"]
    assert "within-tolerance" not in cautions(found(0.987, ALIGNMENT))
    assert found(0.987, ALIGNMENT).verdict_words.endswith("no worse on FID and caption score")
    for score, objective in ((0.98, ALIGNMENT), (0.982, replace(ALIGNMENT, tolerance=0.0))):
        assert found(score, objective).method == "ddpm"
    hostile = replace(
        DECLARED, objectives={**DECLARED.objectives, "a": replace(ALIGNMENT, name="a", tolerance=2)}
    )
    with pytest.raises(ValueError, match="a: the tolerance is no share below 1"):
        type(DECLARED).from_json(hostile.to_json())
