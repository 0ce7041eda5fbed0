"""A results table as one object, and one object for each of its train sizes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pareto_amb.declared import BASELINE, Declared, Objective
from pareto_amb.errors import UserError
from pareto_amb.results.baseline import (
    Baseline,
    Spread,
    limits,
    quantile_of_noise,
    spread,
    spread_over_seeds,
)
from pareto_amb.results.noise import (
    TrainingNoise,
    deviations,
    probability_non_dominated,
    sampling_deviation,
    training_noise,
)
from pareto_amb.results.points import (
    Budget,
    average_seeds,
    comparable,
    configuration,
    finished,
    is_control,
    measured,
    similarity_excess,
    taken_over,
)
from pareto_amb.search.pareto import hypervolume, non_dominated

Array = NDArray[np.float64]


class Results:
    """A results table and what its sweep declared."""

    def __init__(self, frame: pd.DataFrame, declared: Declared) -> None:
        self.frame, self.declared = frame, declared
        self._sizes: dict[int, SizeResults] = {}

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What trials are judged by."""
        return tuple(self.declared.objectives.values())

    def sizes(self) -> list[int]:
        """The train sizes that were measured, rising."""
        return sorted({int(size) for size in self.frame.train_size})

    def size(self, train_size: int) -> "SizeResults":
        """The results of one train size; there may be none."""
        if train_size not in self._sizes:
            rows = self.frame[self.frame.train_size == train_size]
            self._sizes[train_size] = SizeResults(rows, self.declared, train_size)
        return self._sizes[train_size]


