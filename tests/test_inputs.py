"""Nothing that is handed in ends in a traceback, a wait, or a terminal that obeys it."""

import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from rich.live import Live
from rich.table import Table

from pareto_amb import search_spaces
from pareto_amb.cli import main
from pareto_amb.config_file import apply_overrides, read_yaml
from pareto_amb.data.stream import open_stream
from pareto_amb.errors import UserError, print_fault
from pareto_amb.evaluation.encoders import load_encoder
from pareto_amb.interface import sweep
from pareto_amb.printable import PrintableStream, printable
from pareto_amb.reading import expand, look_at, read_file
from pareto_amb.running.claim import claimed
from pareto_amb.sweep_file import parse_sweep, parse_training
from pareto_amb.terminal import make_console

CANARY = "\x1b]0;pwned\x07"
RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def run(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["pareto-amb", *arguments]
    try:
        with chdir(cwd), redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = argv
    return int(str(code or 0)), out.getvalue(), err.getvalue()


def smoke(*changes: str) -> Any:
    return parse_sweep(apply_overrides(search_spaces.load("smoke"), changes), "smoke")


# --- values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("seed=9223372036854775807", "seed: Input should be less than"),
        ("seed=true", "seed: Input should be a valid number (got True)"),
        ("seed='1'", "seed: Input should be a valid number (got '1')"),
        ("seed=1.5", "seed"),
        ("name=1e5", "name: Input should be a valid string"),
        ("name='a/b'", "name"),
        ("name=" + "x" * 65, "name"),
        ('name="a\\n"', "name"),
        ('data.path="a\\nb"', "data.path: holds a control character: a\\nb"),
        ("data.path=''", "data.path"),
        ("data.path=" + "x" * 5000, "data.path"),
        ('storage="s3://a\\tb"', "storage: holds a control character"),
        ("data.resolution=0", "data.resolution"),
        ("data.resolution=100000", "data.resolution"),
        ("data.resolution=9", "resolution 9 must be divisible by 2"),
        ("data.channels=true", "data.channels: Input should be a valid number"),
        ("training.betas=[0.9, -1]", "training.betas.1"),
        ("training.betas=[1, 0.9]", "training.betas: Input should be less than 1"),
        ("training.betas=[0.9]", "training.betas.1"),
        ("training.betas=['0.9', 0.9]", "training.betas"),
        ("training.batch_size=1e9", "training.batch_size"),
        ("training.weight_decay=-1", "training.weight_decay"),
        ("training.weight_decay=.nan", "training.weight_decay"),
        ("training.learning_rate=1e300", "training.learning_rate"),
        ("training.lr_warmup_images=1e300", "training.lr_warmup_images"),
        ("training.ema_rampup_ratio=.inf", "training.ema_rampup_ratio"),
        ("training.noise.p_mean=1e9", "training.noise.p_mean"),
        ("training.noise.p_std=0", "training.noise.p_std"),
        ("training.checkpoint_seconds=0", "training.checkpoint_seconds"),
        ("training.augment_probability=2", "training.augment_probability"),
        ("sampling.sigma_min=90", "sigma_min must be below sigma_max"),
        ("sampling.sigma_max=1e300", "sampling.sigma_max"),
        ("sampling.rho=1e-300", "sampling.rho"),
        ("sampling.steps=1e9", "sampling.steps"),
        ("evaluation.n_samples=1e15", "evaluation.n_samples"),
        ("evaluation.thresholds=[]", "evaluation"),
        ("evaluation.thresholds=[" + "0.5," * 101 + "]", "evaluation.thresholds"),
        ("search.trials=1e12", "search.trials"),
        ("search.confirm.seeds=1e12", "search.confirm.seeds"),
        ("resources.gpus_per_trial=1.5", "gpus_per_trial 1.5"),
        ("resources.gpus_per_trial=nan", "resources.gpus_per_trial"),
        ("resources.gpus_per_trial=5", "batch_size 64 cannot be shared evenly by resources.gpus_per_trial 5"),
        ("resources.cpus_per_trial=0", "resources.cpus_per_trial"),
        ("space.train_size=['50']", "space.train_size"),
        ("space.sigma_tn={low: true, high: 2}", "space.sigma_tn.low"),
        ("space.mix_ratio=[.nan]", "space.mix_ratio"),
        ("1=2", "unknown key '1'"),
        ("space.null=2", "unknown key 'space.null'"),
        ("seed={1: 2, 1: 3}", "the key '1' is there twice"),
        ("training.network.options.chanels=8", "no option 'chanels': did you mean"),
        ("training.network.options.num_blocks=-1", "option num_blocks: Input should be greater"),
        ("training.network.options.num_blocks=true", "option num_blocks: Input should be a valid integer"),
        ("training.network.options.dropout=1", "option dropout: Input should be less than 1"),
        ("training.network.options.dropout='0.1'", "option dropout: Input should be a valid number"),
        ("training.network.options.channel_mult=[]", "option channel_mult"),
        ("training.network.options.channel_mult=[1, -2]", "option channel_mult"),
        ("training.network.options.channel_mult=[1, 1, 1, 1, 1]", "must be divisible by 16"),
        ("training.network.options.attn_resolutions=[0.5]", "option attn_resolutions"),
        ("training.network.options.model_channels=132", "must be divisible by num_groups"),
        ("training.network.options.filter_taps=[1, 2, 3]", "cannot be built"),
        ("training.network.options={attn_resolutions: [8], channels_per_head: 64}", "cannot be built"),
        ("training.network.options={model_channels: 4096, channel_mult: [64, 64]}", "parameters, more than"),
        ("training.network.options=[1]", "training.network.options"),
    ],
)
def test_a_value_beyond_reason_is_refused_before_anything_starts(change: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        smoke(change)
    assert words in str(caught.value)
    assert len(printable(caught.value)) < 500


def test_numbers_and_words_that_were_taken_are_taken_still() -> None:
    config = smoke("training.images=7_680", "training.learning_rate=1e-4", "training.horizontal_flip=yes")
    assert (config.training.images, config.training.learning_rate) == (7680, 1e-4)
    assert config.training.horizontal_flip is True
    assert smoke("space.mix_ratio=1e-1").space["mix_ratio"] == (0.1,)
    assert smoke("training.network.options={dropout: 1e-1, filter_taps: [1, 3, 3, 1]}")
    assert smoke("space.sigma_tn={50: {low: 1, high: 2}}")


def test_train_refuses_a_level_above_what_is_sampled() -> None:
    block = {"data": {"source": "digits", "resolution": 8, "channels": 1}, "training": {}}
    with pytest.raises(UserError, match=r"parameters.sigma_tn 81 is above sampling.sigma_max 80"):
        parse_training({**block, "parameters": {"sigma_tn": 81, "mix_ratio": 0.5}}, "r")
    assert parse_training({**block, "parameters": {"sigma_tn": 80, "mix_ratio": 0.5}}, "r")
    for wrong in ("1", True):
        with pytest.raises(UserError, match=r"parameters\.sigma_tn: Input should be a valid number"):
            parse_training({**block, "parameters": {"sigma_tn": wrong, "mix_ratio": 0.5}}, "r")


@pytest.mark.parametrize("minutes", ["nan", "-1", "0", "inf", "1e300"])
def test_a_time_that_does_not_pass_is_no_budget(tmp_path: Path, minutes: str) -> None:
    code, out, err = run("sweep", "smoke", f"--time-budget={minutes}", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "--time-budget" in err
    for given_minutes in (float(minutes), True, "5"):
        with pytest.raises(UserError, match="sweep: minutes"):
            sweep("smoke", minutes=given_minutes)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


odd_keys = st.sampled_from([1, None, (), 0.5, "low", "kind"])
plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**400, -(10**30), 10**4000, 1j, b"x", "auto", "\x1b", "\ud800", {1}]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | odd_keys, inner, max_size=3)
    ),
    max_leaves=8,
)
shipped = search_spaces.load("smoke")
key_paths = [
    *shipped,
    *(f"{section}.{key}" for section, part in shipped.items() if isinstance(part, dict) for key in part),
    *("training.noise", "sampling.rho", "training.betas", "storage"),
]


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(key_paths), plain_values, max_size=3))
def test_any_values_make_a_sweep_or_one_line(changes: dict[str, Any]) -> None:
    values: dict[str, Any] = json.loads(json.dumps(shipped))
    for path, value in changes.items():
        section, _, key = path.partition(".")
        if key and isinstance(values.get(section), dict):
            values[section][key] = value
        else:
            values[section] = value
    with suppress(UserError):
        parse_sweep(values, "any")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_a_sweep_file_or_one_line(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.yaml"
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            parse_sweep(read_yaml(path), str(path))
        assert len(printable(caught.value)) < 700


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=30)
    | st.tuples(st.sampled_from(key_paths), st.text("[]{}&*!0123456789.e-~x: ", max_size=30)).map("=".join)
)
def test_any_text_is_an_override_or_one_line(override: str) -> None:
    with suppress(UserError):
        smoke(override)


