"""How well images show their captions: CLIP against transformers' forward, digits against their labels."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from pareto_amb.config import EvaluationConfig, SweepConfig
from pareto_amb.data.captioned_digits import caption_digits, named_digit
from pareto_amb.errors import UserError
from pareto_amb.evaluation.encoders import load_encoder
from pareto_amb.evaluation.judges import ClipJudge, DigitsJudge, load_clip, load_judge, train_digits_judge
from pareto_amb.evaluation.objectives import ALIGNMENT, FID
from pareto_amb.evaluation.trial import build_references, encode_samples, evaluate_encoded
from pareto_amb.results.table import shipped
from pareto_amb.sweep_file import parse_sweep

CAPTIONS = ("a fox", "a longer caption of many words, more than it reads", "", "a fox", "seven")


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> ClipJudge:
    return load_clip(str(clip_folder), "--clip-model")


@pytest.fixture
def copied(clip_folder: Path, tmp_path: Path) -> Path:
    """The folder of the model, to be changed."""
    return Path(shutil.copytree(clip_folder, tmp_path / "clip"))


def images(count: int, side: int = 20, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, side, side), generator=generator).to(torch.uint8)


def labelled() -> tuple[torch.Tensor, tuple[str, ...]]:
    """The digits in a fixed random order, with their captions: uint8 (N, 1, 8, 8)."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    captions = caption_digits(digits.target)
    pixels = (torch.from_numpy(digits.images) * 15.9375).round().to(torch.uint8)
    return pixels[order, None], tuple(captions[index] for index in order.tolist())


# --- CLIP -----------------------------------------------------------------------------------------


def test_the_score_is_the_cosine_that_transformers_gives(clip: ClipJudge, clip_folder: Path) -> None:
    import transformers
    from PIL import Image

    given, model = images(5), transformers.CLIPModel.from_pretrained(clip_folder).eval()
    processor = transformers.CLIPProcessor.from_pretrained(clip_folder)
    for image, caption, score in zip(given, CAPTIONS, clip.score(given, CAPTIONS).tolist(), strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        told = processor(
            text=[caption], images=[picture], return_tensors="pt", truncation=True, max_length=12
        )
        with torch.no_grad():
            found = model(**told)
        expected = F.cosine_similarity(found.image_embeds, found.text_embeds)
        assert score == pytest.approx(float(expected), abs=1e-5)
        assert float(found.logits_per_image) == pytest.approx(
            score * model.logit_scale.exp().item(), rel=1e-4
        )


def test_no_score_depends_on_the_others(clip: ClipJudge) -> None:
    given, captions = images(40), [CAPTIONS[number % 5] for number in range(40)]
    together = clip.score(given, captions)
    apart = torch.cat([clip.score(given[k : k + 1], captions[k : k + 1]) for k in range(40)])
    assert together.shape == (40,)
    assert together.dtype == torch.float32
    assert together.std() > 1e-3
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-6)


def test_grey_images_are_colour_images_of_equal_channels(clip: ClipJudge) -> None:
    grey = images(3, channels=1)
    assert torch.equal(clip.score(grey, CAPTIONS[:3]), clip.score(grey.expand(-1, 3, -1, -1), CAPTIONS[:3]))


def test_a_judge_travels_and_is_known_by_its_fingerprint(clip: ClipJudge, copied: Path) -> None:
    again = pickle.loads(pickle.dumps(clip))
    assert torch.equal(again.score(images(5), CAPTIONS), clip.score(images(5), CAPTIONS))
    assert again.fingerprint == clip.fingerprint == load_clip(str(copied), "x").fingerprint
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    weights["visual_projection.weight"][0, 0] += 1
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert load_clip(str(copied), "x").fingerprint != clip.fingerprint


def test_loading_says_nothing(clip_folder: Path) -> None:
    code = f"from pareto_amb.evaluation.judges import load_clip; load_clip({str(clip_folder)!r}, 'x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def of_another_kind(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))


