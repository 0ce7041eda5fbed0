"""Ambient Diffusion with missing pixels (Daras et al. 2023)."""

from collections.abc import Mapping
from typing import Any

from pareto_amb.config import SweepConfig
from pareto_amb.diffusion.methods import Masking


def masking(trial: Mapping[str, Any], sweep: SweepConfig) -> Masking:
    """Missing pixels at the trial's corruption."""
    return Masking(trial["corruption"])
