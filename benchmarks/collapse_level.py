"""The collapse level of an image set at several train sizes, over seeds of the draw and of the probes.

    python benchmarks/collapse_level.py digits --resolution 8 --channels 1 --train-sizes 20 50 100 300 1000

Prints one row a train size: the mean over seeds, the lowest and the highest. --mirrored counts every image
and its mirror image, --by-class averages over the images of one class only, as a class-conditional model
does: the level is then the median over classes.
"""

import argparse
import platform
import statistics

import torch

from pareto_amb.config import DataConfig
from pareto_amb.data import ImageSet, load_images, split
from pareto_amb.diffusion.theory import TrainingPosterior


def measure(image_set: ImageSet, size: int, seed: int, mirrored: bool, by_class: bool) -> float:
    index = split(image_set, size, seed, conditional=by_class).train
    images = image_set.images[index]
    if mirrored:
        images = torch.cat([images, images.flip(3)])
    if not by_class:
        return TrainingPosterior(images, seed).collapse_level()
    if image_set.labels is None:
        raise SystemExit(f"{image_set.name} has no labels")
    labels = image_set.labels[index]
    return statistics.median(
        TrainingPosterior(images[labels == label], seed).collapse_level() for label in labels.unique()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="digits, or a folder or zip of images")
    parser.add_argument("--resolution", type=int, nargs="+", default=[64])
    parser.add_argument("--channels", type=int, choices=[1, 3], default=3)
    parser.add_argument("--train-sizes", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--mirrored", action="store_true")
    parser.add_argument("--by-class", action="store_true")
    options = parser.parse_args()
    source = {"source": "digits"} if options.data == "digits" else {"path": options.data}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {platform.machine()}")
    print("| resolution | train size | collapse level: mean (lowest, highest) |")
    print("|---:|---:|---:|")
    for resolution in options.resolution:
        shape = {"resolution": resolution, "channels": options.channels}
        image_set = load_images(DataConfig.model_validate(source | shape))
        for size in options.train_sizes:
            levels = [
                measure(image_set, size, seed, options.mirrored, options.by_class) for seed in options.seeds
            ]
            spread = f"{statistics.mean(levels):.3g} ({min(levels):.3g}, {max(levels):.3g})"
            print(f"| {resolution} | {size:,} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
