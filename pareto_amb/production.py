"""What comes after a sweep: one training at the recommended sigma_tn, and images from its checkpoint."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from pareto_amb import signals
from pareto_amb.config import SamplingConfig, TrainingRun
from pareto_amb.config_file import read_yaml, to_yaml
from pareto_amb.data import load_images, split, take_training_set
from pareto_amb.diffusion.checkpoint import load_denoiser, sampling_options
from pareto_amb.diffusion.conditioning import sampling_conditioning
from pareto_amb.diffusion.denoiser import Denoiser
from pareto_amb.diffusion.heart import Heart
from pareto_amb.diffusion.methods import METHODS
from pareto_amb.diffusion.parallel import AgreedError, World, best_device
from pareto_amb.diffusion.sampler import generate
from pareto_amb.diffusion.text.build import make_text_model
from pareto_amb.diffusion.text.denoiser import TextDenoiser
from pareto_amb.diffusion.text.export import export
from pareto_amb.diffusion.text.prepare import with_text
from pareto_amb.diffusion.trainer import Trainer, TrainingDivergedError
from pareto_amb.errors import UserError
from pareto_amb.reading import is_folder, is_regular, read_file
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.storage import MAX_OBJECT_BYTES, Storage, check_folder, replace_file, write_text, writing
from pareto_amb.sweep_file import parse_training
from pareto_amb.terminal import format_duration, format_speed

CHECKPOINT = "checkpoint.safetensors"
PARTS = 200
"""A training looks about this many times whether its loss is a number."""

LINE_SECONDS = 60.0
"""Off a terminal a line says so often how the training is going."""


def train_model(run: TrainingRun, output: Path, console: Console, world: World) -> Path:
    """Train as `run` says, continuing the checkpoint in `output` if there is one; return its path.

    All processes of `world` call it; the first alone reads and writes `output`. Raises UserError when
    the data or the folder cannot be used, `output` holds another training's checkpoint, or the loss
    is no longer finite. A signal is acted on when a checkpoint was written.
    """
    checkpoint = output / CHECKPOINT
    with world.together():
        if world.is_first:
            check_folder(output)
    trainer = _make_trainer(run, console, world)
    storage = Storage(str(output))
    saved = None
    with world.together():
        saved = storage.read(CHECKPOINT) if world.is_first else None
    saved = world.bytes_from_first(saved)
    if saved is not None:
        with world.together():
            trainer.restore(saved, str(checkpoint))
        console.print(f"continuing at {trainer.images_seen:,} images")

    def save() -> None:
        with world.together(), writing(checkpoint):
            if world.is_first:
                try:
                    storage.write(CHECKPOINT, trainer.checkpoint())
                    write_text(output / "training.yaml", to_yaml(run))
                except OSError:
                    with suppress(OSError):  # it holds something
                        output.rmdir()
                    raise
        for number in filter(None, world.gather(str(request.number or ""))):
            raise signals.Interrupted(int(number))

    try:
        with signals.noted() as request:
            _train_with_progress(trainer, run.training.images, save, lambda: bool(request), console)
    except TrainingDivergedError as error:
        raise AgreedError(f"{error}: lower training.learning_rate or lengthen its warm-up") from error
    with world.together():
        if world.is_first:
            _export(trainer, output, console)
    return checkpoint


def _export(trainer: Trainer, output: Path, console: Console) -> None:
    """Write the averaged weights of a text-to-image pipeline as diffusers loads them."""
    denoiser = trainer.ema_denoiser()
    if not isinstance(denoiser, TextDenoiser):
        return
    with writing(output):
        how = export(denoiser, output)
    if how:
        console.print(f"for diffusers: {how}", markup=False, soft_wrap=True)


def _make_trainer(run: TrainingRun, console: Console, world: World) -> Trainer:
    """Load the data and set up the same training on every process."""
    with world.together():
        image_set = load_images(run.data)
    if len(set(world.gather(image_set.fingerprint))) > 1:
        raise AgreedError(f"{run.data.path}: not the same images on every machine")
    for note in image_set.notes:
        console.print(f"note: {note}", markup=False)
    with world.together():
        size = run.train_size or len(image_set.images)
        index = split(image_set, size, run.seed, run.data.conditional).train
        training_set = take_training_set(image_set, index, run.data.conditional)
        text_model = make_text_model(run, image_set.captions or ())
        if text_model is not None:
            training_set = with_text(training_set, text_model, world.device)
        trainer = Trainer(
            training_set,
            run.training,
            METHODS[run.method].create(run.parameters, run.sampling.sigma_max),
            seed=run.seed,
            device=world.device,
            world=world,
            text_model=text_model,
        )
    # Processors of different makes may round the initial weights differently.
    world.copy_from_first([*trainer.denoiser.state_dict().values(), *trainer.ema])
    return trainer


def _train_with_progress(
    trainer: Trainer, images: int, save: Callable[[], None], wanted: Callable[[], bool], console: Console
) -> None:
    batch = trainer.config.batch_size
    part = max(images // PARTS // batch, 1) * batch  # whole batches: only the last part may overshoot
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=images, completed=trainer.images_seen)
        teller = _Teller(trainer.images_seen, images, batch)

        def tell(seen: int, loss: float | None, last: bool = False) -> None:
            if console.is_terminal:
                progress.update(task, completed=seen, description=teller.line(seen, loss))
            elif last or teller.is_due():
                console.print(teller.line(seen, loss))

        heart = Heart(lambda beat: tell(beat.images_seen, beat.loss))
        while trainer.images_seen < images:
            until = min(trainer.images_seen + part, images)
            at_end = until == images
            loss = trainer.train(until, save, checkpoint_at_end=at_end, wanted=wanted, heart=heart)
            tell(trainer.images_seen, loss, at_end)


class _Teller:
    """Says how a training is going; the speed is that since the last line, the first step apart."""

    def __init__(self, seen: int, images: int, batch: int) -> None:
        self._images, self._batch = images, batch
        self._at, self._seen = time.monotonic(), seen

    def is_due(self) -> bool:
        return time.monotonic() - self._at >= LINE_SECONDS

    def line(self, seen: int, loss: float | None) -> str:
        """`1,024 of 4,096 images, loss 0.1234, step 64 of 256, 431 images/s, 7s left`"""
        now, steps = time.monotonic(), -(-self._images // self._batch)
        speed = (seen - self._seen) / max(now - self._at, 1e-9)
        self._at, self._seen = now, seen
        words = [f"{seen:,} of {self._images:,} images", f"loss {'nan' if loss is None else f'{loss:.4f}'}"]
        words.append(f"step {seen // self._batch:,} of {steps:,}")
        if speed:
            words += [
                f"{format_speed(speed)} images/s",
                f"{format_duration((self._images - seen) / speed)} left",
            ]
        return ", ".join(words)


def recorded_training(checkpoint: Path) -> TrainingRun | None:
    """The settings that `train` wrote beside its checkpoint, or in its folder; None where there are none.

    Raises UserError for settings that cannot be used.
    """
    path = find_checkpoint(checkpoint).parent / "training.yaml"
    return parse_training(read_yaml(path), str(path)) if is_regular(path) else None


def recorded_sampling(checkpoint: Path) -> SamplingConfig | None:
    """How the sweep sampled that a checkpoint, or a recommendation for it, came from; None where unknown.

    Raises UserError for files beside it that cannot be used.
    """
    training = recorded_training(checkpoint)
    if training is not None:
        return training.sampling
    run = RunDirectory(checkpoint.absolute().parent.parent)
    return run.config().sampling if is_regular(run.sweep) else None


def find_checkpoint(path: Path) -> Path:
    """The checkpoint itself where `path` is the folder of a training."""
    return path / CHECKPOINT if is_folder(path) else path


def draw_images(
    checkpoint: Path,
    count: int,
    seed: int,
    console: Console,
    *,
    changes: Mapping[str, Any] | None = None,
    prompts: Sequence[str] = (),
) -> Tensor:
    """Images, uint8 (count, C, H, W), from the averaged weights of a checkpoint or the folder of a training.

    They are drawn as the sweep did, but for the `changes` of the sampling; where that is not recorded, by its
    defaults, which is printed. A text-to-image model draws image i by prompt i mod their number, and by none
    without any. Raises UserError when the checkpoint cannot be used.
    """
    path = find_checkpoint(checkpoint)
    content = read_file(path, MAX_OBJECT_BYTES)
    device = best_device()
    denoiser = load_denoiser(content, str(path), device)
    recorded = recorded_sampling(checkpoint)
    sampling = recorded or _default_sampling(denoiser)
    sampling = sampling.model_copy(update=dict(changes or {}))
    if not isinstance(denoiser, TextDenoiser) and (prompts or sampling.guidance != 1):
        raise UserError(f"{path}: its model reads no captions; leave out --prompt and --guidance")
    how = "as recorded" if recorded else "the default, since nothing beside the checkpoint says how"
    if changes:
        how = "as set"
    console.print(f"{sampling.steps} steps of {sampling.solver}, {how}", markup=False)
    asked = sampling_options(content, str(path))
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("sampling", total=count)
        return generate(
            denoiser,
            range(count),
            sampling_conditioning(denoiser, asked.hidden, prompts),
            base_seed=seed,
            sigma_stop=asked.sigma_stop,
            device=device,
            progress=lambda n: progress.advance(task, n),
            **sampling.model_dump(),
        )


def _default_sampling(denoiser: Denoiser) -> SamplingConfig:
    levels = SamplingConfig()
    if isinstance(denoiser, TextDenoiser):
        ends = {"sigma_min": denoiser.lowest_level, "sigma_max": denoiser.highest_level}
        return levels.model_copy(update=ends)
    return levels


def sample_images(
    checkpoint: Path,
    folder: Path,
    count: int,
    seed: int,
    console: Console,
    *,
    changes: Mapping[str, Any] | None = None,
    prompts: Sequence[str] = (),
) -> None:
    """Write `count` PNG files to `folder`, as `draw_images` draws them.

    Raises UserError when the checkpoint cannot be used or the folder cannot be written.
    """
    images = draw_images(checkpoint, count, seed, console, changes=changes, prompts=prompts)
    with writing(folder):
        if prompts:
            write_text(folder / "metadata.jsonl", _metadata(count, prompts))
        for number, image in enumerate(images):
            with replace_file(folder / f"{number:06}.png") as temporary:
                Image.fromarray(
                    image.squeeze(0).numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
                ).save(temporary, format="PNG")


def _metadata(count: int, prompts: Sequence[str]) -> str:
    """The captions of images, as `data.captions` and `evaluate --captions` read them."""
    lines = (
        json.dumps({"file_name": f"{number:06}.png", "text": prompts[number % len(prompts)]})
        for number in range(count)
    )
    return "".join(f"{line}\n" for line in lines)