# --- paths ------------------------------------------------------------------------------------------


@pytest.fixture
def things(tmp_path: Path) -> Iterator[list[str]]:
    """What is no file, by path."""
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "circle.yaml").symlink_to(tmp_path / "circle.yaml")
    with socket.socket(socket.AF_UNIX) as server, chdir(tmp_path):
        server.bind("socket.yaml")
        yield [
            *("fifo.yaml", "folder.yaml", "zero.yaml", "circle.yaml", "socket.yaml", "/dev/zero", "/dev/tty"),
            *(
                "x" * 300,
                "x" * 300 + ".yaml",
                "~nobody/x.yaml",
                "fifo.yaml/x",
                "a\nb.yaml",
                "[red]x.yaml",
                "",
            ),
            *(os.fsdecode(b"\xff.yaml"), f"{CANARY}.yaml", "\u202e.yaml", "x/" * 3000, "fifo.yaml/x.yaml"),
        ]


COMMANDS = [
    ["spaces", "PATH"],
    ["sweep", "PATH", "--dry-run"],
    [
        "sweep",
        "smoke",
        "--dry-run",
        "--set",
        "data.source=images",
        "--set",
        "data.path=PATH",
        "--set",
        "space.sigma_tn=auto",
    ],
    ["report", "PATH"],
    ["recommend", "PATH"],
    ["train", "PATH"],
    ["sample", "PATH"],
    ["scan", "PATH"],
    ["scan", "digits", "--recommendation", "PATH"],
    ["scan", "digits", "--pipeline", "PATH"],
    ["encode", "PATH", "--encoder", "pixels", "--output", "made.npz"],
    ["data", "prepare", "PATH", "--output", "made.zip"],
    ["evaluate", "--generated", "PATH", "--train", "PATH", "--encoder", "pixels", "--no-cache"],
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:3]))
def test_what_is_no_file_is_refused_at_once_in_one_printable_line(
    tmp_path: Path, things: list[str], command: list[str]
) -> None:
    before = sorted(entry.name for entry in tmp_path.iterdir())
    for thing in things:
        code, out, err = run(*(word.replace("PATH", thing) for word in command), cwd=tmp_path)
        assert code == 2, (thing, out, err)
        assert err.startswith("pareto-amb: error: "), (thing, err)
        assert err.count("\n") == 1
        assert not RAW.search(out + err), (thing, err)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before


