"""A Ray Tune searcher over Optuna: one multi-objective study per train size and method, all
in one study.db.

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

from pareto_amb.config import SearchConfig, ShareRange, SpaceConfig, SweepConfig
from pareto_amb.diffusion.noise import natural_mix_ratio
from pareto_amb.diffusion.trainer import noise_distribution
from pareto_amb.randomness import derive_seed
from pareto_amb.results import PARAMETERS, ResultsTable
from pareto_amb.search.frontier import BASELINE, OBJECTIVES, RECOMMENDED

warnings.filterwarnings("ignore", category=ExperimentalWarning)  # multivariate TPE, constant liar

Context = tuple[int, str]
"""A train size and a method: each has a search of its own."""


def distributions(space: SpaceConfig, method: str) -> dict[str, BaseDistribution]:
    """What is searched for a method, in Optuna's terms: sigma_tn log-uniform, shares uniform or a choice."""
    mix: BaseDistribution
    if isinstance(space.mix_ratio, ShareRange):
        mix = FloatDistribution(space.mix_ratio.low, space.mix_ratio.high)
    else:
        mix = CategoricalDistribution(list(space.mix_ratio))
    known: dict[str, BaseDistribution] = {
        "sigma_tn": FloatDistribution(space.sigma_tn.low, space.sigma_tn.high, log=True),
        "mix_ratio": mix,
        "corruption": FloatDistribution(space.corruption.low, space.corruption.high),
    }
    return {name: known[name] for name in PARAMETERS[method]}


def startup_points(searched: dict[str, BaseDistribution], count: int, seed: int) -> list[dict[str, Any]]:
    """`count` points that cover the space evenly (Latin hypercube), each range on its own scale."""
    unit = qmc.LatinHypercube(d=len(searched), rng=seed).random(count)
    return [
        {name: _at(distribution, u) for (name, distribution), u in zip(searched.items(), row, strict=True)}
        for row in unit.tolist()
    ]


