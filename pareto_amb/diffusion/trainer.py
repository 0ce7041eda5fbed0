"""The training loop: one for every method of `methods`."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from pareto_amb.config import LogNormalConfig, TrainingConfig
from pareto_amb.diffusion.augment import AUGMENT_DIM, augment
from pareto_amb.diffusion.checkpoint import (
    pack,
    read_initial_weights,
    under_prefix,
    unpack,
    with_prefix,
)
from pareto_amb.diffusion.methods import Method
from pareto_amb.diffusion.networks import create_network
from pareto_amb.diffusion.noise import LogNormal, NoiseDistribution, UniformTime
from pareto_amb.diffusion.parallel import World
from pareto_amb.diffusion.precondition import EDMDenoiser
from pareto_amb.diffusion.sampler import from_uint8
from pareto_amb.diffusion.speed import (
    compile_network,
    fastest_layout,
    forward_precision,
    repair_gradients,
    tf32_matmul,
)
from pareto_amb.errors import UserError
from pareto_amb.randomness import derive_seed, make_generator

_MAY_CHANGE = {"images", "checkpoint_seconds", "compile"}


class TrainingDivergedError(Exception):
    """The loss is no longer a finite number."""


def noise_distribution(config: TrainingConfig) -> NoiseDistribution:
    """The distribution of training noise levels that the configuration names."""
    if isinstance(config.noise, LogNormalConfig):
        return LogNormal(config.noise.p_mean, config.noise.p_std)
    return UniformTime()


class Trainer:
    """One training by one method, from its first image or from a checkpoint."""

    def __init__(
        self,
        images: Tensor,
        config: TrainingConfig,
        method: Method,
        *,
        seed: int,
        image_ids: list[int] | None = None,
        labels: Tensor | None = None,
        label_dim: int = 0,
        device: torch.device | str = "cpu",
        world: World | None = None,
    ) -> None:
        """Set up a training that has seen no image yet.

        `images` uint8 (N, C, H, W) is the training set; `image_ids` its numbers in the set it was
        drawn from (default 0..N-1), which with `seed` fix what the method stores of each;
        `labels` int64 (N,) in [0, label_dim). `world` is told where several processes train together;
        UserError where they cannot share a batch evenly.
        """
        self.config, self.method, self.seed = config, method, seed
        self._world = world or World()
        self._mine = self._world.part_of_batch(config.batch_size)
        self.device = torch.device(device)
        self.images_seen, self.train_seconds = 0, 0.0
        self._saved_at = time.monotonic()
        self._noise = noise_distribution(config)

        # The whole set, as the method lets the model see it, lives on the device.
        ids = range(len(images)) if image_ids is None else image_ids
        self._train_size = len(images)
        self._material = method.material(from_uint8(images).to(self.device), ids, seed)
        self._labels = None
        if labels is not None and label_dim:
            self._labels = nn.functional.one_hot(labels, label_dim).float().to(self.device)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "initial weights"))
            self.denoiser = create_network(
                config.network.name,
                images.shape[-1],
                images.shape[1],
                label_dim if self._labels is not None else 0,
                AUGMENT_DIM if config.augment_probability else 0,
                mask_channels=1 if method.hidden else 0,
                **config.network.options,
            )
        if config.init_from is not None:
            weights = read_initial_weights(config.init_from, self.denoiser.architecture)
            self.denoiser.load_state_dict(weights)
        layout = fastest_layout(self.denoiser, config.precision, self.device)
        self.denoiser.to(self.device).to(memory_format=layout).train()
        self._forward = compile_network(self.denoiser) if config.compile else self.denoiser
        self.ema = [p.detach().clone() for p in self.denoiser.parameters()]
        self._optimizer = torch.optim.AdamW(
            self.denoiser.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._generator = make_generator(seed, "batches", self.device)
        self._dropout_state = self._first_dropout_state()
        self._loss_sum = torch.zeros((), device=self.device)
        self._loss_count = 0

    def train(
        self,
        until_images: int,
        checkpoint: Callable[[], None] | None = None,
        *,
        checkpoint_at_end: bool = True,
    ) -> float:
        """Train until `until_images` images were seen in total; return the mean loss since the last call.

        `checkpoint` is called about every `checkpoint_seconds`, over calls, and at the end where
        `checkpoint_at_end`. Raises TrainingDivergedError when the loss is not finite, before that state
        could be saved.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), tf32_matmul(self.device):
            _set_global_state(self.device, self._dropout_state)
            started = time.monotonic()
            while self.images_seen < until_images:
                self._step()
                due = time.monotonic() - self._saved_at >= self.config.checkpoint_seconds
                step = self.images_seen // self.config.batch_size
                if checkpoint and self._world.first_decides(due, step):
                    self._pause_clock(started)
                    checkpoint()
                    started = self._saved_at = time.monotonic()
            loss = self._pause_clock(started)
        if checkpoint and checkpoint_at_end:
            checkpoint()
            self._saved_at = time.monotonic()
        self._loss_sum.zero_()
        self._loss_count = 0
        return loss

    def _pause_clock(self, started: float) -> float:
        """Bring the state up to date for a checkpoint; return the mean loss, which waits for the device."""
        loss = self._mean_loss()
        self.train_seconds += time.monotonic() - started
        self._dropout_state = _global_state(self.device)
        return loss

    def _mean_loss(self) -> float:
        self._world.average([self._loss_sum])
        loss = float(self._loss_sum) / max(self._loss_count, 1)
        if not math.isfinite(loss):
            raise TrainingDivergedError(f"loss became {loss} before {self.images_seen:,} images")
        return loss

    def _step(self) -> None:
        batch, generator, device = self.config.batch_size, self._generator, self.device

        # Draw images and make training examples of them.
        index = torch.randint(self._train_size, (batch,), generator=generator, device=device)
        examples = self.method.draw(self._material, index, self._noise, generator, self._augment)
        labels = None if self._labels is None else self._labels[index]

        # Every process draws the whole batch and works on its own part of it.
        examples = examples.part(self._mine)
        labels = None if labels is None else labels[self._mine]

        # Denoise them, and take a step.
        self._optimizer.zero_grad(set_to_none=True)
        with forward_precision(self.config.precision, device):
            denoised = self._forward(
                examples.noisy, examples.sigma, labels, examples.augment_labels, mask=examples.shown
            )
        loss = self.method.loss(denoised, examples).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        self._world.average([p.grad for p in self.denoiser.parameters() if p.grad is not None])
        if self.config.gradient_repair:
            repair_gradients(self.denoiser.parameters())
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self._optimizer.step()

        self.images_seen += batch
        self._loss_sum += loss.detach()
        self._loss_count += 1
        weights = [p.detach() for p in self.denoiser.parameters()]
        torch._foreach_lerp_(self.ema, weights, 1 - self._ema_beta())

    def _augment(self, images: Tensor, exact: Tensor) -> tuple[Tensor, Tensor | None]:
        """Flip and augment images (B, any, H, W) as configured, those `exact` by whole pixels only."""
        config, generator = self.config, self._generator
        if config.horizontal_flip:
            flip = torch.rand(len(images), generator=generator, device=self.device) < 0.5
            images = torch.where(flip.view(-1, 1, 1, 1), images.flip(-1), images)
        if not config.augment_probability:
            return images, None
        return augment(images, config.augment_probability, generator, exact)

    def _learning_rate(self) -> float:
        warmup = self.config.lr_warmup_images
        share = min((self.images_seen + self.config.batch_size) / warmup, 1.0) if warmup else 1.0
        return self.config.learning_rate * share

    def _ema_beta(self) -> float:
        halflife: float = self.config.ema_halflife_images
        if self.config.ema_rampup_ratio is not None:
            halflife = min(halflife, self.images_seen * self.config.ema_rampup_ratio)
        return float(0.5 ** (self.config.batch_size / max(halflife, 1e-8)))

    def ema_denoiser(self) -> EDMDenoiser:
        """A copy of the denoiser with the averaged weights, ready to sample from."""
        denoiser = copy.deepcopy(self.denoiser)
        denoiser.load_state_dict(self._named_ema(), strict=False)
        return denoiser.eval().requires_grad_(False)

    def _named_ema(self) -> dict[str, Tensor]:
        names = [name for name, _ in self.denoiser.named_parameters()]
        return dict(zip(names, self.ema, strict=True))

    def checkpoint(self) -> bytes:
        """The whole state as one safetensors file: weights, EMA, optimizer, counters, random states.

        A training that is restored from it continues bit for bit on a CPU.
        """
        tensors = {
            **with_prefix("model.", self.denoiser.state_dict()),
            **with_prefix("ema.", self._named_ema()),
            "random.batches": self._generator.get_state(),
            "random.dropout": self._dropout_state,
            "loss_sum": self._loss_sum,
        }
        for index, state in self._optimizer.state_dict()["state"].items():
            tensors |= with_prefix(f"optimizer.{index}.", state)
        header = {
            "architecture": self.denoiser.architecture,
            "identity": self._identity(),
            "images_seen": self.images_seen,
            "train_seconds": self.train_seconds,
            "loss_count": self._loss_count,
            "sampling": {"sigma_stop": self.method.sigma_stop, "hidden": self.method.hidden},
        }
        return pack(header, tensors)

    def restore(self, content: bytes, origin: str = "checkpoint") -> None:
        """Continue from a checkpoint of the same training.

        Raises UserError when `content` is not a checkpoint, or is one of another training.
        """
        header, tensors = unpack(content, origin)
        mine = self._identity()
        if header["identity"] != mine:
            changed = [key for key in mine if header["identity"].get(key) != mine[key]]
            raise UserError(f"{origin}: is of another training, {', '.join(changed)} differ")
        self.denoiser.load_state_dict(under_prefix("model.", tensors))
        averaged = under_prefix("ema.", tensors)
        for name, mean in self._named_ema().items():
            mean.copy_(averaged[name])
        state: dict[int, dict[str, Tensor]] = {}
        parameters = list(self.denoiser.parameters())
        for name, tensor in under_prefix("optimizer.", tensors).items():
            index, key = name.split(".")
            # The fused optimizer walks memory: its averages must lie in it as the weights do.
            like = parameters[int(index)]
            laid_out = tensor if tensor.ndim == 0 else torch.empty_like(like).copy_(tensor)
            state.setdefault(int(index), {})[key] = laid_out.detach()
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})
        self._generator.set_state(tensors["random.batches"])
        self._loss_sum.copy_(tensors["loss_sum"])
        self._loss_count = header["loss_count"]
        self.images_seen, self.train_seconds = header["images_seen"], header["train_seconds"]
        own = self._world.is_first
        self._dropout_state = tensors["random.dropout"] if own else self._first_dropout_state()

    def _first_dropout_state(self) -> Tensor:
        """The dropout state of this process at its start, from image 0 or from a checkpoint.

        A checkpoint holds the first process's alone; the others begin a stream of their own each time.
        """
        rank = self._world.rank
        name = f"dropout/{rank}/{self.images_seen}" if rank else "dropout"
        return make_generator(self.seed, name, self.device).get_state()

    def _identity(self) -> dict[str, Any]:
        """What must agree for a checkpoint to belong to this training; the budget may grow."""
        return {
            "training": self.config.model_dump(mode="json", exclude=_MAY_CHANGE),
            "method": self.method.name,
            **asdict(self.method),
            "seed": self.seed,
            "train_size": self._train_size,
        }


def _global_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_global_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
