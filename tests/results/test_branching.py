import math
from typing import Any

import pandas as pd
import pytest

from pareto_amb import search_spaces
from pareto_amb.config import SweepConfig
from pareto_amb.config_file import apply_overrides
from pareto_amb.errors import UserError
from pareto_amb.results.branching import OPEN_GAP, branching_rung
from pareto_amb.results.recommend import recommend
from pareto_amb.results.size import Results, SizeResults
from pareto_amb.results.table import ResultsTable, columns, load_results, shipped
from pareto_amb.sweep_file import parse_sweep

DECLARED = shipped()
SHARES = ["evaluation.probes=[0.125, 0.25]", "evaluation.rungs=[0.5, 0.75, 1]"]


def config(branch_from: str) -> SweepConfig:
    changes = [f"search.branch_from={branch_from}", *SHARES]
    return parse_sweep(apply_overrides(search_spaces.load("smoke"), changes), "smoke")


def baseline(copies: list[float], gaps: list[float], samples: int = 200) -> list[dict[str, Any]]:
    """The rows of a baseline, two of them probe rungs; the gap at the other level stays as it is."""
    return [
        {
            "rung": rung,
            "n_samples": samples if rung > 2 else 0,
            "memorization": share,
            "heldout_memorization": 0.01 if rung > 2 else math.nan,
            "heldout_images": 500.0 if rung > 2 else math.nan,
            "probe_levels": [0.1, 0.4],
            "probe_train": [1.0, 2.0],
            "probe_heldout": [1.3, 2.0 * gap],
        }
        for rung, (share, gap) in enumerate(zip(copies, gaps, strict=True), start=1)
    ]


NONE = [math.nan, math.nan, 0.0, 0.0, 0.0]
CLOSED = [1.1, 1.1, 1.1, 1.1, 1.1]


@pytest.mark.parametrize(
    ("branch_from", "copies", "gaps", "reached", "ended", "rung"),
    [
        ("0.5", NONE, CLOSED, 2, False, None),
        ("0.5", NONE, CLOSED, 3, False, 3),
        ("0.25", [math.nan, math.nan, 0.9, 0.9, 0.9], [1.1, 9.0, 9.0, 9.0, 9.0], 5, True, 2),
        ("0.5", NONE, CLOSED, 2, True, 0),  # failed before
        ("auto", NONE, CLOSED, 0, False, None),
        ("auto", NONE, CLOSED, 0, True, 0),
        ("auto", NONE, CLOSED, 3, False, None),
        ("auto", NONE, CLOSED, 3, True, 3),  # failed there
        ("auto", NONE, CLOSED, 4, False, 4),  # nothing later is branched at
        ("auto", NONE, CLOSED, 5, True, 4),
        ("auto", NONE, [1.1, 1.1 * OPEN_GAP * 0.99, 1.1, 1.1, 1.1], 2, False, None),
        ("auto", NONE, [1.1, 1.1 * OPEN_GAP * 1.01, 1.1, 1.1, 1.1], 2, False, 1),
        ("auto", NONE, [1.1, 1.1, 1.1, 2.0, 9.0], 5, True, 3),
        ("auto", NONE, [0.5, 0.5, 0.5, 1.0, 1.0], 4, False, 3),  # what counts is how it has grown
        ("auto", [math.nan, math.nan, 0.03, 0.03, 0.03], CLOSED, 3, False, None),  # may be chance
        ("auto", [math.nan, math.nan, 0.2, 0.0, 0.0], CLOSED, 3, False, 2),
        ("auto", [math.nan, math.nan, 0.0, 0.0, 0.5], CLOSED, 5, True, 4),
    ],
)
def test_trials_go_on_from_the_last_rung_before_the_baseline_memorizes(
    branch_from: str, copies: list[float], gaps: list[float], reached: int, ended: bool, rung: int | None
) -> None:
    assert branching_rung(config(branch_from), baseline(copies, gaps)[:reached], ended) == rung


def test_trials_begin_from_scratch_where_the_baseline_copies_from_the_first_rung_on() -> None:
    shares = ["search.branch_from=auto", "evaluation.probes=[]"]
    full = parse_sweep(apply_overrides(search_spaces.load("smoke"), shares), "smoke")
    copying = {**baseline(NONE, CLOSED)[2], "rung": 1}
    assert branching_rung(full, [copying], ended=False) == 1
    assert branching_rung(full, [{**copying, "memorization": 0.5}], ended=False) == 0


def test_a_sweep_without_held_out_images_goes_by_the_copies_alone() -> None:
    rows = [row | {"probe_heldout": []} for row in baseline([math.nan, math.nan, 0.0, 0.5, 0.5], CLOSED)]
    assert branching_rung(config("auto"), rows, ended=True) == 3
    unknown = [row | {"heldout_memorization": math.nan} for row in rows]
    assert branching_rung(config("auto"), unknown, ended=True) == 4


def row(trial_id: str, fid: float, memorization: float, **more: Any) -> dict[str, Any]:
    numbers: dict[str, Any] = {name: 1 for name, c in columns(DECLARED).items() if c.dtype != "str"}
    lists = {name: [] for name, c in columns(DECLARED).items() if c.dtype == "object"}
    words = {"trial_id": trial_id, "method": "algorithm1", "status": "complete", "error": ""}
    words |= {"confirms": "", "controls": "", "branched_at": 0}
    place = {"rung": 4, "images_seen": 100, "train_size": 50, "n_samples": 1000}
    return {**numbers, **lists, **words, **place, "fid": fid, "memorization": memorization, **more}