OUTPUTS = [
    ["scan", "digits", "--train-size", "9", "--output", "PATH"],
    ["data", "prepare", "images", "--output", "PATH", "--resolution", "8"],
    ["encode", "images", "--encoder", "pixels", "--no-cache", "--output", "PATH"],
]


@pytest.mark.parametrize("command", OUTPUTS, ids=lambda command: command[0])
def test_what_cannot_be_written_is_refused_in_one_line_and_left_as_it_is(
    tmp_path: Path, things: list[str], command: list[str]
) -> None:
    noise_images(tmp_path / "images", 3)
    before = sorted(tmp_path.iterdir())
    stays = {
        "a\nb.yaml",
        "[red]x.yaml",
        os.fsdecode(b"\xff.yaml"),
        f"{CANARY}.yaml",
        "\u202e.yaml",
        "~nobody/x.yaml",
    }
    for thing in {*things, "/dev/full"} - stays - {"zero.yaml", "/dev/zero", "/dev/tty"}:
        code, out, err = run(*(word.replace("PATH", thing) for word in command), cwd=tmp_path)
        assert code == 2, (thing, out, err)
        assert err.startswith("pareto-amb: error: "), (thing, err)
        assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
    assert Path("/dev/full").is_char_device()


def test_a_weights_file_is_a_regular_one(things: list[str]) -> None:
    for thing in things:
        with pytest.raises(UserError):
            load_encoder("efficientnet_lite0", weights=thing)


