"""A rehearsal of one training step before a run exists, to find errors that would end the run at its first step."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint, LearningRateMonitor, ModelSummary, ProgressBar
from lightning_utilities.core.apply_func import apply_to_collection
from mlflow import MlflowClient
from torch import Tensor
from typing_extensions import override

from project.engine.checkpoints.durable import STORABLE, remove_unreadable_hyper_parameters, unreadable_part
from project.engine.cli.nearest import question
from project.engine.runtime.failure import place
from project.engine.tracking import store
from project.engine.tracking.silent import SilentLogger
from project.engine.tracking.throughput import Throughput

_ALWAYS_LOGGED = {"epoch", "step"}
_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError,
    TypeError, ValueError, MisconfigurationException,
)  # fmt: skip


def rehearse(
    model: LightningModule,
    data: LightningDataModule,
    callbacks: Sequence[Callback],
    planned: Trainer,
    *,
    accelerator: str,
    logger: bool,
    blamed: str,
) -> set[str]:
    """Train and validate one batch on one device; no file, checkpoint or run is left.

    Args:
        model: A model that is used only here; it is trained.
        data: A datamodule that is used only here.
        callbacks: Callbacks that are used only here.
        planned: The trainer of the fit, whose epochs and steps a schedule may depend on.
        accelerator: The trainer's accelerator.
        logger: Whether the trainer has a logger.
        blamed: The option that an error of the step is attributed to.

    Returns:
        Names of the metrics that a fit logs.

    Raises:
        ValueError: The step fails, or a state cannot be read from a checkpoint.
    """
    left_out = (ProgressBar, ModelSummary, Checkpoint)  # `ModelCheckpoint(save_last=True)` writes a file even here
    own: list[Callback] = [_Stop(), Throughput(), *([LearningRateMonitor()] if logger else [])]
    kept = _Kept()
    with attributed(blamed, "one training step"), TemporaryDirectory() as folder, store.for_own_runs(folder):
        trainer = Trainer(
            accelerator=accelerator,
            devices=1,
            fast_dev_run=1,
            log_every_n_steps=1,
            gradient_clip_val=planned.gradient_clip_val,
            accumulate_grad_batches=planned.accumulate_grad_batches,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=own + [callback for callback in callbacks if not isinstance(callback, left_out)],
            plugins=[kept],
        )
        trainer.loggers = [_Logger(folder)] if logger else []
        trainer.fit_loop.max_epochs, trainer.fit_loop.epoch_loop.max_steps = planned.max_epochs, planned.max_steps
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # The training repeats them.
            trainer.fit(model, data)
            trainer.save_checkpoint("", weights_only=False)
    if trainer.num_training_batches == 0:
        raise ValueError("--data: train has no batch")
    without_values = apply_to_collection(kept.checkpoint, Tensor, lambda tensor: tensor.new_empty(0))
    if part := unreadable_part(without_values):
        raise ValueError(f"{blamed}: its checkpoints cannot be read again: {part}; {STORABLE}")
    return set(trainer.callback_metrics) | _ALWAYS_LOGGED


class _Stop(Callback):
    """A callback that ends training after its first step."""

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = True


class _Logger(SilentLogger):
    """A logger whose run is in the store of the rehearsal."""

    @cached_property
    def run_id(self) -> str:
        """The id of a run, as that of `MLflowLogger`."""
        return str(MlflowClient().create_run("0").info.run_id)


class _Kept(TorchCheckpointIO):
    """The last checkpoint in memory, and those of callbacks, which may read them, in new files until training ends."""

    def __init__(self) -> None:
        self._files: set[Path] = set()

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        remove_unreadable_hyper_parameters(checkpoint)
        self.checkpoint = checkpoint
        if (file := Path(path)) in self._files or not file.exists():  # An earlier run may need an existing file.
            self._files.add(file)
            super().save_checkpoint(checkpoint, path)

    @override
    def teardown(self) -> None:
        for file in self._files:
            file.unlink(missing_ok=True)


@contextmanager
def attributed(option: str, action: str) -> Iterator[None]:
    """Raise ValueError with an option and an action for an error of the block."""
    try:
        yield
    except _FAULTS as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{option}: {action} fails with {type(error).__name__}{place(error)}: {reason}") from error


def check_monitors(callbacks: Sequence[Callback], logged: set[str]) -> None:
    """Raise ValueError for a callback that monitors a metric which no fit logs.

    Args:
        callbacks: The callbacks of `--trainer.callbacks`.
        logged: Names of the metrics that a fit logs.
    """
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and getattr(callback, "strict", True):
            check_logged(f"--trainer.callbacks: {type(callback).__name__} monitors", monitor, logged)


def check_logged(user: str, metric: str, logged: set[str]) -> None:
    """Raise ValueError for a metric that no fit logs.

    Args:
        user: The beginning of the message, with the option that needs the metric.
        metric: The metric.
        logged: Names of the metrics that a fit logs.
    """
    if metric not in logged:
        names = sorted(logged - _ALWAYS_LOGGED)
        raise ValueError(
            f"{user} {metric!r}{question(metric, names)}, which training does not log; it logs "
            f"{', '.join(names) or 'nothing'}"
        )
