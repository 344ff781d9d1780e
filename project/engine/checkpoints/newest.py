"""The checkpoint that a run resumes from."""

import logging
from pathlib import Path
from typing import Any

from project.engine.checkpoints.durable import read_valid

BEST = "best-epoch"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
"""The checkpoint before the last one. The best and the last one are often one file, which may be damaged."""

_log = logging.getLogger(__name__)


def holds_weights_only(state: dict[str, Any]) -> bool:
    """Return whether Lightning saved a state without the parts that a run needs to resume."""
    return "loops" in state and "optimizer_states" not in state


def newest_checkpoint(folder: Path, *, required: bool = True) -> Path | None:
    """Return the newest valid checkpoint that a run can resume from; damaged ones are skipped with a warning.

    Raises:
        FileNotFoundError: No such checkpoint exists, and one is required.
    """
    damaged: list[str] = []
    weights_only: list[str] = []
    for path in sorted(folder.glob("*.ckpt"), key=_age):
        state = read_valid(path)
        if state is None:
            damaged += [str(path)] if path.exists() else []
        elif holds_weights_only(state):
            weights_only.append(str(path))
        else:
            if damaged:
                _log.warning(
                    "these checkpoints are damaged or contain code: %s; an older one is used", ", ".join(damaged)
                )
            return path
    if required:
        found = f"; damaged or containing code: {', '.join(damaged)}" if damaged else ""
        found += f"; without optimizer state: {', '.join(weights_only)}" if weights_only else ""
        raise FileNotFoundError(f"--resume: {folder} has no valid checkpoint{found}; start a new run without --resume")
    return None


def _age(path: Path) -> tuple[float, bool]:
    try:
        # If one file has two names, `last.ckpt` is returned: Lightning never removes the name that a run resumed from.
        return -path.stat().st_mtime, path.name != LAST
    except FileNotFoundError:  # The run is still training.
        return 0.0, True


def best_checkpoint(folder: Path, *, monitored: bool) -> Path | None:
    """Return the best checkpoint of a run that has ended, or None.

    Args:
        folder: Checkpoint folder of the run.
        monitored: Whether a metric selects the best one; otherwise it is the last one.
    """
    if not monitored:
        return folder / LAST if (folder / LAST).exists() else None
    # A process that was killed between two best checkpoints leaves both. A `ModelCheckpoint` with the file name
    # `best-{epoch}` writes `best-epoch=3.ckpt`.
    best = {path.stem.removeprefix(BEST): path for path in folder.glob(f"{BEST}*.ckpt")}
    return best[max(numbers, key=int)] if (numbers := [epoch for epoch in best if epoch.isdigit()]) else None
