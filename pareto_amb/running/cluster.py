"""Ray, started quietly on this machine or joined at an address, and watched for as long as it is needed."""

import gc
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import urlsplit

from pareto_amb import signals
from pareto_amb.config import SweepConfig
from pareto_amb.errors import ExitCode, UserError
from pareto_amb.printable import reason
from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.running.ray_log import ray_log
from pareto_amb.running.reaper import reaper

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
}

CONNECT_SECONDS = 10.0
"""Something that listens at an address has so long to say that it may be Ray."""

START_SECONDS = 90.0
"""Ray has so long to start or to be joined."""

LOST_AFTER = {"ours": 3, "joined": 10}
"""Seconds after which a process of Ray's that refuses connections is dead."""

SOCKET_PATH = 103 if sys.platform == "darwin" else 107
"""Bytes of a socket's path that the system can take."""

SOCKET_NAME = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.00")
"""What Ray adds to its folder for the longest of its sockets."""

_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a gRPC client greets: a server answers with a frame of the type that the fourth byte says."""


class ClusterLostError(UserError):
    """Ray, or the part of it that this process needs, is gone; what was measured is not."""

    exit_code = ExitCode.FAILED


@contextmanager
def ray_cluster(address: str | None, run: RunDirectory) -> Iterator["ClusterWatch"]:
    """Connect to the cluster at `address`, or run one on this machine for the length of the block.

    What Ray says goes to the run's ray.log. Raises UserError when no cluster answers at `address`, or none
    can be started, and ClusterLostError where it was lost since.
    """
    import ray

    if ray.is_initialized():
        raise UserError("Ray is in use in this process already; call ray.shutdown() first")
    ours = address in (None, "local")
    warnings.filterwarnings("ignore", module="ray")
    with (
        signals.own_handlers() as put_back,
        ray_log(run.ray_log) as log,
        _environment(),
        _environment_inherited(),
        reaper() if ours and sys.platform == "linux" else nullcontext(),
    ):
        try:
            with signals.deadline(START_SECONDS, _silent(address), ExitCode.BAD_INPUT):
                _start(address, ours)
                watch = ClusterWatch(run, ours)
        except signals.Interrupted as stop:
            put_back()
            _leave()
            signals.act(signal.getsignal(stop.number), stop.number)
            raise
        except BaseException:
            _leave()
            raise
        put_back()
        log.take_loggers()
        try:
            with watch:
                yield watch
        except Exception as error:
            if not isinstance(error, UserError):
                watch.check()
            raise
        finally:
            _leave()


def _leave() -> None:
    """Shut Ray down. What holds something of Ray's in a cycle of references is freed before, not meanwhile.

    Ray ends the process without a word where another thread frees it in the milliseconds of the shutdown.
    """
    import ray

    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if collecting:
            gc.enable()


def _start(address: str | None, ours: bool) -> None:
    import ray

    options = {"include_dashboard": False, "_temp_dir": _short_folder()} if ours else {}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.WARNING, **options)
    except SystemExit as stop:  # what Ray's own handler of SIGTERM raises
        if stop.code != signal.SIGTERM:
            raise UserError(f"Ray at {address or 'this machine'}: ended itself while it started") from stop
        raise signals.Interrupted(signal.SIGTERM) from None
    except Exception as error:
        hint = "see whether this machine lets processes open sockets and shared memory"
        if not ours:
            hint = (
                "a cluster that asks for a token wants RAY_AUTH_MODE=token set, or --address auto on one of "
                "its nodes"
            )
        place = address or "this machine"
        raise UserError(f"Ray at {place}: cannot be reached ({reason(error)[:200]}); {hint}") from error


def _silent(address: str | None) -> str:
    return f"pareto-amb: error: Ray at {address or 'this machine'}: not ready after {START_SECONDS:g} seconds"


@contextmanager
def _environment() -> Iterator[None]:
    """What Ray's processes inherit; what was set before stays."""
    added = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _environment_inherited() -> Iterator[None]:
    """Let trials have the environment that Ray's processes have, and nothing that Ray Tune adds.

    Workers that were started before could not be taken for trials otherwise, and Ray's agents would log S3's
    keys, which trials are given.
    """
    from ray.tune.execution import class_cache

    added, inherited = class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE = {}, set()
    try:
        yield
    finally:
        class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE = added, inherited


def _short_folder() -> str:
    """Where Ray keeps its sockets: its usual place, or one with a shorter path. UserError if none will do."""
    usual = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    mine = f"ray-{os.getuid()}"
    for folder in (Path(usual, "ray"), Path("/tmp/ray"), Path("/tmp", mine), Path("/var/tmp", mine)):
        with suppress(OSError, ValueError):
            path = folder.absolute()
            path.mkdir(parents=True, exist_ok=True)
            fits = len(os.fsencode(path)) + SOCKET_NAME <= SOCKET_PATH
            if fits and os.access(path, os.W_OK | os.X_OK):
                return str(path)
    raise UserError(
        f"TMPDIR {usual}: Ray needs a folder it can write whose path has at most {SOCKET_PATH - SOCKET_NAME} "
        "bytes, and /tmp and /var/tmp offer none either; set RAY_TMPDIR to one"
    )


