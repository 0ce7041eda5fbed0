from pathlib import Path

import pytest
import torch
from rich.console import Console
from sklearn.datasets import load_digits

from pareto_amb.config import SweepConfig, TrainingConfig
from pareto_amb.diffusion.methods import Algorithm1
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.errors import UserError
from pareto_amb.materials import load_materials


def sweep(**training: object) -> SweepConfig:
    return SweepConfig.model_validate(
        {
            "name": "check",
            "data": {"source": "digits", "resolution": 8, "channels": 1},
            "space": {"train_size": [20], "sigma_tn": {"low": 0.1, "high": 1.0}},
            "training": {"images": 64, "batch_size": 16, **training},
            "evaluation": {"fid_encoder": "pixels", "similarity_encoder": "pixels"},
        }
    )


def test_first_weights_that_do_not_fit_are_refused_before_a_sweep_starts(tmp_path: Path) -> None:
    images = torch.tensor(load_digits().images[:2, None] * 15.9).to(torch.uint8)
    path = tmp_path / "earlier.safetensors"
    config = TrainingConfig(images=1, batch_size=1)
    path.write_bytes(Trainer(images, config, Algorithm1(), seed=0).checkpoint())
    console = Console(quiet=True)
    load_materials(sweep(init_from=str(path)), console)
    with pytest.raises(UserError, match="augment_dim is 0 there and 9"):
        load_materials(sweep(init_from=str(path), augment_probability=0.1), console)
    with pytest.raises(UserError, match="cannot be read"):
        load_materials(sweep(init_from=str(tmp_path / "absent")), console)


def test_compiling_without_a_compiler_is_refused_before_a_sweep_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="needs a C"):
        load_materials(sweep(compile=True), Console(quiet=True))
