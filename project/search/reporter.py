"""What a trial tells the sweep while it trains, and what the sweep tells it."""

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and trainer.logger:
            self._send("run", trainer.logger.version)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = trainer.state.fn == TrainerFn.VALIDATING  # where there is no test
        if not trainer.sanity_checking:
            self._remember(trainer)
            if (value := self._values.get(self._metrics[0])) is not None and trainer.state.fn == TrainerFn.FITTING:
                self._send("report", _validation(trainer), value)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._remember(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = True  # what comes now comes too late
        self._remember(trainer)

    def record(self, values: Mapping[str, float]) -> None:
        """Remember values of metrics; later ones replace earlier ones."""
        self._values |= values

    def _remember(self, trainer: Trainer) -> None:
        self.record({name: float(value) for name, value in trainer.callback_metrics.items()})
        checkpoint = trainer.checkpoint_callback
        monitor, best = getattr(checkpoint, "monitor", None), getattr(checkpoint, "best_model_score", None)
        if monitor and best is not None and trainer.state.fn != TrainerFn.FITTING:
            self._values[monitor] = float(best)  # that of the model which the run keeps

    def values(self) -> list[float | None]:
        """The study's metrics, None for what was not logged; the monitored one as the best checkpoint has it."""
        return [self._values.get(metric) for metric in self._metrics]


def _validation(trainer: Trainer) -> int:
    """The number of this validation, from 0; the epoch where each has one."""
    batches, interval = trainer.num_training_batches, trainer.val_check_batch
    if interval is None or interval >= batches:
        return trainer.current_epoch
    return int(trainer.current_epoch * (batches // interval) + (trainer.fit_loop.batch_idx + 1) // interval - 1)
