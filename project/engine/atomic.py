"""Files that are complete or absent at any moment: written to a temporary file beside them, flushed and renamed."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, write: Callable[[Path], object], *, flush: bool = True) -> None:
    """Write a file so that, at any moment, `path` holds either all of its old content or all of the new one.

    Args:
        path: The file; its folder exists. It is written as `.NAME.tmp` beside it.
        write: Called with the path to write to.
        flush: Wait for the disk, so that the file also survives a crash of the machine. Without it, the file survives
            a kill of the process only.

    Raises:
        OSError: The disk is full or cannot be written. Errors of `write` are raised, too. `path` is not changed.
    """
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.unlink(missing_ok=True)  # of a process that was killed
    try:
        write(unfinished)
        if flush:
            _flush(unfinished)
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):  # The folder may have become read-only.
            unfinished.unlink(missing_ok=True)
        raise
    if flush:
        _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
