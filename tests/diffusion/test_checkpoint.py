"""A checkpoint may come from anyone: it gives a training or a network, or a UserError."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pareto_amb.config import NetworkConfig, TrainingConfig
from pareto_amb.data import TrainingSet
from pareto_amb.diffusion.checkpoint import (
    load_denoiser,
    pack,
    read_initial_weights,
    sampling_options,
    unpack,
)
from pareto_amb.diffusion.methods import Algorithm1
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.errors import UserError

IMAGES = torch.randint(0, 256, (6, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
CONFIG = TrainingConfig(network=NetworkConfig(options={"model_channels": 8}), images=32, batch_size=16)
FEW = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def make_trainer() -> Trainer:
    method = Algorithm1.create({"sigma_tn": 0.3, "mix_ratio": 0.5}, 80.0)
    return Trainer(TrainingSet(IMAGES, list(range(6)), None, 0), CONFIG, method, seed=0)


@pytest.fixture(scope="module")
def content() -> bytes:
    trainer = make_trainer()
    trainer.train(32)
    return trainer.checkpoint()


def edited(content: bytes, header: dict[str, Any], tensors: dict[str, Tensor | None]) -> bytes:
    before, weights = unpack(content, "test")
    kept = {name: tensor for name, tensor in (weights | tensors).items() if tensor is not None}
    return pack(before | header, kept)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("model.network.out.bias", None),
        ("ema.network.out.bias", None),
        ("model.network.out.bias", torch.full((1,), math.nan)),
        ("model.network.out.bias", torch.zeros(2)),
        ("model.network.out.bias", torch.zeros(1, dtype=torch.float64)),
        ("model.more", torch.zeros(1)),
        ("optimizer.0.step", None),
        ("optimizer.0.step", torch.tensor(-1.0)),
        ("optimizer.0.exp_avg_sq", torch.full((32, 8), -1.0)),
        ("optimizer.9999.step", torch.tensor(1.0)),
        ("optimizer.x", torch.tensor(1.0)),
        ("optimizer.0.a.b", torch.tensor(1.0)),
        ("random.batches", torch.zeros(3, dtype=torch.uint8)),
        ("random.dropout", torch.zeros(5056, dtype=torch.uint8)),
        ("random.dropout", None),
        ("loss_sum", torch.zeros(2)),
    ],
)
def test_a_training_goes_on_only_from_whole_state(content: bytes, name: str, tensor: Tensor | None) -> None:
    with pytest.raises(
        UserError, match=r"^c: does not hold the state of a training .*; name another, or delete"
    ):
        make_trainer().restore(edited(content, {}, {name: tensor}), "c")


@pytest.mark.parametrize(
    "header",
    [
        {"images_seen": -16}, {"images_seen": 10**30}, {"images_seen": 17}, {"images_seen": "32"},
        {"images_seen": True}, {"images_seen": 0}, {"loss_count": -1}, {"loss_count": 10**9},
        {"train_seconds": math.nan}, {"train_seconds": -1}, {"train_seconds": None}, {"identity": None},
        {"identity": {}}, {"identity": [1]},
    ],
)  # fmt: skip
def test_counters_that_cannot_be_are_refused(content: bytes, header: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^c: "):
        make_trainer().restore(edited(content, header, {}), "c")


ARCHITECTURE = {"name": "tiny", "resolution": 8, "channels": 1, "label_dim": 0, "augment_dim": 0,
                "mask_channels": 0, "model_channels": 8}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"num_blocks": -1}, {"num_blocks": 10**9}, {"model_channels": 10**9}, {"model_channels": 2**20},
        {"resolution": 10**6}, {"resolution": 0}, {"resolution": "8"}, {"channels": 10**6}, {"name": "huge"},
        {"name": ["tiny"]}, {"channel_mult": [1] * 1000}, {"channel_mult": []}, {"channel_mult": "12"},
        {"channels_per_head": 3}, {"channels_per_head": 10**5}, {"dropout": 7},
        {"label_dim": 10**6}, {"unknown": 1}, {"skip_scale": "x"},
    ],
)  # fmt: skip
def test_architectures_that_cannot_be_are_refused(content: bytes, change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^c: .*; name another, or delete it to train anew"):
        load_denoiser(edited(content, {"architecture": ARCHITECTURE | change}, {}), "c")
    assert load_denoiser(edited(content, {"architecture": ARCHITECTURE}, {}), "c")


@pytest.mark.parametrize(
    "sampling",
    [
        None,
        [],
        {"sigma_stop": "1"},
        {"sigma_stop": math.nan},
        {"sigma_stop": -1},
        {"hidden": 2},
        {"hidden": []},
    ],
)
def test_sampling_options_that_cannot_be_are_refused(content: bytes, sampling: Any) -> None:
    with pytest.raises(UserError, match=r"^c: "):
        sampling_options(edited(content, {"sampling": sampling}, {}), "c")


@FEW
@given(data=st.binary(max_size=300), place=st.integers(0, 3000))
def test_any_bytes_are_a_checkpoint_or_refused(content: bytes, data: bytes, place: int) -> None:
    patched = content[:place] + data + content[place + len(data) :]
    header = json.dumps({"__metadata__": {"pareto_amb": data.decode("latin-1")}}).encode()
    wrapped = len(header).to_bytes(8, "little") + header
    refusals: list[str] = []
    for tried in (data, content[: place * 10], patched, wrapped):
        for use in (lambda c: load_denoiser(c, "c"), lambda c: make_trainer().restore(c, "c")):
            try:
                use(tried)
            except UserError as error:
                refusals.append(str(error))
    assert all(refusal.startswith("c: ") and "\n" not in refusal for refusal in refusals)


def test_initial_weights_are_checked(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_bytes(edited(content, {}, {"ema.network.out.bias": torch.full((1,), math.nan)}))
    architecture = make_trainer().denoiser.architecture
    with pytest.raises(UserError, match=r"init_from: .*holds NaN"):
        read_initial_weights(str(path), architecture)
    for wrong in (None, 1, {"name": []}, {**architecture, "name": "x"}):
        path.write_bytes(edited(content, {"architecture": wrong}, {}))
        with pytest.raises(UserError, match="init_from: "):
            read_initial_weights(str(path), architecture)
    with pytest.raises(UserError, match="not a regular file"):
        read_initial_weights("/dev/zero", architecture)
