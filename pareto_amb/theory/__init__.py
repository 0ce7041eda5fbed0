"""Closed forms of the theory of arXiv 2502.21278 (section 4) and of Feldman (2020), in EDM units.

`leakage` says what samples tell of a training point, `frequencies` what fitting a rare point is worth,
`merging` how noise makes subpopulations one. The optimal denoisers need PyTorch: they are in
`pareto_amb.diffusion.theory`. docs/theory.md explains each curve.
"""
