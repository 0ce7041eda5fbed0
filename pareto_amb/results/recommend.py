"""From the results of one train size to the training that is recommended."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pareto_amb.config import SpaceConfig, SweepConfig
from pareto_amb.declared import BASELINE, Declared
from pareto_amb.diffusion.units import sigma_to_vp
from pareto_amb.errors import UserError
from pareto_amb.results.gain import final_figures, gain_over_ddpm
from pareto_amb.results.interval import Picked, pick_everywhere
from pareto_amb.results.points import Budget, similarity_excess
from pareto_amb.results.policies import Candidates, Policy, make_policy
from pareto_amb.results.recommendation import Confirmation, OtherTraining, Recommendation
from pareto_amb.results.size import SizeResults
from pareto_amb.results.verdict import assessed


def recommend(
    size: SizeResults,
    policy: str = "match-ddpm",
    max_memorization: float | None = None,
    config: SweepConfig | None = None,
    stopped: str = "",
    budget: Budget = "any",
) -> Recommendation:
    """Pick what to train with, and where to stop it.

    Over `any` budget every stopping point of every training of a method that may be recommended takes part,
    and those of DDPM do; DDPM at its best stopping point is what is to be matched. At `full` budget full
    trainings take part, and DDPM's are what is to be matched: the paper's comparison.

    A trial that was confirmed counts with the mean of its fresh seeds. `match-ddpm`, which confirmations
    are made for, takes one of the confirmed trials where any of them will do: an unconfirmed one that looks
    better would be the luckiest draw again. DDPM of several seeds is no such draw. The policies are in
    `policies.py`. Without the `config` of the sweep nothing is known of the range that was searched but the
    values tried, nor of trainings to come; `stopped` says why the search ended itself.

    Raises UserError when no measured trial satisfies the policy, with the nearest one that nearly does.
    """
    space = config.space if config is not None else None
    rule = make_policy(policy, max_memorization)
    found = _Choice(size.over(budget), rule, space).recommendation()
    found = found.model_copy(update={"max_memorization": max_memorization})
    return assessed(found, size, config, stopped)


def best_of_methods(size: SizeResults, found: Recommendation) -> list["pd.Series[Any]"]:
    """The point of each method but DDPM that the policy of `found` ranks first among the method's own.

    Of the recommended method it is the recommended one. Raises UserError for a policy that is not known, or
    where no baseline has finished.
    """
    stops, rule = size.over(found.budget), make_policy(found.policy, found.max_memorization)
    points = stops.points.reset_index(drop=True)
    candidates = Candidates(stops.minimized(points), stops.limits[0], stops.objectives)
    chosen = []
    for method in size.declared.methods:
        rows = np.flatnonzero(points.method == method)
        if method == found.method:
            ours = (points.trial_id == found.trial_id) & (points.images_seen == found.images_seen)
            rows = np.flatnonzero(ours) if ours.any() else rows
        if len(rows) and method != BASELINE:
            order, _ = rule.rank(candidates.only(rows))
            chosen.append(points.iloc[int(rows[order[0]])])
    return chosen


class _Choice:
    """One policy applied to one train size, at the budget that its results are of."""

    def __init__(self, size: SizeResults, policy: Policy, space: SpaceConfig | None) -> None:
        """Choose a trial, the point `chosen`; UserError when there is none to choose."""
        self._size, self._policy, self._space = size, policy, space
        worst, _ = size.limits  # UserError without a baseline
        methods = size.recommended_methods
        if not methods:
            methods = sorted({m for m in size.frame.method if size.declared.method(m).recommended})
            methods = methods or [n for n, m in size.declared.methods.items() if m.recommended][:1]
            raise UserError(
                f"train size {size.train_size}: no {' or '.join(methods)} trial has finished; continue with "
                "--resume"
            )
        competing = methods if size.budget == "full" else [BASELINE, *methods]
        self._trials = size.points[size.points.method.isin(competing)].reset_index(drop=True)
        self._is_ddpm = (self._trials.method == BASELINE).to_numpy()
        self._candidates = Candidates(size.minimized(self._trials), worst, size.objectives)
        place = self._choose()
        if place is None:
            named = [_describe_main(row, size.declared) for _, row in self._trials.iterrows()]
            raise UserError(policy.miss(self._candidates, named))
        self.chosen = self._trials.iloc[place]
        self._method = size.declared.method(str(self.chosen.method))

    def recommendation(self) -> Recommendation:
        size, chosen = self._size, self.chosen
        parameters = {name: float(chosen[name]) for name in self._method.parameter_names}
        sigma_tn, picked = parameters.get("sigma_tn"), self._picked()
        return Recommendation(
            train_size=size.train_size,
            policy=self._policy.name,
            budget=size.budget,
            method=self._method.name,
            parameters=parameters,
            main=next(iter(parameters), ""),
            sigma_tn=sigma_tn,
            sigma_tn_vp=None if sigma_tn is None else sigma_to_vp(sigma_tn),
            sigma_tn_step=_step(size.declared, parameters),
            interval=picked.interval,
            served=picked.served,
            mix_ratio=parameters.get("mix_ratio"),
            trial_id=str(chosen.trial_id),
            images_seen=int(chosen.images_seen),
            similarity_excess=similarity_excess(size.behind(chosen)),
            p_front=float(chosen.p_front),
            baseline=size.baseline,
            heldout_memorization=float(chosen.heldout_memorization),
            confirmation=self._confirmation(),
            refuted=self._refuted(),
            tolerance={o.name: o.tolerance for o in size.objectives if o.tolerance},
            window=self._window(),
            early_stop=self._early_stop(),
            equal_budget=self._equal_budget(),
            gain=gain_over_ddpm(size, chosen),
            final=final_figures(size, chosen),
            summary="",
            **size.spreads(chosen),
        )

    def _choose(self) -> int | None:
        """The row of the trials that the policy takes.

        Where that is no better than DDPM at its best stopping point, and this lies before the end, it is
        DDPM, stopped early: the plainer and shorter of two that cannot be told apart. A policy that is not
        for fewer copies takes the best stopping point itself, if it admits that.
        """
        size, place = self._size, self._preferred()
        if place is None or self._is_ddpm[place] or not size.stops_early(size.baseline.images_seen):
            return place
        better = size.minimized(self._trials.iloc[[place]])[0] < size.limits[1]
        stops = self._is_ddpm
        if self._policy.for_fewer_copies:
            better = better[[objective.name == "memorization" for objective in size.objectives]]
        else:
            stops = stops & (self._trials.images_seen == size.baseline.images_seen).to_numpy()
        plain = None if better.any() else self._of_these(stops)
        return place if plain is None else plain

    def _preferred(self) -> int | None:
        """What the policy takes, confirmed ones first where it prefers them and any trial was confirmed.

        DDPM of several seeds is as sure as they are; but plain DDPM is no reason not to look at the others.
        """
        confirmed = self._trials.confirmed.to_numpy(dtype=bool)
        if self._policy.prefers_confirmed and confirmed.any():
            several = self._is_ddpm & (self._trials.seeds > 1).to_numpy()
            place = self._of_these(confirmed | several)
            if place is not None and not (self._is_ddpm[place] and self._trials.budget[place] >= 1):
                return place
        return self._policy.pick(self._candidates)

    def _of_these(self, which: NDArray[np.bool_]) -> int | None:
        """What the policy takes of some of the trials, `which` (n,)."""
        rows = np.flatnonzero(which)
        place = self._policy.pick(self._candidates.only(rows))
        return None if place is None else int(rows[place])

    def _picked(self) -> Picked:
        if not self._method.parameters:
            return Picked(None, 1.0)
        return pick_everywhere(self._size, self._policy, self._method, self.chosen, self._space)

    def _window(self) -> tuple[float, float] | None:
        """The widest run of values of the main parameter, all of which beat DDPM, around the chosen one.

        Of trainings that were stopped where the chosen one is.
        """
        if not self._method.parameters:
            return None
        name, trials = self._method.parameters[0].name, self._trials
        there = (trials.method == self._method.name) & (trials.images_seen == self.chosen.images_seen)
        ordered = trials[there].sort_values(name)
        wins = beats_baseline(self._size, ordered)
        values = ordered[name].to_numpy(dtype=np.float64)
        here = int(np.flatnonzero(values == float(self.chosen[name]))[0])
        if not wins[here]:
            return None
        losses = np.flatnonzero(~wins)
        low = losses[losses < here].max(initial=-1) + 1
        high = losses[losses > here].min(initial=len(wins)) - 1
        return float(values[low]), float(values[high])

    def _in_the_search(self, point: "pd.Series[Any]") -> pd.DataFrame:
        """The row that the search measured of a confirmed point, though the trial has failed since.

        None in the table of a stranger.
        """
        rows = self._size.frame.dropna(subset=[objective.name for objective in self._size.objectives])
        return rows[(rows.trial_id == point.trial_id) & (rows.images_seen == point.images_seen)]

    def _confirmation(self) -> Confirmation | None:
        chosen = self.chosen
        if not chosen.confirmed or (searched := self._in_the_search(chosen)).empty:
            return None
        search, figures = searched.iloc[0], dict[str, Any]()
        for name in (objective.name for objective in self._size.objectives):
            figures[f"search_{name}"] = float(search[name])
            figures[f"{name}_change"] = float(chosen[name] - search[name])
        return Confirmation(trials=self._size.behind(chosen).trial_id.tolist(), **figures)

    def _refuted(self) -> list[str]:
        """The confirmed trials that what the search measured would admit, and their mean does not."""
        if not self._policy.prefers_confirmed:
            return []
        confirmed = self._trials[self._trials.confirmed]
        worse = confirmed[~self._admitted(confirmed)]
        looked_better = [self._admitted(self._in_the_search(point)).any() for _, point in worse.iterrows()]
        return sorted({str(trial_id) for trial_id in worse.trial_id[looked_better]})

    def _admitted(self, rows: pd.DataFrame) -> NDArray[np.bool_]:
        """Which of `rows` (n,) are no worse than DDPM in what is held."""
        held = [k for k, objective in enumerate(self._size.objectives) if objective.constraint]
        worst = self._candidates.worst[held]
        return np.asarray((self._size.minimized(rows)[:, held] <= worst).all(axis=1))

    def _early_stop(self) -> OtherTraining | None:
        """At full budget, an earlier stopping point that is at least as good in everything."""
        size = self._size
        if size.budget == "any":
            return None
        rows = size.over("any").configurations
        rows = rows[(rows.budget < 1) & rows.method.isin([BASELINE, *size.over("any").recommended_methods])]
        chosen = size.minimized(self._trials.loc[[self.chosen.name]])
        better = rows[(size.minimized(rows) <= chosen).all(axis=1)]
        if better.empty:
            return None
        return _other_training(size, better.iloc[_best_first(size, better)[0]])

    def _equal_budget(self) -> OtherTraining | None:
        """Over all budgets, what the policy takes among full trainings; None where none will do."""
        if self._size.budget == "full":
            return None
        try:
            full = _Choice(self._size.over("full"), self._policy, self._space)
        except UserError:
            return None
        return _other_training(self._size, full.chosen)


def _other_training(size: SizeResults, point: "pd.Series[Any]") -> OtherTraining:
    method = size.declared.method(str(point.method))
    return OtherTraining(
        method=method.name,
        sigma_tn=float(point.get("sigma_tn", 0.0)),
        parameters={name: float(point[name]) for name in method.parameter_names},
        images_seen=int(point.images_seen),
        **{objective.name: float(point[objective.name]) for objective in size.objectives},
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


def _step(declared: Declared, parameters: Mapping[str, float]) -> int | None:
    """The step of sigma_tn in the network's schedule, where there are both."""
    parameter = declared.parameters.get("sigma_tn")
    if "sigma_tn" not in parameters or parameter is None or parameter.schedule is None:
        return None
    return parameter.schedule.step(parameters["sigma_tn"])


def _describe_main(row: "pd.Series[Any]", declared: Declared) -> str:
    """`sigma_tn 0.3` for a trial of a method whose first parameter that is."""
    parameters = declared.method(str(row.method)).parameters
    if not parameters:
        return str(row.method)
    main, value = parameters[0], float(row[parameters[0].name])
    return f"{main.terminal_label} {value:.3g}{main.at_step(value)}"
