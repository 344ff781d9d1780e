"""Which checkpoints a run keeps, and which one it goes on from."""

import logging
import warnings
from pathlib import Path
from typing import Any, Literal, Self

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from typing_extensions import override

from project.checkpoints.durable import read_valid
from project.checkpoints.retention import holds_weights_only

LAST = "last.ckpt"

_log = logging.getLogger(__name__)


class RunCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt` and the best checkpoint.

    Args:
        monitor: Metric that decides which checkpoint is best: the largest accuracy, or the smallest loss.
        every_n_epochs: Epochs between checkpoints.

    Attributes:
        best_metrics: All metrics of the validation of the best checkpoint, by name. They are logged as `best/NAME`
            when training ends.
    """

    def __init__(self, monitor: Literal["val/accuracy", "val/loss"] = "val/accuracy", every_n_epochs: int = 1) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"--checkpoint.every_n_epochs: got {every_n_epochs}; it must be 1 or more")
        self._every = every_n_epochs
        self.best_metrics: dict[str, float] = {}
        super().__init__(
            filename="best-epoch{epoch:03d}",
            auto_insert_metric_name=False,
            monitor=monitor,
            mode="min" if monitor.endswith("loss") else "max",
            every_n_epochs=every_n_epochs,
            enable_version_counter=False,
        )

    @classmethod
    def of(cls, trainer: Trainer) -> Self | None:
        """The callback of a trainer that keeps the run's checkpoints; the user may have added others."""
        return next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, cls)), None)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        due = (trainer.current_epoch + 1) % self._every == 0 and not trainer.sanity_checking
        if due and self.dirpath and trainer.state.fn == TrainerFn.FITTING and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            # Lightning's `save_last` writes it only where the metric is the best.
            trainer.save_checkpoint(Path(self.dirpath) / LAST)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self.best_metrics:
            best = {f"best/{name}": value for name, value in self.best_metrics.items()}
            for logger in trainer.loggers:
                logger.log_metrics(best, trainer.global_step)

    @override
    def _update_best_and_save(self, current: Tensor, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        assert self.monitor
        stage = self.monitor.partition("/")[0] + "/"
        self.best_metrics = {k: float(value) for k, value in monitor_candidates.items() if k.startswith(stage)}
        super()._update_best_and_save(current, trainer, monitor_candidates)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "best_metrics": self.best_metrics}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.best_metrics = state_dict.get("best_metrics", {})

    @override
    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        if current is None:  # a run that goes on from the end of an epoch, where it was validated before
            return False
        # Of equals the latest is best: a small validation set has many, and training went on.
        return bool(current == self.best_model_score) or super().check_monitor_top_k(trainer, current)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        with warnings.catch_warnings():
            # A run that is resumed has checkpoints: that is what they are for.
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            super().setup(trainer, pl_module, stage)


def newest_checkpoint(folder: Path, *, required: bool = True) -> Path | None:
    """Return the newest valid checkpoint that a run can resume from; damaged ones are named and skipped.

    Raises:
        FileNotFoundError: There is none, and one is required.
    """
    damaged: list[str] = []
    weights_only: list[str] = []
    for path in sorted(folder.glob("*.ckpt"), key=_age):
        state = read_valid(path)
        if state is None:
            damaged += [str(path)] if path.exists() else []
        elif holds_weights_only(state):
            weights_only.append(str(path))
        else:
            if damaged:
                _log.warning("damaged or with code in it: %s; an older checkpoint is used", ", ".join(damaged))
            return path
    if required:
        found = f"; damaged or with code in it: {', '.join(damaged)}" if damaged else ""
        found += f"; without optimizer state: {', '.join(weights_only)}" if weights_only else ""
        raise FileNotFoundError(
            f"--resume: there is no valid checkpoint in {folder}{found}; start anew without --resume"
        )
    return None


def _age(path: Path) -> tuple[float, bool]:
    try:
        # Of two names for one file it is `last.ckpt`: Lightning never removes what a run was resumed from.
        return -path.stat().st_mtime, path.name != LAST
    except FileNotFoundError:  # the run still trains
        return 0.0, True