@pytest.mark.parametrize("place", ["x" * 300, "a\0b", "zero.yaml", "fifo.yaml/x", "circle.yaml"])
def test_a_run_directory_that_cannot_be_is_refused(things: list[str], place: str) -> None:
    assert place in things or place[0] in "xa"
    with pytest.raises(UserError), claimed(Path(place), resumed=False):
        pytest.fail("must be refused")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=12), st.sampled_from(COMMANDS))
def test_any_text_is_a_path_or_one_line(text: str, command: list[str]) -> None:
    if text.startswith("-") or text in {"digits", "cifar10"} or "\0" in text:
        return
    with TemporaryDirectory() as folder:
        code, out, err = run(*(word.replace("PATH", text) for word in command), cwd=Path(folder))
        assert code in {0, 2}, (out, err)
        assert not RAW.search(out + err)
        assert "internal error" not in err


def test_reading_is_bounded_and_never_waits(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"x" * 100)
    assert read_file(path, 100) == b"x" * 100
    with pytest.raises(UserError, match="larger than 99 bytes"):
        read_file(path, 99)
    os.truncate(path, 2**40)  # sparse
    with pytest.raises(UserError, match="larger than"):
        read_file(path, 2**30)
    assert read_file(Path("/proc/self/status"), 2**20)  # a regular file that says it is empty
    for nothing in ("nothing", "big/x"):
        assert look_at(tmp_path / nothing) is None
    with pytest.raises(UserError, match="File name too long"):
        look_at(tmp_path / ("x" * 300))
    with pytest.raises(UserError, match="there is no such home"):
        expand("~nobody-of-that-name/x")


# --- what is printed --------------------------------------------------------------------------------


def noise_images(folder: Path, count: int, prefix: str = "") -> Path:
    folder.mkdir(parents=True)
    for k in range(count):
        noise = np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{prefix}{k}.png")
    return folder


@pytest.mark.parametrize("name", [CANARY, "\u202ex", "[red]x", ":smile:", os.fsdecode(b"\xff")])
def test_names_are_printed_so_that_they_can_be_read_and_not_obeyed(tmp_path: Path, name: str) -> None:
    noise_images(tmp_path / "set", 5, name)
    for command, made in (
        (["data", "prepare", "set", "--resolution", "4"], "zip"),
        (["scan", "set", "--resolution", "8"], "html"),
        (["encode", "set", "--encoder", "pixels", "--no-cache"], "npz"),
    ):
        code, out, err = run(*command, "--output", f"{name}.{made}", cwd=tmp_path)
        assert (code, err) == (0, "")
        assert f"{printable(name)}.{made}" in out
        assert not RAW.search(out)
    (tmp_path / "set" / f"{name}9.png").write_bytes(b"broken")
    for command in (["scan", "set"], ["encode", "set", "--encoder", "pixels", "--output", "new.npz"]):
        code, out, err = run(*command, cwd=tmp_path)
        assert code == 2
        assert not RAW.search(out + err)
        assert err.count("\n") == 1


