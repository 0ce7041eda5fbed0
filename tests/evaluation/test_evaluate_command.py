"""`evaluate` and `encode` as a user runs them, on handwritten digits."""

import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from pareto_amb.cli import main
from pareto_amb.config import EvaluationConfig
from pareto_amb.errors import UserError
from pareto_amb.evaluation import encoders
from pareto_amb.evaluation.encoders import Encoder, load_encoder
from pareto_amb.evaluation.image_sets import evaluate_image_sets
from pareto_amb.evaluation.judges import load_clip
from pareto_amb.evaluation.trial import build_references, evaluate_samples
from pareto_amb.results.table import shipped

N_TRAIN, N_HELDOUT, N_NEW, N_COPIED = 300, 400, 180, 20


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and a folder to work in."""
    monkeypatch.setenv("PARETO_AMB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "cache"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["pareto-amb", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return call


def refused(done: Done, *words: str) -> None:
    """One line on stderr that holds `words`, exit code 2, and nothing written where the user works."""
    assert done.code == 2, done.out + done.err
    (line,) = done.err.splitlines()
    assert line.startswith("pareto-amb: error: ")
    for word in words:
        assert word in line
    assert not Path("out").exists()
    assert not Path("evaluations").exists()


def shuffled_digits() -> np.ndarray:
    pixels = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    return pixels[np.random.default_rng(0).permutation(len(pixels))]


def save(folder: Path, images: np.ndarray, prefix: str = "") -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{prefix}{number:04}.png" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / name)
    return names


@dataclass(frozen=True)
class Sets:
    """Digits, split: of `generated` a tenth are training images, the rest the model never saw."""

    generated: Path
    train: Path
    heldout: Path
    copies: list[str]

    def arguments(self, *more: object) -> list[object]:
        return ["--generated", self.generated, "--train", self.train, "--encoder", "pixels",
                "--output", "out", *more]  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    root, pixels = tmp_path_factory.mktemp("digits"), shuffled_digits()
    train, rest = pixels[:N_TRAIN], pixels[N_TRAIN:]
    save(root / "train", train)
    save(root / "heldout", rest[:N_HELDOUT])
    save(root / "generated", rest[N_HELDOUT : N_HELDOUT + N_NEW], "new")
    copies = save(root / "generated", train[:N_COPIED], "copy")
    return Sets(root / "generated", root / "train", root / "heldout", copies)


@pytest.fixture
def sets(saved: Sets, tmp_path: Path) -> Sets:
    """The same in a folder that a test may change."""
    root = tmp_path / "sets"
    shutil.copytree(saved.train.parent, root)
    return Sets(root / "generated", root / "train", root / "heldout", saved.copies)


def result() -> dict[str, Any]:
    def no_nan(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    return json.loads(Path("out/evaluation.json").read_text(), parse_constant=no_nan)  # type: ignore[no-any-return]


def within(estimate: dict[str, float], value: float) -> bool:
    return estimate["low"] <= value <= estimate["high"]


class Text(HTMLParser):
    """The text of a page, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.tags: list[str] = []
        self.images: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def __contains__(self, words: str) -> bool:
        return words in " ".join(" ".join(self.parts).split())


def page() -> Text:
    return Text(Path("out/evaluation.html").read_text(encoding="utf-8"))


# --- what is found --------------------------------------------------------------------------------


