"""An append-only file of JSON records that a full disk delays, and whose name may vanish while it is written."""

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from project.engine.atomic import replace_file

Record = dict[str, Any]

_CHUNK_BYTES = 2**20

_log = logging.getLogger(__name__)


class RecordLog:
    """The file, and in memory what the disk has refused. All offsets count bytes of both.

    Args:
        path: Made when it is not there; a torn last line is cut off.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _drop_torn_line(path)
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._refused = b""
        self._in_trouble = False
        self._writing = threading.RLock()

    def append(self, record: Record) -> None:
        """Write a record; never raises. What a full disk refuses is kept in memory and tried again."""
        with self._writing:
            self._refused += json.dumps(record).encode() + b"\n"
            self.write_refused()

    def write_refused(self) -> None:
        """Try again to write what the disk has refused; never raises."""
        with self._writing:
            try:
                written = os.write(self._descriptor, self._refused)
            except OSError as error:
                self.warn(error)
            else:
                self._refused = self._refused[written:]
                self._in_trouble = self._in_trouble and bool(self._refused)

    def warn(self, error: Exception) -> None:
        """Report trouble with the disk, once until it is over."""
        if not self._in_trouble:
            _log.warning("cannot write %s (%s); logging continues in memory", self.path, error)
        self._in_trouble = True

    def touch(self) -> None:
        """Set the time of the last change to now.

        Raises:
            OSError: The disk refuses it.
        """
        os.utime(self._descriptor)

    @property
    def is_in_place(self) -> bool:
        """Whether the open file is the one at `path`."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def restore(self) -> None:
        """Write a new file at `path` from the one that is still open, whose name is gone.

        Raises:
            OSError: The disk refuses it.
        """
        with self._writing:
            replace_file(self.path, self._copy_to, flush=False)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND)
            os.close(self._descriptor)
            self._descriptor = descriptor

    def _copy_to(self, path: Path) -> None:
        with path.open("wb") as copy:
            copy.writelines(self._chunks(0, self.size_on_disk))

    def lines(self, offset: int) -> Iterator[bytes]:
        """Yield the whole lines after an offset."""
        with self._writing:
            size, refused = self.size_on_disk, self._refused
        torn = b""
        for chunk in self._chunks(offset, size):
            *whole, torn = (torn + chunk).split(b"\n")
            yield from (line + b"\n" for line in whole)
        *whole, _ = (torn + refused[max(0, offset - size) :]).split(b"\n")
        yield from (line + b"\n" for line in whole)

    def _chunks(self, start: int, end: int) -> Iterator[bytes]:
        """Read from the open file, which may have no name any more, and which several threads read."""
        descriptor = os.dup(self._descriptor)
        try:
            while start < end and (chunk := os.pread(descriptor, min(_CHUNK_BYTES, end - start), start)):
                start += len(chunk)
                yield chunk
        finally:
            os.close(descriptor)

    def last_record(self) -> Record | None:
        """The newest whole record."""
        last = deque(self.lines(0), maxlen=1)
        return self.read(last[0]) if last else None

    def read(self, line: bytes) -> Record | None:
        """Parse a line; None if a disk, or a crash of the machine, has damaged it."""
        try:
            record: Record = json.loads(line)
        except ValueError:
            _log.warning("%s has a damaged line of %s bytes, which is left out", self.path, len(line))
            return None
        return record

    @property
    def size(self) -> int:
        """Bytes written, those included that the disk has refused so far."""
        with self._writing:
            return self.size_on_disk + len(self._refused)

    @property
    def size_on_disk(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _drop_torn_line(log: Path) -> None:
    if not log.exists():
        return
    content = log.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(log, content.rfind(b"\n") + 1)
