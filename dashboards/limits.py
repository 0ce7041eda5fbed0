"""What a page does not show: how far its figures reach, and what nobody measured."""

from collections.abc import Sequence

from pareto_amb.dashboards.formats import count
from pareto_amb.results.words import joined

UNSEEN = 3
"""What is drawn once in n / 3 samples is missing from n of them with a probability of 5%."""

NO_PROOF = (
    "It is no proof of privacy. Whether an attacker can tell who was trained on was not tried here "
    "(pareto-amb audit does), nor whether images can be drawn out of the model on purpose."
)


def unseen(n_samples: int) -> str:
    """What so many samples can miss."""
    if n_samples < 2 * UNSEEN:
        return "Hardly any samples were measured: they show nothing about rare copies."
    return (
        f"Rare copies: one that a model draws less often than once in {count(n_samples // UNSEEN)} samples "
        f"can well be missing from all {count(n_samples)}."
    )


def blind(encoders: Sequence[str]) -> str:
    """What a comparison of whole images in features cannot see."""
    return (
        f"Copies are told from whole images, in features of {joined(list(dict.fromkeys(encoders)))}. "
        "Parts that were copied, a person or an object in another scene, a mirrored or cut image may count "
        "as new."
    )


def limits_of_report(n_samples: int, similarity: str, quality: str, heldout: bool) -> list[str]:
    """Of a run whose measurements rest on at least so many samples, in features of two encoders."""
    yardstick = (
        "The held-out images are taken for images of the same kind; where they are not, neither the "
        "threshold nor what is called normal holds."
        if heldout
        else "No held-out images were measured, so nothing says how many copies are normal."
    )
    return [
        blind([similarity]),
        unseen(n_samples),
        yardstick,
        f"Quality is a distance between two sets of images in features of {quality}: nobody looked at the "
        "images, and none was judged by itself.",
        "Intervals cover the noise of samples and seeds, not another draw of the training images.",
        "All of it is about these images, this network, these budgets and this sampler: what helps here need "
        "not help elsewhere.",
        NO_PROOF,
    ]


def limits_of_evaluation(n_generated: int, encoders: Sequence[str], heldout: bool) -> list[str]:
    """Of an evaluation of so many generated images."""
    yardstick = [
        "The held-out images are taken for images of the same kind that the model never saw; only those that "
        "are training images pixel by pixel would have been noticed."
    ]
    return [
        blind(encoders),
        unseen(n_generated),
        *(yardstick if heldout else []),
        "Only the training images given were searched: a copy of any other image counts as new.",
        "All of it is about these generated images: other seeds, prompts, guidance or steps may copy more.",
        NO_PROOF,
    ]


def limits_of_audit() -> list[str]:
    """Of attacks on models that were each trained on a part of the images."""
    return [
        "Each model attacked was trained on a part of the images: one that is trained on all of them may "
        "give away less or more.",
        "An attacker with other scores, more models or the weights may find out more.",
        "An image that is not named is not cleared by that.",
        "How good the models’ images are is not part of an audit.",
        "All of it is about these images, this training, and attackers who see these scores.",
    ]


def limits_of_scan() -> list[str]:
    """Of a scan, which trains nothing."""
    return [
        "Nothing was trained. The curves are those of the best possible denoiser of exactly these training "
        "images; a network may recognise an image at other noise levels, or not at all.",
        "They say where to search, not which level is best, nor what any level does to copies or image "
        "quality.",
        "Lines are medians: of single images, such as duplicates or outliers, they say nothing.",
    ]
