"""The sweep file: every key, its default, its unit and its limits.

A file that names an unknown key or an impossible value is refused with one line that names the key, what
is wrong with it and, for a misspelt key, the nearest one that exists.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    model_validator,
)

from pareto_amb.errors import UserError

MAX_FILE_BYTES = 1_000_000

M = TypeVar("M", bound=BaseModel)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(_Model):
    """Where the images come from and the shape they are brought to."""

    source: Literal["digits", "images", "cifar10"] = Field(
        "images", description="digits: ships with scikit-learn; images: a folder or EDM-style zip"
    )
    path: str | None = Field(
        None, description="folder or zip; a relative one is also looked for in PARETO_AMB_DATA"
    )
    resolution: PositiveInt = Field(64, description="side in pixels; images are cropped and resized")
    channels: Literal[1, 3] = 3
    conditional: bool = Field(False, description="train with the class labels of the set")
    origin: str = Field("", description="told to the user when the data is missing")


class NetworkConfig(_Model):
    """The denoiser; `options` replace fields of the named architecture."""

    name: Literal["tiny", "ddpmpp", "ncsnpp", "adm"] = "tiny"
    options: dict[str, Any] = Field(default_factory=dict)


class LogNormalConfig(_Model):
    """ln sigma ~ N(p_mean, p_std^2)."""

    kind: Literal["lognormal"] = "lognormal"
    p_mean: float = -1.2
    p_std: PositiveFloat = 1.2


class UniformTimeConfig(_Model):
    """t uniform on the variance-preserving schedule: the paper's text taken literally."""

    kind: Literal["uniform_time"] = "uniform_time"


def _noise_kind(value: object) -> object:
    return value.get("kind", "lognormal") if isinstance(value, dict) else getattr(value, "kind", None)


NoiseConfig = Annotated[
    Annotated[LogNormalConfig, Tag("lognormal")] | Annotated[UniformTimeConfig, Tag("uniform_time")],
    Discriminator(_noise_kind),
]


class TrainingConfig(_Model):
    """One training. Counts of images are images seen, not images in the set."""

    network: NetworkConfig = NetworkConfig()
    images: PositiveInt = Field(7_680_000, description="budget: images seen by a full training")
    batch_size: PositiveInt = 256
    learning_rate: PositiveFloat = 1e-4
    lr_warmup_images: int = Field(0, ge=0, description="linear warm-up, in images seen")
    betas: tuple[float, float] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: float = Field(0.0, ge=0)
    gradient_repair: bool = Field(
        True, description="gradients that are not a number become 0, infinite ones 1e5, before each step"
    )
    init_from: str | None = Field(
        None, description="checkpoint whose averaged weights this training starts from; null: from scratch"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of the network in training; bf16: autocast. The loss and weights stay fp32"
    )
    compile: bool = Field(False, description="torch.compile the network; needs a C++ compiler")
    ema_halflife_images: PositiveInt = 500_000
    ema_rampup_ratio: PositiveFloat | None = Field(
        0.05, description="half-life at most this share of the images seen so far; null: no ramp-up"
    )
    noise: NoiseConfig = LogNormalConfig()
    horizontal_flip: bool = Field(False, description="mirrored images count as images of the set")
    augment_probability: float = Field(
        0.0,
        ge=0,
        le=1,
        description="EDM's non-leaking augmentation (it published 0.12 to 0.15); 0: none. Noisy copies are "
        "only flipped and quarter-turned, which keeps their noise white",
    )
    checkpoint_seconds: PositiveFloat = Field(60, description="at most this much work is lost")


class SamplingConfig(_Model):
    """The deterministic sampler. Network evaluations a batch: heun 2 * steps - 1, dpmpp_2m steps."""

    solver: Literal["heun", "dpmpp_2m"] = Field(
        "heun",
        description="heun: EDM's, as published; dpmpp_2m: better with few evaluations, see docs/samplers.md",
    )
    steps: int = Field(18, ge=2)
    sigma_min: PositiveFloat = 0.002
    sigma_max: PositiveFloat = 80.0
    rho: PositiveFloat = 7.0
    batch_size: PositiveInt = 256

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError("sigma_min must be below sigma_max")
        return self


