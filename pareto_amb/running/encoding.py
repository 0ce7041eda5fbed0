"""Latents and text embeddings of a sweep: worked out once, by a worker with the GPU that trials have."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeVar

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayError
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from pareto_amb.config import SweepConfig
from pareto_amb.credentials import storage_credentials
from pareto_amb.data import Split, TrainingSet
from pareto_amb.data.encoded import EncodedFiles, read_note, write_encoded
from pareto_amb.diffusion.text.parts import TextModel
from pareto_amb.diffusion.text.prepare import encode_rows, with_rows
from pareto_amb.errors import ExitCode, UserError
from pareto_amb.evaluation.probes import N_PROBES
from pareto_amb.printable import printable, reason
from pareto_amb.redaction import redact_uri
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.running.cluster import ClusterWatch, gpus_per_trial, ray_cluster
from pareto_amb.running.materials import LoadedImages
from pareto_amb.storage import Storage
from pareto_amb.terminal import format_duration
from pareto_amb.trainables.faults import describe, fault_of, machine_told_apart, storing

LINE_SECONDS = 60.0
"""Off a terminal a line says so often how the encoding is going."""

_FORM = 1
"""Raised when the same images and model are encoded to other numbers."""

Images = TypeVar("Images", bound=LoadedImages)


class EncodingError(UserError):
    """Images and captions could not be encoded on a worker; nothing was begun."""

    exit_code = ExitCode.FAILED


def find_encoded(images: Images, storage: Storage) -> Images | None:
    """The images with what a storage has of them, None where that is not there as a whole.

    UserError where it is there and something else.
    """
    files = read_note(storage, _of(images))
    if files is None or files.count != len(_rows(images.splits)):
        return None
    try:
        return _with_files(images, files, storage)
    except FileNotFoundError:  # somebody has made room
        return None


def encoded(
    images: Images,
    config: SweepConfig,
    run: RunDirectory,
    address: str | None,
    left_at_end: ExitStack,
    console: Console,
) -> tuple[Images, ClusterWatch | None]:
    """Images as their model is trained on them: as the run's storage has them, else encoded by a worker.

    For the latter Ray is joined, until `left_at_end` is left. Raises UserError where either cannot be had.
    """
    storage_uri = run.storage_uri(config)
    found = find_encoded(images, Storage(storage_uri))
    if found is not None:
        return found, None
    cluster = left_at_end.enter_context(ray_cluster(address, run))
    return encode_on_worker(config, images, storage_uri, gpus_per_trial(config), console), cluster


def encode_on_worker(
    config: SweepConfig, images: Images, storage_uri: str, gpus: float, console: Console
) -> Images:
    """Encode the images once a sweep where a trial would run that occupies `gpus`, into the storage.

    Those of the largest train size, and held-out ones to probe. Raises EncodingError where the worker failed,
    UserError where it wrote where this process does not read.
    """
    rows = torch.tensor(_rows(images.splits))
    known, model = images.image_set.captions or (), _model(images)
    tokens = model.tokens([known[k] for k in rows.tolist()])
    work = ray.remote(num_cpus=config.resources.cpus_per_trial, num_gpus=gpus, max_retries=0)(_encode)
    done = work.remote(
        images.image_set.images[rows].numpy(),
        tokens,
        model,
        _of(images),
        storage_uri,
        storage_credentials(storage_uri),
        "cuda" if gpus else "cpu",
        config.resources.cpus_per_trial,
    )
    try:
        _follow(done, len(rows), console)
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, UserError):
            raise cause from error
        fault = fault_of(error)
        said = describe(fault) if fault else f"{type(cause).__name__}: {reason(cause)}"
        raise EncodingError(
            f"encoding images and captions failed on the worker ({printable(said)}); mend it and start again"
        ) from error
    found = find_encoded(images, Storage(storage_uri))
    if found is None:
        raise UserError(
            f"storage '{printable(redact_uri(storage_uri))}': what a worker wrote there is not seen here; "
            "name a URI or a folder that all nodes share with --set storage=FOLDER|URI"
        )
    return found


def _encode(
    images: NDArray[np.uint8],
    tokens: Tensor,
    model: TextModel,
    of: str,
    storage_uri: str,
    credentials: Mapping[str, str],
    device: str,
    threads: int,
) -> Iterator[int]:
    """In a worker: write what is made of images, uint8 (N, C, H, W); yield how many are done."""
    torch.set_num_threads(threads)
    os.environ.update(credentials)
    with machine_told_apart(), storing():
        parts = encode_rows(torch.tensor(images), tokens, model, device)
        yield from write_encoded(Storage(storage_uri, patient=True), of, len(tokens), parts)


def _follow(done: Iterator[ray.ObjectRef], total: int, console: Console) -> None:
    """Show how a worker goes on that says how many of `total` images are done."""
    started = told = time.monotonic()
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("encoding images and captions", total=total)
        for said in done:
            count, now = int(ray.get(said)), time.monotonic()
            progress.update(task, completed=count)
            if not console.is_terminal and now - told >= LINE_SECONDS:
                told = now
                left = format_duration((now - started) * (total - count) / count)
                console.print(f"encoding images and captions: {count:,} of {total:,}, {left} left")


def _of(images: LoadedImages) -> str:
    """The SHA-256, in hex, of what is encoded, and by which model."""
    what = [_FORM, images.image_set.fingerprint, _model(images).fingerprint, _rows(images.splits)]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _model(images: LoadedImages) -> TextModel:
    assert images.text_model is not None
    return images.text_model


def _rows(splits: Mapping[int, Split]) -> list[int]:
    """Which images are encoded, each once: first those of the largest train size, in their order."""
    probed = [part.heldout[:N_PROBES] for part in splits.values()]
    return list(dict.fromkeys(torch.cat([splits[max(splits)].train, *probed]).tolist()))


def _with_files(images: Images, files: EncodedFiles, storage: Storage) -> Images:
    rows, model = files.open(storage), _model(images)
    place = {image: row for row, image in enumerate(_rows(images.splits))}

    def training(found: TrainingSet) -> TrainingSet:
        first = {name: value[: found.n_images] for name, value in rows.items()}
        return with_rows(found.without_pixels(), model.tokens(found.captions or ()), first)

    def probed(found: TrainingSet) -> TrainingSet:
        index = torch.tensor([place[image] for image in found.ids], dtype=torch.int64)
        some = {name: value[index] for name, value in rows.items()}
        return with_rows(found.without_pixels(), model.tokens(found.captions or ()), some)

    return replace(
        images,
        training_sets={size: training(found) for size, found in images.training_sets.items()},
        heldout_probes={size: probed(found) for size, found in images.heldout_probes.items()},
        files=files,
    )