DDPM = [row(f"n50-ddpm-s{k}", fid, 0.5, method="ddpm") for k, fid in enumerate((100.0, 104.0, 102.0))]
BRANCHED = [
    row("a", 80.0, 0.0, branched_at=50),  # better than anything from scratch
    row("b", 101.0, 0.3, branched_at=50),
    row("a", 90.0, 0.0, branched_at=50, rung=3, budget=0.75, images_seen=75),
]
SCRATCH = [
    row("a-r4-c0", 101.0, 0.2, confirms="a", seed=100),
    row("a-r4-c0", 103.0, 0.1, confirms="a", seed=100, rung=3, budget=0.75, images_seen=75),
]
FRESH = [row(f"a-r4-c{k}", 102.0, 0.26, confirms="a-r4-c0", seed=100 + k) for k in (1, 2)]


def size_of(rows: list[dict[str, Any]]) -> SizeResults:
    return Results(pd.DataFrame(rows), DECLARED).size(50)


def test_no_branched_figure_is_on_a_frontier_or_recommended() -> None:
    size = size_of([*DDPM, *BRANCHED])
    for budget in ("full", "any"):
        assert set(size.over(budget).points.method) == {"ddpm"}  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no algorithm1 trial has finished"):
        recommend(size)
    size = size_of([*DDPM, *BRANCHED, *SCRATCH])
    found = recommend(size)
    assert (found.trial_id, found.images_seen, found["memorization"].value) == ("a-r4-c0", 75, 0.1)
    assert found.confirmation is None
    assert found["fid"].value == 103.0
    assert {0.0, 0.3}.isdisjoint(size.over("any").points.memorization)


def test_how_many_trials_were_branched_and_what_for_is_said() -> None:
    said = {c.word: c.sentence for c in recommend(size_of([*DDPM, *BRANCHED, *SCRATCH, *FRESH])).cautions}
    assert said["branched"] == (
        "2 trials of the search went on from a DDPM baseline after 50 images, which makes them copy more: "
        "they only chose which 1 to train from scratch, and no figure here is theirs"
    )
    without = recommend(size_of([*DDPM, *(each | {"confirms": ""} for each in SCRATCH)])).cautions
    assert "branched" not in {caution.word for caution in without}


def test_what_follows_a_branched_search_and_has_not_finished_is_said() -> None:
    keys = [
        "search.branch_from=auto",
        "search.confirm={candidates: 1, seeds: 2, points: 3}",
        "search.trials=2",
    ]
    keys += ["search.baseline_seeds=3"]
    plan = parse_sweep(apply_overrides(search_spaces.load("smoke"), keys), "smoke")

    def left(rows: list[dict[str, Any]]) -> str:
        found = recommend(size_of(rows), config=plan)
        said = {caution.word: caution.sentence for caution in found.cautions}
        return said.get("unfinished", "").partition(" trainings")[0]

    search = [*DDPM, *BRANCHED, *SCRATCH]
    assert left(search) == "5 of 6"  # two from scratch, two repeats with their controls
    other = row("b-r4-c0", 101.0, 0.4, confirms="b")
    controls = [row(f"a-r4-c{k}-control", 90.0, 0.3, method="control", controls="a-r4-c0") for k in (1, 2)]
    assert left([*search, other, *FRESH]) == "2 of 6"
    assert left([*search, other, *FRESH, *controls]) == ""


def test_the_training_from_scratch_is_repeated_like_a_trial_of_the_search() -> None:
    """It was picked for its figures, so that the mean is that of its repeats alone."""
    size = size_of([*DDPM, *BRANCHED, *SCRATCH, *FRESH])
    point = size.points[size.points.method == "algorithm1"].iloc[0]
    assert (point.trial_id, point.memorization, point.seeds, point.confirmed) == ("a-r4-c0", 0.26, 2, True)
    found = recommend(size)
    assert found.confirmation is not None
    assert found.confirmation.trials == ["a-r4-c1", "a-r4-c2"]
    assert found.confirmation.searched("memorization") == 0.2
    assert found.confirmation.change("fid") == pytest.approx(1.0)


def test_what_a_branched_trial_took_over_is_no_cost() -> None:
    rows = [
        dict(each, recorded_at=k) for k, each in enumerate([*DDPM, BRANCHED[2], BRANCHED[0], *SCRATCH[::-1]])
    ]
    history = size_of(rows).hypervolume_history
    assert history.trial_id.tolist() == ["n50-ddpm-s0", "n50-ddpm-s1", "n50-ddpm-s2", "a-r4-c0"]
    assert history.trainings.tolist() == [1.0, 2.0, 3.0, 4.5]


def test_a_table_of_a_branched_search_is_read_again_and_contradictions_are_refused(tmp_path: Any) -> None:
    path = tmp_path / "results.parquet"
    table = ResultsTable(path, DECLARED)
    for each in [*DDPM, *BRANCHED, *SCRATCH, *FRESH]:
        table.record(each)
    read = load_results(path).frame
    assert read[read.trial_id.isin(["a", "b"])].branched_at.tolist() == [50] * 3
    assert read.branched_at.sum() == 150
    for wrong in (
        row("n50-ddpm-s0", 1.0, 0.1, method="ddpm", branched_at=50),
        row("a-r4-c9", 1.0, 0.1, confirms="a", branched_at=50),
        row("a", 1.0, 0.1, rung=2),
    ):
        other = ResultsTable(path, DECLARED)
        other.path = tmp_path / "wrong.parquet"
        other.record(wrong)
        with pytest.raises(UserError, match="column 'branched_at', trial"):
            load_results(other.path)
