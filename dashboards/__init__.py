"""Plotly figures and the one-file HTML report of a run.

Everything here reads a run directory: its results table, its sweep file and its stored
sample images. Nothing here imports Ray, Optuna, MLflow or PyTorch, so a report can be
made on any laptop.
"""
