"""The number of trained epochs as a metric, for the x axis of charts."""

from functools import partial

from lightning import Callback, LightningModule, Trainer

from project.engine.tracking.logger import MLflowLogger


class EpochAxis(Callback):
    """Callback that makes the MLflow logger record the epochs trained so far, with each metric of training."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (logger := MLflowLogger.of(trainer)) is not None:
            logger.epochs_trained = partial(epochs_trained, trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (logger := MLflowLogger.of(trainer)) is not None:
            logger.epochs_trained = None


def epochs_trained(trainer: Trainer) -> float:
    """Return the epochs trained so far, with the trained part of the current one if its length is known."""
    return trainer.current_epoch + (trainer.fit_loop.batch_idx + 1) / trainer.num_training_batches
