"""One trial: train by its method from rung to rung, and measure each."""

import json
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.tune import Trainable

from pareto_amb.config import SweepConfig
from pareto_amb.data import TrainingSet
from pareto_amb.data.encoded import EncodedFiles
from pareto_amb.declared import BASELINE, Declared
from pareto_amb.diffusion.conditioning import sampling_conditioning
from pareto_amb.diffusion.heart import Beat, Heart
from pareto_amb.diffusion.methods import Method
from pareto_amb.diffusion.sampler import generate
from pareto_amb.diffusion.text.parts import TextModel
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.errors import UserError
from pareto_amb.evaluation.encoders import Encoder
from pareto_amb.evaluation.judges import Judge
from pareto_amb.evaluation.objectives import OBJECTIVES
from pareto_amb.evaluation.probes import Probes
from pareto_amb.evaluation.prompts import Prompts, caption_magnitudes, detection_auc
from pareto_amb.evaluation.trial import (
    EncodedSamples,
    Evaluation,
    TrialReference,
    encode_samples,
    evaluate_encoded,
)
from pareto_amb.results.branching import first_baseline, trunk_name
from pareto_amb.results.live import Heartbeat
from pareto_amb.results.probes import PROBES, log_errors, probe_columns
from pareto_amb.results.run_directory import checkpoint_name
from pareto_amb.results.table import final_figures, trial_columns
from pareto_amb.storage import Storage
from pareto_amb.trainables.crew import Crew, Start, Task
from pareto_amb.trainables.faults import machine_told_apart, storing
from pareto_amb.trainables.pictures import pictures
from pareto_amb.trainables.stop_sign import Lookout
from pareto_amb.trainables.training_images import TrainingImages, as_tensor
from pareto_amb.trial import Trial

NOTE = "measured.json"
"""What Ray keeps of a trial that waits: how many of its rungs were measured."""


@dataclass(frozen=True)
class SweepAssets:
    """What is computed once a sweep and shared with every trial through Ray's object store.

    `pixels` are the training images of the largest size, uint8 (N, C, H, W), which all trials of a machine
    share; training sets and references come without. `encoded` are the files of what else is trained on.
    `stop_sign` is the handle of the sweep's `StopSign`.
    `credentials` of the storage go into a worker's environment; they are in no file and no log.
    """

    config: SweepConfig
    declared: Declared
    methods: Mapping[str, type[Method]]
    training_sets: Mapping[int, TrainingSet]
    pixels: NDArray[np.uint8]
    encoded: EncodedFiles | None
    references: Mapping[int, TrialReference]
    probes: Mapping[int, Probes]
    fid_encoder: Encoder
    similarity_encoder: Encoder
    judge: Judge | None
    text_model: TextModel | None
    prompts: Mapping[int, Prompts]
    storage_uri: str
    stop_sign: Any
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False, kw_only=True)


