"""One model of an audit: trained on its half of the images, then asked about every one of them."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from pareto_amb.evaluation.memorization import copied_training_images, nearest_neighbours
from pareto_amb.evaluation.probes import image_errors
from pareto_amb.evaluation.trial import TrialReference, evaluate_encoded
from pareto_amb.results.probes import probe_columns
from pareto_amb.results.run_directory import answers_name
from pareto_amb.trainables.faults import storing
from pareto_amb.trainables.training_images import TrainingImages
from pareto_amb.trainables.trial_trainable import SweepAssets, TrialTrainable

DRAWS = 4
"""Noises in which each image is denoised at each level."""


@dataclass(frozen=True)
class AuditAssets(SweepAssets):
    """Those of a sweep; training sets and references are of all images that are audited.

    `halves` has, by trial, which of them (n,) the trial is trained on, bool; `levels` are the noise levels at
    which each image is denoised, EDM units.
    """

    halves: Mapping[str, Tensor] = field(kw_only=True)
    levels: tuple[float, ...] = field(kw_only=True)


class AuditTrainable(TrialTrainable):
    """Trains as any trial does, on its half; at the end it leaves its answers in the sweep's storage.

    They are an npz: `errors` float64 (n, L), the denoising error of each image at each level, and `copies`
    int64 (n,), how many of its samples are copies of each image.
    """

    _assets: AuditAssets

    @property
    def _half(self) -> Tensor:
        """The positions of the images that it is trained on."""
        return torch.nonzero(self._assets.halves[self._trial.id])[:, 0]

    def _find_images(self) -> TrainingImages:
        return replace(super()._find_images(), index=self._half)

    def _find_reference(self) -> TrialReference:
        every, half = super()._find_reference(), self._half
        return replace(
            every, train_features=every.train_features[half], train_images=every.train_images[half]
        )

    def _measure_samples(self, rung: int, done: bool) -> dict[str, float | int]:
        """The figures of its samples against its half; its answers are stored."""
        assets = self._assets
        captions = self._training_set.captions or ()
        encoded = self._sample(range(assets.config.evaluation.n_samples), captions)
        found = evaluate_encoded(encoded, self._reference, assets.declared.objectives)
        every = assets.references[self._trial.train_size]
        similarity, neighbour = nearest_neighbours(encoded.similarity_features, every.train_features)
        n = len(every.train_features)
        copies = copied_training_images(similarity, neighbour, every.threshold, n).counts
        self._errors = self._ask()
        content = io.BytesIO()
        np.savez(content, errors=self._errors.numpy(), copies=copies.numpy())
        with storing():
            self._store.write(answers_name(self._trial.id), content.getvalue())
        return found.metrics

    def _ask(self) -> Tensor:
        assets, sampling = self._assets, self._assets.config.sampling
        return image_errors(
            self._trainer.ema_denoiser(),
            super()._find_images().open(),
            assets.levels,
            assets.config.seed,
            DRAWS,
            self._trainer.method.hidden,
            sampling.batch_size,
            self._device,
        )

    def _probe(self) -> dict[str, list[float]]:
        """The mean errors over its half, and over the other."""
        inside = self._assets.halves[self._trial.id]
        means = (self._errors[which].mean(dim=0).tolist() for which in (inside, ~inside))
        return probe_columns(self._assets.levels, *means)
