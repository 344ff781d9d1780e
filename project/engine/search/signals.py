"""The signals of a sweep: Ctrl-C once lets trials finish; a second one, SIGTERM or SIGHUP stops immediately."""

import signal
import sys
from types import FrameType

from project.engine.search.driver import Driver
from project.engine.training.stop import exit_code, stop_signals


class Signals:
    """Answers signals while a driver runs.

    Attributes:
        code: The exit code that the last signal asks for; 0 before.
        stops_now: Whether a signal asks to stop without waiting for anything.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.code = 0
        self.stops_now = False

    def listen(self) -> None:
        """Take over the signals."""
        for signum in stop_signals():
            signal.signal(signum, self._received)

    def _received(self, signum: int, frame: FrameType | None) -> None:
        if self._driver.finishing or signum != signal.SIGINT:
            self._driver.stopping = self.stops_now = True
        else:
            print("\nfinishing the running trials; Ctrl-C again stops immediately", file=sys.stderr, flush=True)
        self._driver.finishing = True
        self.code = exit_code(signum)
