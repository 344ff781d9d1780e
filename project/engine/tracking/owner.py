"""The process that writes a run: the tags that identify it, and the check whether it is alive."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import psutil

State = Literal["alive", "dead", "unknown"]

PREFIX = "project."
"""Prefix of the tags that the machinery needs, and that contain nothing about the training."""

HOST = f"{PREFIX}process.host"
_BOOT, _NAMESPACE, _PID = f"{PREFIX}process.boot", f"{PREFIX}process.pid_namespace", f"{PREFIX}process.pid"
_STARTED = f"{PREFIX}process.started"
_BOOT_ID, _OWN_NAMESPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
_SAME_START_S = 1.5  # The kernel rounds the time of its boot to seconds.
# A heartbeat is written every two seconds. It may be late under load, or if a file server does not respond.
DEAD_AFTER_S = 180.0
DEAD_AFTER_ON_THIS_KERNEL_S = 15.0


def owner_tags(pid: int | None = None) -> dict[str, str]:
    """Return the tags that identify a process of this pid namespace.

    Args:
        pid: Id of the process; None means this process.

    Raises:
        psutil.NoSuchProcess: It does not exist.
    """
    pid = os.getpid() if pid is None else pid
    started = _started_s(pid)
    return _place() | {_PID: str(pid), _STARTED: "" if started is None else f"{started:.2f} s after boot"}


def state(tags: Mapping[str, str], heartbeat_age_s: float | None = None, *, holds_lock: bool = False) -> State:
    """Decide whether the process that these tags identify is alive.

    For a process of this pid namespace, the process table decides. For any other process the heartbeat decides,
    because names are ambiguous: containers share host names, and machines share folders.

    Args:
        tags: Result of `owner_tags` in that process. Missing tags count as another place.
        heartbeat_age_s: Seconds since the last heartbeat of the process; None if unknown. It is negative if the clock
            was set back since then, until a live process writes its next heartbeat.
        holds_lock: Whether the caller holds the lock that the process holds while it lives. On one kernel, a short
            silence is then enough; between machines, a lock may be invisible.

    Returns:
        "unknown" without evidence. The run of such a process must not be closed.
    """
    if _is_of_this_table(tags):
        known = _in_process_table(tags)
        if known != "unknown":
            return known
    if heartbeat_age_s is None:
        return "unknown"
    one_kernel = tags.get(_BOOT) == _place()[_BOOT] != ""
    limit_s = DEAD_AFTER_ON_THIS_KERNEL_S if holds_lock and one_kernel else DEAD_AFTER_S
    return "alive" if abs(heartbeat_age_s) < limit_s else "dead"


def is_me(tags: Mapping[str, str]) -> bool:
    """Return whether these tags identify this process."""
    return _is_of_this_table(tags) and tags[_PID] == str(os.getpid()) and state(tags) != "dead"


def _is_of_this_table(tags: Mapping[str, str]) -> bool:
    return all(tags.get(key) == value for key, value in _place().items())


def _place() -> dict[str, str]:
    """Return what identifies a process table: the host, the boot of its kernel, and the pid namespace."""
    boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    namespace = str(_OWN_NAMESPACE.readlink()) if _OWN_NAMESPACE.is_symlink() else ""
    return {HOST: socket.gethostname(), _BOOT: boot, _NAMESPACE: namespace}


def _started_s(pid: int) -> float | None:
    """Return the seconds from boot to the start of a process; None if /proc shows another namespace (`unshare`).

    Setting the clock changes the start time and the boot time, but not their difference.
    """
    proc_self = Path("/proc/self")
    if proc_self.is_symlink() and str(proc_self.readlink()) != str(os.getpid()):
        return None
    return psutil.Process(pid).create_time() - psutil.boot_time()


def _in_process_table(tags: Mapping[str, str]) -> State:
    pid = int(tags[_PID])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "dead"
    except PermissionError:  # It belongs to another user.
        pass
    try:
        started = _started_s(pid)
        if started is None or not tags[_STARTED]:
            return "unknown"
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return "dead"
        # The kernel may reuse the id for a later process.
        return "alive" if abs(started - float(tags[_STARTED].split()[0])) < _SAME_START_S else "dead"
    except psutil.Error:  # It has just ended, or this system hides the processes of other users.
        return "unknown"
