"""From the results of one train size to the training that is recommended."""

from itertools import starmap
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from pareto_amb.declared import BASELINE, Declared, Objective
from pareto_amb.diffusion.units import sigma_to_vp
from pareto_amb.errors import UserError
from pareto_amb.results.baseline import NOISE_DEVIATIONS, Baseline, Figures, Spread, describe_figure
from pareto_amb.results.noise import redraw
from pareto_amb.results.policies import Candidates, Policy, make_policy
from pareto_amb.results.size import SizeResults

INTERVAL_DRAWS = 1000


class EarlyStop(BaseModel):
    """An earlier rung that is at least as good as the recommendation in every objective.

    Its figures lie under the objectives' names. `sigma_tn` is 0 for a method without one; files of older
    versions have no `parameters`.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    method: str
    sigma_tn: float
    parameters: dict[str, float] = Field(default_factory=dict)
    images_seen: int

    def __getitem__(self, objective: str) -> float:
        """The figure of an objective. KeyError for one that is not there."""
        return float((self.__pydantic_extra__ or {})[objective])

    def describe(self) -> str:
        """One sentence for a summary."""
        chosen = self.parameters or {"sigma_tn": self.sigma_tn}
        name, value = next(iter(chosen.items()))
        figures = " and ".join(starmap(describe_figure, (self.__pydantic_extra__ or {}).items()))
        return (
            f"stopping early does better still: {self.method} at {name} {value:.3g} after "
            f"{self.images_seen:,} images has {figures}"
        )


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

    def describe(self) -> str:
        """One sentence for a summary."""
        n, changes = len(self.trials), []
        for name in self.objectives():
            before = describe_figure(name, self.searched(name))
            after = describe_figure(name, self.searched(name) + self.change(name))
            changes.append(f"{after} after {before.rpartition(' ')[2]}")
        first, *others = changes
        return (
            f"trained again with {n} fresh {'seed' if n == 1 else 'seeds'}: "
            f"{', '.join([f'{first} in the search', *others])}"
        )


class Recommendation(Figures):
    """The training that is recommended for one train size, and what speaks for it.

    `main` names the method's first parameter, which `interval` and `window` are about. Each objective's
    figure is a `Spread` under its name.
    """

    train_size: int
    policy: str
    method: str = "algorithm1"
    parameters: dict[str, float] = Field(default_factory=dict)
    main: str = "sigma_tn"
    sigma_tn: float | None = None
    sigma_tn_vp: float | None = None
    interval: tuple[float, float] | None = Field(
        None, validation_alias=AliasChoices("interval", "sigma_tn_interval")
    )
    """The policy takes a value in it in 90% of redraws of the points; holds the recommended one."""
    mix_ratio: float | None = None
    trial_id: str
    p_front: float | None = None
    """The share of redraws of the points in which none dominates this one."""
    baseline: Baseline
    heldout_memorization: float
    confirmation: Confirmation | None = None
    """Where fresh seeds confirmed the trial; the figures are then their means."""
    refuted: list[str] = Field(default_factory=list)
    """Trials that the policy would have taken first, had fresh seeds not shown them worse than DDPM."""
    window: tuple[float, float] | None
    early_stop: EarlyStop | None
    summary: str


def recommend(
    size: SizeResults, policy: str = "match-ddpm", max_memorization: float | None = None
) -> Recommendation:
    """Pick the trial to train with, at full budget, of a method that may be recommended.

    A trial that was confirmed counts with the mean of its fresh seeds. `match-ddpm`, which confirmations
    are made for, takes one of the confirmed trials where any of them will do: an unconfirmed one that looks
    better would be the luckiest draw again. The policies are in `policies.py`.

    Raises UserError when no completed trial satisfies the policy, with the nearest one that nearly does.
    """
    return _Choice(size, make_policy(policy, max_memorization)).recommendation()


class _Choice:
    """One policy applied to one train size."""

    def __init__(self, size: SizeResults, policy: Policy) -> None:
        """Choose a trial; UserError when there is none to choose."""
        self._size, self._policy = size, policy
        worst, _ = size.limits  # UserError without a baseline
        self._trials = size.points[size.points.method.isin(size.recommended_methods)].reset_index(drop=True)
        if self._trials.empty:
            methods = sorted({m for m in size.frame.method if size.declared.method(m).recommended})
            methods = methods or [name for name, m in size.declared.methods.items() if m.recommended]
            raise UserError(
                f"train size {size.train_size}: no {' or '.join(methods)} trial has finished; continue with "
                "--resume"
            )
        self._candidates = Candidates(size.minimized(self._trials), worst, size.objectives)
        place = self._choose()
        if place is None:
            named = [_describe_main(row, size.declared) for _, row in self._trials.iterrows()]
            raise UserError(policy.miss(self._candidates, named))
        self._chosen = self._trials.iloc[place]
        self._method = size.declared.method(str(self._chosen.method))

    def recommendation(self) -> Recommendation:
        size, chosen = self._size, self._chosen
        parameters = {name: float(chosen[name]) for name in self._method.parameter_names}
        sigma_tn = parameters.get("sigma_tn")
        figures = {
            o.name: _with_noise(o, float(chosen[o.name]), chosen[f"{o.name}_sd"]) for o in size.objectives
        }
        return Recommendation(
            train_size=size.train_size,
            policy=self._policy.name,
            method=self._method.name,
            parameters=parameters,
            main=next(iter(parameters), ""),
            sigma_tn=sigma_tn,
            sigma_tn_vp=None if sigma_tn is None else sigma_to_vp(sigma_tn),
            interval=self._interval(),
            mix_ratio=parameters.get("mix_ratio"),
            trial_id=str(chosen.trial_id),
            p_front=float(chosen.p_front),
            baseline=size.baseline,
            heldout_memorization=float(chosen.heldout_memorization),
            confirmation=self._confirmation(),
            refuted=self._refuted(),
            window=self._window(),
            early_stop=self._early_stop(),
            summary=_in_words(chosen, size),
            **figures,
        )

    def _choose(self) -> int | None:
        """The row of the trials that the policy takes, confirmed ones first where it prefers them."""
        confirmed = np.flatnonzero(self._trials.confirmed)
        if self._policy.prefers_confirmed and len(confirmed):
            of_these = self._candidates.shifted(self._candidates.values[confirmed], np.zeros(1))
            if (place := self._policy.pick(of_these)) is not None:
                return int(confirmed[place])
        return self._policy.pick(self._candidates)

    def _same_method(self) -> pd.DataFrame:
        return self._trials[self._trials.method == self._method.name]

    def _interval(self) -> tuple[float, float] | None:
        """The middle 90% of the main parameter that the policy takes when every point is drawn again.

        DDPM's mean is drawn with the others, and what is no worse than it moves along. A redraw in which the
        policy takes nothing, or another method, does not count.
        """
        if not self._method.parameters:
            return None
        size, points, name = self._size, self._size.points, self._method.parameters[0].name
        draws = redraw(points, size.objectives, size.noise, INTERVAL_DRAWS, np.random.default_rng(0))
        ddpm = np.flatnonzero(points.method == BASELINE)[0]
        moved = draws[:, ddpm] - size.minimized(points)[ddpm]
        ours = draws[:, points.method.isin(size.recommended_methods).to_numpy()]
        taken = [
            self._policy.pick(self._candidates.shifted(values, shift))
            for values, shift in zip(ours, moved, strict=True)
        ]
        rows = self._trials.iloc[[k for k in taken if k is not None]]
        values = rows[rows.method == self._method.name][name].to_numpy(dtype=np.float64)
        here = float(self._chosen[name])
        if not len(values):
            return here, here
        low, high = np.quantile(values, [0.05, 0.95], method="inverted_cdf")
        return min(float(low), here), max(float(high), here)

    def _window(self) -> tuple[float, float] | None:
        """The widest run of values of the main parameter, all of which beat DDPM, around the chosen one."""
        if not self._method.parameters:
            return None
        name = self._method.parameters[0].name
        ordered = self._same_method().sort_values(name)
        wins = beats_baseline(self._size, ordered)
        values = ordered[name].to_numpy(dtype=np.float64)
        here = int(np.flatnonzero(values == float(self._chosen[name]))[0])
        if not wins[here]:
            return None
        losses = np.flatnonzero(~wins)
        low = losses[losses < here].max(initial=-1) + 1
        high = losses[losses > here].min(initial=len(wins)) - 1
        return float(values[low]), float(values[high])

    def _confirmation(self) -> Confirmation | None:
        if not self._chosen.confirmed:
            return None
        rows, chosen = self._size.full, self._chosen
        search = rows[rows.trial_id == chosen.trial_id].iloc[0]
        figures: dict[str, Any] = {}
        for name in (objective.name for objective in self._size.objectives):
            figures[f"search_{name}"] = float(search[name])
            figures[f"{name}_change"] = float(chosen[name] - search[name])
        return Confirmation(trials=rows[rows.confirms == chosen.trial_id].trial_id.tolist(), **figures)

    def _refuted(self) -> list[str]:
        if not self._policy.prefers_confirmed:
            return []
        held = [k for k, objective in enumerate(self._size.objectives) if objective.constraint]
        worse = (self._candidates.values[:, held] > self._candidates.worst[held]).any(axis=1)
        refuted = self._trials[self._trials.confirmed & worse]
        return sorted(str(trial_id) for trial_id in refuted.trial_id)

    def _early_stop(self) -> EarlyStop | None:
        """An earlier rung that is at least as good in everything: stopping early beats training on."""
        size = self._size
        rows = size.anytime[size.anytime.budget < 1]
        rows = rows[rows.method.isin([BASELINE, *size.recommended_methods])]
        chosen = size.minimized(self._trials.loc[[self._chosen.name]])
        better = rows[(size.minimized(rows) <= chosen).all(axis=1)]
        if better.empty:
            return None
        best = better.iloc[_best_first(size, better)[0]]
        method = size.declared.method(str(best.method))
        return EarlyStop(
            method=method.name,
            sigma_tn=float(best.get("sigma_tn", 0.0)),
            parameters={
                name: float(best[name]) for name in size.declared.method(best.method).parameter_names
            },
            images_seen=int(best.images_seen),
            **{objective.name: float(best[objective.name]) for objective in size.objectives},
        )


def beats_baseline(size: SizeResults, rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Which of `rows` (n,) beat DDPM beyond its noise.

    Objectives that are held are no worse within it, the others better by more than it.
    """
    values, (worst, better) = size.minimized(rows), size.limits
    held = np.array([objective.constraint for objective in size.objectives])
    return np.asarray(np.where(held, values <= worst, values < better).all(axis=1))


