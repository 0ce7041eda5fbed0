"""Where the time of a sweep goes: CPU seconds of each part of a training, and of all the trainings planned.

    python benchmarks/sweep_cost.py digits
    python benchmarks/sweep_cost.py digits --set training.images=96000 ...

Measured on one training by Algorithm 1, on one thread, in the order of a trial. Ray, start-up, pictures and
the report are not in it. Trainings are counted in full: what early stopping saves is not known beforehand.
"""

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from rich.console import Console

from pareto_amb import search_spaces
from pareto_amb.config import SweepConfig
from pareto_amb.config_file import apply_overrides
from pareto_amb.data import take_training_set
from pareto_amb.diffusion.conditioning import sampling_conditioning
from pareto_amb.diffusion.methods import Algorithm1
from pareto_amb.diffusion.sampler import generate
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.evaluation.trial import build_references, encode_samples, evaluate_encoded
from pareto_amb.results.table import shipped
from pareto_amb.running.materials import load_materials
from pareto_amb.search.cost import planned_trainings
from pareto_amb.sweep_file import declare, parse_sweep

TRAINED = 6_400
"""Images that the cost of an image is measured on."""
T = TypeVar("T")


def timed(act: Callable[[], T]) -> tuple[T, float]:
    """What `act` returns, and its CPU seconds."""
    started = time.process_time()
    return act(), time.process_time() - started


def measure(config: SweepConfig) -> dict[str, float]:
    """CPU seconds of an image trained on, of a rung's sampling, encoding and figures, and of its probes."""
    materials = load_materials(config, Console(quiet=True))
    encoders, size = (materials.fid_encoder, materials.similarity_encoder), config.space.train_size[0]
    part = materials.splits[size]
    index = {size: (part.train, part.heldout)}
    reference = build_references(materials.image_set.images, index, *encoders, config.evaluation)[size]
    probes = materials.probes(config, materials.collapse_levels(config))[size]
    training_set = take_training_set(materials.image_set, part.train, config.data.conditional)
    trainer = Trainer(training_set, config.training, Algorithm1(0.2, 0.5), seed=config.seed)
    trainer.train(TRAINED)
    _, training = timed(lambda: trainer.train(2 * TRAINED))
    denoiser, sampling = trainer.ema_denoiser(), config.sampling.model_dump()
    told, seeds = sampling_conditioning(denoiser), range(config.evaluation.n_samples)
    samples, sampled = timed(lambda: generate(denoiser, seeds, told, base_seed=config.seed, **sampling))
    batch = config.evaluation.batch_size
    encoded, encoding = timed(lambda: encode_samples(samples, *encoders, batch_size=batch))
    _, figures = timed(lambda: evaluate_encoded(encoded, reference, shipped().objectives))
    _, probed = timed(lambda: probes.errors(denoiser))
    return {
        "image": training / TRAINED,
        "sampling": sampled,
        "encoding": encoding,
        "figures": figures,
        "probes": probed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("space", help="a search space; of its train sizes the first")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    options = parser.parse_args()
    torch.set_num_threads(1)
    values = apply_overrides(search_spaces.load(options.space), options.overrides)
    config = parse_sweep(values, options.space)
    searched, repeats, controls = planned_trainings(config, declare())
    trainings, full = searched + repeats + controls, len(config.full_rung_images())
    rungs = searched * full + repeats + controls
    probed = rungs + searched * len(config.probe_images())
    cost = measure(config)
    each = {
        "training": (cost["image"] * config.training.images, trainings),
        "sampling": (cost["sampling"], rungs),
        "encoding": (cost["encoding"], rungs),
        "figures": (cost["figures"], rungs),
        "probes": (cost["probes"], probed),
    }
    print("| part | CPU seconds | times | in all |")
    print("|---|---:|---:|---:|")
    for part, (seconds, times) in each.items():
        print(f"| {part} | {seconds:.2f} | {times} | {seconds * times:.0f} |")
    print(f"| all | | | {sum(seconds * times for seconds, times in each.values()):.0f} |")


if __name__ == "__main__":
    main()
