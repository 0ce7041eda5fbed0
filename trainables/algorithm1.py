"""Algorithm 1, and DDPM, its sigma_tn = 0 case."""

from collections.abc import Mapping
from typing import Any

from pareto_amb.config import SweepConfig
from pareto_amb.diffusion.methods import Algorithm1


def algorithm1(trial: Mapping[str, Any], sweep: SweepConfig) -> Algorithm1:
    """Algorithm 1 at the trial's sigma_tn and mix ratio."""
    return Algorithm1.within(sweep.sampling.sigma_max, trial["sigma_tn"], trial["mix_ratio"])
