"""What a rung tells of the end of a training: its figures, its denoising probes, and both.

    python benchmarks/early_figures.py benchmarks/tables/digits50.parquet

Of every training of the table, from scratch and by Algorithm 1, the figures at the end are extrapolated from
one of its rungs by the others, as a search does it (search/extrapolation.py). Printed, for each rung and
objective, are the rank correlation with what came, the root-mean-square error in standard deviations of what
came, and the rank correlation where eight trainings drawn at random extrapolate the others. Trainings of one
seed tell of each other; what is printed are means over seeds. The last line is the rank correlation of two
trainings of the same points: more than that nothing could tell. Where the table has trainings that were
branched from DDPM, how they end follows.
"""

import argparse
import itertools
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


def curves(frame: pd.DataFrame) -> list[list[pd.DataFrame]]:
    """The trainings of each seed, in the order of their points, those that every seed has to the end."""
    n_rungs = frame.rung.nunique()
    by_seed = [
        {point: rows for point, rows in of_seed.groupby(["sigma_tn", "mix"]) if len(rows) == n_rungs}
        for _, of_seed in frame.sort_values("rung").groupby("seed")
    ]
    points = sorted(set.intersection(*map(set, by_seed)))
    return [[found[point] for point in points] for found in by_seed]


def told_by(trainings: list[pd.DataFrame], rung: int) -> dict[str, Array]:
    """What the trainings (n) have shown at a rung, from 0: (n, f) each."""
    probes = [name for name in trainings[0] if name.startswith(("probe_train_", "probe_heldout_"))]
    figures = np.array([rows[[*OBJECTIVES, "similarity_mean"]].iloc[rung] for rows in trainings])
    probed = np.log(np.array([rows[probes].iloc[rung] for rows in trainings]))
    return {"figures": figures, "probes": probed, "both": np.hstack([figures, probed])}


def judged(shown: Array, came: Array) -> Array:
    """Rank correlation, error and rank correlation by few of each objective: (m, 3)."""
    expected, few = left_out(shown, came), by_few(shown, came)
    error = np.sqrt(((expected - came) ** 2).mean(axis=0)) / came.std(axis=0)
    whole = [_rank_correlation(a, b) for a, b in zip(expected.T, came.T, strict=True)]
    return np.stack([whole, error, few], axis=1)


def print_branched(frame: pd.DataFrame) -> None:
    """How trainings that went on from DDPM end, beside the means of the same from scratch over all seeds."""
    last = frame[frame.images_seen == frame.images_seen.max()]
    scratch = last[last.branched_at == 0].groupby(["sigma_tn", "mix"])[OBJECTIVES].mean()
    for begun, rows in last[last.branched_at > 0].groupby("branched_at"):
        found = rows.groupby(["sigma_tn", "mix"])[OBJECTIVES].mean()
        known = scratch.loc[found.index]
        print(f"\nbranched at {begun / last.images_seen.max():.3f} of the budget, {len(found)} points:")
        for name in OBJECTIVES:
            ranks = _rank_correlation(found[name].to_numpy(), known[name].to_numpy())
            print(f"  {name}: rank correlation {ranks:.2f}, bias {(found[name] - known[name]).median():+.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, help="of benchmarks/record_curves.py")
    frame = pd.read_parquet(parser.parse_args().table)
    seeds = curves(frame[(frame.sigma_tn > 0) & (frame.branched_at == 0)])
    came = [np.array([rows[OBJECTIVES].iloc[-1] for rows in trainings]) for trainings in seeds]
    print(f"{len(seeds[0])} points, {len(seeds)} seeds\n")
    print("| share of the budget | told by | FID | error | of 8 | memorization | error | of 8 |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    images = seeds[0][0].images_seen
    for rung, share in enumerate((images / images.max())[:-1]):
        told = [told_by(trainings, rung) for trainings in seeds]
        for kind in told[0]:
            found = [judged(shown[kind], end) for shown, end in zip(told, came, strict=True)]
            cells = " | ".join(f"{value:.2f}" for value in np.nanmean(found, axis=0).ravel())
            print(f"| {share:.3f} | {kind} | {cells} |")
    pairs = list(itertools.combinations(came, 2))
    again = [[_rank_correlation(a[:, k], b[:, k]) for k in range(len(OBJECTIVES))] for a, b in pairs]
    if pairs:
        fid, copies = np.mean(again, axis=0)
        print(f"| 1 | another training | {fid:.2f} | | | {copies:.2f} | | |")
    print_branched(frame[frame.sigma_tn > 0])


if __name__ == "__main__":
    main()
