"""Plotly figures and one-file HTML pages.

`report` reads a run directory: its results table, its sweep file and its stored sample images. It
imports neither Ray, Optuna, MLflow nor PyTorch, so a report can be made on any laptop. `evaluation`
shows what one evaluation found.
"""
