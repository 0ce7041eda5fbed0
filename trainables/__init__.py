"""Ray Tune Trainables, one a training method. A new method is one file and one line here."""

from ray.tune import Trainable

from trainables.algorithm1 import Algorithm1Trainable, SweepAssets

TRAINABLES: dict[str, type[Trainable]] = {"algorithm1": Algorithm1Trainable}

__all__ = ["TRAINABLES", "Algorithm1Trainable", "SweepAssets"]
