"""Ctrl-C, SIGTERM and SLURM's SIGUSR1: stop at a batch boundary, on all ranks, with a checkpoint."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch.distributed import ProcessGroup

from project.checkpoints.checkpoint import LAST

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(SystemExit):
    """Training stops because of a signal; the exit code is that of the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + (signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM))


class Interrupts(Callback):
    """Answers signals. Ranks agree at the end of each batch, so that none waits for another for ever.

    Between the loops a signal stops the process at once. A second Ctrl-C does so anywhere.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._before = {signum: signal.getsignal(signum) or signal.SIG_DFL for signum in _SIGNALS}
        self._in_loop = False
        self._group: ProcessGroup | None = None

    def listen(self) -> None:
        """Take over the signals; Lightning takes them back at the start of every loop."""
        for signum in _SIGNALS:
            signal.signal(signum, self._received)

    def no_longer_listen(self) -> None:
        """Give the signals back to what answered them before."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _received(self, signum: int, frame: FrameType | None) -> None:
        if self.signum and signum == signal.SIGINT:
            os._exit(128 + signal.SIGINT)
        self.signum = signum
        if not self._in_loop:
            raise Interrupted(signum)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size > 1 and self._group is None:
            # Apart from the gradients': a flag on a GPU would make every step wait for the one before.
            self._group = cast(ProcessGroup, torch.distributed.new_group(backend="gloo"))

    def _loop_starts(self) -> None:
        self.listen()
        self._in_loop = True

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._loop_starts()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._loop_starts()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._loop_starts()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._loop_starts()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # After the last batch comes the validation; a run that is resumed from here would leave it out.
        if not (trainer.is_last_batch and trainer.enable_validation) and self._asked():
            trainer._logger_connector.update_train_step_metrics()  # which Lightning logs after this hook
            self._stop(trainer, save=True)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._asked():
            self._stop(trainer, save=trainer.global_step > 0 and not trainer.sanity_checking)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._asked():
            self._stop(trainer, save=False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._asked():  # after the last batch, whose state is saved
            self._stop(trainer, save=False)
        self._in_loop = False

    def _asked(self) -> bool:
        """Whether a rank was told to stop; all ranks must ask at the same time."""
        if self._group is None:
            return self.signum != 0
        agreed = torch.tensor(self.signum)
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX, group=self._group)
        if not agreed:
            return False  # a signal that came meanwhile stays, for the next time
        self.signum = int(agreed)
        return True

    def _stop(self, trainer: Trainer, *, save: bool) -> None:
        if save:
            _save(trainer)
        self._in_loop = False
        raise Interrupted(self.signum)


def _save(trainer: Trainer) -> None:
    folder = getattr(trainer.checkpoint_callback, "dirpath", None)
    if folder is None:
        return
    if trainer.validating:
        # This is how Lightning knows a validation that was not finished, and does it again.
        progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        for counts in (progress.total, progress.current):
            vars(counts)["processed"] -= 1
    trainer.save_checkpoint(Path(folder) / LAST)