def test_a_tenth_of_exact_copies_is_found_named_and_shown(run: Run, saved: Sets) -> None:
    done = run("evaluate", *saved.arguments("--heldout", saved.heldout))
    assert (done.code, done.err) == (0, "")
    found = result()
    assert within(found["memorization"], 0.1)
    assert within(found["excess_copy_rate"], 0.1)
    assert found["excess_copy_rate"]["low"] > 0
    assert found["finding"] == "copies"
    assert found["pixels"]["identical_share"]["value"] == 0.1
    assert within(found["pixels"]["l2_ratio_share"], 0.1)
    identical = [copy for copy in found["copies"] if copy["identical"]]
    assert [copy["generated"] for copy in identical] == saved.copies
    assert [f"copy{copy['train']}" for copy in identical] == saved.copies
    assert len(found["copies"]) == round(found["memorization"]["value"] * (N_NEW + N_COPIED))
    metrics = found["encoders"][0]["metrics"]
    assert metrics["copied_training_share"]["value"] >= N_COPIED / N_TRAIN
    assert metrics["c_t"]["value"] < 0
    assert found["images"]["generated"] == {
        "path": str(saved.generated), "count": 200, "height": 8, "width": 8, "skipped_corrupt": [],
        "fingerprint": found["images"]["generated"]["fingerprint"],
    }  # fmt: skip
    assert found["verdict"] in done.out
    assert "Memorization (share of copies)" in done.out
    shown = page()
    assert found["verdict"] in shown
    assert "copy0000.png" in shown
    assert all(image.startswith("data:image/png;base64,") for image in shown.images)
    assert len(shown.images) == 2 * (12 + 12)
    command = f"pareto-amb evaluate --generated {saved.generated}"
    assert found["environment"]["command"].startswith(command)
    assert command in shown
    assert sha256(Path("out/evaluation.json").read_bytes()).hexdigest() in shown
    assert "can well be missing from all 200." in shown


def test_images_that_the_model_could_not_have_seen_are_normal(run: Run, sets: Sets) -> None:
    for name in sets.copies:
        (sets.generated / name).unlink()
    done = run("evaluate", *sets.arguments("--heldout", sets.heldout, "--fail-above", "0.05"))
    assert done.code == 0
    found = result()
    assert found["finding"] == "normal"
    assert within(found["excess_copy_rate"], 0)
    assert found["pixels"]["identical_share"]["value"] == 0
    assert done.out.splitlines()[-1].startswith("passed: the excess copy rate is at most ")
    assert result()["gate"]["outcome"] == "pass"
    assert "Gate passed" in page()


def test_the_numbers_are_those_of_a_sweep(run: Run, saved: Sets) -> None:
    run("evaluate", *saved.arguments("--heldout", saved.heldout))
    pixels = torch.from_numpy(shuffled_digits())[:, None].expand(-1, 3, -1, -1)
    train, heldout = torch.arange(N_TRAIN), torch.arange(N_TRAIN, N_TRAIN + N_HELDOUT)
    settings = EvaluationConfig(reference="heldout", fid_encoder="pixels", similarity_encoder="pixels")
    encoder = load_encoder("pixels")
    reference = build_references(pixels, {0: (train, heldout)}, encoder, encoder, settings)[0]
    new = pixels[N_TRAIN + N_HELDOUT :][:N_NEW]
    expected = evaluate_samples(
        torch.cat([pixels[:N_COPIED], new]), reference, shipped().objectives, encoder, encoder
    ).metrics
    found = result()["encoders"][0]
    assert found["threshold"] == pytest.approx(expected["threshold"], abs=1e-12)
    for key in ("memorization", "heldout_memorization", "similarity_mean", "similarity_p95",
                "heldout_similarity_mean", "heldout_similarity_p95", "fid"):  # fmt: skip
        assert found["metrics"][key]["value"] == pytest.approx(expected[key], rel=1e-6)


def test_folders_zips_and_cached_features_give_the_same(run: Run, saved: Sets, own_cache: Path) -> None:
    first = run("evaluate", *saved.arguments("--heldout", saved.heldout))
    assert first.out.count("images encoded with pixels") == 3
    found = result()
    zips = {}
    for name in ("generated", "train", "heldout"):
        zips[name] = own_cache.parent / f"{name}.zip"
        with zipfile.ZipFile(zips[name], "w") as archive:
            for file in (saved.train.parent / name).iterdir():
                archive.write(file, file.name)
    packed = Sets(zips["generated"], zips["train"], zips["heldout"], saved.copies)
    again = run("evaluate", *packed.arguments("--heldout", packed.heldout))
    assert "images encoded" not in again.out
    changed = result()
    for role in found["images"]:
        changed["images"][role]["path"] = found["images"][role]["path"]
    for told in (found, changed):
        del told["environment"]["command"], told["environment"]["seconds"]
    assert changed == found


def test_no_cache_leaves_none(run: Run, saved: Sets, own_cache: Path) -> None:
    done = run("evaluate", *saved.arguments("--heldout", saved.heldout, "--no-cache", "--redact"))
    assert done.code == 0
    assert not [path for path in Path("out").iterdir() if str(saved.train.parent) in path.read_text()]
    assert result()["images"]["train"]["path"] == "…/train"
    assert not own_cache.exists()


