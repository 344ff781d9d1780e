"""Signals that stop training at a batch boundary, on all ranks, with a checkpoint.

They are Ctrl-C, SIGTERM, SLURM's SIGUSR1, and the SIGHUP of a lost terminal.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from time import sleep
from types import FrameType
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed import ProcessGroup

from project.engine import compat
from project.engine.checkpoints.checkpoint import RunCheckpoint

# Windows has no SIGUSR1 and no SIGHUP.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)
_STUCK_AFTER_S = 2.0
_AGAIN_AFTER_S = 0.05


class Interrupted(SystemExit):
    """Training stops because of a signal; the exit code is that of the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(exit_code(signum))


def exit_code(signum: int) -> int:
    """130 after Ctrl-C, 143 after the other signals."""
    return 128 + (signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM)


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask this process to stop: SIGHUP is not one of them under nohup, which ignores it."""
    return tuple(
        signum for signum in STOP_SIGNALS if signum.name != "SIGHUP" or signal.getsignal(signum) != signal.SIG_IGN
    )


class Interrupts(Callback):
    """Answers signals. Ranks agree at the end of each batch, so that none waits for another for ever.

    Between the loops a signal stops the process at once. A second Ctrl-C does so anywhere.

    Attributes:
        signum: The signal that came; 0 before.
        agreed: Whether all ranks stop because of it.
        on_stuck: Called, in a thread, with a signal that Python cannot answer for seconds between the loops, as it
            is in a call that waits for another rank.
    """

    def __init__(self) -> None:
        self.on_stuck: Callable[[int], None] | None = None
        self.signum = 0
        self.agreed = False
        self._before = {signum: signal.getsignal(signum) or signal.SIG_DFL for signum in stop_signals()}
        self._told: int | None = None
        self._hook_before = sys.unraisablehook
        self._in_loop = False
        self._group: ProcessGroup | None = None

    def listen(self) -> None:
        """Take over the signals."""
        for signum in self._before:
            signal.signal(signum, self._received)
        if self._told is None:
            told, self._told = os.pipe()
            os.set_blocking(self._told, False)
            signal.set_wakeup_fd(self._told)
            self._hook_before, sys.unraisablehook = sys.unraisablehook, self._dropped
            threading.Thread(target=self._watch, args=[told], name="interrupts", daemon=True).start()

    def _watch(self, told: int) -> None:
        while signums := os.read(told, 1):
            sleep(_STUCK_AFTER_S)
            stuck = signums[0] in self._before and not self.signum and not self._in_loop
            if stuck and self.on_stuck is not None:
                self.on_stuck(signums[0])
        os.close(told)

    def restore_handlers(self) -> None:
        """Give the signals back to what answered them before."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self.on_stuck = None
        if self._told is not None:
            signal.set_wakeup_fd(-1)
            sys.unraisablehook = self._hook_before
            told, self._told = self._told, None
            os.close(told)

    def _dropped(self, dropped: "sys.UnraisableHookArgs") -> None:
        """Send the signal again: Python goes on where it was, after an exception in a finalizer."""
        if isinstance(dropped.exc_value, Interrupted) and self.signum:
            signum, self.signum = self.signum, 0
            threading.Timer(_AGAIN_AFTER_S, os.kill, (os.getpid(), signum)).start()
        else:
            self._hook_before(dropped)

    def _received(self, signum: int, frame: FrameType | None) -> None:
        if self.signum == signum == signal.SIGINT:
            os.write(2, b"\nexited immediately; the next fit or python -m project.sync closes the run\n")
            os._exit(exit_code(signum))
        self.signum = signum
        if not self._in_loop:
            raise Interrupted(signum)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        compat.set_signal_handlers(trainer, self.listen)
        if trainer.world_size > 1 and self._group is None:
            # Apart from the gradients': a flag on a GPU would make every step wait for the one before.
            self._group = cast(ProcessGroup, torch.distributed.new_group(backend="gloo"))

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._in_loop = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._in_loop = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._in_loop = True

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._in_loop = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # After the last batch comes the validation; a run that is resumed from here would leave it out. Gradients
        # that wait for more are in no checkpoint.
        before_validation = (trainer.is_last_batch or compat.is_last_step(trainer)) and trainer.enable_validation
        within_step = (batch_idx + 1) % trainer.accumulate_grad_batches != 0 and not trainer.is_last_batch
        if not (before_validation or within_step) and self._asked():
            compat.log_step(trainer)
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
        in_training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        # A run that has done `max_steps` has nothing to resume, and would never complete this validation.
        if not (in_training and 0 <= trainer.max_steps <= trainer.global_step) and self._asked():
            self._stop(trainer, save=in_training and trainer.global_step > 0)

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
        self._in_loop, self.agreed = False, True
        raise Interrupted(self.signum)


def _save(trainer: Trainer) -> None:
    checkpoint = RunCheckpoint.of(trainer)
    if checkpoint is None:
        return
    if trainer.validating:
        # This is how Lightning knows a validation that was not finished, and does it again.
        progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        for counts in (progress.total, progress.current):
            vars(counts)["processed"] -= 1
    checkpoint.save_last(trainer)