@dataclass(frozen=True)
class SizeResults:
    """All results of one train size. What follows from the rows is worked out once.

    A point is a configuration at a stopping point, the mean over its seeds. At `budget` full there is one,
    the end of the training; at any every rung is one that was measured on as many samples.
    """

    frame: pd.DataFrame
    declared: Declared
    train_size: int
    budget: Budget = "full"

    def over(self, budget: Budget) -> "SizeResults":
        """The same results at full budget, or over all stopping points."""
        return self if budget == self.budget else self._other

    @cached_property
    def _other(self) -> "SizeResults":
        other = replace(self, budget="any" if self.budget == "full" else "full")
        vars(other)["_other"] = self  # so that neither is worked out twice
        return other

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return tuple(self.declared.objectives.values())

    @cached_property
    def full(self) -> pd.DataFrame:
        """The rows that may share a frontier at full budget; see `comparable`."""
        return comparable(self.frame, self.objectives)

    @cached_property
    def anytime(self) -> pd.DataFrame:
        """The rows that may share a frontier over all budgets; see `comparable`."""
        return comparable(self.frame, self.objectives, "any")

    @property
    def rows(self) -> pd.DataFrame:
        """The rows that may share a frontier at `budget`."""
        return self.full if self.budget == "full" else self.anytime

    @cached_property
    def controls(self) -> pd.DataFrame:
        """The rows of controls, measured on as many samples as those of `rows`; they are no points."""
        rows = measured(self.frame[is_control(self.frame)], self.objectives)
        return rows[rows.n_samples.isin(self.rows.n_samples)]

    @cached_property
    def full_images(self) -> int:
        """Images of a full training; 0 while none has ended."""
        return 0 if self.full.empty else int(self.full.images_seen.max())

    def stops_early(self, images_seen: int | None) -> bool:
        """Whether a training that stops there has not had its full budget; None stands for its end."""
        return images_seen is not None and images_seen < self.full_images

    @cached_property
    def configurations(self) -> pd.DataFrame:
        """The points at `budget`: one row a configuration and stopping point, the mean over its seeds."""
        return average_seeds(self.rows, self.declared)

    @cached_property
    def points(self) -> pd.DataFrame:
        """`configurations` with how sure each is.

        `NAME_sd` are the standard deviations of a point under `redraw`, `p_front` is the share of redraws in
        which no other point dominates it.
        """
        noise = self.noise_at(self.configurations)
        p_front = probability_non_dominated(self.configurations, self.objectives, noise)
        return self.with_noise(self.configurations).assign(p_front=p_front)

    def with_noise(self, points: pd.DataFrame) -> pd.DataFrame:
        """Points with the standard deviation of each figure, `NAME_sd`."""
        noise = self.noise_at(points)
        return points.assign(**{f"{o.name}_sd": deviations(points, noise, o) for o in self.objectives})

    def behind(self, point: "pd.Series[Any]") -> pd.DataFrame:
        """The rows whose mean one of `points` is."""
        rows = self.rows[self.rows.images_seen == point.images_seen]
        if point.method == BASELINE:
            return rows[rows.method == BASELINE]
        return rows[(rows.confirms if point.confirmed else rows.trial_id) == point.trial_id]

    def spreads(self, point: "pd.Series[Any]") -> dict[str, Spread]:
        """The figures of a point `with_noise`, each with its interval. UserError without a baseline."""
        reach, found = quantile_of_noise(self.baseline.seeds), {}
        for o in self.objectives:
            deviation = float(point[f"{o.name}_sd"])
            found[o.name] = spread(o, float(point[o.name]), reach * deviation, deviation)
        return found

    @cached_property
    def frontier(self) -> pd.DataFrame:
        """The non-dominated configurations at `budget`, by rising figures; DDPM takes part like any."""
        return self._front(self.configurations)

    def _front(self, rows: pd.DataFrame) -> pd.DataFrame:
        front = rows[non_dominated(self.minimized(rows))]
        return front.sort_values([objective.name for objective in self.objectives])

    def minimized(self, rows: pd.DataFrame) -> Array:
        """The objectives of `rows` (n, m), maximised ones times -1."""
        values = rows[[objective.name for objective in self.objectives]].to_numpy(dtype=np.float64)
        return np.asarray(values * self.signs)

    @property
    def signs(self) -> Array:
        """1 for each minimised objective, -1 for each maximised one: (m,)."""
        return np.array([objective.sign for objective in self.objectives])

    @cached_property
    def noise(self) -> TrainingNoise:
        """What another seed changes at full budget."""
        return training_noise(self.full, self.objectives)

    @cached_property
    def _noise_by_stop(self) -> dict[int, TrainingNoise]:
        """What another seed changes, by the stopping points at which DDPM has two seeds or more."""
        stops = self.rows[self.rows.method == BASELINE].groupby("images_seen")
        return {int(at): training_noise(rows, self.objectives) for at, rows in stops if len(rows) > 1}

    def noise_at(self, points: pd.DataFrame) -> TrainingNoise:
        """What another seed changes at each of `points` (n,).

        It is that of DDPM's seeds at the same stopping point, or at full budget where it has not two there.
        """
        each = [self._noise_by_stop.get(int(images), self.noise) for images in points.images_seen]
        names = [objective.name for objective in self.objectives]
        return TrainingNoise({name: np.array([noise.of[name] for noise in each]) for name in names})

    @cached_property
    def _baseline_rows(self) -> pd.DataFrame:
        """DDPM's rows at full budget or, over all budgets, at the first stopping point where its FID is best.

        It is best where the mean lies within one standard error of the best mean: what follows does not
        improve it for certain, and copies more. FID stands for the first figure that is held. Only stopping
        points count that as many seeds have reached as have ended: fewer would be luckier.
        """
        rows = self.rows[self.rows.method == BASELINE]
        if self.budget == "full":
            return rows
        held = next((o for o in self.objectives if o.constraint), self.objectives[0])
        stops = held.sign * rows.groupby("images_seen")[held.name].mean()
        sizes = rows.groupby("images_seen").size()
        stops = stops[sizes >= min(len(finished(rows)), sizes.max())]
        best = rows[rows.images_seen == stops.idxmin()]
        found = spread_over_seeds(best[held.name], sampling_deviation(best, held), held)
        error = (found.deviation or 0.0) / math.sqrt(len(best))
        return rows[rows.images_seen == stops[stops <= stops.min() + error].index.min()]

    @property
    def has_baseline(self) -> bool:
        """Whether a DDPM training has reached its full budget."""
        return not finished(self.rows[self.rows.method == BASELINE]).empty

    @cached_property
    def baseline(self) -> Baseline:
        """Mean and seed spread of DDPM: at full budget or, over all budgets, where it is best to stop it.

        That is the first point where its FID is as good as at its best. UserError when no baseline has ended.
        """
        if not self.has_baseline:
            raise UserError(
                f"train size {self.train_size}: no DDPM baseline has finished, so there is nothing to "
                "compare with; continue the sweep with --resume"
            )
        rows = self._baseline_rows
        spreads = {
            o.name: spread_over_seeds(rows[o.name], sampling_deviation(rows, o), o) for o in self.objectives
        }
        return Baseline(
            seeds=len(rows),
            images_seen=int(rows.images_seen.iloc[0]),
            similarity_excess=similarity_excess(rows),
            **spreads,
        )

    @cached_property
    def limits(self) -> tuple[Array, Array]:
        """What is no worse than DDPM (m,), what is better beyond its noise (m,); minimised."""
        return limits(self.baseline, self.objectives)

    @property
    def recommended_methods(self) -> list[str]:
        """The methods that recommendations may come from, of those with points here."""
        methods = (str(method) for method in self.configurations.method.unique())
        return [method for method in methods if self.declared.method(method).recommended]

    # --- hypervolume ------------------------------------------------------------------------------

    @cached_property
    def box(self) -> tuple[Array, Array]:
        """A perfect model (m,), and where the hypervolume ends (m,), both minimised.

        The end lies `slack` times as far from the perfect model as DDPM's mean does: it is known once the
        baselines are done, whatever is searched. NaN while no baseline has finished.
        """
        means = self.full.loc[self.full.method == BASELINE, [o.name for o in self.objectives]].mean()
        return reference_box(means.to_numpy(dtype=np.float64), self.objectives)

    def normalized_hypervolume(self, points: pd.DataFrame) -> float:
        """The share of `box` that `points` dominate. DDPM itself dominates nothing of it.

        NaN where there is no such box: no baseline has finished, or DDPM is perfect in an objective, such as
        one that copies nothing, so that nothing can copy less.
        """
        ideal, reference = self.box
        if not (reference > ideal).all():
            return float("nan")
        return hypervolume(self.minimized(points), reference) / float((reference - ideal).prod())

    @cached_property
    def hypervolume_history(self) -> pd.DataFrame:
        """What was reached after each training that came to its full budget.

        Columns: `trial_id`, its `recorded_at`, `trainings` (cost so far, in full trainings, stopped and
        failed ones included), `best_NAME` of each objective, and `hypervolume`, normalised, against today's
        reference point. It can fall: a configuration that is repeated counts with the mean of its repeats.
        Empty when the order of the rows is not known (tables of old versions).
        """
        rows = self.frame[self.frame.rung > 0]
        rows = rows.sort_values("recorded_at", kind="stable", ignore_index=True)
        before = rows.groupby("trial_id").budget.shift().fillna(taken_over(rows))
        spent = (rows.budget - before).cumsum()
        finished = comparable(rows, self.objectives)
        if rows.recorded_at.isna().any():
            finished = finished.iloc[:0]
        measured, reached = finished[[objective.name for objective in self.objectives]], []
        points, best = measured.iloc[:0], []
        for k, repeat in enumerate((configuration(finished) != finished.trial_id).tolist()):
            points = (
                average_seeds(finished.iloc[: k + 1], self.declared)[measured.columns]
                if repeat
                else pd.concat([points, measured.iloc[[k]]])
            )
            reached.append(self.normalized_hypervolume(points))
            best.append(self.signs * self.minimized(points).min(axis=0))
        return pd.DataFrame(
            {
                "trial_id": finished.trial_id.tolist(),
                "recorded_at": finished.recorded_at.tolist(),
                **dict(zip(measured.add_prefix("best_"), np.reshape(best, measured.shape).T, strict=True)),
                "trainings": spent[finished.index].tolist(),
                "hypervolume": reached,
            }
        )


def reference_box(means: Array, objectives: Sequence[Objective]) -> tuple[Array, Array]:
    """A perfect model (m,), and the point `slack` times as far from it as `means` (m,) are, minimised."""
    signs = np.array([objective.sign for objective in objectives])
    ideal = np.array([objective.ideal for objective in objectives])
    slack = np.array([objective.slack for objective in objectives])
    return signs * ideal, signs * (ideal + slack * (means - ideal))