Share = Annotated[float, Field(gt=0, lt=1)]
EncoderName = Literal[
    "dinov2_vits14",
    "dinov2_vitb14",
    "dinov2_vitl14",
    "dinov2_vitg14",
    "inception_v3",
    "efficientnet_lite0",
    "pixels",
]


class EvaluationConfig(_Model):
    """How a training is measured, and when."""

    fid_encoder: EncoderName = "inception_v3"
    similarity_encoder: EncoderName = "dinov2_vitg14"
    preprocessing: Literal["standard", "paper"] = "standard"
    n_samples: int = Field(10_000, ge=2)
    rungs: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.25, 0.5, 1.0), description="shares of the budget at which a trial is measured"
    )
    reference: Literal["full", "heldout"] = Field(
        "full", description="FID against the whole set or the images left out of training"
    )
    thresholds: tuple[Share, ...] | None = Field(
        None, description="similarities that count as a copy; null: calibrated on held-out images"
    )
    calibration_quantile: Share = Field(
        0.99, description="calibrated threshold: this quantile of held-out similarity"
    )
    primary_threshold: int = Field(
        0, ge=0, description="position, in `thresholds`, of the one that `memorization` uses"
    )
    max_heldout: int = Field(10_000, ge=4)
    n_shown: int = Field(64, ge=1, description="samples kept as pictures, with their neighbours")
    batch_size: PositiveInt = 128

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.rungs or list(self.rungs) != sorted(set(self.rungs)) or self.rungs[-1] != 1:
            raise ValueError("rungs must rise strictly and end with 1")
        if self.primary_threshold >= len(self.thresholds or (0,)):
            raise ValueError("primary_threshold points past the end of thresholds")
        return self


class SigmaRange(_Model):
    """A range of sigma_tn, searched log-uniformly, in EDM units."""

    low: PositiveFloat
    high: PositiveFloat

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"the range is empty: low {self.low} is not below high {self.high}")
        return self


class AutoRange(SigmaRange):
    """The range that `sigma_tn: auto` became for one train size, and what it was set from."""

    collapse_level: PositiveFloat = Field(description="of the training images, EDM units")


def _check_auto(value: object) -> object:
    if value == "auto":
        return value
    raise ValueError("expected a range such as {low: 0.1, high: 8.0}, or the word auto")


def _sigma_kind(value: object) -> str:
    if isinstance(value, SigmaRange):
        return "range"
    if not isinstance(value, dict):
        return "auto"
    return "by_size" if value and all(str(key).isdecimal() for key in value) else "range"


SigmaChoice = Annotated[
    Annotated[Literal["auto"], BeforeValidator(_check_auto), Tag("auto")]
    | Annotated[SigmaRange, Tag("range")]
    | Annotated[dict[int, AutoRange], Tag("by_size")],
    Discriminator(_sigma_kind),
]


class ShareRange(_Model):
    """A range of a share, searched uniformly."""

    low: Share
    high: Share

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"the range is empty: low {self.low} is not below high {self.high}")
        return self


def _check_mix_choice(value: object) -> object:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value == "natural" or (number and 0 < float(str(value)) < 1):
        return value
    raise ValueError("a mix ratio lies strictly between 0 and 1, or is the word natural")


def _as_choices(value: object) -> object:
    return value if isinstance(value, (dict, list, tuple, ShareRange)) else (value,)


def _mix_kind(value: object) -> str:
    return "range" if isinstance(value, (dict, ShareRange)) else "choices"


MixChoice = Annotated[float | Literal["natural"], BeforeValidator(_check_mix_choice)]
MixRatio = Annotated[
    Annotated[ShareRange, Tag("range")] | Annotated[tuple[MixChoice, ...], Tag("choices")],
    Discriminator(_mix_kind),
    BeforeValidator(_as_choices),
]
_UNION_TAGS = {"auto", "range", "by_size", "choices", "lognormal", "uniform_time"}


