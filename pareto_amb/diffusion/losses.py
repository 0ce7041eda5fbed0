"""The training losses: Algorithm 1's, with its equation 6 in EDM units, the masked one, and consistency."""

import math

import torch
from torch import Tensor


def predict_nature(denoised: Tensor, noisy: Tensor, sigma: Tensor, sigma_tn: float | Tensor) -> Tensor:
    """E[x_tn | x_sigma] from D = E[x_0 | x_sigma], for sigma >= sigma_tn > 0 (Eq. 6 in EDM units).

    x_tn = x_0 + sigma_tn * eps is an image at the nature noise level, x_sigma = x_tn + sqrt(sigma^2 -
    sigma_tn^2) * eps'. All are Gaussian around x_0, so E[x_tn | x_sigma] is the mean of D and x_sigma
    weighted by sigma^2 - sigma_tn^2 and sigma_tn^2.

    Shapes: `denoised` and `noisy` (B, C, H, W); the levels broadcast against them, e.g. (B, 1, 1, 1).
    """
    kept = (sigma_tn / sigma) ** 2
    return torch.lerp(denoised, noisy, kept.expand_as(noisy))


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """Loss weight lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma * sigma_data)^2 (KAAL22 Table 1).

    At sigma_data = 1 it makes the squared error of v-prediction of that of D, at an infinite one, where it is
    1 / sigma^2, that of the prediction of eps.
    """
    if math.isinf(sigma_data):
        return sigma**-2
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def algorithm1_loss(
    denoised: Tensor,
    noisy: Tensor,
    target: Tensor,
    sigma: Tensor,
    nature: Tensor,
    sigma_tn: float,
    sigma_data: float,
) -> Tensor:
    """Weighted squared error of each example, averaged over its pixels: (B,) (Algorithm 1 L7-11).

    Where `nature` (B,) is False, D(x_sigma) is compared with `target` = x_0; where it is True, the
    network's prediction of x_tn (Eq. 6) is compared with `target` = x_tn. `sigma` is (B,), the images
    (B, C, H, W); `sigma_data` is their space's. With `nature` all False this is plain EDM training.
    """
    level = sigma.view(-1, 1, 1, 1)
    prediction = denoised
    if sigma_tn > 0:
        on_nature = predict_nature(denoised, noisy, level, sigma_tn)
        prediction = torch.where(nature.view(-1, 1, 1, 1), on_nature, denoised)
    error = (prediction - target).square().flatten(1).mean(1)
    return edm_weight(sigma, sigma_data) * error


def masked_loss(
    denoised: Tensor,
    target: Tensor,
    sigma: Tensor,
    kept: Tensor,
    sigma_data: float,
    shown: Tensor | None = None,
) -> Tensor:
    """Weighted squared error on the pixels that `kept` keeps, averaged over all pixels: (B,).

    The training loss of Ambient Diffusion (Daras et al. 2023, arXiv 2305.19256): all pixels that the mask A,
    `kept`, keeps weigh lambda(sigma), shown to the network or not. With the further mask A~, `shown`, those
    not shown weigh lambda(inf) = 1 / sigma_data^2 instead: a pixel that is not seen is at infinite noise.
    The minimiser is the same. `sigma` is (B,), the masks (B, 1, H, W) of zeros and ones, the images
    (B, C, H, W).
    """
    weight = edm_weight(sigma, sigma_data).view(-1, 1, 1, 1)
    if shown is not None:
        weight = torch.where(shown > 0, weight, sigma_data**-2)
    return (kept * weight * (denoised - target).square()).flatten(1).mean(1)


def reverse_step(x: Tensor, denoised: Tensor, sigma: Tensor, lower: Tensor, eps: Tensor) -> Tensor:
    """Take x from the levels `sigma` down to `lower` by one random step of the model: (B, C, H, W).

    Draws from q(x_lower | x_sigma, x_0 = D), with r = (lower / sigma)^2 the Gaussian of mean
    D + r (x_sigma - D) and variance lower^2 (1 - r). At D = E[x_0 | x_sigma] its mean is that of
    x_lower given x_sigma, whatever the step; its variance lacks (1 - r)^2 Cov[x_0 | x_sigma], of second
    order in the step.

    `sigma` and `lower` are (B,), sigma >= lower > 0; the images and `eps` ~ N(0, I) (B, C, H, W).
    """
    above, below = sigma.view(-1, 1, 1, 1), lower.view(-1, 1, 1, 1)
    spread = below * (1 - (below / above) ** 2).sqrt()
    return torch.addcmul(predict_nature(denoised, x, above, below), spread, eps)


def consistency_loss(
    first: Tensor, second: Tensor, target: Tensor, lower: Tensor, sigma_data: float
) -> Tensor:
    """Weighted squared gap in D(x, sigma) = E[D(x_lower, lower) | x_sigma = x], without bias: (B,).

    `first` and `second` are D of two independent steps from one x_sigma down to `lower` (B,), `target` is
    D(x_sigma, sigma). The square of one difference would add the variance of D(x_lower); the product of the
    two has the squared gap as its mean over the steps, and may be negative.
    """
    product = ((first - target) * (second - target)).flatten(1).mean(1)
    return edm_weight(lower, sigma_data) * product