def test_labels_that_are_wrong_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    folder = noise_images(tmp_path / "set", 2)
    for labels in ([[CANARY, 0]], [["0.png", CANARY]], CANARY):
        (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
        code, out, err = run("data", "prepare", "set", "--output", "x.zip", cwd=tmp_path)
        assert code == 2
        assert not RAW.search(out + err)


def test_arguments_that_are_wrong_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    for arguments in (
        [f"--{CANARY}"],
        [CANARY],
        ["spaces", CANARY],
        ["sweep", "smoke", "--set", CANARY],
        ["sweep", "smoke", "--set", f"name={CANARY}"],
        ["sweep", "smoke", "--set", f'description="\\e{CANARY[1:-1]}"'],
    ):
        code, out, err = run(*arguments, cwd=tmp_path)
        assert code == 2
        assert "pwned" in err
        assert not RAW.search(out + err), err


@pytest.mark.parametrize("terminal", [False, True])
def test_a_console_writes_no_control_characters_but_its_own(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdout", PrintableStream(out))
    console = make_console()
    table = Table(f"head {CANARY}", title=f"[link=x]title[/link] {CANARY}")
    table.add_row(f"[bold]cell[/bold] {CANARY}", style="bold")
    console.print(table)
    console.print(f"line {CANARY} :smile: [red]x[/red]")
    with Live(table, console=console):
        print(f"beside {CANARY}")
    print(f"plain {CANARY}", file=sys.stdout)
    text = out.getvalue()
    assert "\x1b]0" not in text
    assert "\x07" not in text
    assert "\\x1b]0;pwned\\x07" in text
    assert "[bold]cell[/bold]" in text
    assert ":smile: [red]x[/red]" in text
    assert ("\x1b[1m" in text) == terminal  # its own
    assert isinstance(console, Console)


# --- faults -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [KeyError("x"), MemoryError(), RecursionError("deep"), RuntimeError(f"a\n{CANARY}"), OSError(5, "I/O")],
)
def test_a_fault_is_one_line_and_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def fail(name: str, recipe: str | None = None) -> None:
        raise fault

    monkeypatch.setattr(search_spaces, "load", fail)
    code, out, err = run("spaces", "postgresql://me:secret@host/x", cwd=tmp_path)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"pareto-amb: internal error: .+; details in \S+\.log; please report it\n", err)
    assert not RAW.search(err)
    log = Path(err.split("details in ")[1].split(";")[0])
    assert log.parent == tmp_path / "state" / "pareto-amb"
    assert log.stat().st_mode & 0o777 == 0o600
    content = log.read_text()
    assert "Traceback" in content
    assert "secret" not in content


def test_a_fault_without_a_place_for_its_log_is_still_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "file"))
    print_fault(ValueError("x"))
    assert capsys.readouterr().err == (
        "pareto-amb: internal error: x; details could not be written anywhere; please report it\n"
    )


def test_a_full_disk_is_no_fault_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, recipe: str | None = None) -> None:
        raise OSError(28, "No space left on device", "place")

    monkeypatch.setattr(search_spaces, "load", fail)
    code, _, err = run("spaces", "x", cwd=tmp_path)
    assert (code, err) == (1, "pareto-amb: error: place: cannot be written (No space left on device)\n")


@pytest.mark.slow
def test_a_reader_that_goes_and_a_full_output_end_a_command_quietly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pareto_amb", "spaces", "--schema"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait(60)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_a_stream_of_images_that_is_no_file_is_refused(things: list[str]) -> None:
    before = threading.active_count()
    for thing in things:
        if thing:  # the empty path is the current folder
            with pytest.raises(UserError), open_stream(Path(thing)):
                pass
    assert threading.active_count() <= before