def test_every_encoder_has_its_figures_and_the_first_the_verdict(run: Run, sets: Sets) -> None:
    for folder, kept in ((sets.generated, 40), (sets.train, 40), (sets.heldout, 80)):
        for file in sorted(folder.iterdir())[kept:]:
            file.unlink()  # of the generated ones the 20 copies and 20 others stay
    more = ("--heldout", sets.heldout, "--encoder", "efficientnet_lite0", "--threshold", "0.99")
    assert run("evaluate", *sets.arguments(*more)).code == 0
    found = result()
    first, second = found["encoders"]
    assert (first["encoder"], first["threshold"], first["threshold_calibrated"]) == ("pixels", 0.99, False)
    assert (second["encoder"], second["threshold_calibrated"]) == ("efficientnet_lite0", True)
    assert within(first["metrics"]["memorization"], 0.5)
    assert within(second["metrics"]["memorization"], 0.5)
    assert found["memorization"] == first["metrics"]["memorization"]
    assert first["metrics"]["fid"]["value"] != second["metrics"]["fid"]["value"]
    assert "In features of efficientnet_lite0" in page()


def test_without_heldout_images_or_threshold_no_share_is_made_up(run: Run, saved: Sets) -> None:
    done = run("evaluate", *saved.arguments())
    assert done.code == 0
    assert "COPYING IMPROVES THEM" in done.out
    found = result()
    assert found["finding"] == "copies"  # some have the pixels of a training image
    assert found["memorization"] == {"value": None, "low": None, "high": None}
    assert found["encoders"][0]["threshold"] is None
    assert len(found["copies"]) == 20
    assert all(copy["identical"] for copy in found["copies"])
    assert found["reference"] == "the training images"
    assert found["encoders"][0]["metrics"]["similarity_mean"]["value"] > 0
    assert "give --heldout" in found["verdict"]
    assert "COPYING IMPROVES THEM" in page()


def test_a_threshold_alone_gives_the_share_and_no_excess(run: Run, saved: Sets) -> None:
    done = run("evaluate", *saved.arguments("--threshold", "0.999"))
    assert done.code == 0
    found = result()
    assert found["memorization"]["value"] == 0.1
    assert found["excess_copy_rate"]["value"] is None
    assert "unknown" in found["verdict"]


@pytest.mark.parametrize(
    ("limit", "outcome", "code"),
    [(0.0, "fail", 1), (0.05, "fail", 1), (0.1, "inconclusive", 3), (0.3, "pass", 0)],
)
def test_the_gate_has_three_outcomes_and_says_them_everywhere(
    run: Run, saved: Sets, limit: float, outcome: str, code: int
) -> None:
    more = ("--heldout", saved.heldout, "--fail-above", limit, "--no-fail-on-identical")
    done = run("evaluate", *saved.arguments(*more))
    assert (done.code, done.err) == (code, "")
    excess, gate = result()["excess_copy_rate"], result()["gate"]
    assert (excess["low"] > limit, excess["high"] <= limit) == (code == 1, code == 0)
    assert (gate["outcome"], gate["limit"], gate["fail_on_identical"]) == (outcome, limit, False)
    word = {"pass": "passed", "fail": "failed", "inconclusive": "inconclusive"}[outcome]
    assert done.out.splitlines()[-1] == f"{word}: {gate['reason']}"
    assert f"limit of {limit:.1%}" in gate["reason"]
    assert f"Gate {word}" in page()
    assert gate["reason"] in page()


@pytest.mark.parametrize("arguments", [["--fail-above", "0.9"], ["--fail-on-identical"]])
def test_one_identical_image_fails_the_gate_whatever_the_limit(
    run: Run, sets: Sets, arguments: list[str]
) -> None:
    for file in (*sorted(sets.generated.glob("copy*"))[1:], *sorted(sets.generated.glob("new*"))[10:]):
        file.unlink()  # 11 images, one of them a training image
    done = run("evaluate", *sets.arguments("--heldout", sets.heldout, *arguments))
    assert done.code == 1
    assert "1 of 11 generated images has exactly the pixels" in done.out.splitlines()[-1]
    assert result()["finding"] == "copies"
    sets.generated.joinpath("copy0000.png").unlink()
    done = run("evaluate", *sets.arguments("--heldout", sets.heldout, "--fail-on-identical"))
    assert (done.code, result()["gate"]["limit"]) == (0, None)
    assert "none of 10 generated images" in done.out.splitlines()[-1]


