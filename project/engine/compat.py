"""Every use of private parts of other libraries, with its reason; `tests/test_compat.py` holds what they must do."""

from typing import Any

from lightning import Trainer
from optuna.storages import BaseStorage, RDBStorage, get_storage
from torch import Tensor
from torchmetrics import Metric

MLFLOW_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns of MLflow's SQL store that hold absolute paths of artifacts.

MLflow makes each path absolute when an experiment is created, and has no call that changes it: a folder that is moved
leaves its artifacts behind. https://github.com/mlflow/mlflow/issues/3144
"""


def is_last_step(trainer: Trainer) -> bool:
    """Whether no training step follows the one that has just been done: of `max_steps`, of `max_epochs`, or stopped.

    Lightning decides it in `_FitLoop.done`, which counts an epoch only after its validation, and logs.
    """
    loop = trainer.fit_loop
    steps_done = 0 <= loop.max_steps <= trainer.global_step
    epochs_after_this = vars(loop.epoch_progress.current)["processed"] + 1
    epochs_done = loop.max_epochs not in (None, -1) and loop.max_epochs <= epochs_after_this and trainer.is_last_batch
    return steps_done or epochs_done or (trainer.should_stop and loop._can_stop_early)


def validate_last_step(trainer: Trainer, *, resumed_in_validation: bool) -> None:
    """Let this fit validate after its last step, too, wherever in an epoch it is.

    Lightning validates by `val_check_interval` and `check_val_every_n_epoch` alone, so that the weights of the last
    step have no score: https://github.com/Lightning-AI/pytorch-lightning/issues/9855

    Args:
        trainer: At the start of training.
        resumed_in_validation: Whether the state that training resumes from was saved in a validation. If so, Lightning
            completes or skips that validation instead of the first step.
    """
    loop = trainer.fit_loop.epoch_loop
    by_interval = loop._should_check_val_fx

    def should_validate(data_fetcher: Any) -> bool:
        if loop.restarting and resumed_in_validation:
            return True
        return by_interval(data_fetcher) or (trainer.enable_validation and is_last_step(trainer))

    loop._should_check_val_fx = should_validate  # type: ignore[method-assign]


def validate(trainer: Trainer) -> None:
    """Validate when training has ended, as Lightning does after a training step, and with the number of that step."""
    if trainer.enable_validation:
        loop = trainer.fit_loop.epoch_loop
        loop._batches_that_stepped -= 1
        trainer.validating = True
        loop.val_loop.run()
        trainer.training = True
        loop._batches_that_stepped += 1


def merge_into(metric: Metric, state: dict[str, Tensor]) -> None:
    """Add a state to that of a metric, which then counts as updated.

    torchmetrics counts calls of `update` alone, and warns that a metric was computed before its first update.
    https://github.com/Lightning-AI/torchmetrics/blob/v1.8.2/src/torchmetrics/metric.py#L410
    """
    metric.merge_state(state)
    metric._update_count = max(1, metric.update_count)


def cached_storage(storage: RDBStorage) -> BaseStorage:
    """Put Optuna's cache of finished trials before a database, as a study does with an `RDBStorage` that it is given.

    A study with a storage that wraps one has no cache, and reads all trials at each look. Optuna calls the function
    internal: https://github.com/optuna/optuna/blob/master/optuna/storages/__init__.py
    """
    return get_storage(storage)