class TrialTrainable(Trainable):
    """A step trains to the next rung and returns that rung's row of the results table.

    At a probe rung denoising errors are measured and nothing else; at a full one samples, too.

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
        self._store = Storage(assets.storage_uri, patient=True)
        self._n_processes, self._device = max(len(ray.get_gpu_ids()), 1), _device()
        self._crew = Crew(1, self._device)
        self._lookout = Lookout(assets.stop_sign)
        self._trial, self._begun = Trial.from_config(config), False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start another trial in the same actor, whose imports, data and encoders stay."""
        self._trial, self._begun = Trial.from_config(new_config), False
        return True

    def cleanup(self) -> None:
        """End the processes that were started for it."""
        self._crew.close()

    def _begin(self) -> None:
        """Set up the training, as far as the sweep's storage has it."""
        trial, assets, sweep = self._trial, self._assets, self._assets.config
        method = assets.methods[trial.method].create(trial.parameters, sweep.sampling.sigma_max)
        self.__dict__.pop("_trainer", None)  # two would not fit on a GPU that one fills
        images = self._find_images()
        self._training_set, self._reference = images.open(), self._find_reference()
        task = Task(images, sweep.training, method, trial.seed, trial.branched_at, assets.text_model)
        name = checkpoint_name(trial.id)
        with storing():
            saved = self._store.read(name)
        self._gather_crew()
        if saved is None and trial.branched_at:
            self._trainer = self._branch(task)
        else:
            self._trainer = self._crew.begin(task, Start(saved, name) if saved is not None else None)
        self._continue()
        self._begun = True

    def _find_images(self) -> TrainingImages:
        """What the trial is trained on."""
        bare, files = self._assets.training_sets[self._trial.train_size], self._assets.encoded
        pixels = self._assets.pixels[: bare.n_images if files is None else 0]
        return TrainingImages(bare, pixels, files, self._assets.storage_uri)

    def _find_reference(self) -> TrialReference:
        """What its samples are measured against."""
        found = self._assets.references[self._trial.train_size]
        return replace(found, train_images=as_tensor(self._assets.pixels[: len(found.train_features)]))

    def _gather_crew(self) -> None:
        """Have one process a GPU of the trial."""
        if not self._crew.is_whole or self._crew.world.size != self._n_processes:
            self._crew.close()
            threads = max(self._assets.config.resources.cpus_per_trial // self._n_processes, 1)
            self._crew = Crew(self._n_processes, self._device, threads)

    def _branch(self, task: Task) -> Trainer:
        """Go on from the first baseline. UserError where what it left is missing or cannot be used."""
        name = trunk_name(self._trial.train_size, self._branched_rung)
        with storing():
            trunk = self._store.read(name)
        remedy = "restore it, or begin a new sweep, with search.branch_from null where none is wanted"
        if trunk is None:
            raise UserError(f"{name}: is missing, and {self._trial.id} goes on from it; {remedy}")
        try:
            return self._crew.begin(task, Start(trunk, name, branches=True))
        except UserError as error:
            raise UserError(f"{str(error).rpartition('; ')[0]}; {remedy}") from error

    @property
    def _branched_rung(self) -> int:
        """The rung from which the trial goes on, 0 from scratch."""
        images = self._trial.branched_at
        return self._rungs.index(images) + 1 if images else 0

    @property
    def _last(self) -> int:
        """The rung that the trial ends with."""
        return self._trial.last or len(self._rungs)

    def _continue(self) -> None:
        """Go on to the first rung that was not measured; where the trial was cut off after its last, to that.

        One that was trained but not yet measured when the trial was killed is measured now. What follows the
        search is measured at its end only, unless at every rung; the rung that a trial was branched at is
        the baseline's. Raises UserError for a training that is past the end.
        """
        trial, seen, last = self._trial, self._trainer.images_seen, self._last
        known = max(trial.measured, self._branched_rung)
        first = last if trial.follows and not trial.every_rung else min(known + 1, last)
        ahead = [k for k, images in enumerate(self._rungs[:last], 1) if images >= seen and k >= first]
        if not ahead:
            raise UserError(
                f"{checkpoint_name(trial.id)}: has seen {seen:,} images, and the trial ends at "
                f"{self._rungs[last - 1]:,}; restore the sweep.yaml that it was trained by, or remove it"
            )
        self._rung = ahead[0]
        if 0 < trial.measured < self._rung and seen == self._rungs[trial.measured - 1]:
            self._train(seen)  # no step; the next loss begins here

    def _train(self, until_images: int, *arguments: Any, **more: Any) -> float:
        """As of `Trainer`, on all processes of the trial."""
        with self._crew.training(until_images):
            return self._trainer.train(until_images, *arguments, **more)

    def step(self) -> dict[str, Any]:
        """Train to the next rung, measure, and return its row; the trial's last rung ends it.

        Raises MachineError where the machine is to blame, what training or measurement raise otherwise.
        """
        with machine_told_apart():
            if not self._begun:
                self._begin()
            return self._step()

    def _step(self) -> dict[str, Any]:
        rung, trial = self._rung, self._trial
        self._lookout.training(trial.id)
        self._tell("training")
        heart, until = Heart(lambda beat: self._tell("training", beat)), self._rungs[rung - 1]
        try:
            loss = self._train(until, self._save, wanted=self._lookout.raised, heart=heart)
        finally:
            self._lookout.saved(trial.id)
        self._tell("measuring")
        if trial.id == first_baseline(trial.train_size) and rung in self._assets.config.branching_rungs():
            with storing():
                self._store.write(trunk_name(trial.train_size, rung), self._trainer.checkpoint())
        started, done = time.monotonic(), rung == self._last
        sampled = self._measure_samples(rung, done) if self._is_full(rung) else self._no_samples()
        probed = self._probe()
        self._trial, self._rung = trial.after(rung), rung + 1
        row = {
            **trial_columns(trial, self._assets.declared),
            "rung": rung,
            "images_seen": self._trainer.images_seen,
            "budget": self._rungs[rung - 1] / self._rungs[-1],
            **sampled,
            **probed,
            "train_loss": loss,
            "train_seconds": self._trainer.train_seconds,
            "eval_seconds": time.monotonic() - started,
            "device": _name_of(self._device),
            "status": "complete" if done else "running",
            "error": "",
        }
        told = (*self._assets.declared.reported, "rung", "images_seen", "status")
        return {"row": row, **{name: row[name] for name in told}, PROBES: log_errors(row), "done": done}

    def _tell(self, doing: Literal["training", "measuring"], beat: Beat | None = None) -> None:
        """Say how the trial is going, for those who watch the sweep."""
        batch, images = self._trainer.config.batch_size, self._rungs[self._last - 1]
        speed, seen = beat.images_per_second if beat else None, self._trainer.images_seen
        self._lookout.beat(
            Heartbeat(
                trial_id=self._trial.id,
                worker=_worker(),
                doing=doing,
                rung=self._rung,
                rungs=self._last,
                step=seen // batch,
                steps=math.ceil(images / batch),
                images_seen=seen,
                images=images,
                images_per_second=speed,
                loss=beat.loss if beat else None,
                seconds_left=max(images - seen, 0) / speed if speed else None,
            )
        )

    def _is_full(self, rung: int) -> bool:
        return rung >= self._assets.config.first_full_rung

    def _measure_samples(self, rung: int, done: bool) -> dict[str, float | int]:
        """The figures of a rung's samples, pictures are stored; final ones where the trial is `done`."""
        assets, evaluation = self._assets, self._assets.config.evaluation
        encoded = self._sample(range(evaluation.n_samples), self._training_set.captions or ())
        found = evaluate_encoded(encoded, self._reference, assets.declared.objectives)
        shown, captions = evaluation.n_shown, self._training_set.captions
        images = self._reference.train_images
        for name, content in pictures(self._trial.id, rung, encoded.samples, found, images, shown, captions):
            with storing():
                self._store.write(name, content)
        by_prompt = self._measure_prompts(found) if captions else {}
        return {**found.metrics, **by_prompt, **(self._measure_finally(encoded) if done else {})}

    def _measure_prompts(self, found: Evaluation) -> dict[str, float]:
        """Copies by shuffled and by unseen captions, and how well magnitudes tell which captions trigger one.

        `found` are the samples by training captions.
        """
        prompts, sweep = self._assets.prompts[self._trial.train_size], self._assets.config
        figures: dict[str, float] = {}
        count = sweep.evaluation.other_prompts
        for name, captions in prompts.others().items() if count else ():
            encoded = self._sample(range(count), captions, judged=False)
            other = evaluate_encoded(encoded, self._reference, {}).metrics
            figures |= {f"{figure}_{name}": other[figure] for figure in ("memorization", "similarity_mean")}
        captions = prompts.training[: len(found.copied)]
        magnitudes = caption_magnitudes(
            self._trainer.ema_denoiser(),
            captions,
            sweep.sampling.sigma_max,
            sweep.seed,
            sweep.sampling.batch_size,
            self._device,
        )
        triggers = torch.stack([found.copied[k :: len(captions)].any() for k in range(len(captions))])
        figures["caption_magnitude"] = float(magnitudes.mean())
        return figures | {"caption_detection_auc": detection_auc(magnitudes, triggers)}

    def _no_samples(self) -> dict[str, float | int]:
        """What a rung has that was not sampled; figures that are not there are NaN in the table."""
        return {"n_samples": 0, **dict.fromkeys(self._assets.declared.reported, math.nan)}

    def _probe(self) -> dict[str, list[float]]:
        """The denoising errors of the averaged weights."""
        probes, sampling = self._assets.probes[self._trial.train_size], self._assets.config.sampling
        denoiser, hidden = self._trainer.ema_denoiser(), self._trainer.method.hidden
        train, heldout = probes.errors(denoiser, hidden, sampling.batch_size, self._device)
        return probe_columns(probes.levels, train, heldout)

    def _save(self) -> None:
        content = self._trainer.checkpoint()
        with storing():
            self._store.write(checkpoint_name(self._trial.id), content)
        if self._lookout.raised():
            self._lookout.saved(self._trial.id)
            self._lookout.hold()

    def _measure_finally(self, encoded: EncodedSamples) -> dict[str, float]:
        """The figures of `evaluation.final_samples` images, of which `encoded` are the first.

        Nothing where that is not set, or where the trial is one of the search and no baseline.
        """
        trial, count = self._trial, self._assets.config.evaluation.final_samples
        if count is None or not (trial.follows or trial.method == BASELINE):
            return {}
        declared = self._assets.declared
        everything = encoded.joined(list(self._further(range(len(encoded.samples), count))))
        found = evaluate_encoded(everything, self._reference, declared.objectives)
        return final_figures(declared, found.metrics)

    def _further(self, seeds: Sequence[int]) -> Iterator[EncodedSamples]:
        """Images for the final measurement, some at a time, without pixels where no objective looks at them.

        The shipped ones do not. Parts end where batches end, so that the figures are those of one part.
        """
        sweep = self._assets.config
        some = math.lcm(sweep.sampling.batch_size, sweep.evaluation.batch_size)
        looked_at = not self._assets.declared.objectives.keys() <= OBJECTIVES.keys()
        for start in range(0, len(seeds), some):
            encoded = self._sample(seeds[start : start + some], self._training_set.captions or ())
            yield encoded if looked_at else encoded.without_pixels()

    def _sample(self, seeds: Sequence[int], captions: Sequence[str], judged: bool = True) -> EncodedSamples:
        """Images from the averaged weights, by `captions`, encoded; all trials begin with the same noise."""
        sweep, method = self._assets.config, self._trainer.method
        denoiser = self._trainer.ema_denoiser()
        samples = generate(
            denoiser,
            seeds,
            sampling_conditioning(denoiser, method.hidden, captions),
            base_seed=sweep.seed,
            sigma_stop=method.sigma_stop,
            device=self._device,
            **sweep.sampling.model_dump(),
        )
        return encode_samples(
            samples,
            self._assets.fid_encoder,
            self._assets.similarity_encoder,
            batch_size=sweep.evaluation.batch_size,
            device=self._device,
            judge=self._assets.judge if judged else None,
            captions=[captions[seed % len(captions)] for seed in seeds] if captions else (),
        )

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Note what was measured: every step ends with its state in the sweep's storage."""
        note = json.dumps({"measured": self._trial.measured})
        (Path(checkpoint_dir) / NOTE).write_text(note, encoding="utf-8")

    def load_checkpoint(self, checkpoint: str) -> None:
        """Go on after the rungs of a note; the training is restored by the next step."""
        note = json.loads((Path(checkpoint) / NOTE).read_text(encoding="utf-8"))
        self._trial, self._begun = self._trial.after(note["measured"]), False


def _device() -> torch.device:
    """Where the trial trains, by what Ray has given it."""
    return torch.device("cuda" if ray.get_gpu_ids() else "cpu")


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _worker() -> str:
    """Where this process runs: the machine, and the GPUs that it has of it."""
    gpus = ", ".join(f"GPU {number}" for number in ray.get_gpu_ids())
    return " ".join(filter(None, [socket.gethostname()[:100], gpus]))
