"""Text-to-image models: diffusers' U-Nets with captions, as denoisers of this house.

`pipeline.py` reads a pretrained pipeline, `small.py` makes a small one for CPUs; either becomes a
`TextDenoiser`. Needs the extra `pareto-amb[text]`.
"""
