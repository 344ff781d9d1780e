"""Sums of an epoch in a checkpoint, so that its metrics cover all of it if it is resumed."""

from collections.abc import Mapping
from typing import Any

from lightning import Trainer
from torch import Tensor
from torchmetrics import Metric

from project.engine.compat import merge_into

_KEY = "epoch_metrics"


def save_sums(trainer: Trainer, metrics: Mapping[str, Metric], checkpoint: dict[str, Any]) -> None:
    """Add the sums of all processes to a checkpoint within an epoch.

    Args:
        trainer: The trainer, which saves a checkpoint on all processes.
        metrics: Metrics that are updated in each training step, and whose states are sums.
        checkpoint: The checkpoint.
    """
    loop = trainer.fit_loop
    epoch, validation = loop.epoch_progress.state_dict()["current"], loop.epoch_loop.val_loop.batch_progress.current
    if epoch["processed"] < epoch["started"]:
        validated = trainer.validating and validation.completed == validation.ready
        checkpoint[_KEY] = {
            "sums": {name: _summed(metric) for name, metric in metrics.items()},
            # The epoch ends immediately after this.
            "logged": validated and loop.epoch_loop.batch_progress.is_last_batch,
        }


def restore_sums(trainer: Trainer, metrics: Mapping[str, Metric], checkpoint: Mapping[str, Any]) -> tuple[bool, bool]:
    """Continue from the sums of a checkpoint in the first process, because they are sums of all processes.

    Returns:
        Whether the checkpoint has sums, and whether they have been logged.
    """
    saved = checkpoint.get(_KEY, {"sums": {}, "logged": False})
    sums: dict[str, dict[str, Tensor]] = saved["sums"]
    for metric in metrics.values():
        metric.reset()
    if trainer.is_global_zero:
        for name, states in sums.items():
            merge_into(metrics[name], {state: value.to(metrics[name].device) for state, value in states.items()})
    return bool(sums), saved["logged"]


def _summed(metric: Metric) -> dict[str, Tensor]:
    with metric.sync_context():
        return {
            name: value.detach().clone() for name, value in metric.metric_state.items() if isinstance(value, Tensor)
        }
