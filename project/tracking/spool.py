"""The spool: what a run logs, in a folder on disk, until the store has it.

    append(record) -> mlruns/spool/RUN_ID/log.jsonl         one JSON record a line, appended by one write
                      mlruns/spool/RUN_ID/files/            artifacts and the model
                      mlruns/spool/RUN_ID/delivered-LANE    bytes of the log that the store has, of one lane
                      mlruns/spool/RUN_ID/lock              held while the run's process lives
                      mlruns/spool/RUN_ID/host              where that process lives or lived

A record's first key is its kind. Kinds are delivered in lanes, each in its own time: an artifact that is not taken
holds up no metric, and a backlog of metrics does not hold up the status.

A record that is in the file survives the death of the process: a torn last line is all that it can lose.
"""

import json
import logging
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

Record = dict[str, Any]

LANES = {
    "state": ("tags", "status"),
    "metrics": ("metrics", "params", "dataset"),
    "files": ("file", "model", "model_of"),
}

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
        if not new and not self._log.exists():  # who held it has removed it, and the lock has made the folder again
            with suppress(OSError):
                (folder / "lock").unlink()
                folder.rmdir()
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
            self._write()

    def flush(self) -> None:
        """Try again to write what a full disk has refused."""
        with self._writing:
            self._write()

    def _write(self) -> None:
        try:
            written = os.write(self._descriptor, self._unwritten)
        except OSError as error:
            written = 0
            if not self._refused:
                _log.warning("cannot write %s (%s); logging goes on in memory", self._log, error)
            self._refused = True
        self._unwritten = self._unwritten[written:]
        self._refused = self._refused and bool(self._unwritten)

    def delivered(self, lane: str) -> int:
        """Bytes of the log that the store has, as far as they are of this lane."""
        try:
            return int((self.folder / f"delivered-{lane}").read_text())
        except (FileNotFoundError, ValueError):  # a crash of the machine may leave it empty; replaying changes nothing
            return 0

    def mark_delivered(self, lane: str, offset: int) -> None:
        """Remember that the store has this lane's records in the first `offset` bytes of the log."""
        new = self.folder / f"delivered-{lane}.new"
        new.write_text(str(offset))
        new.replace(self.folder / f"delivered-{lane}")

    def undelivered(self, lane: str) -> Iterator[tuple[Record | None, int]]:
        """Yield the records that the store lacks, each with the offset behind it, None for those of other lanes."""
        kinds = [f'{{"{kind}"'.encode() for kind in LANES[lane]]
        with self._log.open("rb") as log:
            offset = log.seek(self.delivered(lane))
            for line in log:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                yield self._read(line) if any(map(line.startswith, kinds)) else None, offset

    def last_record(self) -> Record | None:
        """The newest whole record."""
        lines = self._log.read_bytes().splitlines()
        return self._read(lines[-1]) if lines else None

    def _read(self, line: bytes) -> Record | None:
        try:
            record: Record = json.loads(line)
        except ValueError:  # a disk, or a crash of the machine, has damaged it
            _log.warning("%s has a damaged line of %s bytes, which is left out", self._log, len(line))
            return None
        return record

    @property
    def waiting(self) -> int:
        """Bytes of the log that the store lacks, in the lane that is furthest behind."""
        written = self._log.stat().st_size
        return len(self._unwritten) + max(max(0, written - self.delivered(lane)) for lane in LANES)

    def close(self, *, remove: bool) -> None:
        """Give the lock back; remove the folder when all of it is delivered."""
        if self._unwritten:
            _log.warning("%s lacks its last %s bytes: the disk did not take them", self._log, len(self._unwritten))
        os.close(self._descriptor)
        if remove:
            # Out of sight at once: what others find is never half of a spool.
            self.folder.rename(self.folder.with_name(f".{self.run_id}"))
            remove_delivered(self.folder.parent)
        self._lock.release()


def remove_delivered(spools: Path) -> None:
    """Remove what delivered spools have left in their folder."""
    for _ in range(3):  # another process that tries the lock of one may put it back, once
        for gone in spools.glob(".*/"):
            shutil.rmtree(gone, ignore_errors=True)


def _drop_torn_line(log: Path) -> None:
    if not log.exists():
        return
    content = log.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(log, content.rfind(b"\n") + 1)
