"""How many trials are handed out: as many as run beside each other, and so many that wait for a worker.

Ray Tune alone starts one worker after another, and throws a starting one away where another is free first.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.search import Searcher

from pareto_amb.config import SweepConfig
from pareto_amb.running.scheduler import ParetoHalving

ASK_SECONDS = 1.0
"""Ray is asked for the resources of its nodes at most so often."""


class Slots:
    """How many trials the connected cluster can run beside each other, as nodes join and leave.

    What others hold of a `shared` cluster when this is made counts as theirs from then on.
    """

    def __init__(self, config: SweepConfig, gpus: float, shared: bool) -> None:
        """Each trial has so many `gpus`, or such a fraction of one."""
        self.gpus = gpus
        self.each = {"cpu": float(config.resources.cpus_per_trial), "gpu": gpus}
        there = ray.cluster_resources()
        free = ray.available_resources() if shared else there
        self._others = {name: _amount(there, name) - _amount(free, name) for name in self.each}
        self._asked, self._known = -math.inf, 1

    def count(self) -> int:
        """One at least."""
        if time.monotonic() - self._asked >= ASK_SECONDS:
            there = ray.cluster_resources()
            ours = {name: _amount(there, name) - others for name, others in self._others.items()}
            fit = min(int(ours[name] / each + 1e-9) for name, each in self.each.items() if each)
            self._asked, self._known = time.monotonic(), max(fit, 1)
        return self._known


def _amount(resources: Mapping[str, float], name: str) -> float:
    """Ray writes the names of resources in capitals where it counts them, and leaves out what is used up."""
    return resources.get(name.upper(), 0.0)


class Paced(Searcher):
    """Hands out what another searcher has, as long as a worker is free for it, and so many more `ahead`.

    Paused trials hold up no other. Where all that was handed out has a worker, those ahead are tried: there
    may be more slots than is known.
    """

    def __init__(
        self, searcher: Searcher, slots: Callable[[], int], ahead: int, halving: ParetoHalving | None = None
    ) -> None:
        super().__init__(metric=searcher.metric, mode=searcher.mode)
        self._searcher, self._slots, self._ahead, self._halving = searcher, slots, ahead, halving
        self._handed_out: set[str] = set()
        self._at_work: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """As the other searcher, and None where what was handed out is enough. `trial_id` is Ray's own."""
        under_way = len(self._handed_out) - (self._halving.n_paused if self._halving else 0)
        if under_way >= self._slots() and under_way - len(self._at_work) >= self._ahead:
            return None
        suggested: dict[str, Any] | str | None = self._searcher.suggest(trial_id)
        if isinstance(suggested, dict):
            self._handed_out.add(trial_id)
        return suggested

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """For the other searcher."""
        self._searcher.on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """For the other searcher; and a worker is free."""
        self._handed_out.discard(trial_id)
        self._at_work.discard(trial_id)
        self._searcher.on_trial_complete(trial_id, result, error)

    def works(self, trial: RayTrial, has_worker: bool) -> None:
        """Know whether a trial has a worker."""
        paused = self._halving is not None and self._halving.is_paused(trial)
        if has_worker and not paused:
            self._at_work.add(trial.trial_id)
        else:
            self._at_work.discard(trial.trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the other searcher's state is in the files of a run."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see `save`."""


class Workers(tune.Callback):
    """Tells a searcher which of its trials have a worker."""

    def __init__(self, searcher: Paced) -> None:
        self._searcher = searcher

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles callbacks for a restore of its own, which is never used: leave everything out."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: Any) -> None:
        self._searcher.works(trial, True)

    def on_trial_result(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: dict[str, Any], **_: Any
    ) -> None:
        self._searcher.works(trial, True)

    def on_trial_recover(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **_: Any) -> None:
        self._searcher.works(trial, False)
