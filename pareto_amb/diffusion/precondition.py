"""The EDM preconditioning that turns a raw network F into a denoiser D (KAAL22 Eq. 7 and Table 1)."""

from typing import Any

import torch
from torch import Tensor, nn

from pareto_amb.diffusion.denoiser import Conditioning, Denoiser, Space


class EDMDenoiser(Denoiser):
    """D(x, sigma) = c_skip x + c_out F(c_in x, c_noise), the estimate of E[x_0 | x_sigma]."""

    def __init__(self, network: nn.Module, space: Space, architecture: dict[str, Any]) -> None:
        super().__init__(space, architecture)
        self.network = network

    def forward(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Denoise `x` (B, C, H, W) at levels `sigma` (B,).

        The conditioning may hold `labels` (B, label_dim), one-hot, `augment_labels` (B, augment_dim) and, for
        a network with a mask channel, `mask` (B, 1, H, W): ones where it may see `x`. The other pixels are at
        infinite noise, where c_skip x = 0 and c_out = sigma_data.
        """
        sigma_data, mask = self.space.sigma_data, conditioning.get("mask")
        level = sigma.float().view(-1, 1, 1, 1)
        total = level**2 + sigma_data**2
        c_skip = sigma_data**2 / total
        c_out = level * sigma_data * total.rsqrt()
        c_in = total.rsqrt()
        c_noise = level.flatten().log() / 4
        if mask is None:
            seen = c_in * x
        else:
            x = mask * x
            seen = torch.cat([c_in * x, mask], dim=1)
            c_out = torch.where(mask > 0, c_out, sigma_data)
        raw = self.network(seen, c_noise, conditioning.get("labels"), conditioning.get("augment_labels"))
        return torch.addcmul(c_skip * x, c_out, raw.float())
