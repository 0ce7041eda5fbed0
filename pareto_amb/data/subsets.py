"""Which images a model trains on, and which real images it never sees."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pareto_amb.data.image_set import ImageSet
from pareto_amb.errors import UserError
from pareto_amb.randomness import make_generator


@dataclass(frozen=True, eq=False)
class Split:
    """Indices into an image set, int64: `train` (train_size,) and `heldout` (at most the rest,)."""

    train: Tensor
    heldout: Tensor


@dataclass(frozen=True, eq=False)
class Encoded:
    """Images where a model denoises them: float32 (N, *shape), or Gaussians there, one an image."""

    mean: Tensor
    deviation: Tensor | None = None


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What one training sees: `images` uint8 (N, C, H, W), `ids` in the whole set, `labels` (N,).

    `captions` has N lines; None unless `data.captions`. Where no pixels are needed `images` is (0, C, H, W).
    `encoded` and `told` are worked out once for many trainings: the images where the model denoises them, and
    what it is told of each beside its class, by name (N, ...).
    """

    images: Tensor
    ids: list[int]
    labels: Tensor | None
    n_classes: int
    captions: tuple[str, ...] | None = None
    encoded: Encoded | None = None
    told: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def n_images(self) -> int:
        """How many images there are, also where their pixels are not."""
        return len(self.ids)

    def without_pixels(self) -> "TrainingSet":
        """The same images, of which the shape alone is known."""
        return replace(self, images=self.images[:0].clone())

    def first(self, count: int) -> "TrainingSet":
        """The first `count` images."""
        return self.at(torch.arange(min(count, self.n_images)))

    def at(self, index: Tensor) -> "TrainingSet":
        """The images at the positions `index` (M,)."""
        positions, encoded = index.tolist(), self.encoded
        if encoded is not None:
            deviation = None if encoded.deviation is None else encoded.deviation[index]
            encoded = Encoded(encoded.mean[index], deviation)
        return TrainingSet(
            self.images[index] if len(self.images) else self.images,
            [self.ids[k] for k in positions],
            None if self.labels is None else self.labels[index],
            self.n_classes,
            None if self.captions is None else tuple(self.captions[k] for k in positions),
            encoded,
            {name: value[index] for name, value in self.told.items()},
        )


def take_training_set(image_set: ImageSet, index: Tensor, conditional: bool) -> TrainingSet:
    """The images at `index` (N,), with their labels when training is `conditional`, and with their captions
    where the set was loaded with them."""
    images, ids = image_set.images[index], index.tolist()
    captions = None if image_set.captions is None else tuple(image_set.captions[each] for each in ids)
    if not conditional or image_set.labels is None:
        return TrainingSet(images, ids, None, 0, captions)
    return TrainingSet(images, ids, image_set.labels[index], image_set.n_classes, captions)


def split(image_set: ImageSet, train_size: int, seed: int, conditional: bool) -> Split:
    """Draw a training subset; the other images are held out.

    The draw depends on `seed` and the number of images only, and when training is `conditional` on the
    labels: every prefix is then as class-balanced as the set allows. Without, labels play no part. Subsets
    are nested: a smaller one is the beginning of a larger one. A held-out image whose pixels equal those of
    a training image is dropped: it would make copying look normal.

    Raises UserError when `train_size` is more than the images there are.
    """
    n_images = len(image_set.images)
    if train_size > n_images:
        raise UserError(
            f"space.train_size: {train_size} is more than the {n_images} images of "
            f"{image_set.name}; lower it or add images"
        )
    order = torch.randperm(n_images, generator=make_generator(seed, "data subset"))
    if conditional and image_set.labels is not None:
        order = _round_robin(order, image_set.labels)
    train, rest = order[:train_size], order[train_size:]
    return Split(train, _without_copies(image_set.images, rest, train))


def _round_robin(order: Tensor, labels: Tensor) -> Tensor:
    """Reorder so that the k-th image of each class comes before the (k+1)-th of any: (N,)."""
    classes = labels[order]
    by_class = torch.argsort(classes, stable=True)
    counts = torch.bincount(classes)
    starts = counts.cumsum(0) - counts
    rounds = torch.empty_like(order)
    rounds[by_class] = torch.arange(len(order)) - starts[classes[by_class]]
    return order[torch.argsort(rounds, stable=True)]


def _without_copies(images: Tensor, candidates: Tensor, train: Tensor) -> Tensor:
    """The candidates whose pixels differ from those of every training image."""
    seen = {_digest(images[index]) for index in train.tolist()}
    kept = [index for index in candidates.tolist() if _digest(images[index]) not in seen]
    return torch.tensor(kept, dtype=torch.int64)


def distinct(images: Tensor) -> Tensor:
    """The images (N, C, H, W) without those whose pixels equal an earlier one's, in order."""
    first: dict[bytes, int] = {}
    for index, image in enumerate(images):
        first.setdefault(_digest(image), index)
    return images[list(first.values())] if len(first) < len(images) else images


def _digest(image: Tensor) -> bytes:
    return hashlib.sha256(image.contiguous().numpy().data).digest()
