"""Files that are whole or not there, and made by one process while the others wait for it."""

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from project.engine.atomic import replace_file


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """Make a file unless it is there; at any moment it is whole or absent, also after a kill in the middle.

    Args:
        path: The file. `.NAME.lock` beside it is held while it is made.
        make: Called with the path to write to, which is renamed when everything is on disk.

    Raises:
        OSError: The disk is full or cannot be written.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            replace_file(path, make)
    return path


def files_digest(root: Path, paths: Iterable[Path]) -> str:
    """Sixteen hexadecimal digits that change with the paths, sizes and times of change of files under `root`."""
    hashed = hashlib.sha256()
    for path in paths:
        try:
            found = path.stat()
            size, changed = found.st_size, found.st_mtime_ns
        except OSError:  # such as a link to nowhere; whoever reads it says so
            size = changed = -1
        hashed.update(os.fsencode(f"{path.relative_to(root)}\0{size}\0{changed}\0"))
    return hashed.hexdigest()[:16]


def cache_folder(root: Path) -> Path:
    """Where files derived from those under `root` are written: `root/.cache`, or a folder of `mlruns/cache`."""
    beside = root / ".cache"
    writable = os.access(beside, os.W_OK) and beside.is_dir() if beside.exists() else os.access(root, os.W_OK)
    if writable:
        return beside
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]
    return Path("mlruns/cache") / f"{root.resolve().name}-{place}"


def cache_path(root: Path, name: str) -> Path:
    """Where a file derived from those under `root` is: in `root/.cache` if it is there, else where it is written."""
    beside = root / ".cache" / name
    return beside if beside.exists() else cache_folder(root) / name


def remove_outdated(folder: Path, pattern: str, digest: str) -> None:
    """Remove files that match the pattern and are of another digest; who has one open keeps it."""
    if os.access(folder, os.W_OK):
        for file in folder.glob(pattern):
            if digest not in file.name:
                file.unlink(missing_ok=True)


def mark_used(path: Path) -> None:
    """Set the time of a file's last use, which `remove_least_used` goes by; a mount may not keep it up to date."""
    with suppress(PermissionError):  # a file of another user, whose last use is what the system says
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def remove_least_used(folder: Path, pattern: str, most_bytes: int, in_use: Collection[Path]) -> None:
    """Remove files that match the pattern, those that were used last the longest ago first, until the rest fits.

    Args:
        folder: Folder of the files; nothing is done in one that cannot be written.
        pattern: Pattern of their names.
        most_bytes: Size that all of them may have together.
        in_use: Files that stay, and count.
    """
    if not os.access(folder, os.W_OK):
        return
    found = []
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):  # another process removed it
            found.append((path.stat().st_atime_ns, path.stat().st_size, path))
    excess = sum(size for _, size, _ in found) - most_bytes
    for _, size, path in sorted(found):
        if excess > 0 and path not in in_use:
            path.unlink(missing_ok=True)
            excess -= size
