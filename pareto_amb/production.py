"""What comes after a sweep: one training at the recommended sigma_tn, and images from its checkpoint."""

from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from pareto_amb.config import TrainingRun, to_yaml
from pareto_amb.data import load_images, split
from pareto_amb.diffusion.checkpoint import load_denoiser, sampling_options
from pareto_amb.diffusion.methods import Algorithm1
from pareto_amb.diffusion.sampler import generate
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.errors import UserError
from pareto_amb.materials import take_training_set
from pareto_amb.storage import Storage, replace_file, write_text

CHECKPOINT = "checkpoint.safetensors"
REPORTS = 200
"""A training reports its loss about this many times."""


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train_model(run: TrainingRun, output: Path, console: Console) -> Path:
    """Train as `run` says, continuing the checkpoint in `output` if there is one; return its path.

    Raises UserError when the data cannot be used or `output` holds another training's checkpoint.
    """
    image_set = load_images(run.data)
    for note in image_set.notes:
        console.print(f"note: {note}", markup=False)
    size = run.train_size or len(image_set.images)
    index = split(image_set, size, run.seed).train
    training_set = take_training_set(image_set, index, run.data.conditional)
    trainer = Trainer(
        training_set.images,
        run.training,
        Algorithm1.within(run.sampling.sigma_max, run.sigma_tn, run.mix_ratio),
        seed=run.seed,
        image_ids=training_set.ids,
        labels=training_set.labels,
        label_dim=training_set.n_classes,
        device=best_device(),
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_text(output / "training.yaml", to_yaml(run))
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error})") from error
    storage = Storage(str(output))
    saved = storage.read(CHECKPOINT)
    if saved is not None:
        trainer.restore(saved, str(output / CHECKPOINT))
        console.print(f"continuing at {trainer.images_seen:,} images")
    _train_with_progress(trainer, run.training.images, storage, console)
    return output / CHECKPOINT


def _train_with_progress(trainer: Trainer, images: int, storage: Storage, console: Console) -> None:
    def save() -> None:
        storage.write(CHECKPOINT, trainer.checkpoint())

    part = max(images // REPORTS, trainer.config.batch_size)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=images, completed=trainer.images_seen)
        while trainer.images_seen < images:
            loss = trainer.train(min(trainer.images_seen + part, images), save)
            line = f"{trainer.images_seen:,} of {images:,} images, loss {loss:.4f}"
            progress.update(task, completed=trainer.images_seen, description=line)
            if not console.is_terminal:
                console.print(line)


def sample_images(
    checkpoint: Path, folder: Path, count: int, seed: int, steps: int, console: Console
) -> None:
    """Write `count` PNG files to `folder`, drawn from the averaged weights of `checkpoint`.

    Raises UserError when the checkpoint cannot be used or the folder cannot be written.
    """
    try:
        content = checkpoint.read_bytes()
    except OSError as error:
        raise UserError(f"{checkpoint}: cannot be read ({error.strerror or error})") from error
    device = best_device()
    denoiser = load_denoiser(content, str(checkpoint), device)
    a = denoiser.architecture
    shape = (a["channels"], a["resolution"], a["resolution"])
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("sampling", total=count)
        images = generate(
            denoiser,
            shape,
            range(count),
            base_seed=seed,
            steps=steps,
            **sampling_options(content, str(checkpoint)),
            label_dim=a["label_dim"],
            device=device,
            progress=lambda n: progress.advance(task, n),
        )
    try:
        for number, image in enumerate(images):
            with replace_file(folder / f"{number:06}.png") as temporary:
                Image.fromarray(
                    image.squeeze(0).numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
                ).save(temporary, format="PNG")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
