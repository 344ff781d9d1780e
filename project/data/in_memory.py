"""Datasets that fit in memory: arrays that ranks and trials share."""

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from project.engine.loading import ImageArray, mapped, remove_outdated
from project.engine.runtime.places import cache_of


def shared(folder: Path, name: str, read: Callable[[], tuple[NDArray[Any], NDArray[Any]]]) -> ImageArray:
    """Read images and labels once, then map them into memory from files in a cache.

    Args:
        folder: Folder of the dataset's files; if they change, they are read again.
        name: Name of the split.
        read: Reads images (N, C, H, W) uint8 and labels (N,).

    Raises:
        OSError: The disk has no space for the files.
    """
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("[!.]*"))]
    digest = sha256(repr(stats).encode()).hexdigest()[:16]
    kept = cache_of(folder)
    arrays = cache(read)
    images = mapped(kept / f"{name}-images-{digest}.npy", lambda: arrays()[0])
    labels = mapped(kept / f"{name}-labels-{digest}.npy", lambda: arrays()[1])
    remove_outdated(kept, f"{name}-*.npy", digest)
    return ImageArray(images, labels.long())
