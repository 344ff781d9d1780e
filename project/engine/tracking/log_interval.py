"""The interval at which metrics of training steps are logged, which follows the length of an epoch."""

from math import inf

from lightning import Callback, LightningModule, Trainer

_POINTS_PER_EPOCH = 50
_LONGEST = 50


def log_interval(steps: float) -> int:
    """Return the steps between two points, for some 50 points in an epoch, or more in a long one.

    Args:
        steps: Optimizer steps in an epoch; inf if their number is unknown.
    """
    return max(1, round(min(steps / _POINTS_PER_EPOCH, _LONGEST)))


class LogInterval(Callback):
    """The trainer's `log_every_n_steps`, set from the number of batches, which Lightning knows when training starts.

    Before training starts, it is 1: Lightning compares it with the number of batches as soon as it knows them, and
    warns if an epoch is shorter.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.log_every_n_steps = 1  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        limit = trainer.limit_train_batches
        batches = min(trainer.num_training_batches, limit if isinstance(limit, int) else inf)
        most = trainer.max_steps if trainer.max_steps >= 0 else inf
        steps = min(batches / trainer.accumulate_grad_batches, most)
        trainer.log_every_n_steps = log_interval(steps)  # type: ignore[attr-defined]
