"""One trial: train by its method from rung to rung, and measure each."""

import io
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from PIL import Image
from ray.tune import Trainable
from torch import Tensor
from torchvision.utils import make_grid

from pareto_amb.config import SweepConfig
from pareto_amb.data import TrainingSet
from pareto_amb.diffusion.methods import Method
from pareto_amb.diffusion.sampler import generate
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.evaluation.encoders import Encoder
from pareto_amb.evaluation.evaluate import Evaluation, Reference, evaluate_samples
from pareto_amb.search.frontier import OBJECTIVES
from pareto_amb.storage import Storage

GRID_SIDE = 32
"""Pictures are enlarged to at least this many pixels a side in the stored grid."""


@dataclass(frozen=True)
class SweepAssets:
    """What is computed once a sweep and shared with every trial through Ray's object store."""

    config: SweepConfig
    training_sets: Mapping[int, TrainingSet]
    references: Mapping[int, Reference]
    fid_encoder: Encoder
    similarity_encoder: Encoder
    storage_uri: str


MethodBuilder = Callable[[Mapping[str, Any], SweepConfig], Method]
"""Makes a trial's method from the trial's configuration and the sweep's."""


class TrialTrainable(Trainable):
    """A step trains to the next rung and returns that rung's row of the results table.

    One class serves every method, so that an actor that has finished a trial takes up one of any other.

    The trial's checkpoint lies in the sweep's storage under its own id, not under Ray's, so a trial
    continues from it after its worker, its node or the whole sweep was killed.
    """

    def setup(
        self, config: dict[str, Any], assets: SweepAssets, methods: Mapping[str, MethodBuilder]
    ) -> None:
        torch.set_num_threads(assets.config.resources.cpus_per_trial)
        self._assets, self._methods = assets, methods
        self._device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start another trial in the same actor, whose imports, data and encoders stay."""
        self._begin(new_config)
        return True

    def _begin(self, trial: dict[str, Any]) -> None:
        sweep = self._assets.config
        self._trial = trial
        self._store = Storage(self._assets.storage_uri)
        self._reference = self._assets.references[trial["train_size"]]
        training_set = self._assets.training_sets[trial["train_size"]]
        self._trainer = Trainer(
            training_set.images,
            sweep.training,
            self._methods[trial["method"]](trial, sweep),
            seed=trial["seed"],
            image_ids=training_set.ids,
            labels=training_set.labels,
            label_dim=training_set.n_classes,
            device=self._device,
        )
        saved = self._store.read(self._checkpoint_name)
        if saved is not None:
            self._trainer.restore(saved, self._checkpoint_name)
        # A rung that was trained but not yet measured when the trial was killed is measured now. A repeat of
        # another trial is measured at the end only.
        seen, measured, rungs = self._trainer.images_seen, trial["rung"], sweep.rung_images()
        first = len(rungs) if trial.get("confirms") else measured + 1
        self._rung = next(k for k, images in enumerate(rungs, 1) if images >= seen and k >= first)
        if measured and seen == rungs[measured - 1]:
            self._trainer.train(seen)  # no step; the next loss begins here

    @property
    def _checkpoint_name(self) -> str:
        return f"checkpoints/{self._trial['trial_id']}.safetensors"

    def step(self) -> dict[str, Any]:
        """Train to the next rung, measure, and return its row; the last rung ends the trial."""
        rung, rungs = self._rung, self._assets.config.rung_images()
        loss = self._trainer.train(rungs[rung - 1], self._save)
        started = time.monotonic()
        samples = self._sample()
        evaluation = self._evaluate(samples)
        self._store_pictures(rung, samples, evaluation)
        self._rung += 1
        done = rung == len(rungs)
        row = {
            **self._trial,
            "rung": rung,
            "images_seen": self._trainer.images_seen,
            "budget": rungs[rung - 1] / rungs[-1],
            **evaluation.metrics,
            "train_loss": loss,
            "train_seconds": self._trainer.train_seconds,
            "eval_seconds": time.monotonic() - started,
            "status": "complete" if done else "running",
            "error": "",
        }
        told = {name: row[name] for name in (*OBJECTIVES, "similarity_mean", "rung", "images_seen", "status")}
        return {"row": row, **told, "done": done}

    def _save(self) -> None:
        self._store.write(self._checkpoint_name, self._trainer.checkpoint())

    def _sample(self) -> Tensor:
        """Images from the averaged weights; every trial starts from the same latents."""
        sweep = self._assets.config
        training_set = self._assets.training_sets[self._trial["train_size"]]
        return generate(
            self._trainer.ema_denoiser(),
            (sweep.data.channels, sweep.data.resolution, sweep.data.resolution),
            range(sweep.evaluation.n_samples),
            base_seed=sweep.seed,
            sigma_stop=self._trainer.method.sigma_stop,
            hidden=self._trainer.method.hidden,
            label_dim=training_set.n_classes,
            device=self._device,
            **sweep.sampling.model_dump(),
        )

    def _evaluate(self, samples: Tensor) -> Evaluation:
        return evaluate_samples(
            samples,
            self._reference,
            self._assets.fid_encoder,
            self._assets.similarity_encoder,
            batch_size=self._assets.config.evaluation.batch_size,
            device=self._device,
        )

    def _store_pictures(self, rung: int, samples: Tensor, evaluation: Evaluation) -> None:
        """Store the first samples and the most similar ones, each with its nearest training image."""
        count = self._assets.config.evaluation.n_shown
        similarity = torch.as_tensor(evaluation.similarity)
        first = torch.arange(min(count, len(samples)))
        closest = similarity.argsort(descending=True)[:count]
        shown = torch.cat([first, closest[closest >= len(first)]])
        neighbours = self._reference.train_images[torch.as_tensor(evaluation.neighbour)[shown]]
        arrays = io.BytesIO()
        np.savez_compressed(
            arrays,
            seed=shown.numpy(),
            samples=samples[shown].numpy(),
            neighbours=neighbours.numpy(),
            similarity=similarity[shown].numpy(),
            copied=similarity[shown].numpy() > evaluation.metrics["threshold"],
        )
        name = f"samples/{self._trial['trial_id']}/rung-{rung}"
        self._store.write(f"{name}.npz", arrays.getvalue())
        self._store.write(f"{name}.png", _grid_png(samples[first]))

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Leave a note for Ray: every step ends with its state in the sweep's storage."""
        (Path(checkpoint_dir) / "checkpoint.txt").write_text(self._checkpoint_name, encoding="utf-8")

    def load_checkpoint(self, checkpoint: str) -> None:
        """Nothing to do: `setup` and `reset_config` continue from the sweep's storage."""


def _grid_png(images: Tensor) -> bytes:
    enlarge = max(GRID_SIDE // images.shape[-1], 1)
    enlarged = images.repeat_interleave(enlarge, -1).repeat_interleave(enlarge, -2)
    grid = make_grid(enlarged, nrow=math.ceil(math.sqrt(len(images))), padding=2, pad_value=255)
    buffer = io.BytesIO()
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
