"""The measurements of a cell: a callback logs them as metrics of the run, from which they are read."""

import math
from time import perf_counter
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from mlflow import MlflowClient
from mlflow.entities import Run

from benchmarks.peak_memory import peak_memory_mib
from project.engine.tracking.throughput import Throughput

IMAGES, WAIT, MEMORY, TIME = "images per second", "data wait", "peak memory", "time to accuracy"
UNITS = {IMAGES: "images/s", WAIT: "%", MEMORY: "MiB", TIME: "s"}
_PREFIX = "concurrency/"
_TRAINED = f"{_PREFIX}images"


class Measure(Callback):
    """Logs images per second, the wait for data, peak memory, and the time until an accuracy is reached.

    Images per second are those of all epochs after the first, in which torch compiles and allocates; their time
    includes validation, logging and checkpoints. The time to the accuracy begins with the first step.

    Args:
        accuracy: The accuracy on the validation images, in [0, 1].
    """

    def __init__(self, accuracy: float = 0.5) -> None:
        self.accuracy = accuracy
        self._images = self._before = 0
        self._start = self._second_epoch = math.nan
        self._reached = math.nan

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = perf_counter()
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch <= 1:  # A training of one epoch has no other.
            self._second_epoch, self._before = perf_counter(), self._images

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch[0]) * trainer.world_size

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        reached = float(trainer.callback_metrics.get("val/accuracy", 0)) >= self.accuracy
        if reached and math.isnan(self._reached) and not trainer.sanity_checking:
            self._reached = perf_counter() - self._start
            self._log(trainer, {TIME: self._reached})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = perf_counter() - self._second_epoch
        memory = trainer.strategy.reduce(torch.tensor(peak_memory_mib(), device=pl_module.device), reduce_op="sum")
        (throughput,) = (callback for callback in trainer.callbacks if isinstance(callback, Throughput))  # type: ignore[attr-defined]
        rate, wait = (self._images - self._before) / seconds, 100 * throughput.total.wait_fraction
        self._log(trainer, {IMAGES: rate, WAIT: wait, MEMORY: float(memory), "images": self._images})

    def _log(self, trainer: Trainer, values: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({_metric(name): value for name, value in values.items()}, trainer.global_step)


def _metric(name: str) -> str:
    return f"{_PREFIX}{name.replace(' ', '_')}"


def of_fit(run: Run) -> dict[str, float]:
    """Return the measurements of a run, by name; NaN if the accuracy was not reached."""
    return {name: run.data.metrics.get(_metric(name), math.nan) for name in UNITS}


def of_sweep(client: MlflowClient, trials: list[Run], jobs: int) -> dict[str, float]:
    """Return the measurements of trials.

    Images per second are those of all trials, from the start of the first to the end of the last. The time to the
    accuracy ends when all trials have reached it.
    """
    began = min(trial.info.start_time for trial in trials) / 1000
    ended = max(trial.info.end_time or math.nan for trial in trials) / 1000
    each = [of_fit(trial) for trial in trials]
    reached = [client.get_metric_history(trial.info.run_id, _metric(TIME)) for trial in trials]
    return {
        IMAGES: sum(trial.data.metrics[_TRAINED] for trial in trials) / (ended - began),
        WAIT: sum(one[WAIT] for one in each) / len(each),
        MEMORY: max(one[MEMORY] for one in each) * min(jobs, len(trials)),
        TIME: max(points[0].timestamp for points in reached) / 1000 - began if all(reached) else math.nan,
    }
