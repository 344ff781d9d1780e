"""The checkpoints that a run keeps: the last one and the best one."""

import logging
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, Self

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from project.engine import compat
from project.engine.checkpoints.durable import DurableCheckpointIO
from project.engine.checkpoints.epoch_metrics import awaits_epoch_end
from project.engine.checkpoints.gradients import ACCUMULATED, restore_gradients, save_gradients
from project.engine.checkpoints.newest import BEST, LAST, PREVIOUS
from project.engine.data import DECODING, GIVEN_BY_DATA, DescribedDataModule
from project.engine.runtime.callbacks import callbacks_of

_log = logging.getLogger(__name__)


class RunCheckpoint(Checkpoint):
    """A callback that keeps `last.ckpt`, its predecessor `previous.ckpt`, and the best one, `best-epochNNN.ckpt`.

    The last and the best one are saved after the validation of every `every_n_epochs`-th epoch, and when training
    ends, for any reason. Weights that were not validated are saved only as `last.ckpt`. If the last step was not
    validated, it is validated before training ends. If scores are equal, the latest is the best: a small validation set
    has many equal scores, and the latest weights were trained longest.

    If no metric is monitored, the last checkpoint is tested, and no checkpoint is the best one.

    Args:
        monitor: Metric that selects the best checkpoint; null selects the metric that the model declares.
        mode: Whether small or large values are better; null selects the mode that the model declares.
        every_n_epochs: Epochs between checkpoints.
        asynchronous: Write checkpoints while training continues; with false, training waits until they are on disk.

    Attributes:
        dirpath: Folder of the checkpoints, the same on every rank.
        best_model_path: Path of the best checkpoint; empty before the first.
        best_epoch: Number of the epoch of the best checkpoint, from 1.
        best_metrics: All metrics of the validation of the best checkpoint, by name. They are logged as `best/NAME`
            after each validation, so that a run that is stopped has them, too.
        constructed: Settings of each group of the optimizers as they were made, by optimizer.
        saves_epoch: Whether a checkpoint is saved at the end of this epoch even if none is due.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
        every_n_epochs: int = 1,
        asynchronous: bool = True,
    ) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"--checkpoint.every_n_epochs: got {every_n_epochs}; it must be 1 or more")
        self.monitor, self.mode, self.asynchronous = monitor, mode, asynchronous
        self.dirpath: str | None = None
        self.best_model_path = ""
        self.best_epoch: int | None = None
        self.best_metrics: dict[str, float] = {}
        self._logged: tuple[int, dict[str, float]] | None = None
        self.saves_epoch = False
        self._every = every_n_epochs
        self._saved_step = 0
        self._validated_step = -1
        self._validated_metrics: dict[str, float] = {}
        self._ended = False
        self._in_validation = self._in_optimizer = False
        self._in_validation_epoch = False
        self._continues_in_validation = False
        self._gradients: dict[str, torch.Tensor] = {}
        self.constructed: list[list[dict[str, Any]]] = []

    @classmethod
    def of(cls, trainer: Trainer) -> Self | None:
        """Return the callback of a trainer that keeps the run's checkpoints; the user may have added others."""
        return next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, cls)), None)

    @property
    def monitored(self) -> str:
        """The monitored metric and its mode, such as `val/loss (min)`; empty without one."""
        return f"{self.monitor} ({self.mode})" if self.monitor else ""

    @property
    def best_model_score(self) -> float | None:
        """The monitored metric of the best checkpoint; None before the first."""
        return self.best_metrics.get(self.monitor or "")

    def last_if_unmonitored(self) -> str | None:
        """Return the path of `last.ckpt` if no metric selects a best checkpoint; else None."""
        path = self._file(LAST)
        return str(path) if self.monitor is None and path.exists() else None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = trainer.strategy.broadcast(self.dirpath or str(Path(trainer.default_root_dir) / "checkpoints"))
        use_folder(trainer, Path(self.dirpath))  # The callbacks of the module are known only now.
        _storage(trainer).awaits_saves = True  # This callback does not wait for its own.

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.constructed = settings_of(trainer.optimizers)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = False
        self._saved_step = trainer.global_step  # the step of the checkpoint that the run resumes from
        restore_gradients(pl_module, self._gradients)
        self._gradients = {}
        best = self.best_model_path
        if best and not trainer.strategy.broadcast(Path(best).exists()):
            _log.warning("the best checkpoint, %s, does not exist; the next one is the best", best)
            self.best_model_path, self.best_epoch, self.best_metrics = "", None, {}
        if self._validated_step == trainer.global_step:
            # Callbacks and schedules that follow this validation, such as EarlyStopping, read metrics of it and of the
            # epoch that it ends; neither is repeated.
            trainer.callback_metrics.update({name: torch.tensor(v) for name, v in self._validated_metrics.items()})
        compat.validate_last_step(trainer, resumed_in_validation=self._continues_in_validation)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._in_validation = self._in_optimizer = False
        _storage(trainer).raise_failure()  # Otherwise the next save would raise it.

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._in_optimizer = True

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._in_validation = True

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._in_validation_epoch = True

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._in_validation_epoch = False

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        of_epoch = compat.metrics_of_epoch(trainer) if trainer.is_last_batch else {}
        self._set_validated(trainer, {**trainer.callback_metrics, **of_epoch})
        if not self._ended:
            if (self._is_due(trainer) or compat.is_last_step(trainer)) and not awaits_epoch_end(trainer):
                self._save(trainer)
            self._log_best(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._in_validation = False
        # Without validation, a metric of training can select the best checkpoint.
        selects = not sum(trainer.num_val_batches) and self.monitor in trainer.callback_metrics
        if selects:
            self._set_validated(trainer, trainer.callback_metrics)
        if (self._is_due(trainer) or self.saves_epoch) and self._saved_step != trainer.global_step:
            self._save(trainer)
        self._log_best(trainer)

    def _set_validated(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        self._validated_step = trainer.global_step
        self._validated_metrics = {name: float(value) for name, value in metrics.items()}

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = True  # Checkpoints from here on contain this mark; those of a validation do not.
        # This callback averages the weights after the last validation.
        averaged = bool(callbacks_of(trainer, StochasticWeightAveraging))
        unknown = (averaged or self._validated_step != trainer.global_step) and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if unknown:
            compat.validate(trainer)
        if unknown or self._saved_step != trainer.global_step:
            self._save(trainer)
        self._log_best(trainer)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[GIVEN_BY_DATA] = getattr(pl_module, GIVEN_BY_DATA, {})
        data = trainer.datamodule  # type: ignore[attr-defined]
        checkpoint[DECODING] = data.decoding() if isinstance(data, DescribedDataModule) else {}
        if trainer.state.fn == TrainerFn.FITTING:
            save_gradients(trainer, pl_module, checkpoint)

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._gradients = checkpoint.get(ACCUMULATED, {})
        if "current_model_state" in checkpoint and trainer.state.fn != TrainerFn.FITTING:
            # After a fit, WeightAveraging loads the trained weights, but the averaged ones were validated.
            pl_module.load_state_dict(checkpoint["state_dict"])

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "best_file": Path(self.best_model_path).name,
            "best_epoch": self.best_epoch,
            "best_metrics": self.best_metrics,
            "validated_step": self._validated_step,
            "validated_metrics": self._validated_metrics,
            "in_validation": self._in_validation,
            "optimizers": self.constructed,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["best_file"]:
            self.best_model_path = str(self._file(state_dict["best_file"]))
        self.best_epoch = state_dict["best_epoch"]
        self.best_metrics = state_dict["best_metrics"]
        self._validated_step = state_dict["validated_step"]
        self._validated_metrics = state_dict["validated_metrics"]
        self._continues_in_validation = state_dict["in_validation"]

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the steps before an error, except with several processes, which would all have to take part.

        A resumed run repeats the batch of an error if no weight and no gradient has changed since the batch before.
        After an error in an optimizer or in a later one of accumulated batches, it resumes from the checkpoint before,
        as after a `kill -9`.
        """
        in_training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        good = not isinstance(exception, FloatingPointError)
        if not (in_training and good and trainer.world_size == 1 and trainer.global_step > self._saved_step):
            return
        within_batch = compat.is_within_batch(trainer)
        if within_batch and (self._in_optimizer or not compat.is_step_done(trainer)):
            return
        is_validated = self._validated_step == trainer.global_step
        if within_batch:
            compat.repeat_batch(trainer)
        elif awaits_epoch_end(trainer):
            return
        elif not (is_validated or trainer.validating) and compat.is_validated_next(trainer):
            return  # A run that resumes from here would skip the validation.
        saved = self._saved_step
        try:
            save = self.save_last if is_validated else self.save_unfinished
            save(trainer)
            _storage(trainer).teardown()
        except (OSError, RuntimeError, ValueError, FloatingPointError) as error:
            # The error that ends training is the one to raise.
            _log.warning("the steps after step %d could not be saved: %s", saved, error)

    def save_unfinished(self, trainer: Trainer) -> None:
        """Save `last.ckpt` so that a resumed run repeats the validation, if training ends within one."""
        if trainer.validating:
            # Lightning repeats a validation whose last batch counts as started, but not as processed.
            progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
            for counts in (progress.total, progress.current):
                batches = max(1, counts.ready)
                vars(counts).update(ready=batches, started=batches, processed=batches - 1, completed=batches - 1)
        self.save_last(trainer)

    def save_last(self, trainer: Trainer) -> None:
        """Save `last.ckpt`, without a score."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._restore_trained_weights(trainer)
        self._keep_previous(trainer)
        self._write(trainer, self._file(LAST))
        self._saved_step = trainer.global_step

    def _restore_trained_weights(self, trainer: Trainer) -> None:
        """Restore the trained weights, which weight averaging exchanged at the start of an incomplete validation."""
        if self._in_validation_epoch:
            self._in_validation_epoch = False
            for averaging in callbacks_of(trainer, WeightAveraging):
                averaging.on_validation_epoch_end(trainer, trainer.lightning_module)

    def is_saved(self, trainer: Trainer) -> bool:
        """Return whether the last step is in a checkpoint."""
        return 0 < trainer.global_step == self._saved_step

    def _is_due(self, trainer: Trainer) -> bool:
        return (trainer.current_epoch + 1) % self._every == 0

    def _save(self, trainer: Trainer) -> None:
        if self._validated_step == trainer.global_step and self._is_best(trainer):
            self._save_best(trainer)
        else:
            self.save_last(trainer)

    def _is_best(self, trainer: Trainer) -> bool:
        if self.monitor is None:
            return False
        score, best = self._validated_metrics.get(self.monitor), self.best_model_score
        if score is None:
            found = ", ".join(self._metrics_of_validation()) or "nothing"
            raise ValueError(f"--checkpoint.monitor: got {self.monitor}, but validation logs {found}")
        better = best is None or best != best or (score <= best if self.mode == "min" else score >= best)  # NaN
        # Ranks that differ would wait for each other for ever.
        return trainer.strategy.reduce_boolean_decision(better) and not trainer.fast_dev_run  # type: ignore[attr-defined]

    def _save_best(self, trainer: Trainer) -> None:
        before = self.best_model_path
        # The checkpoint contains these attributes, so they are set before.
        self.best_epoch = trainer.current_epoch + (not self._ended)
        self.best_model_path = str(self._file(f"{BEST}{self.best_epoch - 1:03d}.ckpt"))
        self.best_metrics = self._metrics_of_validation()
        self._write(trainer, self.best_model_path)
        self._keep_previous(trainer)
        if trainer.is_global_zero:
            _storage(trainer).link_checkpoint(self.best_model_path, self._file(LAST))
        self._saved_step = trainer.global_step
        if before not in ("", self.best_model_path):
            trainer.strategy.remove_checkpoint(before)

    def _write(self, trainer: Trainer, path: str | Path) -> None:
        storage = _storage(trainer)
        storage.awaits_saves = False
        try:
            trainer.save_checkpoint(path)
        finally:
            storage.awaits_saves = True

    def _metrics_of_validation(self) -> dict[str, float]:
        stage = _stage(self.monitor)
        return {name: value for name, value in self._validated_metrics.items() if _stage(name) == stage}

    def _log_best(self, trainer: Trainer) -> None:
        """Log the metrics of the best checkpoint, unless they are logged for this step."""
        current = trainer.global_step, self.best_metrics
        if not self.best_metrics or self._logged == current:
            return
        self._logged = current
        for logger in trainer.loggers:
            logger.log_metrics(
                {f"best/{name}": value for name, value in self.best_metrics.items()}, trainer.global_step
            )

    def _keep_previous(self, trainer: Trainer) -> None:
        """Keep the last checkpoint under another name before it is replaced."""
        if trainer.is_global_zero:
            _storage(trainer).link_checkpoint(self._file(LAST), self._file(PREVIOUS))

    def _file(self, name: str) -> Path:
        assert self.dirpath is not None  # `setup` sets it.
        return Path(self.dirpath) / name


def settings_of(optimizers: Iterable[Optimizer]) -> list[list[dict[str, Any]]]:
    """Return the settings of each group of new optimizers, which a training may change."""
    return [
        [{name: deepcopy(value) for name, value in group.items() if name != "params"} for group in one.param_groups]
        for one in optimizers
    ]


def _storage(trainer: Trainer) -> DurableCheckpointIO:
    storage = trainer.strategy.checkpoint_io
    assert isinstance(storage, DurableCheckpointIO)  # The command line refuses another one.
    return storage


def _stage(metric: str | None) -> str:
    """Return the first part of a metric's name, such as `val` of `val/loss` and `val_loss`."""
    return re.split("[/_]", metric or "", maxsplit=1)[0]


def use_folder(trainer: Trainer, folder: Path) -> None:
    """Set the folder of the run's checkpoints, and of each `ModelCheckpoint` of the user that has none."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, RunCheckpoint):
            callback.dirpath = str(folder)
        elif isinstance(callback, ModelCheckpoint) and callback.dirpath in (None, str(folder)):
            callback.dirpath = str(folder)
            if callback.CHECKPOINT_NAME_LAST == ModelCheckpoint.CHECKPOINT_NAME_LAST:
                callback.CHECKPOINT_NAME_LAST = f"{type(callback).__name__}-last"  # `last.ckpt` belongs to the run.
