"""What a sweep will take on this machine: a short measurement of one trial, and what follows from it."""

import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from pareto_amb import weights
from pareto_amb.config import SweepConfig
from pareto_amb.data import TrainingSet
from pareto_amb.declared import BASELINE, Declared
from pareto_amb.diffusion.conditioning import sampling_conditioning
from pareto_amb.diffusion.methods import Method
from pareto_amb.diffusion.parallel import best_device
from pareto_amb.diffusion.sampler import generate
from pareto_amb.diffusion.text.build import make_text_model
from pareto_amb.diffusion.text.parts import TextModel
from pareto_amb.diffusion.text.prepare import with_text
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.evaluation.encoders import Encoder, load_encoder
from pareto_amb.search.cost import expected_trainings, planned_samples, planned_trainings

Work = Callable[[int], None]
"""Works on so many images at once."""


@dataclass(frozen=True)
class Speed:
    """How fast one trial is on this machine: seconds an image, NaN where that was not measured.

    Training was measured in batches of `batch`. `memory` are the bytes that the process has taken, of the GPU
    where there is one; `not_measured` are encoders without weights.
    """

    device: str
    training: float
    batch: int
    sampling: float
    encoding: float
    memory: int
    took: float
    not_measured: tuple[str, ...] = ()

    @property
    def seconds(self) -> tuple[float, float, float]:
        """Those of an image that is trained on, sampled and encoded."""
        return self.training, self.sampling, self.encoding


def measure_speed(config: SweepConfig, methods: Mapping[str, type[Method]], seconds: float) -> Speed:
    """Train, sample and encode with images of noise for `seconds` in all, at least one image of each.

    `auto` stands for no encoder any more. Nothing is fetched. UserError where a model of text is not here.
    """
    started, device = time.monotonic(), best_device()
    text_model = make_text_model(config, _CAPTIONS, fetch=False)
    with _threads(config.resources.cpus_per_trial):
        make = _trainers(config, methods, text_model, device)

        def train(count: int) -> None:
            make(count).train(make(count).images_seen + count)

        training, batch = _seconds_an_image(train, config.training.batch_size, seconds / 2)
        sampling = _measure_sampling(config, make(batch), device, seconds / 4)
        encoding, absent = _measure_encoding(config, device, seconds / 4)
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else _resident()
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} CPU cores, no GPU"
    took = time.monotonic() - started
    return Speed(name, training, batch, sampling, encoding, memory, took, tuple(absent))


_CAPTIONS = ("a picture of noise", "a picture of other noise")


def _trainers(
    config: SweepConfig,
    methods: Mapping[str, type[Method]],
    text_model: TextModel | None,
    device: torch.device,
) -> Callable[[int], Trainer]:
    """Makes the DDPM training of a batch size, or gives the one that was made last."""
    data = config.data
    shape = (len(_CAPTIONS), data.channels, data.resolution, data.resolution)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(len(_CAPTIONS)) if data.conditional else None
    captions = _CAPTIONS if data.captions else None
    training_set = TrainingSet(images, [0, 1], labels, 2 if data.conditional else 0, captions)
    if text_model is not None:
        training_set = with_text(training_set, text_model, device)
    made: dict[int, Trainer] = {}

    def make(batch: int) -> Trainer:
        if batch not in made:
            made.clear()  # two of them may be more than the memory holds
            training = config.training.model_copy(update={"batch_size": batch, "init_from": None})
            method = methods[BASELINE].create({}, config.sampling.sigma_max)
            made[batch] = Trainer(
                training_set, training, method, seed=config.seed, device=device, text_model=text_model
            )
        return made[batch]

    return make


def _measure_sampling(config: SweepConfig, trainer: Trainer, device: torch.device, seconds: float) -> float:
    """Seconds that a sample takes: that of two steps, times the network evaluations of all of them."""
    sampling, denoiser = config.sampling, trainer.ema_denoiser()
    told = sampling_conditioning(denoiser, captions=_CAPTIONS if config.data.captions else ())

    def sample(count: int) -> None:
        generate(
            denoiser,
            range(count),
            told,
            solver=sampling.solver,
            steps=2,
            sigma_min=sampling.sigma_min,
            sigma_max=sampling.sigma_max,
            guidance=sampling.guidance,
            device=device,
        )

    each, _ = _seconds_an_image(sample, sampling.batch_size, seconds)
    return each * _evaluations(sampling.solver, sampling.steps) / _evaluations(sampling.solver, 2)


