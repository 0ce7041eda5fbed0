"""The table of what triggers copies: training captions, shuffled ones, and those never seen."""

import math

import pandas as pd

from pareto_amb.config import SweepConfig
from pareto_amb.dashboards import theme
from pareto_amb.dashboards.formats import ABSENT, count
from pareto_amb.dashboards.looks import look
from pareto_amb.dashboards.tables import Cell, Row, Table
from pareto_amb.declared import BASELINE
from pareto_amb.results.size import SizeResults

LONGEST = 20
"""Configurations shown."""

FIGURES = {
    "memorization": ("Training captions", "share of copies"),
    "memorization_shuffled_captions": ("Shuffled captions", "the same words in another order"),
    "memorization_unseen_captions": ("Unseen captions", "of held-out images"),
    "caption_detection_auc": ("Detection", "by how far a caption moves the predicted noise; 0.5: chance"),
}
"""The columns of the results table that are shown, with a few words about each."""


def prompt_table(size: SizeResults, config: SweepConfig) -> Table | None:
    """The figures of every configuration at the end of its training; None for a model without captions."""
    if "caption_detection_auc" not in size.frame:
        return None
    ended = size.frame[(size.frame.n_samples > 0) & (size.frame.budget == 1) & (size.frame.controls == "")]
    shown = [name for name in FIGURES if name in ended and ended[name].notna().any()]
    rows = [
        _row(str(method), group, size, shown)
        for method in [BASELINE, *(name for name in size.declared.methods if name != BASELINE)]
        for _, group in _configurations(ended[ended.method == method], size)
    ]
    caption = (
        "Whether a caption must be a training image's own to bring a copy of one. Each training at its end, "
        f"{count(config.evaluation.n_samples)} samples by training captions and "
        f"{count(config.evaluation.other_prompts)} by each of the others; repeats with fresh seeds are "
        "averaged. Detection tells, before any image is made, the training captions that bring copies from "
        "those that do not (Wen et al. 2024): the area under its ROC curve."
    )
    notes = [] if len(rows) <= LONGEST else [f"The first {LONGEST} of {count(len(rows))} configurations."]
    title = "Which captions trigger copies"
    if not rows:
        return Table(title, missing="No training has reached its end.")
    return Table(title, caption, [FIGURES[name] for name in shown], rows[:LONGEST], notes)


def _configurations(rows: pd.DataFrame, size: SizeResults) -> "list[tuple[object, pd.DataFrame]]":
    """The rows of each configuration of one method, the fewest copies last."""
    names = list(size.declared.parameters)
    groups = list(rows.groupby(names, dropna=False)) if names else [((), rows)]
    return sorted(groups, key=lambda item: -float(item[1].memorization.mean()))


def _row(method: str, group: pd.DataFrame, size: SizeResults, shown: list[str]) -> Row:
    drawn, trainings = look(size.declared, method), len(group)
    chosen = size.declared.in_words(method, group.iloc[0].to_dict())
    counted = "one training" if trainings == 1 else f"{trainings} trainings"
    cells = []
    for name in shown:
        mean = float(group[name].mean())
        cells.append(Cell(ABSENT if math.isnan(mean) else f"{mean:.3f}", ""))
    colour = theme.DDPM if method == BASELINE else drawn.colour
    return Row(drawn.label, ", ".join(filter(None, (chosen, counted))), colour, cells)
