import math
import pickle
from unittest import mock

import pytest
import torch
from scipy import stats

from pareto_amb.config import EvaluationConfig
from pareto_amb.declared import Objective
from pareto_amb.errors import UserError
from pareto_amb.evaluation.encoders import Encoder, load_encoder
from pareto_amb.evaluation.frechet import fit_gaussian, frechet_distance, frechet_standard_error
from pareto_amb.evaluation.intervals import wilson
from pareto_amb.evaluation.memorization import calibrate_threshold, nearest_neighbours
from pareto_amb.evaluation.objectives import FID
from pareto_amb.evaluation.trial import (
    MeasuredSamples,
    build_references,
    encode_samples,
    evaluate_encoded,
    evaluate_samples,
)
from pareto_amb.results.table import shipped

PIXELS = load_encoder("pixels")
OBJECTIVES = shipped().objectives


def config(**values: object) -> EvaluationConfig:
    return EvaluationConfig(fid_encoder="pixels", similarity_encoder="pixels", **values)


def split(n: int, train_size: int) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    return {train_size: (torch.arange(train_size), torch.arange(train_size, n))}


def other_pixels() -> Encoder:
    """The pixels, but another encoder by name."""
    encoder = load_encoder("pixels")
    encoder.fingerprint = "another"
    return encoder


def test_copies_are_found(digits):
    reference = build_references(digits, split(1797, 200), PIXELS, PIXELS, config())[200]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (450, 1, 8, 8), generator=generator).to(torch.uint8)
    samples = torch.cat([digits[7:57], noise])  # a tenth are training images
    result = evaluate_samples(samples, reference, OBJECTIVES, PIXELS, PIXELS)
    share = wilson(float(result.metrics["memorization"]), 500)
    assert share.low <= 0.1 <= share.high
    assert result.neighbour[:50].tolist() == list(range(7, 57))
    assert torch.equal(reference.train_images[result.neighbour[:50]], samples[:50])
    assert result.similarity[:50].min() > 1 - 1e-6


def test_metrics(digits):
    settings = config(thresholds=(0.9, 0.95), primary_threshold=1)
    reference = build_references(digits, split(1797, 300), PIXELS, PIXELS, settings)[300]
    samples = digits[1000:1400]
    result = evaluate_samples(samples, reference, OBJECTIVES, PIXELS, PIXELS)
    figures = ["memorization", "similarity_mean", "similarity_p95"]
    figures += ["memorization_at_0.900", "memorization_at_0.950"]
    errors = {"fid_se", "memorization_se"}
    yardsticks = {"heldout_fid", *(f"heldout_{key}" for key in figures)}
    expected = errors | {"n_samples", "heldout_images", "fid", "threshold", *figures, *yardsticks}
    assert set(result.metrics) == expected
    features = (samples.double() / 127.5 - 1).flatten(1)
    train = (digits[:300].double() / 127.5 - 1).flatten(1)
    similarity, neighbour = nearest_neighbours(features, train)
    torch.testing.assert_close(result.similarity, similarity)
    assert torch.equal(result.neighbour, neighbour)
    everything = fit_gaussian((digits.double() / 127.5 - 1).flatten(1))
    fid = frechet_distance(fit_gaussian(features), everything)
    assert result.metrics["fid"] == pytest.approx(fid, rel=1e-5)
    error = frechet_standard_error(features, fit_gaussian(features), everything)
    assert result.metrics["fid_se"] == pytest.approx(error, rel=1e-4)
    copied = stats.binom(400, float(result.metrics["memorization"]))
    assert result.metrics["memorization_se"] == pytest.approx(copied.std() / 400, rel=0.05)
    assert result.metrics["n_samples"] == 400
    assert result.metrics["threshold"] == 0.95
    assert result.metrics["memorization"] == result.metrics["memorization_at_0.950"]
    assert result.metrics["similarity_mean"] == pytest.approx(float(similarity.mean()))
    heldout = reference.heldout["heldout_memorization_at_0.900"]
    everyone = nearest_neighbours((digits[300:].double() / 127.5 - 1).flatten(1), train)[0]
    assert heldout == pytest.approx(float((everyone > 0.9).double().mean()))


def mean_brightness(measured: MeasuredSamples) -> tuple[float, float]:
    values = measured.samples.double().flatten(1).mean(1)
    return float(values.mean()), float(values.std()) / measured.n_samples**0.5


