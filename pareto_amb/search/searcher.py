"""A Ray Tune searcher over Optuna: one multi-objective study per train size and method, all
in one study.db.

The results table decides what has happened; the studies follow it. A searcher that is built again on the
files of a killed run therefore hands out exactly the trials that have not finished.
"""

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.search import Searcher
from sqlalchemy import URL

from pareto_amb.config import SweepConfig
from pareto_amb.diffusion.noise import natural_mix_ratio
from pareto_amb.diffusion.trainer import noise_distribution
from pareto_amb.randomness import derive_seed
from pareto_amb.results import ResultsTable
from pareto_amb.search.frontier import BASELINE, OBJECTIVES, RECOMMENDED
from pareto_amb.search.samplers import (
    ParetoSampler,
    carry_over,
    distributions,
    make_sampler,
)

SHOWN = [*OBJECTIVES, "similarity_mean"]
"""What is known of a trial at a rung: the similarity foretells copying before there are copies."""

Context = tuple[int, str]
"""A train size and a method: each has a search of its own."""


class ParetoSearcher(Searcher):
    """Hands out the DDPM baselines of every train size first, then the trials of every method in turn.

    A trial's configuration is {trial_id, method, train_size, sigma_tn, mix_ratio, corruption, seed, rung},
    with the mix ratio `natural` resolved to its number; `rung` counts the rungs it has been measured at.
    A train size waits for the first results of the next smaller one, and starts at its best parameters.
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
        found = ParetoSampler(
            searched,
            make_sampler(search, derive_seed(seed, f"search/{label}/{len(known)}")),
            n_startup=search.startup_trials,
            n_rungs=len(self._config.evaluation.rungs),
            seed=derive_seed(seed, f"startup/{label}"),
        )
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
        wanting = [c for c, search in self._searches.items() if search.n_begun < self._config.search.trials]
        if self._stopped or not wanting:
            return None
        ready = [context for context in wanting if self._is_ready(context)]
        context = min(ready or wanting, key=lambda c: self._searches[c].n_begun)
        search = self._searches[context]
        if search.n_begun == 0:
            self._start_from_smaller(context)
        params = search.propose(self._reference(context[0]))
        begun = create_trial(
            params=params, distributions=self._distributions[context], state=TrialState.RUNNING
        )
        self._studies[context].add_trial(begun)
        begun.number = search.n_begun
        search.begin(begun.number, params)
        return self._trial_config(context, begun)

    def _smaller(self, context: Context) -> Context | None:
        """The search of the next smaller train size, None for the smallest."""
        size, method = context
        smaller = [other for other in self._config.space.train_size if other < size]
        return (max(smaller), method) if smaller else None

    def _is_ready(self, context: Context) -> bool:
        """Whether it is known where to start: a size waits for the next smaller one's first results."""
        smaller = self._smaller(context)
        return (
            smaller is None
            or self._searches[context].n_begun > 0
            or self._searches[smaller].best() is not None
        )

    def _start_from_smaller(self, context: Context) -> None:
        """Let a search begin where the next smaller train size has its best trial so far, if it has one."""
        smaller = self._smaller(context)
        if smaller and (best := self._searches[smaller].best(self._reference(smaller[0]))):
            ranges = self._distributions[smaller], self._distributions[context]
            self._searches[context].start_from(carry_over(best, *ranges))

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