def test_too_little_to_tell_is_no_pass(run: Run, sets: Sets) -> None:
    for file in (*sets.generated.glob("copy*"), *sorted(sets.generated.glob("new*"))[12:]):
        file.unlink()
    arguments = sets.arguments("--heldout", sets.heldout, "--fail-above", "0.05")
    done = run("evaluate", *arguments)
    assert (done.code, result()["gate"]["outcome"]) == (3, "inconclusive")
    assert "more generated images, at the same rates, would settle it" in done.out.splitlines()[-1]
    done = run("evaluate", *arguments, "--require-conclusive")
    assert (done.code, result()["gate"]["outcome"]) == (1, "fail")
    assert done.out.splitlines()[-1].startswith("failed: inconclusive, which counts as failed here: ")
    done = run("evaluate", *sets.arguments("--fail-above", "0.05"))
    assert (done.code, result()["gate"]["outcome"]) == (3, "inconclusive")
    assert "give --heldout" in done.out.splitlines()[-1]
    assert run("evaluate", *sets.arguments()).code == 0
    assert result()["gate"] is None


def test_the_outcomes_stand_in_the_help(run: Run) -> None:
    said = " ".join(run("evaluate", "--help").out.split())
    for words in ("--fail-on-identical", "--require-conclusive", "Exit codes: 0 passed", "3 inconclusive"):
        assert words in said


def test_few_heldout_images_clear_nobody(run: Run, sets: Sets) -> None:
    for file in sorted(sets.heldout.iterdir())[20:]:
        file.unlink()
    arguments = sets.arguments("--heldout", sets.heldout, "--fail-above", "0.05")
    done = run("evaluate", *arguments)  # a tenth has the pixels of training images
    assert result()["excess_copy_rate"]["low"] < 0.05
    assert (done.code, result()["finding"]) == (1, "copies")
    assert "10.0% of the generated images have exactly the pixels" in result()["verdict"]
    assert "chance explains" not in result()["verdict"]
    for name in sets.copies:
        (sets.generated / name).unlink()
    done = run("evaluate", *arguments)
    assert (done.code, result()["finding"]) == (3, "inconclusive")
    assert "too few images to tell" in result()["verdict"]
    assert done.out.splitlines()[-1].startswith("inconclusive: ")
    assert "Too few images to tell" in page()


def test_a_few_images_are_enough_for_what_can_be_said_of_them(run: Run, tmp_path: Path) -> None:
    pixels = shuffled_digits()
    save(tmp_path / "gen", pixels[:2])
    save(tmp_path / "train", pixels[2:4])
    done = run(
        "evaluate", "--generated", tmp_path / "gen", "--train", tmp_path / "train",
        "--encoder", "pixels", "--output", "out", "--threshold", "0.9",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    metrics = result()["encoders"][0]["metrics"]
    assert metrics["fid"]["value"] > 0
    assert metrics["kid"]["value"] is None
    assert metrics["precision"]["value"] is None
    assert "note: too few images for kid and precision and the like" in done.out


# --- captions -------------------------------------------------------------------------------------


def caption(folder: Path, captions: dict[str, str]) -> Path:
    """Write the captions of a folder's images beside them."""
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in captions.items()]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "metadata.jsonl"


def caption_all(sets: Sets) -> dict[str, str]:
    """Each training image has its own caption, and so has its copy, but two of them each other's."""
    theirs = {name: f"number {name}" for name in sorted(path.name for path in sets.train.iterdir())}
    caption(sets.train, theirs)
    ours = {f"copy{name}": text for name, text in theirs.items() if f"copy{name}" in sets.copies}
    ours["copy0001.png"], ours["copy0002.png"] = ours["copy0002.png"], ours["copy0001.png"]
    new = sorted(path.name for path in sets.generated.iterdir() if path.name.startswith("new"))
    ours |= {name: "number 0200.png" if number < 30 else "a digit" for number, name in enumerate(new)}
    return ours


