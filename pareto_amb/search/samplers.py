"""A Ray Tune searcher over Optuna: one multi-objective study per train size and method, all
in one study.db.

The results table decides what has happened; the studies follow it. A searcher that is built again on the
files of a killed run therefore hands out exactly the trials that have not finished.
"""

import warnings
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.search import Searcher
from scipy.stats import qmc
from sqlalchemy import URL

from pareto_amb.config import SearchConfig, ShareRange, SpaceConfig, SweepConfig
from pareto_amb.diffusion.noise import natural_mix_ratio
from pareto_amb.diffusion.trainer import noise_distribution
from pareto_amb.randomness import derive_seed
from pareto_amb.results import PARAMETERS, ResultsTable
from pareto_amb.search.foresight import MIN_FINISHED, Array, foresee
from pareto_amb.search.frontier import BASELINE, OBJECTIVES, RECOMMENDED, best_first
from pareto_amb.search.surrogate import FrontierSampler, at_quantile

warnings.filterwarnings("ignore", category=ExperimentalWarning)  # multivariate TPE, constant liar

MAX_OBSERVED = 100
"""A sampler models at most so many trials: its cost does not grow with the sweep."""

SHOWN = [*OBJECTIVES, "similarity_mean"]
"""What is known of a trial at a rung: the similarity foretells copying before there are copies."""

Context = tuple[int, str]
"""A train size and a method: each has a search of its own."""


def distributions(space: SpaceConfig, train_size: int, method: str) -> dict[str, BaseDistribution]:
    """What is searched at a train size for a method, in Optuna's terms.

    sigma_tn is log-uniform, shares are uniform or a choice.
    """
    sigma_tn = space.sigma_range(train_size)
    mix: BaseDistribution
    if isinstance(space.mix_ratio, ShareRange):
        mix = FloatDistribution(space.mix_ratio.low, space.mix_ratio.high)
    else:
        mix = CategoricalDistribution(list(space.mix_ratio))
    known: dict[str, BaseDistribution] = {
        "sigma_tn": FloatDistribution(sigma_tn.low, sigma_tn.high, log=True),
        "mix_ratio": mix,
        "corruption": FloatDistribution(space.corruption.low, space.corruption.high),
    }
    return {name: known[name] for name in PARAMETERS[method]}


def startup_points(searched: dict[str, BaseDistribution], count: int, seed: int) -> list[dict[str, Any]]:
    """`count` points that cover the space evenly (Latin hypercube), each range on its own scale."""
    unit = qmc.LatinHypercube(d=len(searched), rng=seed).random(count)
    return [
        {
            name: at_quantile(distribution, u)
            for (name, distribution), u in zip(searched.items(), row, strict=True)
        }
        for row in unit.tolist()
    ]


def make_sampler(config: SearchConfig, seed: int) -> BaseSampler:
    """The Optuna sampler that steers once the startup points are spent."""
    seed %= 2**32
    if config.sampler == "random":
        return RandomSampler(seed=seed)
    if config.sampler == "gp":
        return FrontierSampler(seed)
    return TPESampler(
        n_startup_trials=config.startup_trials, multivariate=True, constant_liar=True, seed=seed
    )


