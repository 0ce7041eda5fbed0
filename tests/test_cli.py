"""What a user gets wrong, and what they read: one line on stderr, exit code 2, nothing written."""

import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pareto_amb.cli import app, main
from pareto_amb.commands.options import complete_encoder, complete_space
from pareto_amb.terminal import make_console

Done = subprocess.CompletedProcess[str]
COMMAND = [sys.executable, "-m", "pareto_amb"]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`run` in this process: imports are paid once."""

    def called(*arguments: str, cwd: Path) -> Done:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["pareto-amb", *arguments])
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(str(code or 0)), printed.out, printed.err)

    return called


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("pareto-amb: error: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "digit"], ["unknown search space 'digit'", "did you mean 'digits'"]),
        (["sweep", "mine.yaml"], ["mine.yaml: cannot be read"]),
        (["sweep"], ["name a search space"]),
        (["sweep", "smoke", "--set", "space.sigma=1"], ["space.sigma", "did you mean 'sigma_tn'"]),
        (["sweep", "smoke", "--set", "space.sigma_tn.low=9"], ["space.sigma_tn", "the range is empty"]),
        (["sweep", "smoke", "--set", "space.sigma_tn.low=-1"], ["space.sigma_tn.low", "greater than 0"]),
        (["sweep", "smoke", "--set", "space.mix_ratio=1"], ["space.mix_ratio", "between 0 and 1"]),
        (["sweep", "smoke", "--set", "space.train_size=[5000]"], ["space.train_size", "5000", "1797"]),
        (["sweep", "smoke", "--trials", "0"], ["search.trials", "greater than 0"]),
        (["sweep", "smoke", "--time-budget", "-1"], ["--time-budget"]),
        (["sweep", "smoke", "--set", "training.network.options.chanels=8"], ["no option 'chanels'"]),
        (["sweep", "--resume", "nowhere"], ["nowhere: not a run directory"]),
        (["sweep", "smoke", "--resume", "nowhere"], ["--resume RUN_DIR takes"]),
        (["sweep", "--recipe", "text", "--resume", "nowhere"], ["--resume RUN_DIR takes", "recipe"]),
        (["sweep", "ffhq300", "--recipe", "relased"], ["unknown recipe", "did you mean 'released'"]),
        (["sweep", "smoke", "--recipe", "text"], ["smoke: has no recipes"]),
        (["sweep", "ffhq300", "--set", "recipe=released"], ["--recipe NAME"]),
        (["spaces", "--recipe", "text"], ["need the name of a search space"]),
        (["report", "nowhere"], ["nowhere"]),
        (["recommend", "nowhere"], ["nowhere: not a run directory"]),
        (["train", "nowhere.yaml"], ["nowhere.yaml: cannot be read"]),
        (["sample", "nowhere.safetensors"], ["nowhere.safetensors: cannot be read"]),
        (["data", "prepare", "nowhere", "--output", "a.zip"], ["'nowhere': nothing there", "cifar10"]),
    ],
)
def test_bad_input_is_one_clear_line(
    call: Callable[..., Done], tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    assert_refused(call(*arguments, cwd=tmp_path), *words)
    assert list(tmp_path.iterdir()) == []


def sweep_of(path: str, *more: str) -> list[str]:
    changes = ["data.source=images", f"data.path={path}", "space.train_size=[4]", *more]
    return ["sweep", "smoke", *(word for change in changes for word in ("--set", change))]


def test_missing_empty_and_corrupt_data_are_named(call: Callable[..., Done], tmp_path: Path) -> None:
    assert_refused(call(*sweep_of("nowhere"), cwd=tmp_path), "nowhere")
    (tmp_path / "empty").mkdir()
    assert_refused(call(*sweep_of("empty"), cwd=tmp_path), "no images in")
    folder = tmp_path / "some"
    folder.mkdir()
    for k in range(12):
        noise = np.random.default_rng(k).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{k}.png")
    (folder / "bad.png").write_bytes((folder / "0.png").read_bytes()[:40])
    assert_refused(call(*sweep_of("some"), cwd=tmp_path), "bad.png")


def test_ffhq_without_its_data_says_where_it_comes_from(call: Callable[..., Done], tmp_path: Path) -> None:
    assert_refused(call("sweep", "ffhq300", cwd=tmp_path), "data.path", "NVlabs/ffhq-dataset")


REFUSED_AT_ONCE = """
import sys
from pareto_amb.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["pareto-amb", *line.split()]
    try:
        main()
    except SystemExit as end:
        print(end.code, sorted({"torch", "ray", "optuna", "mlflow"} & set(sys.modules)), line)
