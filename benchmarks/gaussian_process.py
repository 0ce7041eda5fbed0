"""What the Gaussian processes of one proposal cost: ours, and scikit-learn's with the same posterior.

    OPENBLAS_NUM_THREADS=1 python benchmarks/gaussian_process.py

Both choose the length scales and the noise of two objectives on the same grid, and predict the candidates.
Prints the median CPU milliseconds of --repetitions pairs, one after the other on the same data.
"""

import argparse
import itertools
import platform
import time
from collections.abc import Callable

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel

from pareto_amb.search.ehvi import (
    CATEGORY_LENGTHS,
    LENGTHS,
    N_CANDIDATES,
    NOISES,
    GaussianProcess,
    length_prior,
)

Array = NDArray[np.float64]
Predict = Callable[[Array, Array, Array], tuple[Array, Array]]

GROUPS = [(slice(0, 1), LENGTHS), (slice(1, 3), CATEGORY_LENGTHS)]
"""A range, and a choice of two."""


def ours(x: Array, y: Array, new: Array) -> tuple[Array, Array]:
    return GaussianProcess(x, y, GROUPS)(new)


def scikit_learns(x: Array, y: Array, new: Array) -> tuple[Array, Array]:
    mean, scale = y.mean(), y.std() + 1e-6
    best, model, best_noise = -np.inf, None, 0.0
    for range_length, choice_length in itertools.product(LENGTHS, CATEGORY_LENGTHS):
        lengths = [range_length, choice_length, choice_length]
        for noise in NOISES:
            kernel = RBF(lengths, "fixed") + WhiteKernel(noise, "fixed")
            fitted = GaussianProcessRegressor(kernel, optimizer=None).fit(x, (y - mean) / scale)
            value = fitted.log_marginal_likelihood_value_ + length_prior((range_length, choice_length))
            if value > best:
                best, model, best_noise = value, fitted, noise
    assert model is not None
    z, deviation = model.predict(new, return_std=True)
    return z * scale + mean, np.sqrt(deviation**2 - best_noise) * scale


def milliseconds(predict: Predict, x: Array, objectives: Array, new: Array) -> float:
    started = time.process_time()
    for y in objectives.T:
        predict(x, y, new)
    return 1e3 * (time.process_time() - started)


def points(n: int, rng: np.random.Generator) -> Array:
    choice = rng.integers(0, 2, n)
    return np.stack([rng.random(n), choice, 1 - choice], axis=1).astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--observed", type=int, nargs="+", default=[15, 60])
    parser.add_argument("--repetitions", type=int, default=15)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"scikit-learn {sklearn.__version__}, {platform.machine()}, {N_CANDIDATES} candidates\n")
    print("| observed | ours, ms | scikit-learn, ms | times as long | largest difference |")
    print("|---:|---:|---:|---:|---:|")
    for n in options.observed:
        pairs, difference = [], 0.0
        for _ in range(options.repetitions):
            x, new = points(n, rng), points(N_CANDIDATES, rng)
            signal = np.stack([np.sin(5 * x[:, 0]) + x[:, 1], np.exp(-3 * x[:, 0])], axis=1)
            objectives = signal + 0.1 * rng.standard_normal((n, 2))
            pairs.append([milliseconds(p, x, objectives, new) for p in (ours, scikit_learns)])
            a, b = (p(x, objectives[:, 0], new) for p in (ours, scikit_learns))
            difference = max(difference, *(float(np.abs(u - v).max()) for u, v in zip(a, b, strict=True)))
        ms, theirs = np.median(pairs, axis=0)
        ratio = np.median([b / a for a, b in pairs])
        print(f"| {n} | {ms:.1f} | {theirs:.1f} | {ratio:.1f} | {difference:.0e} |")


if __name__ == "__main__":
    main()
