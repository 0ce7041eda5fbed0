"""Membership inference: can somebody tell from a model's scores of an image whether it was trained on it?

Every model is attacked with the help of the others, as an attacker would who had trained those. Functions
take `scores`, float (m, n, d): d finite scores of n images under m models, low for members as losses and
denoising errors are, and `member`, bool (m, n): whether the model was trained on the image. An attack answers
with one number for each model and image, (m, n), high where it thinks that the image is a member.

When model k is attacked, for each image one model of the other kind is left out with it. Otherwise more of
the others had been trained on the image if k was not, and their number alone would tell.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Index = NDArray[np.int64]

SHARED_WEIGHT = 32
"""The covariance that all images share counts as much as so many models of the image's own.

Carlini et al. 2022 find the shared one better below about 64 models, of which half are of either kind.
"""

_FLOOR = 1e-5
"""The least standard deviation within an image, as a share of that of the score over all images."""


def likelihood_ratio(scores: Floats, member: Mask) -> Floats:
    """The likelihood-ratio attack, online (LiRA: Carlini et al. 2022, Algorithm 1): log ratios (m, n).

    For every image a Gaussian is fitted to the scores of the models that were trained on it, and one to those
    of the others: the mean is the image's own, the covariance is between its own and that shared by all
    images. The attacker's numbers are few, so a new score is as uncertain as they leave the mean:
    N(mean, (1 + 1/count) * covariance).

    Needs for each image at least two models of either kind.
    """
    x = standardised(scores)
    inside, outside, partner = _Group.of(x, member), _Group.of(x, ~member), _partners(member)
    ratios = np.empty(member.shape)
    for k in range(len(x)):
        with_it, without_it = _left_out(k, member, partner)
        ratios[k] = inside.without(with_it).log_density(x[k]) - outside.without(without_it).log_density(x[k])
    return ratios


def out_only(scores: Floats, member: Mask) -> Floats:
    """The likelihood-ratio attack, offline: how far the scores are below those of models without the image.

    The attacker has trained models without the image alone. The distances of the scores from their mean, in
    standard deviations, are averaged over the scores, and divided by the spread of that average: (m, n).
    """
    x = standardised(scores)
    outside, partner = _Group.of(x, ~member), _partners(member)
    found = np.empty(member.shape)
    for k in range(len(x)):
        _, without_it = _left_out(k, member, partner)
        found[k] = outside.without(without_it).distance_below(x[k])
    return found


def global_threshold(scores: Floats, member: Mask) -> Floats:
    """The attack with one threshold for all images: minus the scores, averaged, (m, n).

    Each is first divided by its standard deviation over all models and images.
    """
    return np.asarray(-standardised(scores).mean(axis=2))


def standardised(scores: Floats) -> Floats:
    """The scores with mean 0 and standard deviation 1 over all models and images; 0 where they are equal."""
    flat = scores.reshape(-1, scores.shape[2])
    x = scores / np.maximum(np.abs(flat).max(axis=0), np.finfo(np.float64).tiny)  # squares do not overflow
    x = x - x.mean(axis=(0, 1))
    spread = x.std(axis=(0, 1))
    constant = spread <= 1e-12
    return np.asarray(np.where(constant, 0.0, x / np.where(constant, 1.0, spread)))


@dataclass(frozen=True, eq=False)
class _Group:
    """The models that were, or were not, trained on an image, for all images at once.

    `values` (m, n, d) are the scores, of which `count` (n,) belong to the group; `mean` (n, d), and `scatter`
    (n, d, d), the sum of the outer products of what deviates from it. `covariance` (d, d) is shared.
    """

    values: Floats
    count: Floats
    mean: Floats
    scatter: Floats

    @classmethod
    def of(cls, x: Floats, mask: Mask) -> Self:
        count = mask.sum(axis=0).astype(np.float64)
        mean = np.einsum("mn,mnd->nd", mask, x) / count[:, None]
        scatter = np.zeros((*mean.shape, x.shape[2]))
        for values, here in zip(x, mask, strict=True):
            deviation = (values - mean) * here[:, None]
            scatter += deviation[:, :, None] * deviation[:, None, :]
        return cls(x, count, mean, scatter)

    def without(self, model: Index) -> Self:
        """The group without one model an image, (n,): all that is known of the others."""
        deviation = self.values[model, np.arange(len(model))] - self.mean
        rest = self.count - 1
        scatter = (
            self.scatter - (self.count / rest)[:, None, None] * deviation[:, :, None] * deviation[:, None, :]
        )
        return type(self)(self.values, rest, self.mean - deviation / rest[:, None], scatter)

    def covariance(self) -> Floats:
        """That of a further model's scores of each image, (n, d, d): its own, drawn to the shared one.

        The shared one is drawn to its diagonal, the more the fewer models and images it rests on.
        """
        free = self.count - 1
        total, d = max(free.sum(), 1.0), self.scatter.shape[1]
        found = self.scatter.sum(axis=0) / total
        diagonal = np.diag(np.diagonal(found))
        shared = found + d / (d + total) * (diagonal - found) + _FLOOR**2 * np.eye(d)
        own = SHARED_WEIGHT * shared + self.scatter
        return np.asarray(own * ((1 + 1 / self.count) / (SHARED_WEIGHT + free))[:, None, None])

    def log_density(self, x: Floats) -> Floats:
        """Of the scores (n, d) of a further model, up to a constant that is the same for all groups: (n,)."""
        factor = np.linalg.cholesky(self.covariance())
        whitened = np.linalg.solve(factor, (x - self.mean)[:, :, None])[:, :, 0]
        log_volume = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
        return np.asarray(-np.square(whitened).sum(axis=1) / 2 - log_volume)

    def distance_below(self, x: Floats) -> Floats:
        """How far the scores (n, d) are below the mean, averaged, in standard deviations: (n,)."""
        covariance = self.covariance()
        weights = 1 / np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        variance = np.einsum("nd,nde,ne->n", weights, covariance, weights)
        return np.asarray((weights * (self.mean - x)).sum(axis=1) / np.sqrt(variance))


def _partners(member: Mask) -> Index:
    """For each model and image a model of the other kind, in turn: (m, n)."""
    order = np.argsort(~member, axis=0, kind="stable")  # of each image: the members, then the others
    n_members = member.sum(axis=0)
    rank_inside, rank_outside = np.cumsum(member, axis=0) - 1, np.cumsum(~member, axis=0) - 1
    place = np.where(
        member, n_members + rank_inside % (len(member) - n_members), rank_outside % np.maximum(n_members, 1)
    )
    return np.asarray(np.take_along_axis(order, place, axis=0))


def _left_out(k: int, member: Mask, partner: Index) -> tuple[Index, Index]:
    """Which model each group is without when model k is attacked: of the members, and of the others, (n,)."""
    return np.where(member[k], k, partner[k]), np.where(member[k], partner[k], k)
