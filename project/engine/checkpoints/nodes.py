"""A checkpoint of the first process, for processes on nodes that do not share its folder."""

import io
from pathlib import Path
from typing import TypeVar

from torch import distributed

T = TypeVar("T")

_PIECE = 64 * 2**20  # bytes sent in one call


def readable_here(path: Path) -> Path | io.BytesIO:
    """Return the file of a checkpoint, or its bytes if this node does not have the file.

    After the start of `torch.distributed`, all ranks must call this at the same time. The file of the first node is
    the one to read; another file of the same name is not read.

    Raises:
        FileNotFoundError: The first process does not have the file.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return path
    wanted = _from_first(_identity(path))
    if wanted is None:
        raise FileNotFoundError(f"the first process of the run has no checkpoint {path}")
    have: list[bool] = [False] * distributed.get_world_size()
    distributed.all_gather_object(have, _identity(path) == wanted)
    if all(have):
        return path
    mine = path.read_bytes() if distributed.get_rank() == 0 else b""
    pieces = [_from_first(mine[start : start + _PIECE]) for start in range(0, wanted[0], _PIECE)]
    return path if have[distributed.get_rank()] else io.BytesIO(b"".join(pieces))


def _identity(path: Path) -> tuple[int, int] | None:
    """Return size and time of a file, which are equal on all nodes that mount it; None if it does not exist."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def _from_first(value: T) -> T:
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]
