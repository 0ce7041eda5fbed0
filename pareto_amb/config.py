"""The sweep file: every key, its default, its unit and its limits.

What the methods declare, and which names are registered, is known above: `config_file.parse` is handed it
as the context of a validation. Without a context only the form is checked.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pareto_amb.declared import BASELINE, Declared, Parameter
from pareto_amb.errors import UserError
from pareto_amb.printable import printable
from pareto_amb.reading import is_there
from pareto_amb.schedule import Schedule

MAX_MINUTES = 10_000_000
"""Twenty years."""

TEXT_NETWORKS = ("captioned", "pipeline")
"""The networks that are told a caption."""

ALIGNMENT = "alignment"
"""The objective that a judge of captions measures."""

PROBED_LEVELS = (0.05, 4.0)
"""Denoising is probed from the first to the second noise level, in shares of the collapse level."""

N_PROBED_LEVELS = 7
"""Noise levels that are probed, evenly on a log scale."""

DEFAULT_PROBES = (0.0625, 0.125, 0.25)
"""Shares of the budget at which denoising alone is probed, as far as they lie before the first full rung."""


def _is_registered(kind: str) -> Callable[[str, ValidationInfo], str]:
    """Check a name against the registry of its kind, where the caller of `parse` gives it."""

    def check(name: str, info: ValidationInfo) -> str:
        known = (info.context or {}).get(kind)
        if known is not None and name not in known:
            raise ValueError(f"unknown {kind} '{name}': {nearest(name, known)}")
        return name

    return check


def _is_declared(
    kind: Literal["method", "objective"], baseline: bool = False
) -> Callable[[str, ValidationInfo], str]:
    """Check a name against the methods or objectives that are declared.

    DDPM is among the methods with `baseline` only: a sweep names it nowhere, it always competes.
    """

    def check(name: str, info: ValidationInfo) -> str:
        declared = _declared(info)
        if declared is None:
            return name
        named = declared.methods if kind == "method" else declared.objectives
        known = [key for key in named if baseline or key != BASELINE]
        if name not in known:
            raise ValueError(f"unknown {kind} '{name}': {nearest(name, known)}")
        return name

    return check


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not among `known`: the nearest of them, or all."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"


Images = Annotated[int, Field(ge=0, lt=2**53)]
Seed = Annotated[int, Field(ge=0, lt=2**62)]
"""Trials count theirs on from it, and a table holds 63 bits."""
Positive = Annotated[float, Field(gt=0, le=1e30)]
Level = Annotated[float, Field(ge=1e-6, le=1e6)]
"""A noise level, EDM units."""
BatchSize = Annotated[int, Field(gt=0, le=2**20)]
TrainSize = Annotated[int, Field(ge=2, le=2**31 - 1)]
Trials = Annotated[int, Field(gt=0, le=1_000_000)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Place = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(lambda text: _on_one_line(text))]
"""A path or a URI."""


def _on_one_line(text: str) -> str:
    if printable(text) != text:
        raise ValueError(f"holds a control character: {printable(text)}")
    return text


def _numbers_only(model: type[BaseModel], value: Any, info: ValidationInfo) -> Any:
    """Refuse text and truth values where a field takes numbers: pydantic would read numbers into them."""
    wanted = set(_leaves(model.model_fields[str(info.field_name)].annotation))
    if wanted & {int, float} and not wanted & {str, bool}:
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(each, (str, bool)):
                raise ValueError("Input should be a valid number")
    return value


def _leaves(annotation: Any) -> Iterator[type]:
    """The types that an annotation is made of; those of the values of a Literal."""
    parts = get_args(annotation)
    if not parts:
        yield annotation if isinstance(annotation, type) else type(annotation)
    for part in parts:
        yield from _leaves(part)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        return _numbers_only(cls, value, info)


class DataConfig(_Model):
    """Where the images come from and the shape they are brought to."""

    source: Literal["digits", "images", "cifar10"] = Field(
        "images",
        description="digits: ships with scikit-learn; images: a folder or EDM-style zip; cifar10: fetched "
        "where path is null",
    )
    path: Place | None = Field(
        None,
        description="folder, zip, tar, or tars such as images-{000..127}.tar; a relative one is also looked "
        "for in PARETO_AMB_DATA",
    )
    resolution: int = Field(64, gt=0, le=8192, description="side in pixels; images are cropped and resized")
    channels: Literal[1, 3] = Field(3, description="3: colour; 1: grey")
    conditional: bool = Field(
        False,
        description="train with the class labels of the set; training images are then balanced by class",
    )
    captions: bool = Field(False, description="train with a caption for each image; not with conditional")
    skip_uncaptioned: bool = Field(
        False, description="with captions: leave out images without one; otherwise they are refused"
    )
    origin: str = Field("", description="told to the user when the data is missing")
    published: Literal["cifar10", "ffhq", "tiny-imagenet"] | None = Field(
        None, description="the set of the paper that these images are: the report compares with its figures"
    )

    @model_validator(mode="after")
    def _told_one_thing(self) -> Self:
        if self.captions and self.conditional:
            raise ValueError("captions and conditional are both true; set one of them to false")
        return self


class NetworkConfig(_Model):
    """The denoiser; `options` replace fields of the named architecture."""

    name: Annotated[str, AfterValidator(_is_registered("network"))] = Field(
        "tiny",
        description="tiny: for CPUs; ddpmpp, ncsnpp, adm: those of the paper's data sets; pipeline: a "
        "pretrained text-to-image pipeline; captioned: a small one, for CPUs",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="replace fields of the named network, such as dropout"
    )

    @model_validator(mode="after")
    def _known_options(self, info: ValidationInfo) -> Self:
        check = (info.context or {}).get("network_options")
        if check is not None:
            check(self.name, self.options)
        return self


def _check_network(network: NetworkConfig, data: DataConfig, info: ValidationInfo) -> None:
    """Raise ValueError where the network cannot be built for such images, in a context that can tell."""
    build = (info.context or {}).get("build_network")
    if build is not None:
        build(network.name, network.options, data.resolution, data.channels)


class LogNormalConfig(_Model):
    """ln sigma ~ N(p_mean, p_std^2)."""

    kind: Literal["lognormal"] = Field("lognormal", description="lognormal, or uniform_time")
    p_mean: float = Field(-1.2, ge=-20, le=20, description="mean of ln sigma")
    p_std: float = Field(1.2, gt=0, le=20, description="standard deviation of ln sigma")


class UniformTimeConfig(_Model):
    """t uniform on the variance-preserving schedule: the paper's text taken literally."""

    kind: Literal["uniform_time"] = Field("uniform_time", description="uniform_time, or lognormal")


