"""The spool: what a run logs, in a folder on disk, until the store has it.

    append(record) -> mlruns/spool/RUN_ID/log.jsonl    one JSON record a line, appended by one write
                      mlruns/spool/RUN_ID/files/       artifacts and the model
                      mlruns/spool/RUN_ID/delivered    bytes of the log that the store has
                      mlruns/spool/RUN_ID/lock         held while the run's process lives
                      mlruns/spool/RUN_ID/host         where that process lives or lived

A record that is in the file survives the death of the process. A torn last line is the only loss there is.
"""

import json
import logging
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

Record = dict[str, Any]

_log = logging.getLogger(__name__)


class Spool:
    """The records of one run. The folder's name is the run's id; its lock says that the process lives.

    Args:
        folder: Made when it is not there, if the spool is a new one.
        new: Whether the run's own process opens it; else it is opened to be delivered.
        wait_s: How long to wait for a process that holds it, in seconds.

    Raises:
        filelock.Timeout: Another process holds it.
        FileNotFoundError: It is not new, and is gone or was never written.
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path, *, new: bool = True, wait_s: float = 0.0) -> None:
        self.folder = folder
        self.run_id = folder.name
        self.files = folder / "files"
        self._log = folder / "log.jsonl"
        if new:
            self.files.mkdir(parents=True, exist_ok=True)
        elif not self._log.exists():
            raise FileNotFoundError(self._log)
        self._lock = FileLock(folder / "lock")
        self._lock.acquire(timeout=wait_s)
        if not new and not self._log.exists():  # who held it has removed it
            self._lock.release()
            raise FileNotFoundError(self._log)
        (folder / "host").write_text(self.this_host())
        _drop_torn_line(self._log)
        self._descriptor = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._unwritten = b""
        self._refused = False
        self._writing = threading.Lock()

    @staticmethod
    def this_host() -> str:
        """Name of this machine."""
        return socket.gethostname()

    @staticmethod
    def host_of(folder: Path) -> str:
        """Name of the machine that writes, or wrote, a spool; empty where none says so."""
        path = folder / "host"
        return path.read_text() if path.exists() else ""

    def append(self, record: Record) -> None:
        """Write a record; never raises. What a full disk refuses is kept in memory and tried again."""
        with self._writing:
            self._unwritten += json.dumps(record).encode() + b"\n"
            try:
                written = os.write(self._descriptor, self._unwritten)
            except OSError as error:
                written = 0
                if not self._refused:
                    _log.warning("cannot write %s (%s); logging goes on in memory", self._log, error)
                self._refused = True
            self._unwritten = self._unwritten[written:]
            self._refused = self._refused and bool(self._unwritten)

    @property
    def delivered(self) -> int:
        """Bytes of the log that the store has."""
        path = self.folder / "delivered"
        return int(path.read_text()) if path.exists() else 0

    def mark_delivered(self, offset: int) -> None:
        """Remember that the store has the first `offset` bytes of the log."""
        new = self.folder / "delivered.new"
        new.write_text(str(offset))
        new.replace(self.folder / "delivered")

    def undelivered(self) -> Iterator[tuple[Record, int]]:
        """Yield the records that the store lacks, each with the offset behind it."""
        with self._log.open("rb") as log:
            offset = log.seek(self.delivered)
            for line in log:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                yield json.loads(line), offset

    def last_record(self) -> Record | None:
        """The newest whole record."""
        lines = self._log.read_bytes().splitlines()
        return json.loads(lines[-1]) if lines else None

    @property
    def waiting(self) -> int:
        """Bytes of the log that the store lacks."""
        return self._log.stat().st_size - self.delivered

    def close(self, *, remove: bool) -> None:
        """Give the lock back; remove the folder when all of it is delivered."""
        os.close(self._descriptor)
        if remove:
            # Out of sight at once: what others find is never half of a spool.
            gone = self.folder.rename(self.folder.with_name(f".{self.run_id}"))
            shutil.rmtree(gone)
        self._lock.release()


def _drop_torn_line(log: Path) -> None:
    if not log.exists():
        return
    content = log.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(log, content.rfind(b"\n") + 1)
