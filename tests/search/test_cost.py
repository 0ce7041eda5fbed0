import pytest

from pareto_amb import search_spaces
from pareto_amb.config import SweepConfig
from pareto_amb.config_file import apply_overrides
from pareto_amb.search.cost import describe_plan, expected_trainings, planned_trainings
from pareto_amb.sweep_file import declare, parse_sweep

RUNGS = (0.25, 0.5, 0.75, 1.0)
SHAPE = [
    *(f"evaluation.rungs={list(RUNGS)}", "evaluation.probes=[0.125]", "evaluation.n_samples=1000"),
    *("training.images=96000", "search.trials=13", "search.confirm.candidates=2"),
]
"""Of the sweeps whose plans are read here, whatever their file says."""


def expected(trials: int, *changes: str) -> float:
    """What the searched trials alone cost, in full trainings."""
    alone = ["search.baseline_seeds=2", "search.confirm.seeds=0", f"search.trials={trials}"]
    rungs = [f"evaluation.rungs={list(RUNGS)}", "evaluation.probes=[0.125]"]
    config = apply_overrides(search_spaces.load("digits"), [*alone, *rungs, *changes])
    return expected_trainings(parse_sweep(config, "digits"), declare()) - 2


def without_probes(config: SweepConfig) -> SweepConfig:
    evaluation = config.evaluation.model_copy(update={"probes": ()})
    return config.model_copy(update={"evaluation": evaluation})


def test_without_early_stopping_every_trial_costs_one_training() -> None:
    assert expected(13, "search.early_stopping=false") == 13
    both = expected(13, "search.early_stopping=false", "space.train_size=[50, 100]")
    assert both == 2 * 13 + 2  # and another two baselines


@pytest.mark.parametrize("trials", [1, 4])
def test_a_search_too_short_to_extrapolate_saves_nothing(trials: int) -> None:
    assert expected(trials) == pytest.approx(trials)


def test_a_longer_search_saves_more_a_trial_but_each_gets_to_the_first_rung() -> None:
    shares = [expected(trials) / trials for trials in (8, 24, 100)]
    assert 1 > shares[0] > shares[1] > shares[2] > RUNGS[0]


@pytest.mark.parametrize(
    ("changes", "trainings", "generated", "words"),
    [
        ((), (16, 4, 4), 16 * 4 + 8, "and beside each of these its control"),
        (("search.controls=false",), (16, 4, 0), 16 * 4 + 4, "the best 2 again, each with 2 fresh seeds"),
        (("search.confirm.seeds=0",), (16, 0, 0), 16 * 4, "3 DDPM baselines"),
        (("evaluation.final_samples=5000",), (16, 4, 4), 16 * 4 + 8 + 11 * 4, "of them 11, baselines too"),
    ],
)
def test_the_plan_counts_repeats_controls_and_final_samples(
    changes: tuple[str, ...], trainings: tuple[int, ...], generated: int, words: str
) -> None:
    config = parse_sweep(apply_overrides(search_spaces.load("digits"), [*SHAPE, *changes]), "digits")
    assert planned_trainings(config, declare()) == trainings
    plan = "\n".join(describe_plan(config, declare()))
    assert f"{sum(trainings)} trainings" in plan
    assert words in plan
    assert f"at most {generated * 1000:,} images generated in all" in plan
    assert "probed at 12,032 images seen, where nothing is generated,\nmeasured at 24,000, 48,000" in plan
    assert "probed" not in "\n".join(describe_plan(without_probes(config), declare()))


def test_a_grid_costs_its_points_of_each_method_and_the_plan_says_so() -> None:
    lists = ["space.sigma_tn=[0.1, 0.4, 1, 2, 4]", "space.mix_ratio=[natural, 0.5]", "space.corruption=[0.3]"]
    grid = ["search.sampler=grid", "search.methods=[algorithm1, masking]", *lists]
    assert expected(24, "search.early_stopping=false", *grid) == 5 * 2 + 1
    both = expected(24, "search.early_stopping=false", "space.train_size=[50, 100]", *grid)
    assert both == 2 * 11 + 2
    assert expected(24, *grid) == pytest.approx(expected(10) + 1)  # a single masking is never extrapolated
    config = parse_sweep(apply_overrides(search_spaces.load("digits"), [*grid, "search.trials=10"]), "digits")
    repeats = config.n_confirmations(declare())
    assert planned_trainings(config, declare()) == (config.search.baseline_seeds + 11, repeats, repeats)
    assert "10 of algorithm1, 1 of masking" in describe_plan(config, declare())[1]


def test_branched_trials_cost_what_is_left_and_their_trainings_from_scratch_beside_it() -> None:
    whole, branch = "search.early_stopping=false", "search.branch_from=0.25"
    points = "search.confirm={candidates: 2, seeds: 0, points: 3}"
    assert expected(8, whole, branch, points) == pytest.approx(8 * 0.75 + 3)
    auto = "search.branch_from=auto"  # not known yet: from the first of them on
    assert expected(8, whole, auto, points) == pytest.approx(8 * (1 - 10_112 / 80_640) + 3)
    assert expected(1, "search.branch_from=0.75", points) == pytest.approx(0.25 + 3)
    assert 3 + 0.5 * 24 > expected(24, "search.branch_from=0.5", points) > 3 + 0.25 * 24
    config = parse_sweep(apply_overrides(search_spaces.load("digits"), [*SHAPE, branch]), "digits")
    assert planned_trainings(config, declare()) == (16, 8, 4)
    plan = "\n".join(describe_plan(config, declare()))
    assert "  trials go on from a baseline at 24,000 images;\n  4 of them are then trained" in plan
    assert "the best 2 again, each with 2 fresh seeds" in plan
    assert f"at most {(20 * 4 + 8) * 1000:,} images generated in all" in plan
