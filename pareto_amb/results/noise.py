"""The noise of points: what other samples, or another seed of the training, would change.

Points are redrawn with it to tell how sure a frontier is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pareto_amb.declared import BASELINE, Objective
from pareto_amb.evaluation.shares import share_posterior
from pareto_amb.search.pareto import non_dominated_in_each

Array = NDArray[np.float64]

N_DRAWS = 4000
_VALUES_AT_ONCE = 2_000_000

_MAX_CORRELATION = 0.99  # keeps the parameters of the Beta distribution above 0


@dataclass(frozen=True)
class TrainingNoise:
    """What another seed of the training moves, beyond the sampling error of a measurement, by objective.

    Of an objective whose noise is `normal`: a standard deviation, taken to be the same at every point. Of a
    `share`: the intraclass correlation of the samples that count, the variance of the share p as a part of
    p (1 - p), in [0, 1). One number, or one for each of some points (n,).
    """

    of: Mapping[str, float | Array]


def training_noise(rows: pd.DataFrame, objectives: Sequence[Objective]) -> TrainingNoise:
    """The noise from the spread of DDPM over its seeds, among `rows` at one stopping point of one train size.

    The sampling error, which that spread holds too, is taken off. With fewer than two seeds nothing is
    known of it, and it counts as none; `baseline.quantile_of_noise` makes intervals the wider.
    """
    rows = rows[rows.method == BASELINE]
    if len(rows) < 2:
        return TrainingNoise({objective.name: 0.0 for objective in objectives})
    measure = {"normal": _normal_noise, "share": _share_noise}
    return TrainingNoise(
        {objective.name: measure[objective.noise](rows, objective) for objective in objectives}
    )


def _normal_noise(rows: pd.DataFrame, objective: Objective) -> float:
    variance = rows[objective.name].var(ddof=1) - (_sampling_error(rows, objective) ** 2).mean()
    return float(np.sqrt(max(variance, 0.0)))


def _share_noise(rows: pd.DataFrame, objective: Objective) -> float:
    n = float(rows.n_samples.iloc[0])
    if n <= 1:  # one sample is a copy or none: all its variance is the sampling's
        return 0.0
    mean, _ = share_posterior(float(rows[objective.name].mean()), int(n))
    share = float(rows[objective.name].var(ddof=1) / (mean * (1.0 - mean)))
    correlation = (share - 1.0 / n) / (1.0 - 1.0 / n)  # of a beta-binomial share with this variance
    return min(max(correlation, 0.0), _MAX_CORRELATION)


def sampling_deviation(rows: pd.DataFrame, objective: Objective) -> float:
    """Standard deviation of an objective over measurements of one and the same model, for one of `rows`.

    Of a share that of its posterior under Jeffreys' prior, which is not 0 where all rows have none.
    """
    if objective.noise == "normal":
        return float(np.sqrt((_sampling_error(rows, objective) ** 2).mean()))
    n = rows.n_samples.to_numpy(dtype=np.float64)
    mean, _ = share_posterior(float(rows[objective.name].mean()), n)
    return float(np.sqrt((mean * (1.0 - mean) / (n + 2.0)).mean()))


def deviations(points: pd.DataFrame, noise: TrainingNoise, objective: Objective) -> Array:
    """Standard deviation (n,) of an objective at `points`, as `redraw` spreads it."""
    if objective.noise == "normal":
        variance = _sampling_error(points, objective) ** 2 + noise.of[objective.name] ** 2 / points.seeds
        return np.asarray(np.sqrt(variance), dtype=np.float64)
    mean, share = _share_moments(points, noise, objective)
    return np.asarray(np.sqrt(mean * (1.0 - mean) * share))


def redraw(
    points: pd.DataFrame,
    objectives: Sequence[Objective],
    noise: TrainingNoise,
    n_draws: int,
    rng: np.random.Generator,
) -> Array:
    """What `points` could have measured: (n_draws, n, m), an objective a column, maximised ones times -1.

    A `normal` objective is normal around its value; its variance is that of the sampling error, its column
    `NAME_se`, and of the training noise over the point's seeds. A `share` is Beta distributed around the
    share behind the count (Jeffreys' prior); its variance is beta-binomial: p (1 - p) (rho + (1 - rho) /
    (n_samples + 2)) over the seeds, with the correlation rho of DDPM's. Points and objectives are drawn
    independently: that all trials are sampled from the same latents makes their differences smaller than is
    assumed here.
    """
    shape = (n_draws, len(points))
    drawn = []
    for objective in objectives:
        if objective.noise == "normal":
            values = points[objective.name].to_numpy(dtype=np.float64)
            column = rng.normal(values, deviations(points, noise, objective), shape)
        else:
            mean, share = _share_moments(points, noise, objective)
            concentration = 1.0 / share - 1.0
            column = rng.beta(mean * concentration, (1.0 - mean) * concentration, shape)
        drawn.append(column if objective.direction == "min" else -column)
    return np.stack(drawn, axis=-1)


def probability_non_dominated(
    points: pd.DataFrame,
    objectives: Sequence[Objective],
    noise: TrainingNoise,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Array:
    """For each of `points` (n,) the share of redraws in which no other one dominates it."""
    rng = np.random.default_rng(seed)
    at_once = max(_VALUES_AT_ONCE // max(len(points), 1), 1)
    counts = np.zeros(len(points))
    for done in range(0, n_draws, at_once):
        draws = redraw(points, objectives, noise, min(at_once, n_draws - done), rng)
        counts += non_dominated_in_each(draws).sum(axis=0)
    return counts / n_draws


def _share_moments(points: pd.DataFrame, noise: TrainingNoise, objective: Objective) -> tuple[Array, Array]:
    """The expected share (n,), and its variance as a part of p (1 - p) (n,)."""
    n = points.n_samples.to_numpy(dtype=np.float64)
    mean, _ = share_posterior(points[objective.name].to_numpy(dtype=np.float64), n)
    rho = noise.of[objective.name]
    return mean, (rho + (1.0 - rho) / (n + 2.0)) / points.seeds.to_numpy(dtype=np.float64)


def _sampling_error(rows: pd.DataFrame, objective: Objective) -> "pd.Series[float]":
    """The standard error of each row, 0 where it was not measured (tables of old versions)."""
    if objective.error_column not in rows:
        return pd.Series(0.0, index=rows.index)
    return rows[objective.error_column].fillna(0.0)
