"""What the recommended training is compared with beside DDPM at its best: its control, and more samples."""

from typing import Any

import numpy as np
import pandas as pd

from pareto_amb.declared import BASELINE, Declared
from pareto_amb.results.baseline import Figures
from pareto_amb.results.points import average_seeds, finished
from pareto_amb.results.recommendation import FinalFigures, Gain
from pareto_amb.results.size import SizeResults
from pareto_amb.results.table import FINAL


def gain_over_ddpm(size: SizeResults, chosen: "pd.Series[Any]") -> Gain | None:
    """What the noise levels and the noisy copies gain, None where no control of the chosen point was trained.

    DDPM and the control are taken where the chosen training stops: nothing here is due to its length.
    """
    rows = size.controls[size.controls.images_seen == chosen.images_seen]
    rows = rows[rows.controls == chosen.trial_id]
    ddpm = size.points[(size.points.method == BASELINE) & (size.points.images_seen == chosen.images_seen)]
    if rows.empty or ddpm.empty:
        return None
    control = size.with_noise(average_seeds(rows.assign(confirms=rows.controls), size.declared)).iloc[0]
    return Gain(
        trials=sorted(rows.trial_id),
        beside=_beside(size.declared, chosen.method),
        ddpm=Figures(**size.spreads(ddpm.iloc[0])),
        control=Figures(**size.spreads(control)),
    )


def _beside(declared: Declared, method: str) -> list[str]:
    """What a method and its control do, in words, beside what chooses noise levels."""
    control = declared.method(declared.method(method).control)
    others = [p for p in control.parameters if p.kind != "level" and p.name != "mix_ratio"]
    return [p.plain or p.label for p in others]


def final_figures(size: SizeResults, chosen: "pd.Series[Any]") -> FinalFigures | None:
    """The second, larger measurement of the chosen point, None where it has none."""
    ours = _final_point(size, size.behind(chosen))
    if ours is None:
        return None
    ddpm = _final_point(size, finished(size.rows[size.rows.method == BASELINE]))
    n_samples = int(ours.n_samples)
    alike = ddpm is not None and int(ddpm.n_samples) == n_samples
    return FinalFigures(
        n_samples=n_samples,
        training=Figures(**size.spreads(ours)),
        ddpm=Figures(**size.spreads(ddpm)) if ddpm is not None and alike else None,
    )


def _final_point(size: SizeResults, rows: pd.DataFrame) -> "pd.Series[Any] | None":
    """The mean over those of `rows` that were measured again, under the objectives' names, with its noise."""
    names = {f"{FINAL}{o.name}": o.name for o in size.objectives}
    wanted = [f"{FINAL}n_samples", *names]
    if not set(wanted) <= set(rows.columns):
        return None
    rows = rows[rows[wanted].notna().all(axis=1)]
    rows = rows[rows[wanted[0]] == rows[wanted[0]].max()]
    if rows.empty:
        return None
    point = {name: float(rows[column].mean()) for column, name in names.items()}
    for o in size.objectives:
        if (column := f"{FINAL}{o.error_column}") in rows:
            point[o.error_column] = float(np.sqrt((rows[column].fillna(0.0) ** 2).mean() / len(rows)))
    shared = {
        "n_samples": rows[wanted[0]].iloc[0],
        "seeds": len(rows),
        "images_seen": rows.images_seen.iloc[0],
    }
    return size.with_noise(pd.DataFrame([{**point, **shared}])).iloc[0]
