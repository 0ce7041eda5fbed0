"""What a rung tells of the end of a training: its figures, its denoising probes, and both.

    python benchmarks/early_figures.py benchmarks/tables/digits50.parquet

Of every training of the table, from scratch and by Algorithm 1, the figures at the end are extrapolated from
one of its rungs by the others, as a search does it (search/extrapolation.py). Printed, for each rung and
objective, are the rank correlation with what came, the root-mean-square error in standard deviations of what
came, and the rank correlation where eight trainings drawn at random extrapolate the others.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr

from pareto_amb.search.extrapolation import extrapolate

OBJECTIVES = ["fid", "memorization"]
FEW, DRAWS = 8, 100
Array = NDArray[np.float64]


def left_out(shown: Array, came: Array) -> Array:
    """What each row of `shown` (n, f) is expected to come to by all others: (n, m), as `came` is."""
    rows = np.arange(len(shown))
    return np.concatenate([extrapolate(shown[rows != k], came[rows != k], shown[rows == k])[0] for k in rows])


def by_few(shown: Array, came: Array) -> Array:
    """The rank correlations (m,) where FEW rows extrapolate the others, means over DRAWS draws."""
    rng, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        order = rng.permutation(len(shown))
        few, others = order[:FEW], order[FEW:]
        expected, _ = extrapolate(shown[few], came[few], shown[others])
        found.append([_rank_correlation(a, b) for a, b in zip(expected.T, came[others].T, strict=True)])
    return np.asarray(np.nanmean(found, axis=0))


def _rank_correlation(a: Array, b: Array) -> float:
    return float(spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, help="of benchmarks/record_curves.py")
    frame = pd.read_parquet(parser.parse_args().table)
    frame = frame[(frame.sigma_tn > 0) & (frame.branched_at == 0)].sort_values("rung")
    n_rungs = frame.rung.nunique()
    trainings = [rows for _, rows in frame.groupby(["sigma_tn", "mix", "seed"]) if len(rows) == n_rungs]
    probes = [name for name in frame if name.startswith(("probe_train_", "probe_heldout_"))]
    came = np.array([rows[OBJECTIVES].iloc[-1] for rows in trainings])
    print(f"{len(trainings)} trainings\n")
    print("| share of the budget | told by | FID | error | of 8 | memorization | error | of 8 |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for rung in range(n_rungs - 1):
        figures = np.array([rows[[*OBJECTIVES, "similarity_mean"]].iloc[rung] for rows in trainings])
        probed = np.log(np.array([rows[probes].iloc[rung] for rows in trainings]))
        share = trainings[0].images_seen.iloc[rung] / frame.images_seen.max()
        for told, shown in (("figures", figures), ("probes", probed), ("both", np.hstack([figures, probed]))):
            expected, few = left_out(shown, came), by_few(shown, came)
            error = np.sqrt(((expected - came) ** 2).mean(axis=0)) / came.std(axis=0)
            cells = [
                f"{_rank_correlation(expected[:, k], came[:, k]):.2f} | {error[k]:.2f} | {few[k]:.2f}"
                for k in range(len(OBJECTIVES))
            ]
            print(f"| {share:.3f} | {told} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