def test_copies_are_counted_by_caption(run: Run, sets: Sets, clip_folder: Path) -> None:
    caption(sets.generated, caption_all(sets))
    more = ["--encoder", "efficientnet_lite0", "--threshold", "0.9999", "--captions", "auto"]
    done = run("evaluate", "--generated", sets.generated, "--train", sets.train, "--output", "out",
               *more, "--clip-model", clip_folder)  # fmt: skip
    assert (done.code, done.err) == (0, "")
    found = result()
    assert [copy["generated"] for copy in found["copies"]] == sets.copies
    prompts = {row["caption"]: row for row in found["captions"]["prompts"]}
    assert len(prompts) == 22
    for name in sets.copies:
        text = f"number {name.removeprefix('copy')}"
        own = 0 if name in ("copy0001.png", "copy0002.png") else 1
        assert prompts[text] == {"caption": text, "images": 1, "copies": 1, "own": own}
    assert prompts["number 0200.png"] == {"caption": "number 0200.png", "images": 30, "copies": 0, "own": 0}
    assert prompts["a digit"] == {"caption": "a digit", "images": 150, "copies": 0, "own": None}
    metrics = found["captions"]["metrics"]
    assert metrics["trained_prompt_copies"]["value"] == pytest.approx(20 / 50)
    assert metrics["own_image_copies"]["value"] == pytest.approx(18 / 50)
    assert metrics["other_prompt_copies"]["value"] == 0
    assert metrics["other_prompt_copies"]["high"] > 0
    assert metrics["prompts_with_copies"]["value"] == pytest.approx(20 / 22)
    assert found["captions"]["clip_model"] == str(clip_folder)
    for words in ("20 of 22 captions trigger copies", "number 0001.png", "CLIP score"):
        assert words in done.out
        assert words in page()
    assert "have no caption" not in done.out


def test_the_clip_score_is_the_mean_over_the_captioned_images(
    run: Run, sets: Sets, clip_folder: Path
) -> None:
    some = dict(list(caption_all(sets).items())[:50])
    caption(sets.generated, some)
    (sets.generated / "copy0003.png").write_bytes(b"broken")
    more = ["--captions", "auto", "--clip-model", clip_folder, "--skip-corrupt"]
    done = run("evaluate", *sets.arguments("--heldout", sets.heldout, *more))
    assert (done.code, done.err) == (0, "")
    names = [name for name in some if name != "copy0003.png"]
    pixels = [np.asarray(Image.open(sets.generated / name).convert("RGB")) for name in names]
    given = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    scores = load_clip(str(clip_folder), "").score(given, [some[name] for name in names])
    score = result()["captions"]["metrics"]["clip_score"]
    assert score["value"] == pytest.approx(float(scores.mean()), abs=1e-6)
    assert score["low"] < score["value"] < score["high"]
    assert "note: generated: 150 of 200 images have no caption" in done.out
    assert "number 0003.png" not in {row["caption"] for row in result()["captions"]["prompts"]}


def test_captions_may_lie_in_a_file_and_training_images_have_none(run: Run, sets: Sets) -> None:
    ours = caption_all(sets)
    (sets.train / "metadata.jsonl").unlink()
    table = caption(sets.heldout.parent, ours).rename("captions.jsonl")
    done = run("evaluate", *sets.arguments("--threshold", "0.9999", "--captions", table))
    assert done.code == 0, done.err
    found = result()["captions"]
    assert all(row["own"] is None for row in found["prompts"])
    assert found["prompts"][0]["copies"] >= found["prompts"][-1]["copies"]
    for key in ("clip_score", "trained_prompt_copies", "own_image_copies", "other_prompt_copies"):
        assert found["metrics"][key] == {"value": None, "low": None, "high": None}
    assert found["clip_model"] is None
    assert "note: the training images have no captions" in done.out


def test_without_a_threshold_no_caption_is_said_to_trigger_copies(run: Run, sets: Sets) -> None:
    caption(sets.generated, caption_all(sets))
    done = run("evaluate", *sets.arguments("--captions", "auto"))
    assert result()["captions"]["prompts"] == []
    assert "which captions trigger copies is unknown without --heldout or --threshold" in done.out


