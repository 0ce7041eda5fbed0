"""What is recommended for one train size: figures, verdict and cautions, as files and programs have them."""

from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from pareto_amb.diffusion.units import sigma_to_vp
from pareto_amb.results.baseline import Baseline, Figures
from pareto_amb.results.points import Budget

VerdictWord = Literal[
    "copies-less", "copies-less-at-worse-quality", "stop-early", "no-gain", "ddpm-does-not-copy", "unknown"
]
ADVISED = {"copies-less", "copies-less-at-worse-quality", "stop-early"}
"""The verdicts with which a training is advised; with the others its figures are given, and no advice."""


class OtherTraining(BaseModel):
    """Another training, stopped after `images_seen` images.

    Its figures lie under the objectives' names. `sigma_tn` is 0 for a method without one; files of older
    versions have no `parameters`.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    method: str
    sigma_tn: float
    parameters: dict[str, float] = Field(default_factory=dict)
    images_seen: int

    @property
    def chosen(self) -> dict[str, float]:
        """What is known of its parameters."""
        return self.parameters or {"sigma_tn": self.sigma_tn}

    def __getitem__(self, objective: str) -> float:
        """The figure of an objective. KeyError for one that is not there."""
        return float((self.__pydantic_extra__ or {})[objective])


class Confirmation(BaseModel):
    """The recommended trial in the search, and how far the mean of its fresh seeds lies from that.

    It was picked for its figures in the search, so that these flatter it; the fresh seeds do not. For each
    objective: `search_NAME` and `NAME_change`.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    trials: list[str]

    def objectives(self) -> list[str]:
        """The names of the objectives, in their order."""
        names = (self.__pydantic_extra__ or {}).keys()
        return [name.removeprefix("search_") for name in names if name.startswith("search_")]

    def searched(self, objective: str) -> float:
        """The figure that the search measured."""
        return float((self.__pydantic_extra__ or {})[f"search_{objective}"])

    def change(self, objective: str) -> float:
        """How far the mean of the fresh seeds lies from it."""
        return float((self.__pydantic_extra__ or {})[f"{objective}_change"])


class Gain(BaseModel):
    """What the recommended training gains over DDPM stopped at the same point, in two steps.

    `control` are means over `trials`: clean images at the recommended training's noise levels and seeds, and
    with what the method does `beside` noisy copies. From `ddpm` to it is what these gain, from it to the
    recommendation what the noisy copies do.
    """

    trials: list[str]
    beside: list[str] = []
    ddpm: Figures
    control: Figures


class FinalFigures(BaseModel):
    """The second measurement of the recommended training, on more samples; DDPM's is at its full budget.

    Never to be drawn beside figures of fewer samples.
    """

    n_samples: int
    training: Figures
    ddpm: Figures | None


class Caution(BaseModel):
    """What a reader of the figures must know: a word that stays from version to version, and a sentence."""

    word: str
    sentence: str