class SpaceConfig(_Model):
    """What is searched. Each train size is a context with a frontier of its own, not a knob."""

    train_size: tuple[Annotated[int, Field(ge=2)], ...] = Field(min_length=1)
    sigma_tn: SigmaChoice = Field(
        "auto",
        description="a range for all train sizes; auto: one for each, from the collapse level of its images, "
        "written into RUN_DIR/sweep.yaml",
    )
    mix_ratio: MixRatio = Field(
        ("natural",), description="a range, or a list of choices; natural: P(sigma >= sigma_tn)"
    )

    corruption: ShareRange = Field(
        ShareRange(low=0.1, high=0.9), description="masking: share of the pixels missing from each image"
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.train_size)) != len(self.train_size):
            raise ValueError("train_size names a size twice")
        if not isinstance(self.mix_ratio, ShareRange) and not self.mix_ratio:
            raise ValueError("mix_ratio needs at least one choice")
        if isinstance(self.sigma_tn, dict) and set(self.sigma_tn) != set(self.train_size):
            raise ValueError("sigma_tn must name each size of train_size, and no other; or set it to auto")
        return self

    def sigma_range(self, train_size: int) -> SigmaRange:
        """The range of sigma_tn for a train size. UserError while `auto` stands for it."""
        if isinstance(self.sigma_tn, SigmaRange):
            return self.sigma_tn
        if isinstance(self.sigma_tn, dict):
            return self.sigma_tn[train_size]
        raise UserError("space.sigma_tn: auto has no range yet; a sweep writes it into RUN_DIR/sweep.yaml")


MethodName = Literal["algorithm1", "masking", "noise_only"]


class ConfirmConfig(_Model):
    """What is trained again after the search, so that the recommended trial is not its luckiest draw."""

    candidates: int = Field(2, ge=0, description="the best trials a train size; 0: none")
    seeds: int = Field(2, ge=0, description="fresh seeds for each, always to full budget; 0: none")


class SearchConfig(_Model):
    """How the space is searched. Each train size and method has a search, and its trials, of its own."""

    sampler: Literal["gp", "tpe", "random"] = Field("gp", description="compared in docs/search.md")
    methods: tuple[MethodName, ...] = Field(
        ("algorithm1",), min_length=1, description="what competes; the DDPM baselines always do"
    )
    trials: PositiveInt = Field(24, description="begun for each train size and method, baselines apart")
    startup_trials: PositiveInt = Field(4, description="spread evenly before the sampler steers")
    baseline_seeds: PositiveInt = Field(3, description="DDPM trainings a train size; spread = noise")
    reduction_factor: Annotated[float, Field(gt=1)] | None = Field(
        1.5,
        description="at each rung the best 1/reduction_factor go on, and all that are foreseen on the "
        "frontier; the others pause. null: all go on",
    )
    brackets: PositiveInt = Field(
        1, description="1: all are judged from the first rung on; 2: some from the second on; ..."
    )
    confirm: ConfirmConfig = ConfirmConfig()
    patience: PositiveInt | None = Field(
        None,
        description="end the search when so many full trainings have hardly moved the frontier; null: never",
    )
    max_retries: int = Field(1, ge=0, description="how often a failed trial is tried again")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("methods names a method twice")
        return self

    def n_confirmations(self) -> int:
        """Trainings a train size that follow the search; only Algorithm 1 is recommended, so confirmed."""
        return self.confirm.candidates * self.confirm.seeds if "algorithm1" in self.methods else 0


class ResourcesConfig(_Model):
    """What one trial occupies."""

    cpus_per_trial: PositiveInt = 1
    gpus_per_trial: float | None = Field(
        None,
        ge=0,
        description="a fraction shares a GPU; null: 1 where the cluster has GPUs, else 0",
    )


