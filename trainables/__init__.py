"""What Ray Tune runs: one trainable, and the training methods it knows.

A new method is one file, which makes the method from a trial's configuration, and one line here.
"""

from pareto_amb.search.frontier import BASELINE
from trainables.algorithm1 import algorithm1
from trainables.base import MethodBuilder, SweepAssets, TrialTrainable
from trainables.masking import masking
from trainables.noise_only import noise_only

METHODS: dict[str, MethodBuilder] = {
    BASELINE: algorithm1,
    "algorithm1": algorithm1,
    "masking": masking,
    "noise_only": noise_only,
}

__all__ = ["METHODS", "SweepAssets", "TrialTrainable"]