class ScheduleConfig(_Model):
    """One of the discrete steps of a text-to-image pipeline's schedule, all equally often."""

    kind: Literal["schedule"] = Field("schedule", description="schedule, lognormal or uniform_time")
    betas: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = Field(
        "scaled_linear", description="how the variances of the steps grow, as diffusers names it"
    )
    beta_start: Share = Field(0.00085, description="variance of the first step")
    beta_end: Share = Field(0.012, description="variance of the last step")
    steps: int = Field(1000, ge=2, le=100_000, description="steps of the schedule")

    @property
    def schedule(self) -> Schedule:
        """The steps themselves."""
        return Schedule(self.betas, self.beta_start, self.beta_end, self.steps)


def _noise_kind(value: object) -> object:
    return value.get("kind", "lognormal") if isinstance(value, dict) else getattr(value, "kind", None)


NoiseConfig = Annotated[
    Annotated[LogNormalConfig, Tag("lognormal")]
    | Annotated[UniformTimeConfig, Tag("uniform_time")]
    | Annotated[ScheduleConfig, Tag("schedule")],
    Discriminator(_noise_kind),
]


class FullConfig(_Model):
    """All weights of the network are trained."""

    kind: Literal["full"] = Field("full", description="full: all weights; lora: low-rank additions")


class LoraConfig(_Model):
    """Low-rank additions to the attention of a pretrained U-Net are trained, nothing else."""

    kind: Literal["lora"] = Field("lora", description="full: all weights; lora: low-rank additions")
    rank: int = Field(16, ge=1, le=1024, description="of the additions")


def _adapt_kind(value: object) -> object:
    return value.get("kind", "full") if isinstance(value, dict) else getattr(value, "kind", None)


AdaptConfig = Annotated[
    Annotated[FullConfig, Tag("full")] | Annotated[LoraConfig, Tag("lora")], Discriminator(_adapt_kind)
]


class TrainingConfig(_Model):
    """One training. Counts of images are images seen, not images in the set."""

    network: NetworkConfig = NetworkConfig()
    images: int = Field(7_680_000, gt=0, lt=2**53, description="budget: images seen by a full training")
    batch_size: BatchSize = Field(256, description="images a step, over all processes")
    learning_rate: Positive = Field(1e-4, description="once the warm-up is over")
    lr_warmup_images: Images = Field(0, description="linear warm-up, in images seen")
    optimizer: Literal["adam", "adamw"] = Field(
        "adam", description="adam: weight decay is an L2 term of the loss, as published; adamw: decoupled"
    )
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="of the optimizer")
    eps: float = Field(1e-8, gt=0, le=1, description="of the optimizer; the loss is summed over an image")
    weight_decay: float = Field(0.0, ge=0, le=1e6, description="of the optimizer, which says what it means")
    gradient_repair: bool = Field(
        True, description="gradients that are not a number become 0, infinite ones 1e5, before each step"
    )
    init_from: Place | None = Field(
        None, description="checkpoint whose averaged weights this training starts from; null: from scratch"
    )
    adapt: AdaptConfig = Field(
        FullConfig(), description="what of a pretrained text-to-image pipeline is trained"
    )
    caption_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the examples trained without their caption, for guidance"
    )
    gradient_checkpointing: bool = Field(
        False, description="of a text-to-image network: work some of it out twice and save memory"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of the network in training; bf16: autocast. The loss and weights stay fp32"
    )
    compile: bool = Field(False, description="torch.compile the network; needs a C++ compiler")
    ema_halflife_images: Images = Field(
        500_000, gt=0, description="of the averaged weights that are sampled from, in images seen"
    )
    ema_rampup_ratio: Positive | None = Field(
        0.05, description="half-life at most this share of the images seen so far; null: no ramp-up"
    )
    noise: NoiseConfig = Field(LogNormalConfig(), description="distribution of the training noise levels")
    horizontal_flip: bool = Field(False, description="mirrored images count as images of the set")
    augment_probability: float = Field(
        0.0,
        ge=0,
        le=1,
        description="EDM's non-leaking augmentation (it published 0.12 to 0.15); 0: none. Noisy copies are "
        "only flipped and quarter-turned, which keeps their noise white",
    )
    checkpoint_seconds: Positive = Field(60, description="at most this much work is lost")


