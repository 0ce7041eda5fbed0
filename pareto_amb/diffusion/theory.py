"""What the best possible denoiser would remember of a training set.

The denoiser that minimises the training loss averages the training images, each weighted by its posterior
probability given the noisy input (section 2.2 of arXiv 2502.21278). Where that posterior has collapsed onto
one image, the denoiser returns that image: at such noise levels, training longer means copying.

`TrainingPosterior` says where it collapses, `OptimalDenoiser` is that denoiser, of DDPM and of Algorithm 1.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pareto_amb.config import AutoRange
from pareto_amb.data.subsets import distinct
from pareto_amb.diffusion.denoiser import Conditioning, Denoiser, PixelSpace
from pareto_amb.diffusion.losses import predict_nature
from pareto_amb.diffusion.sampler import karras_sigmas, sample_heun
from pareto_amb.errors import UserError
from pareto_amb.randomness import make_generator

COLLAPSED = 1.05
"""At or below this median effective number the posterior holds one image and next to nothing else."""

LOW_SHARE, HIGH_SHARE = 0.02, 0.8
"""The ends of the range that `auto` searches, as shares of the collapse level.

They hold both windows known to be good, with a margin: the digits', 0.1 to 0.4 or 0.13 to 0.5 of a collapse
level of 0.80, and the paper's on FFHQ, 0.4 to 4 or 0.03 to 0.3 of one of about 15 (docs/sigma-range.md).
"""

START_SHARE = 0.2
"""The noise level tried first, as a share of the collapse level: on four sets the best lay around it."""

MAX_PAIRS = 2**24
"""Pairs of a probe and an image that are in memory at once, 16 bytes each."""

MIN_PROBES = 32
_IMAGES_AT_ONCE = 512
_PAIRS_AT_ONCE = 2**18


class TrainingPosterior:
    """The posterior over a training set given one of its images with noise, sampled by probes.

    A probe is a training image x_i with noise direction eps. At noise level sigma (EDM units) its posterior
    over the images x_j is softmax_j(-||x_i + sigma eps - x_j||^2 / (2 sigma^2)). Up to a term without j,
    the logit is -||x_i - x_j||^2 / (2 sigma^2) - (x_i - x_j).eps / sigma: two matrix products, made here
    once, serve every sigma.

    Images that occur more than once count once. With duplicates the posterior would never collapse onto
    one image, although every copy of a duplicate is a copy.
    """

    def __init__(self, images: Tensor, seed: int = 0, n_probes: int = 512) -> None:
        """Prepare the posterior over `images` (N, C, H, W): uint8 pixels, or where a model denoises them.

        Every distinct image is probed equally often, as far as `n_probes` allows. Where that many probes
        would exceed MAX_PAIRS, fewer are made, at least MIN_PROBES.
        """
        images = distinct(images)
        self.n_images = len(images)
        self.n_probes = min(n_probes, max(MAX_PAIRS // self.n_images, MIN_PROBES))
        generator = make_generator(seed, "collapse level")
        order = torch.randperm(self.n_images, generator=generator)
        probed = order[torch.arange(self.n_probes) % self.n_images]
        noise = torch.randn(self.n_probes, images[0].numel(), generator=generator, dtype=torch.float64)
        self._distances, self._projections = pair_terms(images, probed, noise)

    def effective_number(self, sigma: float) -> float:
        """The median over the probes of exp(entropy of the posterior) at `sigma` > 0, from 1 to N."""
        return float(effective_numbers(self._distances, self._projections, sigma).median())

    def collapse_level(self) -> float:
        """The smallest sigma at which the median effective number exceeds COLLAPSED, to 0.1%.

        Infinite when all images are the same.
        """
        others = self._distances.masked_fill(self._distances == 0, math.inf)
        low = float(others.amin(dim=1).median().sqrt()) / 8
        if math.isinf(low):
            return math.inf
        while self.effective_number(low) > COLLAPSED:
            low /= 2
        while self.effective_number(2 * low) <= COLLAPSED:
            low *= 2
        high = 2 * low
        while high / low > 1.001:
            middle = math.sqrt(low * high)
            if self.effective_number(middle) > COLLAPSED:
                high = middle
            else:
                low = middle
        return high


def pair_terms(images: Tensor, probed: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """What the posterior of probes depends on: ||x_i - x_j||^2 and (x_i - x_j).eps, float64, (P, N) each.

    Probe k is the image `probed[k]` of `images` (N, C, H, W), with the noise direction `noise[k]`, float64
    (D,); x are uint8 pixels in [-1, 1], or the numbers as they are.
    """
    sources = as_points(images[probed])
    shape = (len(probed), len(images))
    distances, projections = torch.empty(shape, dtype=torch.float64), torch.empty(shape, dtype=torch.float64)
    own_norm = sources.square().sum(dim=1, keepdim=True)
    own_projection = (sources * noise).sum(dim=1, keepdim=True)
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        points = as_points(images[start : start + _IMAGES_AT_ONCE])
        columns = slice(start, start + len(points))
        distances[:, columns] = own_norm + points.square().sum(dim=1) - 2 * sources @ points.T
        projections[:, columns] = own_projection - noise @ points.T
    rows = torch.arange(len(probed))
    distances[rows, probed] = 0.0
    projections[rows, probed] = 0.0
    return distances.clamp_(min=0.0), projections


def as_points(images: Tensor) -> Tensor:
    """Images (N, C, H, W) as float64 points, uint8 pixels in [-1, 1]: (N, D)."""
    points = images.flatten(start_dim=1).to(torch.float64)
    return points / 127.5 - 1 if images.dtype == torch.uint8 else points


def effective_numbers(distances: Tensor, projections: Tensor, sigma: float) -> Tensor:
    """exp(entropy of the posterior) of each probe at `sigma` > 0: (P,), from the (P, N) of `pair_terms`."""
    at_once = max(_PAIRS_AT_ONCE // distances.shape[1], 1)
    entropies = []
    for start in range(0, len(distances), at_once):
        rows = slice(start, start + at_once)
        logits = distances[rows] / (-2 * sigma**2) - projections[rows] / sigma
        logits -= logits.amax(dim=1, keepdim=True)
        weights = logits.exp()
        total = weights.sum(dim=1)
        entropies.append(total.log() - (weights * logits).sum(dim=1) / total)
    return torch.cat(entropies).exp()


def posterior_weights(points: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """The posterior probability of each of `points` (N, D), given x = point + sigma * eps: (B, N).

    `x` is (B, D), `sigma` (B,), all above 0: softmax_j(-||x - x_j||^2 / (2 sigma^2)).
    """
    logits = (x @ points.T - points.square().sum(dim=1) / 2) / sigma[:, None].square()
    return logits.softmax(dim=1)


class OptimalDenoiser(Denoiser):
    """The denoiser that minimises Algorithm 1's loss on a training set, over all functions (section 2.2).

    Below sigma_tn, and at it, it is the posterior mean E[x_0 | x] over the training images. Above, with
    v = sigma^2 - sigma_tn^2 and E = E[x_tn | x] the posterior mean over the noisy copies at noise variance v,
    it is D = (sigma^2 E - sigma_tn^2 x) / v, so that Eq. 6 predicts E. The mix ratio does not change it.
    Without noisy copies it is DDPM's. Images that occur twice count twice, as in training.

    With a `spread` h each image, and each noisy copy, is a Gaussian of that standard deviation in every
    pixel. With s = 0 below sigma_tn and s = sigma_tn above, v = sigma^2 - s^2 + h^2 and E as before at the
    variance v, it is D = (sigma^2 E + (h^2 - s^2) x) / v, which is the exact one where h is 0.
    """

    clean: Tensor
    nature: Tensor

    def __init__(
        self, clean: Tensor, nature: Tensor | None = None, sigma_tn: float = 0.0, spread: float = 0.0
    ) -> None:
        """Of training images `clean`, (N, C, H, W) in [-1, 1], and their noisy copies at level `sigma_tn`.

        `Algorithm1.material` makes both. Raises UserError for copies without a level above 0, a level
        without copies, or copies of another shape.
        """
        if (sigma_tn > 0) != (nature is not None) or (nature is not None and nature.shape != clean.shape):
            raise UserError("OptimalDenoiser: sigma_tn above 0 needs one noisy copy of each image, 0 none")
        channels, height, width = clean.shape[1:]
        super().__init__(PixelSpace((channels, height, width)), {})
        self.sigma_tn, self.spread = sigma_tn, spread
        self.register_buffer("clean", clean.flatten(1).double())
        self.register_buffer("nature", (clean if nature is None else nature).flatten(1).double())

    def forward(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Denoise `x` (B, C, H, W) at levels `sigma` (B,), all above 0; worked out in float64."""
        noisy, level = x.flatten(1).double(), sigma.double()
        above = level > self.sigma_tn
        denoised = torch.empty_like(noisy)
        for rows, points, lowest in ((~above, self.clean, 0.0), (above, self.nature, self.sigma_tn)):
            denoised[rows] = self._mean(points, noisy[rows], level[rows], lowest)
        return denoised.view_as(x).to(x.dtype)

    def _mean(self, points: Tensor, x: Tensor, sigma: Tensor, lowest: float) -> Tensor:
        """D of x (B, D) at sigma (B,) where the model sees `points` (N, D) that lie at the level `lowest`."""
        variance = (sigma - lowest) * (sigma + lowest) + self.spread**2
        mean = posterior_weights(points, x, variance.sqrt()) @ points
        kept = ((lowest**2 - self.spread**2) / variance)[:, None]
        return mean + kept * (mean - x)


