"""Checkpoint files that survive a crash: written to a temporary file, flushed and renamed, in the background.

save   copy the state -> (thread) write .NAME.tmp -> flush to disk -> rename to NAME -> flush the folder
remove -> the same thread, so that an old checkpoint is removed after the new one is on disk
valid  every record of the file agrees with its checksum (torch writes a CRC-32 for each)
"""

import io
import os
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from pickle import PicklingError, UnpicklingError
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule
from lightning.fabric.plugins import TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from typing_extensions import override

from project.engine.atomic import replace_file
from project.engine.checkpoints.finite import check_numbers
from project.engine.checkpoints.nodes import readable_here

STORABLE = "give its state as numbers, texts, tensors, lists and dictionaries, such as value.tolist()"
"""The remedy for a state that cannot be read again."""

# The errors of torch for a part that it cannot write, or cannot read without running code.
_NOT_PICKLED = (PicklingError, UnpicklingError, AttributeError, TypeError, NotImplementedError)
_HYPER_PARAMETERS = (LightningModule.CHECKPOINT_HYPER_PARAMS_KEY, LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY)


class DurableCheckpointIO(TorchCheckpointIO):
    """Durable checkpoint files; for those of the run, training waits only for the copy of the state.

    An error of the background thread is raised by the next call, at the latest by `teardown`.

    Args:
        asynchronous: False makes each call wait until its files are on disk.

    Attributes:
        awaits_saves: Whether a save waits until its file is on disk, because its caller may read or move it.
    """

    def __init__(self, *, asynchronous: bool = True) -> None:
        self._asynchronous = asynchronous
        self.awaits_saves = False
        self._thread: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        self.teardown()  # A second copy would double the memory.
        remove_unreadable_hyper_parameters(checkpoint)
        is_copied = self._asynchronous and not self.awaits_saves
        copy = apply_to_collection(checkpoint, Tensor, lambda tensor: tensor.detach().to("cpu", copy=is_copied))
        self._submit(lambda: _check_and_write(Path(path), copy))
        if self.awaits_saves:
            self.teardown()

    def link_checkpoint(self, source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
        """Give a checkpoint a second name if it exists, because the best checkpoint is often the last one, too."""
        self._submit(lambda: link_durably(Path(source), Path(path)) if Path(source).exists() else None)

    @override
    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        self._submit(lambda: Path(path).unlink(missing_ok=True))

    @override
    def load_checkpoint(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.teardown()
        # Code in a checkpoint is never run.
        state: dict[str, Any] = torch.load(readable_here(Path(path)), map_location="cpu", weights_only=True)
        return state

    def raise_failure(self) -> None:
        """Raise the error of a failed save, without waiting for saves that have not ended."""
        if self._last is not None and self._last.done() and self._last.exception():
            self.teardown()

    @override
    def teardown(self) -> None:
        """Wait until all checkpoints are on disk, and end the thread."""
        if self._last is not None:
            wait([self._last])  # If a signal interrupts this, no save is forgotten.
            last, self._last = self._last, None
            last.result()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _submit(self, work: Callable[[], None]) -> None:
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        before = self._last
        self._last = self._thread.submit(lambda: _after(before, work))
        if not self._asynchronous:
            self.teardown()


def _after(before: Future[None] | None, work: Callable[[], None]) -> None:
    """Do work after earlier work has succeeded, so that a checkpoint that cannot be written replaces none."""
    if before is not None:
        before.result()
    work()


def _check_and_write(path: Path, state: dict[str, Any]) -> None:
    check_numbers(state.get("state_dict", {}))
    write_durably(path, state)


def write_durably(path: Path, state: object) -> None:
    """Write a state so that, at any moment, `path` holds either all of its old content or all of the new one.

    The file is read before it gets its name, as it is when a run resumes, without running code in it.

    Raises:
        OSError: The disk is full or the folder cannot be written; the folder is as it was before.
        ValueError: A part of the state cannot be read again; the message names it.
    """

    def write(unfinished: Path) -> None:
        try:
            torch.save(state, unfinished)
            torch.load(unfinished, map_location="meta", weights_only=True)
        except _NOT_PICKLED as error:
            raise ValueError(
                f"a checkpoint cannot be read again, so {path} is not written: {unreadable_part(state)}; {STORABLE}"
            ) from error

    _replace_durably(path, write)


def unreadable_part(state: object, name: str = "") -> str | None:
    """Return the keys and the type of the innermost part of a state that cannot be read again; None if it can."""
    try:
        torch.save(state, file := io.BytesIO())
        file.seek(0)
        torch.load(file, map_location="meta", weights_only=True)
    except _NOT_PICKLED:
        parts = state if isinstance(state, dict) else dict(enumerate(state if isinstance(state, list | tuple) else ()))
        inner = (unreadable_part(part, f"{name}.{key}" if name else str(key)) for key, part in parts.items())
        kind = f"{type(state).__module__}.{type(state).__qualname__}"
        return next(filter(None, inner), f"{name or 'the state'} is a {kind}")
    return None


def remove_unreadable_hyper_parameters(checkpoint: dict[str, Any]) -> None:
    """Remove hyper-parameters that could not be read again, such as a net; the settings of the run contain them."""
    for key in _HYPER_PARAMETERS:
        if key in checkpoint:
            checkpoint[key] = {
                name: value
                for name, value in checkpoint[key].items()
                if not isinstance(value, nn.Module) and unreadable_part(value) is None
            }


def link_durably(source: Path, path: Path) -> None:
    """Give a checkpoint that is on disk a second name, as durably as `write_durably`.

    A filesystem without hard links gets a copy.
    """

    def link(unfinished: Path) -> None:
        try:
            os.link(source, unfinished)
        except OSError:  # If the reason is another one, the copy fails for it, too.
            shutil.copy2(source, unfinished)  # with its time, by which the newest checkpoint is found

    _replace_durably(path, link)


def _replace_durably(path: Path, make: Callable[[Path], None]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, make)
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
        raise OSError(f"cannot write the checkpoint {path}: {error}; the earlier one is unchanged") from error


def is_valid(path: Path) -> bool:
    """Return whether a checkpoint is complete and unchanged, and contains a state and no code."""
    return read_valid(path) is not None


def read_valid(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint without its tensors' values; None if it is not valid.

    Raises:
        PermissionError: This user may not read it.
    """
    try:
        with zipfile.ZipFile(path) as records:
            if records.testzip() is not None:
                return None
        state: dict[str, Any] = torch.load(path, map_location="meta", weights_only=True)
    except PermissionError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError, UnpicklingError):
        return None
    return state
