"""The removal of the parts of checkpoints that a finished run no longer needs."""

from pathlib import Path

import torch

from project.engine.checkpoints.durable import is_valid, link_durably, write_durably
from project.engine.checkpoints.gradients import ACCUMULATED
from project.engine.checkpoints.newest import PREVIOUS, holds_weights_only

_ONLY_FOR_RESUME = (
    "optimizer_states", "lr_schedulers", "callbacks", "current_model_state", "averaging_state", ACCUMULATED
)  # fmt: skip


def strip_optimizer_state(folder: Path) -> None:
    """Reduce the checkpoints of a run to their weights; the run can be tested and served, but not resumed.

    The checkpoint before the last one is removed. Each other file is replaced durably; a file with two names keeps
    both. Damaged files are not changed.

    Args:
        folder: Checkpoint folder of the run.

    Raises:
        OSError: A checkpoint cannot be written; it is unchanged.
    """
    (folder / PREVIOUS).unlink(missing_ok=True)
    written: dict[int, Path] = {}  # by inode
    for path in sorted(folder.glob("*.ckpt")):
        inode = path.stat().st_ino
        if inode in written:
            link_durably(written[inode], path)
        elif is_valid(path):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            if not holds_weights_only(state):
                write_durably(path, {key: value for key, value in state.items() if key not in _ONLY_FOR_RESUME})
            written[inode] = path
