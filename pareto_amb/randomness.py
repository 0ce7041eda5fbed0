"""Every random draw comes from a generator derived, by name, from the one seed of the configuration.

Deriving by name keeps the draws apart: changing how one thing is drawn never shifts another.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, name: str) -> int:
    """Return a 63-bit seed that depends on `seed` and `name` only."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def make_generator(seed: int, name: str, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """Return a torch generator on `device`, seeded by `derive_seed(seed, name)`."""
    import torch

    return torch.Generator(device).manual_seed(derive_seed(seed, name))


def normal_per_item(seed: int, name: str, items: Iterable[int], shape: tuple[int, ...]) -> "torch.Tensor":
    """Return standard normal noise, one independent draw per item number: (len(items), *shape).

    Row k depends on `seed`, `name` and the k-th item number alone, never on the other items, the
    batch or the device, so the same image gets the same noise in any subset and on any machine.
    """
    import torch

    return _per_item(torch.randn, seed, name, items, shape)


def uniform_per_item(seed: int, name: str, items: Iterable[int], shape: tuple[int, ...]) -> "torch.Tensor":
    """Return draws from [0, 1), one independent block per item number as in `normal_per_item`."""
    import torch

    return _per_item(torch.rand, seed, name, items, shape)


def _per_item(
    draw: "Callable[..., torch.Tensor]", seed: int, name: str, items: Iterable[int], shape: tuple[int, ...]
) -> "torch.Tensor":
    import torch

    generator = torch.Generator()
    rows = [
        draw(shape, generator=generator.manual_seed(derive_seed(seed, f"{name}/{item}"))) for item in items
    ]
    return torch.stack(rows) if rows else torch.empty((0, *shape))
