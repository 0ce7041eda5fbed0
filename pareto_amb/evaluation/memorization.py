"""How close each image is to its nearest training image, and what share counts as copies.

The measure of the paper's Tables 1 and 2: the highest cosine similarity to any training image, and
the share of generated images above a threshold.
"""

import numpy as np
import torch
from scipy import stats
from torch import Tensor

# Exact copies in the training set differ in the last bits of a blocked matrix product: similarities
# closer than this are ties. Far below float32's spacing at 1, 6e-8.
_TIE = 1e-9


def normalize(features: Tensor) -> Tensor:
    """Scale each row of `features` (N, D) to length 1; zeros stay zeros. Keeps the dtype."""
    length = features.double().norm(dim=1, keepdim=True)
    return (features.double() / torch.where(length > 0, length, 1.0)).to(features.dtype)


def nearest_neighbours(queries: Tensor, bank: Tensor, block: int = 4096) -> tuple[Tensor, Tensor]:
    """The most similar row of `bank` (N, D) for each row of `queries` (Q, D).

    Returns the cosine similarity, float32 (Q,) in [-1, 1], and the row number, int64 (Q,). Ties go
    to the lowest row number; a row of zeros has similarity 0 to everything. Memory: two blocks of
    `block` rows and their product, in float64.

    Raises ValueError when `bank` is empty.
    """
    if len(bank) == 0:
        raise ValueError("there are no images to compare with")
    similarities, indices = [], []
    for some in torch.split(queries, block):
        similarity, index = _nearest_of_block(normalize(some.double()), bank, block)
        similarities.append(similarity)
        indices.append(index)
    return torch.cat(similarities).clamp(-1.0, 1.0).float(), torch.cat(indices)


def _nearest_of_block(queries: Tensor, bank: Tensor, block: int) -> tuple[Tensor, Tensor]:
    best = torch.full((len(queries),), -torch.inf, dtype=torch.float64, device=queries.device)
    index = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), block):
        product = queries @ normalize(bank[start : start + block].double()).T
        highest = product.amax(1)
        first = (product >= highest[:, None] - _TIE).byte().argmax(1)
        better = highest > best + _TIE
        best = torch.where(better, highest, best)
        index = torch.where(better, start + first, index)
    return best, index


def calibrate_threshold(heldout_similarity: Tensor, quantile: float) -> float:
    """The similarity that a share 1 - `quantile` of real, unseen images exceeds.

    `heldout_similarity` (N,) is their similarity to the nearest training image. Raises ValueError
    when it is empty.
    """
    if len(heldout_similarity) == 0:
        raise ValueError("no held-out images to calibrate the threshold on")
    return float(np.quantile(heldout_similarity.double().numpy(), quantile))


def share_above(similarity: Tensor, threshold: float) -> float:
    """The share of `similarity` (N,) strictly above `threshold`; NaN when there are none."""
    return float((similarity.double() > threshold).double().mean())


def wilson_interval(share: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share observed on n independent images: (low, high) in [0, 1]."""
    result = stats.binomtest(round(share * n), n)
    interval = result.proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)