def sample_to_nature(
    denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, levels: Tensor, sigma_tn: float
) -> Tensor:
    """Integrate the probability-flow ODE of `denoise` down to sigma_tn, where it ends: (B, C, H, W).

    With u = sqrt(sigma^2 - sigma_tn^2) the ODE dx/dsigma = (x - D) / sigma becomes dx/du = (x - E) / u, with
    E = E[x_tn | x] of Eq. 6. That is the ODE of a model of the noisy copies, which is regular where the first
    one is not, at sigma_tn. `levels` (steps + 1,) are the u, the last one 0; `x` starts at the noise level
    sqrt(levels[0]^2 + sigma_tn^2). With an `OptimalDenoiser` it ends on one of its noisy copies (Lemma 4.1).
    """

    def denoise_nature(x: Tensor, u: Tensor) -> Tensor:
        sigma = (u.square() + sigma_tn**2).sqrt()
        return predict_nature(denoise(x, sigma), x, sigma.view(-1, 1, 1, 1), sigma_tn)

    return sample_heun(denoise_nature, x, levels)


def sample_optimum(
    denoiser: OptimalDenoiser,
    noise: Tensor,
    steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
) -> Tensor:
    """Where the probability-flow ODE of an optimal denoiser ends, from standard `noise`: uint8 (B, C, H, W).

    As `generate` with Heun's solver, but for Algorithm 1 in two parts of `steps` steps, to sigma_tn and on
    from there: the equation has a singularity at sigma_tn, which `sample_to_nature` takes out.
    """
    x, sigma, sigma_tn = noise.double() * sigma_max, sigma_max, denoiser.sigma_tn

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        denoised: Tensor = denoiser(x, sigma, {})
        return denoised

    if 0 < sigma_tn < sigma_max:
        levels = karras_sigmas(steps, sigma_min, math.sqrt(sigma_max**2 - sigma_tn**2), _RHO)
        x, sigma = sample_to_nature(denoise, x, levels, sigma_tn), sigma_tn
    sigmas = karras_sigmas(steps, min(sigma_min, sigma / 2), sigma, _RHO)
    sigmas[0] = sigma  # rounded up, it would lie on the noisy side
    return denoiser.space.decode(sample_heun(denoise, x, sigmas)).cpu()


