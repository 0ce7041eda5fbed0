"""A Ray Tune searcher over Optuna: one multi-objective study per train size, all in one study.db.

The results table decides what has happened; the studies follow it. A searcher that is built again on the
files of a killed run therefore hands out exactly the trials that have not finished.
"""

import warnings
from collections import deque
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher
from scipy.stats import qmc
from sqlalchemy import URL

from pareto_amb.config import MixRange, SearchConfig, SpaceConfig, SweepConfig
from pareto_amb.diffusion.noise import natural_mix_ratio
from pareto_amb.diffusion.trainer import noise_distribution
from pareto_amb.randomness import derive_seed
from pareto_amb.results import ResultsTable
from pareto_amb.search.frontier import BASELINE, OBJECTIVES

warnings.filterwarnings("ignore", category=ExperimentalWarning)  # multivariate TPE, constant liar

METHOD = "algorithm1"


def distributions(space: SpaceConfig) -> dict[str, BaseDistribution]:
    """The searched space in Optuna's terms: sigma_tn log-uniform, the mix ratio a range or a choice."""
    mix: BaseDistribution
    if isinstance(space.mix_ratio, MixRange):
        mix = FloatDistribution(space.mix_ratio.low, space.mix_ratio.high)
    else:
        mix = CategoricalDistribution(list(space.mix_ratio))
    sigma = FloatDistribution(space.sigma_tn.low, space.sigma_tn.high, log=True)
    return {"sigma_tn": sigma, "mix_ratio": mix}