class ParetoSampler:
    """One search: proposes the parameters of the next trial from what the earlier ones have shown so far.

    The startup points come first; then an Optuna sampler steers. A trial that was stopped early counts with
    what the finished ones let expect of it at full budget, never with what it had when it stopped. The
    sampler sees a study made afresh for each proposal, because what is known of a trial changes while it
    runs, and a study takes the values of a trial only once.
    """

    def __init__(
        self,
        searched: dict[str, BaseDistribution],
        sampler: BaseSampler,
        points: Iterable[dict[str, Any]],
        n_rungs: int,
    ) -> None:
        """`searched` as from `distributions`; `points` are proposed first, in their order."""
        self._searched, self._sampler, self._n_rungs = searched, sampler, n_rungs
        self._points = deque(points)
        self._params: dict[Hashable, dict[str, Any]] = {}
        self._curves: dict[Hashable, dict[int, Sequence[float]]] = {}
        self.n_begun = 0

    def propose(self, reference: Sequence[float] | None = None) -> dict[str, Any]:
        """The parameters of a new trial, which is not yet part of the search: see `begin`.

        `reference` is the point whose units the sampler models the objectives in; by default the worst
        values seen.
        """
        if self._points:
            return self._points.popleft()
        keys, values = self._expected()
        unit = np.asarray(reference) if reference is not None else values.max(axis=0, initial=0.0)
        values = values / np.where(unit > 0, unit, 1.0)
        chosen = _most_telling(values)
        trials = [self._trial(keys[i], values=values[i].tolist()) for i in chosen.tolist()]
        waiting = [key for key in self._params if key not in set(keys)][-MAX_OBSERVED:]
        trials += [self._trial(key, state=TrialState.RUNNING) for key in waiting]
        study = optuna.create_study(directions=["minimize"] * len(OBJECTIVES), sampler=self._sampler)
        study.add_trials(trials)
        return study.ask(self._searched).params

    def begin(self, key: Hashable, params: dict[str, Any]) -> None:
        """A trial has been started with `params`."""
        self._params[key], self._curves[key] = params, {}
        self.n_begun += 1

    def report(self, key: Hashable, rung: int, values: Sequence[float]) -> None:
        """A trial has reached `rung`, rising from 0, with `values`.

        The first are the objectives, all minimised; more may follow that help to foresee them.
        """
        self._curves[key][rung] = values

    def forget(self, key: Hashable) -> None:
        """A trial has failed."""
        del self._params[key], self._curves[key]

    def _expected(self) -> tuple[list[Hashable], Array]:
        """The trials that are finished or can be foreseen, and their objectives at full budget (n, 2)."""
        last, m = self._n_rungs - 1, len(OBJECTIVES)
        finished = [key for key, curve in self._curves.items() if last in curve]
        keys = list(finished)
        rows = [np.array([self._curves[key][last][:m] for key in finished]).reshape(-1, m)]
        for rung in range(last):
            at = [key for key, curve in self._curves.items() if curve and max(curve) == rung]
            known = [key for key in finished if rung in self._curves[key]]
            if at and len(known) >= MIN_FINISHED:
                before = np.array([self._curves[key][rung] for key in known])
                after = np.array([self._curves[key][last][:m] for key in known])
                keys += at
                rows.append(foresee(before, after, np.array([self._curves[key][rung] for key in at])))
        return keys, np.concatenate(rows)

    def _trial(self, key: Hashable, **shown: Any) -> FrozenTrial:
        return create_trial(params=self._params[key], distributions=self._searched, **shown)


