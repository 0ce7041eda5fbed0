"""Solver and number of steps against image quality, on the digits.

Samples from one network with each solver and number of steps, always from the same latents, and prints a
Markdown table: network evaluations, Fréchet distance to the whole set (efficientnet_lite0), and the
root-mean-square pixel difference, in levels of 255, from images that 100 Heun steps make.

    python benchmarks/samplers.py --checkpoint runs/digits-.../checkpoints/<trial>.safetensors
    python benchmarks/samplers.py                 trains the network of search_spaces/digits.yaml first
"""

import argparse
import platform
from pathlib import Path

import torch
from torch import Tensor

from pareto_amb.config import DataConfig
from pareto_amb.config_file import read_yaml
from pareto_amb.data import TrainingSet, load_images, split, take_training_set
from pareto_amb.diffusion.checkpoint import load_denoiser
from pareto_amb.diffusion.conditioning import sampling_conditioning
from pareto_amb.diffusion.denoiser import Denoiser
from pareto_amb.diffusion.methods import Algorithm1
from pareto_amb.diffusion.sampler import generate
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.evaluation.encoders import load_encoder
from pareto_amb.evaluation.frechet import fit_gaussian, frechet_distance
from pareto_amb.sweep_file import parse_sweep

SETTINGS = [
    *(("heun", steps) for steps in (5, 6, 8, 10, 18)),
    *(("dpmpp_2m", steps) for steps in (9, 11, 15, 19, 35)),
]
DIGITS = Path(__file__).parents[1] / "search_spaces" / "digits.yaml"


def train(training_set: TrainingSet) -> Denoiser:
    config = parse_sweep(read_yaml(DIGITS), str(DIGITS))
    trainer = Trainer(training_set, config.training, Algorithm1(0.2, 0.5), seed=config.seed)
    trainer.train(config.training.images)
    return trainer.ema_denoiser()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="of a network for 8x8 digits; without: train one")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    image_set = load_images(DataConfig(source="digits", resolution=8, channels=1))
    encoder = load_encoder("efficientnet_lite0", "standard")
    reference = fit_gaussian(encoder.encode(image_set.images))
    if options.checkpoint:
        denoiser = load_denoiser(options.checkpoint.read_bytes(), str(options.checkpoint))
    else:
        index = split(image_set, 100, 0, conditional=False).train
        denoiser = train(take_training_set(image_set, index, conditional=False))
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    denoiser.register_forward_pre_hook(count)
    seeds = range(options.samples)

    def sample(solver: str, steps: int) -> Tensor:
        told = sampling_conditioning(denoiser)
        return generate(denoiser, seeds, told, solver=solver, steps=steps, batch_size=options.samples)

    limit = sample("heun", 100)

    print(
        f"{options.samples} samples against {len(image_set.images)} digits; torch {torch.__version__}, "
        f"{options.threads} thread(s), {platform.machine()}\n"
    )
    print("| solver | steps | network evaluations | Fréchet distance | difference from limit |")
    print("|---|---:|---:|---:|---:|")
    for solver, steps in [*SETTINGS, ("heun", 100)]:
        calls = 0
        samples = sample(solver, steps)
        distance = frechet_distance(fit_gaussian(encoder.encode(samples)), reference)
        difference = (samples.float() - limit.float()).square().mean().sqrt()
        print(
            f"| {solver} | {steps} | {calls} | {distance:.2f} | {difference:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
