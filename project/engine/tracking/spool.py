"""The spool: what a run logs, in a folder on disk, until the store has it.

    append(record) -> mlruns/spool/RUN_ID/log.jsonl         one JSON record a line, appended by one write
                      mlruns/spool/RUN_ID/files/            artifacts and the model
                      mlruns/spool/RUN_ID/delivered-LANE    bytes of the log that the store has, of one lane
                      mlruns/spool/RUN_ID/lock              held while the run's process lives
                      mlruns/spool/RUN_ID/owner             tags of that process, while it has not ended the run

A record's first key is its kind. Kinds are delivered in lanes, each in its own time: an artifact that is not taken
holds up no metric, and a backlog of metrics does not hold up the status.

A record that is in the file survives the death of the process: a torn last line is all that it can lose. The time of
the log's last change is the heartbeat of the process, for those to whom neither its lock nor its id shows anything.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import time

from filelock import FileLock, Timeout

from project.engine.atomic import replace_file
from project.engine.tracking.owner import owner_tags, state
from project.engine.tracking.record_log import Record, RecordLog

LANES = {
    "state": ("tags", "status"),
    "metrics": ("metrics", "params", "dataset"),
    "files": ("file", "model", "model_of"),
}

_log = logging.getLogger(__name__)


class Spool:
    """The records of one run. The folder's name is the run's id.

    Args:
        folder: Made when it is not there, if the spool is a new one.
        new: Whether the run's own process opens it; else it is opened to be delivered.
        wait_s: How long to wait for a process that holds it, in seconds.
        owner_is_gone: Whether the caller knows that the run's process has ended, so that a free lock is enough.

    Raises:
        filelock.Timeout: Another process holds it, or one whose lock is not visible here writes it.
        FileNotFoundError: It is not new, and is gone or was never written.
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path, *, new: bool = True, wait_s: float = 0.0, owner_is_gone: bool = False) -> None:
        self.folder = folder
        self.run_id = folder.name
        self.files = folder / "files"
        log = folder / "log.jsonl"
        if new:
            self.files.mkdir(parents=True, exist_ok=True)
        elif not log.exists():
            raise FileNotFoundError(log)
        self._lock = FileLock(folder / "lock")
        self._lock.acquire(timeout=wait_s)
        if not new and not log.exists():  # who held it has removed it, and the lock has made the folder again
            with suppress(OSError):
                (folder / "lock").unlink()
                folder.rmdir()
            self._lock.release()
            raise FileNotFoundError(log)
        if new:
            self._own()
        elif not owner_is_gone and _may_be_written(folder):
            self._lock.release()
            raise Timeout(str(folder / "lock"))
        self._log = RecordLog(log)
        if new:
            self._log.touch()
        self._delivered = {lane: _offset_in(folder / f"delivered-{lane}") for lane in LANES}

    def append(self, record: Record) -> None:
        """Write a record; never raises. What a full disk refuses is kept in memory and tried again."""
        self._log.append(record)

    def beat(self) -> None:
        """Give a sign of life, and write again what was refused or has vanished with the folder; never raises."""
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
            self.append({"status": "RUNNING"})  # Whoever took the folder for that of a dead run has closed the run.

    def _own(self) -> None:
        (self.folder / "owner").write_text(json.dumps(owner_tags()))

    def disown(self) -> None:
        """Declare that this process writes no more records, though it may still deliver them."""
        with suppress(OSError):  # If this folder is read-only, the heartbeat shows the same after a while.
            (self.folder / "owner").unlink(missing_ok=True)

    def delivered(self, lane: str) -> int:
        """Bytes of the log that the store has, as far as they are of this lane."""
        return self._delivered[lane]

    def mark_delivered(self, lane: str, offset: int) -> None:
        """Remember that the store has this lane's records in the first `offset` bytes of the log."""
        self._delivered[lane] = offset
        text = str(min(offset, self._log.size_on_disk))
        with suppress(OSError):  # What is forgotten is delivered again, which changes nothing.
            replace_file(self.folder / f"delivered-{lane}", lambda new: new.write_text(text), flush=False)

    def undelivered(self, lane: str) -> Iterator[tuple[Record | None, int]]:
        """Yield the records that the store lacks, each with the offset behind it, None for those of other lanes."""
        kinds = [f'{{"{kind}"'.encode() for kind in LANES[lane]]
        offset = self.delivered(lane)
        for line in self._log.lines(offset):
            offset += len(line)
            yield self._log.read(line) if any(map(line.startswith, kinds)) else None, offset

    def last_record(self) -> Record | None:
        """The newest whole record."""
        return self._log.last_record()

    @property
    def waiting(self) -> int:
        """Bytes of the log that the store lacks, in the lane that is furthest behind."""
        return max(max(0, self._log.size - self.delivered(lane)) for lane in LANES)

    def close(self, *, remove: bool) -> None:
        """Give the lock back; remove the folder when all of it is delivered."""
        if not remove and (lacking := self._log.size - self._log.size_on_disk):
            _log.warning("%s lacks its last %s bytes: the disk did not take them", self._log.path, lacking)
        self._log.close()
        self.disown()
        if remove:
            try:
                # Out of sight immediately: what others find is never half of a spool.
                self.folder.rename(self.folder.with_name(f".{self.run_id}"))
                remove_delivered(self.folder.parent)
            except OSError as error:
                _log.warning("cannot remove %s, which is delivered: %s", self.folder, error)
        self._lock.release()


def heartbeat_age_s(folder: Path) -> float | None:
    """Seconds since the process of a spool last gave a sign of life; None if there is no such spool.

    The clock of a file server differs from that of this machine: the lock is touched to ask for its time.
    """
    log, lock = folder / "log.jsonl", folder / "lock"
    try:
        beat = log.stat().st_mtime
        lock.touch()
        return lock.stat().st_mtime - beat
    except FileNotFoundError:
        return None
    except OSError:  # The folder is read-only.
        return time() - beat


def _may_be_written(folder: Path) -> bool:
    """Whether the process of a spool may live, as far as the holder of the spool's lock can see."""
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
    except (FileNotFoundError, ValueError):  # a crash of the machine may leave it empty; replaying changes nothing
        return 0


def remove_delivered(spools: Path) -> None:
    """Remove what delivered spools have left in their folder."""
    for _ in range(3):  # another process that tries the lock of one may put it back, once
        for gone in spools.glob(".*/"):
            shutil.rmtree(gone, ignore_errors=True)
