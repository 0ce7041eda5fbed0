"""One trial: train by its method from rung to rung, and measure each."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from ray.tune import Trainable
from torch import Tensor

from pareto_amb.config import SweepConfig
from pareto_amb.data import TrainingSet
from pareto_amb.declared import Declared
from pareto_amb.diffusion.conditioning import sampling_conditioning
from pareto_amb.diffusion.methods import Method
from pareto_amb.diffusion.sampler import generate
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.evaluation.encoders import Encoder
from pareto_amb.evaluation.trial import Evaluation, TrialReference, evaluate_samples
from pareto_amb.results.run_directory import checkpoint_name
from pareto_amb.results.table import trial_columns
from pareto_amb.storage import Storage
from pareto_amb.trainables.faults import machine_told_apart, storing
from pareto_amb.trainables.pictures import pictures
from pareto_amb.trainables.stop_sign import Lookout
from pareto_amb.trial import Trial

NOTE = "measured.json"
"""What Ray keeps of a trial that waits: how many of its rungs were measured."""


@dataclass(frozen=True)
class SweepAssets:
    """What is computed once a sweep and shared with every trial through Ray's object store.

    `stop_sign` is the handle of the sweep's `StopSign`.
    `credentials` of the storage go into a worker's environment; they are in no file and no log.
    """

    config: SweepConfig
    declared: Declared
    methods: Mapping[str, type[Method]]
    training_sets: Mapping[int, TrainingSet]
    references: Mapping[int, TrialReference]
    fid_encoder: Encoder
    similarity_encoder: Encoder
    storage_uri: str
    stop_sign: Any
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False, kw_only=True)


class TrialTrainable(Trainable):
    """A step trains to the next rung and returns that rung's row of the results table.

    One class serves every method, so that an actor that has finished a trial takes up one of any other.

    The trial's checkpoint lies in the sweep's storage under its own id, not under Ray's, so a trial
    continues from it after its worker, its node or the whole sweep was killed. Ray's own checkpoint, made
    after every rung, is a note of the rungs that were measured.

    All that may fail happens in `step`: Ray keeps the type of what a step raises, and of a constructor's
    error only the text.
    """

    def setup(self, config: dict[str, Any], assets: SweepAssets) -> None:
        torch.set_num_threads(assets.config.resources.cpus_per_trial)
        self._assets, self._rungs = assets, assets.config.rung_images()
        os.environ.update(assets.credentials)
        self._store = Storage(assets.storage_uri)
        self._device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        self._lookout = Lookout(assets.stop_sign)
        self._trial, self._begun = Trial.from_config(config), False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start another trial in the same actor, whose imports, data and encoders stay."""
        self._trial, self._begun = Trial.from_config(new_config), False
        return True

    def _begin(self) -> None:
        """Set up the training, as far as the sweep's storage has it."""
        trial, assets, sweep = self._trial, self._assets, self._assets.config
        method = assets.methods[trial.method].create(trial.parameters, sweep.sampling.sigma_max)
        training_set = assets.training_sets[trial.train_size]
        self._reference = assets.references[trial.train_size]
        self._trainer = Trainer(training_set, sweep.training, method, seed=trial.seed, device=self._device)
        name = checkpoint_name(trial.id)
        with storing():
            saved = self._store.read(name)
        if saved is not None:
            self._trainer.restore(saved, name)
        self._continue()
        self._begun = True

    def _continue(self) -> None:
        """Go on to the first rung that was not measured.

        One that was trained but not yet measured when the trial was killed is measured now. A repeat of
        another trial is measured at the end only.
        """
        trial, seen = self._trial, self._trainer.images_seen
        first = len(self._rungs) if trial.confirms else trial.measured + 1
        self._rung = next(k for k, images in enumerate(self._rungs, 1) if images >= seen and k >= first)
        if trial.measured and seen == self._rungs[trial.measured - 1]:
            self._trainer.train(seen)  # no step; the next loss begins here

    def step(self) -> dict[str, Any]:
        """Train to the next rung, measure, and return its row; the last rung ends the trial.

        Raises MachineError where the machine is to blame, what training or measurement raise otherwise.
        """
        with machine_told_apart():
            if not self._begun:
                self._begin()
            return self._step()

    def _step(self) -> dict[str, Any]:
        rung, trial = self._rung, self._trial
        self._lookout.training(trial.id)
        try:
            loss = self._trainer.train(self._rungs[rung - 1], self._save, wanted=self._lookout.raised)
        finally:
            self._lookout.saved(trial.id)
        started = time.monotonic()
        samples = self._sample()
        evaluation = self._evaluate(samples)
        images, shown = self._reference.train_images, self._assets.config.evaluation.n_shown
        for name, content in pictures(trial.id, rung, samples, evaluation, images, shown):
            with storing():
                self._store.write(name, content)
        self._trial, self._rung = trial.after(rung), rung + 1
        done = rung == len(self._rungs)
        row = {
            **trial_columns(trial, self._assets.declared),
            "rung": rung,
            "images_seen": self._trainer.images_seen,
            "budget": self._rungs[rung - 1] / self._rungs[-1],
            **evaluation.metrics,
            "train_loss": loss,
            "train_seconds": self._trainer.train_seconds,
            "eval_seconds": time.monotonic() - started,
            "status": "complete" if done else "running",
            "error": "",
        }
        told = (*self._assets.declared.reported, "rung", "images_seen", "status")
        return {"row": row, **{name: row[name] for name in told}, "done": done}

    def _save(self) -> None:
        content = self._trainer.checkpoint()
        with storing():
            self._store.write(checkpoint_name(self._trial.id), content)
        if self._lookout.raised():
            self._lookout.saved(self._trial.id)
            self._lookout.hold()

    def _sample(self) -> Tensor:
        """Images from the averaged weights; every trial starts from the same latents."""
        sweep, method = self._assets.config, self._trainer.method
        denoiser = self._trainer.ema_denoiser()
        return generate(
            denoiser,
            range(sweep.evaluation.n_samples),
            sampling_conditioning(denoiser, method.hidden),
            base_seed=sweep.seed,
            sigma_stop=method.sigma_stop,
            device=self._device,
            **sweep.sampling.model_dump(),
        )

    def _evaluate(self, samples: Tensor) -> Evaluation:
        return evaluate_samples(
            samples,
            self._reference,
            self._assets.declared.objectives,
            self._assets.fid_encoder,
            self._assets.similarity_encoder,
            batch_size=self._assets.config.evaluation.batch_size,
            device=self._device,
        )

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Note what was measured: every step ends with its state in the sweep's storage."""
        note = json.dumps({"measured": self._trial.measured})
        (Path(checkpoint_dir) / NOTE).write_text(note, encoding="utf-8")

    def load_checkpoint(self, checkpoint: str) -> None:
        """Go on after the rungs of a note; the training is restored by the next step."""
        note = json.loads((Path(checkpoint) / NOTE).read_text(encoding="utf-8"))
        self._trial, self._begun = self._trial.after(note["measured"]), False
