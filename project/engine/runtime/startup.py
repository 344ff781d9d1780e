"""The first seconds of a command, before its libraries are imported: an activity on the terminal, and signals.

This module is imported before torch, and imports no large library.
"""

import gc
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

from project.engine.compat import defer_torchmetrics
from project.engine.runtime import output
from project.engine.runtime.stop_signals import exit_code, stop_signals

_CLEAR_LINE = "\r\x1b[K"
_STDERR = 2
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def is_first_process() -> bool:
    """Return whether this is the first process of a fit; torchrun, SLURM and Lightning set the rank of each process."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


def begin_command(activity: str) -> None:
    """Prepare this process for the imports of a command, and show its activity until its first output.

    On a terminal without control codes, the activity stays. A file and a pipe get nothing.
    """
    for signum in stop_signals():
        signal.signal(signum, exit_interrupted)
    defer_torchmetrics()
    # Modules are not garbage, and collections take a tenth of the imports' time. `exit_without_teardown` enables them.
    gc.disable()
    if not (is_first_process() and os.isatty(_STDERR)):
        return
    output.prepare_output()
    if os.environ.get("TERM", "dumb") == "dumb":
        _write(f"{_command()}: {activity}\n")
    else:
        output.before_output = end_activity
        update_activity(activity)


def update_activity(activity: str) -> None:
    """Replace the activity on the terminal, if it is still shown."""
    if output.before_output is not None:
        _write(f"{_CLEAR_LINE}{_command()}: {activity}")


def end_activity() -> None:
    """Remove the activity from the terminal, if it is still shown."""
    if output.before_output is not None:
        output.before_output = None
        _write(_CLEAR_LINE)


def print_interrupted(outcome: str) -> None:
    """Print the line with which an interrupted command ends, in the first process.

    Args:
        outcome: What is left, and the next command.
    """
    if is_first_process():
        print(f"{_after_echo()}interrupted; {outcome}", file=sys.stderr, flush=True)


def exit_interrupted(signum: int, _frame: FrameType | None) -> None:
    """Handle a signal before and after a command has its own handlers: exit with its code, without a traceback.

    The process ends here, because code that runs during an import may not expect an exception.
    """
    if is_first_process():
        line = f"{_after_echo()}interrupted\n"
        end_activity()
        _write(line)  # The signal may have interrupted a print.
    os._exit(exit_code(signum))


def _after_echo() -> str:
    """Return a line break if the terminal has printed ^C on the current line; the line of the activity is removed."""
    return "\n" if output.before_output is None and sys.stderr.isatty() else ""


def _command() -> str:
    """Return the name of the command, such as `fit`."""
    return Path(sys.argv[0]).stem


def _write(text: str) -> None:
    with suppress(OSError):  # The terminal was closed.
        os.write(_STDERR, text.encode())
