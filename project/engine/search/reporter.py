"""The callback that sends a trial's metrics to the sweep, and stops the trial if the sweep asks for it."""

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from project.engine.checkpoints.checkpoint import RunCheckpoint
from project.engine.search.messages import Prune, Report, RunStarted, Stop, ToTrial, send
from project.engine.tracking.logger import MLflowLogger


class Reporter(Callback):
    """A reporter of the first metric after each validation; if a fit has none, after each epoch.

    Training does not wait for the answer.

    A thread receives `Prune`, `Stop` or the end of the sweep's process, and sends SIGTERM to this process: all ranks of
    the trial then stop together at the end of a batch.

    Args:
        connection: Pipe to the sweep.
        metrics: The study's metrics.
    """

    def __init__(self, connection: Connection, metrics: Sequence[str]) -> None:
        self._connection, self._metrics = connection, metrics
        self._values: dict[str, float] = {}
        self._checkpoint: RunCheckpoint | None = None
        self._ended = False
        self.pruned = False

    def start_receiving(self) -> None:
        """Start the thread that receives a message of the sweep."""
        threading.Thread(target=self._receive, name="reporter", daemon=True).start()

    def _receive(self) -> None:
        message: ToTrial
        try:
            message = self._connection.recv()
        except (EOFError, OSError):  # the sweep has ended
            message = Stop()
        if self._ended:
            return
        self.pruned = message == Prune()
        os.kill(os.getpid(), signal.SIGTERM)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._checkpoint = RunCheckpoint.of(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MLflowLogger) and logger.version:
                send(self._connection, RunStarted(logger.version))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = trainer.state.fn == TrainerFn.VALIDATING  # the last stage of a fit without test data
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._report(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not sum(trainer.num_val_batches):
            self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        value = trainer.callback_metrics.get(self._metrics[0])
        if value is not None:
            send(self._connection, Report(float(value)))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._checkpoint is None or not self._checkpoint.best_metrics:  # The model of the trial is the last one.
            self.record({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = True  # Nothing is left that could be stopped.
        self.record({name: float(value) for name, value in trainer.callback_metrics.items()})

    def record(self, values: Mapping[str, float]) -> None:
        """Add values of metrics of the trial's model."""
        self._values |= values

    def values(self) -> list[float | None]:
        """Return the study's metrics, all of the best checkpoint, or of the last one if no metric selects the best.

        A metric that is not of its validation or its test is None; the sweep reads it from the run.
        """
        found = (self._checkpoint.best_metrics if self._checkpoint else {}) | self._values
        return [found.get(metric) for metric in self._metrics]
