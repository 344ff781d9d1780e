"""Datasets that fit in memory: arrays that ranks and trials share."""

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from project.engine.loading import ImageArray, cache_path, mapped, remove_outdated


def shared(
    folder: Path, name: str, read: Callable[[], tuple[NDArray[Any], NDArray[Any]]], cache_folder: Path | None = None
) -> ImageArray:
    """Read images and labels once, then map them into memory from files in a cache.

    Args:
        folder: Folder of the dataset's files; if they change, they are read again.
        name: Name of the split.
        read: Reads images (N, C, H, W) uint8 and labels (N,).
        cache_folder: Folder of the cache; by default `folder/.cache`, or one in `mlruns/cache` if that is read-only.

    Raises:
        OSError: The disk has no space for the files.
    """
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("[!.]*"))]
    digest = sha256(repr(stats).encode()).hexdigest()[:16]
    names = {kind: f"{name}-{kind}-{digest}.npy" for kind in ("images", "labels")}
    kept = {kind: cache_folder / file if cache_folder else cache_path(folder, file) for kind, file in names.items()}
    arrays = cache(read)
    images = mapped(kept["images"], lambda: arrays()[0])
    labels = mapped(kept["labels"], lambda: arrays()[1])
    remove_outdated(kept["images"].parent, f"{name}-*.npy", digest)
    return ImageArray(images, labels.long())
