"""Deterministic second-order samplers of the probability-flow ODE: Heun's method and DPM-Solver++(2M)."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pareto_amb.diffusion.conditioning import SamplingConditioning
from pareto_amb.diffusion.denoiser import Conditioning, Denoiser
from pareto_amb.errors import UserError
from pareto_amb.randomness import normal_per_item


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """Noise levels from `sigma_max` down to `sigma_min`, then 0: (steps + 1,), float64 (KAAL22 Eq. 5)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])


def sample_heun(denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
    """Integrate dx/dsigma = (x - D(x, sigma)) / sigma from sigmas[0] to sigmas[-1] (KAAL22 Algorithm 1).

    `x` (B, C, H, W) starts at noise level sigmas[0]. Costs 2 * (len(sigmas) - 1) - 1 evaluations of D.
    """
    for sigma, sigma_next in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        slope = (x - denoise(x, x.new_full((len(x),), sigma))) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_next = (x_next - denoise(x_next, x.new_full((len(x),), sigma_next))) / sigma_next
            x_next = x + (sigma_next - sigma) * (slope + slope_next) / 2
        x = x_next
    return x


def sample_dpmpp_2m(denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
    """Integrate the same equation as `sample_heun`, reusing the last D (Lu et al. 2022, Algorithm 2).

    In lambda = -ln sigma, and with D linear in lambda over a step of length h, x_next is
    exp(-h) x + (1 - exp(-h)) D at the step's middle, which the last two values of D extrapolate to. The
    first step, which has no earlier D, and the last one, which is endless, take D as it is.

    `x` (B, C, H, W) starts at noise level sigmas[0]. Costs len(sigmas) - 1 evaluations of D.
    """
    previous, h_previous = None, 0.0
    for sigma, sigma_next in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        denoised = middle = denoise(x, x.new_full((len(x),), sigma))
        h = math.log(sigma / sigma_next) if sigma_next > 0 else math.inf
        if previous is not None and h < math.inf:
            middle = denoised + h / (2 * h_previous) * (denoised - previous)
        x = middle + sigma_next / sigma * (x - middle)
        previous, h_previous = denoised, h
    return x


SOLVERS: dict[str, Callable[..., Tensor]] = {"heun": sample_heun, "dpmpp_2m": sample_dpmpp_2m}
"""The samplers by name: functions of D, x and the noise levels."""


def _guided(
    told: Callable[[Tensor, Tensor], Tensor],
    untold: Callable[[Tensor, Tensor], Tensor],
    guidance: float,
    x: Tensor,
    sigma: Tensor,
) -> Tensor:
    return torch.lerp(untold(x, sigma), told(x, sigma), guidance)


def _clipped(denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor) -> Tensor:
    return denoise(x, sigma).clamp(-1, 1)


def _denoise(
    denoiser: Denoiser, told: Conditioning, guidance: float, clip_denoised: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """D(x, sigma) as the solvers ask for it."""
    denoise = partial(denoiser, conditioning=denoiser.read_once(told))
    if guidance != 1:
        denoise = partial(_guided, denoise, partial(denoiser, conditioning={}), guidance)
    return partial(_clipped, denoise) if clip_denoised else denoise


@torch.inference_mode()
def finish(
    denoiser: Denoiser,
    x: Tensor,
    sigma: float,
    told: Conditioning,
    *,
    solver: str = "heun",
    steps: int = 18,
    sigma_min: float = 0.002,
    rho: float = 7.0,
    clip_denoised: bool = False,
    guidance: float = 1.0,
    sigma_stop: float = 0.0,
) -> Tensor:
    """Sample on from `x` (B, *shape), which lies at the level `sigma` > 0, to its end: uint8 (B, C, H, W).

    In as many steps, and down to the same level, as `generate` takes from sigma_max. From below that level
    it is one step, to E[x_0 | x].
    """
    sigmas = karras_sigmas(steps, min(max(sigma_min, sigma_stop), sigma), sigma, rho)
    if sigmas[0] == sigmas[-2]:
        sigmas = sigmas[-2:]
    denoise = _denoise(denoiser, told, guidance, clip_denoised)
    return denoiser.space.decode(SOLVERS[solver](denoise, x, sigmas)).cpu()


@torch.inference_mode()
def generate(
    denoiser: Denoiser,
    seeds: Sequence[int],
    conditioning: SamplingConditioning,
    *,
    base_seed: int = 0,
    solver: str = "heun",
    steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    clip_denoised: bool = False,
    guidance: float = 1.0,
    sigma_stop: float = 0.0,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Generate one image per seed, uint8 (len(seeds), C, H, W) on the CPU.

    Image i depends on `base_seed` and seeds[i] alone, as far as its `conditioning` does: not on the batch
    size, the other seeds or the number of devices (up to the rounding of the network's arithmetic).
    `solver` is one of SOLVERS. `progress` is called after each batch with the number of images it made.

    A `sigma_stop` above `sigma_min` takes its place: the last step goes from there to E[x_0 | x] (see
    `methods.NoiseOnly`).

    A `guidance` of g other than 1 takes D(x, nothing) + g (D(x, conditioning) - D(x, nothing)) in the place
    of D(x, conditioning) (Ho and Salimans 2022): more of what was asked for, where that is a caption.

    `clip_denoised` holds D to [-1, 1], the range of pixels, before the solver sees it.

    Raises UserError for an unknown solver.
    """
    if solver not in SOLVERS:
        raise UserError(f"unknown solver '{solver}': choose one of {', '.join(SOLVERS)}")
    space = denoiser.space
    sigmas = karras_sigmas(steps, max(sigma_min, sigma_stop), sigma_max, rho)
    images = []
    for start in range(0, len(seeds), batch_size):
        chunk = seeds[start : start + batch_size]
        latents = normal_per_item(base_seed, "sampling", chunk, space.shape).to(device)
        told = {name: value.to(device) for name, value in conditioning(base_seed, chunk).items()}
        denoise = _denoise(denoiser, told, guidance, clip_denoised)
        x = SOLVERS[solver](denoise, latents * float(sigmas[0]), sigmas)
        images.append(space.decode(x).cpu())
        if progress is not None:
            progress(len(chunk))
    return torch.cat(images) if images else space.decode(torch.empty(0, *space.shape))
