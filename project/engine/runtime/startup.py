"""The first seconds of a command, before its libraries are imported: an activity on the terminal, and Ctrl-C.

This module is imported before torch, and imports no large library.
"""

import gc
import os
import sys
from contextlib import suppress
from threading import Thread
from time import sleep
from types import FrameType

from project.engine.compat import defer_torchmetrics
from project.engine.runtime import output

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PLAIN_FRAMES = "|/-\\"
_FRAME_S = 0.08
_CLEAR_LINE = "\r\x1b[K"
_STDERR = 2
_CTRL_C = 130
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def is_first_process() -> bool:
    """Return whether this is the first process of a fit; torchrun, SLURM and Lightning set the rank of each process."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


def begin_command(command: str, activity: str) -> None:
    """Prepare this process for the imports of a command, and show its activity with a spinner until its first output.

    A terminal without control codes gets a line. A file and a pipe get nothing.
    """
    defer_torchmetrics()
    # Modules are not garbage, and collections take a tenth of the imports' time. `exit_without_teardown` enables them.
    gc.disable()
    if not (is_first_process() and os.isatty(_STDERR)):
        return
    output.prepare_output()
    if os.environ.get("TERM", "dumb") == "dumb":
        _write(f"{command}: {activity}\n")
    else:
        _Spinner.shown = _Spinner(command, activity)
        output.before_output = end_activity
        _Spinner.shown.start()


def update_activity(activity: str) -> None:
    """Change the text of the spinner, if it is still shown."""
    if _Spinner.shown is not None:
        _Spinner.shown.activity = activity


def end_activity() -> None:
    """Remove the spinner from the terminal, if it is still shown."""
    spinner, _Spinner.shown = _Spinner.shown, None
    if spinner is not None:
        spinner.end()


def print_interrupted(outcome: str) -> None:
    """Print the line with which an interrupted command ends, in the first process.

    Args:
        outcome: What is left, and the next command.
    """
    if is_first_process():
        print(f"{_after_echo()}interrupted; {outcome}", file=sys.stderr, flush=True)


def exit_interrupted(_signum: int, _frame: FrameType | None) -> None:
    """Handle Ctrl-C before and after a command has its own handler: exit with 130, without a traceback.

    The process ends here, because code that runs during an import may not expect an exception.
    """
    if is_first_process():
        line = f"{_after_echo()}interrupted\n"
        end_activity()
        _write(line)  # The signal may have interrupted a print.
    os._exit(_CTRL_C)


def _after_echo() -> str:
    """Return a line break if the terminal has printed ^C on the current line; the spinner's line is removed."""
    return "\n" if _Spinner.shown is None and sys.stderr.isatty() else ""


class _Spinner(Thread):
    """A line of the terminal that is drawn again until it is ended.

    No lock is used, because a signal handler may end the spinner at any moment, even within `end`.
    """

    shown: "_Spinner | None" = None

    def __init__(self, command: str, activity: str) -> None:
        super().__init__(name="spinner", daemon=True)
        self.activity = activity
        self._command, self._ended, self._pid = command, False, os.getpid()
        encoding = (sys.stderr.encoding or "").lower().replace("-", "")
        self._frames = _FRAMES if encoding == "utf8" else _PLAIN_FRAMES

    def run(self) -> None:
        number = 0
        while not self._ended:
            frame = self._frames[number % len(self._frames)]
            _write(f"{_CLEAR_LINE}{frame} {self._command}: {self.activity}")
            number += 1
            sleep(_FRAME_S)

    def end(self) -> None:
        if self._pid == os.getpid():  # A forked process has no such thread.
            self._ended = True
            self.join()
            _write(_CLEAR_LINE)


def _write(text: str) -> None:
    with suppress(OSError):  # The terminal was closed.
        os.write(_STDERR, text.encode(sys.stderr.encoding or "utf-8", "replace"))