class SamplingConfig(_Model):
    """The deterministic sampler. Network evaluations a batch: heun 2 * steps - 1, dpmpp_2m steps."""

    solver: Annotated[str, AfterValidator(_is_registered("solver"))] = Field(
        "heun",
        description="heun: EDM's, as published; dpmpp_2m: better with few evaluations",
    )
    steps: int = Field(18, ge=2, le=10_000, description="noise levels from sigma_max down to sigma_min")
    sigma_min: Level = Field(0.002, description="lowest noise level before 0, EDM units")
    sigma_max: Level = Field(80.0, description="highest noise level, EDM units")
    rho: float = Field(7.0, ge=0.1, le=1000, description="how densely low levels are spaced (KAAL22 Eq. 5)")
    clip_denoised: bool = Field(
        False, description="hold the denoised image to [-1, 1], the range of pixels, at every evaluation"
    )
    guidance: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="of text-to-image models: how far samples follow the caption (Ho and Salimans 2022); 1: "
        "as the model says",
    )
    batch_size: BatchSize = Field(256, description="images sampled at once; no figure depends on it")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError("sigma_min must be below sigma_max")
        return self


def _check_text(data: DataConfig, training: TrainingConfig, sampling: SamplingConfig) -> None:
    """Raise ValueError where captions, the network and what is asked of it do not fit."""
    name, of_text = training.network.name, training.network.name in TEXT_NETWORKS
    if data.captions != of_text:
        reads = "is trained with captions" if of_text else "reads no captions"
        raise ValueError(f"network '{name}' {reads}: set data.captions to {str(of_text).lower()}")
    lora = isinstance(training.adapt, LoraConfig)
    for key, given in (
        ("training.adapt", lora),
        ("training.caption_dropout", training.caption_dropout > 0),
        ("training.gradient_checkpointing", training.gradient_checkpointing),
        ("sampling.guidance", sampling.guidance != 1),
    ):
        if given and not of_text:
            raise ValueError(f"{key}: only for networks that are told captions; leave it out")
    if lora and name != "pipeline":
        raise ValueError("training.adapt: only a pretrained pipeline is trained by low-rank additions")
    for key, given in (
        ("training.augment_probability", training.augment_probability > 0),
        ("training.horizontal_flip", training.horizontal_flip and name == "pipeline"),
    ):
        if given and of_text:
            raise ValueError(f"{key}: not of the images of network '{name}'; set it to 0, or false")
    if name == "pipeline" and (data.channels != 3 or data.resolution % 8):
        raise ValueError("network 'pipeline' needs data.channels 3 and a data.resolution divisible by 8")


EncoderName = Annotated[str, AfterValidator(_is_registered("encoder"))]


