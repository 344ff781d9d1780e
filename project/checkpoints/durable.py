"""Checkpoint files that survive a crash: written beside the target, flushed, renamed, in the background.

save   copy the state -> (thread) write .NAME.tmp -> flush to disk -> rename to NAME -> flush the folder
remove -> the same thread, so that an old checkpoint goes only after the new one is on disk
valid  every record of the file agrees with its checksum (torch writes a CRC-32 for each)
"""

import os
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from typing_extensions import override


class DurableCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, made durable; training waits for the copy of the state alone.

    An error of the background thread is raised by the next call, at the latest by `teardown`.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        copy = apply_to_collection(checkpoint, Tensor, lambda tensor: tensor.detach().to("cpu", copy=True))
        self._submit(lambda: write_durably(Path(path), copy))

    @override
    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        self._submit(lambda: Path(path).unlink(missing_ok=True))

    @override
    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.teardown()
        return super().load_checkpoint(*args, **kwargs)

    @override
    def teardown(self) -> None:
        """Wait until everything is on disk."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def _submit(self, work: Callable[[], None]) -> None:
        self.teardown()  # one at a time: a second copy of the state would double the memory
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._last = self._thread.submit(work)


def write_durably(path: Path, state: object) -> None:
    """Write a state so that `path` holds, at any moment, what it held before or all of the new one.

    Raises:
        OSError: The disk is full or the folder cannot be written; nothing is left beside what was there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
        unfinished.unlink(missing_ok=True)
        raise OSError(f"cannot write the checkpoint {path}: {error}; the one before it is untouched") from error
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def is_valid(path: Path) -> bool:
    """Whether a checkpoint is complete and none of its bytes has changed."""
    try:
        with zipfile.ZipFile(path) as records:
            return records.testzip() is None
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError):
        return False
