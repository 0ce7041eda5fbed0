"""The room on a disk that a sweep will need, told and asked for before anything is made."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pareto_amb.config import SweepConfig
from pareto_amb.diffusion.methods import Method
from pareto_amb.diffusion.networks import build_denoiser
from pareto_amb.diffusion.text.parts import TextModel
from pareto_amb.diffusion.text.prepare import bytes_of_a_row
from pareto_amb.errors import UserError
from pareto_amb.evaluation.probes import N_PROBES
from pareto_amb.printable import printable, reason
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.storage import Storage, existing_folder
from pareto_amb.sweep_file import trained_methods

TABLES = 32 * 2**20
"""Bytes for what a run keeps beside checkpoints and samples: tables, the study, report, logs."""

_ARRAYS = 4
"""A checkpoint holds the weights, their mean and two averages of Adam's, in float32."""


@dataclass(frozen=True)
class Room:
    """Bytes of one checkpoint, how many will come, whether any is written; of all samples, and encodings."""

    checkpoint: int
    checkpoints: int
    writes: bool
    samples: int
    encoded: int = 0

    @property
    def storage(self) -> int:
        """Bytes in the storage; a checkpoint is written beside the one that it replaces."""
        return (self.checkpoints + 1) * self.checkpoint + self.samples + self.encoded if self.writes else 0


def room_needed(
    config: SweepConfig,
    methods: Mapping[str, type[Method]],
    text_model: TextModel | None,
    trainings: int,
    begun: int = 0,
) -> Room:
    """What so many trainings leave behind, at most. UserError where a network cannot be built.

    A network that is told captions is made of `text_model`. Of those that were `begun` a checkpoint is there,
    which theirs will replace. Beside them lie those that trials are branched from.
    """
    data, evaluation = config.data, config.evaluation
    with torch.device("meta"):
        networks = [
            build_denoiser(
                config.training,
                (data.channels, data.resolution, data.resolution),
                int(data.conditional),
                methods[name],
                text_model,
            )
            for name in trained_methods(config, methods)
        ]
    weights = max(sum(p.numel() for p in each.parameters() if p.requires_grad) for each in networks)
    image = data.channels * data.resolution**2
    shown = evaluation.n_shown * (4 * image + data.channels * (max(data.resolution, 32) + 2) ** 2)
    samples = trainings * len(evaluation.rungs) * shown
    trunks = len(config.branching_rungs()) * len(config.space.train_size)
    encoded = 0 if text_model is None else _encoded(config, text_model)
    return Room(4 * _ARRAYS * weights, trainings - begun + trunks, trainings > 0, samples, encoded)


def _encoded(config: SweepConfig, model: TextModel) -> int:
    """Bytes of the latents and text embeddings of a sweep."""
    sizes, data = config.space.train_size, config.data
    images = max(sizes) + len(sizes) * N_PROBES
    return images * bytes_of_a_row(model, (data.channels, data.resolution, data.resolution))


def describe_room(room: Room) -> str:
    """One line for people."""
    return (
        f"about {_size(room.storage)} of storage: {room.checkpoints} checkpoints of "
        f"{_size(room.checkpoint)}, samples {_size(room.samples)}"
        + (f", latents and text embeddings {_size(room.encoded)}" if room.encoded else "")
    )


def check_room(run: RunDirectory, config: SweepConfig, room: Room) -> None:
    """Raise UserError where the run or its storage cannot be written, or has too little room on a disk.

    An object store is not asked for its room.
    """
    storage = Storage(run.storage_uri(config))
    try:
        if storage.folder is not None:  # a remote one was asked before
            storage.probe()
    except OSError as error:
        raise UserError(
            f"storage '{printable(storage.uri)}': cannot be written ({reason(error)}); "
            "name another with --set storage=FOLDER|URI"
        ) from error
    here = existing_folder(run.path)
    there = None if storage.folder is None else existing_folder(storage.folder)
    if there is not None and there.stat().st_dev == here.stat().st_dev:
        _check_free(there, TABLES + room.storage, room)
        return
    _check_free(here, TABLES, room)
    if there is not None:
        _check_free(there, room.storage, room)


def free_bytes(folder: Path) -> int | None:
    """The bytes that are free where a folder lies; None for a file system that does not say."""
    try:
        usage = shutil.disk_usage(existing_folder(folder))
    except OSError:
        return None
    return usage.free if usage.total else None


def describe_free(folder: Path) -> str:
    """How much is free there, for people."""
    free = free_bytes(folder)
    return "unknown" if free is None else _size(free)


def _check_free(folder: Path, needed: int, room: Room) -> None:
    free = free_bytes(folder)
    if free is not None and free < needed:
        raise UserError(
            f"{printable(folder)}: the sweep needs about {_size(needed)} there "
            f"({room.checkpoints} checkpoints of {_size(room.checkpoint)}), {_size(free)} are free; "
            "make room, name another place with --set storage=FOLDER|URI, or plan fewer trials with --trials"
        )


def _size(n: float) -> str:
    for unit in ("B", "KB", "MB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:,.1f} GB"
