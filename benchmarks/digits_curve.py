"""How FID and memorization depend on sigma_tn on the digits, over seeds: the paper's Figure 1 in small.

    python benchmarks/digits_curve.py --output digits_curve.csv

Trains the `digits` search space's network at a fixed mix ratio for each (sigma_tn, seed), measures every
rung, appends each row to the CSV file as it comes, and prints the table of means and ranges.
"""

import argparse
import csv
import platform
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console

import search_spaces
from pareto_amb.config import SweepConfig, parse
from pareto_amb.diffusion.methods import Algorithm1
from pareto_amb.diffusion.noise import natural_mix_ratio
from pareto_amb.diffusion.sampler import generate
from pareto_amb.diffusion.trainer import Trainer, noise_distribution
from pareto_amb.evaluation.evaluate import build_references, evaluate_samples
from pareto_amb.materials import load_materials

COLUMNS = ["sigma_tn", "mix_ratio", "seed", "images_seen", "fid", "memorization", "train_seconds"]


def measure(sigma_tn: float, mix: str, seed: int) -> list[dict[str, Any]]:
    """Train one model and measure it at every rung."""
    torch.set_num_threads(1)
    config = parse(SweepConfig, search_spaces.load("digits"), "digits")
    materials = load_materials(config, Console(quiet=True))
    size = config.space.train_size[0]
    split = materials.splits[size]
    reference = build_references(
        materials.image_set.images,
        {size: (split.train, split.heldout)},
        materials.fid_encoder,
        materials.similarity_encoder,
        config.evaluation,
    )[size]
    natural = natural_mix_ratio(noise_distribution(config.training), sigma_tn)
    trainer = Trainer(
        materials.image_set.images[split.train],
        config.training,
        Algorithm1.within(config.sampling.sigma_max, sigma_tn, natural if mix == "natural" else float(mix)),
        seed=seed,
        image_ids=split.train.tolist(),
    )
    rows = []
    for images in config.rung_images():
        trainer.train(images)
        samples = generate(
            trainer.ema_denoiser(),
            (1, 8, 8),
            range(config.evaluation.n_samples),
            base_seed=config.seed,
            **config.sampling.model_dump(),
        )
        found = evaluate_samples(samples, reference, materials.fid_encoder, materials.similarity_encoder)
        figures = [found.metrics["fid"], found.metrics["memorization"], trainer.train_seconds]
        rows.append(dict(zip(COLUMNS, [sigma_tn, mix, seed, images, *figures], strict=True)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--mix", default="natural")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("digits_curve.csv"))
    options = parser.parse_args()
    jobs = [(sigma, options.mix, seed) for seed in options.seeds for sigma in options.sigmas]
    with (
        ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool,
        options.output.open("w", newline="") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for future in as_completed([pool.submit(measure, *job) for job in jobs]):
            writer.writerows(future.result())
            file.flush()
    frame = pd.read_csv(options.output)
    table = frame.groupby(["images_seen", "sigma_tn"])[["fid", "memorization"]].agg(["mean", "min", "max"])
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, mix ratio {options.mix}")
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
