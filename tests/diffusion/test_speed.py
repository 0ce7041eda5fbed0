import shutil

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from pareto_amb.config import NetworkConfig, TrainingConfig
from pareto_amb.data import TrainingSet
from pareto_amb.diffusion import speed
from pareto_amb.diffusion.methods import Algorithm1
from pareto_amb.diffusion.speed import compile_network, repair_gradients, tf32_matmul
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.errors import UserError

IMAGES = torch.tensor(load_digits().images[:12, None] * 15.9).to(torch.uint8)
TRAINING_SET = TrainingSet(IMAGES, list(range(12)), None, 0)
CONFIG = TrainingConfig(
    network=NetworkConfig(options={"model_channels": 8, "channel_mult": (1,)}),
    images=64,
    batch_size=16,
    learning_rate=2e-3,
)


def make_trainer(**changes: object) -> Trainer:
    return Trainer(TRAINING_SET, CONFIG.model_copy(update=changes), Algorithm1(0.3, 0.5), seed=0)


def test_bf16_trains_the_same_network_a_little_less_precisely() -> None:
    full, half = make_trainer(), make_trainer(precision="bf16")
    inputs: list[torch.dtype] = []
    half.denoiser.network.out.register_forward_hook(lambda _m, _i, out: inputs.append(out.dtype))  # type: ignore[union-attr]
    loss = full.train(64)
    assert half.train(64) == pytest.approx(loss, rel=0.02)
    assert set(inputs) == {torch.bfloat16}
    assert {p.dtype for p in half.denoiser.parameters()} == {torch.float32}
    assert half._loss_sum.dtype == torch.float32
    assert any(not torch.equal(a, b) for a, b in zip(full.ema, half.ema, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")
def test_a_compiled_network_trains_the_same_weights() -> None:
    eager, compiled = make_trainer(), make_trainer(compile=True)
    assert compiled.train(32) == pytest.approx(eager.train(32), rel=1e-4)
    for a, b in zip(eager.ema, compiled.ema, strict=True):
        assert torch.allclose(a, b, atol=1e-3)
    eager.restore(compiled.checkpoint())  # compiling is no part of a training's identity
    assert not isinstance(compiled.ema_denoiser(), torch._dynamo.OptimizedModule)


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="needs a C\\+\\+ compiler, and there is no no-such-compiler"):
        compile_network(nn.Linear(1, 1))
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(speed.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=r"no c\+\+ or g\+\+ or clang\+\+"):
        make_trainer(compile=True)


def test_repaired_gradients_keep_what_was_finite() -> None:
    layer, idle = nn.Linear(4, 1, bias=False), nn.Linear(1, 1)
    layer.weight.grad = torch.tensor([[1.5, float("nan"), float("inf"), float("-inf")]])
    repair_gradients([*layer.parameters(), *idle.parameters()])
    assert layer.weight.grad.tolist() == [[1.5, 0.0, 1e5, -1e5]]
    assert idle.weight.grad is None


def test_tf32_is_asked_for_on_cuda_only_and_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    with tf32_matmul(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "high"
    with tf32_matmul(torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == before
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_training_step_never_waits_for_the_gpu() -> None:
    config = CONFIG.model_copy(update={"augment_probability": 0.2, "horizontal_flip": True})
    trainer = Trainer(TRAINING_SET, config, Algorithm1(0.3, 0.5), seed=0, device="cuda")
    trainer.train(32)  # first steps set up libraries and the optimizer
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer._step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.images_seen == 32 + config.batch_size
