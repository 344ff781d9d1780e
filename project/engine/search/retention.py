"""The checkpoints that trials keep after their end."""

import logging
import shutil

import optuna
from optuna.trial import TrialState

from project.engine.checkpoints.retention import keep_only_weights
from project.engine.search.study import RUN_ID
from project.engine.search.view import best_trials
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


def keep_best_checkpoints(study: optuna.Study) -> None:
    """Remove the checkpoints of complete trials, except for those of the best one, or of the Pareto front."""
    kept = {trial.number for trial in best_trials(study)}
    for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        if trial.number not in kept and (run_id := trial.user_attrs.get(RUN_ID)):
            release_checkpoints(run_id, TrialState.PRUNED)
