"""How sure a frontier is: the noise of its points, and how often each stays non-dominated under it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pareto_amb.evaluation.shares import share_posterior
from pareto_amb.search.frontier import BASELINE, average_seeds, comparable

N_DRAWS = 4000
_VALUES_AT_ONCE = 2_000_000

_MAX_CORRELATION = 0.99  # keeps the parameters of the Beta distribution above 0


@dataclass(frozen=True)
class TrainingNoise:
    """What another seed of the training moves, beyond the sampling error of a measurement.

    `fid` is a standard deviation, taken to be the same at every point. `memorization` is the intraclass
    correlation of the copies: the variance of the share p as a part of p (1 - p), in [0, 1).
    """

    fid: float
    memorization: float


def training_noise(results: pd.DataFrame, train_size: int) -> TrainingNoise:
    """The noise of one train size, from the spread of DDPM over its seeds at full budget.

    The sampling error, which that spread holds too, is taken off. With fewer than two seeds nothing is
    known of it, and it counts as none: whatever is derived from it is then too sure.
    """
    rows = comparable(results, train_size)
    rows = rows[rows.method == BASELINE]
    if len(rows) < 2:
        return TrainingNoise(fid=0.0, memorization=0.0)
    fid = rows.fid.var(ddof=1) - (_sampling_error(rows) ** 2).mean()
    n = float(rows.n_samples.iloc[0])
    mean, _ = share_posterior(float(rows.memorization.mean()), int(n))
    share = float(rows.memorization.var(ddof=1) / (mean * (1.0 - mean)))
    correlation = (share - 1.0 / n) / (1.0 - 1.0 / n)  # of a beta-binomial share with this variance
    return TrainingNoise(
        fid=float(np.sqrt(max(fid, 0.0))), memorization=min(max(correlation, 0.0), _MAX_CORRELATION)
    )


def frontier_points(
    results: pd.DataFrame, train_size: int, n_draws: int = N_DRAWS, seed: int = 0
) -> pd.DataFrame:
    """The points of one train size at full budget, one a configuration, with how sure each is.

    Beside the columns of `average_seeds`: `fid_sd` and `memorization_sd`, the standard deviations of a
    point under `redraw`, and `p_front`, the share of `n_draws` redraws in which no other point dominates it.
    """
    points = average_seeds(comparable(results, train_size))
    noise = training_noise(results, train_size)
    fid_sd, memorization_sd = deviations(points, noise)
    return points.assign(
        fid_sd=fid_sd,
        memorization_sd=memorization_sd,
        p_front=probability_non_dominated(points, noise, n_draws, seed),
    )


def deviations(points: pd.DataFrame, noise: TrainingNoise) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standard deviations (n,) of the fid and of the memorization of `points`, as `redraw` spreads them."""
    mean, share = _memorization(points, noise)
    return _fid_deviation(points, noise), np.sqrt(mean * (1.0 - mean) * share)


def redraw(
    points: pd.DataFrame, noise: TrainingNoise, n_draws: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """What `points` could have measured: (n_draws, n, 2), fid and memorization.

    The fid is normal around its value; its variance is that of the sampling error, `fid_se`, and of the
    training noise over the point's seeds. The memorization is Beta distributed around the share behind
    the count (Jeffreys' prior); its variance is beta-binomial: p (1 - p) (rho + (1 - rho) / n_samples) over
    the seeds, with the correlation rho of DDPM's copies. Points and metrics are drawn independently: that
    all trials are sampled from the same latents makes their differences smaller than is assumed here.
    """
    mean, share = _memorization(points, noise)
    concentration = 1.0 / share - 1.0
    shape = (n_draws, len(points))
    fid = rng.normal(points.fid.to_numpy(dtype=np.float64), _fid_deviation(points, noise), shape)
    memorization = rng.beta(mean * concentration, (1.0 - mean) * concentration, shape)
    return np.stack([fid, memorization], axis=-1)


def probability_non_dominated(
    points: pd.DataFrame, noise: TrainingNoise, n_draws: int = N_DRAWS, seed: int = 0
) -> NDArray[np.float64]:
    """For each of `points` (n,) the share of redraws in which no other one dominates it."""
    rng = np.random.default_rng(seed)
    at_once = max(_VALUES_AT_ONCE // max(len(points), 1), 1)
    counts = np.zeros(len(points))
    for done in range(0, n_draws, at_once):
        counts += non_dominated_in_each(redraw(points, noise, min(at_once, n_draws - done), rng)).sum(axis=0)
    return counts / n_draws


def non_dominated_in_each(draws: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows of each of `draws` (k, n, 2) no other row of the same draw dominates: (k, n).

    By rising first value a row is dominated when an earlier one has a second value no higher. Equal rows
    must not occur.
    """
    order = np.lexsort((draws[..., 1], draws[..., 0]), axis=-1)
    second = np.take_along_axis(draws[..., 1], order, axis=-1)
    lowest_before = np.minimum.accumulate(second, axis=-1)[:, :-1]
    free = np.ones(second.shape, dtype=bool)
    free[:, 1:] = second[:, 1:] < lowest_before
    result = np.empty_like(free)
    np.put_along_axis(result, order, free, axis=-1)
    return result


def _fid_deviation(points: pd.DataFrame, noise: TrainingNoise) -> NDArray[np.float64]:
    variance = _sampling_error(points) ** 2 + noise.fid**2 / points.seeds
    return np.asarray(np.sqrt(variance), dtype=np.float64)


def _memorization(
    points: pd.DataFrame, noise: TrainingNoise
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The expected memorization (n,), and its variance as a part of p (1 - p) (n,)."""
    n = points.n_samples.to_numpy(dtype=np.float64)
    mean, _ = share_posterior(points.memorization.to_numpy(dtype=np.float64), n)
    rho = noise.memorization
    return mean, (rho + (1.0 - rho) / (n + 2.0)) / points.seeds.to_numpy(dtype=np.float64)


def _sampling_error(rows: pd.DataFrame) -> "pd.Series[float]":
    """`fid_se` of each row, 0 where it was not measured (tables of old versions)."""
    if "fid_se" not in rows:
        return pd.Series(0.0, index=rows.index)
    return rows.fid_se.fillna(0.0)
