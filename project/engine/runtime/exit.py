"""The end of a command: Python's own, without the two seconds in which it puts each object away."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from project.engine.compat import run_exit_handlers


@contextmanager
def exit_without_teardown() -> Iterator[None]:
    """End the process where the block ends or exits, with the same exit code; an error takes Python's own way.

    As at Python's own end, threads that are not daemons are waited for, exit handlers run, and what was printed is
    written.
    """
    code = 0
    try:
        yield
    except SystemExit as end:
        if isinstance(end.code, str):  # Python prints it
            raise
        code = end.code or 0
    run_exit_handlers()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