def _best_first(size: SizeResults, rows: pd.DataFrame) -> NDArray[np.int64]:
    """`rows` by the objectives that are not held, then by the others."""
    values = size.minimized(rows)
    free_first = sorted(range(len(size.objectives)), key=lambda k: size.objectives[k].constraint)
    return np.lexsort([values[:, k] for k in reversed(free_first)])


def _describe_main(row: "pd.Series[Any]", declared: Declared) -> str:
    """`sigma_tn 0.3` for a trial of a method whose first parameter that is."""
    parameters = declared.method(str(row.method)).parameters
    return f"{parameters[0].terminal_label} {row[parameters[0].name]:.3g}" if parameters else str(row.method)


def _with_noise(objective: Objective, value: float, deviation: float) -> Spread:
    """A figure with the interval that the noise of the measurement and of the training gives it."""
    margin = NOISE_DEVIATIONS * float(deviation)
    low, high = value - margin, value + margin
    if objective.direction == "min":
        low = max(low, objective.ideal)
    else:
        high = min(high, objective.ideal)
    if objective.kind == "share":
        low, high = max(low, 0.0), min(high, 1.0)
    return Spread(value=value, low=low, high=high, deviation=float(deviation))


def _in_words(chosen: "pd.Series[Any]", size: SizeResults) -> str:
    baseline, ours = size.baseline, float(chosen.memorization)
    ddpm = baseline["memorization"].value
    change = f"{1 - ours / ddpm:.0%} fewer copies" if ddpm > 0 else "no copies either"
    if ours > ddpm:
        change = "no fewer copies"
    method = size.declared.method(str(chosen.method))
    what = size.declared.in_words(method.name, chosen) or method.label
    verb = "give" if len(method.parameters) > 1 else "gives"
    further = [
        f", {o.label} {chosen[o.name]:.4g} (DDPM {baseline[o.name].value:.4g})" for o in size.objectives[2:]
    ]
    return (
        f"With {size.train_size:,} training images, {what} {verb} FID {chosen.fid:.4g} and memorization "
        f"{ours:.3g}, against DDPM's FID {baseline['fid'].value:.4g} and memorization {ddpm:.3g}: "
        f"{change}{''.join(further)}."
    )
