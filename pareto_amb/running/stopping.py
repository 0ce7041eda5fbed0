"""A sweep that a signal stops writes down first where its trials are."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from pareto_amb import signals
from pareto_amb.running.cluster import ClusterWatch
from pareto_amb.trainables.stop_sign import StopSign

CHECKPOINT_SECONDS = 20.0
"""Trials have so long to write their checkpoints."""


def put_up_sign() -> Any:
    """The handle of a new `StopSign`, on this node where it can be."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(num_cpus=0, max_concurrency=100_000, scheduling_strategy=here)(StopSign)
    return actor.remote()


@contextmanager
def stopping_in_order(sign: Any, watch: ClusterWatch, console: Console) -> Iterator[tune.Callback]:
    """Have a first SIGINT or SIGTERM end the trials of the block, by a callback that Ray Tune must be given.

    What runs then ends as soon as all trials have written a checkpoint, at the latest after 20 seconds; a
    second signal does not wait. The signal is acted on at the end of the block.
    """
    with signals.noted() as request:
        yield StopInOrder(sign, watch, request, console)


class StopInOrder(tune.Callback):
    """Ends Ray Tune's loop between two of its steps, for a signal or a cluster that is gone."""

    def __init__(
        self, sign: Any, watch: ClusterWatch, request: signals.StopRequest, console: Console
    ) -> None:
        self._sign, self._watch, self._request, self._console = sign, watch, request, console
        self._saved: Any = None
        self._until = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """As for `Follower`."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        self._watch.check_found()
        if not self._request:
            return
        if self._saved is None:
            self._console.print("stopping: the trials write their checkpoints; a second signal does not wait")
            self._saved, self._until = self._sign.stop.remote(), time.monotonic() + CHECKPOINT_SECONDS
        if self._all_saved() or time.monotonic() > self._until:
            raise signals.Interrupted(self._request.number)

    def _all_saved(self) -> bool:
        """Whether no trial would lose anything; a sign that is gone cannot be asked."""
        try:
            return bool(ray.wait([self._saved], timeout=0)[0])
        except RayError:
            return True
