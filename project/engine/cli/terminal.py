"""The terminal output during training: a progress bar, or lines."""

from collections.abc import Mapping
from time import monotonic
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn

from project.engine.checkpoints import RunCheckpoint

_BAR_WIDTH = 8
_LINE_EVERY_S = 60.0

_Shown = int | str | float | dict[str, float]


def progress() -> RichProgressBar | LightningProgressBar:
    """Return a progress bar for a terminal, and lines for a file, in which a bar appears only when it ends."""
    return ProgressBar() if Console().is_terminal else ProgressLines()


class ProgressBar(RichProgressBar):
    """Lightning's bar for 80 columns, with epochs counted from one, short names and no run id."""

    def _get_train_description(self, current_epoch: int) -> str:
        last = f"/{self.trainer.max_epochs}" if self.trainer.max_epochs else ""
        return f"Epoch {current_epoch + 1}{last}".ljust(len(self.validation_description))

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the metrics beside the bar."""
        return _short_names(super().get_metrics(trainer, pl_module), trainer)

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """Return Lightning's columns, with a narrower bar."""
        columns: list[ProgressColumn] = super().configure_columns(trainer)
        for column in columns:
            if isinstance(column, BarColumn):
                column.bar_width = _BAR_WIDTH
        return columns


class ProgressLines(LightningProgressBar):
    """A line per epoch, and a line per minute in longer epochs."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._last = 0.0
        self._has_batches = False
        self._ended_epoch: int | None = None

    def enable(self) -> None:
        """Print lines."""
        self._enabled = True

    def disable(self) -> None:
        """Print no lines, as on all ranks but the first."""
        self._enabled = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last = monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._print_position(trainer, pl_module, "", args[2], self.total_train_batches)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._print_position(trainer, pl_module, "validation, ", args[2], self.total_val_batches)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._has_batches:  # A resumed run also ends the epoch that it had completed.
            self._ended_epoch = trainer.current_epoch
        self._has_batches = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_ended_epoch(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_ended_epoch(trainer, pl_module)

    def _print_ended_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print an epoch's line; Lightning computes its training metrics after `on_train_epoch_end`."""
        if self._ended_epoch is not None:
            self._print_metrics(trainer, _described(self.get_metrics(trainer, pl_module), trainer), self._ended_epoch)
            self._ended_epoch = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._print(f"validating the {_tested(trainer)} checkpoint")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print(f"testing the {_tested(trainer)} checkpoint")

    def _print_position(
        self, trainer: Trainer, pl_module: LightningModule, what: str, batch_idx: int, total: float
    ) -> None:
        self._has_batches = True
        if monotonic() - self._last >= _LINE_EVERY_S:
            metrics = _described(self.get_metrics(trainer, pl_module), trainer)
            self._print_metrics(trainer, f"{what}batch {batch_idx + 1:,} of {total:,}  {metrics}".rstrip())

    def _print_metrics(self, trainer: Trainer, what: str, epoch: int | None = None) -> None:
        of = f" of {trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
        training = trainer.state.fn == TrainerFn.FITTING
        number = (trainer.current_epoch if epoch is None else epoch) + 1
        self._print(f"epoch {number}{of}: {what}".removesuffix(": ") if training else what)

    def _print(self, line: str) -> None:
        self._last = monotonic()
        if self._enabled:
            print(line, flush=True)


def _tested(trainer: Trainer) -> str:
    checkpoint = RunCheckpoint.of(trainer)
    return "best" if checkpoint and checkpoint.monitor else "last"


def _short_names(metrics: Mapping[str, _Shown], trainer: Trainer) -> dict[str, _Shown]:
    """Remove the name of the monitored metric, so that `val/loss` becomes `val`, and the run id."""
    checkpoint = RunCheckpoint.of(trainer)
    monitored = (checkpoint.monitor if checkpoint else None) or ""
    return {
        name.removesuffix(f"/{monitored.rpartition('/')[2]}"): value
        for name, value in metrics.items()
        if name != "v_num"
    }


def _described(metrics: Mapping[str, _Shown], trainer: Trainer) -> str:
    values = _short_names(metrics, trainer).items()
    return ", ".join(f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}" for name, value in values)
