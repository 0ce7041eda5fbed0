"""Solver and number of steps against what is measured of the samples, on networks of a search space.

    python benchmarks/samplers.py digits --sigmas 0 0.2 1 --images 48000 80640

Trains DDPM (sigma_tn 0) and Algorithm 1 at a mix ratio of 0.5, and samples each network with each solver and
number of steps, always from the same latents. Printed is how far FID and memorization lie from those of 40
Heun steps, over all networks: the mean, the least and the greatest difference, FID in standard errors of sets
of so many samples.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from rich.console import Console

from pareto_amb import search_spaces
from pareto_amb.config import SweepConfig
from pareto_amb.config_file import apply_overrides
from pareto_amb.data import take_training_set
from pareto_amb.diffusion.conditioning import sampling_conditioning
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.diffusion.sampler import generate
from pareto_amb.diffusion.trainer import Trainer, noise_distribution
from pareto_amb.evaluation.trial import build_references, evaluate_samples
from pareto_amb.results.table import shipped
from pareto_amb.running.materials import Materials, load_materials
from pareto_amb.sweep_file import parse_sweep

LIMIT = ("heun", 40)
SETTINGS = [
    *(("heun", steps) for steps in (10, 14)),
    *(("dpmpp_2m", steps) for steps in (9, 12, 15, 18)),
]


def trained(
    config: SweepConfig, materials: Materials, sigmas: list[float], images: list[int]
) -> Iterator[Trainer]:
    """Each training after each number of images."""
    part = materials.splits[config.space.train_size[0]]
    training_set = take_training_set(materials.image_set, part.train, config.data.conditional)
    for sigma in sigmas:
        kind = METHODS["algorithm1" if sigma else "ddpm"]
        chosen = {"sigma_tn": sigma, "mix_ratio": 0.5} if sigma else {}
        method = kind.create(
            kind.resolve(chosen, noise_distribution(config.training)), config.sampling.sigma_max
        )
        trainer = Trainer(training_set, config.training, method, seed=config.seed)
        for seen in sorted(images):
            trainer.train(seen)
            yield trainer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("space", help="a search space; of its train sizes the first")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.0, 0.2, 1.0], help="0: DDPM")
    parser.add_argument("--images", type=int, nargs="+", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)

    values = apply_overrides(search_spaces.load(options.space), options.overrides)
    config = parse_sweep(values, options.space)
    materials = load_materials(config, Console(quiet=True))
    encoders = materials.fid_encoder, materials.similarity_encoder
    size = config.space.train_size[0]
    part = {size: (materials.splits[size].train, materials.splits[size].heldout)}
    reference = build_references(materials.image_set.images, part, *encoders, config.evaluation)[size]

    def measure(trainer: Trainer, solver: str, steps: int) -> dict[str, float]:
        denoiser = trainer.ema_denoiser()
        sampling: dict[str, Any] = {**config.sampling.model_dump(), "solver": solver, "steps": steps}
        samples = generate(
            denoiser,
            range(config.evaluation.n_samples),
            sampling_conditioning(denoiser, trainer.method.hidden),
            base_seed=config.seed,
            sigma_stop=trainer.method.sigma_stop,
            **sampling,
        )
        return evaluate_samples(samples, reference, shipped().objectives, *encoders).metrics

    differences: dict[tuple[str, int], list[list[float]]] = {setting: [] for setting in SETTINGS}
    for trainer in trained(config, materials, options.sigmas, options.images):
        limit = measure(trainer, *LIMIT)
        for setting, found in differences.items():
            ours = measure(trainer, *setting)
            fid = ours["fid"] - limit["fid"]
            copies = ours["memorization"] - limit["memorization"]
            found.append([fid, fid / limit["fid_se"], copies])
    print("| solver | steps | network evaluations | FID | in standard errors | memorization |")
    print("|---|---:|---:|---:|---:|---:|")
    for (solver, steps), rows in differences.items():
        mean, low, high = (f(rows, axis=0) for f in (np.mean, np.min, np.max))
        cells = [
            f"{m:+.{d}f} ({a:+.{d}f} to {b:+.{d}f})"
            for m, a, b, d in zip(mean, low, high, (1, 1, 3), strict=True)
        ]
        print(
            f"| {solver} | {steps} | {2 * steps - 1 if solver == 'heun' else steps} | {' | '.join(cells)} |"
        )


if __name__ == "__main__":
    main()
