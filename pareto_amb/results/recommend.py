"""From the results of one train size to the training that is recommended."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pareto_amb.config import SpaceConfig, SweepConfig
from pareto_amb.declared import BASELINE, Declared
from pareto_amb.diffusion.units import sigma_to_vp
from pareto_amb.errors import UserError
from pareto_amb.results.baseline import quantile_of_noise, spread
from pareto_amb.results.interval import Picked, pick_everywhere
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
) -> Recommendation:
    """Pick the trial to train with, at full budget, of a method that may be recommended.

    A trial that was confirmed counts with the mean of its fresh seeds. `match-ddpm`, which confirmations
    are made for, takes one of the confirmed trials where any of them will do: an unconfirmed one that looks
    better would be the luckiest draw again. The policies are in `policies.py`. Without the `config` of the
    sweep nothing is known of the range that was searched but the values tried, nor of trainings to come;
    `stopped` says why the search ended itself.

    Raises UserError when no completed trial satisfies the policy, with the nearest one that nearly does.
    """
    space = config.space if config is not None else None
    found = _Choice(size, make_policy(policy, max_memorization), space).recommendation()
    return assessed(found, size, config, stopped)


class _Choice:
    """One policy applied to one train size."""

    def __init__(self, size: SizeResults, policy: Policy, space: SpaceConfig | None) -> None:
        """Choose a trial; UserError when there is none to choose."""
        self._size, self._policy, self._space = size, policy, space
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
        reach, picked = quantile_of_noise(size.baseline.seeds), self._picked()
        figures = {
            o.name: spread(
                o, float(chosen[o.name]), reach * chosen[f"{o.name}_sd"], float(chosen[f"{o.name}_sd"])
            )
            for o in size.objectives
        }
        return Recommendation(
            train_size=size.train_size,
            policy=self._policy.name,
            method=self._method.name,
            parameters=parameters,
            main=next(iter(parameters), ""),
            sigma_tn=sigma_tn,
            sigma_tn_vp=None if sigma_tn is None else sigma_to_vp(sigma_tn),
            interval=picked.interval,
            served=picked.served,
            mix_ratio=parameters.get("mix_ratio"),
            trial_id=str(chosen.trial_id),
            p_front=float(chosen.p_front),
            baseline=size.baseline,
            heldout_memorization=float(chosen.heldout_memorization),
            confirmation=self._confirmation(),
            refuted=self._refuted(),
            window=self._window(),
            early_stop=self._early_stop(),
            summary="",
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

    def _picked(self) -> Picked:
        if not self._method.parameters:
            return Picked(None, 1.0)
        return pick_everywhere(self._size, self._policy, self._method, self._chosen, self._space)

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
        searched = rows[rows.trial_id == chosen.trial_id]
        if searched.empty:
            return None
        search = searched.iloc[0]
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

    def _early_stop(self) -> OtherTraining | None:
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
        return OtherTraining(
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
