"""The removal of the parts of checkpoints that a finished run no longer needs."""

from pathlib import Path

import torch

from project.engine.checkpoints.durable import is_valid, write_durably
from project.engine.checkpoints.gradients import ACCUMULATED
from project.engine.checkpoints.newest import LAST, PREVIOUS, holds_weights_only

_ONLY_FOR_RESUME = (
    "optimizer_states", "lr_schedulers", "callbacks", "current_model_state", "averaging_state", ACCUMULATED
)  # fmt: skip


def keep_only_weights(folder: Path) -> None:
    """Reduce the checkpoints of a run to the weights of the best one, or of the last one if it is the only one.

    The run can be tested and served, but not resumed. Each file is replaced durably; damaged files are not changed.

    Args:
        folder: Checkpoint folder of the run.

    Raises:
        OSError: A checkpoint cannot be written or removed; it is unchanged.
    """
    (folder / PREVIOUS).unlink(missing_ok=True)
    if len(list(folder.glob("*.ckpt"))) > 1:
        (folder / LAST).unlink(missing_ok=True)
    for path in folder.glob("*.ckpt"):
        if is_valid(path):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            if not holds_weights_only(state):
                write_durably(path, {key: value for key, value in state.items() if key not in _ONLY_FOR_RESUME})
