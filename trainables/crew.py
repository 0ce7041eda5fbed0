"""A trial on several GPUs of its machine: a process for each, which train in step with the trial's own.

They meet at a file and talk over the loopback interface. What the trial tells them comes by their standard
input; they end with it.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from ray import cloudpickle

from pareto_amb.config import TrainingConfig
from pareto_amb.diffusion.methods import Method
from pareto_amb.diffusion.parallel import World, leave, meet
from pareto_amb.diffusion.text.parts import TextModel
from pareto_amb.diffusion.trainer import Trainer
from pareto_amb.printable import reason
from pareto_amb.trainables.faults import MachineError, describe, fault_of
from pareto_amb.trainables.training_images import TrainingImages

LAST_WORDS = 10.0
"""Seconds in which a process whose peer has gone is expected to have ended."""


@dataclass(frozen=True)
class Task:
    """A training as every process of a trial sets it up."""

    images: TrainingImages
    training: TrainingConfig
    method: Method
    seed: int
    branched_at: int
    text_model: TextModel | None

    def begin(self, world: World, start: "Start | None") -> Trainer:
        """The training on the device of this process, as far as `start` has it."""
        trainer = Trainer(
            self.images.open(),
            self.training,
            self.method,
            seed=self.seed,
            branched_at=self.branched_at,
            device=world.device,
            world=world,
            text_model=self.text_model,
        )
        if start is not None:
            (trainer.branch if start.branches else trainer.restore)(start.content, start.name)
        return trainer


@dataclass(frozen=True)
class Start:
    """The checkpoint that a training goes on from: its own or, where it `branches`, another one's."""

    content: bytes
    name: str
    branches: bool = False


class Crew:
    """The processes of a trial: this one, and one more for each further GPU. Of one GPU it is alone."""

    def __init__(self, size: int, device: torch.device, threads: int = 1) -> None:
        """Start the others, each with `threads`, and meet them. MachineError where one does not come."""
        self._folder = Path(tempfile.mkdtemp(prefix="pareto-amb-crew-")) if size > 1 else None
        self._members: list[subprocess.Popen[bytes]] = []
        self.world = World(device=device)
        if self._folder is None:
            return
        try:
            self._start(self._folder, size, device, threads)
        except BaseException:
            self.close()
            raise

    def _start(self, folder: Path, size: int, device: torch.device, threads: int) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        for rank in range(1, size):
            asked = [str(folder), str(rank), str(size), device.type, str(threads)]
            self._members.append(
                subprocess.Popen(
                    [sys.executable, "-m", __name__, *asked],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                )
            )
        for rank, member in enumerate(self._members, 1):
            assert member.stdout is not None
            if not member.stdout.readline():
                raise self._lost(rank)
        self.world = meet(folder / "meeting", 0, size, device)

    @property
    def is_whole(self) -> bool:
        """Whether all are there."""
        return all(member.poll() is None for member in self._members)

    def begin(self, task: Task, start: Start | None) -> Trainer:
        """The training on this process; the others have set up the same."""
        self._say("begin", (task, start))
        return task.begin(self.world, start)

    @contextmanager
    def training(self, until_images: int) -> Iterator[None]:
        """Let the others train so far while the block does. MachineError where one of them is lost.

        Raises RuntimeError with what one of them said that failed.
        """
        self._say("train", until_images)
        try:
            yield
        except RuntimeError as error:
            for rank, member in enumerate(self._members, 1):
                with suppress(subprocess.TimeoutExpired):
                    member.wait(LAST_WORDS)
                    raise self._lost(rank) from error
            raise

    def close(self) -> None:
        """End the others."""
        for member in self._members:
            member.kill()
            member.wait()
        if self._folder is not None:
            leave()
            shutil.rmtree(self._folder, ignore_errors=True)
        self._members, self._folder = [], None

    def _say(self, verb: str, argument: object) -> None:
        if not self._members:
            return
        message = cloudpickle.dumps((verb, argument))
        for rank, member in enumerate(self._members, 1):
            assert member.stdin is not None
            try:
                member.stdin.write(message)
                member.stdin.flush()
            except BrokenPipeError as error:
                raise self._lost(rank) from error

    def _lost(self, rank: int) -> Exception:
        """Why one of the others has ended."""
        assert self._folder is not None
        code, said = self._members[rank - 1].wait(), _words(self._folder, rank)
        named = f"process {rank + 1} of the trial's {len(self._members) + 1}"
        if not said.exists():
            return MachineError(f"{named} has ended, exit code {code}")
        words = json.loads(said.read_text(encoding="utf-8"))
        return (MachineError if words["machine"] else RuntimeError)(f"{named}: {words['why']}")


def _words(folder: Path, rank: int) -> Path:
    """Where a process leaves what it failed by."""
    return folder / f"error-{rank}.json"


def _serve(folder: Path, rank: int, size: int, device: torch.device) -> None:
    """Do what the first process says until it is gone."""
    print("ready", flush=True)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    world, trainer = meet(folder / "meeting", rank, size, device), None
    while True:
        try:
            verb, argument = pickle.load(sys.stdin.buffer)  # from the process that started this one
        except EOFError:
            return
        if verb == "begin":
            trainer = None  # two would not fit on a GPU that one fills
            task, start = argument
            trainer = task.begin(world, start)
        else:
            assert trainer is not None
            trainer.train(argument, lambda: None, checkpoint_at_end=False)


def _main() -> None:
    folder, rank, size, kind, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    device = torch.device(kind, int(rank)) if kind == "cuda" else torch.device(kind)
    try:
        _serve(Path(folder), int(rank), int(size), device)
        shutil.rmtree(folder, ignore_errors=True)  # what started this one is gone
    except Exception as error:
        traceback.print_exc()
        fault = fault_of(error)
        why = describe(fault) if fault else f"{type(error).__name__}: {reason(error)}"
        with suppress(OSError):
            _words(Path(folder), int(rank)).write_text(json.dumps({"machine": bool(fault), "why": why}))
        sys.stderr.flush()
        os._exit(1)  # in order, it would wait for the others on their GPUs
    os._exit(0)


if __name__ == "__main__":
    _main()
