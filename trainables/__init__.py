"""What Ray Tune runs: one trainable for the trials of every method."""

from pareto_amb.trainables.stop_sign import StopSign
from pareto_amb.trainables.trial_trainable import SweepAssets, TrialTrainable

__all__ = ["StopSign", "SweepAssets", "TrialTrainable"]
