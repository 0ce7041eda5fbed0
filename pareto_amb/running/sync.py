"""Bringing MLflow up to date with a run that no sweep is writing."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pareto_amb.config import SweepConfig
from pareto_amb.dashboards.front import front_pages
from pareto_amb.errors import UserError
from pareto_amb.printable import printable
from pareto_amb.redaction import redact_uri
from pareto_amb.results.recommendation import Recommendation
from pareto_amb.results.recommendation_file import build_recommendation
from pareto_amb.results.run import Run
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.results.size import Results
from pareto_amb.running.claim import claimed
from pareto_amb.running.tracking import Ending, Mirror, Missing, Tracked, limit_requests, run_uuid, why
from pareto_amb.running.tracking_check import check_tracking
from pareto_amb.running.trust import check_storage_is_trusted, trusted_tracking_uri
from pareto_amb.storage import Storage, write_text

REQUEST_SECONDS = 30
"""How long a request may take here, where nothing else waits."""


@dataclass(frozen=True)
class Synced:
    """What was logged, where, with the URI's secrets hidden, and the link that shows it, if there is one."""

    logged: Missing
    uri: str
    link: str


def sync_run(path: Path, trust: bool = False) -> Synced:
    """Log what MLflow lacks of a run. `trust`: also at a server, with a storage, that only its files name.

    Raises UserError for what is no run, is being written, or for an MLflow that cannot be used or stops
    answering; what was logged until then stays.
    """
    with synced(path, trust) as synchronized:
        return Synced(synchronized.lacked, synchronized.uri, printable(synchronized.mirror.link))


@dataclass(frozen=True)
class Synchronized:
    """A run that MLflow has as it is, held for itself: what it lacked, and where all is."""

    mirror: Mirror
    storage: Storage
    lacked: Missing
    uri: str


@contextmanager
def synced(path: Path, trust: bool = False) -> Iterator[Synchronized]:
    """As `sync_run`; no other process writes into the run in the block."""
    run = RunDirectory(path)
    results = run.load()
    config, recommended = run.config(results.declared), _recommended(run, results)
    with claimed(path, resumed=True):
        uri = trusted_tracking_uri(run, trust)
        storage = _storage(run, config, trust)
        limit_requests(REQUEST_SECONDS)
        check_tracking(uri)
        mirror = Mirror(Tracked(uri, run, _uuid_of(run), config.name, results.declared, storage))
        shown = printable(redact_uri(uri))
        try:
            lacked = mirror.look()
            mirror.update()
            mirror.end(ending_of(run, results, recommended))
        except Exception as error:  # of MLflow, its server, database, artifact store, driver or disk
            raise UserError(
                f"MLflow at {shown}: {why(error)}; {mirror.missing()} are still missing"
            ) from error
        yield Synchronized(mirror, storage, lacked, shown)


def ending_of(run: RunDirectory, results: Results, recommended: Iterable[Recommendation]) -> Ending:
    """How a sweep ended: FINISHED when no trial is left running."""
    tags = {
        f"n{found.train_size}.{name}": value for found in recommended for name, value in found.tags().items()
    }
    files = [run.sweep, run.results, run.recent, run.environment, run.report, run.recommendation]
    running = results.frame.status.isin({"running", "interrupted"}).any()
    there = [path for path in files if path.exists()]
    return Ending("KILLED" if running else "FINISHED", tags, there, front_pages(Run.read(run.path)))


def _recommended(run: RunDirectory, results: Results) -> list[Recommendation]:
    """What the run's recommendation.yaml says; without one what the usual policy does, if anything."""
    if run.recommendation.exists():
        return list((Run.read(run.path).recommendations or {}).values())
    try:
        return [*build_recommendation(run, results=results).recommendations]
    except UserError:  # nothing to recommend yet
        return []


def _storage(run: RunDirectory, config: SweepConfig, trust: bool) -> Storage:
    check_storage_is_trusted(run, config.storage, trust)
    return Storage(run.storage_uri(config))


def _uuid_of(run: RunDirectory) -> str:
    """The run's UUID; a run of an older version gets one."""
    environment = run.read_environment()
    uuid = run_uuid(environment)
    if environment.get("run_uuid") != uuid:
        write_text(run.environment, json.dumps({**environment, "run_uuid": uuid}, indent=2))
    return uuid
