"""Files that are complete or absent; one process makes each of them while the others wait."""

from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from project.engine.atomic import replace_file


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
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            replace_file(path, make)
    return path


def remove_outdated(folder: Path, pattern: str, digest: str) -> None:
    """Remove files that match the pattern and have another digest; a process that has one open can still read it."""
    for file in folder.glob(pattern):
        if digest not in file.name:
            file.unlink(missing_ok=True)


def remove_oldest(folder: Path, pattern: str, most_bytes: int, in_use: Collection[Path]) -> None:
    """Remove the oldest files that match the pattern, until the rest fits.

    Args:
        folder: Folder of the files.
        pattern: Pattern of their names.
        most_bytes: Largest total size of all of them.
        in_use: Files that are kept; their size counts.
    """
    found = []
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):  # Another process removed it.
            found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
    excess = sum(size for _, size, _ in found) - most_bytes
    for _, size, path in sorted(found):
        if excess > 0 and path not in in_use:
            path.unlink(missing_ok=True)
            excess -= size
