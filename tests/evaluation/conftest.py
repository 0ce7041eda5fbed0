import pytest
import torch
from sklearn.datasets import load_digits


@pytest.fixture(scope="session")
def digits() -> torch.Tensor:
    """The 1,797 digits of scikit-learn in a fixed random order: uint8 (N, 1, 8, 8)."""
    images = torch.from_numpy(load_digits().images)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return (images * 15.9375).round().to(torch.uint8)[order, None]
