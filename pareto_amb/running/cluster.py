"""Ray, started quietly on this machine or joined at an address."""

import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pareto_amb.config import SweepConfig
from pareto_amb.errors import UserError

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Connect to the cluster at `address`, or run one on this machine for the length of the block.

    Raises UserError when no cluster answers at `address`.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    warnings.filterwarnings("ignore", module="ray")
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"Ray at {address or 'this machine'}: cannot be reached ({reason}); a cluster that asks for a "
            "token wants RAY_AUTH_MODE=token set, or --address auto on one of its nodes"
        ) from error
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ray.shutdown()


def check_address(address: str | None) -> None:
    """Raise UserError at once when nothing listens at a HOST:PORT, which Ray would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(f"--address {address}: nothing answers there ({error})") from error


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