def of_fewer_words(folder: Path) -> None:
    found = json.loads((folder / "tokenizer.json").read_text())
    found["model"]["vocab"]["fox</w>"] = len(found["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(found))


def of_another_size(folder: Path) -> None:
    found = json.loads((folder / "preprocessor_config.json").read_text())
    found["crop_size"] = {"height": 100, "width": 100}
    (folder / "preprocessor_config.json").write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (pickled, "pytorch_model.bin: is a pickle, .* convert .*CLIPModel.from_pretrained"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no .safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "cannot be read"),
        (without_a_weight, "its weights lack 'text_projection.weight'"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: is not there"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: is not JSON"),
        (of_another_kind, "a model of the kind 'siglip', not clip"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "cannot be read"),
        (of_another_size, "cannot be read"),
        (of_fewer_words, "its tokenizer has more words than its model"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(
    copied: Path, capfd: pytest.CaptureFixture[str], spoil: Any, words: str
) -> None:
    spoil(copied)
    capfd.readouterr()
    with pytest.raises(UserError, match=rf"^[^\n]*{words}[^\n]*$") as refused:
        load_clip(str(copied), "--clip-model")
    assert str(refused.value).startswith(str(copied))
    assert capfd.readouterr() == ("", "")


def test_what_is_neither_folder_nor_name_is_refused() -> None:
    with pytest.raises(UserError, match="--clip-model 'nowhere': nothing there, and no name of the hub"):
        load_clip("nowhere", "--clip-model")


# --- digits ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits_judge() -> DigitsJudge:
    pixels, captions = labelled()
    return train_digits_judge(pixels[:500], captions[:500])


def test_real_digits_are_recognised_and_noise_only_by_chance(digits_judge: DigitsJudge) -> None:
    pixels, captions = labelled()
    unseen, told = pixels[500:], captions[500:]
    scores = digits_judge.score(unseen, told)
    assert set(scores.tolist()) == {0.0, 1.0}
    assert scores.mean() > 0.95
    assert digits_judge.score(unseen, [*told[1:], told[0]]).mean() < 0.2
    noise = digits_judge.score(images(1297, 8, 1), told)
    assert abs(noise.mean() - 0.1) < 0.05


def test_larger_and_colour_digits_are_seen_at_their_size(digits_judge: DigitsJudge) -> None:
    pixels, captions = labelled()
    large = pixels[500:700].repeat_interleave(2, 2).repeat_interleave(2, 3).expand(-1, 3, -1, -1)
    assert digits_judge.score(large, captions[500:700]).mean() > 0.9


def test_the_same_images_give_the_same_judge(digits_judge: DigitsJudge) -> None:
    pixels, captions = labelled()
    again = train_digits_judge(pixels[:500], captions[:500])
    other = train_digits_judge(pixels[1:501], captions[1:501])
    assert again.fingerprint == digits_judge.fingerprint != other.fingerprint
    noise, told = images(300, 8, 1), captions[:300]
    travelled = pickle.loads(pickle.dumps(digits_judge))
    assert torch.equal(again.score(noise, told), digits_judge.score(noise, told))
    assert torch.equal(travelled.score(noise, told), digits_judge.score(noise, told))


def test_what_digits_cannot_be_judged_by_is_refused() -> None:
    pixels, captions = labelled()
    few = [index for index, caption in enumerate(captions) if named_digit(caption) != 7]
    with pytest.raises(UserError, match="of some digit there are none; lower"):
        train_digits_judge(pixels[few], [captions[index] for index in few])
    with pytest.raises(UserError, match="the caption 'a fox' asks for no digit, or several"):
        train_digits_judge(pixels[:1], ["a fox"])


def test_captions_name_their_digit() -> None:
    assert [named_digit(caption) for caption in caption_digits([*range(10), 3])] == [*range(10), 3]
    assert named_digit("Wusora by handwritten seven a") == 7
    for other in ("", "a handwritten", "a handwritten fox", "seven or eight", "seventeen"):
        assert named_digit(other) is None


# --- as an objective ------------------------------------------------------------------------------


def test_samples_are_judged_where_a_judge_is_given(digits_judge: DigitsJudge) -> None:
    pixels, captions = labelled()
    encoder = load_encoder("pixels")
    settings = EvaluationConfig(fid_encoder="pixels", similarity_encoder="pixels")
    splits = {500: (torch.arange(500), torch.arange(500, len(pixels)))}
    reference = build_references(pixels, splits, encoder, encoder, settings)[500]
    wrong = [*captions[600:650], *captions[:50]]

    def encoded(samples: torch.Tensor, told: Any) -> Any:
        return encode_samples(samples, encoder, encoder, judge=digits_judge, captions=told)

    first, more = encoded(pixels[600:700], wrong), encoded(pixels[700:800], captions[700:800])
    objectives = {**shipped().objectives, "alignment": ALIGNMENT}
    both = evaluate_encoded(first.joined([more.without_pixels()]), reference, objectives).metrics
    expected = digits_judge.score(pixels[600:800], [*wrong, *captions[700:800]]).double()
    assert both["alignment"] == pytest.approx(float(expected.mean()))
    assert 0.6 < both["alignment"] < 0.9
    assert both["alignment_se"] == pytest.approx(float(expected.std()) / 200**0.5)

    plain = encode_samples(pixels[600:700], encoder, encoder)
    assert "alignment" not in evaluate_encoded(plain, reference, shipped().objectives).metrics
    with pytest.raises(UserError, match="not judged by captions"):
        evaluate_encoded(plain, reference, {"fid": FID, "alignment": ALIGNMENT})


def test_the_judge_is_the_one_that_the_sweep_names(clip_folder: Path) -> None:
    pixels, captions = labelled()
    assert load_judge(EvaluationConfig(), pixels, captions) is None
    named = EvaluationConfig(judge="clip", clip_model=str(clip_folder))
    assert isinstance(load_judge(named, pixels, captions), ClipJudge)
    assert isinstance(load_judge(EvaluationConfig(judge="digits"), pixels[:200], captions[:200]), DigitsJudge)
    with pytest.raises(UserError, match=r"^evaluation.clip_model 'nowhere'"):
        load_judge(EvaluationConfig(judge="clip", clip_model="nowhere"), pixels, captions)


def sweep(source: str = "digits", **evaluation: Any) -> SweepConfig:
    objectives = evaluation.pop("objectives", ["fid", "memorization", "alignment"])
    data = {"source": source, "resolution": 8, "channels": 1, "captions": evaluation.pop("captions", True)}
    values = {
        "name": "judged",
        "data": data,
        "space": {"train_size": [100]},
        "training": {"network": {"name": "captioned"}},
        "sampling": {"sigma_max": 14.6},
        "search": {"objectives": objectives},
        "evaluation": evaluation,
    }
    return parse_sweep(values, "sweep")


def test_a_sweep_names_judge_and_objective_together() -> None:
    assert sweep(judge="digits").evaluation.judge == "digits"
    assert sweep("images", judge="clip").evaluation.clip_model == "openai/clip-vit-base-patch32"
    assert sweep(objectives=["fid", "memorization"]).evaluation.judge is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "search.objectives: alignment needs evaluation.judge"),
        ({"judge": "clip", "objectives": ["fid", "memorization"]}, "evaluation.judge clip judges nothing"),
        ({"judge": "clip", "captions": False}, "captions"),
        ({"judge": "digits", "source": "images"}, "evaluation.judge digits cannot judge images"),
        ({"judge": "blip"}, "evaluation.judge"),
    ],
)
def test_a_judge_that_does_not_fit_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=rf"^[^\n]*{words}[^\n]*$"):
        sweep(**values)
