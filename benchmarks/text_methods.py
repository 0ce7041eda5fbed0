"""The rows of the paper's Table 3 on captioned digits: two mitigations, alone and with Algorithm 1.

    python benchmarks/text_methods.py --output text_methods.parquet --seeds 0 1 2

Trains what `sweep captioned-digits` trains, at one sigma_tn, beside DDPM, and the control of Algorithm 1:
clean images at its noise levels. Every rung is measured by training captions, shuffled ones and unseen ones.
The table is written whole after each training, so that the same command continues where it was stopped; it
ends with the means over seeds.
"""

import argparse
import functools
import itertools
import time
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
from pareto_amb.diffusion.conditioning import sampling_conditioning
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.diffusion.sampler import generate
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.evaluation.objectives import OBJECTIVES
from pareto_amb.evaluation.prompts import caption_magnitudes, detection_auc, make_prompts
from pareto_amb.evaluation.trial import (
    Evaluation,
    TrialReference,
    build_references,
    encode_samples,
    evaluate_encoded,
)
from pareto_amb.running.materials import Materials, load_materials
from pareto_amb.storage import replace_file
from pareto_amb.sweep_file import parse_sweep

ROWS = ("ddpm", "control", "algorithm1", "s23", "s23_algorithm1", "w24", "w24_algorithm1")
KEY = ["method", "sigma_tn", "seed"]


@functools.cache
def prepare(config_json: str) -> tuple[SweepConfig, Materials, TrialReference]:
    """Once a process: the images, the encoders and what the samples are measured against."""
    torch.set_num_threads(1)
    config = SweepConfig.model_validate_json(config_json)
    materials = load_materials(config, Console(quiet=True))
    (size,) = config.space.train_size
    part, encoders = materials.splits[size], (materials.fid_encoder, materials.similarity_encoder)
    references = build_references(
        materials.image_set.images, {size: (part.train, part.heldout)}, *encoders, config.evaluation
    )
    return config, materials, references[size]


def record(config_json: str, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Train one model and measure it at every rung."""
    config, materials, _ = prepare(config_json)
    ((_, training_set),) = materials.training_sets.items()
    kind = METHODS[job["method"]]
    values = {
        "sigma_tn": job["sigma_tn"],
        **{name: config.space[name][0] for name in ("mix_ratio", "text_noise", "skip_share")},
    }
    method = kind.create(
        {name: values[name] for name in kind.info().parameter_names}, config.sampling.sigma_max
    )
    trainer = Trainer(
        training_set, config.training, method, seed=job["seed"], text_model=materials.text_model
    )
    rows, seconds = [], 0.0
    for rung, images in enumerate(config.full_rung_images(), 1):
        started = time.process_time()
        trainer.train(images)
        seconds += time.process_time() - started
        measured = measure(config_json, trainer)
        rows.append({**job, "rung": rung, "images_seen": images, **measured, "train_seconds": seconds})
    return rows


def measure(config_json: str, trainer: Trainer) -> dict[str, float]:
    """The figures of samples by training captions, shuffled ones and unseen ones."""
    config, materials, _ = prepare(config_json)
    ((size, training_set),) = materials.training_sets.items()
    started, captions = time.process_time(), materials.image_set.captions or ()
    unseen = [captions[k] for k in materials.splits[size].heldout.tolist()]
    prompts = make_prompts(training_set.captions or (), unseen, config.seed)
    found = sampled(config_json, trainer, prompts.training, config.evaluation.n_samples)
    figures = dict(found.metrics)
    for name, others in prompts.others().items():
        other = sampled(config_json, trainer, others, config.evaluation.other_prompts)
        figures |= {f"{figure}_{name}": other.metrics[figure] for figure in ("memorization", "alignment")}
    n = len(prompts.training)
    triggers = torch.stack([found.copied[k::n].any() for k in range(n)])
    magnitudes = caption_magnitudes(
        trainer.ema_denoiser(), prompts.training, config.sampling.sigma_max, config.seed
    )
    figures["caption_detection_auc"] = detection_auc(magnitudes, triggers)
    return {**figures, "eval_seconds": time.process_time() - started}


def sampled(config_json: str, trainer: Trainer, captions: tuple[str, ...], count: int) -> Evaluation:
    """So many samples by captions, each in turn, measured."""
    config, materials, reference = prepare(config_json)
    denoiser = trainer.ema_denoiser()
    samples = generate(
        denoiser,
        range(count),
        sampling_conditioning(denoiser, captions=captions),
        base_seed=config.seed,
        **config.sampling.model_dump(),
    )
    told = [captions[k % len(captions)] for k in range(count)]
    encoders = materials.fid_encoder, materials.similarity_encoder
    encoded = encode_samples(
        samples, *encoders, config.evaluation.batch_size, judge=materials.judge, captions=told
    )
    return evaluate_encoded(encoded, reference, OBJECTIVES)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--methods", nargs="+", default=[*ROWS], choices=[*ROWS])
    parser.add_argument("--sigma", type=float, default=0.2, help="sigma_tn of those that have one")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.parquet")
    options = parser.parse_args()
    values = apply_overrides(search_spaces.load("captioned-digits"), options.overrides)
    config = parse_sweep(values, "captioned-digits").model_dump_json()
    rows = pd.read_parquet(options.output).to_dict("records") if options.output.exists() else []
    done = [{name: row[name] for name in KEY} for row in rows]
    jobs = []
    for seed, method in itertools.product(options.seeds, options.methods):
        has_level = "sigma_tn" in METHODS[method].info().parameter_names
        job = {"method": method, "sigma_tn": options.sigma if has_level else 0.0, "seed": seed}
        jobs += [job] if job not in done else []
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(record, config, job) for job in jobs]):
            rows += future.result()
            with replace_file(options.output) as temporary:
                pd.DataFrame(rows).to_parquet(temporary, index=False)
    shown = [
        *("fid", "memorization", "similarity_mean", "similarity_p95", "alignment"),
        *("memorization_shuffled_captions", "memorization_unseen_captions", "caption_detection_auc"),
    ]
    table = pd.DataFrame(rows).groupby(["images_seen", "method", "sigma_tn"], sort=False)[shown]
    print(table.mean().round(3).to_string())


if __name__ == "__main__":
    main()
