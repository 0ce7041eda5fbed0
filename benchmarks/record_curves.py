"""Train methods at every combination of given parameters, train sizes and seeds, and keep the curves.

    python benchmarks/record_curves.py digits --output digits_curve.parquet \\
        --sigmas 0 0.05 0.1 0.2 0.4 0.8 1.6 --seeds 0 1

Each method is trained at the parameters that it has. sigma_tn 0 is DDPM. Each training is measured at every
rung, its denoising errors included (probe_train_K, probe_heldout_K; K is the place of the level).

With --branch-at IMAGES further trainings of each combination begin where DDPM of the same seed stood after so
many images (column branched_at). The table is written whole after each training, so that the same command
continues where it was stopped; it ends with the means over seeds.
"""

import argparse
import functools
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console

from pareto_amb import search_spaces
from pareto_amb.config import SweepConfig
from pareto_amb.config_file import apply_overrides
from pareto_amb.data import take_training_set
from pareto_amb.diffusion.conditioning import sampling_conditioning
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.diffusion.sampler import generate
from pareto_amb.diffusion.theory import TrainingPosterior
from pareto_amb.diffusion.trainer import Trainer, noise_distribution
from pareto_amb.evaluation.probes import Probes, make_probes
from pareto_amb.evaluation.trial import TrialReference, build_references, evaluate_samples
from pareto_amb.results.table import shipped
from pareto_amb.running.materials import Materials, load_materials
from pareto_amb.storage import replace_file
from pareto_amb.sweep_file import parse_sweep

KEY = ["train_size", "method", "sigma_tn", "mix", "corruption", "seed", "branched_at"]
MEASURED = ["fid", "memorization", "similarity_mean", "similarity_p95"]


@functools.cache
def prepare(config_json: str) -> tuple[SweepConfig, Materials, dict[int, TrialReference]]:
    """Once a process: the images, the encoders and what the samples are measured against."""
    torch.set_num_threads(1)
    config = SweepConfig.model_validate_json(config_json)
    materials = load_materials(config, Console(quiet=True))
    references = build_references(
        materials.image_set.images,
        {size: (part.train, part.heldout) for size, part in materials.splits.items()},
        materials.fid_encoder,
        materials.similarity_encoder,
        config.evaluation,
    )
    return config, materials, references


@functools.cache
def prepare_probes(config_json: str, train_size: int) -> Probes:
    """Once a process and train size."""
    config, materials, _ = prepare(config_json)
    part = materials.splits[train_size]
    train, heldout = (
        take_training_set(materials.image_set, index, config.data.conditional)
        for index in (part.train, part.heldout)
    )
    return make_probes(
        train, heldout, TrainingPosterior(train.images, config.seed).collapse_level(), config.seed
    )


def make_trainer(config_json: str, job: dict[str, Any]) -> Trainer:
    """The training of a job, before its first step."""
    config, materials, _ = prepare(config_json)
    kind, part = METHODS[job["method"]], materials.splits[job["train_size"]]
    chosen = {**job, "mix_ratio": job["mix"] if job["mix"] == "natural" else float(job["mix"] or 0)}
    chosen = {name: chosen[name] for name in kind.info().parameter_names}
    parameters = kind.resolve(chosen, noise_distribution(config.training))
    return Trainer(
        take_training_set(materials.image_set, part.train, config.data.conditional),
        config.training,
        kind.create(parameters, config.sampling.sigma_max),
        seed=job["seed"],
        branched_at=job["branched_at"],
    )


@functools.cache
def trunk(config_json: str, train_size: int, seed: int, images: int) -> bytes:
    """DDPM after so many images, once a process."""
    job = dict(zip(KEY, (train_size, "ddpm", 0.0, "", 0.0, seed, 0), strict=True))
    trainer = make_trainer(config_json, job)
    trainer.train(images)
    return trainer.checkpoint()


