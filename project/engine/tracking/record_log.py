"""An append-only file of JSON records that tolerates a full disk and the removal of its path."""

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
    """The file, and in memory the bytes that the disk refused. Offsets count the bytes of both.

    Args:
        path: Created if it does not exist; an incomplete last line is removed.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _remove_incomplete_line(path)
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._refused = b""
        self._is_failing = False
        self._writing = threading.RLock()

    def append(self, record: Record) -> None:
        """Write a record; never raises. Bytes that a full disk refuses are kept in memory and written later."""
        with self._writing:
            # A byte of a file's name that is not UTF-8 becomes a question mark; no store takes it.
            self._refused += json.dumps(record, ensure_ascii=False).encode(errors="replace") + b"\n"
            self.write_refused()

    def write_refused(self) -> None:
        """Write again the bytes that the disk refused; never raises."""
        with self._writing:
            try:
                written = os.write(self._descriptor, self._refused)
            except OSError as error:
                self.warn(error)
            else:
                self._refused = self._refused[written:]
                self._is_failing = self._is_failing and bool(self._refused)

    def warn(self, error: Exception) -> None:
        """Report an error of the disk, once until the disk works again."""
        if not self._is_failing:
            _log.warning("cannot write %s (%s); logging continues in memory", self.path, error)
        self._is_failing = True

    def touch(self) -> None:
        """Set the modification time to now.

        Raises:
            OSError: The disk refuses it.
        """
        os.utime(self._descriptor)

    @property
    def is_in_place(self) -> bool:
        """Return whether the open file is the one at `path`."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def restore(self) -> None:
        """Write a new file at `path` from the open file, whose path has vanished.

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
        """Yield the complete lines after an offset."""
        with self._writing:
            size, refused = self.size_on_disk, self._refused
        incomplete = b""
        for chunk in self._chunks(offset, size):
            *whole, incomplete = (incomplete + chunk).split(b"\n")
            yield from (line + b"\n" for line in whole)
        *whole, _ = (incomplete + refused[max(0, offset - size) :]).split(b"\n")
        yield from (line + b"\n" for line in whole)

    def _chunks(self, start: int, end: int) -> Iterator[bytes]:
        """Read from the open file, whose path may have vanished; several threads may read it."""
        descriptor = os.dup(self._descriptor)
        try:
            while start < end and (chunk := os.pread(descriptor, min(_CHUNK_BYTES, end - start), start)):
                start += len(chunk)
                yield chunk
        finally:
            os.close(descriptor)

    def last_record(self) -> Record | None:
        """Return the newest complete record."""
        last = deque(self.lines(0), maxlen=1)
        return self.read(last[0]) if last else None

    def read(self, line: bytes) -> Record | None:
        """Parse a line; return None if it was damaged by the disk or by a crash of the machine."""
        try:
            record: Record = json.loads(line)
        except ValueError:
            _log.warning("%s has a damaged line of %s bytes, which is left out", self.path, len(line))
            return None
        return record

    @property
    def size(self) -> int:
        """Number of bytes written, including those that the disk refused so far."""
        with self._writing:
            return self.size_on_disk + len(self._refused)

    @property
    def size_on_disk(self) -> int:
        """Number of bytes in the file."""
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _remove_incomplete_line(log: Path) -> None:
    if not log.exists():
        return
    content = log.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(log, content.rfind(b"\n") + 1)
