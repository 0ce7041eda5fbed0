"""The training losses: Algorithm 1's, with its equation 6 in EDM units, and the masked one."""

import torch
from torch import Tensor


def predict_nature(denoised: Tensor, noisy: Tensor, sigma: Tensor, sigma_tn: float) -> Tensor:
    """E[x_tn | x_sigma] from D = E[x_0 | x_sigma], for sigma >= sigma_tn > 0 (Eq. 6 in EDM units).

    x_tn = x_0 + sigma_tn * eps is an image at the nature noise level, x_sigma = x_tn + sqrt(sigma^2 -
    sigma_tn^2) * eps'. All are Gaussian around x_0, so E[x_tn | x_sigma] is the mean of D and x_sigma
    weighted by sigma^2 - sigma_tn^2 and sigma_tn^2.

    Shapes: `denoised` and `noisy` (B, C, H, W); `sigma` broadcasts against them, e.g. (B, 1, 1, 1).
    """
    kept = (sigma_tn / sigma) ** 2
    return torch.lerp(denoised, noisy, kept.expand_as(noisy))


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """Loss weight lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma * sigma_data)^2 (KAAL22 Table 1)."""
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
    denoised: Tensor, target: Tensor, sigma: Tensor, shown: Tensor, kept: Tensor, sigma_data: float
) -> Tensor:
    """Weighted squared error on the pixels that `kept` keeps, averaged over all pixels: (B,).

    The training loss of Ambient Diffusion (Daras et al. 2023, arXiv 2305.19256): the mask A is `kept`, the
    further mask A~ that the network is given is `shown`, both (B, 1, H, W) of zeros and ones. A pixel
    that the network does not see is at infinite noise, and is weighted so: lambda(inf) = 1 / sigma_data^2.
    (That work weighs all pixels as those at `sigma`; any positive weight has the same minimiser.)
    `sigma` is (B,), the images (B, C, H, W).
    """
    at_sigma = edm_weight(sigma, sigma_data).view(-1, 1, 1, 1)
    weight = torch.where(shown > 0, at_sigma, sigma_data**-2)
    return (kept * weight * (denoised - target).square()).flatten(1).mean(1)
