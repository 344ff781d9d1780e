"""The signals of a sweep: Ctrl-C once lets trials finish; a second one, or another signal, stops immediately."""

import signal
import sys
from types import FrameType
from typing import Self

from project.engine.runtime.stop_signals import exit_code, stop_signals
from project.engine.search.driver import Driver


class SweepSignals:
    """Signal handlers that finish or stop a driver, for a block of code.

    Attributes:
        code: Exit code of the last signal; 0 before.
        stops_now: Whether a signal asked to stop immediately.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.code = 0
        self.stops_now = False

    def __enter__(self) -> Self:
        self._before = {signum: signal.signal(signum, self._handle) for signum in stop_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._driver.finishing or signum != signal.SIGINT:
            self._driver.stopping = self.stops_now = True
        else:
            print("\nfinishing the running trials; Ctrl-C again stops immediately", file=sys.stderr, flush=True)
        self._driver.finishing = True
        self.code = exit_code(signum)