class EvaluationConfig(_Model):
    """How a training is measured, and when."""

    fid_encoder: EncoderName = Field(
        "inception_v3",
        description="network whose features FID is of; auto: the best whose weights are on this machine",
    )
    similarity_encoder: EncoderName = Field(
        "dinov2_vitg14", description="network in whose features copies are looked for; auto: as above"
    )
    preprocessing: Literal["standard", "paper"] = Field(
        "standard", description="of images for DINOv2: as usual, or as the paper's code does it"
    )
    n_samples: int = Field(
        10_000, ge=2, le=10**8, description="images generated at each rung; FID depends on it"
    )
    rungs: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.25, 0.354, 0.5, 0.707, 1.0),
        max_length=100,
        description="shares of the budget at which a trial is measured: each is a point where it may stop",
    )
    probes: tuple[Share, ...] | None = Field(
        None,
        max_length=100,
        description="shares of the budget, before the first of `rungs`, at which denoising errors alone are "
        "measured, by which a trial may pause; null: "
        f"{', '.join(f'{share:g}' for share in DEFAULT_PROBES)}, as far as they lie before it; []: none",
    )
    final_samples: int | None = Field(
        None,
        ge=2,
        le=10**8,
        description="images of a second, final measurement of DDPM, the confirmed trainings and their "
        "controls, in figures of its own; null: none",
    )
    other_prompts: int = Field(
        0,
        ge=0,
        le=10**8,
        description="of models that are told captions: images generated at each rung from shuffled captions, "
        "and from unseen ones, beside the `n_samples` by training captions; 0: none",
    )
    reference: Literal["full", "heldout"] = Field(
        "full", description="FID against the whole set or the images left out of training"
    )
    thresholds: tuple[Share, ...] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="similarities that count as a copy; null: calibrated on held-out images",
    )
    calibration_quantile: Share = Field(
        0.99, description="calibrated threshold: this quantile of held-out similarity"
    )
    primary_threshold: int = Field(
        0, ge=0, le=99, description="position, in `thresholds`, of the one that `memorization` uses"
    )
    judge: Literal["clip", "digits"] | None = Field(
        None,
        description="what says how well samples show their captions: the objective `alignment`. clip: cosine "
        "of image and text in `clip_model`; digits: a classifier trained on held-out digits",
    )
    clip_model: Place = Field(
        "openai/clip-vit-base-patch32", description="of the judge clip: a folder, or a name of the hub"
    )
    max_heldout: int = Field(10_000, ge=4, le=10**8, description="held-out images used, at most")
    n_shown: int = Field(64, ge=1, le=10_000, description="samples kept as pictures, with their neighbours")
    batch_size: BatchSize = Field(128, description="images encoded at once; no figure depends on it")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.rungs or list(self.rungs) != sorted(set(self.rungs)) or self.rungs[-1] != 1:
            raise ValueError("rungs must rise strictly and end with 1")
        probes = list(self.probes or ())
        if probes != sorted(set(probes)) or (probes and probes[-1] >= self.rungs[0]):
            raise ValueError(
                f"probes must rise strictly and lie before the first of rungs, {self.rungs[0]:g}; [] for none"
            )
        if self.primary_threshold >= len(self.thresholds or (0,)):
            raise ValueError("primary_threshold points past the end of thresholds")
        if self.final_samples is not None and self.final_samples <= self.n_samples:
            raise ValueError("final_samples must be more than n_samples")
        return self


class Range(_Model):
    """A range that is searched, evenly on the parameter's own scale."""

    low: float = Field(description="where the range begins")
    high: float = Field(description="where the range ends")

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"the range is empty: low {self.low} is not below high {self.high}")
        return self


class AutoRange(Range):
    """The range that `auto` became for one train size, and what it was set from."""

    collapse_level: Positive | None = Field(
        None, description="of the training images, EDM units; null where it is not what the range rests on"
    )


Choice = float | str
Searched = Literal["auto"] | Range | dict[int, AutoRange] | tuple[Choice, ...]
"""What a sweep file says of one parameter."""


def _shape_of(value: object) -> str:
    if value == "auto":
        return "auto"
    if isinstance(value, Mapping):
        return "by_size" if value and all(str(key).isdecimal() for key in value) else "range"
    return "range" if isinstance(value, Range) else "choices"


def _as_choices(value: object) -> object:
    if isinstance(value, bool) or (
        isinstance(value, (list, tuple)) and any(isinstance(v, bool) for v in value)
    ):
        raise ValueError("yes and no are no numbers")
    return value if isinstance(value, (Mapping, list, tuple, Range)) or value == "auto" else (value,)


_Searched = Annotated[
    Annotated[Literal["auto"], Tag("auto")]
    | Annotated[Range, Tag("range")]
    | Annotated[dict[int, AutoRange], Tag("by_size")]
    | Annotated[tuple[Choice, ...], Tag("choices")],
    Discriminator(_shape_of),
    BeforeValidator(_as_choices),
]


