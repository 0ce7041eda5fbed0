"""The objectives that ship with pareto-amb. A new one is a function of the samples, and a line here."""

import math

from pareto_amb.config import ALIGNMENT as ALIGNMENT_NAME
from pareto_amb.declared import Objective
from pareto_amb.errors import UserError
from pareto_amb.evaluation.frechet import fit_gaussian, frechet_distance, frechet_standard_error
from pareto_amb.evaluation.shares import share_posterior
from pareto_amb.evaluation.trial import MeasuredSamples


def measure_fid(measured: MeasuredSamples) -> tuple[float, float]:
    """The Fréchet distance from the real images, and its standard deviation over sets of N samples."""
    statistics, real = fit_gaussian(measured.fid_features), measured.reference.statistics
    error = frechet_standard_error(measured.fid_features, statistics, real)
    return frechet_distance(statistics, real), error


def measure_memorization(measured: MeasuredSamples) -> tuple[float, float]:
    """The share of copies, and its standard deviation over sets of N samples of the same model."""
    share = float(measured.copied.double().mean())
    return share, float(share_posterior(share, measured.n_samples)[1])


def measure_alignment(measured: MeasuredSamples) -> tuple[float, float]:
    """The mean score of the samples by their captions, and its standard error over sets of N samples."""
    scores = measured.alignment
    if scores is None:
        raise UserError("the samples were not judged by captions; set evaluation.judge")
    mean, deviation = float(scores.double().mean()), float(scores.double().std())
    return mean, deviation / math.sqrt(len(scores))


FID = Objective(
    "fid",
    "FID",
    "Fréchet distance between samples and real images in the features of fid_encoder",
    slack=2.0,
    caption="image quality",
    measure=measure_fid,
)
MEMORIZATION = Objective(
    "memorization",
    "memorization",
    "share of samples whose similarity to the nearest training image is above the threshold",
    kind="share",
    noise="share",
    constraint=False,
    predictors=("similarity_mean",),  # samples grow similar before there are copies
    caption="share of copies",
    measure=measure_memorization,
)
ALIGNMENT = Objective(
    ALIGNMENT_NAME,
    "caption score",
    "how well samples show their captions, mean: with evaluation.judge clip the cosine of image and text, "
    "with digits the share in which a classifier sees the digit asked for",
    direction="max",
    ideal=1.0,
    slack=2.0,
    tolerance=0.01,
    caption="faithfulness to captions",
    measure=measure_alignment,
)

OBJECTIVES: dict[str, Objective] = {objective.name: objective for objective in (FID, MEMORIZATION, ALIGNMENT)}
"""The objectives that ship with pareto-amb, by name."""
