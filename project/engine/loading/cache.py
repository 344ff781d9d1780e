"""Decoded images in one file that is mapped into memory: shared by processes, read from disk once.

The file is a plain .npy, uint8.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from project.engine.loading.crop import Crop
from project.engine.loading.durable import make_once
from project.engine.loading.image_files import ImageFiles
from project.engine.loading.images import Request
from project.engine.loading.workers import Workers
from project.engine.runtime.progress import with_progress_bar

_BATCH = 64


def mapped(path: Path, make: Callable[[], NDArray[Any]]) -> Tensor:
    """Open the array of a .npy file, which is made unless it exists; processes share its memory.

    Raises:
        OSError: The disk has no space for it.
    """

    def save(unfinished: Path) -> None:
        with unfinished.open("wb") as file:
            np.save(file, make())

    return _opened(make_once(path, save))


def cached(files: ImageFiles, path: Path, size: int, workers: Workers, *, channels_last: bool = False) -> Tensor:
    """Decode all files into the array at `path` unless it exists, and open it.

    Args:
        files: N files; the centre square of each is taken.
        path: The cache. Other processes wait while it is made.
        size: Side of the squares in pixels.
        workers: Threads that decode.
        channels_last: Store (N, size, size, 3) instead of (N, 3, size, size); parts of it are resized faster.

    Returns:
        (N, 3, size, size) or (N, size, size, 3), uint8.

    Raises:
        OSError: The disk has no space for it.
        LoadingError: A read hangs, or a file has changed.
    """
    shape = (len(files), size, size, 3) if channels_last else (len(files), 3, size, size)

    def decode_all(unfinished: Path) -> None:
        with unfinished.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            parts = torch.split(torch.arange(len(files)), _BATCH)
            requests = (Request(indices, None) for indices in parts)
            batches = files.stream(requests, replace(workers, pin_memory=False), Crop(size))
            for batch in with_progress_bar(batches, len(parts), "decoding images"):
                images = batch.images.permute(0, 2, 3, 1) if channels_last else batch.images.contiguous()
                images.numpy().tofile(file)

    try:
        make_once(path, decode_all)
    except OSError as error:
        raise OSError(f"data.cache: cannot write {path} ({error}); free some space, or use --data.cache off") from error
    return _opened(path)


def _opened(path: Path) -> Tensor:
    # A private mapping: a stray write neither changes the file nor crashes, and unwritten pages stay shared.
    try:
        array = np.load(path, mmap_mode="c")
    except (ValueError, EOFError) as error:
        raise OSError(f"{path} is damaged ({error}); remove it; it will be made again") from error
    return torch.from_numpy(array)
