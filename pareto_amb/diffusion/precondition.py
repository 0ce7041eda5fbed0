"""The EDM preconditioning that turns a raw network F into a denoiser D (KAAL22 Eq. 7 and Table 1)."""

from typing import Any

import torch
from torch import Tensor, nn


class EDMDenoiser(nn.Module):
    """D(x, sigma) = c_skip x + c_out F(c_in x, c_noise), the estimate of E[x_0 | x_sigma].

    `architecture` is what `create_network` was called with; a checkpoint stores it, so that the
    network can be rebuilt without the configuration of the run.
    """

    def __init__(self, network: nn.Module, architecture: dict[str, Any], sigma_data: float = 0.5) -> None:
        super().__init__()
        self.network = network
        self.architecture = architecture
        self.sigma_data = sigma_data

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Denoise `x` (B, C, H, W) at levels `sigma` (B,); `labels` (B, label_dim) one-hot.

        A network with a mask channel takes `mask` (B, 1, H, W), ones where it may see `x`. The other
        pixels are at infinite noise, where c_skip x = 0 and c_out = sigma_data.
        """
        level = sigma.float().view(-1, 1, 1, 1)
        total = level**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / total
        c_out = level * self.sigma_data * total.rsqrt()
        c_in = total.rsqrt()
        c_noise = level.flatten().log() / 4
        if mask is None:
            seen = c_in * x
        else:
            x = mask * x
            seen = torch.cat([c_in * x, mask], dim=1)
            c_out = torch.where(mask > 0, c_out, self.sigma_data)
        raw = self.network(seen, c_noise, labels, augment_labels)
        return torch.addcmul(c_skip * x, c_out, raw.float())
