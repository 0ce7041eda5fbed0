"""The distributions that training draws its noise levels from."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pareto_amb.schedule import Schedule


class NoiseDistribution(Protocol):
    """A distribution of training noise levels, given by its distribution function and its inverse."""

    def cdf(self, sigma: float) -> float:
        """P(noise level < sigma)."""

    def icdf(self, p: Tensor) -> Tensor:
        """The noise level below which a share p lies; p in (0, 1), any shape, float64."""


@dataclass(frozen=True)
class LogNormal:
    """ln sigma ~ N(p_mean, p_std^2) (KAAL22 Table 1)."""

    p_mean: float = -1.2
    p_std: float = 1.2

    def cdf(self, sigma: float) -> float:
        if sigma <= 0:
            return 0.0
        return 0.5 * math.erfc((self.p_mean - math.log(sigma)) / (self.p_std * math.sqrt(2)))

    def icdf(self, p: Tensor) -> Tensor:
        return torch.exp(self.p_mean + self.p_std * torch.special.ndtri(p))


@dataclass(frozen=True)
class UniformTime:
    """t ~ U(t_min, 1) on the linear-beta VP schedule: sigma(t)^2 = exp(beta_d t^2 / 2 + beta_min t) - 1.

    This is the paper's "t uniform" taken literally (KAAL22 Table 1, column VP, for the schedule).
    """

    beta_d: float = 19.9
    beta_min: float = 0.1
    t_min: float = 1e-5

    def cdf(self, sigma: float) -> float:
        if sigma <= 0:
            return 0.0
        root = math.sqrt(self.beta_min**2 + 2 * self.beta_d * math.log1p(sigma**2))
        t = (root - self.beta_min) / self.beta_d
        return min(max((t - self.t_min) / (1 - self.t_min), 0.0), 1.0)

    def icdf(self, p: Tensor) -> Tensor:
        t = self.t_min + (1 - self.t_min) * p
        return torch.expm1(0.5 * self.beta_d * t**2 + self.beta_min * t).sqrt()


class Steps:
    """One of the levels `sigmas` (T,), rising, all equally often: the steps of a discrete schedule."""

    def __init__(self, sigmas: Tensor) -> None:
        self.sigmas = sigmas.double()
        self._there: dict[torch.device, Tensor] = {}

    def cdf(self, sigma: float) -> float:
        return int((self.sigmas < sigma).sum()) / len(self.sigmas)

    def icdf(self, p: Tensor) -> Tensor:
        # A share of k / T must give step k, whatever its rounding.
        step = (p * len(self.sigmas) + 1e-9).long().clamp(max=len(self.sigmas) - 1)
        if p.device not in self._there:
            self._there[p.device] = self.sigmas.to(p.device)
        return self._there[p.device][step]


def schedule_levels(schedule: Schedule) -> Tensor:
    """The EDM levels of a schedule's steps, rising: (steps,), float64."""
    return torch.tensor(schedule.levels, dtype=torch.float64)


def draw_sigma(
    distribution: NoiseDistribution,
    nature: Tensor,
    sigma_tn: float,
    generator: torch.Generator,
) -> Tensor:
    """Draw one noise level per example: below `sigma_tn` where `nature` is False, at or above it where True.

    `nature` is a boolean vector (B,); returns float32 (B,). Each side is the distribution restricted to
    that side, drawn by inversion, so no draw is ever rejected. With `sigma_tn` = 0 there are no sides:
    every level comes from the whole distribution.
    """
    split = distribution.cdf(sigma_tn) if sigma_tn > 0 else 1.0
    u = torch.rand(nature.shape, generator=generator, device=nature.device, dtype=torch.float64)
    p = torch.where(nature, split + (1 - split) * u, split * u)
    sigma = distribution.icdf(p.clamp(1e-12, 1 - 1e-12)).float()
    if sigma_tn <= 0:
        return sigma
    # Rounding to float32 must not carry a level across sigma_tn. A number, unlike a tensor made here, is
    # handed to a GPU without waiting for it.
    below = float(torch.nextafter(torch.tensor(sigma_tn, dtype=torch.float32), torch.zeros(())))
    return torch.where(nature, sigma.clamp(min=sigma_tn), sigma.clamp(max=below))


def natural_mix_ratio(distribution: NoiseDistribution, sigma_tn: float) -> float:
    """The mix ratio `natural`, P(sigma >= sigma_tn): the noise levels stay distributed as they were."""
    return 1.0 - distribution.cdf(sigma_tn)
