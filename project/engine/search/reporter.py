"""The messages between a trial and its sweep during training."""

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from project.engine.checkpoints import RunCheckpoint
from project.engine.search.moment import History, metrics_at_best
from project.engine.tracking.logger import MLflowLogger

PRUNE, STOP = "prune", "stop"


class Reporter(Callback):
    """Reports the first metric after each validation, without waiting for the answer.

    The answer, or the end of the sweep's process, comes as a SIGTERM to this one: all ranks of the trial
    stop together at the end of a batch.

    Args:
        connection: To the process that owns the study.
        metrics: The study's metrics.
    """

    def __init__(self, connection: Connection, metrics: Sequence[str]) -> None:
        self._connection, self._metrics = connection, metrics
        self._values: dict[str, float] = {}
        self._history = History()
        self._checkpoint: RunCheckpoint | None = None
        self._ended = False
        self.pruned = False

    def listen(self) -> None:
        """Start to wait for what the sweep says."""
        threading.Thread(target=self._listen, name="reporter", daemon=True).start()

    def _listen(self) -> None:
        try:
            message = self._connection.recv()
        except (EOFError, OSError):  # the sweep is no more
            message = STOP
        if self._ended:
            return
        self.pruned = message == PRUNE
        os.kill(os.getpid(), signal.SIGTERM)

    def _send(self, *message: object) -> None:
        with suppress(OSError):  # the sweep is no more; `_listen` knows it, too
            self._connection.send(message)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._checkpoint = RunCheckpoint.of(trainer)
        if stage == TrainerFn.FITTING:
            trainer.loggers = [*trainer.loggers, self._history]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MLflowLogger) and logger.version:
                self._send("run", logger.version)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = trainer.state.fn == TrainerFn.VALIDATING  # if there is no test
        value = trainer.callback_metrics.get(self._metrics[0])
        if value is not None and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._send("report", _validation(trainer), float(value))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = True  # The trial has nothing left that could be stopped.

    def record(self, values: Mapping[str, float]) -> None:
        """Remember values of metrics that no trainer logs."""
        self._values |= values

    def values(self) -> list[float | None]:
        """Return the study's metrics, all of the best checkpoint; None for one that this process does not know."""
        best = self._checkpoint.best_metrics if self._checkpoint else {}
        found = metrics_at_best(self._history.points, best) | self._values
        return [found.get(metric) for metric in self._metrics]


def _validation(trainer: Trainer) -> int:
    """The number of this validation, from 0; the epoch where each has one."""
    batches, interval = trainer.num_training_batches, trainer.val_check_batch
    if interval is None or interval >= batches:
        return trainer.current_epoch
    return int(trainer.current_epoch * (batches // interval) + (trainer.fit_loop.batch_idx + 1) // interval - 1)
