"""The checkpoints that trials keep after their end."""

import logging
import shutil

from optuna.trial import TrialState

from project.engine.checkpoints.retention import keep_only_weights
from project.engine.tracking import store

_log = logging.getLogger(__name__)


def release_checkpoints(run_id: str, state: TrialState) -> None:
    """Remove checkpoints of a trial that ends: all of them, or all but the best weights if it is complete.

    A pruned or failed trial is never resumed; its retry is another run.
    """
    folder = store.checkpoint_folder(run_id)
    try:
        if state != TrialState.COMPLETE:
            if folder.exists():
                shutil.rmtree(folder)
            return
        keep_only_weights(folder)
    except OSError as error:  # The sweep can continue without the space.
        _log.warning("checkpoints in %s are kept: %s", folder, error)
