"""The training methods. A new one is a class in a file of its own, and a line here.

The paper's Table 2 compares these: Algorithm 1 (DDPM is its sigma_tn = 0 case), missing pixels, and noisy
copies alone.
"""

from pareto_amb.diffusion.methods.algorithm1 import DDPM, Algorithm1
from pareto_amb.diffusion.methods.base import Augment, Batch, Method
from pareto_amb.diffusion.methods.masking import Masking
from pareto_amb.diffusion.methods.noise_only import NoiseOnly

METHODS: dict[str, type[Method]] = {method.name: method for method in (DDPM, Algorithm1, Masking, NoiseOnly)}
"""The methods that ship with pareto-amb, by name."""

__all__ = ["DDPM", "METHODS", "Algorithm1", "Augment", "Batch", "Masking", "Method", "NoiseOnly"]