class ClusterWatch:
    """Looks once a second whether Ray's GCS and the raylet of this machine still take connections.

    Use it as a context manager. Ray itself notices after up to a minute, and then ends the process without
    a word. What it found, `check` raises; a process of the command line's that does not come to ask is ended.
    """

    def __init__(self, run: RunDirectory, ours: bool) -> None:
        """Must be made in a process that is connected."""
        import ray

        context = ray.get_runtime_context()
        node = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
        self._places = {
            "GCS": _host_and_port(context.gcs_address),
            "raylet": (node["NodeManagerAddress"], node["NodeManagerPort"]),
        }
        self.ours, self._run = ours, run
        self._lost = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="ray_watch")

    def __enter__(self) -> "ClusterWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def check(self) -> None:
        """Raise ClusterLostError where Ray is gone."""
        if not self._lost:
            gone = [name for name in self._places if not self._answers(name)]
            self._lost = self._describe(gone[0]) if gone else ""
        if self._lost:
            raise ClusterLostError(self._lost)

    def check_found(self) -> None:
        """Raise ClusterLostError where Ray was found gone; costs nothing."""
        if self._lost:
            raise ClusterLostError(self._lost)

    def _watch(self) -> None:
        misses = dict.fromkeys(self._places, 0)
        while not self._over.wait(1.0):
            for name in misses:
                misses[name] = 0 if self._answers(name) else misses[name] + 1
                if misses[name] >= LOST_AFTER["ours" if self.ours else "joined"]:
                    self._lost = self._describe(name)
                    signals.end_soon(f"pareto-amb: error: {self._lost}", ExitCode.FAILED)
                    return

    def _answers(self, name: str) -> bool:
        """Whether the process takes a connection; one that is merely slow counts as there."""
        try:
            socket.create_connection(self._places[name], timeout=1).close()
        except TimeoutError:
            return True
        except OSError:
            return False
        return True

    def _describe(self, name: str) -> str:
        where = "" if self.ours else " of the cluster"
        command = signals.hint()
        remedy = f"continue with: {command}" if command else "start it again"
        return f"Ray's {name} process{where} has died (what Ray said is in {self._run.ray_log}); {remedy}"


def check_address(address: str | None) -> None:
    """Raise UserError at once for what is no address of a cluster, which Ray would try for minutes.

    At a HOST:PORT somebody must listen and answer as a gRPC server does.
    """
    if address is None or address in ("auto", "local"):
        return
    try:
        place = _host_and_port(address)
    except ValueError as error:
        raise UserError(f"--address {address}: must be auto or HOST:PORT, such as 10.0.0.1:6379") from error
    try:
        with socket.create_connection(place, timeout=CONNECT_SECONDS) as connection:
            answer = b"" if "RAY_USE_TLS" in os.environ else _greet(connection)
    except TimeoutError as error:
        raise UserError(f"--address {address}: something listens there that says nothing") from error
    except (OSError, UnicodeError) as error:
        raise UserError(f"--address {address}: nothing answers there ({reason(error)})") from error
    if answer and answer[3:4] != _HTTP2[-6:-5]:
        raise UserError(f"--address {address}: what answers there is not Ray")


def _greet(connection: socket.socket) -> bytes:
    """The first bytes that a server answers a gRPC client with. OSError where it says nothing."""
    connection.settimeout(CONNECT_SECONDS)
    connection.sendall(_HTTP2)
    answer = b""
    while len(answer) < 4:
        part = connection.recv(9)
        if not part:
            return answer.ljust(4, b"?")
        answer += part
    return answer


def _host_and_port(address: str) -> tuple[str, int]:
    """ValueError for what is not HOST:PORT."""
    parts = urlsplit(f"//{address}")
    if not parts.hostname or not parts.port or parts.netloc != address or parts.username is not None:
        raise ValueError(address)
    return parts.hostname, parts.port


def gpus_per_trial(config: SweepConfig) -> float:
    """GPUs (or the fraction of one) that a trial occupies on the connected cluster.

    Raises UserError when no node could ever hold a trial.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wanted = config.resources.gpus_per_trial
    gpus = wanted if wanted is not None else float(any(node.get("GPU", 0) >= 1 for node in nodes))
    cpus = config.resources.cpus_per_trial
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        raise UserError(
            f"resources: a trial needs {cpus} CPUs and {gpus:g} GPUs, which no node of the cluster has; "
            "lower resources.cpus_per_trial or --gpus-per-trial"
        )
    return gpus
