"""What comes after encoding: the plain way, torch-fidelity and pareto_amb, on the same features.

The plain way takes one generated image at a time, works out its cosine similarity to every training image,
sorts them all, and uses SciPy's matrix square root for the Fréchet distance. It is timed as written in the
textbook, and with the training features scaled to length 1 beforehand. Ways take turns, so that a busy
moment of the machine hits all of them alike; seconds are CPU time, medians.

    python benchmarks/evaluation.py
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from pareto_amb.evaluation.fidelity import fid, kernel_distance, prdc
from pareto_amb.evaluation.frechet import (
    fit_gaussian,
    frechet_distance,
    gaussian_from_covariance,
)
from pareto_amb.evaluation.memorization import authpct, c_t, l2_ratio, nearest_neighbours

Way = Callable[[], object]
OURS = "pareto_amb"


def make_features(n: int, dim: int, seed: int) -> Tensor:
    """Features (n, dim) with a common mean, correlated, standard deviations over two powers of ten."""
    basis = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(99)))[0]
    noise = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))
    return (noise * torch.logspace(0, -2, dim)) @ basis + 0.3


def plain_nearest(generated: np.ndarray, train: np.ndarray) -> list[int]:
    nearest = []
    for image in generated:
        similarity = train @ image / (np.linalg.norm(train, axis=1) * np.linalg.norm(image))
        nearest.append(int(np.argsort(-similarity)[0]))
    return nearest


def plain_nearest_scaled(generated: np.ndarray, train: np.ndarray) -> list[int]:
    train = train / np.linalg.norm(train, axis=1, keepdims=True)
    generated = generated / np.linalg.norm(generated, axis=1, keepdims=True)
    return [int(np.argsort(-(train @ image))[0]) for image in generated]


def plain_frechet(
    mean: np.ndarray, covariance: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray
) -> float:
    root = scipy.linalg.sqrtm(covariance @ covariance2).real
    return float(np.sum((mean - mean2) ** 2) + np.trace(covariance + covariance2 - 2 * root))


def plain_fid(generated: np.ndarray, real: np.ndarray) -> float:
    a, b = (features.astype(np.float64) for features in (generated, real))
    return plain_frechet(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


def after_encoding(generated: Tensor, train: Tensor) -> dict[str, dict[str, Way]]:
    """Tasks on the same features; the real images of the FID are the training images."""
    g, t = generated.numpy(), train.numpy()
    g64, t64 = generated.double().numpy(), train.double().numpy()
    heldout = make_features(len(train), train.shape[1], 3)

    def torch_fidelity_fid() -> float:
        one, two = fid_features_to_statistics(generated), fid_features_to_statistics(train)
        return float(fid_statistics_to_metric(one, two, False)["frechet_inception_distance"])

    return {
        "nearest training image": {
            "plain, float32": lambda: plain_nearest(g, t),
            "plain, scaled before, float64": lambda: plain_nearest_scaled(g64, t64),
            "plain, scaled before, float32": lambda: plain_nearest_scaled(g, t),
            OURS: lambda: nearest_neighbours(generated, train)[1].tolist(),
        },
        "FID": {
            "plain (SciPy)": lambda: plain_fid(g, t),
            "torch-fidelity": torch_fidelity_fid,
            OURS: lambda: frechet_distance(fit_gaussian(generated), fit_gaussian(train)),
            f"{OURS}, with interval": lambda: fid(generated, fit_gaussian(train)).value,
        },
        "KID": {
            "torch-fidelity": lambda: kid_features_to_metric(
                generated, train, kid_subsets=100, kid_subset_size=1000, rng_seed=2020, verbose=False
            )["kernel_inception_distance_mean"],
            OURS: lambda: kernel_distance(generated, train).value,
        },
        "precision and recall": {
            "torch-fidelity": lambda: prc_features_to_metric(generated, train, verbose=False)["recall"],
            f"{OURS}, density and coverage too": lambda: prdc(generated, train).recall.value,
        },
        "further": {
            f"{OURS}: l2 ratio": lambda: float((l2_ratio(generated, train) < 1 / 3).double().mean()),
            f"{OURS}: AuthPct": lambda: authpct(generated, train).value,
            f"{OURS}: C_T": lambda: c_t(generated, heldout, train).value,
        },
    }


def of_statistics(dim: int) -> tuple[dict[str, Way], float]:
    """Ways to the Fréchet distance of two Gaussians with the same eigenvectors, and its true value."""
    basis = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(0)).double())[0]
    one, two = torch.logspace(0, -4, dim).double(), torch.logspace(0.2, -3, dim).double()
    a, b = ((basis * values) @ basis.T for values in (one, two))
    zero, shift = torch.zeros(dim).double(), torch.full((dim,), 0.01).double()
    truth = float(shift.square().sum() + (one.sqrt() - two.sqrt()).square().sum())
    fitted = gaussian_from_covariance(zero, a), gaussian_from_covariance(shift, b)
    arrays = zero.numpy(), a.numpy(), shift.numpy(), b.numpy()

    def from_covariances() -> float:
        return frechet_distance(gaussian_from_covariance(zero, a), gaussian_from_covariance(shift, b))

    ways: dict[str, Way] = {
        "SciPy sqrtm": lambda: plain_frechet(*arrays),
        "torch-fidelity": lambda: fid_statistics_to_metric(
            {"mu": arrays[0], "sigma": arrays[1]}, {"mu": arrays[2], "sigma": arrays[3]}, False
        )["frechet_inception_distance"],
        OURS: lambda: frechet_distance(*fitted),
        f"{OURS}, from raw covariances": from_covariances,
    }
    return ways, truth


def measure(tasks: dict[str, dict[str, Way]], repetitions: int) -> tuple[dict, dict]:
    """CPU seconds of every repetition, and the answer, by (task, way)."""
    seconds: dict[tuple[str, str], list[float]] = {}
    answers: dict[tuple[str, str], object] = {}
    for _ in range(repetitions):
        for task, ways in tasks.items():
            for name, way in ways.items():
                started = time.process_time()
                answers[task, name] = way()
                seconds.setdefault((task, name), []).append(time.process_time() - started)
    return seconds, answers


def print_tables(seconds: dict, answers: dict, frechet: str, truth: float) -> None:
    print("| task | way | CPU seconds (min to max) | ratio to pareto_amb | answer |")
    print("|---|---|---:|---:|---:|")
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    for (task, way), values in seconds.items():
        reference = next(v for (t, w), v in medians.items() if t == task and w.startswith(OURS))
        answer = answers[task, way]
        if isinstance(answer, list):
            agreed = np.mean(np.array(answer) == np.array(answers[task, OURS]))
            shown = f"{agreed:.2%} the same"
        elif task == frechet:
            shown = f"relative error {abs(answer / truth - 1):.0e}"
        else:
            shown = f"{answer:.8g}"
        print(
            f"| {task} | {way} | {medians[task, way]:.3f} ({min(values):.3f} to {max(values):.3f}) "
            f"| {medians[task, way] / reference:.1f} | {shown} |"
        )
    ours = medians["nearest training image", OURS] + medians["FID", OURS]
    for way in ("plain, float32", "plain, scaled before, float64", "plain, scaled before, float32"):
        total = medians["nearest training image", way] + medians["FID", "plain (SciPy)"]
        print(f"| both, nearest and FID | {way} | {total:.3f} | {total / ours:.1f} | |")
    print(f"| both, nearest and FID | {OURS} | {ours:.3f} | 1.0 | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--generated", type=int, default=5000)
    parser.add_argument("--train", type=int, default=3000)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--statistics-dim", type=int, default=2048)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generated, train = (
        make_features(n, options.dim, s) for s, n in enumerate((options.generated, options.train))
    )
    tasks = after_encoding(generated, train)
    frechet = f"Fréchet distance of {options.statistics_dim}-dimensional statistics"
    tasks[frechet], truth = of_statistics(options.statistics_dim)
    print(
        f"{options.generated} generated and {options.train} training images, {options.dim} features; torch "
        f"{torch.__version__}, NumPy {np.__version__}, SciPy {scipy.__version__}, 1 thread, {_processor()}; "
        f"medians of {options.repetitions} interleaved repetitions\n",
        flush=True,
    )
    with threadpool_limits(1):
        seconds, answers = measure(tasks, options.repetitions)
    print_tables(seconds, answers, frechet, truth)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
