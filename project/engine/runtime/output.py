"""Standard output and error of a command: written line by line, in any encoding; errors do not end the run."""

import os
import sys
from collections.abc import Callable
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STDERR = 2

before_output: Callable[[], None] | None = None
"""Called before each write while the terminal shows an activity, to remove it."""


class _Output(FileIO):
    """A file descriptor that drops what cannot be written, for example to a closed pipe or a full disk."""

    lost: str | None = None

    @override
    def write(self, data: "ReadableBuffer", /) -> int:
        if before_output is not None:
            before_output()
        size = memoryview(data).nbytes
        try:
            written: int | None = super().write(data)  # None if it would block
        except OSError as error:
            if self.lost is None:
                self.lost = str(error.strerror)
                self._report_loss()
            return size
        return size if written is None else written

    def _report_loss(self) -> None:
        if self.fileno() != _STDERR:
            try:
                os.write(_STDERR, f"standard output cannot be written ({self.lost}); the rest is dropped\n".encode())
            except OSError:  # no stream is left for the message
                self.lost = f"{self.lost}, neither can standard error"


def prepare_output() -> None:
    """Replace the standard streams by streams that tolerate a closed pipe, a full disk and any character.

    A character that the encoding lacks becomes a question mark. Each line is written when it is complete, even to a
    file. Streams that were replaced before, for example by a test, are not changed.
    """
    for name, stream, original in (("stdout", sys.stdout, sys.__stdout__), ("stderr", sys.stderr, sys.__stderr__)):
        if stream is original and isinstance(stream, TextIOWrapper):
            stream.flush()
            output = BufferedWriter(_Output(stream.fileno(), "w", closefd=False))
            setattr(sys, name, TextIOWrapper(output, stream.encoding, errors="replace", line_buffering=True))


def lost_output() -> str | None:
    """Return why standard output could not be written; None if it could."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.lost if isinstance(raw, _Output) else None