class Recommendation(Figures):
    """The training that is recommended for one train size, and what speaks for it.

    `main` names the method's first parameter, which `interval` and `window` are about. Each objective's
    figure is a `Spread` under its name.
    """

    train_size: int
    verdict: VerdictWord = "unknown"
    verdict_words: str = ""
    cautions: list[Caution] = Field(default_factory=list)
    policy: str
    max_memorization: float | None = Field(None, ge=0, le=1)
    """The limit of the policy max-memorization. None in files of older versions."""
    budget: Budget = "full"
    """`any`: chosen among all stopping points of all trainings; `full`: among full trainings."""
    method: str = "algorithm1"
    parameters: dict[str, float] = Field(default_factory=dict)
    main: str = "sigma_tn"
    sigma_tn: float | None = None
    sigma_tn_vp: float | None = None
    sigma_tn_step: int | None = None
    """The nearest step of the network's schedule, where it has one."""
    interval: tuple[float, float] | None = Field(
        None, validation_alias=AliasChoices("interval", "sigma_tn_interval")
    )
    """In 90% of the functions that the points allow the policy takes a value in it; holds the chosen one.

    None for a method without parameters, or whose first one was not searched.
    """
    served: float | None = None
    """The share of those functions in which the policy admits anything."""
    mix_ratio: float | None = None
    trial_id: str
    images_seen: int | None = None
    """Where the training stops. None in files of older versions: at its full budget."""
    similarity_excess: float | None = None
    """How far the mean similarity of samples to the nearest training image lies above held-out images'."""
    p_front: float | None = None
    """The share of redraws of the points in which none dominates this one."""
    baseline: Baseline
    heldout_memorization: float
    confirmation: Confirmation | None = None
    """Where fresh seeds confirmed the trial; the figures are then their means."""
    refuted: list[str] = Field(default_factory=list)
    """Trials that the policy would have taken first, had fresh seeds not shown them worse than DDPM."""
    tolerance: dict[str, float] = Field(default_factory=dict)
    """By objective the share of DDPM's figure within which another one counts as no worse, if any."""
    window: tuple[float, float] | None
    early_stop: OtherTraining | None
    """At budget `full`: an earlier stopping point that is at least as good in every objective."""
    equal_budget: OtherTraining | None = None
    """At budget `any`: what the policy takes among full trainings."""
    gain: Gain | None = None
    final: FinalFigures | None = None
    summary: str

    @property
    def advised(self) -> bool:
        """Whether the verdict is that one should train so."""
        return self.verdict in ADVISED

    def lines(self) -> list[str]:
        """The verdict, what to train with and where to stop, then each caution, as sentences for people."""
        return [self.summary, *(f"caution: {caution.sentence}" for caution in self.cautions)]

    def tags(self) -> dict[str, str]:
        """All of it as plain text by flat names, as MLflow takes it; figures that are not there are left out.

        The figure NAME of an objective has NAME_low and NAME_high beside it. DDPM's is ddpm_NAME, stopped at
        the same point ddpm_same_stop_NAME; the control's is control_NAME, those of the final measurement are
        final_NAME and final_ddpm_NAME. `cautions` are lines of `word: sentence`, empty where there are none.
        """
        values: dict[str, Any] = {
            "verdict": self.verdict,
            "verdict_words": self.verdict_words,
            "cautions": "\n".join(f"{caution.word}: {caution.sentence}" for caution in self.cautions),
            "summary": self.summary,
            "policy": self.policy,
            "max_memorization": self.max_memorization,
            "budget": self.budget,
            "trial_id": self.trial_id,
            "images_seen": self.images_seen,
            "similarity_excess": self.similarity_excess,
            "method": self.method,
            **self.parameters,
            "sigma_tn_vp": self.sigma_tn_vp,
            "sigma_tn_step": self.sigma_tn_step,
            "p_front": self.p_front,
            "served": self.served,
            "heldout_memorization": self.heldout_memorization,
            "ddpm_seeds": self.baseline.seeds,
            "ddpm_images_seen": self.baseline.images_seen,
            "ddpm_similarity_excess": self.baseline.similarity_excess,
            "final_n_samples": self.final and self.final.n_samples,
            "refuted": " ".join(self.refuted),
        }
        for name, ends in ((self.main, self.interval), ("window", self.window)):
            values |= dict(zip((f"{name}_low", f"{name}_high"), ends or (), strict=False))
        if self.interval is not None and self.sigma_tn is not None and self.main == "sigma_tn":
            values["sigma_tn_vp_low"], values["sigma_tn_vp_high"] = map(sigma_to_vp, self.interval)
        for prefix, figures in self._figures().items():
            for name in figures.objectives():
                spread = figures[name]
                values[f"{prefix}{name}"] = spread.value
                if spread.deviation is not None:
                    values[f"{prefix}{name}_low"], values[f"{prefix}{name}_high"] = spread.low, spread.high
        if self.confirmation is not None:
            values |= self.confirmation.model_dump(exclude={"trials"})
            values["confirmed_by"] = " ".join(self.confirmation.trials)
        return {name: str(value) for name, value in values.items() if value is not None}

    def _figures(self) -> dict[str, Figures]:
        """All figures with intervals, by what their tags begin with."""
        found: dict[str, Figures | None] = {"": self, "ddpm_": self.baseline}
        if self.gain is not None:
            found |= {"ddpm_same_stop_": self.gain.ddpm, "control_": self.gain.control}
        if self.final is not None:
            found |= {"final_": self.final.training, "final_ddpm_": self.final.ddpm}
        return {prefix: figures for prefix, figures in found.items() if figures is not None}