def test_a_third_maximised_objective_is_measured_beside_the_two(digits):
    reference = build_references(digits, split(1797, 300), PIXELS, PIXELS, config())[300]
    seen = []

    def count_neighbours(measured: MeasuredSamples) -> int:
        seen.append(measured)
        return len(measured.neighbour.unique())

    more = [
        Objective("brightness", "brightness", "of the samples", "max", measure=mean_brightness),
        Objective(
            "variety", "variety", "training images met", "max", constraint=False, measure=count_neighbours
        ),
    ]
    samples = digits[1000:1100]
    pair = evaluate_samples(samples, reference, OBJECTIVES, PIXELS, PIXELS)
    objectives = {**OBJECTIVES, **{objective.name: objective for objective in more}}
    four = evaluate_samples(samples, reference, objectives, PIXELS, PIXELS)
    (measured,) = seen
    assert set(four.metrics) - set(pair.metrics) == {"brightness", "brightness_se", "variety"}
    assert {key: four.metrics[key] for key in pair.metrics} == pair.metrics
    each = samples.double().mean((1, 2, 3))
    assert four.metrics["brightness"] == pytest.approx(float(each.mean()))
    assert four.metrics["brightness_se"] == pytest.approx(float(each.std()) / 10)
    assert four.metrics["variety"] == len(set(four.neighbour.tolist()))
    assert measured.reference is reference
    assert torch.equal(measured.copied, four.copied)
    assert torch.equal(measured.similarity_features, PIXELS.encode(samples))


@pytest.mark.parametrize("similarity", [PIXELS, other_pixels()], ids=["one encoder", "two"])
def test_samples_that_are_joined_are_measured_as_all_of_them_at_once(digits, similarity):
    reference = build_references(digits, split(1797, 300), PIXELS, similarity, config())[300]
    objectives = {**OBJECTIVES, "brightness": Objective("brightness", "", "", measure=mean_brightness)}
    with mock.patch.object(Encoder, "encode", autospec=True, side_effect=Encoder.encode) as encode:
        first, more = (
            encode_samples(some, PIXELS, similarity) for some in (digits[1000:1100], digits[200:500])
        )
        each_once = 1 if similarity is PIXELS else 2
        assert [len(call.args[1]) for call in encode.call_args_list] == [100] * each_once + [300] * each_once
    found = evaluate_encoded(first.joined([more]), reference, objectives)
    samples = torch.cat([digits[1000:1100], digits[200:500]])
    once = evaluate_samples(samples, reference, objectives, PIXELS, similarity)
    assert found.metrics == once.metrics
    assert (found.metrics["n_samples"], found.metrics["memorization"]) == (400, pytest.approx(0.25, abs=0.05))
    assert found.metrics["brightness"] == pytest.approx(float(samples.double().mean()))


@pytest.mark.parametrize(
    "answer",
    [math.nan, math.inf, "3", None, True, (1.0, math.nan), (1.0, 2.0, 3.0), (), torch.zeros(2), [1.0]],
)
def test_an_objective_that_gives_no_finite_number_is_named(digits, answer):
    reference = build_references(digits[:300], split(300, 100), PIXELS, PIXELS, config())[100]
    odd = Objective("odd", "odd", "", measure=lambda measured: answer)
    with pytest.raises(UserError, match=r"^objective odd: [^\n]*$"):
        evaluate_samples(digits[:9], reference, {"fid": FID, "odd": odd}, PIXELS, PIXELS)


def test_calibration_is_checked_on_other_images(digits):
    reference = build_references(digits, split(1797, 300), PIXELS, PIXELS, config())[300]
    n_checked = (1797 - 300) // 2
    share = reference.heldout["heldout_memorization"]
    checked = wilson(float(share), n_checked)
    assert checked.low <= 0.01 <= checked.high
    features = (digits.double() / 127.5 - 1).flatten(1)
    similarity = nearest_neighbours(features[300:], features[:300])[0]
    (threshold,) = reference.thresholds
    assert threshold == calibrate_threshold(similarity[0::2], 0.99)
    assert reference.heldout["heldout_similarity_mean"] == pytest.approx(float(similarity[1::2].mean()))
    assert 0.9 < threshold < 1
    assert reference.heldout[f"heldout_memorization_at_{threshold:.3f}"] == share


