"""The exit of a command, without Python's slow object teardown (about two seconds)."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import print_exception

from project.engine.compat import run_exit_handlers
from project.engine.runtime.failure import needs_traceback, print_failure
from project.engine.runtime.startup import end_activity


@contextmanager
def exit_without_teardown() -> Iterator[None]:
    """End the process when the block ends or exits, with the same exit code; inside, garbage is collected again.

    An error is printed in a few lines, with exit code 1. Its traceback is printed first, unless a run has recorded it,
    or the project raised it on purpose.

    As in a normal exit, non-daemon threads are joined, exit handlers run, and output is flushed.
    """
    code = 0
    gc.freeze()  # Garbage collections then skip the modules that are already imported.
    gc.enable()
    try:
        yield
    except SystemExit as end:
        if isinstance(end.code, str):  # Python prints the text.
            gc.unfreeze()  # C++ libraries report objects that Python does not free at its exit.
            raise
        code = end.code or 0
    except Exception as error:  # noqa: BLE001  # It is printed, and the exit code is 1.
        if needs_traceback(error):
            print_exception(error)
        print_failure(error)
        code = 1
    end_activity()
    run_exit_handlers()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
