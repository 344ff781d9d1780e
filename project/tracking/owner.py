"""Which process writes a run: tags of the run that tell later whether it lives."""

import os
from collections.abc import Mapping

import psutil

from project.tracking.spool import Spool

HOST, _PID, _STARTED = "process.host", "process.pid", "process.started"
_CLOCKS_DIFFER_S = 60.0  # they are set, and a process id comes again only later


def owner_tags(pid: int | None = None) -> dict[str, str]:
    """Tags that name a process of this host, this one where none is given."""
    process = psutil.Process(pid)
    return {HOST: Spool.this_host(), _PID: str(process.pid), _STARTED: f"{process.create_time():.2f}"}


def is_here(tags: Mapping[str, str]) -> bool:
    """Whether the process that these tags name runs, or ran, on this host."""
    return tags[HOST] == Spool.this_host()


def is_me(tags: Mapping[str, str]) -> bool:
    """Whether these tags name this process, by its id alone."""
    return int(tags[_PID]) == os.getpid()


def is_alive(tags: Mapping[str, str]) -> bool:
    """Whether the process that these tags name runs on this host."""
    try:
        process = psutil.Process(int(tags[_PID]))
        if process.status() == psutil.STATUS_ZOMBIE:  # dead, and nobody has looked
            return False
        return abs(process.create_time() - float(tags[_STARTED])) < _CLOCKS_DIFFER_S
    except psutil.NoSuchProcess:
        return False
