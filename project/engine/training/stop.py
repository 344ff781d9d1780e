"""Signals that stop training at a batch boundary, on all ranks, with a checkpoint."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from select import select
from time import monotonic
from types import FrameType
from typing import Any, NoReturn, Self, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.distributed import ProcessGroup, Work

from project.engine import compat
from project.engine.checkpoints.checkpoint import RunCheckpoint
from project.engine.checkpoints.epoch_metrics import awaits_epoch_end
from project.engine.runtime.process import command_process
from project.engine.runtime.startup import print_interrupted
from project.engine.runtime.stop_signals import exit_code, stop_signals

_STUCK_AFTER_S = 2.0
_AGAIN_AFTER_S = 0.05
_ASK_EVERY_S = 0.2
_MOST_BATCHES_BETWEEN = 20  # Later batches may be much slower.


class Interrupted(SystemExit):
    """The exit of a process because of a signal, with its exit code."""

    def __init__(self, signum: int) -> None:
        super().__init__(exit_code(signum))


class Interrupts(Callback):
    """The signals that stop a fit, for a block of code: `with Interrupts() as interrupts: ...`.

    All ranks agree to stop at the end of a batch, because otherwise one would wait forever for another. Several ranks
    ask each other about five times a second, at most 20 batches apart, and read the answer one batch later, so that no
    batch waits for it. Between the loops of the trainer, a signal stops this process immediately. A second Ctrl-C
    always stops it, after two seconds if it waits for another rank.

    Attributes:
        outcome: What is left after a second Ctrl-C, such as `the run is not closed`; empty if nothing is.
        signum: The signal that arrived; 0 before.
        agreed: Whether all ranks stop because of it.
        on_stuck: Called in a thread with a signal that Python cannot handle for seconds between the loops, because the
            process is in a call that waits for another rank.
    """

    def __init__(self, outcome: str = "") -> None:
        self.outcome = outcome
        self.on_stuck: Callable[[int], None] | None = None
        self.signum = 0
        self.agreed = False
        self._in_loop = False
        self._raised = False
        self._sent_again = 0
        self._group: ProcessGroup | None = None
        self._asked: tuple[Tensor, Work] | None = None
        self._asked_at = 0.0
        self._interval, self._batches = 1, 0  # Batches between two questions, and since the last one.

    def __enter__(self) -> Self:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._wakeup_before = signal.set_wakeup_fd(self._writing)
        self._hook_before, sys.unraisablehook = sys.unraisablehook, self._on_unraisable
        self._over = threading.Event()
        self._before = {signum: signal.getsignal(signum) or signal.SIG_DFL for signum in stop_signals()}
        self._watcher = threading.Thread(target=self._watch, name="interrupts", daemon=True)
        self._watcher.start()
        self._register()
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        sys.unraisablehook = self._hook_before
        self._over.set()
        with suppress(BlockingIOError):  # The pipe is full, so the thread has bytes to read.
            os.write(self._writing, bytes([0]))  # It ends the thread, even if a forked process has the pipe, too.
        self._watcher.join()
        os.close(self._writing)
        os.close(self._reading)

    @contextmanager
    def as_interruption(self) -> Iterator[None]:
        """Raise Interrupted instead of an error after a signal.

        An interrupted library raises errors while it cleans up. A signal to a process group also ends the processes
        that a step waits for, such as a compiler.
        """
        try:
            yield
        except Exception as error:
            if self._raised or self.signum:
                raise Interrupted(self.signum) from error
            raise

    @contextmanager
    def explained(self, outcome: str) -> Iterator[None]:
        """Print a line if the block is interrupted.

        Args:
            outcome: What is left, such as `no run was started`.
        """
        try:
            with self.as_interruption():
                yield
        except Interrupted:
            print_interrupted(outcome)
            raise

    def _register(self) -> None:
        for signum in self._before:
            signal.signal(signum, self._handle)

    def _watch(self) -> None:
        pressed = 0
        while (signum := os.read(self._reading, 1)[0]) and not self._over.is_set():
            pressed += signum == signal.SIGINT
            another = select([self._reading], [], [], _STUCK_AFTER_S)[0]
            if pressed - self._sent_again > 1 and not self._over.is_set():
                self._exit_immediately()  # The main thread is in a call that waits, such as for another rank.
            handled = another or self.signum or self._in_loop
            if signum in self._before and not handled and self.on_stuck is not None:
                self.on_stuck(signum)

    def _on_unraisable(self, dropped: "sys.UnraisableHookArgs") -> None:
        """Send the signal again if Python dropped its exception, as it does in a finalizer."""
        if isinstance(dropped.exc_value, Interrupted) and self.signum:
            signum, self.signum = self.signum, 0
            self._sent_again += signum == signal.SIGINT
            threading.Timer(_AGAIN_AFTER_S, os.kill, (os.getpid(), signum)).start()
        else:
            self._hook_before(dropped)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum == signum == signal.SIGINT:
            self._exit_immediately()
        self.signum = signum
        if not self._in_loop:
            self._raised = True
            raise Interrupted(signum)

    def _exit_immediately(self) -> NoReturn:
        end = f"; {self.outcome}" if self.outcome else ""
        os.write(2, f"\nexited immediately{end}\n".encode())
        os._exit(exit_code(signal.SIGINT))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        compat.set_signal_handlers(trainer, self._register)
        compat.without_signal_broadcast(trainer)
        if trainer.world_size > 1 and self._group is None:
            # With a flag on a GPU, in the group of the gradients, each step would wait for the step before.
            self._group = cast(ProcessGroup, torch.distributed.new_group(backend="gloo"))

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._in_loop, self._interval = True, 1  # The batches of this loop may be slower than those before.

    on_train_start = on_validation_start = on_test_start = on_sanity_check_start

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        checkpoint = RunCheckpoint.of(trainer)
        if checkpoint and checkpoint.is_saved(trainer) and (checkpoint.saves_epoch or self._is_interrupted()):
            self._stop(trainer, save=False)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._group is None and not self.signum:
            return  # The usual case. The checks that follow take a hundredth of a small net's step.
        can_stop = compat.is_step_done(trainer) and not compat.is_validated_next(trainer)
        if can_stop and self._is_interrupted() and not self._defer_to_epoch_end(trainer):
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            for callback in callbacks[callbacks.index(self) + 1 :]:  # Their hooks also belong to this batch.
                callback.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            pl_module.on_train_batch_end(outputs, batch, batch_idx)
            compat.log_step(trainer)
            self._stop(trainer, save=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._interval = 1

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
        # A run that has done `max_steps` cannot be resumed, and would never complete this validation.
        is_last = in_training and 0 <= trainer.max_steps <= trainer.global_step
        if not is_last and self._is_interrupted() and not (in_training and self._defer_to_epoch_end(trainer)):
            self._stop(trainer, save=in_training and trainer.global_step > 0)

    on_test_batch_end = on_validation_batch_end

    def _defer_to_epoch_end(self, trainer: Trainer) -> bool:
        """Let training stop after this epoch if a resumed run could not end it; return whether it does.

        The epoch then has a checkpoint, even if none is due.
        """
        is_deferred, checkpoint = awaits_epoch_end(trainer), RunCheckpoint.of(trainer)
        if checkpoint is not None:
            checkpoint.saves_epoch = is_deferred
        return is_deferred

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # After the last batch, whose checkpoint is saved.
        is_interrupted = self.signum != 0 if self._group is None else self._has_signal(*self._ask(self._group))
        if is_interrupted:
            self._stop(trainer, save=False)
        self._in_loop = False

    def _is_interrupted(self) -> bool:
        """Return whether any rank had received a signal when they last asked each other; all ranks call this together.

        They ask from time to time, and read the answer in the next call.
        """
        if self._group is None:
            return self.signum != 0
        if self._asked is not None and self._has_signal(*self._asked):
            return True
        self._batches += 1
        if self._batches >= self._interval:
            self._asked = self._ask(self._group)
        return False

    def _ask(self, group: ProcessGroup) -> tuple[Tensor, Work]:
        now = monotonic()
        question = torch.tensor([self.signum, now - self._asked_at], dtype=torch.float64)
        self._asked_at, self._batches = now, 0
        work = torch.distributed.all_reduce(question, torch.distributed.ReduceOp.MAX, group=group, async_op=True)
        assert work is not None
        return question, work

    def _has_signal(self, answer: Tensor, work: Work) -> bool:
        """Read an answer, and choose the next interval from the time since the question before, as all ranks do."""
        self._asked = None
        work.wait()
        signum, seconds = answer.tolist()
        self._interval = max(1, min(int(self._interval * _ASK_EVERY_S / max(seconds, 1e-3)), _MOST_BATCHES_BETWEEN))
        if signum:
            self.signum = int(signum)
        return bool(signum)

    def _stop(self, trainer: Trainer, *, save: bool) -> None:
        checkpoint = RunCheckpoint.of(trainer)
        if save and checkpoint is not None:
            checkpoint.save_unfinished(trainer)
        self._in_loop, self.agreed = False, True
        raise Interrupted(self.signum)


@contextmanager
def interruptible_command(outcome: str) -> Iterator[Interrupts]:
    """Configure this process for a block of code; a signal interrupts it with one line.

    Args:
        outcome: What is left after an interruption, such as `no predictions were written`.
    """
    with command_process(), Interrupts() as interrupts, interrupts.explained(outcome):
        yield interrupts