def test_without_captions_the_report_has_none(run: Run, saved: Sets) -> None:
    run("evaluate", *saved.arguments())
    assert result()["captions"] is None
    assert "Captions that trigger copies" not in page()


def test_many_hostile_captions_are_text_on_a_bounded_page(run: Run, sets: Sets) -> None:
    attack = "[red]<img src=x onerror='window.hit=1'>&amp;{{7*7}}"
    ours = dict.fromkeys(caption_all(sets), attack + "x" * 9000)
    ours |= {name: f"{number} {attack}" for number, name in enumerate(sorted(ours)) if number % 2}
    caption(sets.generated, ours)
    done = run("evaluate", *sets.arguments("--threshold", "0", "--captions", "auto"))
    assert (done.code, done.err) == (0, "")
    shown, text = page(), Path("out/evaluation.html").read_text(encoding="utf-8")
    assert f"{attack}xxx" in shown
    assert "x" not in shown.images
    assert "x" * 300 not in text
    assert "101 of 101 captions trigger copies; the 20 with most are shown" in shown
    assert sum(attack in part for part in shown.parts) == 20
    assert "[red]<img" in done.out
    assert max(map(len, done.out.splitlines())) < 300
    assert len(result()["captions"]["prompts"]) == 101


def test_captions_are_escaped_in_a_notebook(sets: Sets) -> None:
    caption(sets.generated, dict.fromkeys(caption_all(sets), "<script>alert(1)</script>"))
    report = evaluate_image_sets(
        sets.generated, sets.train, encoders="pixels", threshold=0.5, captions="auto"
    )
    assert "&lt;script&gt;" in report._repr_html_()
    assert "<script" not in report._repr_html_()


def test_captions_that_cannot_be_used_are_refused(run: Run, sets: Sets, clip_folder: Path) -> None:
    def tried(*more: object) -> Done:
        return run("evaluate", *sets.arguments(*more))

    refused(tried("--captions", "auto"), str(sets.generated), "no generated image has a caption")
    refused(tried("--captions", "nowhere"), "nowhere: cannot be read")
    refused(tried("--clip-model", clip_folder), "--clip-model", "give --captions")
    Path("list.jsonl").write_text('{"file_name": "new0000.png"}\n')
    refused(tried("--captions", "list.jsonl"), "no generated image has a caption")
    Path("list.jsonl").write_text("a fox\n")
    refused(tried("--captions", "list.jsonl"), "list.jsonl, line 1, is not JSON")
    Path("list.jsonl").write_text('{"file_name": "odd.png", "text": "a"}\n')
    refused(tried("--captions", "list.jsonl"), "'odd.png', which is not there")
    caption(sets.generated, caption_all(sets))
    refused(tried("--captions", "auto", "--clip-model", "nowhere"), "--clip-model 'nowhere': nothing there")
    with pytest.raises(UserError, match="generated array: no generated image has a caption"):
        evaluate_image_sets(np.zeros((2, 8, 8), np.uint8), sets.train, encoders="pixels", captions="auto")


# --- broken images --------------------------------------------------------------------------------


def test_a_broken_image_is_refused_by_name_or_left_out_with_a_count(run: Run, sets: Sets) -> None:
    for name in ("new0005.png", "new0100.png", "new0101.png", "new0102.png"):
        (sets.generated / name).write_bytes((sets.generated / name).read_bytes()[:50])
    arguments = sets.arguments("--heldout", sets.heldout)
    refused(run("evaluate", *arguments), "'new0005.png'", "--skip-corrupt")
    done = run("evaluate", *arguments, "--skip-corrupt")
    assert (done.code, done.err) == (0, "")
    said = "generated: 4 broken images were left out: 'new0005.png', 'new0100.png', 'new0101.png', ..."
    assert f"note: {said}" in done.out
    found = result()
    assert found["images"]["generated"]["count"] == 196
    assert len(found["images"]["generated"]["skipped_corrupt"]) == 4
    assert found["pixels"]["identical_share"]["value"] == pytest.approx(20 / 196)
    assert [c["generated"] for c in found["copies"] if c["identical"]] == sets.copies
    shown = page()
    assert said in shown
    assert "4 broken ones left out" in shown


