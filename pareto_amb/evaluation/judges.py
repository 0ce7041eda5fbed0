"""How well images show what their captions say, image by image."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pareto_amb.config import EvaluationConfig
from pareto_amb.data.captioned_digits import named_digit
from pareto_amb.errors import UserError
from pareto_amb.pretrained import (
    check_tokenizer,
    find_folder,
    find_weights,
    guarded,
    library,
    load_weights,
    read_json,
)
from pareto_amb.printable import printable

BATCH_SIZE = 32
"""Images that CLIP sees at once; no figure depends on it."""

_CLIP_SCORE = "the CLIP score"
_RESTORE = "name the folder of a CLIP model, as transformers' save_pretrained writes it"
_SIDE = 8
"""Pixels, of the images that a classifier of digits sees."""


class Judge(Protocol):
    """Scores images by their captions. `fingerprint`: two judges with the same one give the same scores."""

    @property
    def fingerprint(self) -> str: ...

    def score(self, images: Tensor, captions: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """The scores, float32 (N,) on the CPU, of uint8 images (N, C, H, W), C = 1 or 3, by N captions."""
        ...


@dataclass(frozen=True, eq=False)
class ClipJudge:
    """CLIP: the cosine of the embeddings of image and caption, -1 to 1.

    `model` is a CLIPModel, `tokenizer` and `prepare` (of images) are those that it was trained with. A
    caption is cut to the length that the model reads.
    """

    model: Any
    tokenizer: Any
    prepare: Any
    fingerprint: str

    def score(self, images: Tensor, captions: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """As `Judge.score`; the weights are on `device` during the call only.

        Raises UserError where a score is not finite.
        """
        _check(images, captions)
        self.model.to(device)
        try:
            found = [
                self._score(images[start : start + BATCH_SIZE], captions[start : start + BATCH_SIZE], device)
                for start in range(0, len(images), BATCH_SIZE)
            ]
        finally:
            self.model.to("cpu")
        scores = torch.cat(found) if found else torch.empty(0)
        if not torch.isfinite(scores).all():
            raise UserError(f"{_CLIP_SCORE} is not finite; the weights of the CLIP model are not usable")
        return scores

    def _score(self, images: Tensor, captions: Sequence[str], device: torch.device | str) -> Tensor:
        shape = (len(images), 3, *images.shape[2:])
        pixels = self.prepare(
            images=list(images.to(device).expand(shape)),
            return_tensors="pt",
            input_data_format="channels_first",
        )["pixel_values"]
        words = self.tokenizer(
            list(captions),
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        with torch.no_grad():
            seen = self.model(
                pixel_values=pixels.to(device),
                input_ids=words["input_ids"].to(device),
                attention_mask=words["attention_mask"].to(device),
            )
        found: Tensor = (seen.image_embeds * seen.text_embeds).sum(1).float().cpu()
        return found


def load_clip(path: str, option: str, fetch: bool = True) -> ClipJudge:
    """The CLIP model in a folder or, where `fetch`, of that name on the hub, in float32.

    `option` is what messages say it was named by. Raises UserError, naming the culprit, where it is not
    there, is no CLIP model, lacks a part, or its weights are pickles.
    """
    clip = library("transformers", _CLIP_SCORE)
    folder = find_folder(path, option, ("*.json", "*.txt", "*.safetensors"), fetch)
    find_weights(
        folder,
        _RESTORE,
        "the model where you trust it: CLIPModel.from_pretrained(A).save_pretrained(B), and its "
        "CLIPProcessor likewise",
    )
    kind = read_json(folder / "config.json", _RESTORE).get("model_type")
    if kind != "clip":
        raise UserError(f"{printable(path)}: a model of the kind {kind!r:.80}, not clip; {_RESTORE}")
    model = load_weights(clip.CLIPModel, folder, _RESTORE)
    check_tokenizer(folder, _RESTORE)
    options = {"local_files_only": True}
    tokenizer, prepare = guarded(
        folder,
        lambda: (
            clip.CLIPTokenizer.from_pretrained(str(folder), **options),
            clip.CLIPImageProcessor.from_pretrained(str(folder), **options),
        ),
        _RESTORE,
    )
    if len(tokenizer) > model.config.text_config.vocab_size:
        raise UserError(f"{folder}: its tokenizer has more words than its model; {_RESTORE}")
    model = model.eval().requires_grad_(False)
    judge = ClipJudge(model, tokenizer, prepare, _clip_fingerprint(model, tokenizer, prepare))
    guarded(folder, lambda: judge.score(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), ["a"]), _RESTORE)
    return judge


def _clip_fingerprint(model: Any, tokenizer: Any, prepare: Any) -> str:
    described = [model.config.to_diff_dict(), sorted(tokenizer.get_vocab().items()), prepare.to_dict()]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class DigitsJudge:
    """A classifier of digits: 1 where it sees the digit that the caption asks for, else 0."""

    classifier: Any
    fingerprint: str

    def score(self, images: Tensor, captions: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """As `Judge.score`. UserError for a caption that asks for no digit."""
        _check(images, captions)
        asked = _digits_of(captions)
        if not len(images):
            return torch.empty(0)
        return torch.from_numpy((self.classifier.predict(_as_digits(images)) == asked).astype(np.float32))


def train_digits_judge(images: Tensor, captions: Sequence[str]) -> DigitsJudge:
    """A classifier that has learnt `images`, uint8 (N, C, H, W), which no model was trained on.

    The same images give the same classifier. Raises UserError where there are none of some digit, or a
    caption asks for no digit.
    """
    from sklearn.svm import SVC

    _check(images, captions)
    digits, pixels = _digits_of(captions), _as_digits(images)
    if len(set(digits.tolist())) < 10:
        raise UserError(
            "evaluation.judge digits: its classifier learns from the images that are not trained on, and of "
            "some digit there are none; lower space.train_size"
        )
    digest = hashlib.sha256(digits.tobytes())
    digest.update(pixels.tobytes())
    return DigitsJudge(SVC(C=10.0, gamma="scale").fit(pixels, digits), digest.hexdigest())


def load_judge(
    config: EvaluationConfig, unseen: Tensor, captions: Sequence[str], fetch: bool = True
) -> Judge | None:
    """The judge that a sweep names, None where it names none.

    That of digits learns from `unseen`, uint8 (N, C, H, W), and their N captions: images that no trial is
    trained on. Raises UserError where it cannot be had.
    """
    if config.judge == "clip":
        return load_clip(config.clip_model, "evaluation.clip_model", fetch)
    return train_digits_judge(unseen, captions) if config.judge == "digits" else None


def _check(images: Tensor, captions: Sequence[str]) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"expected uint8 images (N, 1 or 3, H, W), got {images.dtype} {tuple(images.shape)}")
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images, {len(captions)} captions")


def _digits_of(captions: Sequence[str]) -> NDArray[np.int64]:
    """The digits (N,) that captions ask for."""
    found = []
    for caption in captions:
        digit = named_digit(caption)
        if digit is None:
            raise UserError(
                f"evaluation.judge digits: the caption {printable(caption)!r:.200} asks for no digit, or "
                "several; give one such as 'a handwritten seven', or set it to clip"
            )
        found.append(digit)
    return np.array(found, dtype=np.int64)


def _as_digits(images: Tensor) -> NDArray[np.float32]:
    """Grey pixels from 0 to 1, float32 (N, 64), at the size of scikit-learn's digits."""
    grey = images.float().mean(1, keepdim=True) / 255
    small = F.interpolate(grey, size=(_SIDE, _SIDE), mode="bilinear", antialias=True)
    return small.flatten(1).numpy().astype(np.float32)