def test_max_heldout_and_the_heldout_reference(digits):
    settings = config(reference="heldout", max_heldout=10, thresholds=(0.9,))
    reference = build_references(digits, split(1797, 300), PIXELS, PIXELS, settings)[300]
    assert reference.statistics.n == 1497
    features = (digits.double() / 127.5 - 1).flatten(1)
    similarity = nearest_neighbours(features[300:310], features[:300])[0]
    assert reference.heldout["heldout_similarity_mean"] == pytest.approx(float(similarity.mean()))


def test_each_image_is_encoded_once(digits):
    images = digits[:400]
    splits = split(400, 100) | split(400, 200)
    with mock.patch.object(Encoder, "encode", autospec=True, side_effect=Encoder.encode) as encode:
        references = build_references(images, splits, PIXELS, PIXELS, config())
        assert encode.call_count == 1
        evaluate_samples(images[:10], references[100], OBJECTIVES, PIXELS, PIXELS)
        assert encode.call_count == 2
        build_references(images, splits, PIXELS, other_pixels(), config())
        assert encode.call_count == 4
        evaluate_samples(images[:10], references[100], OBJECTIVES, PIXELS, other_pixels())
        assert encode.call_count == 6
    assert len(references[200].train_features) == 200
    assert references[100].statistics is references[200].statistics


def test_without_heldout_images(digits):
    everything = {50: (torch.arange(50), torch.arange(0))}
    given = config(thresholds=(0.9,))
    reference = build_references(digits[:50], everything, PIXELS, PIXELS, given)[50]
    assert reference.heldout.pop("heldout_images") == 0
    assert all(math.isnan(value) for value in reference.heldout.values())
    assert evaluate_samples(digits[:9], reference, OBJECTIVES, PIXELS, PIXELS).metrics["memorization"] == 1
    with pytest.raises(UserError, match="train_size 50: 0 held-out images"):
        build_references(digits[:50], everything, PIXELS, PIXELS, config())
    settings = config(reference="heldout", thresholds=(0.9,))
    with pytest.raises(UserError, match="train_size 50 leaves 0 images for the FID"):
        build_references(digits[:50], everything, PIXELS, PIXELS, settings)


def test_heldout_images_that_are_copies_are_refused(digits):
    doubled = torch.cat([digits[:100], digits[:100]])
    with pytest.raises(UserError, match=r"train_size 100: .* copies of training images"):
        build_references(doubled, split(200, 100), PIXELS, PIXELS, config())


def test_a_reference_travels(digits):
    reference = build_references(digits, split(1797, 50), PIXELS, PIXELS, config(n_samples=100))[50]
    again = pickle.loads(pickle.dumps(reference))
    one = evaluate_samples(digits[500:600], reference, OBJECTIVES, PIXELS, PIXELS)
    two = evaluate_samples(digits[500:600], again, OBJECTIVES, PIXELS, PIXELS)
    assert one.metrics == two.metrics


@pytest.mark.parametrize("kind", ["full", "heldout"])
def test_fid_has_the_yardstick_of_as_many_real_images(digits, kind):
    settings = config(reference=kind, n_samples=400)
    reference = build_references(digits, split(1797, 200), PIXELS, PIXELS, settings)[200]
    features = (digits.double() / 127.5 - 1).flatten(1)
    measured = torch.arange(200, 600)
    rest = torch.arange(600, 1797)
    if kind == "full":
        rest = torch.cat([torch.arange(200), rest])
    expected = frechet_distance(fit_gaussian(features[measured]), fit_gaussian(features[rest]))
    assert reference.heldout["heldout_fid"] == pytest.approx(expected, rel=1e-5)
    result = evaluate_samples(digits[:400], reference, OBJECTIVES, PIXELS, PIXELS)
    assert result.metrics["heldout_fid"] == reference.heldout["heldout_fid"]


@pytest.mark.parametrize(("kind", "n_samples"), [("full", 1598), ("heldout", 1596)])
def test_fid_has_no_yardstick_of_fewer_images_than_samples(digits, kind, n_samples):
    settings = config(reference=kind, n_samples=n_samples)
    reference = build_references(digits, split(1797, 200), PIXELS, PIXELS, settings)[200]
    assert math.isnan(reference.heldout["heldout_fid"])
