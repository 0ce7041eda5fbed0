"""The training methods. A new one is a class in a file of its own, and a line here.

The paper's Table 2 compares Algorithm 1 (DDPM is its sigma_tn = 0 case), missing pixels and noisy copies
alone; each of the last two comes in two readings. The control tells what of Algorithm 1's gain is due to its
noise levels. Table 3 compares mitigations for text-to-image models, alone and with Algorithm 1; the latter
have controls of their own.
"""

from pareto_amb.diffusion.methods.algorithm1 import DDPM, Algorithm1
from pareto_amb.diffusion.methods.base import Augment, Batch, Method
from pareto_amb.diffusion.methods.captions import (
    S23,
    W24,
    S23Algorithm1,
    S23Captions,
    S23CaptionsAlgorithm1,
    S23CaptionsControl,
    S23Control,
    S23Tokens,
    S23TokensAlgorithm1,
    S23TokensControl,
    W24Algorithm1,
    W24Control,
)
from pareto_amb.diffusion.methods.control import Control
from pareto_amb.diffusion.methods.masking import Masking, MaskingReweighted
from pareto_amb.diffusion.methods.noise_only import NoiseOnly
from pareto_amb.diffusion.methods.noise_only_consistent import NoiseOnlyConsistent

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        DDPM,
        Algorithm1,
        Control,
        Masking,
        MaskingReweighted,
        NoiseOnly,
        NoiseOnlyConsistent,
        S23,
        S23Algorithm1,
        S23Control,
        S23Captions,
        S23CaptionsAlgorithm1,
        S23CaptionsControl,
        S23Tokens,
        S23TokensAlgorithm1,
        S23TokensControl,
        W24,
        W24Algorithm1,
        W24Control,
    )
}
"""The methods that ship with pareto-amb, by name."""

__all__ = [
    "DDPM",
    "METHODS",
    "S23",
    "W24",
    "Algorithm1",
    "Augment",
    "Batch",
    "Control",
    "Masking",
    "MaskingReweighted",
    "Method",
    "NoiseOnly",
    "NoiseOnlyConsistent",
    "S23Algorithm1",
    "S23Captions",
    "S23CaptionsAlgorithm1",
    "S23CaptionsControl",
    "S23Control",
    "S23Tokens",
    "S23TokensAlgorithm1",
    "S23TokensControl",
    "W24Algorithm1",
    "W24Control",
]