# --- bad input ------------------------------------------------------------------------------------


def test_heldout_images_that_were_trained_on_are_refused(run: Run, sets: Sets) -> None:
    for name in ("0007.png", "0008.png"):
        Image.open(sets.train / name).convert("RGB").save(sets.heldout / f"again-{name}.bmp")
    done = run("evaluate", *sets.arguments("--heldout", sets.heldout))
    refused(done, "2 of 402 held-out images", "'again-0007.png.bmp'", "'0007.png'", str(sets.heldout))


def test_sets_of_different_sizes_are_refused(run: Run, sets: Sets) -> None:
    odd = Image.new("L", (8, 10))
    for file in sets.heldout.iterdir():
        odd.save(file)
    arguments = sets.arguments("--heldout", sets.heldout)
    refused(run("evaluate", *arguments), "8 x 10", "8 x 8", "heldout")
    odd.save(sets.train / "0123.png")
    refused(run("evaluate", *sets.arguments()), "'0123.png' has 8 x 10 pixels")


def test_fewer_than_two_images_are_refused(run: Run, sets: Sets) -> None:
    for file in sorted(sets.generated.iterdir())[2:]:
        file.unlink()
    (sets.generated / "copy0001.png").write_bytes(b"")
    done = run("evaluate", *sets.arguments("--skip-corrupt"))
    refused(done, f"{sets.generated}: 1 generated image, at least 2 are needed")
    (sets.generated / "copy0001.png").unlink()
    refused(run("evaluate", *sets.arguments()), "1 generated image, at least 2 are needed")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--require-conclusive"], ["--require-conclusive needs a gate", "--fail-above"]),
        (["--no-fail-on-identical"], ["--no-fail-on-identical is no gate by itself", "--fail-above"]),
        (["--heldout", "x", "--fail-above", "5"], ["--fail-above 5"]),
        (["--heldout", "x", "--fail-above", "nan"], ["--fail-above nan"]),
        (["--threshold", "1"], ["--threshold 1", "below 1"]),
        (["--heldout", "nowhere"], ["'nowhere': nothing there"]),
        (["--reference", "nowhere.npz"], ["nowhere.npz", "No such file"]),
        (["--heldout", "f.npz"], ["f.npz: features, where the heldout images are needed", "--reference"]),
        (["--encoder", "dino"], ["unknown encoder 'dino'", "efficientnet_lite0"]),
    ],
)
def test_what_cannot_be_meant_is_refused(
    run: Run, saved: Sets, arguments: list[str], words: list[str]
) -> None:
    refused(run("evaluate", *saved.arguments(*arguments)), *words)


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    run: Run, saved: Sets, own_cache: Path
) -> None:
    Path("file").write_text("mine")
    for arguments in (["evaluate", *saved.arguments(), "--output", "file/out"],
                      ["encode", saved.train, "--encoder", "pixels", "--output", "file/f.npz"],
                      ["encode", saved.train, "--encoder", "pixels", "--output", "f.txt"]):  # fmt: skip
        refused(run(*arguments), "--output f")
    assert Path("file").read_text() == "mine"
    assert not own_cache.exists()


def test_a_size_that_the_encoder_cannot_take_is_refused(tmp_path: Path) -> None:
    for name in ("gen", "train"):
        save(tmp_path / name, np.random.default_rng(0).integers(0, 256, (3, 5, 5), dtype=np.uint8))
    padded = Encoder("padded", "paper", encoders._prepare_dinov2_paper, nn.Flatten(), None)
    with pytest.raises(UserError, match="5x5 pixels are too small"):
        evaluate_image_sets(tmp_path / "gen", tmp_path / "train", encoders=[padded])


def test_too_few_or_copied_heldout_images_calibrate_nothing(run: Run, sets: Sets) -> None:
    few = sets.heldout.parent / "few"
    save(few, shuffled_digits()[-3:])
    done = run("evaluate", *sets.arguments("--heldout", few))
    refused(done, str(few), "3 held-out images, at least 4 are needed", "--threshold")
    assert run("evaluate", *sets.arguments("--heldout", few, "--threshold", "0.9")).code == 0


