"""The spool: a folder on disk that holds what a run logs until the store has it.

    append(record) -> mlruns/spool/RUN_ID/log.jsonl         one JSON record per line, appended by one write
                      mlruns/spool/RUN_ID/files/            artifacts and the model
                      mlruns/spool/RUN_ID/delivered-LANE    bytes of the log that the store has, of one lane
                      mlruns/spool/RUN_ID/lock              held while the run's process lives
                      mlruns/spool/RUN_ID/owner             tags of that process, while it has not ended the run

A record's first key is its kind. Kinds are delivered in independent lanes: an artifact that the store does not take
does not delay metrics, and a backlog of metrics does not delay the status.

A record in the file survives the death of the process; at most an incomplete last line is lost. The modification time
of the log is the heartbeat of the process, for processes that see neither its lock nor its id.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from project.engine.atomic import replace_file
from project.engine.tracking.owner import owner_tags, state
from project.engine.tracking.record_log import Record, RecordLog

LOG = "log.jsonl"
LANES = {
    "state": ("tags", "status"),
    "metrics": ("metrics", "params", "dataset"),
    "files": ("file", "model"),
}

_log = logging.getLogger(__name__)


class Spool:
    """The records of one run. The folder's name is the run's id.

    Args:
        folder: Folder of the spool; created if the spool is new.
        new: Whether the run's own process opens it; otherwise it is opened for delivery.
        wait_s: Longest wait for a process that holds it, in seconds.
        owner_is_gone: Whether the caller knows that the run's process has ended, so that a free lock is enough.

    Raises:
        filelock.Timeout: Another process holds it, or one whose lock is not visible here writes it.
        FileNotFoundError: It is not new, and was removed or never written.
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path, *, new: bool = True, wait_s: float = 0.0, owner_is_gone: bool = False) -> None:
        self.folder = folder
        self.run_id = folder.name
        self.files = folder / "files"
        log = folder / LOG
        if not new and not log.exists():
            raise FileNotFoundError(log)
        self._lock = FileLock(folder / "lock")
        while not self._lock.is_locked:
            try:
                self._lock.acquire(timeout=wait_s)
            except FileNotFoundError:  # Its holder has removed the folder during the wait.
                if not (new and folder.parent.exists()):
                    raise
        if not new and not log.exists():
            # Its holder has removed it, and acquiring the lock has created the folder again.
            with suppress(OSError):
                (folder / "lock").unlink()
                folder.rmdir()
            self._lock.release()
            raise FileNotFoundError(log)
        if new:
            self.files.mkdir(exist_ok=True)
            self._own()
        elif not owner_is_gone and _may_be_written(folder):
            self._lock.release()
            raise Timeout(str(folder / "lock"))
        self._log = RecordLog(log)
        if new:
            self._log.touch()
        self._delivered = {lane: _offset_in(folder / f"delivered-{lane}") for lane in LANES}

    def append(self, record: Record) -> None:
        """Write a record; never raises. Bytes that a full disk refuses are kept in memory and written later."""
        self._log.append(record)

    def beat(self) -> None:
        """Write the heartbeat, and write again what the disk refused or what vanished with the folder; never raises."""
        try:
            if not self._log.is_in_place:
                self._restore()
            self._log.touch()
        except (OSError, Timeout) as error:
            self._log.warn(error)
        self._log.write_refused()

    def _restore(self) -> None:
        self.files.mkdir(parents=True, exist_ok=True)
        self._lock.release()
        self._lock.acquire(timeout=0)
        self._own()
        self._log.restore()
        _log.warning("%s had vanished or was replaced; the run has written it again", self.folder)
        if "status" not in (self._log.last_record() or {}):
            self.append({"status": "RUNNING"})  # A process that considered the run dead may have closed it.

    def _own(self) -> None:
        (self.folder / "owner").write_text(json.dumps(owner_tags()))

    def disown(self) -> None:
        """Declare that this process writes no more records, though it may still deliver them."""
        with suppress(OSError):  # If the folder is read-only, the old heartbeat shows it later.
            (self.folder / "owner").unlink(missing_ok=True)

    def mark_delivered(self, lane: str, offset: int) -> None:
        """Remember that the store has this lane's records in the first `offset` bytes of the log."""
        self._delivered[lane] = offset
        text = str(min(offset, self._log.size_on_disk))
        with suppress(OSError):  # If this fails, records are delivered again, which changes nothing.
            replace_file(self.folder / f"delivered-{lane}", lambda new: new.write_text(text), flush=False)

    def undelivered(self, lane: str) -> Iterator[tuple[Record | None, int]]:
        """Yield the records that the store lacks, each with its end offset; None for records of other lanes."""
        kinds = [f'{{"{kind}"'.encode() for kind in LANES[lane]]
        offset = self._delivered[lane]
        for line in self._log.lines(offset):
            offset += len(line)
            yield self._log.read(line) if any(map(line.startswith, kinds)) else None, offset

    def last_record(self) -> Record | None:
        """Return the newest complete record."""
        return self._log.last_record()

    @property
    def waiting(self) -> int:
        """Number of bytes of the log that the store lacks, in the lane with the most of them."""
        return max(max(0, self._log.size - self._delivered[lane]) for lane in LANES)

    def close(self, *, remove: bool) -> None:
        """Release the lock; remove the folder if everything is delivered."""
        if not remove and (lacking := self._log.size - self._log.size_on_disk):
            _log.warning("%s lacks its last %s bytes: the disk did not take them", self._log.path, lacking)
        self._log.close()
        self.disown()
        if remove:
            try:
                # Rename it first, so that other processes never find half of a spool.
                self.folder.rename(self.folder.with_name(f".{self.run_id}"))
                remove_delivered(self.folder.parent)
            except OSError as error:
                _log.warning("cannot remove %s, which is delivered: %s", self.folder, error)
        self._lock.release()


def heartbeat_age_s(folder: Path) -> float | None:
    """Return the seconds since the last heartbeat of a spool's process; None if the spool does not exist.

    The clock of a file server differs from that of this machine, so the lock is touched to read the server's time.
    """
    log, lock = folder / LOG, folder / "lock"
    try:
        beat = log.stat().st_mtime
        lock.touch()
        return lock.stat().st_mtime - beat
    except FileNotFoundError:
        return None


def _may_be_written(folder: Path) -> bool:
    """Return whether the process of a spool may be alive, for a caller that holds the spool's lock."""
    tags: dict[str, str] = {}
    try:
        tags = json.loads((folder / "owner").read_text())
    except FileNotFoundError:
        return False
    except ValueError:  # A crash of the machine may leave it empty.
        _log.warning("%s is damaged", folder / "owner")
    return state(tags, heartbeat_age_s(folder), holds_lock=True) != "dead"


def _offset_in(file: Path) -> int:
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):  # A crash of the machine may leave it empty; replaying changes nothing.
        return 0


def remove_delivered(spools: Path) -> None:
    """Remove the remains of delivered spools."""
    for _ in range(3):  # Another process that tries its lock may create it again, once.
        for gone in spools.glob(".*/"):
            shutil.rmtree(gone, ignore_errors=True)
