"""Files that are complete or absent; one process makes each of them while the others wait."""

import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from project.engine.atomic import replace_file
from project.engine.runtime.places import cache_of_read_only


def make_once(path: Path, make: Callable[[Path], None]) -> Path:
    """Make a file unless it exists; at any moment it is complete or absent, even after a kill while it is made.

    Args:
        path: The file. The lock `.NAME.lock` in the same folder is held while the file is made.
        make: Called with the path to write to; this file is renamed when it is flushed to disk.

    Raises:
        OSError: The disk is full or cannot be written.
    """
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot write in {path.parent.absolute()} ({error.strerror}); start from a folder where you may write"
        ) from error
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            replace_file(path, make)
    return path


def cache_folder(root: Path) -> Path:
    """Return the folder for files derived from those under `root`: `root/.cache`, or a folder of `mlruns/cache`."""
    beside = root / ".cache"
    writable = os.access(beside, os.W_OK) and beside.is_dir() if beside.exists() else os.access(root, os.W_OK)
    if writable:
        return beside
    return cache_of_read_only(root)


def cache_path(root: Path, name: str) -> Path:
    """Return the path of a derived file: in `root/.cache` if it exists there, otherwise in `cache_folder(root)`."""
    beside = root / ".cache" / name
    return beside if beside.exists() else cache_folder(root) / name


def remove_outdated(folder: Path, pattern: str, digest: str) -> None:
    """Remove files that match the pattern and have another digest; a process that has one open can still read it."""
    if os.access(folder, os.W_OK):
        for file in folder.glob(pattern):
            if digest not in file.name:
                file.unlink(missing_ok=True)


def mark_used(path: Path) -> None:
    """Set a file's access time, which `remove_least_used` compares; a mount option may stop its automatic update."""
    with suppress(PermissionError):  # For a file of another user, the access time of the system counts.
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def remove_least_used(folder: Path, pattern: str, most_bytes: int, in_use: Collection[Path]) -> None:
    """Remove the least recently used files that match the pattern, until the rest fits.

    Args:
        folder: Folder of the files; nothing happens if it is read-only.
        pattern: Pattern of their names.
        most_bytes: Largest total size of all of them.
        in_use: Files that are kept; their size counts.
    """
    if not os.access(folder, os.W_OK):
        return
    found = []
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):  # Another process removed it.
            found.append((path.stat().st_atime_ns, path.stat().st_size, path))
    excess = sum(size for _, size, _ in found) - most_bytes
    for _, size, path in sorted(found):
        if excess > 0 and path not in in_use:
            path.unlink(missing_ok=True)
            excess -= size
