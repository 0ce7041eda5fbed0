"""The training methods. A new one is a class in a file of its own, and a line here.

The paper's Table 2 compares Algorithm 1 (DDPM is its sigma_tn = 0 case), missing pixels and noisy copies
alone; each of the last two comes in two readings. The control tells what of Algorithm 1's gain is due to its
noise levels.
"""

from pareto_amb.diffusion.methods.algorithm1 import DDPM, Algorithm1
from pareto_amb.diffusion.methods.base import Augment, Batch, Method
from pareto_amb.diffusion.methods.control import Control
from pareto_amb.diffusion.methods.masking import Masking, MaskingReweighted
from pareto_amb.diffusion.methods.noise_only import NoiseOnly
from pareto_amb.diffusion.methods.noise_only_consistent import NoiseOnlyConsistent

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (DDPM, Algorithm1, Control, Masking, MaskingReweighted, NoiseOnly, NoiseOnlyConsistent)
}
"""The methods that ship with pareto-amb, by name."""

__all__ = [
    "DDPM",
    "METHODS",
    "Algorithm1",
    "Augment",
    "Batch",
    "Control",
    "Masking",
    "MaskingReweighted",
    "Method",
    "NoiseOnly",
    "NoiseOnlyConsistent",
]
