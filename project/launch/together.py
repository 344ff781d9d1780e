"""The processes of one fit end together: none outlives another, and the run says so."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from time import monotonic, sleep

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

_LOOK_EVERY_S = 0.5
_GRACE_S = 5.0


class Together(Callback):
    """Watches the processes that Lightning started, in place of Lightning's own observer.

    That one kills the first process, too, which then cannot close its run. Here the others get a few
    seconds to fail by themselves, as they do when a collective breaks; what still runs then is ended.

    Args:
        closed_as_failed: Called before this process is ended, with the reason.
    """

    def __init__(self, closed_as_failed: Callable[[str], None]) -> None:
        self._closed_as_failed = closed_as_failed
        self._parent = 0
        self._children: list[subprocess.Popen[bytes]] = []
        self._watch: threading.Thread | None = None
        self._over = threading.Event()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        environment = trainer.strategy.cluster_environment if trainer.world_size > 1 else None  # type: ignore[attr-defined]
        if self._watch is not None or not isinstance(environment, LightningEnvironment):
            return
        if trainer.is_global_zero:
            started = trainer.strategy.launcher.procs  # type: ignore[union-attr]
            self._children = list(started)
            started.clear()  # Lightning's observer has nothing left to watch
            self._watch = threading.Thread(target=self._watch_children, name="together", daemon=True)
        else:
            self._parent = os.getppid()
            self._watch = threading.Thread(target=self._watch_parent, name="together", daemon=True)
        self._watch.start()

    def _watch_children(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            for rank, child in enumerate(self._children, start=1):
                if child.poll():
                    self._fail(f"the process of rank {rank} ended with code {child.returncode}")

    def _watch_parent(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            if os.getppid() != self._parent:
                self._fail("the process of rank 0 died")

    def _fail(self, reason: str) -> None:
        if self._over.wait(_GRACE_S):
            return
        print(f"error: {reason}; the run ends here", file=sys.stderr, flush=True)
        if self._children:
            self._closed_as_failed(reason)
        self.end()
        os._exit(1)

    def end(self) -> None:
        """Stop watching, and end what this process started and what does not end by itself."""
        self._over.set()
        if self._parent and os.getppid() != self._parent:
            self._closed_as_failed("the process of rank 0 died")
        deadline = monotonic() + _GRACE_S
        while any(child.poll() is None for child in self._children) and monotonic() < deadline:
            sleep(0.05)
        for child in self._children:
            child.kill()
            child.wait()
