"""The supervision of the processes of one fit: if one ends, all end, and the run records the reason."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from time import monotonic, sleep
from types import TracebackType

from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from project.engine.runtime.stop_signals import STOP_SIGNALS, exit_code
from project.engine.training.stop import Interrupted

_PARENT = "PROJECT_PARENT_PID"
_LOOK_EVERY_S = 0.2
_GRACE_S = 3.0
_EXIT_TAKES_S = 0.5
# An interrupted process exits with such a code; without a handler, the signal ends it.
_INTERRUPTED = {code: signum for signum in STOP_SIGNALS for code in (128 + signum, -signum)}


class RankFailedError(Exception):
    """The failure of a process that Lightning started, which made a collective of this process fail."""


class Supervisor:
    """The supervisor of the processes that Lightning starts, for a block of code; it replaces Lightning's observer.

    Lightning's observer also kills the first process, which then cannot close its run. After the end of another
    process, this supervisor waits a few seconds, in which the others usually fail in a collective, and ends those that
    remain. After the end of the first process, the others end immediately.

    Args:
        trainer: The trainer of this process.
        close_run: Called with the run's status and the reason, before this process is ended; returns how to resume it.

    Raises:
        Interrupted: The block failed because another process was interrupted.
        RankFailedError: The block failed because another process failed.
    """

    def __init__(self, trainer: Trainer, close_run: Callable[[str, str], str]) -> None:
        self._trainer, self._close_run = trainer, close_run
        self._parent = 0
        self._children: list[subprocess.Popen[bytes]] = []
        self._watcher: threading.Thread | None = None
        self._over = threading.Event()
        self._ending = threading.Lock()

    def __enter__(self) -> None:
        environment = self._trainer.strategy.cluster_environment if self._trainer.world_size > 1 else None  # type: ignore[attr-defined]
        if not isinstance(environment, LightningEnvironment):
            return
        if environment.local_rank() == 0:
            os.environ[_PARENT] = str(os.getpid())
            watch = self._watch_children
        else:
            # The parent may have ended while this process started, so that getppid() may return another process.
            self._parent = int(os.environ.get(_PARENT, os.getppid()))
            watch = self._watch_parent
        self._watcher = threading.Thread(target=watch, name="supervisor", daemon=True)
        self._watcher.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_after_parent()
        with self._ending:
            self._over.set()
        if self._watcher is not None:
            self._watcher.join()
        ended = self._codes() if isinstance(error, Exception) else {}
        self._end_children(terminate=error is not None)
        for code in ended.values():
            if code in _INTERRUPTED:
                raise Interrupted(_INTERRUPTED[code]) from error
        if ended:
            raise RankFailedError(_ending(*next(iter(ended.items())))) from error

    def _codes(self) -> dict[int, int]:
        """Return the codes of the ranks that failed; the one that made this process fail may still be exiting."""
        deadline = monotonic() + _EXIT_TAKES_S
        while True:
            codes = {rank: code for rank, child in enumerate(self._children, start=1) if (code := child.poll())}
            if codes or not self._children or monotonic() > deadline:
                return codes
            sleep(0.05)

    def _watch_children(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            self._take_over()
            for rank, child in enumerate(self._children, start=1):
                if (code := child.poll()) and not self._over.wait(_GRACE_S):
                    self.end(_ending(rank, code), _INTERRUPTED.get(code))

    def _take_over(self) -> None:
        started = self._trainer.strategy.launcher.procs  # type: ignore[union-attr]
        if len(started) == self._trainer.num_devices - 1:
            self._children += started
            started.clear()  # Lightning's observer looks later, and then has no process to watch.

    def _watch_parent(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            self._end_after_parent()

    def _end_after_parent(self) -> None:
        if self._parent and os.getppid() != self._parent:
            self.end("the process of rank 0 died")

    def end(self, reason: str, signum: int | None = None) -> None:
        """Close the run and end all processes, including this one, unless the block is over.

        Args:
            reason: The reason, which the run records.
            signum: The signal that is the reason; None if it is another one.
        """
        with self._ending:
            if self._over.is_set():
                return
            self._report(f"error: {reason}; the run ends here")
            try:
                self._end_children(terminate=True)
                self._report(self._close_run("KILLED" if signum else "FAILED", reason))
            finally:
                os._exit(exit_code(signum) if signum else 1)

    def _report(self, line: str) -> None:
        """Print a line, as rank 0 about the end of another rank, or as rank 1 about that of rank 0."""
        if self._trainer.local_rank <= 1:
            print(line, file=sys.stderr, flush=True)

    def _end_children(self, *, terminate: bool) -> None:
        """Wait a few seconds for the processes that this one started, after SIGTERM if `terminate`; then kill them."""
        if terminate:
            for child in self._children:
                child.terminate()
        deadline = monotonic() + _GRACE_S
        while any(child.poll() is None for child in self._children) and monotonic() < deadline:
            sleep(0.05)
        for child in self._children:
            child.kill()
            child.wait()


def _ending(rank: int, code: int) -> str:
    """Return how the process of a rank ended, with the remedy against the usual reason of a SIGKILL."""
    if code == -signal.SIGKILL:
        return f"the process of rank {rank} was killed (SIGKILL), as the system does if memory runs out"
    return f"the process of rank {rank} ended with code {code}"