def record(config_json: str, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Train one model and measure it at every rung. Seconds are of CPU time."""
    config, _, _ = prepare(config_json)
    trainer = make_trainer(config_json, job)
    if job["branched_at"]:
        trainer.branch(trunk(config_json, job["train_size"], job["seed"], job["branched_at"]))
    rows, train_seconds = [], 0.0
    for rung, images in enumerate(config.full_rung_images(), 1):
        if images <= job["branched_at"]:
            continue
        started = time.process_time()
        trainer.train(images)
        train_seconds += time.process_time() - started
        row = {**job, "mix_ratio": getattr(trainer.method, "mix_ratio", 0.0), "rung": rung}
        measured = measure(config_json, trainer, job["train_size"])
        rows.append({**row, "images_seen": images, **measured, "train_seconds": train_seconds})
    return rows


def measure(config_json: str, trainer: Trainer, train_size: int) -> dict[str, float]:
    """The figures of a training's samples, and its denoising errors."""
    config, materials, references = prepare(config_json)
    started, denoiser, hidden = time.process_time(), trainer.ema_denoiser(), trainer.method.hidden
    samples = generate(
        denoiser,
        range(config.evaluation.n_samples),
        sampling_conditioning(denoiser, hidden),
        base_seed=config.seed,
        sigma_stop=trainer.method.sigma_stop,
        **config.sampling.model_dump(),
    )
    found = evaluate_samples(
        samples,
        references[train_size],
        shipped().objectives,
        materials.fid_encoder,
        materials.similarity_encoder,
    )
    sampled = time.process_time()
    errors = prepare_probes(config_json, train_size).errors(denoiser, hidden)
    return {
        **{name: found.metrics[name] for name in (*MEASURED, "heldout_memorization", "n_samples")},
        **{
            f"probe_{kind}_{k}": error
            for kind, part in zip(("train", "heldout"), errors, strict=True)
            for k, error in enumerate(part)
        },
        "eval_seconds": sampled - started,
        "probe_seconds": time.process_time() - sampled,
    }


def planned(config: SweepConfig, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every combination once, seeds outermost, so that a table that was cut short is a whole one."""
    for seed, size in itertools.product(options.seeds, config.space.train_size):
        if 0 in options.sigmas:
            yield dict(zip(KEY, (size, "ddpm", 0.0, "", 0.0, seed, 0), strict=True))
        for method in options.methods:
            names = METHODS[method].info().parameter_names
            yield from (
                dict(zip(KEY, (size, method, sigma, mix, corruption, seed, begun), strict=True))
                for sigma in (options.sigmas if "sigma_tn" in names else [0.0])
                for mix in (options.mixes if "mix_ratio" in names else [""])
                for corruption in (options.corruptions if "corruption" in names else [0.0])
                for begun in [0, *options.branch_at]
                if sigma or "sigma_tn" not in names
            )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("space", help="a search space; its train sizes are recorded")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--methods", nargs="+", default=["algorithm1"], choices=[*METHODS])
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.0], help="0: DDPM")
    parser.add_argument("--mixes", nargs="+", default=["natural"], help="numbers, or natural")
    parser.add_argument("--corruptions", type=float, nargs="+", default=[0.4], help="of masking")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--branch-at", type=int, nargs="+", default=[], metavar="IMAGES")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.parquet")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    values = apply_overrides(search_spaces.load(options.space), options.overrides)
    config = parse_sweep(values, options.space)
    rows = pd.read_parquet(options.output).to_dict("records") if options.output.exists() else []
    done = [{name: row[name] for name in KEY} for row in rows]
    jobs = [job for job in planned(config, options) if job not in done]
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(record, config.model_dump_json(), job) for job in jobs]):
            rows += future.result()
            with replace_file(options.output) as temporary:
                pd.DataFrame(rows).to_parquet(temporary, index=False)
    by = ["train_size", "method", "corruption", "mix", "sigma_tn", "branched_at", "images_seen"]
    table = pd.DataFrame(rows).groupby(by)[["fid", "memorization"]].agg(["mean", "min", "max"])
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
