"""Which checkpoints a run keeps, and which one it goes on from."""

import logging
from pathlib import Path
from typing import Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from typing_extensions import override

from project.checkpoints.durable import is_valid

_log = logging.getLogger(__name__)


class RunCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt` and the best checkpoint.

    Args:
        monitor: Metric that decides which checkpoint is best.
        mode: Whether the best is the largest or the smallest value.
        every_n_epochs: Epochs between checkpoints.
    """

    def __init__(
        self, monitor: str = "val/accuracy", mode: Literal["max", "min"] = "max", every_n_epochs: int = 1
    ) -> None:
        super().__init__(
            filename="best-epoch{epoch:03d}",
            auto_insert_metric_name=False,
            monitor=monitor,
            mode=mode,
            every_n_epochs=every_n_epochs,
            save_last=True,
            enable_version_counter=False,
        )

    @override
    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        # Of equals the latest is best: a small validation set has many, and training went on.
        return bool(current == self.best_model_score) or super().check_monitor_top_k(trainer, current)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io.teardown()  # FSDP's strategy does not; what is next reads the files


def newest_checkpoint(folder: Path) -> str:
    """Path of the newest valid checkpoint; damaged ones are named and passed over.

    Raises:
        FileNotFoundError: There is none.
    """
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True):
        if is_valid(path):
            return str(path)
        _log.warning("the checkpoint %s is damaged; looking for an older one", path)
    raise FileNotFoundError(f"--resume: there is no valid checkpoint in {folder}; start anew without --resume")
