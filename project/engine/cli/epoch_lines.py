"""The callback that prints a line for each epoch, which stays above the progress of the next one."""

from time import perf_counter
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console

from project.engine.checkpoints.checkpoint import RunCheckpoint
from project.engine.cli.epoch_metrics import EpochMetrics
from project.engine.cli.epoch_table import Cell, EpochTable, clock, line_with_names
from project.engine.runtime.callbacks import callbacks_of
from project.engine.tracking.throughput import Throughput, rate_text

_BEST = "best"


class EpochLines(LightningProgressBar):
    """A line per epoch: the row of a table in a terminal, a line with names in a file.

    It has the losses, the metrics that the model shows in the progress bar, the learning rate, the samples per second
    of training, the time including validation, and a mark if the best checkpoint so far is that of this epoch.

    Args:
        console: The output.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self._table = EpochTable(console.width) if console.is_terminal else None
        self._metrics = EpochMetrics()
        self._enabled = True
        self._start = self._seconds = 0.0
        self._lr: float | None = None
        self._has_batches = False
        self._ended_epoch: int | None = None

    def enable(self) -> None:
        """Print lines."""
        self._enabled = True

    def disable(self) -> None:
        """Print no lines, as on all ranks but the first."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = perf_counter()  # A run that resumes mid-epoch has no start of this epoch.

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_ended_epoch(trainer)
        self._start = perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        groups = [group for optimizer in trainer.optimizers[:1] for group in optimizer.param_groups]
        self._lr = max((float(group["lr"]) for group in groups), default=None)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._has_batches = True

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._has_batches = self._has_batches or not trainer.sanity_checking

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._metrics.add_validation(trainer)
        self.reset_dataloader_idx_tracker()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.reset_dataloader_idx_tracker()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._has_batches:  # A resumed run also ends the epoch that it had completed.
            self._ended_epoch, self._seconds = trainer.current_epoch, perf_counter() - self._start
        self._has_batches = False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_ended_epoch(trainer)  # The end of training may have validated the last step.

    def epoch_name(self, epoch: int) -> str:
        """Return the name of an epoch, counted from 0, such as `epoch 3 of 10`."""
        return f"epoch {self._number(epoch, ' of ')}"

    def print_line(self, line: str, style: str = "") -> None:
        """Print a line that is not wrapped, on the first rank."""
        if not self._enabled:
            return
        if self._table is None:
            print(line, flush=True)
        else:
            self.console.print(line, style=style, markup=False, highlight=False, no_wrap=True, overflow="crop")

    def _number(self, epoch: int, of: str) -> str:
        last = self.trainer.max_epochs or 0
        return f"{epoch + 1}{of}{last}" if last > 0 else f"{epoch + 1}"

    def _print_ended_epoch(self, trainer: Trainer) -> None:
        """Print an epoch's line; Lightning computes its training metrics after `on_train_epoch_end`."""
        if self._ended_epoch is None:
            return
        epoch, self._ended_epoch = self._ended_epoch, None
        checkpoint = RunCheckpoint.of(trainer)
        is_best = checkpoint is not None and checkpoint.best_epoch == epoch + 1
        # An epoch may have several validations; the mark belongs to the metrics of the best one.
        best = checkpoint.best_metrics if checkpoint and is_best else {}
        cells = [*self._metrics.cells(trainer, best), *self._speed(trainer)]
        if self._table is None:
            self.print_line(f"{self.epoch_name(epoch)}: {line_with_names(cells)}{', best so far' * is_best}")
            return
        widest = max(len("epoch"), len(self._number((trainer.max_epochs or 0) - 1, "/")))
        row = [Cell("", "epoch", self._number(epoch, "/"), least=widest), *cells]
        if checkpoint and checkpoint.monitor:
            row.append(Cell("", "", _BEST if is_best else " ", least=len(_BEST)))
        for line in self._table.header(row):
            self.print_line(line, "bold")
        self.print_line(self._table.row(row).rstrip(), "green" if is_best else "")

    def _speed(self, trainer: Trainer) -> list[Cell]:
        cells = [] if self._lr is None else [Cell("", "lr", f"{self._lr:.2g}", rank=4, least=7)]
        for throughput in callbacks_of(trainer, Throughput):
            cells.append(Cell("", f"{throughput.unit}/s", rate_text(throughput.epoch.samples_per_second), rank=5))
        return [*cells, Cell("", "time", clock(self._seconds), rank=3)]
