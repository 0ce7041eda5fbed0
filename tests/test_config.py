import re
import time
from pathlib import Path

import pytest
import yaml

from pareto_amb import search_spaces
from pareto_amb.config import AutoRange, Range, SweepConfig
from pareto_amb.config_file import apply_overrides, read_yaml, to_yaml
from pareto_amb.declared import Declared, MethodInfo, Parameter
from pareto_amb.errors import UserError
from pareto_amb.sweep_file import declare, parse_sweep, parse_training


def resolve(*changes: str) -> SweepConfig:
    return parse_sweep(apply_overrides(search_spaces.load("smoke"), changes), "smoke")


@pytest.mark.parametrize("name", search_spaces.names())
def test_every_shipped_space_is_valid_and_survives_being_written_out(name: str) -> None:
    config = parse_sweep(search_spaces.load(name), name)
    assert config.name == name
    assert config.description
    written = yaml.safe_load(to_yaml(config))
    assert parse_sweep(written, "written") == config
    assert written["sampling"]["rho"] == 7.0  # defaults are written out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("trainign.images=3", "unknown key 'trainign': did you mean 'training'?"),
        ("data.pth=x", "unknown key 'data.pth': did you mean 'path'?"),
        ("training.noise.p_men=1", "unknown key 'training.noise.p_men': did you mean 'p_mean'?"),
        ("space.sigma_tn={low: 2, high: 1}", "space.sigma_tn: the range is empty"),
        ("space.sigma_tn={low: -1, high: 1}", "space.sigma_tn.low: must be greater than 0"),
        ("space.sigma_tn={low: 1}", "key 'space.sigma_tn.high' is missing"),
        ("space.sigma_tn.high=100", "space.sigma_tn.high 100.0 is above sampling.sigma_max 80.0"),
        ("space.sigma_tn=atuo", "must be greater than 0, or be the word auto (got 'atuo')"),
        ("space.sigma_tn=[0.3, 81]", "space.sigma_tn 81.0 is above sampling.sigma_max 80.0"),
        ("space.corruption=auto", "space.corruption: auto means nothing here"),
        ("space.sigma_tn=true", "space.sigma_tn: yes and no are no numbers"),
        (
            "space.mix_ratio={50: {low: 0.2, high: 0.6}}",
            "space.mix_ratio: ranges for each train size are",
        ),
        ("range=1", "unknown key 'range'"),
        ("space.float=1", "unknown key 'space.float'"),
        ("seed=2020-13-45", "seed: Input should be a valid number (got '2020-13-45')"),
        ("training.images=1" + "0" * 400, "training.images: Input should be less than"),
        ("space.sigma_tn={low: 1, high: 2, hihg: 3}", "'space.sigma_tn.hihg': did you mean 'high'?"),
        (
            "space.sigma_tn={low: 1, high: 2, collapse_level: 3}",
            "unknown key 'space.sigma_tn.collapse_level'",
        ),
        ("space.sigma_tn={50: {low: 1}}", "key 'space.sigma_tn.50.high' is missing"),
        (
            "space.sigma_tn={50: {low: 1, high: 2, collapse_level: 3, lwo: 1}}",
            "unknown key 'space.sigma_tn.50.lwo': did you mean 'low'?",
        ),
        ("space.sigma_tn={51: {low: 1, high: 2, collapse_level: 3}}", "sigma_tn must name each size"),
        ("space.sigma_tn={50: {low: 1, high: 81, collapse_level: 3}}", "sigma_tn.high 81.0 is above"),
        ("space.sigma_tn={}", "key 'space.sigma_tn.low' is missing"),
        (
            "space.mix_ratio=1.5",
            "space.mix_ratio.0: must lie strictly between 0 and 1, or be the word natural",
        ),
        ("space.mix_ratio=[natural, 0]", "space.mix_ratio.1: must lie strictly"),
        ("space.mix_ratio={low: 0.5, high: 0.2}", "space.mix_ratio: the range is empty"),
        ("space.mix_ratio=[]", "space.mix_ratio: needs at least one choice"),
        (
            "search.sampler=grid",
            "space.sigma_tn is a range; search.sampler grid needs a list, such as "
            "space.sigma_tn=[0.1, 0.447, 2]",
        ),
        ("space.train_size=[]", "space.train_size"),
        ("space.train_size=[50, 50]", "names a size twice"),
        ("evaluation.rungs=[0.5]", "rungs must rise strictly and end with 1"),
        ("evaluation.probes=[0.2, 0.1]", "evaluation: probes must rise strictly and lie before the first"),
        ("evaluation.probes=[0.1, 0.5]", "lie before the first of rungs, 0.5; [] for none"),
        ("evaluation.probes=[0]", "evaluation.probes: Input should be greater than 0"),
        ("evaluation.thresholds=[0.9]\u0000", "not YAML"),
        ("seed=-1", "seed: Input should be greater than or equal to 0"),
        ("name=../x", "name: String should match pattern"),
        ("training.learning_rate=.inf", "training.learning_rate: Input should be a finite number"),
        ("training.batch_size", "expected key=value"),
        ("=3", "expected key=value"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_it(change: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(change)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["search.branch_from=0.3"], "search.branch_from 0.3 is no share .* below 1; they are 0.125, 0.5$"),
        (["search.branch_from=1"], "search.branch_from"),
        (["search.branch_from=late"], "search.branch_from"),
        (
            ["search.branch_from=auto", "evaluation.probes=[]", "evaluation.rungs=[1]"],
            "search.branch_from auto is no share .* they are none$",
        ),
        (
            ["search.branch_from=auto", "search.sampler=grid", "space.sigma_tn=[1]", "space.mix_ratio=[0.5]"],
            "search.branch_from: a grid is for figures of trainings from scratch",
        ),
        (["search.branch_from=0.5", "search.patience=3"], "search.patience looks at the frontier"),
    ],
)
def test_what_cannot_be_branched_from_is_refused(changes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(*changes)


def test_the_rungs_that_trials_may_be_branched_at() -> None:
    assert resolve().branching_rungs() == ()
    assert resolve("search.branch_from=0.125").branching_rungs() == (1,)
    assert resolve("search.branch_from=0.5").branching_rungs() == (2,)
    assert resolve("search.branch_from=auto").branching_rungs() == (1, 2)
    default = ["evaluation.probes=null", "evaluation.rungs=[0.2, 1]"]
    assert resolve("search.branch_from=0.125", *default).branching_rungs() == (2,)
    assert resolve("search.branch_from=auto", *default).branching_rungs() == (1, 2, 3)


def test_a_grid_needs_lists_of_what_is_compared_and_no_more_points_than_trials() -> None:
    grid, listed = "search.sampler=grid", "space.sigma_tn=[0.1, 0.4]"
    config = resolve(grid, listed)  # two mix ratios; masking's corruption, a range, is not searched
    assert config.n_trials(declare()) == {"algorithm1": 4}
    for change, message in (
        ("space.sigma_tn=auto", "space.sigma_tn is auto; search.sampler grid needs a list"),
        ("search.methods=[masking]", "space.corruption is a range; search.sampler grid needs a list"),
        ("search.trials=3", "search.trials 3: the grid of algorithm1 has 4 points; raise it to 4"),
    ):
        with pytest.raises(UserError) as caught:
            resolve(grid, listed, change)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_overrides_set_nested_keys_and_leave_the_rest() -> None:
    config = resolve("training.network.options.model_channels=16", "space.mix_ratio=natural")
    assert config.training.network.options == {"model_channels": 16}
    assert config.training.network.name == "tiny"
    assert config.space["mix_ratio"] == ("natural",)


def test_rungs_are_whole_batches_and_end_at_the_budget() -> None:
    config = resolve("training.images=1000", "training.batch_size=32", "evaluation.rungs=[0.1, 0.5, 1]",
                     "evaluation.probes=[]")  # fmt: skip
    assert config.rung_images() == (96, 512, 992)
    assert config.first_full_rung == 1


@pytest.mark.parametrize(
    ("rungs", "probes", "images", "first"),
    [
        ("[0.354, 1]", "null", (6400, 12800, 25600, 36224, 102400), 4),
        ("[0.25, 1]", "null", (6400, 12800, 25600, 102400), 3),
        ("[0.125, 1]", "null", (6400, 12800, 102400), 2),
        ("[0.05, 1]", "null", (5120, 102400), 1),
        ("[0.25, 1]", "[]", (25600, 102400), 1),
        ("[0.25, 1]", "[0.2]", (20480, 25600, 102400), 2),
    ],
)
def test_probe_rungs_come_before_the_full_ones_and_are_numbered_with_them(
    rungs: str, probes: str, images: tuple[int, ...], first: int
) -> None:
    shape = ("training.images=102400", "training.batch_size=64")
    config = resolve(*shape, f"evaluation.rungs={rungs}", f"evaluation.probes={probes}")
    assert config.rung_images() == images
    assert config.first_full_rung == first
    assert config.full_rung_images() == images[first - 1 :]


def test_default_probes_that_do_not_fit_a_short_training_are_left_out() -> None:
    config = resolve("training.images=256", "training.batch_size=64", "evaluation.probes=null")
    assert config.rung_images() == (64, 128, 256)
    with pytest.raises(UserError, match=r"evaluation\.probes, and the first .* less than one batch apart"):
        resolve("training.images=256", "training.batch_size=64", "evaluation.probes=[0.1, 0.3]")


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no keys"),
        ("- 1\n- 2\n", "holds no keys"),
        ("a: [1", "not a YAML file"),
        (b"\xff\xfe\x00", "not a text file in UTF-8"),
        ("!!python/object/apply:os.system ['echo hi']", "not a YAML file"),
        ("x" * 1_100_000, "larger than"),
        ("[" * 5000, "not a YAML file"),
    ],
)
def test_an_unusable_file_is_refused_by_name(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path / "sweep.yaml", content)
    with pytest.raises(UserError, match=message) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_alias_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 10)]
    path = write(tmp_path / "bomb.yaml", "\n".join(lines))
    began = time.perf_counter()
    with pytest.raises(UserError, match="more than 10,000 values, aliases unfolded"):
        read_yaml(path)
    assert time.perf_counter() - began < 1