def startup_points(space: SpaceConfig, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` points that cover the space evenly (Latin hypercube), sigma_tn on its log scale."""
    unit = qmc.LatinHypercube(d=2, rng=seed).random(count)
    low, high = space.sigma_tn.low, space.sigma_tn.high
    points = []
    for u_sigma, u_mix in unit.tolist():
        if isinstance(space.mix_ratio, MixRange):
            mix: float | str = space.mix_ratio.low + u_mix * (space.mix_ratio.high - space.mix_ratio.low)
        else:
            mix = space.mix_ratio[int(u_mix * len(space.mix_ratio))]
        points.append({"sigma_tn": low * (high / low) ** u_sigma, "mix_ratio": mix})
    return points


def make_sampler(config: SearchConfig, seed: int) -> BaseSampler:
    """The Optuna sampler that steers once the startup points are spent."""
    seed %= 2**32
    if config.sampler == "nsga2":
        return NSGAIISampler(seed=seed, population_size=max(config.startup_trials, 2))
    if config.sampler == "random":
        return RandomSampler(seed=seed)
    return TPESampler(
        n_startup_trials=config.startup_trials, multivariate=True, constant_liar=True, seed=seed
    )


class ParetoSearcher(Searcher):
    """Hands out the DDPM baselines of every train size first, then Algorithm 1 trials in turn.

    A trial's configuration is {trial_id, method, train_size, sigma_tn, mix_ratio, seed}, with the mix
    ratio `natural` resolved to its number.
    """

    def __init__(self, config: SweepConfig, study_path: Path, results: ResultsTable) -> None:
        super().__init__(metric=OBJECTIVES, mode=["min", "min"])
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._config = config
        self._noise = noise_distribution(config.training)
        self._distributions = distributions(config.space)
        url = URL.create("sqlite", database=str(study_path))
        storage = RDBStorage(url.render_as_string(hide_password=False))
        self._studies = {size: self._open_study(storage, size) for size in config.space.train_size}
        self._running: dict[str, dict[str, Any]] = {}
        self._queue = deque(self._unfinished(results))
        self.n_total = self._count_planned()
        self.n_remaining = self.n_total - self._count_finished(results)

    def _open_study(self, storage: RDBStorage, train_size: int) -> optuna.Study:
        study = optuna.create_study(
            study_name=f"train_size={train_size}",
            storage=storage,
            directions=["minimize", "minimize"],
            load_if_exists=True,
        )
        name = f"search/{train_size}/{len(study.trials)}"
        study.sampler = make_sampler(self._config.search, derive_seed(self._config.seed, name))
        if not study.trials:
            search = self._config.search
            count = min(search.startup_trials, search.trials)
            for point in startup_points(
                self._config.space, count, derive_seed(self._config.seed, f"startup/{train_size}")
            ):
                study.enqueue_trial(point)
        return study

    def _count_planned(self) -> int:
        each = self._config.search.baseline_seeds + self._config.search.trials
        return each * len(self._studies)

    def _count_finished(self, results: ResultsTable) -> int:
        statuses = [results.status(trial_id) for trial_id in results.trial_ids()]
        return sum(status in {"complete", "failed"} for status in statuses)

    def _unfinished(self, results: ResultsTable) -> list[dict[str, Any]]:
        """The trials of earlier processes that must run on, baselines of a new run included."""
        baselines = [
            self._baseline(size, k)
            for size in self._studies
            for k in range(self._config.search.baseline_seeds)
        ]
        asked = [
            self._trial_config(size, trial)
            for size, study in self._studies.items()
            for trial in study.get_trials(states=[TrialState.RUNNING])
        ]
        unfinished = []
        for trial in baselines + asked:
            row = results.last_row(trial["trial_id"])
            if row is not None and row["status"] in {"complete", "failed"}:
                self._tell(trial, row)
            else:
                unfinished.append(trial)
        return unfinished

    def _baseline(self, train_size: int, k: int) -> dict[str, Any]:
        return {
            "trial_id": f"n{train_size}-{BASELINE}-s{k}",
            "method": BASELINE,
            "train_size": train_size,
            "sigma_tn": 0.0,
            "mix_ratio": 0.0,
            "seed": self._config.seed + k,
        }

    def _trial_config(self, train_size: int, trial: FrozenTrial | optuna.Trial) -> dict[str, Any]:
        sigma_tn, mix_ratio = trial.params["sigma_tn"], trial.params["mix_ratio"]
        if mix_ratio == "natural":
            mix_ratio = natural_mix_ratio(self._noise, sigma_tn)
        return {
            "trial_id": f"n{train_size}-{METHOD}-{trial.number:04d}",
            "method": METHOD,
            "train_size": train_size,
            "sigma_tn": sigma_tn,
            "mix_ratio": mix_ratio,
            "seed": self._config.seed + trial.number,
            "number": trial.number,
        }

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's configuration, or Searcher.FINISHED. `trial_id` is Ray's own."""
        trial = self._queue.popleft() if self._queue else self._ask()
        if trial is None:
            return str(Searcher.FINISHED)
        self._running[trial_id] = trial
        return {key: value for key, value in trial.items() if key != "number"}

    def _ask(self) -> dict[str, Any] | None:
        """A new trial for the train size that has been given the fewest, None when all have theirs."""
        asked = {
            size: sum(t.state != TrialState.WAITING for t in study.get_trials(deepcopy=False))
            for size, study in self._studies.items()
        }
        size = min(asked, key=lambda s: asked[s])
        if asked[size] >= self._config.search.trials:
            return None
        return self._trial_config(size, self._studies[size].ask(self._distributions))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna a finished or failed trial; one stopped before its full budget stays open."""
        trial = self._running.pop(trial_id)
        if error:
            self._tell(trial, {"status": "failed"})
        elif result is not None and result.get("status") == "complete":
            self._tell(trial, result)

    def _tell(self, trial: dict[str, Any], row: dict[str, Any]) -> None:
        if trial["method"] == BASELINE:
            return
        study = self._studies[trial["train_size"]]
        if row["status"] == "complete":
            study.tell(trial["number"], [float(row[name]) for name in OBJECTIVES])
        else:
            study.tell(trial["number"], state=TrialState.FAIL)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: study.db and the results table hold the whole state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see `save`."""
