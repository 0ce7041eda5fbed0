import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pareto_amb.results.size import Results, SizeResults
from pareto_amb.results.table import shipped
from pareto_amb.search.pareto import hypervolume

DECLARED = shipped()


def size_of(frame: pd.DataFrame, train_size: int = 100) -> SizeResults:
    columns = {"confirms": "", "controls": "", "branched_at": 0, "recorded_at": 0.0, "rung": 1}
    missing = {name: value for name, value in columns.items() if name not in frame}
    return Results(frame.assign(**missing), DECLARED).size(train_size)


def table(*rows: tuple[str, str, float, float, float, str, int]) -> pd.DataFrame:
    names = ["trial_id", "method", "budget", "fid", "memorization", "status", "n_samples"]
    return pd.DataFrame(rows, columns=names).assign(
        train_size=100, images_seen=lambda frame: (1000 * frame.budget).astype(int)
    )


@settings(deadline=None)
@given(
    arrays(np.float64, st.tuples(st.integers(1, 6), st.just(2)), elements=st.integers(0, 4).map(float)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_the_normalised_hypervolume_is_a_share_that_scales_do_not_change(
    values: np.ndarray, reference: tuple[int, int]
) -> None:
    end = np.array(reference, dtype=float)

    def share(scale: np.ndarray) -> float:
        ddpm = table(("s", "ddpm", 1.0, end[0] * scale[0] / 2, end[1] * scale[1], "complete", 100))
        points = pd.DataFrame(values * scale, columns=["fid", "memorization"])
        return size_of(ddpm).normalized_hypervolume(points)

    found = share(np.ones(2))
    assert found == hypervolume(values, end) / (reference[0] * reference[1])
    assert 0 <= found <= 1
    assert share(np.array([8.0, 0.25])) == found


ROWS = table(
    ("a", "algorithm1", 0.5, 5.0, 0.01, "complete", 100),
    ("a", "algorithm1", 1.0, 10.0, 0.20, "complete", 100),
    ("b", "algorithm1", 1.0, 12.0, 0.10, "complete", 100),
    ("c", "algorithm1", 1.0, 13.0, 0.15, "complete", 100),
    ("d", "algorithm1", 0.5, 1.0, 0.00, "paused", 100),
    ("e", "algorithm1", 1.0, 1.0, 0.00, "failed", 100),
    ("f", "algorithm1", 0.5, 0.0, 0.00, "running", 50),
    ("g", "algorithm1", 1.0, float("nan"), 0.00, "complete", 100),
)


def test_a_full_budget_frontier_ignores_early_stopped_failed_and_unmeasured_trials() -> None:
    assert size_of(ROWS, 100).frontier.trial_id.tolist() == ["a", "b"]
    assert size_of(ROWS, 100).full.trial_id.tolist() == ["a", "b", "c"]


def test_the_any_budget_view_mixes_rungs_but_never_sample_counts() -> None:
    rows = size_of(ROWS, 100).anytime
    assert "f" not in set(rows.trial_id)
    assert size_of(ROWS, 100).over("any").frontier.trial_id.tolist() == ["d"]


def test_a_frontier_never_crosses_train_sizes() -> None:
    other = ROWS.assign(train_size=300, fid=0.0)
    both = pd.concat([ROWS, other])
    assert size_of(both, 100).frontier.trial_id.tolist() == ["a", "b"]
    assert size_of(both, 50).frontier.empty


def searched(*rows: tuple[str, str, float, float, float, str, int]) -> pd.DataFrame:
    """A table whose rows were recorded in the order given, behind three DDPM seeds."""
    seeds = [
        (f"n100-ddpm-s{k}", "ddpm", 1.0, fid, memorization, "complete", 100)
        for k, (fid, memorization) in enumerate([(90.0, 0.3), (100.0, 0.5), (110.0, 0.4)])
    ]
    frame = table(*seeds, *rows)
    rungs = np.where(frame.budget < 1, 1, 2)
    return frame.assign(rung=rungs, recorded_at=np.arange(len(frame), dtype=float))


SEARCH = searched(
    ("t0", "algorithm1", 0.5, 150.0, 0.1, "complete", 100),
    ("t1", "algorithm1", 0.5, 10.0, 0.0, "paused", 100),
    ("t0", "algorithm1", 1.0, 100.0, 0.2, "complete", 100),
    ("t2", "algorithm1", 1.0, 150.0, 0.1, "complete", 100),
    ("t3", "algorithm1", 1.0, 20.0, 0.4, "complete", 100),
)


def test_the_reference_point_is_twice_ddpms_fid_and_its_memorization() -> None:
    ideal, reference = size_of(SEARCH).box
    assert ideal.tolist() == [0.0, 0.0]
    assert reference.tolist() == pytest.approx([200.0, 0.4])
    assert np.isnan(size_of(SEARCH.iloc[3:]).box[1]).all()
    assert np.isnan(size_of(SEARCH, 300).box[1]).all()


def test_where_ddpm_copies_nothing_there_is_no_hypervolume() -> None:
    rows = SEARCH.assign(memorization=SEARCH.memorization.where(SEARCH.method != "ddpm", 0.0))
    assert np.isnan(size_of(rows).normalized_hypervolume(rows))
    assert np.isnan(size_of(rows, 300).normalized_hypervolume(rows))


def test_repeats_are_one_point_of_the_frontier() -> None:
    points = size_of(SEARCH.assign(fid_se=3.0)).configurations
    ddpm, *others = points.to_dict("records")
    assert (ddpm["trial_id"], ddpm["seeds"]) == ("n100-ddpm-s0", 3)
    assert (ddpm["fid"], ddpm["memorization"]) == pytest.approx((100.0, 0.4))
    assert ddpm["fid_se"] == pytest.approx(3 / np.sqrt(3))
    assert [other["trial_id"] for other in others] == ["t0", "t2", "t3"]
    assert [other["fid_se"] for other in others] == [3.0] * 3
    assert size_of(SEARCH, 100).frontier.trial_id.tolist() == ["t3", "t0", "t2"]
    assert size_of(SEARCH.iloc[:3], 100).frontier[["fid", "memorization"]].to_numpy().tolist() == [
        pytest.approx([100.0, 0.4])
    ]


def repeats(trial_id: str, *figures: tuple[float, float], status: str = "complete") -> pd.DataFrame:
    """The trial of SEARCH trained again with fresh seeds."""
    row = SEARCH[SEARCH.trial_id == trial_id].iloc[[-1]]
    again = [
        row.assign(
            trial_id=f"{trial_id}-c{k}", confirms=trial_id, fid=fid, memorization=memorization,
            recorded_at=100.0 + k, status=status,
        )
        for k, (fid, memorization) in enumerate(figures, 1)
    ]  # fmt: skip
    return pd.concat(again)


def confirmed_search(*more: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([SEARCH.assign(confirms=""), *more], ignore_index=True)


def test_a_confirmed_trial_counts_with_the_mean_of_its_fresh_seeds_alone() -> None:
    failed = repeats("t0", (1.0, 0.0), status="failed")
    rows = confirmed_search(repeats("t2", (160.0, 0.3), (170.0, 0.2)), failed)
    points = size_of(rows.assign(fid_se=2.0)).configurations.set_index("trial_id")
    assert sorted(points.index) == ["n100-ddpm-s0", "t0", "t2", "t3"]
    assert points.loc["t2", ["fid", "memorization", "seeds", "confirmed"]].tolist() == [165, 0.25, 2, True]
    assert points.fid_se["t2"] == pytest.approx(2 / np.sqrt(2))
    assert points.loc["t0", ["fid", "memorization", "seeds", "confirmed"]].tolist() == [100, 0.2, 1, False]
    assert set(points.confirms) == {""}
    assert size_of(rows, 100).frontier.trial_id.tolist() == ["t3", "t0"]
    history = size_of(rows).hypervolume_history
    assert history.trial_id.tolist()[-2:] == ["t2-c1", "t2-c2"]
    box = 200 * 0.4
    assert history.hypervolume.tolist()[-3:] == pytest.approx([25 / box, 20 / box, 20 / box])


def test_the_history_adds_up_what_every_training_cost_and_what_the_front_had_reached() -> None:
    history = size_of(SEARCH).hypervolume_history
    assert history.trial_id.tolist() == [f"n100-ddpm-s{k}" for k in range(3)] + ["t0", "t2", "t3"]
    # two halves of t0 and the half that t1 was stopped after lie between the baselines and t0's end
    assert history.trainings.tolist() == [1.0, 2.0, 3.0, 4.5, 5.5, 6.5]
    box = 200 * 0.4
    # the first seed copies less than the mean of all
    first, second, third, *searching = history.hypervolume
    assert (first, second) == pytest.approx((110 * 0.1 / box, 0.0))
    assert third == pytest.approx(0.0)
    assert searching == pytest.approx([100 * 0.2 / box, (100 * 0.2 + 50 * 0.1) / box, 25 / box])
    shuffled = SEARCH.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(size_of(shuffled).hypervolume_history, history)


def test_a_table_without_times_has_no_history() -> None:
    assert size_of(SEARCH.assign(recorded_at=np.nan)).hypervolume_history.empty


STOPS = (250, 500, 750, 1000)


def trainings(seed: int) -> pd.DataFrame:
    """Trainings measured at some of STOPS: DDPM's seeds, trials, repeats of some at one of them, controls."""
    rng = np.random.default_rng(seed)

    def rungs(trial_id: str, method: str, stops: list[int], **more: str) -> list[dict[str, object]]:
        return [
            {
                "trial_id": trial_id, "method": method, "images_seen": stop, "budget": stop / 1000,
                "rung": STOPS.index(stop) + 1, "n_samples": 50 if rng.random() < 0.1 else 100,
                "fid": float(rng.integers(10)), "memorization": float(rng.integers(10)) / 10, "fid_se": 1.0,
                "status": "complete", "confirms": "", "controls": "", "branched_at": 0, **more,
            }
            for stop in stops
        ]  # fmt: skip

    rows = [row for k in range(3) for row in rungs(f"ddpm-{k}", "ddpm", list(STOPS))]
    for k in range(5):
        reached = int(rng.integers(1, 5))
        status = ("paused", "running", "interrupted", "failed")[k % 4] if reached < 4 else "complete"
        rows += rungs(f"t{k}", "algorithm1", list(STOPS[:reached]), status=status)
        stop = int(rng.choice(STOPS[:reached]))
        for c in range(int(rng.integers(3))):
            rows += rungs(f"t{k}-c{c}", "algorithm1", [stop], confirms=f"t{k}")
            rows += rungs(f"t{k}-k{c}", "control", [stop], controls=f"t{k}")
    return pd.DataFrame(rows).assign(train_size=100, recorded_at=0.0)


def expected_points(frame: pd.DataFrame) -> dict[tuple[str, int], tuple[float, float, int, bool]]:
    """By configuration and stopping point, the long way: figures, number of trainings, whether confirmed."""
    most = max(row.n_samples for row in frame.itertuples() if row.budget == 1 and row.status == "complete")
    found: dict[tuple[str, int], list[tuple[float, float, bool]]] = {}
    for row in frame.itertuples():
        if row.status == "failed" or row.controls or row.n_samples != most:
            continue
        name = "ddpm" if row.method == "ddpm" else (row.confirms or row.trial_id)
        figures = (row.fid, row.memorization, bool(row.confirms))
        found.setdefault((name, row.images_seen), []).append(figures)
    points = {}
    for stop, seeds in found.items():
        repeats = [seed for seed in seeds if seed[2]]
        mean = np.mean([seed[:2] for seed in repeats or seeds], axis=0)
        points[stop] = (*mean.tolist(), len(repeats or seeds), bool(repeats))
    return points


@pytest.mark.parametrize("seed", range(12))
def test_the_any_budget_frontier_is_that_of_every_stopping_point(seed: int) -> None:
    frame = trainings(seed)
    size = size_of(frame.sample(frac=1, random_state=seed)).over("any")
    expected = expected_points(frame)
    names = size.points.trial_id.where(size.points.method != "ddpm", "ddpm")
    found = {
        (name, int(p.images_seen)): (p.fid, p.memorization, p.seeds, p.confirmed)
        for name, p in zip(names, size.points.itertuples(), strict=True)
    }
    assert found.keys() == expected.keys()
    for stop, figures in expected.items():
        assert found[stop] == pytest.approx(figures)
    on_front = {
        stop for stop, (fid, copies, *_) in expected.items()
        if not any(
            other[0] <= fid and other[1] <= copies and other[:2] != (fid, copies)
            for other in expected.values()
        )
    }  # fmt: skip
    front = size.frontier
    named = front.trial_id.where(front.method != "ddpm", "ddpm")
    assert set(zip(named, front.images_seen, strict=True)) == on_front
    assert size.over("any") is size
    assert size.over("full").over("any") is size
    assert "control" not in set(size.points.method) | set(size.over("full").points.method)


@pytest.mark.parametrize("seed", range(12))
def test_over_all_budgets_ddpm_is_what_it_is_at_its_best_stopping_point(seed: int) -> None:
    frame = trainings(seed).assign(n_samples=100)
    ddpm = frame[frame.method == "ddpm"]
    at = {stop: ddpm[ddpm.images_seen == stop] for stop in STOPS}
    means = {stop: rows.fid.mean() for stop, rows in at.items()}
    lowest = at[min(STOPS, key=means.__getitem__)]
    deviation = max(lowest.fid.std(ddof=1), (lowest.fid_se**2).mean() ** 0.5)
    best = min(stop for stop in STOPS if means[stop] <= lowest.fid.mean() + deviation / 3**0.5)
    baseline = size_of(frame).over("any").baseline
    assert (baseline.images_seen, baseline.seeds) == (best, 3)
    assert baseline["fid"].value == pytest.approx(means[best])
    assert size_of(frame).baseline.images_seen == 1000
    assert size_of(frame).full_images == 1000


def test_a_stopping_point_that_some_finished_seeds_lack_is_no_baseline() -> None:
    rows = trainings(0).assign(n_samples=100)
    ddpm = (rows.method == "ddpm") & (rows.images_seen == 500)
    lucky = rows.assign(fid=rows.fid.where(~ddpm, 0.0))
    assert size_of(lucky).over("any").baseline.images_seen == 500
    short = lucky[~(ddpm & (lucky.trial_id == "ddpm-0"))]
    assert size_of(short).over("any").baseline.images_seen != 500
    running = lucky.assign(status=lucky.status.where(lucky.trial_id != "ddpm-0", "running"))
    running = running[(running.trial_id != "ddpm-0") | (running.images_seen == 250)]
    assert size_of(running).over("any").baseline.images_seen == 500
    assert size_of(running).over("any").baseline.seeds == 2


def test_the_noise_of_a_point_is_that_of_ddpms_seeds_at_its_stopping_point() -> None:
    rows = trainings(3).assign(n_samples=100, fid_se=0.0)
    ddpm = rows.method == "ddpm"
    seeds = rows.trial_id.map({"ddpm-0": -1.0, "ddpm-1": 0.0, "ddpm-2": 1.0})
    rows = rows.assign(fid=rows.fid.where(~ddpm, 5.0 + seeds * rows.images_seen / 250))
    alone = rows[~(ddpm & (rows.images_seen == 250) & (rows.trial_id != "ddpm-0"))]
    points = size_of(alone).over("any").points
    expected = points.images_seen.map({250: 4.0, 500: 2.0, 750: 3.0, 1000: 4.0}) / np.sqrt(points.seeds)
    assert points.fid_sd.tolist() == pytest.approx(expected.tolist())


def test_a_table_without_controls_or_excesses_is_read_as_before() -> None:
    rows = trainings(1)
    older = rows[rows.controls == ""].drop(columns="controls")
    expected, found = (size_of(frame).over("any") for frame in (rows, older))
    assert found.points.fid.tolist() == expected.points.fid.tolist()
    assert found.baseline.similarity_excess is None
    told = rows.assign(similarity_mean=0.9, heldout_similarity_mean=0.8)
    assert size_of(told).over("any").baseline.similarity_excess == pytest.approx(0.1)