def _at(distribution: BaseDistribution, u: float) -> Any:
    """The value below which a share u of the distribution lies; u in [0, 1)."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(u * len(distribution.choices))]
    assert isinstance(distribution, FloatDistribution)
    low, high = distribution.low, distribution.high
    return low * (high / low) ** u if distribution.log else low + u * (high - low)


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
    """Hands out the DDPM baselines of every train size first, then the trials of every method in turn.

    A trial's configuration is {trial_id, method, train_size, sigma_tn, mix_ratio, corruption, seed, rung},
    with the mix ratio `natural` resolved to its number; `rung` counts the rungs it has been measured at.
    The paused trials of an earlier process are handed out first: the scheduler lets them wait on.
    """

    def __init__(
        self, config: SweepConfig, study_path: Path, results: ResultsTable, stopped: bool = False
    ) -> None:
        """With `stopped` no trial is begun that was not begun before."""
        super().__init__(metric=OBJECTIVES, mode=["min", "min"])
        self._stopped = stopped
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._config = config
        self._noise = noise_distribution(config.training)
        methods: tuple[str, ...] = config.search.methods
        self._distributions = {method: distributions(config.space, method) for method in methods}
        url = URL.create("sqlite", database=str(study_path))
        storage = RDBStorage(url.render_as_string(hide_password=False))
        self._studies = {
            (size, method): self._open_study(storage, (size, method))
            for size in config.space.train_size
            for method in methods
        }
        self._running: dict[str, dict[str, Any]] = {}
        self._queue = deque(self._unfinished(results))
        self.n_total = self._count_planned()
        self.n_remaining = self.n_total - self.count_ended(results)

    def _open_study(self, storage: RDBStorage, context: Context) -> optuna.Study:
        size, method = context
        label = f"{size}" if method == RECOMMENDED else f"{size},method={method}"
        study = optuna.create_study(
            study_name=f"train_size={label}",
            storage=storage,
            directions=["minimize", "minimize"],
            load_if_exists=True,
        )
        search, seed = self._config.search, self._config.seed
        study.sampler = make_sampler(search, derive_seed(seed, f"search/{label}/{len(study.trials)}"))
        if not study.trials:
            count = min(search.startup_trials, search.trials)
            points = startup_points(self._distributions[method], count, derive_seed(seed, f"startup/{label}"))
            for point in points:
                study.enqueue_trial(point)
        return study

    def _count_planned(self) -> int:
        search, sizes = self._config.search, self._config.space.train_size
        trials = sum(self._asked().values()) if self._stopped else search.trials * len(self._studies)
        return search.baseline_seeds * len(sizes) + trials

    def stop(self) -> None:
        """Begin no more trials; those that were begun go on, and are all that `n_total` counts."""
        self._stopped = True
        self.n_total = self._count_planned()

    def count_ended(self, results: ResultsTable) -> int:
        """The trials that need no more work as far as one knows; without halving the paused ones do."""
        paused = set() if self._config.search.reduction_factor is None else {"pruned"}
        rows = [results.last_row(trial_id) for trial_id in results.trial_ids()]
        search = [row["status"] for row in rows if row and not row["confirms"]]
        return sum(status in {"complete", "failed"} | paused for status in search)

    def _unfinished(self, results: ResultsTable) -> list[dict[str, Any]]:
        """The trials of earlier processes that have not ended, paused ones first; baselines included."""
        baselines = [
            self._baseline(size, k)
            for size in self._config.space.train_size
            for k in range(self._config.search.baseline_seeds)
        ]
        asked = [
            self._trial_config(context, trial)
            for context, study in self._studies.items()
            for trial in study.get_trials(states=[TrialState.RUNNING])
        ]
        unfinished = []
        for trial in baselines + asked:
            row = results.last_row(trial["trial_id"])
            if row is not None and row["status"] in {"complete", "failed"}:
                self._tell(trial, row)
            else:
                unfinished.append({**trial, "rung": row["rung"] if row else 0})
        return sorted(unfinished, key=lambda trial: results.status(trial["trial_id"]) != "pruned")

    def _baseline(self, train_size: int, k: int) -> dict[str, Any]:
        return {
            "trial_id": f"n{train_size}-{BASELINE}-s{k}",
            "method": BASELINE,
            "train_size": train_size,
            "sigma_tn": 0.0,
            "mix_ratio": 0.0,
            "corruption": 0.0,
            "seed": self._config.seed + k,
            "rung": 0,
        }

    def _trial_config(self, context: Context, trial: FrozenTrial | optuna.Trial) -> dict[str, Any]:
        size, method = context
        chosen = dict(trial.params)
        if chosen.get("mix_ratio") == "natural":
            chosen["mix_ratio"] = natural_mix_ratio(self._noise, chosen["sigma_tn"])
        return {
            "trial_id": f"n{size}-{method}-{trial.number:04d}",
            "method": method,
            "train_size": size,
            "sigma_tn": 0.0,
            "mix_ratio": 1.0 if method == "noise_only" else 0.0,
            "corruption": 0.0,
            **chosen,
            "seed": self._config.seed + trial.number,
            "rung": 0,
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
        """A new trial for the study that has been asked the least, None when all have had theirs."""
        asked = self._asked()
        context = min(asked, key=lambda c: asked[c])
        if self._stopped or asked[context] >= self._config.search.trials:
            return None
        return self._trial_config(context, self._studies[context].ask(self._distributions[context[1]]))

    def _asked(self) -> dict[Context, int]:
        """How many trials of each study were begun."""
        return {
            context: sum(t.state != TrialState.WAITING for t in study.get_trials(deepcopy=False))
            for context, study in self._studies.items()
        }

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
        study = self._studies[trial["train_size"], trial["method"]]
        if row["status"] == "complete":
            study.tell(trial["number"], [float(row[name]) for name in OBJECTIVES])
        else:
            study.tell(trial["number"], state=TrialState.FAIL)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: study.db and the results table hold the whole state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see `save`."""