class SpaceConfig(BaseModel):
    """What is searched: the train sizes, and the parameters that the methods declare.

    Each train size is a context with a frontier of its own, not a knob. A parameter is a range, a list of
    choices, or `auto` where it declares what that means.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, _Searched]

    train_size: tuple[TrainSize, ...] = Field(
        min_length=1, max_length=1000, description="images trained on; a list, each with searches of its own"
    )

    @field_validator("train_size", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        return _numbers_only(cls, value, info)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any, info: ValidationInfo) -> Any:
        """Write the defaults of parameters that are not named; refuse keys that none declares."""
        declared = _declared(info)
        if declared is None or not isinstance(values, Mapping):
            return values
        known = ["train_size", *declared.parameters]
        for key in values:
            if key not in known:
                raise _error("extra_forbidden", (str(key),), values[key], known=sorted(known))
        defaults = {name: parameter.default for name, parameter in declared.parameters.items()}
        return {key: {**defaults, **values}[key] for key in known if key in values or key in defaults}

    @model_validator(mode="after")
    def _fits_declarations(self, info: ValidationInfo) -> Self:
        if len(set(self.train_size)) != len(self.train_size):
            raise ValueError("train_size names a size twice")
        declared = _declared(info)
        for parameter in declared.parameters.values() if declared else ():
            self._check(parameter)
        return self

    def _check(self, parameter: Parameter) -> None:
        """Raise a ValidationError where what is searched of a parameter is not what it declares."""
        name, searched = parameter.name, self[parameter.name]
        if searched == "auto":
            if not parameter.auto_meaning:
                raise _error("value_error", (name,), searched, "auto means nothing here, give a range")
        elif isinstance(searched, tuple):
            if not searched:
                raise _error("value_error", (name,), searched, "needs at least one choice")
            for place, choice in enumerate(searched):
                if choice not in parameter.words:
                    _check_bounds(parameter, choice, (name, str(place)))
        elif isinstance(searched, Range):
            for end in ("low", "high"):
                _check_bounds(parameter, getattr(searched, end), (name, end))
        elif not parameter.auto_meaning:
            message = "ranges for each train size are what auto becomes; give one range"
            raise _error("value_error", (name,), None, message)
        elif set(searched) != set(self.train_size):
            raise _error(
                "value_error",
                (name,),
                None,
                f"{name} must name each size of train_size, and no other; or set it to auto",
            )
        else:
            for size, range_ in searched.items():
                for end in ("low", "high"):
                    _check_bounds(parameter, getattr(range_, end), (name, str(size), end))

    def __getitem__(self, name: str) -> Searched:
        """What the file says of a parameter. KeyError for one that no method declares."""
        searched: Searched = (self.__pydantic_extra__ or {})[name]
        return searched

    def searched(self, name: str, train_size: int) -> Range | tuple[Choice, ...]:
        """What is searched of a parameter at a train size. UserError while `auto` stands for it."""
        searched = self[name]
        if searched == "auto":
            raise UserError(f"space.{name}: auto has no range yet; a sweep writes it into RUN_DIR/sweep.yaml")
        return searched[train_size] if isinstance(searched, dict) else searched

    def auto_parameters(self) -> list[str]:
        """The parameters that `auto` still stands for."""
        return [name for name, searched in (self.__pydantic_extra__ or {}).items() if searched == "auto"]

    def with_ranges(self, name: str, ranges: Mapping[int, AutoRange]) -> Self:
        """The same space with a parameter's range for each train size."""
        return self.model_copy(update={name: dict(ranges)})

    def only(self, names: Iterable[str]) -> Self:
        """The same space with these parameters alone."""
        space = self.model_copy()
        object.__setattr__(space, "__pydantic_extra__", {name: self[name] for name in names})
        return space


def _declared(info: ValidationInfo) -> Declared | None:
    """What the caller of `parse` says is declared; None where only the form is checked."""
    found: Declared | None = (info.context or {}).get("declared")
    return found


def _error(
    kind: str, location: tuple[str, ...], got: object, message: str = "", **context: Any
) -> ValidationError:
    problem = PydanticCustomError(kind, message or kind, context)
    return ValidationError.from_exception_data("space", [{"type": problem, "loc": location, "input": got}])


def _check_bounds(parameter: Parameter, value: object, location: tuple[str, ...]) -> None:
    low, high = parameter.bounds
    if isinstance(value, (int, float)) and low < value < high:
        return
    limits = f"lie strictly between {low:g} and {high:g}" if high < math.inf else f"be greater than {low:g}"
    words = "".join(f", or be the word {word}" for word in (*parameter.words, *_auto_word(parameter)))
    raise _error("value_error", location, value, f"must {limits}{words}")


def _auto_word(parameter: Parameter) -> list[str]:
    return ["auto"] if parameter.auto_meaning else []


class ConfirmConfig(_Model):
    """What is trained again after the search, so that the recommended trial is not its luckiest draw."""

    candidates: int = Field(
        2, ge=0, le=1000, description="the best trainings a train size, over all stopping points; 0: none"
    )
    seeds: int = Field(
        2, ge=0, le=1000, description="fresh seeds for each, trained to its own stopping point; 0: none"
    )
    points: int = Field(
        4,
        ge=1,
        le=1000,
        description="with `branch_from`: branched trials that are trained from scratch, to the end, a train "
        "size; the candidates are taken among these",
    )


