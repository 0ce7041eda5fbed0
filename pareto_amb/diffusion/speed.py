"""What makes a training step cheaper without changing what it computes: precision, compilation, TF32."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from pareto_amb.errors import UserError

_COMPILERS = ("c++", "g++", "clang++")
_LARGEST = 1e5
_NARROW = 64  # channels


def forward_precision(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """A context in which the network runs in `precision`, fp32 or bf16 (autocast)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def fastest_layout(network: nn.Module, precision: str, device: torch.device) -> torch.memory_format:
    """The memory layout of weights in which a training step of `network` is fastest (docs/speed.md).

    Channels last, but for narrow networks in bfloat16 on a CPU, which lose there what bfloat16 gains.
    """
    channels = next(p.shape[0] for p in network.parameters() if p.ndim == 4)
    narrow = channels < _NARROW and precision == "bf16" and device.type == "cpu"
    return torch.contiguous_format if narrow else torch.channels_last


def memory_of(device: torch.device) -> float:
    """The bytes of a GPU's memory; of a machine's, those that its threads leave to this process."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return total * min(torch.get_num_threads() / (os.cpu_count() or 1), 1.0)


def require_compiler() -> None:
    """Raise UserError when there is no C++ compiler, which compiled networks need on CPUs and GPUs."""
    wanted = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ([wanted] if wanted else _COMPILERS)):
        raise UserError(
            f"training.compile needs a C++ compiler, and there is no {wanted or ' or '.join(_COMPILERS)}: "
            "install one (Debian, Ubuntu: apt install g++) or set training.compile to false"
        )


def compile_network(network: nn.Module) -> nn.Module:
    """`network`, compiled at its first call; it shares its weights with the one given.

    Raises UserError when there is no C++ compiler.
    """
    require_compiler()
    return torch.compile(network)  # type: ignore[return-value]


@contextmanager
def tf32_matmul(device: torch.device) -> Iterator[None]:
    """Let float32 matrix products on a CUDA `device` use TF32, as its convolutions do already.

    The setting is the process's: it is put back, so that encoders measure as they did.
    """
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def repair_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Make every gradient finite, in place: nan becomes 0, infinity +-1e5. Waits for no device.

    One pass over each gradient where it lies: gathering them into one tensor costs several times as much.
    """
    for parameter in parameters:
        gradient: Tensor | None = parameter.grad
        if gradient is not None:
            torch.nan_to_num(gradient, nan=0.0, posinf=_LARGEST, neginf=-_LARGEST, out=gradient)