def _most_telling(values: Array) -> NDArray[np.int64]:
    """At most MAX_OBSERVED rows of `values` (n, m): the best half of them, the others evenly by rank."""
    if len(values) <= MAX_OBSERVED:
        return np.arange(len(values))
    order = best_first(values)
    rest = np.linspace(MAX_OBSERVED // 2, len(values) - 1, MAX_OBSERVED - MAX_OBSERVED // 2)
    return np.concatenate([order[: MAX_OBSERVED // 2], order[rest.astype(np.int64)]])


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
        self._distributions = {
            (size, method): distributions(config.space, size, method)
            for size in config.space.train_size
            for method in methods
        }
        self._baselines: dict[int, list[list[float]]] = {size: [] for size in config.space.train_size}
        url = URL.create("sqlite", database=str(study_path))
        storage = RDBStorage(url.render_as_string(hide_password=False))
        self._studies = {
            (size, method): self._open_study(storage, (size, method))
            for size in config.space.train_size
            for method in methods
        }
        self._searches = {context: self._open_search(context, results) for context in self._studies}
        self._running: dict[str, dict[str, Any]] = {}
        self._queue = deque(self._unfinished(results))
        self.n_total = self._count_planned()
        self.n_remaining = self.n_total - self.count_ended(results)

    def _open_study(self, storage: RDBStorage, context: Context) -> optuna.Study:
        return optuna.create_study(
            study_name=f"train_size={_label(context)}",
            storage=storage,
            directions=["minimize", "minimize"],
            load_if_exists=True,
        )

    def _open_search(self, context: Context, results: ResultsTable) -> ParetoSampler:
        """The search of a context, as far as its study and the results table have it."""
        search, seed, label = self._config.search, self._config.seed, _label(context)
        searched, known = self._distributions[context], self._studies[context].get_trials()
        count = min(search.startup_trials, search.trials)
        points = startup_points(searched, count, derive_seed(seed, f"startup/{label}"))
        sampler = make_sampler(search, derive_seed(seed, f"search/{label}/{len(known)}"))
        n_rungs = len(self._config.evaluation.rungs)
        found = ParetoSampler(searched, sampler, points[len(known) :], n_rungs)
        for trial in known:
            found.begin(trial.number, trial.params)
            for row in results.rows(self._trial_config(context, trial)["trial_id"]):
                found.report(trial.number, row["rung"] - 1, [row[name] for name in SHOWN])
            if trial.state == TrialState.FAIL:
                found.forget(trial.number)
        return found

    def _count_planned(self) -> int:
        search, sizes = self._config.search, self._config.space.train_size
        begun = sum(found.n_begun for found in self._searches.values())
        trials = begun if self._stopped else search.trials * len(self._studies)
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
        """A new trial for the search that has begun the fewest, None when all have had theirs."""
        context = min(self._searches, key=lambda c: self._searches[c].n_begun)
        search = self._searches[context]
        if self._stopped or search.n_begun >= self._config.search.trials:
            return None
        params = search.propose(self._reference(context[0]))
        begun = create_trial(
            params=params, distributions=self._distributions[context], state=TrialState.RUNNING
        )
        self._studies[context].add_trial(begun)
        begun.number = search.n_begun
        search.begin(begun.number, params)
        return self._trial_config(context, begun)

    def _reference(self, train_size: int) -> list[float] | None:
        """Twice DDPM's FID and its memorization; None before a baseline has finished, or without copies."""
        finished = self._baselines[train_size]
        if not finished:
            return None
        fid, memorization = np.mean(finished, axis=0).tolist()
        return [2 * fid, memorization] if memorization > 0 else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Let the search know what a trial has shown at a rung."""
        self._hear(self._running[trial_id], result)

    def _hear(self, trial: dict[str, Any], result: dict[str, Any]) -> None:
        if trial["method"] != BASELINE:
            search = self._searches[trial["train_size"], trial["method"]]
            search.report(trial["number"], result["rung"] - 1, [result[name] for name in SHOWN])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna a finished or failed trial; one stopped before its full budget stays open."""
        trial = self._running.pop(trial_id)
        if error:
            self._tell(trial, {"status": "failed"})
        elif result is not None and result.get("status") == "complete":
            self._hear(trial, result)  # Ray hands the last result over here only
            self._tell(trial, result)

    def _tell(self, trial: dict[str, Any], row: dict[str, Any]) -> None:
        complete = row["status"] == "complete"
        values = [float(row[name]) for name in OBJECTIVES] if complete else None
        if trial["method"] == BASELINE:
            if values is not None:
                self._baselines[trial["train_size"]].append(values)
            return
        context = trial["train_size"], trial["method"]
        self._studies[context].tell(trial["number"], values, state=None if complete else TrialState.FAIL)
        if not complete:
            self._searches[context].forget(trial["number"])

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: study.db and the results table hold the whole state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see `save`."""


def _label(context: Context) -> str:
    size, method = context
    return f"{size}" if method == RECOMMENDED else f"{size},method={method}"
