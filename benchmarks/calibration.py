"""How often fresh real images pass for copies at a calibrated similarity threshold.

Splits the images at random into training images, held-out images that calibrate the threshold, and fresh
ones, several times, and prints the share of fresh images above the threshold as a Markdown table.

    python benchmarks/calibration.py images.zip --resolution 32
"""

import argparse
import math

import torch

from pareto_amb.config import DataConfig
from pareto_amb.data import load_images
from pareto_amb.evaluation.encoders import load_encoder
from pareto_amb.evaluation.memorization import calibrate_threshold, nearest_neighbours, share_above
from pareto_amb.randomness import make_generator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", help="folder or zip")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--images", type=int, default=16000, help="encode this many at most")
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--heldout", type=int, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--fresh", type=int, default=5000)
    parser.add_argument("--quantile", type=float, default=0.99)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    images = load_images(DataConfig(source="images", path=options.data, resolution=options.resolution)).images
    order = torch.randperm(len(images), generator=make_generator(0, "images"))[: options.images]
    features = load_encoder(options.encoder).encode(images[order])
    claimed = 1 - options.quantile
    print(
        f"{len(features)} images, {options.encoder}; {options.splits} random splits into {options.train} "
        f"training, N held-out and {options.fresh} fresh images; claimed rate {claimed:.2%}\n"
    )
    rates: dict[int, list[float]] = {n: [] for n in options.heldout}
    for split in range(options.splits):
        shuffled = features[torch.randperm(len(features), generator=make_generator(split, "split"))]
        similarity, _ = nearest_neighbours(shuffled[options.train :], shuffled[: options.train])
        fresh, heldout = similarity[: options.fresh], similarity[options.fresh :]
        for n in options.heldout:
            threshold = calibrate_threshold(heldout[:n], options.quantile)
            rates[n].append(share_above(fresh, threshold))
    print("| held-out N | rate on fresh images | its 95% interval | between splits, sd | sd by chance |")
    print("|---:|---:|---:|---:|---:|")
    for n, found in rates.items():
        mean = sum(found) / len(found)
        spread = math.sqrt(sum((rate - mean) ** 2 for rate in found) / (len(found) - 1))
        half = 1.96 * spread / math.sqrt(len(found))
        chance = math.sqrt(claimed * (1 - claimed) * (1 / n + 1 / options.fresh))
        print(f"| {n} | {mean:.2%} | {mean - half:.2%} to {mean + half:.2%} | {spread:.2%} | {chance:.2%} |")


if __name__ == "__main__":
    main()
