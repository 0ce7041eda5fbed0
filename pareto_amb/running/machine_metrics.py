"""The GPUs, processor, memory and network of the driver's machine, as MLflow's system metrics."""

import threading

import torch
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

_THREAD = "SystemMetricsMonitor"
"""What MLflow calls its thread, which ends itself where a server does not answer."""


class MachineMetrics:
    """Logs them to a run every ten seconds where there is a GPU, and nowhere else.

    What a server that is gone misses of them is lost: they are no results.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._monitor: SystemMetricsMonitor | None = None

    def follow(self, run_id: str) -> None:
        """Begin, or begin again where logging has ended; MLflow must have answered just now."""
        if torch.cuda.is_available() and not any(t.name == _THREAD for t in threading.enumerate()):
            self._monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=self._uri)
            self._monitor.start()

    def stop(self) -> None:
        """End; may wait for MLflow as long as a request takes."""
        if self._monitor is not None:
            self._monitor.finish()
