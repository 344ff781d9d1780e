"""The terminal output during training: a line for each epoch, and a bar or a line per minute."""

from collections.abc import Sequence
from time import monotonic
from typing import Any

from jsonargparse import Namespace
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from project.engine.cli.epoch_lines import EpochLines
from project.engine.tracking.names import score_text

_BAR_WIDTH = 20
_UPDATE_EVERY_S = 0.25
"""Drawing the bar takes some milliseconds of the processor."""
_LINE_EVERY_S = 60.0


def progress(settings: Namespace, given: Sequence[Callback]) -> list[EpochLines]:
    """Return the callback that shows progress: a bar for a terminal, lines for a file and a plain terminal.

    Args:
        settings: The settings of the trainer; they may disable it.
        given: The callbacks of the user; a progress bar among them replaces it.
    """
    if settings.enable_progress_bar is False or any(isinstance(one, LightningProgressBar) for one in given):
        return []
    console = Console()
    return [ProgressBar(console) if console.is_interactive else ProgressLines(console)]


class ProgressBar(EpochLines):
    """A line per epoch, and below the lines a bar with the batches of the current loop, which is removed at the end."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._loop = ""
        self._last = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self._update(self.epoch_name(trainer.current_epoch), 0, self.total_train_batches)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        self._update(self.epoch_name(trainer.current_epoch), args[2] + 1, self.total_train_batches)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.has_dataloader_changed(dataloader_idx)
        self._update("validation", batch_idx, self.total_val_batches_current_dataloader)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.has_dataloader_changed(dataloader_idx)
        self._update("test", batch_idx, self.total_test_batches_current_dataloader)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop()

    def _update(self, loop: str, done: int, total: float) -> None:
        """Show that `done` batches of a loop are done; the bar of another loop begins immediately."""
        is_new = loop != self._loop
        if not self._enabled or (monotonic() - self._last < _UPDATE_EVERY_S and not is_new):
            return
        count = None if total == float("inf") else int(total)
        if self._progress is None:
            self._progress = Progress(
                *_columns(), console=self.console, transient=True, refresh_per_second=1 / _UPDATE_EVERY_S
            )
            self._task = self._progress.add_task(loop, total=count, metrics="")
            self._progress.start()
        elif is_new:
            self._progress.reset(self._task, total=count, description=loop, completed=done, metrics="")
        else:
            found = self._metrics.of_steps(self.trainer) if self.trainer.training else {}
            metrics = " ".join(f"{name} {score_text(value)}" for name, value in found.items())
            self._progress.update(self._task, completed=done, total=count, metrics=metrics)
        self._loop, self._last = loop, monotonic()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._loop = None, ""


def _columns() -> list[ProgressColumn]:
    return [
        TextColumn("{task.description}"),
        BarColumn(_BAR_WIDTH),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
    ]


class ProgressLines(EpochLines):
    """A line per epoch, and a line per minute in longer epochs."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._last = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last = monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        self._print_position(trainer, "", args[2], self.total_train_batches)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        super().on_validation_batch_end(trainer, pl_module, *args)
        self._print_position(trainer, "validation, ", args[2], self.total_val_batches)

    def print_line(self, line: str, style: str = "") -> None:
        """Print a line that is not wrapped, on the first rank."""
        self._last = monotonic()
        super().print_line(line, style)

    def _print_position(self, trainer: Trainer, what: str, batch_idx: int, total: float) -> None:
        if monotonic() - self._last < _LINE_EVERY_S:
            return
        found = self._metrics.of_steps(trainer) if trainer.training else {}
        metrics = "".join(f", {name} {score_text(value)}" for name, value in found.items())
        epoch = f"{self.epoch_name(trainer.current_epoch)}: " if trainer.state.fn == TrainerFn.FITTING else ""
        self.print_line(f"{epoch}{what}batch {batch_idx + 1:,} of {total:,}{metrics}")
