"""Data-parallel training: the processes that torchrun or a trial starts, and what they tell one another.

Every process holds the whole model and draws the same whole batch, works on its own part of it, and
takes its step with the mean of all gradients. A training is therefore the same one, up to rounding, on
any number of processes; only dropout masks differ.
"""

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pareto_amb.errors import UserError
from pareto_amb.signals import Interrupted

BUCKET_BYTES = 64 * 2**20
"""Tensors travel in messages of about this size."""

ASK_EVERY = 10
"""Steps between two questions to the first process: cheap enough to forget, rare enough not to wait."""

_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class AgreedError(UserError):
    """A UserError that every process of the world raises at the same place."""


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class World:
    """The processes that train one model together; by default this one alone.

    Methods that communicate must be called by all processes, in the same order. Flags, bytes and errors
    travel between CPUs, so that asking for them never waits for a GPU.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    cpu_group: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes, prints and decides."""
        return self.rank == 0

    def part_of_batch(self, batch_size: int) -> slice:
        """The rows of a batch that this process works on; UserError where they cannot be shared evenly."""
        if batch_size % self.size:
            raise UserError(
                f"training.batch_size {batch_size} cannot be shared evenly by {self.size} processes: "
                "change one of them"
            )
        rows = batch_size // self.size
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor, in place, by its mean over the processes."""

        def reduce(flat: Tensor) -> None:
            dist.all_reduce(flat)
            flat /= self.size

        if self.size > 1:
            _send_flat(tensors, reduce)

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor, in place, by the first process's."""
        if self.size > 1:
            _send_flat(tensors, lambda flat: dist.broadcast(flat, 0))

    def bytes_from_first(self, content: bytes | None) -> bytes | None:
        """What the first process passes in; the argument of the others is ignored."""
        if self.size == 1:
            return content
        length = torch.tensor(-1 if content is None else len(content))
        dist.broadcast(length, 0, group=self.cpu_group)
        if length <= 0:
            return None if length < 0 else b""
        buffer = torch.empty(int(length), dtype=torch.uint8)
        if self.is_first and content is not None:
            buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.broadcast(buffer, 0, group=self.cpu_group)
        return buffer.numpy().tobytes()

    def first_decides(self, answer: bool, step: int) -> bool:
        """The first process's answer, on all of them; asked at every ASK_EVERY-th step, else False.

        A process alone answers for itself at every step.
        """
        if self.size == 1:
            return answer
        if step % ASK_EVERY:
            return False
        flag = torch.tensor(answer)
        dist.broadcast(flag, 0, group=self.cpu_group)
        return bool(flag)

    def gather(self, value: str | None) -> list[str | None]:
        """The values of all processes, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[str | None] = [None] * self.size
        dist.all_gather_object(values, value, group=self.cpu_group)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block that some processes may fail in: a UserError of one is raised by all.

        The block itself must not communicate. Raises AgreedError, with the lowest rank's message.
        """
        mine: UserError | None = None
        try:
            yield
        except UserError as error:
            mine = error
        messages = self.gather(None if mine is None else str(mine))
        for message in messages:
            if message is not None:
                raise AgreedError(message) from mine


def _send_flat(tensors: Iterable[Tensor], send: Callable[[Tensor], object]) -> None:
    """Give the tensors to `send`, packed into few vectors that it changes in place, and take them back."""
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        send(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in bucket])
        received = [part.view(tensor.shape) for part, tensor in zip(parts, bucket, strict=True)]
        torch._foreach_copy_(bucket, received)


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in groups of one type, each closed once it holds BUCKET_BYTES."""
    filling: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        bucket = filling.setdefault(tensor.dtype, [])
        bucket.append(tensor)
        if sum(t.nbytes for t in bucket) >= BUCKET_BYTES:
            yield filling.pop(tensor.dtype)
    yield from filling.values()


@contextmanager
def join_world(tell: Callable[[UserError], None]) -> Iterator[World]:
    """Join the processes that torchrun started, for the time of the block; without torchrun, be alone.

    An AgreedError is told by the first process only, and then all exit with code 2. Any other error
    ends this process at once, so that torchrun sees it and stops the others.
    """
    if any(name not in os.environ for name in _VARIABLES) or os.environ["WORLD_SIZE"] == "1":
        yield World(device=best_device())
        return
    world = _connect()
    try:
        yield world
    except AgreedError as error:
        if world.is_first:
            tell(error)
        # torchrun stops all processes when one has failed: none leaves before the error is told.
        dist.barrier(group=world.cpu_group)
        dist.destroy_process_group()
        sys.exit(2)
    except Interrupted as stop:
        if world.is_first:
            raise
        os._exit(stop.exit_code)  # one line is enough
    except Exception:
        # The others may be waiting for this process on their GPUs. Leaving the group in order would
        # then wait for them, and neither side would ever end.
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    dist.destroy_process_group()


def _connect() -> World:
    """Set up communication as the environment says: NCCL between GPUs, gloo between CPUs."""
    local_rank, on_this_machine = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    device = best_device()
    if device.type == "cuda":
        gpus = torch.cuda.device_count()
        if on_this_machine > gpus:
            raise UserError(f"{on_this_machine} processes on a machine with {gpus} GPUs: start {gpus}")
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    return _joined(device)


def meet(place: Path, rank: int, size: int, device: torch.device) -> World:
    """Join the other processes of this machine that meet at a new file, and listen on the loopback alone."""
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    os.environ.update(GLOO_SOCKET_IFNAME=loopback, NCCL_SOCKET_IFNAME=loopback)
    if device.type == "cuda":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    return _joined(device, init_method=place.absolute().as_uri(), rank=rank, world_size=size)


def leave() -> None:
    """Have no world any more."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _joined(device: torch.device, **how: Any) -> World:
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", **how)
    cpu_group = dist.new_group(backend="gloo")
    if not isinstance(cpu_group, dist.ProcessGroup):
        raise RuntimeError("this process is in no group of processes")
    return World(dist.get_rank(), dist.get_world_size(), device, cpu_group)