class SearchConfig(_Model):
    """How the space is searched. Each train size and method has a search, and its trials, of its own."""

    sampler: Literal["gp", "tpe", "random", "grid"] = Field(
        "gp",
        description="gp: by a Gaussian process; grid: every combination of the listed values once, in full "
        "with early_stopping false",
    )
    methods: tuple[Annotated[str, AfterValidator(_is_declared("method"))], ...] = Field(
        ("algorithm1",), min_length=1, description="what competes; the DDPM baselines always do"
    )
    objectives: tuple[Annotated[str, AfterValidator(_is_declared("objective"))], ...] = Field(
        ("fid", "memorization"),
        min_length=2,
        description="what trials are judged by; fid and memorization, and any that follow",
    )
    trials: Trials = Field(
        24,
        description="begun for each train size and method, baselines apart; a grid has its own number, at "
        "most this",
    )
    startup_trials: Trials = Field(4, description="spread evenly before the sampler steers")
    baseline_seeds: Trials = Field(3, description="DDPM trainings a train size; spread = noise")
    early_stopping: bool = Field(
        True,
        description="a trial none of whose later rungs is expected to join the frontier pauses; false: all "
        "run to the end",
    )
    branch_from: Literal["auto"] | Share | None = Field(
        None,
        description="trials go on from the first DDPM baseline at this share of the budget, one of "
        "`evaluation.probes` or `evaluation.rungs`; auto: the last before it memorizes; null: from scratch",
    )
    confirm: ConfirmConfig = ConfirmConfig()
    controls: bool = Field(
        True,
        description="beside each confirming training, one of the same seed on clean images at the same noise "
        "levels: tells what the levels alone gain",
    )
    patience: Trials | None = Field(
        None,
        description="end the search when so many full trainings have hardly moved the frontier; null: never",
    )
    max_retries: int = Field(1, ge=0, le=1000, description="how often a failed trial is tried again")

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, values: Any) -> Any:
        """What older sweep files have in the place of `early_stopping`."""
        if not isinstance(values, Mapping) or not {"reduction_factor", "brackets"} & values.keys():
            return values
        rest = {key: value for key, value in values.items() if key not in ("reduction_factor", "brackets")}
        stops = values.get("reduction_factor", True) is not None
        return {"early_stopping": stops, **rest}

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for key, names in (("methods", self.methods), ("objectives", self.objectives)):
            if len(set(names)) != len(names):
                raise ValueError(f"{key} names one twice")
        if self.objectives[:2] != ("fid", "memorization"):
            raise ValueError("objectives must begin with fid and memorization")
        return self


class ResourcesConfig(_Model):
    """What one trial occupies."""

    cpus_per_trial: int = Field(1, gt=0, le=10_000, description="CPU cores, as Ray counts them")
    gpus_per_trial: float | None = Field(
        None,
        ge=0,
        le=10_000,
        description="a fraction shares a GPU; several of one machine share each batch; null: 1 where the "
        "cluster has GPUs, else 0",
    )

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        gpus = self.gpus_per_trial or 0
        if gpus > 1 and gpus % 1:
            raise ValueError(f"gpus_per_trial {gpus:g}: a trial takes a fraction of one GPU, or whole ones")
        return self


