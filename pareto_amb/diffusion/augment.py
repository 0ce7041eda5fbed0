"""Non-leaking augmentation: random geometry, told to the network, so that it need not draw it (KAAL22 F.2).

Each transform of KAAL22 Table 6 is switched on at random, and its parameters are handed to the network as
9 numbers that are zero for an image left alone. Sampling passes zeros and gets images as they were.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

AUGMENT_DIM = 9
"""x-flip, y-flip, scaling, rotation (cos - 1, sin), anisotropy (2), translation (2)."""

SCALE_STRENGTH = 0.2  # octaves a standard deviation, isotropic and anisotropic (A_scale = A_aniso = 2^0.2)
TRANSLATE_STRENGTH = 1 / 8  # of the image's side a standard deviation (A_trans)


def augment(
    images: Tensor,
    probability: float,
    generator: torch.Generator,
    exact: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Transform each image at random; return the images and what was done, (B, AUGMENT_DIM) (Table 6).

    `images` (B, C, H, H) are square and on the device of `generator`. Where `probability` > 0 the x-flip
    is drawn for every image and each other transform is switched on with that probability. Flips move
    pixels exactly; the rest is one affine resampling of the images it concerns, bicubic at twice the
    resolution, averaged back, the image continued by reflection (the published pipeline's wavelet filter
    is sharper; the transforms are the same). Images that need no resampling are not resampled.

    `exact` (B,), boolean: images whose transform may only permute pixels: flips and quarter turns.
    Algorithm 1 needs this for its fixed noisy copies x_tn = x_0 + sigma_tn * eps. Eq. 6 holds for T x_tn
    only if the noise T eps is white, i.e. T T^T = I. Interpolation averages neighbouring pixels and so
    smooths the noise, and a shift that fills the border by reflection repeats some of it: D would learn
    to denoise at a level below the one it is told. Drawing fresh noise for T x_0, or adding the stored
    eps to it, would keep the noise white but show a new noisy view of x_0 each time, from which x_0 could
    be averaged out; one fixed copy is what Algorithm 1 relies on. A permutation has neither fault. The
    labels are those of the continuous rotation, so both kinds of example share one conditioning.

    Raises ValueError when the images are not square.
    """
    batch, _, height, width = images.shape
    if height != width:
        raise ValueError(f"augmentation turns square images only, got {height} x {width}")
    if exact is None:
        exact = torch.zeros(batch, dtype=torch.bool, device=images.device)

    # Draw everything for every image, so that the draws of one do not depend on another's.
    uniform = torch.rand(9, batch, generator=generator, device=images.device)
    normal = torch.randn(4, batch, generator=generator, device=images.device)
    on_y, on_scale, on_turn, on_aniso, on_shift = uniform[:5] < probability
    flip_x = (uniform[5] < 0.5) & (probability > 0)
    flip_y = (uniform[6] < 0.5) & on_y
    quarters = (uniform[7] * 4).floor() * on_turn * exact
    angle = torch.where(exact, quarters * (math.pi / 2), (uniform[7] * 2 - 1) * math.pi * on_turn)
    free = ~exact
    scale, stretch = normal[0] * (on_scale & free), normal[1] * (on_aniso & free)
    direction = uniform[8] * (2 * math.pi)
    shift = normal[2:] * (on_shift & free)

    images = _flip_and_turn(images, flip_x, flip_y, quarters)
    inverse = _inverse_affine(scale, angle, stretch, direction, shift)
    resampled = (scale != 0) | (stretch != 0) | (shift != 0).any(0) | (free & (angle != 0))
    images = torch.where(resampled.view(-1, 1, 1, 1), _resample(images, inverse), images)

    flips, turn = (flip_x.float(), flip_y.float()), (angle.cos() - 1, angle.sin())
    aniso = (stretch * direction.cos(), stretch * direction.sin())
    return images, torch.stack([*flips, scale, *turn, *aniso, *shift], dim=1)


def _flip_and_turn(images: Tensor, flip_x: Tensor, flip_y: Tensor, quarters: Tensor) -> Tensor:
    """Flip left-right, flip top-bottom, turn by `quarters` times 90 degrees; each selector is (B,)."""
    images = torch.where(flip_x.view(-1, 1, 1, 1), images.flip(-1), images)
    images = torch.where(flip_y.view(-1, 1, 1, 1), images.flip(-2), images)
    for count in (1, 2, 3):
        turned = torch.rot90(images, -count, dims=(-2, -1))  # from the x axis towards the y axis
        images = torch.where((quarters == count).view(-1, 1, 1, 1), turned, images)
    return images


def _inverse_affine(
    scale: Tensor, angle: Tensor, stretch: Tensor, direction: Tensor, shift: Tensor
) -> Tensor:
    """Output to input coordinates (B, 2, 3), both in [-1, 1], of: scale, rotate, stretch, then translate."""
    factor = torch.exp2(SCALE_STRENGTH * stretch)
    zero = torch.zeros_like(factor)
    unstretch = torch.stack([1 / factor, zero, zero, factor], dim=1).view(-1, 2, 2)
    linear = _rotation(direction - angle) @ unstretch @ _rotation(-direction)
    linear = linear * torch.exp2(-SCALE_STRENGTH * scale).view(-1, 1, 1)
    moved = 2 * TRANSLATE_STRENGTH * shift.T.unsqueeze(2)
    return torch.cat([linear, -linear @ moved], dim=2)


def _rotation(angle: Tensor) -> Tensor:
    """Rotation matrices (B, 2, 2), from the x axis towards the y axis."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)


def _resample(images: Tensor, inverse: Tensor) -> Tensor:
    """Look each output pixel up at `inverse` (B, 2, 3), as the mean of 2 x 2 bicubic samples."""
    batch, channels, height, width = images.shape
    grid = F.affine_grid(inverse, [batch, channels, 2 * height, 2 * width], align_corners=False)
    fine = F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return F.avg_pool2d(fine, 2)
