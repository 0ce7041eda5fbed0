"""The training loop: one for every method of `methods`."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pareto_amb.config import LogNormalConfig, ScheduleConfig, TrainingConfig
from pareto_amb.data.subsets import Encoded, TrainingSet
from pareto_amb.diffusion.augment import augment
from pareto_amb.diffusion.checkpoint import (
    check_tensors,
    is_number,
    pack,
    read_initial_weights,
    refusal,
    under_prefix,
    unpack,
    with_prefix,
)
from pareto_amb.diffusion.conditioning import training_conditioning
from pareto_amb.diffusion.denoiser import Conditioning, Denoiser
from pareto_amb.diffusion.heart import Heart
from pareto_amb.diffusion.methods import Method
from pareto_amb.diffusion.networks import build_denoiser
from pareto_amb.diffusion.noise import LogNormal, NoiseDistribution, Steps, UniformTime, schedule_levels
from pareto_amb.diffusion.parallel import World
from pareto_amb.diffusion.speed import (
    compile_network,
    fastest_layout,
    forward_precision,
    memory_of,
    repair_gradients,
    tf32_matmul,
)
from pareto_amb.diffusion.text.parts import TextModel
from pareto_amb.printable import reason
from pareto_amb.randomness import derive_seed, make_generator, normal_per_item

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
"""Weight decay is coupled in Adam (L2 in the gradient), decoupled in AdamW."""

VERSION = 3
"""Raised when the same configuration and seed train another model than before."""

HELD_SHARE = 0.25
"""Of the memory of a GPU, or a machine's for a trial's threads: so much of it may take what training sees of
the images. Of more, the images of each batch are fetched from where they lie, which may be a file."""

_MAY_CHANGE = {"images", "checkpoint_seconds", "compile"}


class TrainingDivergedError(Exception):
    """The loss is no longer a finite number."""


def noise_distribution(config: TrainingConfig) -> NoiseDistribution:
    """The distribution of training noise levels that the configuration names."""
    if isinstance(config.noise, LogNormalConfig):
        return LogNormal(config.noise.p_mean, config.noise.p_std)
    if isinstance(config.noise, ScheduleConfig):
        return Steps(schedule_levels(config.noise.schedule))
    return UniformTime()


class Trainer:
    """One training by one method, from its first image or from a checkpoint."""

    def __init__(
        self,
        training_set: TrainingSet,
        config: TrainingConfig,
        method: Method,
        *,
        seed: int,
        branched_at: int = 0,
        device: torch.device | str = "cpu",
        world: World | None = None,
        text_model: TextModel | None = None,
    ) -> None:
        """Set up a training that has seen no image yet.

        The ids of `training_set`, with `seed`, fix what the method stores of each image. One that is to go on
        from another training, by `branch`, says after how many images, so that it is never taken for one from
        scratch. `world` is told where several processes train together; UserError where they cannot share a
        batch evenly. `text_model` is what a network that is told captions is made of.
        """
        self.config, self.method, self.seed, self.branched_at = config, method, seed, branched_at
        self._world = world or World()
        self._mine = self._world.part_of_batch(config.batch_size)
        self.device = torch.device(device)
        self.images_seen, self.train_seconds = 0, 0.0
        self._saved_at = time.monotonic()
        self._noise = noise_distribution(config)

        self.denoiser = self._first_denoiser(training_set, text_model)
        self._forward = compile_network(self.denoiser) if config.compile else self.denoiser
        self._trained = {name: p for name, p in self.denoiser.named_parameters() if p.requires_grad}
        self.ema = [p.detach().clone() for p in self._trained.values()]
        self._optimizer = self._make_optimizer()

        self._train_size = training_set.n_images
        self._source = None if self._fits(training_set) else training_set
        self._hold(training_set if self._source is None else training_set.first(1))
        self._memory = {name: value.to(self.device) for name, value in method.first_memory().items()}
        with torch.no_grad():
            untold = self.denoiser.untold
        self._untold = {name: value for name, value in untold.items() if name in self._conditioning}

        self._generator = make_generator(seed, "batches", self.device)
        self._dropout_state = self._first_dropout_state()
        self._loss_sum = torch.zeros((), device=self.device)
        self._loss_count = 0

    def _first_denoiser(self, training_set: TrainingSet, text_model: TextModel | None) -> Denoiser:
        """The denoiser before its first step, on the device, with weights from the seed or `init_from`."""
        config, (channels, height, width) = self.config, training_set.images.shape[1:]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "initial weights"))
            shape, n_classes = (channels, height, width), training_set.n_classes
            denoiser = build_denoiser(config, shape, n_classes, type(self.method), text_model)
        if config.init_from is not None:
            weights = read_initial_weights(config.init_from, denoiser.architecture)
            denoiser.load_state_dict(weights, strict=False)
        layout = fastest_layout(denoiser, config.precision, self.device)
        return denoiser.to(self.device).to(memory_format=layout).train()

    def _fits(self, images: TrainingSet) -> bool:
        """Whether all that training sees of the images may live on the device.

        Of an image that are itself and its noisy copy, where it is a Gaussian also its deviation and the draw
        that stays, and what is told of it.
        """
        gaussian = images.encoded is not None and images.encoded.deviation is not None
        each = 4 * math.prod(self.denoiser.space.shape) * (4 if gaussian else 2)
        told = sum(value.nbytes for value in training_conditioning(images).values())
        return images.n_images * each + told <= HELD_SHARE * memory_of(self.device)

    def _hold(self, images: TrainingSet) -> None:
        """Bring images to the device as the method lets the model see them; all of it is made row by row."""
        encoded = images.encoded or self.denoiser.space.encode(images.images.to(self.device))
        self._material = self.method.material(encoded.mean.to(self.device), images.ids, self.seed)
        self._posterior = _Posterior.of(encoded, images.ids, self.seed, self.device)
        told = training_conditioning(images)
        self._conditioning = {name: value.to(self.device) for name, value in told.items()}

    def _find(self, index: Tensor) -> Tensor:
        """Where the images at `index` (B,) lie in what is held: (B,). They are fetched where not all are."""
        if self._source is None:
            return index
        self._hold(self._source.at(index.cpu()))
        return torch.arange(len(index), device=self.device)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        return OPTIMIZERS[config.optimizer](
            self._trained.values(),
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def train(
        self,
        until_images: int,
        checkpoint: Callable[[], None] | None = None,
        *,
        checkpoint_at_end: bool = True,
        wanted: Callable[[], bool] = lambda: False,
        heart: Heart | None = None,
    ) -> float:
        """Train until `until_images` images were seen in total; return the mean loss since the last call.

        `checkpoint` is called about every `checkpoint_seconds`, over calls, after any step that `wanted` says
        yes to, and at the end where `checkpoint_at_end`; `heart` is told of every step.

        Raises TrainingDivergedError when the loss is not finite, before that state could be saved, and
        ValueError where `branch` was to come first and did not.
        """
        if self.images_seen < self.branched_at:
            raise ValueError(f"branch first, from a training of {self.branched_at:,} images")
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), tf32_matmul(self.device):
            _set_global_state(self.device, self._dropout_state)
            started = time.monotonic()
            while self.images_seen < until_images:
                self._step()
                if heart:
                    heart.step(self.images_seen, self._loss_sum, self._loss_count)
                due = wanted() or time.monotonic() - self._saved_at >= self.config.checkpoint_seconds
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
        index = self._find(torch.randint(self._train_size, (batch,), generator=generator, device=device))
        augment = partial(self._augment, index)
        examples = self.method.draw(self._material, index, self._noise, generator, augment)
        examples = examples.told(self._tell(index))

        # Every process draws the whole batch and works on its own part of it.
        examples = examples.part(self._mine)

        # Denoise them, and take a step.
        self._optimizer.zero_grad(set_to_none=True)
        sigma_data = self.denoiser.space.sigma_data
        loss = self.method.losses(self._denoise, examples, sigma_data, self._memory).mean()
        # The published loss is summed over an image: a mean would put Adam's eps and an L2 term of another
        # weight beside the gradient. What is reported stays the mean.
        (loss * math.prod(self.denoiser.space.shape)).backward()  # type: ignore[no-untyped-call]
        self._world.average([p.grad for p in self._trained.values() if p.grad is not None])
        self._world.average(list(self._memory.values()))
        if self.config.gradient_repair:
            repair_gradients(self._trained.values())
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self._optimizer.step()

        self.images_seen += batch
        self._loss_sum += loss.detach()
        self._loss_count += 1
        weights = [p.detach() for p in self._trained.values()]
        torch._foreach_lerp_(self.ema, weights, 1 - self._ema_beta())

    def _denoise(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        with forward_precision(self.config.precision, self.device):
            denoised: Tensor = self._forward(x, sigma, conditioning)
        return denoised

    def _augment(self, index: Tensor, images: Tensor, exact: Tensor) -> tuple[Tensor, Conditioning]:
        """Flip and augment images (B, any, H, W) as configured, those `exact` by whole pixels only.

        They are those at `index` (B,). Of Gaussians, draw from them first, always the same where `exact`.
        """
        config, generator = self.config, self._generator
        if self._posterior is not None:
            images = images + self._posterior.draw(index, exact, generator)
        if config.horizontal_flip:
            flip = torch.rand(len(images), generator=generator, device=self.device) < 0.5
            images = torch.where(flip.view(-1, 1, 1, 1), images.flip(-1), images)
        if not config.augment_probability:
            return images, {}
        images, done = augment(images, config.augment_probability, generator, exact)
        return images, {"augment_labels": done}

    def _tell(self, index: Tensor) -> Conditioning:
        """What the denoiser is told of the images at `index` (B,), some of them left untold."""
        told = {name: value[index] for name, value in self._conditioning.items()}
        told = dict(self.method.tell(told, self._untold, self._generator))
        if self.config.caption_dropout:
            draws = torch.rand(len(index), generator=self._generator, device=self.device)
            dropped = draws < self.config.caption_dropout
            for name in self._untold.keys() & told.keys():
                rows = dropped.view(-1, *[1] * (told[name].ndim - 1))
                told[name] = torch.where(rows, self._untold[name].to(told[name].dtype), told[name])
        return told

    def _learning_rate(self) -> float:
        warmup = self.config.lr_warmup_images
        share = min((self.images_seen + self.config.batch_size) / warmup, 1.0) if warmup else 1.0
        return self.config.learning_rate * share

    def _ema_beta(self) -> float:
        halflife: float = self.config.ema_halflife_images
        if self.config.ema_rampup_ratio is not None:
            halflife = min(halflife, self.images_seen * self.config.ema_rampup_ratio)
        return float(0.5 ** (self.config.batch_size / max(halflife, 1e-8)))

    def ema_denoiser(self) -> Denoiser:
        """A copy of the denoiser with the averaged weights, ready to sample from."""
        shared = {id(p): p for p in self.denoiser.parameters() if not p.requires_grad}
        denoiser = copy.deepcopy(self.denoiser, shared)
        denoiser.load_state_dict(self._named_ema(), strict=False)
        return denoiser.eval().requires_grad_(False)

    def _named_ema(self) -> dict[str, Tensor]:
        return dict(zip(self._trained, self.ema, strict=True))

    def checkpoint(self) -> bytes:
        """The whole state as one safetensors file: weights, EMA, optimizer, counters, random states.

        A training that is restored from it continues bit for bit on a CPU.
        """
        tensors = {
            **with_prefix("model.", self.denoiser.stored()),
            **with_prefix("ema.", self._named_ema()),
            **with_prefix("memory.", self._memory),
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
        mine, theirs = self._identity(), _completed(header.get("identity"))
        if theirs != mine:
            theirs = theirs if isinstance(theirs, dict) else {}
            changed = sorted(key for key in mine.keys() | theirs if theirs.get(key) != mine.get(key))
            raise refusal(origin, f"is of another training, {', '.join(changed):.200} differ")
        self._load_model(header, tensors, origin, self._memory)
        self._generator.set_state(tensors["random.batches"])
        self._loss_sum.copy_(tensors["loss_sum"])
        for name, value in self._memory.items():
            value.copy_(tensors[f"memory.{name}"])
        self._loss_count, self.train_seconds = header["loss_count"], header["train_seconds"]
        own = self._world.is_first
        self._dropout_state = tensors["random.dropout"] if own else self._first_dropout_state()

    def branch(self, content: bytes, origin: str = "checkpoint") -> None:
        """Begin where another training of the same images and settings stands, by whatever method and seed.

        Its weights, averages, optimizer and count of images are taken over; what is drawn from here on is
        this training's own. Raises UserError when `content` is not a checkpoint, is one of a training with
        other settings, or has not seen `branched_at` images, and ValueError where that is 0.
        """
        if not self.branched_at:
            raise ValueError("this training begins from scratch: it has no branched_at")
        header, tensors = unpack(content, origin)
        mine, theirs = self._identity(), _completed(header.get("identity"))
        theirs = theirs if isinstance(theirs, dict) else {}
        changed = [key for key in ("version", "training", "train_size") if theirs.get(key) != mine[key]]
        if changed or "branched_at" in theirs:
            raise refusal(origin, f"cannot be branched from, {', '.join(changed) or 'branched_at'} differ")
        if header.get("images_seen") != self.branched_at:
            raise refusal(origin, f"has not seen {self.branched_at:,} images, from where on this one trains")
        self._load_model(header, tensors, origin, {})

    def _load_model(
        self, header: dict[str, Any], tensors: dict[str, Tensor], origin: str, memory: dict[str, Tensor]
    ) -> None:
        """Take over weights, averages, optimizer and images seen; UserError where they do not fit.

        A checkpoint of another method has no `memory`.
        """
        try:
            self._check_state(header, tensors, memory)
        except (ValueError, RuntimeError, TypeError) as error:
            raise refusal(origin, f"does not hold the state of a training ({reason(error)})") from error
        self.denoiser.load_state_dict(under_prefix("model.", tensors), strict=False)
        averaged = under_prefix("ema.", tensors)
        for name, mean in self._named_ema().items():
            mean.copy_(averaged[name])
        state: dict[int, dict[str, Tensor]] = {}
        parameters = list(self._trained.values())
        for name, tensor in under_prefix("optimizer.", tensors).items():
            index, key = name.split(".")
            # The fused optimizer walks memory: its averages must lie in it as the weights do.
            like = parameters[int(index)]
            laid_out = tensor if tensor.ndim == 0 else torch.empty_like(like).copy_(tensor)
            state.setdefault(int(index), {})[key] = laid_out.detach()
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.images_seen = header["images_seen"]

    def _check_state(
        self, header: dict[str, Any], tensors: dict[str, Tensor], memory: dict[str, Tensor]
    ) -> None:
        """Raise ValueError, TypeError or RuntimeError for what this training cannot go on from."""
        seen, batch = header.get("images_seen"), self.config.batch_size
        if not isinstance(seen, int) or isinstance(seen, bool) or not 0 <= seen < 2**53 or seen % batch:
            raise ValueError(f"images_seen is {seen!r:.80}")
        count, seconds = header.get("loss_count"), header.get("train_seconds")
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= seen // batch:
            raise ValueError(f"loss_count is {count!r:.80}")
        if seconds is None or not is_number(seconds) or seconds < 0:
            raise ValueError(f"train_seconds is {seconds!r:.80}")
        states = {name for name in tensors if name.startswith("optimizer.")}
        if bool(states) != bool(seen):
            raise ValueError("the optimizer's state is not that of its images")
        check_tensors(tensors, self._expected(states) | with_prefix("memory.", memory))
        for index in {name.split(".")[1] for name in states}:
            step, square = tensors[f"optimizer.{index}.step"], tensors[f"optimizer.{index}.exp_avg_sq"]
            if step < 1 or (square < 0).any():
                raise ValueError(f"the optimizer's state {index} holds negative numbers")
        for name in ("random.batches", "random.dropout"):
            torch.Generator(self.device).set_state(tensors[name])

    def _expected(self, states: set[str]) -> dict[str, Tensor]:
        """Tensors like those of a checkpoint, whose optimizer knows of the parameters named in `states`."""
        parameters = [p.detach() for p in self._trained.values()]
        expected = with_prefix("model.", self.denoiser.stored()) | with_prefix("ema.", self._named_ema())
        for index in {name.split(".")[1] for name in states}:
            if not index.isdecimal() or str(int(index)) != index or int(index) >= len(parameters):
                raise ValueError(f"the optimizer has no state {index:.80}")
            like = parameters[int(index)]
            moments = {"exp_avg": like, "exp_avg_sq": like, "step": torch.zeros(())}
            expected |= with_prefix(f"optimizer.{index}.", moments)
        return expected | {
            "random.batches": self._generator.get_state(),
            "random.dropout": make_generator(self.seed, "dropout", self.device).get_state(),
            "loss_sum": self._loss_sum,
        }

    def _first_dropout_state(self) -> Tensor:
        """The dropout state of this process at its start, from image 0 or from a checkpoint.

        A checkpoint holds the first process's alone; the others begin a stream of their own each time.
        """
        rank = self._world.rank
        name = f"dropout/{rank}/{self.images_seen}" if rank else "dropout"
        return make_generator(self.seed, name, self.device).get_state()

    def _identity(self) -> dict[str, Any]:
        """What must agree for a checkpoint to belong to this training; the budget may grow."""
        branched = {"branched_at": self.branched_at} if self.branched_at else {}
        return {
            "version": VERSION,
            "training": self.config.model_dump(mode="json", exclude=_MAY_CHANGE),
            "method": self.method.name,
            **asdict(self.method),
            "seed": self.seed,
            "train_size": self._train_size,
            **branched,
        }


_ADDED = ("adapt", "caption_dropout", "gradient_checkpointing")
"""Keys of a training that older checkpoints lack; what they were is their default."""


def _completed(identity: Any) -> Any:
    """The identity in a checkpoint's header, with the keys that were added since."""
    training = identity.get("training") if isinstance(identity, dict) else None
    if not isinstance(training, dict):
        return identity
    defaults = TrainingConfig().model_dump(mode="json", include=set(_ADDED))
    return {**identity, "training": {**defaults, **training}}


@dataclass(frozen=True, eq=False)
class _Posterior:
    """The Gaussians around the means: one draw of each image that stays, and fresh ones."""

    deviation: Tensor  # (N, C, H, W)
    fixed: Tensor  # (N, C, H, W)

    @classmethod
    def of(cls, encoded: Encoded, ids: Sequence[int], seed: int, device: torch.device) -> "_Posterior | None":
        """Those of `encoded`, None for images without a deviation."""
        if encoded.deviation is None:
            return None
        deviation = encoded.deviation.to(device)
        fixed = normal_per_item(seed, "posterior", ids, tuple(deviation.shape[1:])).to(device)
        return cls(deviation, deviation * fixed)

    def draw(self, index: Tensor, exact: Tensor, generator: torch.Generator) -> Tensor:
        """What is added to the means at `index` (B,), the same each time where `exact`: (B, C, H, W)."""
        shape = (len(index), *self.deviation.shape[1:])
        fresh = torch.randn(shape, generator=generator, device=index.device) * self.deviation[index]
        return torch.where(exact.view(-1, 1, 1, 1), self.fixed[index], fresh)


def _global_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_global_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