class SweepConfig(_Model):
    """A whole sweep, as written to RUN_DIR/sweep.yaml with every default visible."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    description: str = ""
    seed: int = Field(0, ge=0, lt=2**63)
    data: DataConfig
    space: SpaceConfig
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    search: SearchConfig = SearchConfig()
    resources: ResourcesConfig = ResourcesConfig()
    storage: str | None = Field(
        None, description="URI for checkpoints and samples that every node reaches; null: RUN_DIR"
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        space, sigma_max = self.space, self.sampling.sigma_max
        highest = 0.0
        if space.sigma_tn != "auto":
            highest = max(space.sigma_range(size).high for size in space.train_size)
        if highest > sigma_max:
            raise ValueError(
                f"space.sigma_tn.high {highest} is above sampling.sigma_max {sigma_max}: "
                "such a model would never see a noisy image"
            )
        if len(set(self.rung_images())) < len(self.evaluation.rungs):
            raise ValueError("evaluation.rungs lie less than one batch apart")
        if self.search.brackets > len(self.evaluation.rungs):
            raise ValueError(
                f"search.brackets {self.search.brackets} is more than the {len(self.evaluation.rungs)} "
                "evaluation.rungs"
            )
        if max(self.space.train_size) < self.training.batch_size // 64:
            raise ValueError("training.batch_size is more than 64 times the largest train size")
        return self

    def rung_images(self) -> tuple[int, ...]:
        """Images seen at each rung, whole batches, rising: (n_rungs,)."""
        batch = self.training.batch_size
        steps = [max(round(share * self.training.images / batch), 1) for share in self.evaluation.rungs]
        return tuple(step * batch for step in steps)


class TrainingRun(_Model):
    """One production training: the `training` block of recommendation.yaml."""

    data: DataConfig
    train_size: Annotated[int, Field(ge=2)] | None = Field(None, description="null: the whole set")
    sigma_tn: Annotated[float, Field(ge=0)]
    mix_ratio: Annotated[float, Field(ge=0, lt=1)]
    seed: int = Field(0, ge=0, lt=2**63)
    training: TrainingConfig
    sampling: SamplingConfig = SamplingConfig()


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping that a user handed in, with the safe loader.

    Raises UserError when the file is missing, unreadable, huge, not YAML or not a mapping.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes; is it really a YAML file?")
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a YAML file ({reason})") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds no keys; expected a mapping such as 'name: digits'")
    return loaded


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return `values` with each `key.path=value` of `overrides` set; values are read as YAML.

    Raises UserError for an override that is not of that form.
    """
    result: dict[str, Any] = _copy_mappings(values)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not all(key.split(".")):
            raise UserError(f"--set {override}: expected key=value, e.g. training.batch_size=32")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"--set {override}: the value is not YAML") from error
        node = result
        *parents, leaf = key.split(".")
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        node[leaf] = value
    return result


def _copy_mappings(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _copy_mappings(item) for key, item in value.items()}
    return value


def parse(model: type[M], values: Mapping[str, Any], origin: str) -> M:
    """Validate `values` against `model`.

    Raises UserError with one line that starts with `origin` and names the first offending key.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{origin}: {_first_problem(model, error)}") from error


def _first_problem(model: type[BaseModel], error: ValidationError) -> str:
    problem = error.errors()[0]
    location = [part for part in problem["loc"] if part not in _UNION_TAGS]
    key = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        names = [name for name in _field_names(model, location[:-1]) if name != location[-1]]
        near = difflib.get_close_matches(str(location[-1]), names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(names)}"
        return f"unknown key '{key}': {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"key '{key}' is missing"
    got = problem.get("input")
    shown = "" if isinstance(got, (dict, BaseModel)) else f" (got {got!r:.80})"
    return f"{key}: {message}{shown}" if key else f"{message}"


def _field_names(model: type[BaseModel], location: list[Any]) -> list[str]:
    """The keys that are known at `location`, below `model`."""
    models = [model]
    for part in (part for part in location if not str(part).isdecimal()):
        annotations = [m.model_fields[str(part)].annotation for m in models if str(part) in m.model_fields]
        models = [found for annotation in annotations for found in _models_in(annotation)]
    return sorted({name for found in models for name in found.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]


def to_yaml(model: BaseModel) -> str:
    """Render a configuration with every default written out, in the order of its definition."""
    values = model.model_dump(mode="json")
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