class SweepConfig(_Model):
    """A whole sweep, as written to RUN_DIR/sweep.yaml with every default visible."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = Field(
        description="of the sweep; run directories are named after it"
    )
    description: str = Field("", description="one line for people")
    recipe: str | None = Field(None, description="of the space's recipes, the one that is written out here")
    seed: Seed = Field(0, description="every random draw follows from it")
    data: DataConfig
    space: SpaceConfig
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    search: SearchConfig = SearchConfig()
    resources: ResourcesConfig = ResourcesConfig()
    storage: Place | None = Field(
        None, description="URI for checkpoints and samples that every node reaches; null: RUN_DIR"
    )

    @model_validator(mode="after")
    def _parts_fit(self, info: ValidationInfo) -> Self:
        declared = _declared(info)
        for parameter in declared.parameters.values() if declared else ():
            if parameter.kind == "level":
                self._check_level(parameter.name)
        if declared is not None and self.search.sampler == "grid":
            self._check_grid(declared)
        _check_network(self.training.network, self.data, info)
        _check_text(self.data, self.training, self.sampling)
        if self.evaluation.other_prompts and not self.data.captions:
            raise ValueError("evaluation.other_prompts: only for models that are told captions; set it to 0")
        if len(set(self.full_rung_images())) < len(self.evaluation.rungs):
            raise ValueError("evaluation.rungs lie less than one batch apart")
        if len(set(self.rung_images())) < len(self.rung_images()):
            raise ValueError(
                "evaluation.probes, and the first of evaluation.rungs, lie less than one batch apart"
            )
        if max(self.space.train_size) < self.training.batch_size // 64:
            raise ValueError("training.batch_size is more than 64 times the largest train size")
        if (gpus := self.resources.gpus_per_trial or 0) > 1 and self.training.batch_size % gpus:
            raise ValueError(
                f"training.batch_size {self.training.batch_size} cannot be shared evenly by "
                f"resources.gpus_per_trial {gpus:g}"
            )
        self._check_branching()
        self._check_judge()
        return self

    def with_absolute_path(self) -> Self:
        """The same sweep from wherever it is resumed: paths that are there become absolute.

        UserError for a path that cannot be looked at.
        """
        network, evaluation = self.training.network, self.evaluation
        options = network.options
        if network.name == "pipeline":
            options = {**options, "path": _absolute(options["path"])}
        network = network.model_copy(update={"options": options})
        return self.model_copy(
            update={
                "data": self.data.model_copy(update={"path": _absolute(self.data.path)}),
                "training": self.training.model_copy(update={"network": network}),
                "evaluation": evaluation.model_copy(update={"clip_model": _absolute(evaluation.clip_model)}),
            }
        )

    def _check_judge(self) -> None:
        """Raise ValueError where captions cannot be judged, or what is judged is no objective."""
        judge, wanted = self.evaluation.judge, ALIGNMENT in self.search.objectives
        if judge is None and wanted:
            raise ValueError(
                f"search.objectives: {ALIGNMENT} needs evaluation.judge; set it to clip or digits"
            )
        if judge is None:
            return
        if not wanted:
            raise ValueError(
                f"evaluation.judge {judge} judges nothing: name {ALIGNMENT} in search.objectives, or set it "
                "to null"
            )
        if not self.data.captions:
            raise ValueError(f"evaluation.judge {judge} needs captions; set data.captions to true")
        if judge == "digits" and self.data.source != "digits":
            raise ValueError(f"evaluation.judge digits cannot judge {self.data.source}; set it to clip")

    def _check_level(self, name: str) -> None:
        """Raise ValueError where a noise level is searched beyond what is sampled."""
        space, sigma_max = self.space, self.sampling.sigma_max
        if space[name] == "auto":
            return
        for size in space.train_size:
            searched = space.searched(name, size)
            end = ".high" if isinstance(searched, Range) else ""
            levels = [searched.high] if isinstance(searched, Range) else searched
            for level in levels:
                if isinstance(level, float) and level > sigma_max:
                    raise ValueError(
                        f"space.{name}{end} {level} is above sampling.sigma_max {sigma_max}: "
                        "such a model would never see a noisy image"
                    )

    def _check_grid(self, declared: Declared) -> None:
        """Raise ValueError where a compared method has no grid, or one of more points than trials."""
        for method in map(declared.method, self.search.methods):
            for parameter in method.parameters:
                searched = self.space[parameter.name]
                if isinstance(searched, tuple):
                    continue
                word, values = "auto" if searched == "auto" else "a range", "VALUE, VALUE, ..."
                if isinstance(searched, Range):
                    low, high = searched.low, searched.high
                    middle = math.sqrt(low * high) if parameter.log else (low + high) / 2
                    values = f"{low:g}, {middle:.3g}, {high:g}"
                raise ValueError(
                    f"space.{parameter.name} is {word}; search.sampler grid needs a list, such as "
                    f"space.{parameter.name}=[{values}]"
                )
            points = self.n_trials(declared)[method.name]
            if points > self.search.trials:
                raise ValueError(
                    f"search.trials {self.search.trials}: the grid of {method.name} has {points} points; "
                    f"raise it to {points}, or list fewer values"
                )

    def _check_branching(self) -> None:
        """Raise ValueError where trials cannot be branched from a baseline as `search.branch_from` says."""
        share = self.search.branch_from
        if share is None:
            return
        if self.search.sampler == "grid":
            raise ValueError(
                "search.branch_from: a grid is for figures of trainings from scratch; set it to null, or "
                "take another search.sampler"
            )
        if self.search.patience is not None:
            raise ValueError(
                "search.patience looks at the frontier, on which no branched trial is; set it to null, or "
                "search.branch_from"
            )
        if not self.branching_rungs():
            listed = ", ".join(f"{known:g}" for known in self._shares_before_the_end())
            raise ValueError(
                f"search.branch_from {share} is no share of evaluation.probes or evaluation.rungs below 1; "
                f"they are {listed or 'none'}"
            )

    def branching_rungs(self) -> tuple[int, ...]:
        """The rungs, counted from 1, at which trials may go on from a baseline; none without branching."""
        share, shares = self.search.branch_from, self._shares_before_the_end()
        wanted = shares if share == "auto" else [known for known in shares if known == share]
        return tuple(self.rung_images().index(self._whole_batches(known)) + 1 for known in wanted)

    def _shares_before_the_end(self) -> list[float]:
        """The share of the budget of each rung but the last, rising."""
        probes, before = self.evaluation.probes, self.probe_images()
        if probes is None:
            placed = {self._whole_batches(share): share for share in reversed(DEFAULT_PROBES)}
            probes = tuple(placed[images] for images in before)
        return [*probes, *self.evaluation.rungs[:-1]]

    def n_trials(self, declared: Declared) -> dict[str, int]:
        """How many trials the search of each method begins at each train size: a grid has its own number."""
        methods = [declared.method(name) for name in self.search.methods]
        if self.search.sampler != "grid":
            return {method.name: self.search.trials for method in methods}
        listed = {
            name: len(searched)
            for name, searched in (self.space.__pydantic_extra__ or {}).items()
            if isinstance(searched, tuple)
        }
        return {m.name: math.prod(listed.get(name, 1) for name in m.parameter_names) for m in methods}

    def n_confirmations(self, declared: Declared) -> int:
        """Trainings a train size that follow the search: none where no method may be recommended."""
        confirm = self.search.confirm
        repeats = confirm.candidates * confirm.seeds if self._may_recommend(declared) else 0
        return repeats + self.n_from_scratch(declared)

    def n_from_scratch(self, declared: Declared) -> int:
        """Those of them that train a branched trial from scratch, at most."""
        branches = self.search.branch_from is not None and self._may_recommend(declared)
        return self.search.confirm.points if branches else 0

    def _may_recommend(self, declared: Declared) -> bool:
        return any(declared.method(name).recommended for name in self.search.methods)

    def n_controls(self, declared: Declared) -> int:
        """Trainings a train size that are controls of those, at most: not every method has one."""
        methods = [declared.method(name) for name in self.search.methods]
        controlled = self.search.controls and any(m.control and m.recommended for m in methods)
        return self.n_confirmations(declared) - self.n_from_scratch(declared) if controlled else 0

    def rung_images(self) -> tuple[int, ...]:
        """Images seen at each rung, whole batches, rising: (n_rungs,). The probe rungs come first."""
        return (*self.probe_images(), *self.full_rung_images())

    def full_rung_images(self) -> tuple[int, ...]:
        """Images seen at the rungs where a trial is sampled and measured."""
        return tuple(map(self._whole_batches, self.evaluation.rungs))

    def probe_images(self) -> tuple[int, ...]:
        """Images seen at the rungs before those, where denoising errors alone are measured."""
        if self.evaluation.probes is not None:
            return tuple(map(self._whole_batches, self.evaluation.probes))
        first = self._whole_batches(self.evaluation.rungs[0])
        return tuple(sorted({n for n in map(self._whole_batches, DEFAULT_PROBES) if n < first}))

    @property
    def first_full_rung(self) -> int:
        """The number of the first rung that is not a probe rung, counted from 1 as all are."""
        return len(self.probe_images()) + 1

    def _whole_batches(self, share: float) -> int:
        batch = self.training.batch_size
        return max(round(share * self.training.images / batch), 1) * batch


def _absolute(path: str | None) -> str | None:
    """A path that is there as it is from anywhere; any other text stays."""
    return str(Path(path).resolve()) if path and is_there(Path(path)) else path


def check_minutes(minutes: float | None, called: str) -> None:
    """Raise UserError, naming the limit as it is `called`, where it is no time that passes."""
    if minutes is None:
        return
    if isinstance(minutes, bool) or not isinstance(minutes, Real) or not 0 < minutes <= MAX_MINUTES:
        shown = printable(f"{minutes!s:.40}")
        raise UserError(f"{called} {shown}: must be above 0 minutes, and at most {MAX_MINUTES:,}")


_FORMER_KEYS = ("sigma_tn", "mix_ratio")
"""Parameters that older recommendation files have beside `training`, not below `parameters`."""


def gather_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """A training block with the parameters that stand beside each other, as of old, below `parameters`."""
    given = {key: values[key] for key in _FORMER_KEYS if key in values}
    rest = {key: value for key, value in values.items() if key not in given}
    before = values.get("parameters", {})
    return {**rest, "parameters": {**before, **given}} if given and isinstance(before, Mapping) else rest


class TrainingRun(_Model):
    """One production training: the `training` block of recommendation.yaml."""

    data: DataConfig
    train_size: TrainSize | None = Field(None, description="null: the whole set")
    method: Annotated[str, AfterValidator(_is_declared("method", baseline=True))] = Field(
        "algorithm1", description="the training method"
    )
    parameters: dict[str, float] = Field(description="of the method; --set sigma_tn=... reaches them, too")
    seed: Seed = Field(0, description="every random draw follows from it")
    training: TrainingConfig
    sampling: SamplingConfig = SamplingConfig()

    @field_validator("parameters", mode="before")
    @classmethod
    def _are_numbers(cls, values: Any) -> Any:
        for name, value in values.items() if isinstance(values, Mapping) else ():
            if isinstance(value, (str, bool)):
                raise _error("value_error", (str(name),), value, "Input should be a valid number")
        return values

    @model_validator(mode="before")
    @classmethod
    def _gather_parameters(cls, values: Any) -> Any:
        return gather_parameters(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _parameters_fit(self, info: ValidationInfo) -> Self:
        declared = _declared(info)
        if declared is None:
            return self
        wanted = declared.method(self.method).parameters
        names = {parameter.name for parameter in wanted}
        if names != set(self.parameters):
            raise ValueError(f"parameters of {self.method} are {', '.join(sorted(names)) or 'none'}")
        for parameter in wanted:
            (low, high), value = parameter.bounds, self.parameters[parameter.name]
            if not low <= value < high:
                raise ValueError(f"{parameter.name} must be at least {low:g} and below {high:g}")
            if parameter.kind == "level" and value > self.sampling.sigma_max:
                raise ValueError(
                    f"parameters.{parameter.name} {value:g} is above sampling.sigma_max "
                    f"{self.sampling.sigma_max:g}: such a model would never see a noisy image"
                )
        _check_network(self.training.network, self.data, info)
        _check_text(self.data, self.training, self.sampling)
        return self
