"""What Ray Tune runs: one trainable for the trials of every method.

Nothing is imported here: the process of the stop sign loads that alone, and no PyTorch.
"""