def test_a_missing_file_and_an_unknown_space_are_named() -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read"):
        search_spaces.load("nowhere.yaml")
    with pytest.raises(UserError, match="did you mean 'digits'"):
        search_spaces.load("digit")


def test_methods_that_compete_are_named_once_and_known() -> None:
    assert resolve().search.methods == ("algorithm1",)
    assert resolve("search.methods=[masking]").space["corruption"] == Range(low=0.1, high=0.9)
    for value in ("[masking, masking]", "[]", "[maskign]"):
        with pytest.raises(UserError, match=r"search"):
            resolve(f"search.methods={value}")


def test_sigma_tn_is_auto_unless_a_range_is_given() -> None:
    values = search_spaces.load("smoke")
    del values["space"]["sigma_tn"]
    space = parse_sweep(values, "smoke").space
    assert space["sigma_tn"] == "auto"
    assert space.auto_parameters() == ["sigma_tn"]
    with pytest.raises(UserError, match=r"space\.sigma_tn: auto has no range yet"):
        space.searched("sigma_tn", 50)
    given = resolve("space.sigma_tn={low: 0.2, high: 3}").space
    assert given.searched("sigma_tn", 50) == Range(low=0.2, high=3)


def test_ranges_by_size_survive_being_written_out() -> None:
    first, second = "{low: 0.02, high: 0.8, collapse_level: 1}", "{low: 0.01, high: 0.4, collapse_level: 0.5}"
    config = resolve("space.train_size=[50, 80]", f"space.sigma_tn={{50: {first}, 80: {second}}}")
    assert config.space.searched("sigma_tn", 80) == AutoRange(low=0.01, high=0.4, collapse_level=0.5)
    assert parse_sweep(yaml.safe_load(to_yaml(config)), "written") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.network.name=ncsnp", "unknown network 'ncsnp': did you mean 'ncsnpp'?"),
        ("sampling.solver=hune", "unknown solver 'hune': did you mean 'heun'?"),
        ("evaluation.fid_encoder=inception", "unknown encoder 'inception': did you mean 'inception_v3'?"),
        ("search.objectives=[fid, memorisation]", "unknown objective 'memorisation': did you mean"),
        ("search.objectives=[memorization, fid]", "objectives must begin with fid and memorization"),
    ],
)
def test_a_name_that_no_registry_has_is_refused_with_the_nearest_one(change: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        resolve(change)


def test_a_training_block_takes_parameters_where_older_files_have_them() -> None:
    block = {"data": {"source": "digits"}, "training": {}}
    new = parse_training({**block, "parameters": {"sigma_tn": 0.2, "mix_ratio": 0.5}}, "new")
    assert parse_training({**block, "sigma_tn": 0.2, "mix_ratio": 0.5}, "old") == new
    set_ = parse_training({**new.model_dump(mode="json"), "sigma_tn": 0.3}, "set")
    assert set_.parameters == {"sigma_tn": 0.3, "mix_ratio": 0.5}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sigma_tn": 0.2}, "are mix_ratio, sigma_tn"),
        ({"sigma_tn": -1, "mix_ratio": 0}, "sigma_tn must be at least 0"),
        ({"sigma_tn": 1, "mix_ratio": 1}, "mix_ratio must be at least 0 and below 1"),
    ],
)
def test_parameters_that_are_not_the_methods_are_refused(parameters: dict[str, float], message: str) -> None:
    block = {"data": {"source": "digits"}, "training": {}, "parameters": parameters}
    with pytest.raises(UserError, match=message):
        parse_training(block, "bad")


def test_what_auto_became_for_an_own_parameter_is_read_again_with_and_without_its_code() -> None:
    own = Parameter("dose", "dose", "how much", default="auto", auto=lambda images, seed, top: None)
    shipped = declare()
    declared = Declared(
        {**shipped.methods, "own": MethodInfo("own", "Own", "", parameters=(own,))}, shipped.objectives
    )
    config = parse_sweep(search_spaces.load("smoke"), "smoke", declared)
    assert config.space.auto_parameters() == ["dose"]
    space = config.space.with_ranges("dose", {50: AutoRange(low=0.1, high=0.2)})
    values = config.model_copy(update={"space": space}).model_dump(mode="json")
    for known in (declared, Declared.from_json(declared.to_json())):
        read = parse_sweep(values, "again", known).space.searched("dose", 50)
        assert read == AutoRange(low=0.1, high=0.2)
