"""The space of a variational autoencoder's latents, scaled as the pipeline was trained."""

import torch
from torch import Tensor, nn

from pareto_amb.data.subsets import Encoded
from pareto_amb.diffusion.text.parts import Part

_AT_ONCE = 8
"""Images that the autoencoder handles at once."""


class LatentSpace:
    """Latents of images of one size; the autoencoder is never trained."""

    def __init__(self, vae: Part, size: tuple[int, int], sigma_data: float) -> None:
        """For images of `size` (H, W), multiples of what the autoencoder shrinks them by."""
        self.sigma_data, self._part = sigma_data, vae
        shrinks = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.shape = (int(vae.config["latent_channels"]), size[0] // shrinks, size[1] // shrinks)
        self._image_shape = (int(vae.config["out_channels"]), *size)
        self._scale = float(vae.config.get("scaling_factor", 0.18215))
        self._shift = float(vae.config.get("shift_factor") or 0.0)
        self._vae: nn.Module | None = None

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Encoded:
        """Mean and deviation of the posterior over the latents of images, uint8 (N, C, H, W)."""
        vae, means, deviations = self._ready(images.device), [], []
        for some in torch.split(images, _AT_ONCE):
            posterior = vae.encode(some.float() / 127.5 - 1).latent_dist  # type: ignore[operator]
            means.append((posterior.mean - self._shift) * self._scale)
            deviations.append(posterior.std * self._scale)
        if not means:
            nothing = torch.empty(0, *self.shape)
            return Encoded(nothing, nothing)
        return Encoded(torch.cat(means).clone(), torch.cat(deviations).clone())

    @torch.inference_mode()
    def decode(self, x: Tensor) -> Tensor:
        """Images, uint8 (N, C, H, W), of latents (N, *shape)."""
        vae, images = self._ready(x.device), []
        for some in torch.split(x.float(), _AT_ONCE):
            decoded = vae.decode(some / self._scale + self._shift).sample  # type: ignore[operator]
            images.append((decoded * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8))
        return torch.cat(images) if images else torch.empty(0, *self._image_shape, dtype=torch.uint8)

    def _ready(self, device: torch.device) -> nn.Module:
        """The autoencoder on a device, built when it is first needed."""
        if self._vae is None:
            self._vae = self._part.build().eval()
        self._vae = self._vae.to(device)
        return self._vae

    def __deepcopy__(self, memo: dict[int, object]) -> "LatentSpace":
        return self
