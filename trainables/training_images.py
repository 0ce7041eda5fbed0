"""What a trial is trained on: each of its processes opens it for itself."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pareto_amb.data import TrainingSet
from pareto_amb.data.encoded import EncodedFiles
from pareto_amb.diffusion.text.prepare import with_rows
from pareto_amb.storage import Storage
from pareto_amb.trainables.faults import storing


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """Training images `bare` of their pixels, which are uint8 `pixels` (N, C, H, W), or of what was encoded.

    That lies in `files` of the storage, where there are any. `index` (M,) are the images that are trained on,
    None for all.
    """

    bare: TrainingSet
    pixels: NDArray[np.uint8]
    files: EncodedFiles | None
    storage_uri: str
    index: Tensor | None = None

    def open(self) -> TrainingSet:
        """The images: their pixels, or what was encoded of them. MachineError where it cannot be had."""
        n = self.bare.n_images
        if self.files is None:
            found = replace(self.bare, images=as_tensor(self.pixels))
        else:
            with storing():
                opened = self.files.open(Storage(self.storage_uri, patient=True))
            rows = {name: value[:n] for name, value in opened.items()}
            found = with_rows(self.bare, self.bare.told["tokens"], rows)
        return found if self.index is None else found.at(self.index)


def as_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Pixels where all trials of a machine have them; nothing may be written to them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch warns of that
        return torch.from_numpy(pixels)
