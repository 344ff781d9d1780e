"""System metrics: processor, memory, disk, network and GPU, measured by MLflow's monitors."""

import threading
from collections.abc import Callable, Sequence

import torch
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from project.engine.tracking.best_effort import best_effort

_EVERY_S = 2.0


class SystemMetrics(threading.Thread):
    """Thread that measures every two seconds. MLflow's own thread would query the store for the run's status each time.

    Args:
        beat: Called before each measurement, to write the heartbeat of this process.
        log: Called with the metrics and their step.
        first_step: Step of the first measurement.
        kinds: Monitors to use; by default all, including the GPU if there is one. A monitor that does not work here,
            such as that of the GPU in a container without NVML, is left out with a warning.
    """

    def __init__(
        self,
        beat: Callable[[], None],
        log: Callable[[dict[str, float], int], None],
        first_step: int = 0,
        kinds: Sequence[type[BaseMetricsMonitor]] | None = None,
    ) -> None:
        super().__init__(name="system-metrics", daemon=True)
        self._beat, self._log_metrics, self._step = beat, log, first_step
        self._stopping = threading.Event()
        self._monitors: list[BaseMetricsMonitor] = []
        gpu = [GPUMonitor] if torch.cuda.is_available() and torch.version.cuda else []
        for kind in (CPUMonitor, DiskMonitor, NetworkMonitor, *gpu) if kinds is None else kinds:
            with best_effort(None, "system", f"the run has no metrics of {kind.__name__}"):
                self._monitors.append(kind())

    def run(self) -> None:
        """Measure until `stop`."""
        while True:
            self._beat()
            for monitor in tuple(self._monitors):
                self._monitors.remove(monitor)
                with best_effort(None, "system", f"the run has no more metrics of {type(monitor).__name__}"):
                    monitor.collect_metrics()
                    self._log_metrics({f"system/{k}": v for k, v in monitor.aggregate_metrics().items()}, self._step)
                    monitor.clear_metrics()
                    self._monitors.append(monitor)
            self._step += 1
            if self._stopping.wait(_EVERY_S):
                return

    def stop(self) -> None:
        """Stop measuring."""
        self._stopping.set()
        if self.is_alive():
            self.join()