# --- features for reuse ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stats.npz", "stats.safetensors"])
def test_encoded_features_are_a_reference_like_the_images(run: Run, saved: Sets, name: str) -> None:
    done = run("encode", saved.heldout, "--encoder", "pixels", "--output", name)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == f"{name}: 400 features of length 192"
    run("evaluate", *saved.arguments("--reference", saved.heldout))
    by_images = result()["encoders"][0]["metrics"]
    run("evaluate", *saved.arguments("--reference", name))
    assert result()["encoders"][0]["metrics"] == by_images
    assert result()["reference"] == name


def test_encode_names_its_file_by_itself(run: Run, saved: Sets) -> None:
    assert run("encode", saved.train, "--encoder", "pixels").code == 0
    assert [path.name for path in Path().iterdir()] == ["train-pixels.npz"]


def test_features_of_another_encoder_preprocessing_or_size_are_refused(run: Run, saved: Sets) -> None:
    run("encode", saved.heldout, "--encoder", "pixels", "--output", "f.npz")
    with_paper = run("evaluate", *saved.arguments("--reference", "f.npz", "--preprocessing", "paper"))
    refused(with_paper, "f.npz: features of pixels (standard", "pixels (paper", "--preprocessing")
    other = run("evaluate", *saved.arguments("--reference", "f.npz", "--encoder", "efficientnet_lite0"))
    refused(other, "f.npz: features of pixels", "efficientnet_lite0 (standard")
    save(Path("larger"), np.zeros((2, 9, 9), dtype=np.uint8))
    run("encode", "larger", "--encoder", "pixels", "--output", "f.npz")
    refused(run("evaluate", *saved.arguments("--reference", "f.npz")), "9 x 9", "8 x 8")


def test_statistics_of_other_programs_give_the_frechet_distance_alone(run: Run, saved: Sets) -> None:
    run("evaluate", *saved.arguments("--reference", saved.heldout))
    expected = result()["encoders"][0]["metrics"]["fid"]["value"]
    files = sorted(saved.heldout.iterdir())
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    features = pixels.transpose(0, 3, 1, 2).reshape(len(files), -1) / 127.5 - 1
    np.savez("stats.npz", mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    done = run("evaluate", *saved.arguments("--reference", "stats.npz"))
    metrics = result()["encoders"][0]["metrics"]
    assert metrics["fid"]["value"] == pytest.approx(expected, rel=1e-5)
    assert metrics["kid"]["value"] is None
    assert "cannot be checked" in done.out
    other = run("evaluate", *saved.arguments("--reference", "stats.npz", "--encoder", "efficientnet_lite0"))
    assert other.code == 2
    assert "length 192, but efficientnet_lite0 gives 1,280" in other.err


@pytest.mark.parametrize(
    "arrays",
    [{"mu": np.zeros(192), "sigma": np.zeros((3, 3))}, {"mu": np.float64(1), "sigma": np.eye(2)},
     {"mu": np.full(192, np.nan), "sigma": np.eye(192)}, {"mu": np.array(["x"]), "sigma": np.eye(1)},
     {"mu": np.zeros(192), "sigma": -np.eye(192)}, {"other": np.zeros(3)}],
)  # fmt: skip
def test_what_are_no_statistics_is_refused(run: Run, saved: Sets, arrays: dict[str, np.ndarray]) -> None:
    np.savez("stats.npz", **arrays)
    refused(run("evaluate", *saved.arguments("--reference", "stats.npz")), "stats.npz")


# --- hostile names --------------------------------------------------------------------------------


def test_hostile_file_names_are_text_on_the_page(run: Run, sets: Sets) -> None:
    attack = "<img src=x onerror='window.hit=1'>&amp;{{7*7}}.png"
    (sets.generated / "copy0000.png").rename(sets.generated / attack)
    bytes_name = sets.train / b"\xff\xfe.png".decode("utf-8", "surrogateescape")
    (sets.train / "0000.png").rename(bytes_name)
    done = run("evaluate", *sets.arguments("--heldout", sets.heldout))
    assert (done.code, done.err) == (0, "")
    shown = page()
    assert attack in shown
    assert "\\xff\\xfe.png" in shown
    assert "x" not in shown.images
    (copied,) = (copy for copy in result()["copies"] if copy["generated"] == attack)
    assert copied["train"] == "\udcff\udcfe.png"
