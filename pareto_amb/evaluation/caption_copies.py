"""Which captions trigger copies: memorization is often that of a training image by its very caption."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pareto_amb.evaluation.intervals import UNKNOWN, Estimate, wilson


@dataclass(frozen=True)
class PromptCopies:
    """The generated images of one caption, and how many are copies.

    `own` of the copies are of a training image with that very caption; None where no training image has it.
    """

    caption: str
    images: int
    copies: int
    own: int | None


@dataclass(frozen=True, eq=False)
class CaptionReport:
    """What was found of generated images by their captions.

    `prompts` has each distinct caption, those with most copies first; none where nothing says what a copy is.
    `clip_model` is what scored the images, with its fingerprint; None where nothing did.
    """

    prompts: tuple[PromptCopies, ...]
    metrics: Mapping[str, Estimate]
    clip_model: str | None = None
    clip_fingerprint: str | None = None

    @property
    def triggers(self) -> tuple[PromptCopies, ...]:
        """The prompts with copies."""
        return tuple(prompt for prompt in self.prompts if prompt.copies)


def count_copies(
    captions: Sequence[str], copied: Sequence[bool], nearest: Sequence[str], trained: Sequence[str]
) -> tuple[PromptCopies, ...]:
    """The copies by caption, those with most copies first, then with fewest images.

    `captions`, `copied` and `nearest` (the caption of the nearest training image) are of the N generated
    images, `trained` those of all training images. An empty one is none.
    """
    known = set(trained)
    rows: dict[str, list[int]] = {}
    for caption, copy, theirs in zip(captions, copied, nearest, strict=True):
        if caption:
            row = rows.setdefault(caption, [0, 0, 0])
            row[0] += 1
            row[1] += copy
            row[2] += copy and caption == theirs
    found = [
        PromptCopies(caption, images, copies, own if caption in known else None)
        for caption, (images, copies, own) in rows.items()
    ]
    return tuple(sorted(found, key=lambda prompt: (-prompt.copies, prompt.images, prompt.caption)))


def copy_shares(prompts: Sequence[PromptCopies], known: bool) -> dict[str, Estimate]:
    """The shares of copies, with their Wilson intervals, by key of `report.CAPTIONS`.

    Those that tell training captions from others are left out unless training captions are `known`. Images
    are taken as independent, be they of one prompt.
    """
    found = {"prompts_with_copies": _share(sum(prompt.copies > 0 for prompt in prompts), len(prompts))}
    if not known:
        return found
    theirs = [(prompt, prompt.own) for prompt in prompts if prompt.own is not None]
    others = [prompt for prompt in prompts if prompt.own is None]
    images = sum(prompt.images for prompt, _ in theirs)
    return found | {
        "trained_prompt_copies": _share(sum(prompt.copies for prompt, _ in theirs), images),
        "own_image_copies": _share(sum(own for _, own in theirs), images),
        "other_prompt_copies": _share(
            sum(prompt.copies for prompt in others), sum(prompt.images for prompt in others)
        ),
    }


def _share(count: int, total: int) -> Estimate:
    return wilson(count / total, total) if total else UNKNOWN