"""


def test_what_is_not_there_is_refused_before_anything_that_takes_seconds(tmp_path: Path) -> None:
    save_images(tmp_path / "some", "0.png", "1.png")
    wrong = {
        "sweep ffhq300": "data.path 'ffhq-64x64.zip': nothing at",
        "sweep folder": "data.path is missing",
        "sweep folder --set data.path=some": "dinov2_vitb14: no weights; download https://",
        "evaluate --generated some --train nowhere": "'nowhere': nothing there",
        "evaluate --generated some --train some": "dinov2_vitg14: no weights; download https://",
        "evaluate --run nowhere --checkpoint some": "nowhere: cannot be read",
        "encode nowhere --encoder inception_v3": "'nowhere': nothing there",
        "sample nowhere": "nowhere: cannot be read",
        "train nowhere": "nowhere: cannot be read",
        "data split folder --part train --output a.zip": "data.path is missing",
    }
    away = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", REFUSED_AT_ONCE], input="\n".join(wrong), cwd=tmp_path, capture_output=True,
        text=True, timeout=120, env={**os.environ, **away},
    )  # fmt: skip
    assert done.stdout.splitlines() == [f"2 [] {line}" for line in wrong]
    for said, words in zip(done.stderr.splitlines(), wrong.values(), strict=True):
        assert words in said


def test_a_dry_run_names_what_is_missing_and_measures_what_can_be(
    call: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    done = call("sweep", "laion10k", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    missing = [line.removeprefix("# missing: ") for line in done.stdout.splitlines() if "# missing" in line]
    starts = ["data.path 'laion-10k.zip'", "the weights of dinov2_vitg14, about 4,546 MB from https://",
              "the weights of inception_v3", "training.network.options.path: stabilityai/",
              "evaluation.clip_model: openai/"]  # fmt: skip
    assert [line.startswith(start) for line, start in zip(missing, starts, strict=True)] == [True] * 5
    monkeypatch.setattr("pareto_amb.search.cost.MEASURED_SECONDS", 0.3)
    changes = ["--set", "evaluation.fid_encoder=inception_v3", "--set", "training.batch_size=1"]
    done = call("sweep", "smoke", "--dry-run", *changes, cwd=tmp_path)
    lines = [line.lstrip("# ") for line in done.stdout.splitlines() if line.startswith("#")]
    assert lines[-6].startswith("missing: the weights of inception_v3")
    assert lines[-5].startswith("measured in ")
    assert "(in batches of 1), samples " in lines[-5]
    assert lines[-4].startswith("an estimate from that: about ")
    assert lines[-4].endswith("encoding (without inception_v3: weights that are not here)")
    assert [line.split()[0] for line in lines[-3:]] == ["about", "memory:", "there"]
    assert not (tmp_path / "runs").exists()


def test_an_encoder_of_auto_is_the_best_that_is_here_and_says_so(
    call: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETO_AMB_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "dinov2_vits14.pth").touch()
    auto = [f"evaluation.{role}_encoder=auto" for role in ("fid", "similarity")]
    changes = [word for change in auto for word in ("--set", change)]
    done = call("sweep", "smoke", "--dry-run", *changes, cwd=tmp_path)
    evaluation = yaml.safe_load(done.stdout)["evaluation"]
    assert evaluation["fid_encoder"] == "efficientnet_lite0"
    assert evaluation["similarity_encoder"] == "dinov2_vits14"
    assert "# evaluation.similarity_encoder: auto: dinov2_vits14, the best whose weights" in done.stdout
    assert "better: dinov2_vitg14, dinov2_vitl14, dinov2_vitb14 (pareto-amb weights fetch" in done.stdout


def test_a_sweep_is_called_after_its_images_or_as_it_is_told(
    call: Callable[..., Done], tmp_path: Path
) -> None:
    save_images(tmp_path / "My photos!", "0.png", "1.png")
    mine = ["--dry-run", "--set", "data.path=My photos!", "--set", "space.train_size=[2]"]
    theirs = [*mine[:-1], "space.train_size=[300]"]
    plan = yaml.safe_load(call("sweep", "folder-cpu", *mine, cwd=tmp_path).stdout)
    assert (plan["name"], plan["description"]) == ("My-photos", "")
    plan = yaml.safe_load(call("sweep", "folder-cpu", *mine, "--name", "1e5", cwd=tmp_path).stdout)
    assert plan["name"] == "1e5"
    plan = yaml.safe_load(call("sweep", "ffhq300", *theirs, cwd=tmp_path).stdout)
    assert plan["name"] == "ffhq300"
    assert plan["description"].startswith("300 FFHQ faces")


def test_no_help_names_a_page_that_a_wheel_lacks(call: Callable[..., Done], tmp_path: Path) -> None:
    told = call("spaces", "smoke", "--explain", cwd=tmp_path).stdout
    groups = [(app, ())]
    while groups:
        group, path = groups.pop()
        groups += [(found.typer_instance, (*path, str(found.name))) for found in group.registered_groups]
        for command in group.registered_commands:
            name = command.callback.__name__ if command.callback else ""
            told += call(*path, name, "--help", cwd=tmp_path).stdout
    assert "--fail-above" in told
    assert "--skip-uncaptioned" in told
    assert "docs/" not in told


def test_a_limit_needs_its_policy(call: Callable[..., Done], tmp_path: Path) -> None:
    refused = call("recommend", ".", "--max-memorization", "0.1", cwd=tmp_path)
    assert_refused(refused, "--max-memorization", "belongs to policy max-memorization")


def test_text_is_wrapped_between_words_on_a_terminal_and_whole_elsewhere() -> None:
    words = "note: the images of /data/a-folder-with-quite-a-long-name are not those of the run"
    for terminal, lines in (
        (True, ["note: the images of", "/data/a-folder-with-quite-a-long-name", "are not those of the run"]),
        (False, [words]),
    ):
        console = make_console()
        console._force_terminal, console.file, console.width = terminal, io.StringIO(), 24
        console.print(f"{words}\n  x")
        assert console.file.getvalue().splitlines() == [*lines, "  x"]


def test_spaces_and_encoders_are_completed() -> None:
    assert complete_space("folder") == ["folder", "folder-cpu"]
    assert complete_encoder("inc") == ["inception_v3"]
    assert "auto" in complete_encoder("")


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_named_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        assert_refused(run("sweep", "smoke", "--address", address, cwd=tmp_path), f"--address {address}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_directory_that_is_in_use_or_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert_refused(run("sweep", "smoke", "--output", "full", cwd=tmp_path), "full: is not empty")
    (tmp_path / "file").write_text("")
    assert_refused(
        run("sweep", "smoke", "--output", "file/run", cwd=tmp_path), "file is a file; name a folder"
    )


@pytest.mark.parametrize("content", ["a: 1", "recommendations: 3", "recommendations: [{train_size: 5}]"])
def test_what_is_not_a_recommendation_is_refused(
    call: Callable[..., Done], tmp_path: Path, content: str
) -> None:
    (tmp_path / "r.yaml").write_text(content)
    assert_refused(call("train", "r.yaml", cwd=tmp_path), "r.yaml")


def test_what_is_not_a_checkpoint_is_refused_and_never_unpickled(
    call: Callable[..., Done], tmp_path: Path
) -> None:
    (tmp_path / "c.safetensors").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    assert_refused(
        call("sample", "c.safetensors", cwd=tmp_path), "c.safetensors: not a pareto-amb checkpoint"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_dry_run_prints_the_whole_plan_and_its_cost_and_starts_nothing(
    call: Callable[..., Done], tmp_path: Path
) -> None:
    done = call("sweep", "digits", "--dry-run", "--trials", "5", cwd=tmp_path)
    assert done.returncode == 0
    assert "rho: 7.0" in done.stdout
    assert "# 12 trainings" in done.stdout
    assert "images seen by each that runs to the end, about" in done.stdout
    whole = call("sweep", "digits", "--dry-run", "--set", "search.early_stopping=false", cwd=tmp_path)
    assert f"# 80,640 images seen by each, {17 * 80_640:,} in all" in whole.stdout
    assert "#   and after the search the best 1 again, each with 2 fresh seeds" in whole.stdout
    assert f"#   {(13 * 4 + 4) * 1000:,} images generated in all" in whole.stdout
    alone = call("sweep", "digits", "--dry-run", "--set", "search.confirm.seeds=0", cwd=tmp_path)
    assert "fresh seeds" not in alone.stdout.split("# 13 trainings")[1]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_the_range_that_auto_finds(call: Callable[..., Done], tmp_path: Path) -> None:
    auto = ["--set", "space.sigma_tn=auto", "--set", "space.train_size=[50, 100]"]
    done = call("sweep", "digits", "--dry-run", *auto, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = yaml.safe_load(done.stdout)["space"]["sigma_tn"]
    assert list(found) == ["50", "100"]
    for size, searched in found.items():
        assert (
            f"# sigma_tn: auto: with {size} images collapse level {searched['collapse_level']}" in done.stdout
        )
        assert 0.6 < searched["collapse_level"] < 1.0
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_the_recipe_in_full_and_names_the_others(
    call: Callable[..., Done], tmp_path: Path
) -> None:
    figure_1 = ["--set", "space.sigma_tn=[0.1, 0.4, 1, 2, 4]", "--set", "search.sampler=grid"]
    for recipe, other, images, rate in (
        ("text", "released", 7_680_000, 0.12),
        ("released", "text", 30_000_000, 0.15),
    ):
        done = call("sweep", "ffhq300", "--recipe", recipe, "--dry-run", *figure_1, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        plan = yaml.safe_load(done.stdout)
        assert plan["recipe"] == recipe
        assert "recipes" not in plan
        assert (plan["training"]["images"], plan["training"]["augment_probability"]) == (images, rate)
        assert (plan["space"]["sigma_tn"], plan["search"]["sampler"]) == ([0.1, 0.4, 1.0, 2.0, 4.0], "grid")
        assert f"# recipe: {recipe}\n#   --recipe {other}: {{training.images: " in done.stdout
        printed = call("spaces", "ffhq300", "--recipe", recipe, cwd=tmp_path).stdout
        assert printed.startswith(f"# recipe: {recipe}\n#   --recipe {other}: ")
        assert yaml.safe_load(printed)["training"] == plan["training"]
    assert list(tmp_path.iterdir()) == []


def test_what_is_set_wins_over_the_recipe(call: Callable[..., Done], tmp_path: Path) -> None:
    mine = ["--set", "training.images=256000", "--recipe", "released"]
    done = call("sweep", "ffhq300", "--dry-run", *mine, cwd=tmp_path)
    plan = yaml.safe_load(done.stdout)
    assert (plan["recipe"], plan["training"]["images"]) == ("released", 256_000)
    assert plan["training"]["augment_probability"] == 0.15


def test_the_recipe_of_every_cell_is_in_the_dry_run(call: Callable[..., Done], tmp_path: Path) -> None:
    save_images(tmp_path / "set", "0.png", "1.png")
    call("data", "prepare", "set", "--resolution", "32", "--output", "tiny.zip", cwd=tmp_path)
    done = call("sweep", "cifar10", "--set", "data.path=tiny.zip", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"path: {tmp_path / 'tiny.zip'}\n" in done.stdout
    assert "# 105 trainings: for each of the train sizes 300, 1000, 3000," in done.stdout
    assert "# 7,680,000 images seen by each" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_the_folder_space_asks_for_the_folder(call: Callable[..., Done], tmp_path: Path) -> None:
    assert_refused(call("sweep", "folder", cwd=tmp_path), "data.path is missing", "--set data.path=")
    save_images(tmp_path / "set", "0.png", "1.png")
    plain = [f"evaluation.{role}_encoder=pixels" for role in ("fid", "similarity")]
    changes = [word for change in ("data.path=set", *plain) for word in ("--set", change)]
    refused = call("sweep", "folder", *changes, cwd=tmp_path)
    assert_refused(refused, "space.train_size: 300 is more than the 2 images of set")


def save_images(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
    return folder


def test_prepared_data_says_what_it_is_in_one_line(call: Callable[..., Done], tmp_path: Path) -> None:
    save_images(tmp_path / "set", "a/0.png", "b/0.png", "b/1.png")
    done = call("data", "prepare", "set", "--output", "set.zip", "--resolution", "8", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "set.zip: 3 images of 8 x 8, 2 classes\n"
    assert_refused(call("data", "prepare", "set", "--output", "set.zip", cwd=tmp_path), "is already there")


def test_prepared_data_leaves_out_what_it_is_told_to(call: Callable[..., Done], tmp_path: Path) -> None:
    source = save_images(tmp_path / "set", "0.png", "1.png", "2.png")
    (source / "0.txt").write_text("a fox")
    (source / "1.txt").write_text("another fox")
    (source / "1.png").write_bytes(b"no image")
    prepare = ("data", "prepare", "set", "--resolution", "8", "--output")
    assert_refused(call(*prepare, "set.zip", cwd=tmp_path), "'2.png'", "--skip-uncaptioned", "--no-captions")
    refused = call(*prepare, "set.zip", "--no-captions", cwd=tmp_path)
    assert_refused(refused, "'1.png': broken", "--skip-corrupt")
    done = call(*prepare, "set.zip", "--skip-uncaptioned", "--skip-corrupt", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "note: images without a caption are left out: 1 of 3",
        "note: broken images are left out: 1 of 2 ('1.png')",
        "set.zip: 1 images of 8 x 8, no labels, captions",
    ]
    done = call(*prepare, "all.zip", "--no-captions", "--skip-corrupt", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "all.zip: 2 images of 8 x 8, no labels"


def test_spaces_and_version(tmp_path: Path) -> None:
    listed = run("spaces", cwd=tmp_path).stdout
    named = [line.split()[0] for line in listed.splitlines()]
    paper = ["cifar10", "ffhq", "ffhq-table2", "ffhq300", "tiny-imagenet"]
    text = ["captioned-digits", "captions", "laion10k"]
    assert named == sorted([*paper, *text, "digits", "folder", "folder-cpu", "smoke"])
    assert run("--version", cwd=tmp_path).stdout.startswith("pareto-amb ")
