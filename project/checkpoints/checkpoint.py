"""Which checkpoints a run keeps, and which one it goes on from."""

from pathlib import Path
from typing import Literal

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from typing_extensions import override


class RunCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt` and the best checkpoint, and writes one when training is interrupted.

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
            save_on_exception=True,
        )

    @override
    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        # Of equals the latest is best: a small validation set has many, and training went on.
        return bool(current == self.best_model_score) or super().check_monitor_top_k(trainer, current)


def newest_checkpoint(folder: Path) -> str:
    """Path of the checkpoint to go on from.

    Raises:
        FileNotFoundError: There is none.
    """
    path = folder / "last.ckpt"
    if not path.is_file():
        raise FileNotFoundError(f"--resume: there is no checkpoint in {folder}; start anew without --resume")
    return str(path)