def _evaluations(solver: str, steps: int) -> int:
    """How often a sample asks the network."""
    return 2 * steps - 1 if solver == "heun" else steps


def _measure_encoding(config: SweepConfig, device: torch.device, seconds: float) -> tuple[float, list[str]]:
    """Seconds that an image takes in the encoders, and those whose weights are not here."""
    evaluation, data = config.evaluation, config.data
    names = list(dict.fromkeys([evaluation.fid_encoder, evaluation.similarity_encoder]))
    absent = [name for name in weights.names_of(names) if weights.find(name) is None]
    total = 0.0
    for name in (name for name in names if name not in absent):
        encoder = load_encoder(name, evaluation.preprocessing)

        def encode(count: int, encoder: Encoder = encoder) -> None:
            shape = (count, data.channels, data.resolution, data.resolution)
            encoder.encode(torch.zeros(shape, dtype=torch.uint8), count, device)

        total += _seconds_an_image(encode, evaluation.batch_size, seconds / len(names))[0]
    return total, absent


def _seconds_an_image(work: Work, most: int, seconds: float) -> tuple[float, int]:
    """Seconds an image of the largest batch, up to `most`, that the time allows, and that batch.

    A batch is worked on once before it is measured.
    """
    ends, batch = time.monotonic() + seconds, 1
    while True:
        work(batch)
        started, times = time.monotonic(), 0
        while not times or (batch == most and time.monotonic() < min(ends, started + seconds / 10)):
            work(batch)
            times += 1
        each = (time.monotonic() - started) / (times * batch)
        left = max(ends - time.monotonic(), 0)
        larger = min(most, int(left / (3 * each)))
        if batch == most or larger < 2 * batch:
            return each, batch
        batch = larger


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """PyTorch on so many threads, as a trial has them, within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _resident() -> int:
    """The most memory, in bytes, that this process has taken."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def describe_speed(config: SweepConfig, declared: Declared, speed: Speed) -> list[str]:
    """What was measured, and the hours and memory that follow, in lines for people."""
    budget, trainings = config.full_rung_images()[-1], sum(planned_trainings(config, declared))
    seen = expected_trainings(config, declared) * budget
    generated = planned_samples(config, declared) * seen / (trainings * budget)
    there, unit, each = _occupied(config)
    sharing = each if unit == "GPU" and each > 1 else 1.0
    counts = seen / sharing, generated, generated
    hours = [n * seconds / 3600 for n, seconds in zip(counts, speed.seconds, strict=True)]
    at_once = min(max(math.floor(there / each), 1), trainings)
    parts = ", ".join(f"{_hours(n * each)} {what}" for n, what in zip(hours, _PARTS, strict=True))
    shared = f", training shared by {sharing:g} as if that cost nothing" if sharing > 1 else ""
    batch, without = config.training.batch_size, ", ".join(speed.not_measured)
    smaller = "" if speed.batch == batch else f", for one of {batch} takes too long here"
    return [
        f"measured in {speed.took:.0f} s on this machine, {speed.device}: one trial trains on "
        f"{_rate(speed.training)} images a second (in batches of {speed.batch}{smaller}), samples "
        f"{_rate(speed.sampling)} and encodes {_rate(speed.encoding)}",
        f"  an estimate from that: about {_hours(sum(hours) * each)} {unit}-hours: {parts}{shared}"
        + (f" (without {without}: weights that are not here)" if without else ""),
        f"  about {_hours(sum(hours) / at_once)} hours here, {at_once} at a time as if none slowed another, "
        "without what comes before the first trial",
        f"  memory: about {speed.memory / 1e9:.1f} GB a trial, with batches of {speed.batch}",
        *([] if unit == "GPU" else ["  there is no GPU here: run this line where the sweep is to run"]),
    ]


def _occupied(config: SweepConfig) -> tuple[int, str, float]:
    """The GPUs of this machine, or its CPU cores where there are none, and how many one trial occupies."""
    resources = config.resources
    if torch.cuda.is_available():
        return torch.cuda.device_count(), "GPU", resources.gpus_per_trial or 1.0
    cores = os.cpu_count() or 1
    return cores, "CPU", min(resources.cpus_per_trial, cores)


_PARTS = ("training", "sampling", "encoding")


def _hours(hours: float) -> str:
    return f"{float(f'{hours:.2g}'):,g}"


def _rate(seconds: float) -> str:
    return f"{1 / seconds:.3g}" if seconds > 0 else "none"
