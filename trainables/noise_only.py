"""Ambient score matching on noisy copies alone (Daras et al. 2024)."""

from collections.abc import Mapping
from typing import Any

from pareto_amb.config import SweepConfig
from pareto_amb.diffusion.methods import NoiseOnly


def noise_only(trial: Mapping[str, Any], sweep: SweepConfig) -> NoiseOnly:
    """Noisy copies at the trial's sigma_tn."""
    return NoiseOnly(trial["sigma_tn"])
