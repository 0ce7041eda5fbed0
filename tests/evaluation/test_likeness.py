"""Images of no kind get no verdict, whatever their features say."""

import pytest
import torch

from pareto_amb.evaluation.encoders import load_encoder
from pareto_amb.evaluation.fidelity import like_for_like
from pareto_amb.evaluation.image_sets import evaluate_image_sets
from pareto_amb.evaluation.report import remarks, to_json, verdict

KINDS = ("static", "one colour", "half noise")


def drawn(kind: str, real: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (len(real), 1, 1, 1) if kind == "one colour" else real.shape
    made = torch.randint(0, 256, shape, generator=generator).to(torch.uint8).expand(real.shape)
    return (
        torch.where(torch.rand(real.shape, generator=generator) < 0.5, real, made) if "half" in kind else made
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [60, 400])
def test_what_is_no_image_of_the_kind_is_found(digits: torch.Tensor, kind: str, count: int) -> None:
    report = evaluate_image_sets(
        drawn(kind, digits[:count]), digits[1400:], digits[400 : 400 + 2 * count], encoders="pixels"
    )
    assert report.finding == "not-comparable"
    assert "unlike real images of this kind" in verdict(report)
    assert report.gate(0.05).outcome == "inconclusive"
    found = to_json(report)["encoders"][0]["likeness"]
    assert (found["outcome"], found["images"], found["reference_images"]) == ("unlike", count, count)


@pytest.mark.parametrize("count", [20, 60, 400])
def test_real_images_are_alike(digits: torch.Tensor, count: int) -> None:
    report = evaluate_image_sets(
        digits[:count], digits[1400:], digits[400 : 400 + 2 * count], encoders="pixels"
    )
    assert report.likeness == "alike"
    assert report.finding == ("normal" if count == 400 else "inconclusive")


def test_noise_with_one_identical_image_copies(digits: torch.Tensor) -> None:
    images = torch.cat([drawn("static", digits[:100]), digits[1400:1401]])
    report = evaluate_image_sets(images, digits[1400:], digits[400:800], encoders="pixels")
    assert report.finding == "copies"
    assert report.gate(0.9).outcome == "fail"
    assert any("as a whole the generated images are unlike" in line for line in remarks(report))


def middle(rows: int, dim: int, spread: float, seed: int) -> torch.Tensor:
    return spread * torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def test_images_in_the_middle_of_the_features_are_unlike_and_why_c_t_is_negative() -> None:
    heldout, bland = middle(400, 200, 1.0, 0), middle(300, 200, 0.2, 1)
    found = like_for_like(bland, heldout)
    assert found is not None
    assert found.outcome == "unlike"
    assert found.generated["precision"].value == 1
    assert {"recall", "density"} <= set(found.failing(surely=True))
    assert "recall 0.0%, where held-out images reach" in str(found)
    alike = like_for_like(middle(300, 200, 1.0, 2), heldout)
    assert alike is not None
    assert (alike.outcome, str(alike)) == ("alike", "")


def test_too_few_images_are_not_compared() -> None:
    some = middle(12, 3, 1.0, 0)
    assert like_for_like(some[:3], some) is None
    assert like_for_like(some, some[:11]) is not None  # 6 of them are the reference, 5 are compared
    assert like_for_like(some, some[:10]) is None


# --- what Fréchet distance real images reach ------------------------------------------------------


def fids(report: object) -> tuple[float, list[str]]:
    found = to_json(report)  # type: ignore[arg-type]
    return found["encoders"][0]["metrics"]["heldout_fid"]["value"], found["notes"]


def test_fid_has_a_yardstick_that_says_what_it_rests_on(digits: torch.Tensor) -> None:
    sets = {"generated": digits[:100], "train": digits[1400:], "encoders": "pixels"}
    value, notes = fids(evaluate_image_sets(**sets, heldout=digits[400:800]))
    assert 0 < value < 10
    assert any("100 against 200, the one of generated images that of 100 against 400" in n for n in notes)
    value, notes = fids(evaluate_image_sets(**sets, heldout=digits[400:800], reference=digits[800:1000]))
    assert 0 < value < 10
    assert not any("held-out images" in note for note in notes)  # as many, from the same images
    _, notes = fids(evaluate_image_sets(**sets, heldout=digits[400:450], reference=digits[800:1000]))
    assert any("50 against 200, the one of generated images that of 100 against 200" in n for n in notes)
    value, notes = fids(evaluate_image_sets(**sets, heldout=digits[400:500], reference=digits[440:1000]))
    assert any("60 held-out images are reference images too" in note for note in notes)
    assert any("that of 40 against 560" in note for note in notes)
    value, notes = fids(evaluate_image_sets(**sets, heldout=digits[400:500], reference=digits[400:1000]))
    assert value is None
    assert any("unknown: too few held-out images" in note for note in notes)
    value, notes = fids(evaluate_image_sets(**sets))
    assert value is None
    assert any("unknown without --heldout" in note for note in notes)


def test_fid_of_real_images_is_as_measured_by_hand(digits: torch.Tensor) -> None:
    from pareto_amb.evaluation.frechet import fit_gaussian, frechet_distance

    encoder = load_encoder("pixels")
    heldout = encoder.encode(digits[400:600].expand(-1, 3, -1, -1))
    report = evaluate_image_sets(digits[:300], digits[1400:], digits[400:600], encoders=encoder)
    expected = frechet_distance(fit_gaussian(heldout[1::2]), fit_gaussian(heldout[0::2]))
    assert report.encoders[0].metrics["heldout_fid"].value == pytest.approx(expected, rel=1e-6)
    assert report.encoders[0].likeness is not None
    assert report.encoders[0].likeness.heldout["fid"].value == pytest.approx(expected, rel=1e-6)