_RHO = 7.0


def auto_range(collapse_level: float, sigma_max: float) -> AutoRange:
    """The range of sigma_tn that `auto` searches: LOW_SHARE to HIGH_SHARE of the collapse level.

    All in EDM units and to three digits; never above `sigma_max`. Raises UserError when the training images
    are all the same (an infinite collapse level), or when the whole range lies above `sigma_max`.
    """
    if math.isinf(collapse_level):
        raise UserError("space.sigma_tn: auto needs two different training images, these are all the same")
    low, high = _three_digits(LOW_SHARE * collapse_level), _three_digits(HIGH_SHARE * collapse_level)
    if low >= sigma_max:
        raise UserError(
            f"space.sigma_tn: auto would search from {low:g} on, which is not below sampling.sigma_max "
            f"{sigma_max:g}; raise that, or give a range"
        )
    return AutoRange(low=low, high=min(high, sigma_max), collapse_level=_three_digits(collapse_level))


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")


def auto_range_of(images: Tensor, seed: int, sigma_max: float) -> AutoRange:
    """The range that `auto` searches for training images (N, C, H, W); `auto_range` says more.

    They are uint8 pixels, or where a model denoises them.
    """
    return auto_range(TrainingPosterior(images, seed).collapse_level(), sigma_max)
